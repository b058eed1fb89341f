//! Where rows stand: the keys of each table.
//!
//! Invariant: every key begins with its space, length-prefixed, so that no space's rows lie between another's and one can be
//! scanned or dropped whole; what spaces share (blobs) stands under the empty space with its length byte 0xff. In a name `/` is
//! stored as a zero byte, which sorts before everything a name can hold, so that what lies below a name follows it at once.
//! Times that sort newest first are stored inverted.

use bytes::Bytes;

use crate::batch::{RowKey, Table};
use crate::collect::{Due, Idle, Referrer};
use crate::digest::Digest;
use crate::execution::ExecutionId;
use crate::key::TaskKey;
use crate::name::{Name, Space};
use crate::search::Place;
use crate::time::Timestamp;

/// The length byte of what all spaces share. A space has at most 254 bytes.
const SHARED: u8 = 0xff;

fn row(table: Table, space: &Space, parts: &[&[u8]]) -> RowKey {
    RowKey { table, key: prefix(space, parts) }
}

fn shared(table: Table, parts: &[&[u8]]) -> RowKey {
    let mut key = vec![SHARED];
    parts.iter().for_each(|part| key.extend_from_slice(part));
    RowKey { table, key: key.into() }
}

fn prefix(space: &Space, parts: &[&[u8]]) -> Bytes {
    let space = space.as_str().as_bytes();
    let mut key = Vec::with_capacity(1 + space.len() + parts.iter().map(|part| part.len()).sum::<usize>());
    key.push(space.len() as u8);
    key.extend_from_slice(space);
    parts.iter().for_each(|part| key.extend_from_slice(part));
    key.into()
}

