//! Batches: the one way in which metadata changes.
//!
//! Owns the plain types of the `Meta` seam (tables, rows, versions, batches, the change feed) and the pure decision
//! which batches of a group hold, [`Group`]. Invariant: a batch is all or nothing, and holds only if each of its
//! preconditions does at the one moment at which it is applied. It must not know what a row means or how it is stored.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;

/// The ordered key spaces of the metadata. The numbers are the stored form: never reuse or renumber one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Table {
    /// Facts of the whole store: its id, layout and incarnation.
    Store = 0,
    /// Task key -> record, last execution, registered spec.
    Key = 1,
    /// Task key -> the lease that is held on it.
    Lease = 2,
    /// Execution id -> execution.
    Execution = 3,
    /// Spec digest -> spec.
    Spec = 4,
    /// Task key, newest first -> execution id.
    KeyHistory = 5,
    /// Name -> what `latest` is, or the key that was registered under it.
    Name = 6,
    /// Name, newest first -> execution id.
    NameHistory = 7,
    /// Name, newest first -> execution id of a record.
    NameRecord = 8,
    /// Name and folder below `/tasks` -> execution id.
    Folder = 9,
    /// Name and folder below `/failed` -> execution id.
    FailedFolder = 10,
    /// Producer (a key or a digest) and consumer -> provenance edge.
    Consumer = 11,
    /// Digest -> where the blob's bytes are.
    Blob = 12,
    /// Location -> the bytes of a small blob.
    Inline = 13,
    /// Space and digest -> that the space holds the blob, and when that was last relied on.
    Holding = 14,
    /// Hash function, hash and size -> digest.
    Alias = 15,
    /// Pin id -> pin.
    Pin = 16,
    /// Digest and the execution that made it -> provenance edge.
    Producer = 17,
    /// Name -> when an execution under it last failed or was abandoned.
    FailedName = 18,
    /// Digest -> the first execution that made it, and whether others did.
    Maker = 19,
    /// Position -> a digest whose bytes were found missing or damaged, until they are stored anew.
    Lost = 20,
    /// That a key's verdict changed: in the change feed only, never a row. The key carries the whole of it.
    Event = 21,
    /// Field and term, newest first -> execution id: what searches go through.
    Index = 22,
    /// Digest and place -> a piece of the blob's outboard.
    Outboard = 23,
    /// Space and digest -> how many live things refer to it: what collection counts.
    Count = 24,
    /// An execution or a pin -> how far what it refers to is counted, or uncounted, until that is through.
    Tally = 25,
    /// Time -> digests that a space began to hold then, or that nothing counted refers to since then.
    Idle = 26,
    /// By how many bytes what is stored has grown or shrunk, until that is added up.
    Usage = 27,
    /// Location -> bytes of a backend that no row names any more, until they are removed.
    Doomed = 28,
    /// Task key -> when its record was last an answer, about.
    Used = 29,
    /// Time -> an execution that was last used then, or not long before.
    Aged = 30,
    /// Time -> an execution or a pin to be looked at then.
    Due = 31,
    /// Execution -> under which further names it is shown.
    Shown = 32,
    /// Time -> a task key of which something was collected then.
    Tombstone = 33,
    /// What is pinned by key, name or prefix.
    RecordPin = 34,
    /// Pack -> how much of it is wanted no more.
    Pack = 35,
}

impl Table {
    /// Every table, in stored order.
    pub const ALL: [Table; 36] = [
        Table::Store,
        Table::Key,
        Table::Lease,
        Table::Execution,
        Table::Spec,
        Table::KeyHistory,
        Table::Name,
        Table::NameHistory,
        Table::NameRecord,
        Table::Folder,
        Table::FailedFolder,
        Table::Consumer,
        Table::Blob,
        Table::Inline,
        Table::Holding,
        Table::Alias,
        Table::Pin,
        Table::Producer,
        Table::FailedName,
        Table::Maker,
        Table::Lost,
        Table::Event,
        Table::Index,
        Table::Outboard,
        Table::Count,
        Table::Tally,
        Table::Idle,
        Table::Usage,
        Table::Doomed,
        Table::Used,
        Table::Aged,
        Table::Due,
        Table::Shown,
        Table::Tombstone,
        Table::RecordPin,
        Table::Pack,
    ];

