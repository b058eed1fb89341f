//! An audit of all rows: whether what lies in a store is whole, whatever was stopped or failed before.
//!
//! Owns the plain rules that tie rows to each other, read straight from the backends. Invariant: a store that no daemon is changing
//! breaks none of them at any moment between two commits. It must not know how rows are written.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use provender_blobs::{Blobs, Location};
use provender_core::batch::{RowKey, Table};
use provender_core::blob::{self, Stored};
use provender_core::execution::State;
use provender_core::name::{Name, Space};
use provender_core::search::{Place, facts};
use provender_core::transition::Record;
use provender_core::{Digest, Execution, ExecutionId, rows};
use provender_daemon::meta::{Meta, Scan};
use provender_daemon::store::located;
use provender_proto::rows as values;

/// What an audit came to.
#[derive(Debug, Default)]
pub struct Audit {
    /// What is wrong.
    pub faults: Vec<String>,
    /// How many files belong to no blob: garbage that a crash may leave.
    pub orphans: usize,
    /// How many files are to be removed that belong to no blob any more.
    pub doomed: usize,
}

struct Rows(BTreeMap<Table, BTreeMap<Bytes, Bytes>>);

impl Rows {
    async fn read(meta: &dyn Meta) -> Rows {
        let mut tables = BTreeMap::new();
        for table in Table::ALL {
            let (mut scan, mut found) = (Scan::prefix(table, ""), BTreeMap::new());
            loop {
                let page = meta.scan(&scan).await.unwrap();
                found.extend(page.rows.into_iter().map(|(key, row)| (key, row.value)));
                scan.after = found.keys().next_back().cloned();
                if !page.more {
                    break;
                }
            }
            tables.insert(table, found);
        }
        Rows(tables)
    }

    fn get(&self, key: &RowKey) -> Option<&Bytes> {
        self.0.get(&key.table)?.get(&key.key)
    }

    /// Whether anything ever was.
    fn has_collected(&self) -> bool {
        self.of(Table::Tombstone).next().is_some() || self.get(&rows::store("forgotten")).is_some()
    }

    fn of(&self, table: Table) -> impl Iterator<Item = (&Bytes, &Bytes)> {
        self.0.get(&table).into_iter().flatten()
    }
}

/// Audits the rows of all of a store's spaces, and the bytes of its blobs. `decayed` are the digests whose bytes may be gone or
/// wrong without anybody having noticed yet.
pub async fn audit(meta: &dyn Meta, blobs: &dyn Blobs, decayed: &BTreeSet<Digest>) -> Audit {
    let rows = Rows::read(meta).await;
    let mut audit = Audit::default();
    let executions = audit.executions(&rows);
    audit.keys(&rows, &executions);
    audit.names(&rows, &executions);
    audit.index(&rows, &executions);
    audit.blobs(&rows, blobs, decayed).await;
    audit
}

/// The space that a row begins with.
fn space_of(row: &[u8]) -> Space {
    let len = usize::from(row[0]);
    Space::new(std::str::from_utf8(&row[1..=len]).unwrap()).unwrap()
}

type Executions = BTreeMap<(Space, ExecutionId), Execution>;

impl Audit {
    fn must(&mut self, holds: bool, fault: impl FnOnce() -> String) {
        if !holds {
            self.faults.push(fault());
        }
    }

    fn executions(&mut self, rows: &Rows) -> Executions {
        let mut executions = BTreeMap::new();
        for (key, value) in rows.of(Table::Execution) {
            let (space, execution) = (space_of(key), values::execution_from(value.clone()).unwrap());
            let Execution { id, began, state, ref name, .. } = execution;
            let there = |row: RowKey| rows.get(&row).is_some();
            self.must(there(rows::spec(&space, &execution.spec)), || format!("{id} has no spec"));
            self.must(there(rows::key_history(&space, &execution.key, began, id)), || format!("{id}: no key history"));
            self.must(there(rows::name_history(&space, name, began, id)), || format!("{id}: no name history"));
            let lease = rows.get(&rows::lease(&space, &execution.key));
            let lease = lease.map(|lease| values::lease_from(lease.clone()).unwrap());
            let holds = lease.is_some_and(|lease| lease.execution == id);
            self.must(holds == (state == State::Running), || {
                format!("{id} is {state:?}, and holds its lease: {holds}")
            });
            self.must(execution.ended.is_some() == (state != State::Running), || format!("{id}: {execution:?}"));
            let table = if state == State::Succeeded { Table::Folder } else { Table::FailedFolder };
            if state != State::Running {
                let folder = execution.folder.as_deref().unwrap_or_default();
                let folder = rows.get(&rows::folder(&space, table, name, folder));
                self.must(folder.is_some_and(|folder| folder[..] == id.0), || format!("{id} has no folder"));
            }
            executions.insert((space, id), execution);
        }
        executions
    }

