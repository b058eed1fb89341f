//! From layout 2 to 3: what collection needs to know of all that was stored before there was any.
//!
//! Whatever refers to blobs is to be counted ([`Table::Tally`]), whatever is held is to be looked at ([`Table::Idle`]), and how much is stored
//! is added up. Tables are gone through one after the other; where the step is, is a table and a key in it. Invariant: nothing is counted
//! here, so that it may be begun again anywhere.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use provender_core::batch::{Batch, Expect, Row, RowKey, Table};
use provender_core::blob::Alias;
use provender_core::collect::{Idle, References, Referrer, Tally};
use provender_core::execution::State;
use provender_core::{Digest, Execution, Space, Timestamp, digest, rows};
use provender_proto::rows as values;
use provender_proto::rows::RowError;

use super::MigrateError;
use super::claim::{Claim, Written};
use crate::clock;
use crate::meta::Scan;
use crate::store::{StoreError, USED};

/// The tables, in the order in which they are gone through.
const TABLES: [Table; 6] = [Table::Execution, Table::Key, Table::NameRecord, Table::Holding, Table::Blob, Table::Alias];
/// How many rows are read at once.
const PAGE: usize = 500;

type Rows = Vec<(Bytes, Row)>;

pub(super) async fn everything_is_to_be_counted(claim: &mut Claim) -> Result<(), MigrateError> {
    let (mut done, mut told) = (0, clock::monotonic());
    loop {
        let (at, after) = match claim.moving().after.as_deref().and_then(<[u8]>::split_first) {
            Some((at, after)) => (usize::from(*at), Some(Bytes::copy_from_slice(after)).filter(|key| !key.is_empty())),
            None => (0, None),
        };
        let Some(table) = TABLES.get(at) else { return Ok(()) };
        let page = claim.meta().scan(&Scan { after, limit: PAGE, ..Scan::prefix(*table, "") }).await?;
        let last = page.rows.last().map(|(key, _)| key.clone());
        done += page.rows.len();
        let mut batch = Batch::new(clock::batch_id());
        match table {
            Table::Execution => executions(claim, &mut batch, page.rows).await?,
            Table::Key => registrations(&mut batch, page.rows),
            Table::NameRecord => shown(claim, &mut batch, page.rows).await?,
            Table::Holding => holdings(claim, &mut batch, page.rows).await?,
            Table::Blob => usage(claim, &mut batch, page.rows).await?,
            _ => aliases(claim, &mut batch, page.rows).await?,
        }
        let next = match last.filter(|_| page.more) {
            Some(last) => [&[at as u8], &last[..]].concat(),
            None => vec![at as u8 + 1],
        };
        // If something was changed meanwhile the cursor stays before it, and it is read again.
        if let Written::Changed = claim.commit(&batch, |moving| moving.after = Some(next.clone())).await? {
            continue;
        }
        if clock::monotonic().saturating_sub(told) > std::time::Duration::from_secs(5) {
            told = clock::monotonic();
            tracing::info!(rows = done, "migrating: what is stored is being prepared for collection");
        }
    }
}

fn row<T>(what: impl ToString, decoded: Result<T, RowError>) -> Result<T, MigrateError> {
    Ok(decoded.map_err(StoreError::row(what))?)
}

/// Each that has ended is to be counted, and names the list of what it refers to if it is a record.
async fn executions(claim: &Claim, batch: &mut Batch, found: Rows) -> Result<(), MigrateError> {
    let mut ended = Vec::new();
    for (key, found) in found {
        let Some((space, _)) = rows::parse_execution(&key) else { continue };
        let execution = row("an execution", values::execution_from(found.value))?;
        if execution.state != State::Running {
            ended.push((key, found.version, space, execution));
        }
    }
    let keys: Vec<_> = ended.iter().map(|(_, _, space, execution)| rows::key(space, &execution.key)).collect();
    let known = claim.meta().get(&keys).await?;
    for ((key, version, space, execution), known) in ended.into_iter().zip(known) {
        let place = RowKey { table: Table::Execution, key };
        batch.expect(place.clone(), Expect::At(version));
        let known = known.map(|found| row(&execution.key, values::key_from(found.value))).transpose()?;
        let record = known.and_then(|known| known.record).filter(|record| record.execution == execution.id);
        let execution = Execution { closure: record.map(|record| record.closure).or(execution.closure), ..execution };
        if execution.closure.is_some() {
            batch.put(place, values::execution_to(&execution));
        }
        let tally = Tally::begin(References::of(&execution));
        batch.put(rows::tally(&space, &Referrer::Execution(execution.id)), values::tally_to(&tally));
    }
    Ok(())
}