    /// The table stored as `tag`.
    pub fn from_tag(tag: u8) -> Option<Table> {
        Table::ALL.get(usize::from(tag)).copied()
    }

    /// The stored form.
    pub fn tag(self) -> u8 {
        self as u8
    }

    /// Whether changes to this table stand in the change feed: only what somebody waits for does.
    pub fn in_feed(self) -> bool {
        matches!(self, Table::Key | Table::Lease | Table::Name | Table::Store | Table::Lost | Table::Event)
    }

    /// Whether what is written to this table becomes rows. What does not stands in the change feed alone, and goes with it.
    pub fn has_rows(self) -> bool {
        self != Table::Event
    }
}

/// Where a row stands: its table, and a key that begins with its space (see [`crate::rows`]).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowKey {
    /// The key space.
    pub table: Table,
    /// The bytes that rows of one table are ordered by; at most 4 KiB.
    pub key: Bytes,
}

impl fmt::Debug for RowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}/{}", self.table, self.key.escape_ascii())
    }
}

/// The position in commit order of the batch that last wrote a row, from 1. A row that is deleted and written again never gets
/// an earlier version back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Version(pub u64);

/// A stored value and the version that wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// When it was written, in commit order.
    pub version: Version,
    /// The bytes.
    pub value: Bytes,
}

/// Names a batch for ever, so that a commit of unknown outcome can be decided.
///
/// The first 6 bytes are the milliseconds since 1970 at which it was made (big-endian), so that old ids can be forgotten by
/// range; the other 10 are random.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId(pub [u8; 16]);

impl BatchId {
    /// The least id.
    pub const MIN: BatchId = BatchId([0; 16]);

    /// An id out of a time and 10 random bytes.
    pub fn new(now: crate::Timestamp, random: [u8; 10]) -> BatchId {
        let mut id = [0; 16];
        id[..6].copy_from_slice(&now.millis().to_be_bytes()[2..]);
        id[6..].copy_from_slice(&random);
        BatchId(id)
    }
}

impl fmt::Debug for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::digest::hex(&self.0))
    }
}

/// What must hold of a row, whether or not the batch writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// There is no such row.
    Absent,
    /// The row is there, last written by this version.
    At(Version),
}

impl Expect {
    /// The expectation that a row is as it was read.
    pub fn as_read(row: Option<&Row>) -> Expect {
        row.map_or(Expect::Absent, |row| Expect::At(row.version))
    }

    fn holds(self, current: Option<Version>) -> bool {
        match self {
            Expect::Absent => current.is_none(),
            Expect::At(version) => current == Some(version),
        }
    }
}

/// Preconditions and writes, all or nothing, serializable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Unique for ever; a batch whose id was committed or aborted before is refused.
    pub id: BatchId,
    /// What must hold.
    pub expect: BTreeMap<RowKey, Expect>,
    /// `Some` writes the row, `None` deletes it.
    pub writes: BTreeMap<RowKey, Option<Bytes>>,
}

impl Batch {
    /// A batch that asks and does nothing yet.
    pub fn new(id: BatchId) -> Batch {
        Batch { id, expect: BTreeMap::new(), writes: BTreeMap::new() }
    }

    /// Adds a precondition.
    pub fn expect(&mut self, key: RowKey, expect: Expect) -> &mut Batch {
        self.expect.insert(key, expect);
        self
    }

    /// Adds a write.
    pub fn put(&mut self, key: RowKey, value: impl Into<Bytes>) -> &mut Batch {
        self.writes.insert(key, Some(value.into()));
        self
    }

    /// Adds a deletion; deleting what is not there is fine.
    pub fn delete(&mut self, key: RowKey) -> &mut Batch {
        self.writes.insert(key, None);
        self
    }