/// A length-prefixed part, for what is followed by more.
fn sized(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

fn newest_first(at: Timestamp) -> [u8; 8] {
    (!at.millis()).to_be_bytes()
}

fn name_bytes(name: &str) -> Vec<u8> {
    name.bytes().map(|byte| if byte == b'/' { 0 } else { byte }).collect()
}

/// What the rows of a space begin with, in each table.
pub fn space_prefix(space: &Space) -> Bytes {
    prefix(space, &[])
}

/// The space that a row is of.
pub fn space_of(row: &[u8]) -> Option<Space> {
    let (len, rest) = row.split_first()?;
    Space::new(std::str::from_utf8(rest.get(..usize::from(*len))?).ok()?).ok()
}

/// A fact of the whole store.
pub fn store(fact: &str) -> RowKey {
    shared(Table::Store, &[fact.as_bytes()])
}

/// What is known of a task key.
pub fn key(space: &Space, key: &TaskKey) -> RowKey {
    row(Table::Key, space, &[key.as_str().as_bytes()])
}

/// What the rows of all keys of a scheme begin with; without one, of all keys.
pub fn keys_prefix(space: &Space, scheme: Option<&str>) -> Bytes {
    match scheme {
        Some(scheme) => prefix(space, &[scheme.as_bytes(), b":"]),
        None => prefix(space, &[]),
    }
}

/// Where to go on beyond all keys of a scheme: the byte after the colon is in no scheme.
pub fn beyond_scheme(space: &Space, scheme: &str) -> Bytes {
    prefix(space, &[scheme.as_bytes(), b";"])
}

/// The lease on a task key.
pub fn lease(space: &Space, key: &TaskKey) -> RowKey {
    row(Table::Lease, space, &[key.as_str().as_bytes()])
}

/// The space and task key that a row of [`Table::Key`] or [`Table::Lease`] stands under.
pub fn parse_key(row: &[u8]) -> Option<(Space, TaskKey)> {
    let (len, rest) = row.split_first()?;
    let (space, key) = rest.split_at_checked(usize::from(*len))?;
    Some((Space::new(std::str::from_utf8(space).ok()?).ok()?, std::str::from_utf8(key).ok()?.parse().ok()?))
}

/// An execution.
pub fn execution(space: &Space, id: ExecutionId) -> RowKey {
    row(Table::Execution, space, &[&id.0])
}

/// The space and id that a row of [`Table::Execution`] stands under.
pub fn parse_execution(row: &[u8]) -> Option<(Space, ExecutionId)> {
    let (len, rest) = row.split_first()?;
    let (space, id) = rest.split_at_checked(usize::from(*len))?;
    Some((Space::new(std::str::from_utf8(space).ok()?).ok()?, ExecutionId(id.try_into().ok()?)))
}

/// A spec.
pub fn spec(space: &Space, spec: &Digest) -> RowKey {
    row(Table::Spec, space, &[&spec.to_bytes()])
}

/// The entry of an execution in its key's history.
pub fn key_history(space: &Space, key: &TaskKey, began: Timestamp, id: ExecutionId) -> RowKey {
    row(Table::KeyHistory, space, &[&sized(key.as_str().as_bytes()), &newest_first(began), &id.0])
}

/// What all entries of a key's history begin with.
pub fn key_history_prefix(space: &Space, key: &TaskKey) -> Bytes {
    prefix(space, &[&sized(key.as_str().as_bytes())])
}

/// A name.
pub fn name(space: &Space, name: &Name) -> RowKey {
    row(Table::Name, space, &[&name_bytes(name.as_str())])
}

/// That executions under a name failed.
pub fn failed_name(space: &Space, name: &Name) -> RowKey {
    row(Table::FailedName, space, &[&name_bytes(name.as_str())])
}

/// What the rows of all names (or failed names) that begin with `text` begin with.
pub fn name_prefix(space: &Space, text: &str) -> Bytes {
    prefix(space, &[&name_bytes(text)])
}

/// The name that a row of [`Table::Name`] or [`Table::FailedName`] stands for.
pub fn parse_name(space: &Space, row: &[u8]) -> Option<Name> {
    let name = row.strip_prefix(&prefix(space, &[])[..])?;
    let name = name.iter().map(|byte| if *byte == 0 { b'/' } else { *byte }).collect();
    Name::new(String::from_utf8(name).ok()?).ok()
}

/// The entry of an execution in its name's history.
pub fn name_history(space: &Space, name: &Name, began: Timestamp, id: ExecutionId) -> RowKey {
    row(Table::NameHistory, space, &[&sized(name.as_str().as_bytes()), &newest_first(began), &id.0])
}

/// The entry of a record in its name's list.
pub fn name_record(space: &Space, name: &Name, committed: Timestamp, id: ExecutionId) -> RowKey {
    row(Table::NameRecord, space, &[&sized(name.as_str().as_bytes()), &newest_first(committed), &id.0])
}

/// The name of a row of [`Table::NameRecord`].
pub fn parse_name_record(space: &Space, row: &[u8]) -> Option<Name> {
    let (len, rest) = row.strip_prefix(&prefix(space, &[])[..])?.split_first_chunk()?;
    let name = rest.get(..usize::from(u16::from_be_bytes(*len)))?;
    Name::new(std::str::from_utf8(name).ok()?).ok()
}

/// What all entries of a name's history, records or folders begin with.
pub fn by_name_prefix(space: &Space, name: &Name) -> Bytes {
    prefix(space, &[&sized(name.as_str().as_bytes())])
}

/// The execution that a history row or a record row ends in.
pub fn trailing_execution(row: &[u8]) -> Option<ExecutionId> {
    row.last_chunk().copied().map(ExecutionId)
}

/// A folder of the mounted view, below `/tasks` or `/failed`.
pub fn folder(space: &Space, table: Table, name: &Name, folder: &str) -> RowKey {
    row(table, space, &[&sized(name.as_str().as_bytes()), folder.as_bytes()])
}

/// The folder's own name in a row of [`Table::Folder`] or [`Table::FailedFolder`].
pub fn parse_folder(space: &Space, name: &Name, row: &[u8]) -> Option<String> {
    String::from_utf8(row.strip_prefix(&by_name_prefix(space, name)[..])?.to_vec()).ok()
}

/// The edge from a producing key to an execution that consumed what it made, as this input.
pub fn consumer_of_key(space: &Space, producer: &TaskKey, consumer: ExecutionId, input: &[u8]) -> RowKey {
    row(Table::Consumer, space, &[b"k", &sized(producer.as_str().as_bytes()), &consumer.0, &input_mark(input)])
}

/// The edge from bytes to an execution that consumed them, as this input.
pub fn consumer_of_digest(space: &Space, consumed: &Digest, consumer: ExecutionId, input: &[u8]) -> RowKey {
    row(Table::Consumer, space, &[b"d", &consumed.to_bytes(), &consumer.0, &input_mark(input)])
}

/// The edge from bytes to an execution that made them.
pub fn producer(space: &Space, made: &Digest, producer: ExecutionId) -> RowKey {
    row(Table::Producer, space, &[&made.to_bytes(), &producer.0])
}

/// Who first made bytes.
pub fn maker(space: &Space, made: &Digest) -> RowKey {
    row(Table::Maker, space, &[&made.to_bytes()])
}

/// What the edges from bytes to all executions that made them begin with.
pub fn producers_prefix(space: &Space, made: &Digest) -> Bytes {
    prefix(space, &[&made.to_bytes()])
}

/// What the edges from a producing key to all its consumers begin with.
pub fn consumers_of_key_prefix(space: &Space, producer: &TaskKey) -> Bytes {
    prefix(space, &[b"k", &sized(producer.as_str().as_bytes())])
}

/// What the edges from bytes to all their consumers begin with.
pub fn consumers_of_digest_prefix(space: &Space, consumed: &Digest) -> Bytes {
    prefix(space, &[b"d", &consumed.to_bytes()])
}

/// The same where the size is not known, as to who writes `blob:HEX`.
pub fn consumers_of_hash_prefix(space: &Space, hash: &[u8; 32]) -> Bytes {
    prefix(space, &[b"d", hash])
}

/// The bytes that an edge comes from whose row begins with [`consumers_of_hash_prefix`].
pub fn parse_consumed(space: &Space, row: &[u8]) -> Option<Digest> {
    Digest::from_bytes(row.strip_prefix(&prefix(space, &[b"d"])[..])?.get(..40)?)
}

/// The consumer and the [`input_mark`] of an edge whose row begins with `prefix`.
pub fn parse_consumer<'a>(prefix: &[u8], row: &'a [u8]) -> Option<(ExecutionId, &'a [u8])> {
    let (id, mark) = row.strip_prefix(prefix)?.split_first_chunk()?;
    Some((ExecutionId(*id), mark))
}