    fn keys(&mut self, rows: &Rows, executions: &Executions) {
        for (key, value) in rows.of(Table::Key) {
            let (space, task) = rows::parse_key(key).unwrap();
            let row = values::key_from(value.clone()).unwrap();
            let by = |record: &Record| executions.get(&(space.clone(), record.execution));
            // Of what was collected nothing is left but that it was.
            let collected = |record: &&Record| record.void.is_some() && row.collected.is_some() && by(record).is_none();
            if let Some(record) = row.record.as_ref().filter(|record| !collected(record)) {
                let by = by(record);
                let genuine = by.is_some_and(|by| {
                    by.key == task && by.state == State::Succeeded && by.outcome.outputs == Some(record.outputs)
                });
                self.must(genuine, || format!("the record of {task} is of no success: {by:?}"));
                self.must(rows.get(&rows::blob(&record.closure)).is_some(), || format!("{task} has no closure"));
                let listed = by.map(|by| rows::name_record(&space, &by.name, record.committed, by.id));
                self.must(listed.is_some_and(|row| rows.get(&row).is_some()), || format!("{task} is not listed"));
            }
            if let Some(last) = &row.last {
                let of = executions.get(&(space.clone(), last.execution));
                let same = of.is_some_and(|of| of.key == task && of.state == last.state);
                self.must(same, || format!("the last end of {task} is of no execution"));
            }
        }
        for (key, value) in rows.of(Table::Lease) {
            let (space, task) = rows::parse_key(key).unwrap();
            let lease = values::lease_from(value.clone()).unwrap();
            let of = executions.get(&(space, lease.execution));
            let held = of.is_some_and(|of| of.key == task && of.state == State::Running);
            self.must(held, || format!("the lease on {task} is of nobody who runs: {of:?}"));
        }
        for table in [Table::KeyHistory, Table::NameHistory, Table::NameRecord] {
            for (key, value) in rows.of(table) {
                let (space, id) = (space_of(key), rows::trailing_execution(key).unwrap());
                let of = executions.get(&(space.clone(), id));
                self.must(of.is_some(), || format!("a {table:?} of an execution that is not there: {id}"));
                if let (Table::NameRecord, Some(of)) = (table, of) {
                    let folder = std::str::from_utf8(value).unwrap_or_default();
                    let own = rows.get(&rows::folder(&space, Table::Folder, &of.name, folder)).is_some();
                    self.must(of.state == State::Succeeded, || format!("{id} is listed, and no success"));
                    self.must(own, || format!("{id} is listed without its folder {folder}"));
                }
            }
        }
    }

    fn names(&mut self, rows: &Rows, executions: &Executions) {
        for (key, value) in rows.of(Table::Name) {
            let space = space_of(key);
            let name: Name = rows::parse_name(&space, key).unwrap();
            if let Some(latest) = values::name_from(value.clone()).unwrap().latest {
                let of = executions.get(&(space, latest));
                let success = of.map_or(rows.has_collected(), |of| of.state == State::Succeeded);
                self.must(success, || format!("latest of {name} leads into the void: {latest}"));
            }
        }
        for (table, wanted) in [(Table::Folder, true), (Table::FailedFolder, false)] {
            for (key, id) in rows.of(table) {
                let id = ExecutionId(id[..].try_into().unwrap());
                let of = executions.get(&(space_of(key), id));
                let right = of.is_some_and(|of| of.state != State::Running && (of.state == State::Succeeded) == wanted);
                self.must(right, || format!("a {table:?} shows {id}, which is {:?}", of.map(|of| of.state)));
            }
        }
    }

