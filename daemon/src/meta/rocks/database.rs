//! The database itself: blocking reads, and writes one at a time.
//!
//! Owns the open RocksDB and the turn to write. Invariant: whoever decides something holds the turn from reading to having
//! written. It must not know threads or tasks.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use provender_core::batch::{Batch, BatchId, Fate, Group, Row, RowKey, Version, Writes};
use provender_core::time::Timestamp;
use rocksdb::{ColumnFamily, DB, ErrorKind, IteratorMode, ReadOptions, WriteBatch};

use super::RocksConfig;
use super::format::{self, FATES, FEED, fact};
use super::log;
use super::options;
use super::room::Room;
use crate::meta::feed::{self, Feed};
use crate::meta::group::{Failure, Outcome};
use crate::meta::scan::{PAGE_BYTES, PAGE_ROWS};
use crate::meta::{Beside, Changes, MetaError, Page, Scan};

/// How long a write waits for RocksDB to take writes again.
const STALL: Duration = Duration::from_secs(60);
/// Up to so many rows are read one after the other.
const FEW: usize = 4;
/// How many rows RocksDB is asked for at once: it holds on to the blocks of them all.
const AT_ONCE: usize = 256;

/// All rows at one moment.
pub(super) type Moment<'a> = rocksdb::Snapshot<'a>;

#[derive(Debug)]
pub(super) struct Database {
    db: DB,
    turn: Mutex<()>,
    pub(super) feed: Arc<Feed>,
    room: Room,
    /// Since when RocksDB takes nothing for want of space, though there is some.
    refusing: Mutex<Option<Instant>>,
}