/// An input's name as the end of a key: itself, or its hash where that is shorter.
pub fn input_mark(input: &[u8]) -> Vec<u8> {
    if input.len() <= 32 { input.to_vec() } else { Digest::of(input).hash.to_vec() }
}

/// Where a blob's bytes are.
pub fn blob(digest: &Digest) -> RowKey {
    shared(Table::Blob, &[&digest.to_bytes()])
}

/// What the rows of all blobs with this hash begin with: the size is not known to who writes `blob:HEX`.
pub fn blob_prefix(hash: &[u8; 32]) -> Bytes {
    shared(Table::Blob, &[hash]).key
}

/// The digest that a row of [`Table::Blob`] stands for.
pub fn parse_blob(row: &[u8]) -> Option<Digest> {
    Digest::from_bytes(row.strip_prefix(&[SHARED])?)
}

/// The bytes of a small blob, at one location.
pub fn inline(digest: &Digest, nonce: u64) -> RowKey {
    shared(Table::Inline, &[&digest.to_bytes(), &nonce.to_be_bytes()])
}

/// A piece of the outboard of a blob, whichever copies of that there are. Pieces count from 0.
pub fn outboard(digest: &Digest, piece: u8) -> RowKey {
    shared(Table::Outboard, &[&digest.to_bytes(), &[piece]])
}

/// That a space holds a blob.
pub fn holding(space: &Space, digest: &Digest) -> RowKey {
    row(Table::Holding, space, &[&digest.to_bytes()])
}

/// The digest of bytes that another hash function names. `function` is its name in lower case, such as `sha256`.
pub fn alias(function: &str, hash: &[u8], size: u64) -> RowKey {
    shared(Table::Alias, &[&sized(function.as_bytes()), hash, &size.to_be_bytes()])
}

/// The function and the hash of a row of [`Table::Alias`].
pub fn parse_alias(row: &[u8]) -> Option<(String, Bytes)> {
    let (len, rest) = row.strip_prefix(&[SHARED])?.split_first_chunk()?;
    let (function, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
    let hash = rest.get(..rest.len().checked_sub(8)?)?;
    Some((String::from_utf8(function.to_vec()).ok()?, Bytes::copy_from_slice(hash)))
}

/// The fact of how far the log of lost digests has grown: the position of its newest entry.
pub const LOST_HEAD: &str = "lost";

/// An entry of the log of lost digests. Positions count from 1 and sort in the order in which they were taken.
pub fn lost(position: u64) -> RowKey {
    shared(Table::Lost, &[&position.to_be_bytes()])
}

/// What all rows of [`Table::Lost`] begin with.
pub fn lost_prefix() -> Bytes {
    shared(Table::Lost, &[]).key
}

/// The position of a row of [`Table::Lost`].
pub fn parse_lost(row: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(row.strip_prefix(&[SHARED])?.try_into().ok()?))
}