    /// What each is found by. Only of what was measured may rows be left of an end that did not come about: specs are small here.
    fn index(&mut self, rows: &Rows, executions: &Executions) {
        let mut wanted = BTreeSet::new();
        for ((space, id), execution) in executions {
            let Some(spec) = rows.get(&rows::spec(space, &execution.spec)) else { continue };
            let spec = values::spec_from(spec.clone()).unwrap();
            let place = Place::new(execution.began, *id);
            let (begin, results) = (facts::begin_terms(execution, &spec), facts::result_terms(execution));
            let others = [facts::label_terms(execution), facts::metric_terms(&execution.outcome.metrics)];
            let terms = [begin, results].into_iter().chain(others).flatten();
            let terms = terms.map(|(field, term)| rows::posting(space, &field, &term, place).key);
            wanted.extend(terms.chain([rows::posting_of_all(space, place).key]));
        }
        let mut leaving = BTreeSet::new();
        for (_, value) in rows.of(Table::Tally) {
            leaving.extend(values::tally_from(value.clone()).unwrap().gone.map(|gone| gone.id.0));
        }
        for key in &wanted {
            let there = rows.get(&RowKey { table: Table::Index, key: key.clone() }).is_some();
            self.must(there, || format!("not in the index: {}", key.escape_ascii()));
        }
        for (key, _) in rows.of(Table::Index) {
            let measured = key.windows(8).any(|part| part == b"metrics.");
            let left = rows::trailing_execution(key).is_some_and(|id| leaving.contains(&id.0));
            let right = measured || left || wanted.contains(key);
            self.must(right, || format!("the index has what is not: {}", key.escape_ascii()));
        }
    }

    async fn blobs(&mut self, rows: &Rows, blobs: &dyn Blobs, decayed: &BTreeSet<Digest>) {
        let (mut lost, mut inline, mut files) = (BTreeMap::new(), 0, BTreeSet::new());
        for (key, value) in rows.of(Table::Blob) {
            let digest = rows::parse_blob(key).unwrap();
            let stored = values::blob_from(value.clone()).unwrap();
            let Stored { nonce, ref place, lost: at, .. } = stored;
            lost.extend(at.map(|at| (at, digest)));
            let bytes = match place {
                blob::Place::Inline => {
                    inline += 1;
                    rows.get(&rows::inline(&digest, nonce)).cloned()
                }
                blob::Place::Backend { .. } => {
                    let (location, _) = located(&digest, &stored);
                    files.insert(location);
                    read(blobs, &location).await
                }
            };
            let right = bytes.is_some_and(|bytes| Digest::of(&bytes) == digest);
            self.must(right || at.is_some() || decayed.contains(&digest), || {
                format!("the bytes of {digest} are not there")
            });
        }
        self.must(inline == rows.of(Table::Inline).count(), || "there are bytes of no blob".into());
        for (key, _) in rows.of(Table::Outboard) {
            let digest = Digest::from_bytes(&key[1..41]).unwrap();
            self.must(rows.get(&rows::blob(&digest)).is_some(), || {
                format!("{digest} has an outboard, and is not there")
            });
        }
        for (key, _) in rows.of(Table::Holding) {
            let digest = Digest::from_bytes(&key[key.len() - 40..]).unwrap();
            self.must(rows.get(&rows::blob(&digest)).is_some(), || format!("{digest} is held, and not there"));
        }
        let head =
            rows.get(&rows::store(rows::LOST_HEAD)).map(|head| std::str::from_utf8(head).unwrap().parse().unwrap());
        for (key, value) in rows.of(Table::Lost) {
            let (at, loss) = (rows::parse_lost(key).unwrap(), values::lost_from(value.clone()).unwrap());
            self.must(lost.remove(&at) == Some(loss.digest), || format!("entry {at} of the log is of no lost blob"));
            self.must(head.is_some_and(|head: u64| at <= head), || format!("entry {at} is beyond the log's head"));
        }
        self.must(lost.is_empty(), || format!("blobs are marked as lost that are not in the log: {lost:?}"));
        let doomed: BTreeSet<Location> =
            rows.of(Table::Doomed).map(|(key, _)| rows::parse_doomed(key).unwrap().parse().unwrap()).collect();
        self.doomed = doomed.len();
        files.extend(doomed);
        let mut after = None;
        loop {
            let page = blobs.list(after.as_ref(), 1_000).await.unwrap();
            self.orphans += page.locations.iter().filter(|location| !files.contains(location)).count();
            after = page.next;
            if after.is_none() {
                break;
            }
        }
    }
}

/// The bytes at a location, if it is there.
pub async fn read(blobs: &dyn Blobs, location: &Location) -> Option<Bytes> {
    blobs.open(location, 0..location.digest.size).await.ok()?.into_bytes().await.ok()
}