impl Database {
    /// Opens it; anew, with the feed that it had.
    pub(super) fn open(config: &RocksConfig, dir: &Path, feed: Option<&Arc<Feed>>) -> Result<Database, MetaError> {
        // Others may pass through the data folder to its socket, but the rows are nobody else's to read.
        let private = || {
            std::fs::create_dir_all(dir)?;
            std::fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o700))
        };
        private().map_err(|error| MetaError::unavailable("creating the metadata folder", error))?;
        let database = options::database(config);
        let families = options::families(config);
        if dir.join("CURRENT").exists() {
            log::check(dir)?;
            let stored = DB::list_cf(&database, dir).map_err(|error| opening(dir, error))?;
            // Only a newer program can have made a family that this one does not know.
            if stored.iter().any(|name| families.iter().all(|family| family.name() != name)) {
                return Err(MetaError::Layout { found: format::LAYOUT + 1, known: format::LAYOUT });
            }
        }
        let db = DB::open_cf_descriptors(&database, dir, families).map_err(|error| opening(dir, error))?;
        let reading = |error| failed(dir, "reading the metadata's layout", error);
        match db.get(fact::LAYOUT).map_err(reading)? {
            None => db
                .put_opt(fact::LAYOUT, format::LAYOUT.to_be_bytes(), &options::synced())
                .map_err(|error| failed(dir, "writing the metadata's layout", error))?,
            Some(stored) => match format::read_layout(&stored)? {
                format::LAYOUT => {}
                found => return Err(MetaError::Layout { found, known: format::LAYOUT }),
            },
        }
        let head =
            db.get(fact::HEAD).map_err(reading)?.map_or(Ok(Version(0)), |stored| format::read_version(&stored))?;
        let feed = feed.cloned().unwrap_or_else(|| Arc::new(Feed::at(head)));
        // What was not known to be written may be there.
        feed.advance(head, Some(head));
        Ok(Database { db, turn: Mutex::new(()), feed, room: Room::of(config), refusing: Mutex::default() })
    }

    pub(super) fn get(&self, keys: &[RowKey]) -> Result<Vec<Option<Row>>, MetaError> {
        // One read is of one moment anyway, and a snapshot takes a lock that everybody shares.
        let snapshot = (keys.len() > 1).then(|| self.moment());
        self.get_at(keys, snapshot.as_ref())
    }

    /// The rows as they are now, for as long as this is kept.
    pub(super) fn moment(&self) -> Moment<'_> {
        self.db.snapshot()
    }

    /// The last commit that a moment sees.
    pub(super) fn head_at(&self, moment: &Moment<'_>) -> Result<Version, MetaError> {
        let stored = moment.get(fact::HEAD).map_err(|error| self.failed("reading the metadata's head", error))?;
        stored.map_or(Ok(Version(0)), |stored| format::read_version(&stored))
    }

    pub(super) fn get_at(&self, keys: &[RowKey], moment: Option<&Moment<'_>>) -> Result<Vec<Option<Row>>, MetaError> {
        let mut options = ReadOptions::default();
        if let Some(moment) = moment {
            options.set_snapshot(moment);
        }
        if keys.len() > FEW {
            return self.get_many(keys, &options);
        }
        let one = |key: &RowKey| {
            let stored = self.read(format::family(key.table), &format::row_key(key.table, &key.key), &options)?;
            stored.map(|stored| format::read_row(&stored)).transpose()
        };
        keys.iter().map(one).collect()
    }

    /// Many rows, asked for in the order in which they stand: RocksDB finds neighbours together, and looks at filters, indexes
    /// and blocks once for all that they hold.
    fn get_many(&self, keys: &[RowKey], options: &ReadOptions) -> Result<Vec<Option<Row>>, MetaError> {
        let place = |at: &usize| (format::family(keys[*at].table), keys[*at].table.tag(), &keys[*at].key);
        let mut order: Vec<_> = (0..keys.len()).collect();
        order.sort_unstable_by(|one, other| place(one).cmp(&place(other)));
        let (mut rows, mut stored, mut ends) = (vec![None; keys.len()], Vec::new(), Vec::new());
        let families = order.chunk_by(|one, next| place(one).0 == place(next).0);
        for piece in families.flat_map(|family| family.chunks(AT_ONCE)) {
            stored.clear();
            ends.clear();
            for key in piece.iter().map(|at| &keys[*at]) {
                format::append_key(key.table, &key.key, &mut stored);
                ends.push(stored.len());
            }
            let starts = std::iter::once(&0).chain(&ends);
            let asked = starts.zip(&ends).map(|(start, end)| &stored[*start..*end]);
            let family = self.family(place(&piece[0]).0);
            for (at, found) in piece.iter().zip(self.db.batched_multi_get_cf_opt(family, asked, true, options)) {
                let found = found.map_err(|error| self.failed("reading metadata", error))?;
                rows[*at] = found.map(|stored| format::read_row(&stored)).transpose()?;
            }
        }
        Ok(rows)
    }

    pub(super) fn scan(&self, scan: &Scan) -> Result<Page, MetaError> {
        self.scan_at(scan, None)
    }

    pub(super) fn scan_at(&self, scan: &Scan, moment: Option<&Moment<'_>>) -> Result<Page, MetaError> {
        let table = scan.table;
        let mut options = ReadOptions::default();
        if let Some(moment) = moment {
            options.set_snapshot(moment);
        }
        let end = scan.end().map_or_else(|| vec![table.tag() + 1], |end| format::row_key(table, &end));
        options.set_iterate_upper_bound(end);
        // A long scan must not push out what lookups need.
        options.fill_cache(false);
        let first = format::row_key(table, &scan.first());
        let from = IteratorMode::From(&first, rocksdb::Direction::Forward);
        let rows = self.db.iterator_cf_opt(self.family(format::family(table)), options, from);
        scan.page(rows.map(|entry| {
            let (key, stored) = entry.map_err(|error| self.failed("scanning metadata", error))?;
            Ok((Bytes::from(key).slice(1..), format::read_row(&stored)?))
        }))
    }

    /// Reads a page of what is stored beside the rows.
    pub(super) fn verify(&self, after: Option<&[u8]>) -> Result<Beside, MetaError> {
        const FAMILIES: [&str; 3] = [rocksdb::DEFAULT_COLUMN_FAMILY_NAME, FEED, FATES];
        let (at, after) = after.and_then(<[u8]>::split_first).map_or((0, None), |(at, after)| (*at, Some(after)));
        let Some(family) = FAMILIES.get(usize::from(at)) else { return Ok(Beside::default()) };
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        let first = after.map_or_else(Vec::new, |after| [after, &[0]].concat());
        let from = IteratorMode::From(&first, rocksdb::Direction::Forward);
        let mut page = Beside::default();
        for entry in self.db.iterator_cf_opt(self.family(family), options, from) {
            let (key, stored) = entry.map_err(|error| self.failed("verifying metadata", error))?;
            match *family {
                FEED => _ = format::read_change(&key, &stored)?,
                FATES => _ = (format::read_id(&key)?, format::read_fate(&stored)?),
                _ => {}
            }
            page.entries += 1;
            page.bytes += (key.len() + stored.len()) as u64;
            if page.entries >= PAGE_ROWS as u64 || page.bytes >= PAGE_BYTES as u64 {
                page.next = Some([&[at], &key[..]].concat().into());
                return Ok(page);
            }
        }
        page.next = Some(Bytes::from(vec![at + 1]));
        Ok(page)
    }

    pub(super) fn changes(&self, after: Version, limit: usize) -> Result<Changes, MetaError> {
        let head = self.feed.head();
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        let first = format::feed_key(Version(after.0.saturating_add(1)), 0);
        let from = IteratorMode::From(&first, rocksdb::Direction::Forward);
        let entries = self.db.iterator_cf_opt(self.family(FEED), options, from).filter_map(|entry| {
            let read = entry.map_err(|error| self.failed("reading the change feed", error));
            read.and_then(|(key, stored)| format::read_change(&key, &stored)).transpose()
        });
        let page = feed::page(head, limit, entries)?;
        // Asked after the entries were read: what had been trimmed by then shows here.
        let oldest = self.fact(fact::TRIMMED, format::read_version)?.unwrap_or_default();
        if after < oldest || after > head { Err(MetaError::Trimmed { oldest }) } else { Ok(page) }
    }

    /// Decides about the batches and applies those that hold; the error is for all of them.
    pub(super) fn apply(&self, batches: &[Batch]) -> Result<Outcome, Failure> {
        let _turn = self.turn();
        let mut group = self.group(batches).map_err(Failure::NotCommitted)?;
        let verdicts = batches.iter().map(|batch| group.admit(batch)).collect();
        let writes = group.into_writes();
        let applied = if writes.ids.is_empty() { Ok(()) } else { self.write(writes) };
        Ok(Outcome { verdicts, applied })
    }

    fn group(&self, batches: &[Batch]) -> Result<Group, MetaError> {
        let options = ReadOptions::default();
        let (mut versions, mut fates) = (BTreeMap::new(), BTreeMap::new());
        for key in Group::keys(batches) {
            let stored = self.read(format::family(key.table), &format::row_key(key.table, &key.key), &options)?;
            if let Some(stored) = stored {
                versions.insert(key, format::read_version(&stored)?);
            }
        }
        for batch in batches {
            if let Some(fate) = self.fate(batch.id)? {
                fates.insert(batch.id, fate);
            }
        }
        Ok(Group::new(self.feed.head(), versions, fates, self.oldest()?))
    }

    fn write(&self, writes: Writes) -> Result<(), Failure> {
        let mut batch = WriteBatch::default();
        for (key, (version, value)) in writes.rows {
            let (family, stored) = (self.family(format::family(key.table)), format::row_key(key.table, &key.key));
            match value {
                Some(value) => batch.put_cf(family, stored, format::row(version, &value)),
                None => batch.delete_cf(family, stored),
            }
        }
        for (place, change) in writes.changes.iter().enumerate() {
            batch.put_cf(self.family(FEED), format::feed_key(change.version, place), format::change(change));
        }
        for (id, version) in writes.ids {
            batch.put_cf(self.family(FATES), id.0, format::fate(Fate::Committed(version)));
        }
        batch.put(fact::HEAD, writes.head.0.to_be_bytes());
        self.store("writing metadata", batch)?;
        self.feed.advance(writes.head, writes.changes.last().map(|change| change.version));
        Ok(())
    }

    pub(super) fn resolve(&self, id: BatchId) -> Result<Fate, MetaError> {
        let _turn = self.turn();
        if let Some(fate) = self.fate(id)? {
            return Ok(fate);
        }
        if id < self.oldest()? {
            return Err(MetaError::Forgotten { id });
        }
        let mut batch = WriteBatch::default();
        batch.put_cf(self.family(FATES), id.0, format::fate(Fate::Aborted));
        self.store("deciding a batch", batch)?;
        Ok(Fate::Aborted)
    }

    pub(super) fn trim(&self, feed: Version, made_before: Timestamp) -> Result<(), MetaError> {
        let _turn = self.turn();
        let trimmed = self.fact(fact::TRIMMED, format::read_version)?.unwrap_or_default();
        let trimmed = feed.min(self.feed.head()).max(trimmed);
        let oldest = BatchId::new(made_before, [0; 10]).max(self.oldest()?);
        let mut batch = WriteBatch::default();
        batch.put(fact::TRIMMED, trimmed.0.to_be_bytes());
        batch.put(fact::OLDEST, oldest.0);
        let kept = Version(trimmed.0 + 1);
        batch.delete_range_cf(self.family(FEED), format::feed_key(Version(0), 0), format::feed_key(kept, 0));
        batch.delete_range_cf(self.family(FATES), BatchId::MIN.0, oldest.0);
        Ok(self.store("trimming the change feed", batch)?)
    }

    /// Writes all of `batch`, durable. While RocksDB takes no writes, because it is behind with sorting into files what it
    /// took before, this waits; but not for a full disk, and not for ever.
    fn store(&self, doing: &'static str, batch: WriteBatch) -> Result<(), Failure> {
        if let Some(scarce) = self.room.lacks(self.db.path()) {
            self.forgive();
            tracing::error!(%scarce, "the disk that holds the metadata is full");
            return Err(Failure::NotCommitted(MetaError::Full { source: Arc::new(scarce) }));
        }
        let began = Instant::now();
        loop {
            let Err(error) = self.db.write_opt(WriteBatch::from_data(batch.data()), &options::synced()) else {
                self.forgive();
                return Ok(());
            };
            let stalled = error.kind() == ErrorKind::Incomplete;
            let full = stalled && self.room.hinders_sorting(self.db.path());
            if stalled && !full && began.elapsed() < STALL {
                std::thread::sleep(Duration::from_millis(2));
                continue;
            }
            let sure = stalled || is_not_written(&error);
            let error = if full { MetaError::Full { source: Arc::new(error) } } else { self.failed(doing, error) };
            if matches!(error, MetaError::Full { .. }) && !stalled {
                self.refusing().get_or_insert_with(Instant::now);
            }
            tracing::error!(%error, "a metadata write failed");
            return Err(if sure { Failure::NotCommitted(error) } else { Failure::Unknown(error) });
        }
    }

    /// Whether RocksDB has taken nothing for so long for want of space, though there is some.
    pub(super) fn has_refused_for(&self, time: Duration) -> bool {
        self.refusing().is_some_and(|since| since.elapsed() > time)
    }

    /// From now on.
    pub(super) fn forgive(&self) {
        *self.refusing() = None;
    }

    fn refusing(&self) -> MutexGuard<'_, Option<Instant>> {
        self.refusing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fate(&self, id: BatchId) -> Result<Option<Fate>, MetaError> {
        self.read(FATES, &id.0, &ReadOptions::default())?.map(|stored| format::read_fate(&stored)).transpose()
    }

    fn oldest(&self) -> Result<BatchId, MetaError> {
        Ok(self.fact(fact::OLDEST, format::read_id)?.unwrap_or(BatchId::MIN))
    }

    fn fact<T>(&self, name: &[u8], read: impl Fn(&[u8]) -> Result<T, MetaError>) -> Result<Option<T>, MetaError> {
        let stored = self.read(rocksdb::DEFAULT_COLUMN_FAMILY_NAME, name, &ReadOptions::default())?;
        stored.map(|stored| read(&stored)).transpose()
    }

    fn read(
        &self,
        family: &str,
        key: &[u8],
        options: &ReadOptions,
    ) -> Result<Option<rocksdb::DBPinnableSlice<'_>>, MetaError> {
        let stored = self.db.get_pinned_cf_opt(self.family(family), key, options);
        stored.map_err(|error| self.failed("reading metadata", error))
    }

    fn failed(&self, doing: &'static str, error: rocksdb::Error) -> MetaError {
        failed(self.db.path(), doing, error)
    }

    fn family(&self, name: &str) -> &ColumnFamily {
        self.db.cf_handle(name).expect("the database was opened with every family")
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the write came to no whole record: the disk was full when the record was appended to the log, or before, when a log or a
/// sorted file was made. RocksDB writes no more to that log, and recovery drops a record that is cut short. A write that failed in
/// another way (a sync, above all) may have left a whole record, which a restart would find.
fn is_not_written(error: &rocksdb::Error) -> bool {
    let doing = error.as_ref().strip_prefix("IO error: No space left on device: While ");
    doing.is_some_and(|doing| {
        ["appending to file", "open a file for appending"].iter().any(|what| doing.starts_with(what))
    })
}

fn failed(dir: &Path, doing: &'static str, error: rocksdb::Error) -> MetaError {
    match error.kind() {
        // Not every message names the file.
        ErrorKind::Corruption => MetaError::Corrupt { what: format!("{}: {}", dir.display(), error.as_ref()) },
        _ if error.as_ref().contains("No space left on device") => MetaError::Full { source: Arc::new(error) },
        _ => MetaError::unavailable(doing, error),
    }
}

fn opening(dir: &Path, error: rocksdb::Error) -> MetaError {
    let message = error.as_ref();
    if message.contains("LOCK") && (message.contains("lock file") || message.contains("lock hold by")) {
        return MetaError::Locked { path: dir.to_owned() };
    }
    // The manifest names them, and was found whole.
    if error.kind() == ErrorKind::IOError && message.contains("No such file or directory") {
        return MetaError::Corrupt { what: format!("{}: a file is missing: {message}", dir.display()) };
    }
    match failed(dir, "opening the metadata database", error) {
        MetaError::Full { source } => MetaError::FullAtOpen { path: dir.to_owned(), source },
        other => other,
    }
}