/// An event, as the `place`-th of its batch: what it says stands in the key itself.
pub fn event(space: &Space, place: u16, event: &[u8]) -> RowKey {
    row(Table::Event, space, &[&place.to_be_bytes(), event])
}

/// The space and the bytes of a row of [`Table::Event`].
pub fn parse_event(row: &Bytes) -> Option<(Space, Bytes)> {
    let (len, rest) = row.split_first()?;
    let (space, rest) = rest.split_at_checked(usize::from(*len))?;
    let event = rest.get(2..)?;
    Some((Space::new(std::str::from_utf8(space).ok()?).ok()?, row.slice_ref(event)))
}

/// A field in the index: itself, or its hash where that is much shorter.
fn field_mark(field: &str) -> Vec<u8> {
    if field.len() <= 256 { sized(field.as_bytes()) } else { sized(&Digest::of(field.as_bytes()).hash) }
}

/// The entry of an execution in the list of a field's term (see [`crate::search::term`]).
pub fn posting(space: &Space, field: &str, term: &[u8], place: Place) -> RowKey {
    row(Table::Index, space, &[&field_mark(field), term, &place.0])
}

/// The entry of an execution in the list of all.
pub fn posting_of_all(space: &Space, place: Place) -> RowKey {
    posting(space, "", &[], place)
}

/// What the lists of those of a field's terms begin with that begin so; of the field "" and no term, the list of all executions.
pub fn postings_prefix(space: &Space, field: &str, term: &[u8]) -> Bytes {
    prefix(space, &[&field_mark(field), term])
}

/// Where the execution of a row of [`Table::Index`] stands in its list.
pub fn parse_place(row: &[u8]) -> Option<Place> {
    row.last_chunk().copied().map(Place)
}

/// How many things refer to a blob in a space.
pub fn count(space: &Space, digest: &Digest) -> RowKey {
    row(Table::Count, space, &[b"b", &digest.to_bytes()])
}

/// How many executions and registered keys have a spec.
pub fn spec_count(space: &Space, spec: &Digest) -> RowKey {
    row(Table::Count, space, &[b"s", &spec.to_bytes()])
}

/// How far what a referrer refers to is counted.
pub fn tally(space: &Space, referrer: &Referrer) -> RowKey {
    row(Table::Tally, space, &[&referrer_bytes(referrer)])
}

/// The space and the referrer of a row of [`Table::Tally`].
pub fn parse_tally(row: &[u8]) -> Option<(Space, Referrer)> {
    let (len, rest) = row.split_first()?;
    let (space, referrer) = rest.split_at_checked(usize::from(*len))?;
    Some((Space::new(std::str::from_utf8(space).ok()?).ok()?, parse_referrer(referrer)?))
}

fn referrer_bytes(referrer: &Referrer) -> Vec<u8> {
    match referrer {
        Referrer::Execution(id) => [b"e", &id.0[..]].concat(),
        Referrer::Pin(id) => [b"p", &id[..]].concat(),
        Referrer::Registration(key) => [b"r", key.as_str().as_bytes()].concat(),
    }
}

fn parse_referrer(bytes: &[u8]) -> Option<Referrer> {
    match bytes.split_first()? {
        (b'e', id) => Some(Referrer::Execution(ExecutionId(id.try_into().ok()?))),
        (b'p', id) => Some(Referrer::Pin(id.try_into().ok()?)),
        (b'r', key) => Some(Referrer::Registration(std::str::from_utf8(key).ok()?.parse().ok()?)),
        _ => None,
    }
}

/// The key of what stands at a time, oldest first, whichever space it is of.
fn timed(table: Table, at: Timestamp, space: &Space, rest: &[u8]) -> RowKey {
    shared(table, &[&at.millis().to_be_bytes(), &sized(space.as_str().as_bytes()), rest])
}

