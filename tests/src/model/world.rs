//! Where a case happens: one storage, a folder of blobs, and daemons with clocks of their own that can be killed.
//!
//! A daemon here is what the real one is made of: a [`Store`] over an open engine, and the follower that expires leases. Killing one
//! drops all of it; RocksDB is really closed, PostgreSQL is reached over new connections.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use provender_blobs::{BlobsConfig, Location};
use provender_core::batch::{Batch, BatchId};
use provender_core::blob::{Pinned, Place};
use provender_core::collect::rules;
use provender_core::{Digest, Space, Timestamp, rows};
use provender_daemon::clock;
use provender_daemon::meta::Meta;
use provender_daemon::metrics::Metrics;
use provender_daemon::store::{Collection, Follower, Going, Store, StoreError, located};
use provender_proto::rows as values;

use super::collect::{Keep, RULES};
use super::step::{Collect, Harm};
use crate::conformance::meta::Storage;

/// A folder for what need not outlive a test: in memory where the machine has a file system there, since durability is not asked here.
pub fn folder() -> tempfile::TempDir {
    let shared = Path::new("/dev/shm");
    let room = rustix::fs::statvfs(shared).map_or(0, |fs| fs.f_bavail.saturating_mul(fs.f_frsize));
    if room > 2 << 30
        && let Ok(folder) = tempfile::tempdir_in(shared)
    {
        return folder;
    }
    tempfile::tempdir().unwrap()
}

/// A clock that nights are made with: it runs as the real one does, and is put forward.
#[derive(Debug, Default)]
pub struct Clock(AtomicU64);

impl Clock {
    /// Shows this thread the time, until the answer is dropped.
    pub fn show(self: Arc<Self>) -> clock::Simulation {
        clock::simulate(self)
    }

    fn ahead(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }
}

impl clock::Simulated for Clock {
    #[expect(clippy::disallowed_methods, reason = "it takes the place of the one that may")]
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        Timestamp::from_millis((since + self.ahead()).as_millis() as u64)
    }

    fn monotonic(&self) -> Duration {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        START.elapsed() + self.ahead()
    }

    fn fill(&self, bytes: &mut [u8]) {
        getrandom::fill(bytes).unwrap();
    }
}

/// What is protected, and how long a night is: all that lies between two is recent.
const PROTECT: Duration = Duration::from_secs(3600);
const NIGHT: Duration = Duration::from_secs(3 * 3600);

/// How it is collected.
fn collection(quota: Option<u64>) -> Collection {
    let keep = |(n, keep)| {
        let prefix = format!("model/{n}");
        match keep {
            Keep::Newest => {
                rules::Keep { prefix, latest: Some(1), failed_within: Some(Duration::ZERO), used_within: None }
            }
            Keep::Used => rules::Keep { prefix, used_within: Some(PROTECT), latest: None, failed_within: None },
        }
    };
    let rules = rules::Rules::new(RULES.into_iter().enumerate().map(keep).collect());
    let (every, rows_per_second, reserve) = (Duration::ZERO, u64::MAX, Some(0));
    Collection { protect: PROTECT, rules, quota, reserve, every, rows_per_second, ..Collection::default() }
}

/// A daemon.
struct Daemon {
    meta: Arc<dyn Meta>,
    store: Store,
    follower: Follower,
    clock: Duration,
}

/// Daemons on one storage.
pub struct World<'a> {
    storage: &'a dyn Storage,
    disk: PathBuf,
    clock: Arc<Clock>,
    daemons: Vec<Option<Daemon>>,
}