    /// About how many bytes the batch carries.
    pub fn size(&self) -> usize {
        let keys = self.expect.keys().chain(self.writes.keys()).map(|key| key.key.len() + 16);
        keys.sum::<usize>() + self.writes.values().flatten().map(Bytes::len).sum::<usize>()
    }
}

/// One entry of the change feed: a row of a table [`in the feed`](Table::in_feed) that a batch wrote or deleted. One batch's stand in
/// the order of their keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The batch, in commit order. One batch's changes share it.
    pub version: Version,
    /// The row.
    pub key: RowKey,
    /// Whether it was deleted.
    pub deleted: bool,
}

/// What became of a batch, for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It was applied, whole.
    Committed(Version),
    /// It was given up, and can never be applied any more.
    Aborted,
}

/// Why a batch is not taken into a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// This row is not as the batch expects.
    Conflict(RowKey),
    /// Its fate was decided before.
    Decided(Fate),
    /// It is so old that its fate may have been forgotten.
    Forgotten,
}

/// What a group changes when it is applied, all at once.
#[derive(Debug, Default)]
pub struct Writes {
    /// The version of the last admitted batch.
    pub head: Version,
    /// The last write of each row, with its version.
    pub rows: BTreeMap<RowKey, (Version, Option<Bytes>)>,
    /// The change feed's entries, in commit order.
    pub changes: Vec<Change>,
    /// The admitted batches.
    pub ids: BTreeMap<BatchId, Version>,
}

/// Decides, in order, which batches of a group hold when they are applied one after the other, and merges their writes.
///
/// An engine reads the current versions of [`Group::keys`] at a moment from which nothing else commits, admits the batches
/// one by one, and applies [`Group::into_writes`] at once. So the rule of preconditions exists once, for all engines.
#[derive(Debug)]
pub struct Group {
    versions: BTreeMap<RowKey, Version>,
    fates: BTreeMap<BatchId, Fate>,
    oldest: BatchId,
    writes: Writes,
}

impl Group {
    /// Every row whose current version decides about `batches`.
    pub fn keys<'a>(batches: impl IntoIterator<Item = &'a Batch>) -> Vec<RowKey> {
        let mut keys: Vec<_> = batches.into_iter().flat_map(|batch| batch.expect.keys()).cloned().collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// A group that comes after `head`, over the versions that the rows of [`Group::keys`] have now (absent ones left out)
    /// and the fates of those of its batches that have one. The fates of batches before `oldest` may have been forgotten.
    pub fn new(
        head: Version,
        versions: BTreeMap<RowKey, Version>,
        fates: BTreeMap<BatchId, Fate>,
        oldest: BatchId,
    ) -> Group {
        Group { versions, fates, oldest, writes: Writes { head, ..Writes::default() } }
    }

    /// Takes a batch in and says at which version it commits. One id that comes twice in a group is one batch.
    pub fn admit(&mut self, batch: &Batch) -> Result<Version, Refusal> {
        if let Some(version) = self.writes.ids.get(&batch.id) {
            return Ok(*version);
        }
        if let Some(fate) = self.fates.get(&batch.id) {
            return Err(Refusal::Decided(*fate));
        }
        if batch.id < self.oldest {
            return Err(Refusal::Forgotten);
        }
        for (key, expect) in &batch.expect {
            if !expect.holds(self.versions.get(key).copied()) {
                return Err(Refusal::Conflict(key.clone()));
            }
        }
        let version = Version(self.writes.head.0 + 1);
        self.writes.head = version;
        self.writes.ids.insert(batch.id, version);
        for (key, value) in &batch.writes {
            if key.table.in_feed() {
                self.writes.changes.push(Change { version, key: key.clone(), deleted: value.is_none() });
            }
            if !key.table.has_rows() {
                continue;
            }
            match value {
                Some(_) => self.versions.insert(key.clone(), version),
                None => self.versions.remove(key),
            };
            self.writes.rows.insert(key.clone(), (version, value.clone()));
        }
        Ok(version)
    }

    /// What the admitted batches change.
    pub fn into_writes(self) -> Writes {
        self.writes
    }
}

#[cfg(test)]
mod tests;
