//! A crash at every step of a backup, of a restore, and of a migration.
//!
//! The harness counts the steps, as elsewhere here. After each crash another process comes up over what is left: the backups that are
//! there are whole, the next one works; a store that is restored or migrated in part is not served, and the next try brings it to its end.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use provender_blobs::Blobs;
use provender_core::batch::{Batch, BatchId, RowKey, Table};
use provender_core::{Digest, Execution, rows};
use provender_daemon::backup::{self, Files, Folder, KEEP, Local, Telling};
use provender_daemon::meta::{Memory, Meta, Scan};
use provender_daemon::migrate::migrate_with;
use provender_daemon::store::{LAYOUT, Store};
use provender_proto::rows as values;
use provender_tests::faulty::{Act, Once, World, changes};
use provender_tests::simulation::audit::audit;

use super::life::Round;
use super::{STOPS, in_a_world, storage};

/// Runs `work` in worlds that stop at one step each, and after each of them `then`; says how many steps there were.
fn each_step<T, W, F>(name: &str, counts: fn(&'static str) -> bool, fresh: impl Fn() -> T, work: W, then: F)
where
    W: AsyncFn(&T, &World),
    F: AsyncFn(&T, &str),
{
    let (mut stopped, mut number) = (0, 0);
    let steps = 'steps: loop {
        for act in STOPS {
            let (storage, once) = (fresh(), Arc::new(Once::among(counts, number, act)));
            let over = in_a_world(async {
                let world = World::new(once.clone());
                tokio::select! {
                    biased;
                    () = world.stopped() => false,
                    () = work(&storage, &world) => true,
                }
            });
            let place = format!("{name} at step {number} ({act:?})");
            in_a_world(then(&storage, &place));
            if over {
                assert!(once.counted() <= number, "{place}: it stopped, and went on");
                break 'steps once.counted();
            }
            stopped += 1;
        }
        number += 1;
    };
    println!("{name} has {steps} steps; stopped {stopped} times");
    assert!(steps == number && steps > 3, "{name}: {steps} steps");
}

/// A store in memory, and a real folder.
struct Kept {
    meta: Memory,
    blobs: Arc<dyn Blobs>,
    folder: tempfile::TempDir,
}

impl Kept {
    fn new() -> Kept {
        // In memory, if there is such a file system: there are many rounds, and each syncs every file.
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        Kept { meta: Memory::default(), blobs: Arc::new(provender_blobs::Memory::new()), folder }
    }

    /// With these rounds run.
    fn with(rounds: std::ops::Range<u64>) -> Kept {
        let kept = Kept::new();
        in_a_world(async {
            let store = kept.store().await;
            for n in rounds {
                Round::new(n).run(&store, 1).await.unwrap();
            }
        });
        kept
    }

    async fn store(&self) -> Store {
        storage::over(Arc::new(self.meta.clone()), self.blobs.clone()).await.unwrap()
    }

    async fn run(&self, round: u64) {
        Round::new(round).run(&self.store().await, 1).await.unwrap();
    }

    /// In which rounds' spaces there are executions.
    async fn rounds(&self) -> usize {
        let rows = rows_of(&self.meta).await;
        rows.keys().filter(|key| key.table == Table::Execution).count()
    }
}

async fn rows_of(meta: &dyn Meta) -> BTreeMap<RowKey, Bytes> {
    let mut all = BTreeMap::new();
    for table in Table::ALL {
        let page = meta.scan(&Scan::prefix(table, "")).await.unwrap();
        assert!(!page.more);
        all.extend(page.rows.into_iter().map(|(key, row)| (RowKey { table, key }, row.value)));
    }
    all
}

/// Backs a store up, within a world if there is one.
async fn back_up(kept: &Kept, dir: &Path, world: Option<&World>, keep: usize) -> u64 {
    let plain = kept.store().await;
    let target = backup::open(dir, &plain.id().await.unwrap(), &[]).await.unwrap();
    let Some(world) = world else {
        return backup::take(&plain, &target.folder, &target.blobs, keep, &Telling::default()).await.unwrap().number;
    };
    drop(target.folder);
    let store = storage::within(world, Arc::new(kept.meta.clone()), kept.blobs.clone()).await.unwrap();
    let files: Arc<dyn Files> = Arc::new(Local::create(dir).await.unwrap());
    let folder = Folder::new(world.over::<dyn Files>(files), dir);
    let blobs: Arc<dyn Blobs> = world.over::<dyn Blobs>(target.blobs);
    backup::take(&store, &folder, &blobs, keep, &Telling::default()).await.unwrap().number
}

/// Restores a backup into fresh memory, which must be whole.
async fn restored(dir: &Path, number: u64, place: &str) -> Kept {
    let into = Kept::new();
    let folder = Folder::open(dir).await.unwrap();
    let told = Telling::default();
    let meta = Arc::new(into.meta.clone());
    let restored = backup::restore(&folder, Some(number), meta, into.blobs.clone(), &told).await;
    restored.unwrap_or_else(|error| panic!("{place}: {error}"));
    into.store().await;
    whole(&into, place).await;
    into
}

async fn whole(kept: &Kept, place: &str) {
    let found = audit(&kept.meta, &*kept.blobs, &Default::default()).await;
    assert!(found.faults.is_empty(), "{place}: {:#?}", found.faults);
}

#[test]
fn a_backup_that_dies_at_any_step_leaves_the_ones_before_whole_and_the_next_one_works() {
    let fresh = || {
        let kept = Kept::with(0..2);
        in_a_world(async {
            let dir = kept.folder.path().join("backups");
            // So that the one that dies has old ones to remove.
            assert_eq!(back_up(&kept, &dir, None, 2).await, 1);
            kept.run(2).await;
            assert_eq!(back_up(&kept, &dir, None, 2).await, 2);
            kept.run(3).await;
            // Bytes that only the oldest backup has are to be removed with it.
            let large = Digest::of(Round::new(0).content.large());
            let mut batch = Batch::new(BatchId::new(provender_core::Timestamp::from_millis(1), [1; 10]));
            batch.delete(rows::blob(&large));
            kept.meta.commit(batch).await.unwrap();
        });
        kept
    };
    let dies = async |kept: &Kept, world: &World| {
        back_up(kept, &kept.folder.path().join("backups"), Some(world), 2).await;
    };
    let then = async |kept: &Kept, place: &str| {
        let dir = kept.folder.path().join("backups");
        let numbers: Vec<_> = {
            let folder = Folder::open(&dir).await.unwrap();
            let mut numbers = Vec::new();
            for listed in folder.backups().await.unwrap() {
                let manifest = listed.manifest.unwrap_or_else(|error| panic!("{place}: {error}"));
                let faults = backup::check(&folder, &manifest, &Telling::default()).await.unwrap();
                assert!(faults.is_empty(), "{place}: {}: {faults:?}", listed.number);
                numbers.push(listed.number);
            }
            numbers
        };
        assert!(numbers.contains(&2) && numbers.iter().all(|number| (1..=3).contains(number)), "{place}: {numbers:?}");
        assert_eq!(restored(&dir, 2, place).await.rounds().await, 3, "{place}");
        let next = back_up(kept, &dir, None, 2).await;
        assert_eq!(next, numbers.last().unwrap() + 1, "{place}");
        let folder = Folder::open(&dir).await.unwrap();
        assert_eq!(folder.backups().await.unwrap().len(), 2, "{place}");
        let (_, manifest) = folder.choose(None).await.unwrap();
        let faults = backup::check(&folder, &manifest, &Telling::default()).await.unwrap();
        assert!(faults.is_empty(), "{place}: {faults:?}");
        // What the dead one left unnamed is of use or gone: one large blob of each round, but for the one that was forgotten.
        let blobs = folder.blobs().await.unwrap().unwrap().list(None, 100).await.unwrap().locations;
        let old = usize::from(folder.choose(Some(2)).await.is_ok());
        assert_eq!(blobs.len(), 3 + old, "{place}");
    };
    let counts = if std::env::var_os("PROVENDER_SOAK").is_some() { |_| true } else { changes };
    each_step("a backup", counts, fresh, dies, then);
}

#[test]
fn a_restore_that_dies_at_any_step_is_not_served_and_the_next_one_works() {
    let source = Kept::with(0..3);
    let dir = source.folder.path().join("backups");
    in_a_world(back_up(&source, &dir, None, KEEP));
    let restore = async |into: &Kept, world: Option<&World>| {
        let folder = Folder::open(&dir).await.unwrap();
        let (mut meta, mut blobs): (Arc<dyn Meta>, _) = (Arc::new(into.meta.clone()), into.blobs.clone());
        if let Some(world) = world {
            (meta, blobs) = (world.over::<dyn Meta>(meta), world.over::<dyn Blobs>(blobs));
        }
        backup::restore(&folder, None, meta, blobs, &Telling::default()).await.unwrap();
    };
    let dies = async |into: &Kept, world: &World| restore(into, Some(world)).await;
    let then = async |into: &Kept, place: &str| {
        let layout = into.meta.get(&[rows::store("layout")]).await.unwrap().pop().flatten();
        let done = layout.as_ref().is_some_and(|row| row.value == LAYOUT.to_string());
        if layout.is_some() && !done {
            let served = storage::over(Arc::new(into.meta.clone()), into.blobs.clone()).await;
            assert!(served.is_err(), "{place}: half a store is served");
        }
        if !done {
            restore(into, None).await;
        }
        assert_eq!(into.rounds().await, 3, "{place}");
        // Nothing was copied twice.
        assert_eq!(into.blobs.list(None, 100).await.unwrap().locations.len(), 3, "{place}");
        into.store().await;
        whole(into, place).await;
    };
    each_step("a restore", |_| true, Kept::new, dies, then);
}

/// A store as the version before the index, and before collection, left it.
fn old() -> Kept {
    let kept = Kept::with(0..5);
    in_a_world(async {
        let mut batch = Batch::new(BatchId::new(provender_core::Timestamp::from_millis(1), [2; 10]));
        for (key, value) in rows_of(&kept.meta).await {
            let is_new_fact = key == rows::store("spaces") || key.key.starts_with(&rows::store(rows::SPACES).key);
            match key.table {
                Table::Index | Table::Tally | Table::Idle | Table::Usage => _ = batch.delete(key),
                Table::Store if is_new_fact => _ = batch.delete(key),
                Table::Execution => {
                    let execution = values::execution_from(value).unwrap();
                    let before = Execution { closure: None, ..execution };
                    batch.put(key, values::execution_to(&before));
                }
                _ => {}
            }
        }
        batch.put(rows::store("layout"), "1");
        kept.meta.commit(batch).await.unwrap();
    });
    kept
}

async fn migrate(kept: &Kept, world: Option<&World>) {
    let dir = kept.folder.path().join("snapshot");
    let mut files: Arc<dyn Files> = Arc::new(Local::create(&dir).await.unwrap());
    let mut meta: Arc<dyn Meta> = Arc::new(kept.meta.clone());
    if let Some(world) = world {
        (files, meta) = (world.over::<dyn Files>(files), world.over::<dyn Meta>(meta));
    }
    migrate_with(&meta, &Folder::new(files, &dir), None).await.unwrap();
}

#[test]
fn a_migration_that_dies_at_any_step_goes_on_and_can_be_undone() {
    // Ids, times and locations are other ones each time; how many rows there are of each kind is the same.
    let how_many = |rows: &BTreeMap<RowKey, Bytes>| {
        let mut tables = BTreeMap::new();
        rows.keys().for_each(|key| *tables.entry(key.table).or_insert(0) += 1);
        tables
    };
    let before = how_many(&in_a_world(rows_of(&old().meta)));
    let dies = async |kept: &Kept, world: &World| migrate(kept, Some(world)).await;
    let then = async |kept: &Kept, place: &str| {
        let layout = kept.meta.get(&[rows::store("layout")]).await.unwrap().pop().flatten().unwrap();
        if layout.value != LAYOUT.to_string() {
            let served = storage::over(Arc::new(kept.meta.clone()), kept.blobs.clone()).await;
            assert!(served.is_err(), "{place}: a store on its way is served");
        }
        migrate(kept, None).await;
        whole(kept, place).await;
        kept.run(9).await;
        whole(kept, place).await;
        let store = kept.store().await;
        store.collect(false, &mut |going| panic!("{place}: {going:?} goes")).await.unwrap();
        assert_eq!(store.audit().await.unwrap(), Vec::<String>::new(), "{place}");
        whole(kept, place).await;
        // What it was stands in the snapshot, for the version before.
        let dir = kept.folder.path().join("snapshot");
        let folder = Folder::open(&dir).await.unwrap();
        let (_, manifest) = folder.choose(None).await.unwrap();
        assert_eq!((manifest.layout, manifest.blobs), (1, None), "{place}");
        let into = Memory::default();
        let told = Telling::default();
        let alone = backup::restore(&folder, None, Arc::new(into.clone()), kept.blobs.clone(), &told).await;
        alone.unwrap_or_else(|error| panic!("{place}: {error}"));
        let mut back = rows_of(&into).await;
        // And of which backup it came.
        assert!(back.remove(&rows::store("restored")).is_some(), "{place}");
        assert_eq!(how_many(&back), before, "{place}");
        assert_eq!(into.get(&[rows::store("layout")]).await.unwrap()[0].as_ref().unwrap().value, "1");
    };
    each_step("a migration", |_| true, old, dies, then);
}

#[test]
fn of_two_daemons_one_migrates_and_the_other_waits_or_takes_over() {
    let kept = old();
    in_a_world(async {
        // One that stands still in the middle.
        let once = Arc::new(Once::among(|name| name == "meta.commit", 3, Act::StopBefore));
        let world = World::new(once);
        tokio::select! {
            biased;
            () = world.stopped() => {}
            () = migrate(&kept, Some(&world)) => panic!("it was to stop"),
        }
        let meta: Arc<dyn Meta> = Arc::new(kept.meta.clone());
        let snapshots = kept.folder.path().join("snapshots");
        // One has no patience with what it sees twice, the other has more than any machine is slow.
        let migrate = |patience| provender_daemon::migrate::migrate(&meta, &snapshots, Some(patience));
        let hour = std::time::Duration::from_secs(3600);
        let (patient, other) = tokio::join!(migrate(hour), migrate(std::time::Duration::ZERO));
        // Both waited; one took over, and the other found it done.
        assert_eq!((patient.unwrap(), other.unwrap()), (false, true));
        whole(&kept, "after both").await;
        assert!(!migrate(hour).await.unwrap());
    });
    // A number of a version to come stays as it is.
    in_a_world(async {
        let meta: Arc<dyn Meta> = Arc::new(kept.meta.clone());
        for word in ["99", "2 migrating to 99 by 0000000000000000 beat 1 snapshot - after -", "something else"] {
            let mut batch = Batch::new(BatchId::new(provender_core::Timestamp::from_millis(2), *b"0123456789"));
            batch.id.0[15] = word.len() as u8;
            batch.put(rows::store("layout"), word);
            meta.commit(batch).await.unwrap();
            let refused = provender_daemon::migrate::migrate(&meta, kept.folder.path(), None).await.unwrap_err();
            assert!(refused.to_string().contains("use the version that wrote it, or a newer one"), "{refused}");
            assert_eq!(meta.get(&[rows::store("layout")]).await.unwrap()[0].as_ref().unwrap().value, word);
            let served = storage::over(meta.clone(), kept.blobs.clone()).await;
            let way_out = |error: &str| error.contains("snapshots") || error.contains("wait for its end");
            assert!(served.is_err_and(|error| way_out(&error.to_string())));
        }
    });
}