fn parse_timed(row: &[u8]) -> Option<(Timestamp, Space, &[u8])> {
    let (at, rest) = row.strip_prefix(&[SHARED])?.split_first_chunk()?;
    let (len, rest) = rest.split_first_chunk()?;
    let (space, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
    let space = Space::new(std::str::from_utf8(space).ok()?).ok()?;
    Some((Timestamp::from_millis(u64::from_be_bytes(*at)), space, rest))
}

/// What all rows begin with that stand at times.
pub fn timed_prefix() -> Bytes {
    vec![SHARED].into()
}

/// Digests to which nothing may refer since a time, in a space. `nonce` keeps those of one moment apart.
pub fn idle(space: &Space, at: Timestamp, why: Idle, nonce: u64) -> RowKey {
    let why: &[u8] = match why {
        Idle::Fresh => b"f",
        Idle::Left => b"l",
    };
    timed(Table::Idle, at, space, &[why, &nonce.to_be_bytes()].concat())
}

/// Since when, in which space and why nothing may refer to the digests of a row of [`Table::Idle`].
pub fn parse_idle(row: &[u8]) -> Option<(Timestamp, Space, Idle)> {
    let (at, space, rest) = parse_timed(row)?;
    let why = match rest.first()? {
        b'f' => Idle::Fresh,
        b'l' => Idle::Left,
        _ => return None,
    };
    Some((at, space, why))
}

/// By how much what is stored has changed.
pub fn usage(nonce: u64) -> RowKey {
    shared(Table::Usage, &[&nonce.to_be_bytes()])
}

/// Bytes that no row names any more, by their location's own text.
pub fn doomed(location: &str) -> RowKey {
    shared(Table::Doomed, &[location.as_bytes()])
}

/// The location of a row of [`Table::Doomed`].
pub fn parse_doomed(row: &[u8]) -> Option<&str> {
    std::str::from_utf8(row.strip_prefix(&[SHARED])?).ok()
}

/// A pack of which not all is wanted any more, or that was looked through.
pub fn pack(nonce: u64) -> RowKey {
    shared(Table::Pack, &[&nonce.to_be_bytes()])
}

/// The number of the pack of a row of [`Table::Pack`].
pub fn parse_pack(row: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(*row.strip_prefix(&[SHARED])?.as_array()?))
}

/// When a key's record was last an answer.
pub fn used(space: &Space, key: &TaskKey) -> RowKey {
    row(Table::Used, space, &[key.as_str().as_bytes()])
}

/// An execution that was last used at a time, or not long before.
pub fn aged(space: &Space, at: Timestamp, id: ExecutionId) -> RowKey {
    timed(Table::Aged, at, space, &id.0)
}

/// What a row of [`Table::Aged`] says.
pub fn parse_aged(row: &[u8]) -> Option<(Timestamp, Space, ExecutionId)> {
    let (at, space, id) = parse_timed(row)?;
    Some((at, space, ExecutionId(id.try_into().ok()?)))
}

/// What is to be looked at then.
pub fn due(space: &Space, at: Timestamp, due: &Due) -> RowKey {
    let what = match due {
        Due::Execution(id) => [b"e", &id.0[..]].concat(),
        Due::Pin(id) => [b"p", &id[..]].concat(),
        Due::Name(name) => [b"n", name.as_str().as_bytes()].concat(),
        Due::Spec(spec) => [b"s", &spec.to_bytes()[..]].concat(),
    };
    timed(Table::Due, at, space, &what)
}

/// What a row of [`Table::Due`] says.
pub fn parse_due(row: &[u8]) -> Option<(Timestamp, Space, Due)> {
    let (at, space, what) = parse_timed(row)?;
    let due = match what.split_first()? {
        (b'e', id) => Due::Execution(ExecutionId(id.try_into().ok()?)),
        (b'p', id) => Due::Pin(id.try_into().ok()?),
        (b'n', name) => Due::Name(Name::new(String::from_utf8(name.to_vec()).ok()?).ok()?),
        (b's', spec) => Due::Spec(Digest::from_bytes(spec)?),
        _ => return None,
    };
    Some((at, space, due))
}

/// Where all keys of [`timed`] rows of times before this one end.
pub fn before(at: Timestamp) -> Bytes {
    [&[SHARED][..], &at.millis().to_be_bytes()].concat().into()
}

/// That an execution is shown under a name beside its own.
pub fn shown(space: &Space, id: ExecutionId, name: &Name) -> RowKey {
    row(Table::Shown, space, &[&id.0, &name_bytes(name.as_str())])
}

/// What all rows of [`Table::Shown`] of an execution begin with.
pub fn shown_prefix(space: &Space, id: ExecutionId) -> Bytes {
    prefix(space, &[&id.0])
}

