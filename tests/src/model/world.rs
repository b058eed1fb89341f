//! Where a case happens: one storage, a folder of blobs, and daemons with clocks of their own that can be killed.
//!
//! A daemon here is what the real one is made of: a [`Store`] over an open engine, and the follower that expires leases. Killing one
//! drops all of it; RocksDB is really closed, PostgreSQL is reached over new connections.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use provender_blobs::{BlobsConfig, Location};
use provender_core::batch::{Batch, BatchId};
use provender_core::blob::Place;
use provender_core::{Digest, Timestamp, rows};
use provender_daemon::meta::Meta;
use provender_daemon::metrics::Metrics;
use provender_daemon::store::{Follower, Store, located};
use provender_proto::rows as values;

use super::step::Harm;
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
    daemons: Vec<Option<Daemon>>,
}

impl<'a> World<'a> {
    /// Starts `daemons` daemons, whose large blobs are in the folder `disk`.
    pub async fn start(storage: &'a dyn Storage, disk: &Path, daemons: usize) -> World<'a> {
        assert!(daemons == 1 || storage.is_shared());
        let mut world = World { storage, disk: disk.to_owned(), daemons: Vec::new() };
        for _ in 0..daemons {
            world.daemons.push(Some(world.daemon(Duration::ZERO).await));
        }
        world
    }

    async fn daemon(&self, clock: Duration) -> Daemon {
        let (meta, blobs) = (self.storage.open().await, BlobsConfig::Disk { dir: self.disk.clone() });
        let metrics = Arc::new(Metrics::new().unwrap());
        let store = Store::open(meta.clone(), &blobs, Vec::new(), metrics).await.unwrap();
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