/// Keys that were registered have a spec.
fn registrations(batch: &mut Batch, found: Rows) {
    for (key, found) in found {
        let (Some((space, task)), Ok(known)) = (rows::parse_key(&key), values::key_from(found.value)) else { continue };
        if known.spec.is_some() {
            let tally = Tally::begin(References { spec: known.spec, ..References::default() });
            batch.put(rows::tally(&space, &Referrer::Registration(task)), values::tally_to(&tally));
        }
    }
}

/// Under which names records are shown beside their own.
async fn shown(claim: &Claim, batch: &mut Batch, found: Rows) -> Result<(), MigrateError> {
    let mut listed = Vec::new();
    for (key, _) in &found {
        let (Some(space), Some(id)) = (rows::space_of(key), rows::trailing_execution(key)) else { continue };
        if let Some(name) = rows::parse_name_record(&space, key) {
            listed.push((space, id, name));
        }
    }
    let wanted: Vec<_> = listed.iter().map(|(space, id, _)| rows::execution(space, *id)).collect();
    for ((space, id, name), found) in listed.iter().zip(claim.meta().get(&wanted).await?) {
        let Some(found) = found else { continue };
        if row("an execution", values::execution_from(found.value))?.name != *name {
            batch.put(rows::shown(space, *id, name), Bytes::new());
        }
    }
    Ok(())
}

/// What is held is looked at once, and its spaces become known.
async fn holdings(claim: &Claim, batch: &mut Batch, found: Rows) -> Result<(), MigrateError> {
    let mut held: BTreeMap<Space, Vec<Digest>> = BTreeMap::new();
    for (key, _) in &found {
        let digest = key.last_chunk::<40>().and_then(|bytes| Digest::from_bytes(bytes));
        if let (Some(space), Some(digest)) = (rows::space_of(key), digest) {
            held.entry(space).or_default().push(digest);
        }
    }
    for (space, digests) in held {
        let nonce = u64::from_be_bytes(clock::random());
        batch.put(rows::idle(&space, Timestamp::MIN, Idle::Fresh, nonce), values::digests_to(&digests));
        let known = rows::known_space(&space);
        if claim.meta().get(std::slice::from_ref(&known)).await?.pop().flatten().is_none() {
            batch.put(known, space.as_str().to_owned());
            batch.put(rows::store("spaces"), digest::hex(&clock::random::<8>()));
        }
    }
    Ok(())
}

/// How much is stored.
async fn usage(claim: &Claim, batch: &mut Batch, found: Rows) -> Result<(), MigrateError> {
    // The first page begins the sum.
    let begun = claim.moving().after.as_ref().is_some_and(|after| after.len() > 1);
    let there = claim.meta().get(&[rows::store(USED)]).await?.pop().flatten();
    let there = there.and_then(|row| std::str::from_utf8(&row.value).ok()?.parse::<u64>().ok());
    let mut used = if begun { there.unwrap_or(0) } else { 0 };
    for (key, found) in found {
        let Some(digest) = rows::parse_blob(&key) else { continue };
        used += row(digest, values::blob_from(found.value))?.bytes(&digest);
    }
    batch.put(rows::store(USED), used.to_string());
    Ok(())
}

/// Each blob knows its other hashes.
async fn aliases(claim: &Claim, batch: &mut Batch, found: Rows) -> Result<(), MigrateError> {
    let (mut wanted, mut of): (Vec<RowKey>, BTreeMap<Digest, Vec<Alias>>) = Default::default();
    for (key, found) in found {
        let (Some((function, hash)), Some(digest)) = (rows::parse_alias(&key), Digest::from_bytes(&found.value)) else {
            continue;
        };
        of.entry(digest).or_default().push(Alias { function, hash });
    }
    let digests: BTreeSet<_> = of.keys().copied().collect();
    wanted.extend(digests.iter().map(rows::blob));
    for ((digest, place), found) in digests.iter().zip(&wanted).zip(claim.meta().get(&wanted).await?) {
        let Some(found) = found else { continue };
        batch.expect(place.clone(), Expect::At(found.version));
        let mut stored = row(digest, values::blob_from(found.value))?;
        let new = of.remove(digest).unwrap_or_default().into_iter();
        let new: Vec<_> = new.filter(|alias| !stored.aliases.contains(alias)).collect();
        stored.aliases.extend(new);
        batch.put(place.clone(), values::blob_to(&stored));
    }
    Ok(())
}