impl<'a> World<'a> {
    /// Starts `daemons` daemons, whose large blobs are in the folder `disk`. Whoever lets nights pass has shown `clock` to all threads.
    pub async fn start(storage: &'a dyn Storage, disk: &Path, daemons: usize, clock: Arc<Clock>) -> World<'a> {
        assert!(daemons == 1 || storage.is_shared());
        let mut world = World { storage, disk: disk.to_owned(), clock, daemons: Vec::new() };
        // A case that failed may have left executors that run, for whose sake nothing would be removed.
        world.daemon(Duration::ZERO).await.follower.step(|| Duration::from_secs(3600)).await.unwrap();
        for _ in 0..daemons {
            world.daemons.push(Some(world.daemon(Duration::ZERO).await));
        }
        // What is always there, so that there is never room enough.
        let (space, store) = (Space::new("ballast").unwrap(), world.store(0));
        store.put_small(&space, vec![Bytes::from_static(b"ballast")]).await.unwrap();
        let ballast = Pinned::Blob(Digest::of(b"ballast"));
        store.pin(&space, ballast, String::new(), "the test".into(), None).await.unwrap();
        world
    }

    async fn daemon(&self, clock: Duration) -> Daemon {
        let (meta, blobs) = (self.storage.open().await, BlobsConfig::Disk { dir: self.disk.clone() });
        let metrics = Arc::new(Metrics::new().unwrap());
        let store = Store::open(meta.clone(), &blobs, Vec::new(), metrics).await.unwrap();
        store.configure(collection(None));
        let follower = store.follow(|| clock).await.unwrap();
        Daemon { meta, store, follower, clock }
    }

    fn at(&self, daemon: usize) -> &Daemon {
        self.daemons[daemon % self.daemons.len()].as_ref().expect("it runs")
    }

    /// The store of the daemon that client `n` talks to.
    pub fn store(&self, n: usize) -> Store {
        self.at(n).store.clone()
    }

    /// Kills daemons, then starts them anew.
    pub async fn restart(&mut self, daemons: &[usize]) {
        let mut clocks = Vec::new();
        self.note().await;
        for daemon in daemons {
            clocks.push(self.daemons[*daemon].take().expect("it runs").clock);
        }
        for (daemon, clock) in daemons.iter().zip(clocks) {
            self.daemons[*daemon] = Some(self.daemon(clock).await);
        }
    }

    /// Lets time pass for a daemon, which then follows the feed.
    pub async fn tick(&mut self, daemon: usize, passed: Duration) -> Result<(), String> {
        let daemon = self.daemons[daemon].as_mut().expect("it runs");
        daemon.clock += passed;
        let clock = daemon.clock;
        daemon.follower.step(|| clock).await.map_err(|error| format!("following the feed: {error}"))
    }

    /// A second passes, in which daemons write down what they have answered.
    pub async fn note(&self) {
        for daemon in self.daemons.iter().flatten() {
            daemon.store.flush_used().await.unwrap();
        }
    }

    /// A night passes.
    pub fn sleep(&self) {
        self.clock.0.fetch_add(NIGHT.as_millis() as u64, Ordering::Relaxed);
    }

    /// Collects, as a daemon would of which nobody asks anything else, once it was said what is to go.
    pub async fn collect(&self, daemon: usize, how: Collect) -> Result<(), String> {
        let blobs = BlobsConfig::Disk { dir: self.disk.clone() };
        let metrics = Arc::new(Metrics::new().unwrap());
        let store = Store::open(self.at(daemon).meta.clone(), &blobs, Vec::new(), metrics).await.unwrap();
        store.configure(collection(how.room.then_some(1)));
        let (mut planned, mut gone) = (BTreeSet::new(), BTreeSet::new());
        let failed = |error: StoreError| format!("collecting: {error}");
        let tell = |told: &mut BTreeSet<_>, one: &Going| _ = told.insert((one.execution, one.rule, one.used));
        store.collect(true, &mut |one| tell(&mut planned, one)).await.map_err(failed)?;
        store.collect(false, &mut |one| tell(&mut gone, one)).await.map_err(failed)?;
        let differ = [planned.difference(&gone), gone.difference(&planned)].map(Iterator::collect::<Vec<_>>);
        match &differ[..] {
            [planned, gone] if planned.len() + gone.len() > 0 => {
                Err(format!("collecting: not as planned: {planned:?} were to go, and {gone:?} went"))
            }
            _ => Ok(()),
        }
    }

    /// Fails if what collection keeps is not right.
    pub async fn audit(&self) -> Result<(), String> {
        let wrong = self.at(0).store.audit().await.map_err(|error| format!("the audit: {error}"))?;
        if wrong.is_empty() { Ok(()) } else { Err(format!("the audit: {wrong:#?}")) }
    }

    /// Raises the store's incarnation, as a restore does.
    pub async fn restore(&self) {
        let row = rows::store("incarnation");
        let found = self.at(0).meta.get(std::slice::from_ref(&row)).await.unwrap().pop().flatten().unwrap();
        let before: u64 = std::str::from_utf8(&found.value).unwrap().parse().unwrap();
        let mut batch = batch();
        batch.put(row, (before + 1).to_string());
        self.at(0).meta.commit(batch).await.unwrap();
    }

    /// Deletes or changes the bytes of a blob, under the store.
    pub async fn harm(&self, digest: &Digest, how: Harm) {
        let meta = &self.at(0).meta;
        let found = meta.get(&[rows::blob(digest)]).await.unwrap().pop().flatten().unwrap();
        let stored = values::blob_from(found.value).unwrap();
        if stored.place == Place::Inline {
            let (mut batch, row) = (batch(), rows::inline(digest, stored.nonce));
            match how {
                Harm::Deleted => batch.delete(row),
                Harm::Changed => batch.put(row, "other bytes"),
            };
            meta.commit(batch).await.unwrap();
            return;
        }
        let file = self.file(&located(digest, &stored).0);
        match how {
            Harm::Deleted => std::fs::remove_file(file).unwrap(),
            Harm::Changed => {
                let mut bytes = std::fs::read(&file).unwrap();
                bytes[10_000] ^= 1;
                std::fs::write(&file, bytes).unwrap();
                // Kernels tell two changes apart only if some milliseconds lie between; a disk that decays takes longer.
                let opened = std::fs::File::options().write(true).open(&file).unwrap();
                opened.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
            }
        }
    }

    fn file(&self, location: &Location) -> PathBuf {
        let hex = location.digest.hex();
        let shard = self.disk.join("objects").join(&hex[..2]);
        shard.join(location.to_string())
    }
}

/// A batch with an id of its own.
fn batch() -> Batch {
    let mut random = [0; 10];
    getrandom::fill(&mut random).unwrap();
    Batch::new(BatchId::new(Timestamp::from_millis(4_000_000_000_000), random))
}