/// The name of a row of [`Table::Shown`].
pub fn parse_shown(space: &Space, id: ExecutionId, row: &[u8]) -> Option<Name> {
    let name = row.strip_prefix(&shown_prefix(space, id)[..])?;
    let name = name.iter().map(|byte| if *byte == 0 { b'/' } else { *byte }).collect();
    Name::new(String::from_utf8(name).ok()?).ok()
}

/// A key of which something was collected at a time.
pub fn tombstone(space: &Space, at: Timestamp, key: &TaskKey) -> RowKey {
    timed(Table::Tombstone, at, space, key.as_str().as_bytes())
}

/// What a row of [`Table::Tombstone`] says.
pub fn parse_tombstone(row: &[u8]) -> Option<(Timestamp, Space, TaskKey)> {
    let (at, space, key) = parse_timed(row)?;
    Some((at, space, std::str::from_utf8(key).ok()?.parse().ok()?))
}

/// A pin of records.
pub fn record_pin(space: &Space, id: &[u8; 16]) -> RowKey {
    row(Table::RecordPin, space, &[id])
}

/// A space that holds something, among the facts of the store.
pub fn known_space(space: &Space) -> RowKey {
    store(&format!("{SPACES}{}", space.as_str()))
}

/// What the facts begin with that name the spaces.
pub const SPACES: &str = "space/";

/// A pin.
pub fn pin(space: &Space, id: &[u8; 16]) -> RowKey {
    row(Table::Pin, space, &[id])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn space(text: &str) -> Space {
        Space::new(text).expect("valid")
    }

    proptest! {
        /// No space's prefix covers another's rows, and shared rows belong to none.
        #[test]
        fn spaces_do_not_mix(a in "[a-c]{0,3}", b in "[a-c]{0,3}", id in "[a-c]{1,3}") {
            let task = TaskKey::new("run", &id).expect("valid");
            let in_b = key(&space(&b), &task);
            prop_assert_eq!(in_b.key.starts_with(&prefix(&space(&a), &[])), a == b);
            prop_assert!(!blob(&Digest::of(id.as_bytes())).key.starts_with(&prefix(&space(&a), &[])));
            prop_assert_eq!(parse_key(&in_b.key), Some((space(&b), task)));
            let execution = execution(&space(&b), ExecutionId([7; 16]));
            prop_assert_eq!(parse_execution(&execution.key), Some((space(&b), ExecutionId([7; 16]))));
            let told = event(&space(&b), 1, id.as_bytes());
            prop_assert_eq!(parse_event(&told.key), Some((space(&b), Bytes::from(id.clone()))));
            prop_assert!(told < event(&space(&b), 2, b"") && parse_event(&told.key.slice(..1 + b.len())).is_none());
        }

        #[test]
        fn what_lies_below_a_name_follows_it(names in prop::collection::btree_set("[a-c-]{1,2}(/[a-c-]{1,2}){0,2}", 1..20)) {
            let space = Space::default();
            let mut rows: Vec<_> = names.iter().map(|text| name(&space, &Name::new(text).expect("valid")).key).collect();
            rows.sort();
            let sorted: Vec<_> = rows.iter().map(|row| parse_name(&space, row).expect("a name").to_string()).collect();
            let mut by_parts: Vec<_> = names.into_iter().collect();
            by_parts.sort_by(|a, b| a.split('/').cmp(b.split('/')));
            prop_assert_eq!(sorted, by_parts);
        }
    }

    #[test]
    fn a_name_that_begins_like_another_has_its_own_history() {
        let (space, id) = (Space::default(), ExecutionId([1; 16]));
        let (short, long) = (Name::new("a").expect("valid"), Name::new("ab").expect("valid"));
        let row = name_history(&space, &long, Timestamp::default(), id);
        assert!(!row.key.starts_with(&by_name_prefix(&space, &short)));
        assert!(row.key.starts_with(&by_name_prefix(&space, &long)));
        assert_eq!(trailing_execution(&row.key), Some(id));
    }

    #[test]
    fn newer_comes_first() {
        let name = Name::new("a").expect("valid");
        let at = |ms| name_history(&Space::default(), &name, Timestamp::from_millis(ms), ExecutionId([0; 16]));
        assert!(at(2) < at(1) && at(1) < at(0));
    }
}
