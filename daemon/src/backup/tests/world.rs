//! A store, a folder for its backups, and what becomes of both.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use provender_blobs::BlobsConfig;
use provender_core::batch::{Batch, RowKey, Table};
use provender_core::blob::{Form, Place};
use provender_core::execution::{Log, Outcome, State};
use provender_core::tree::{Node, Tree};
use provender_core::{Digest, Verdict, rows};
use provender_proto::rows as values;
use tempfile::TempDir;

use super::super::{BackupError, Folder, Summary, Telling, check, open, restore, take};
use super::space;
use crate::clock;
use crate::meta::{self, Memory, Meta, MetaConfig, Scan};
use crate::metrics::Metrics;
use crate::store::tests::{begin, outcome, request};
use crate::store::{Store, backend};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Engine {
    Memory,
    Rocks,
}

impl Engine {
    async fn open(self, folder: &Path) -> Arc<dyn Meta> {
        match self {
            Engine::Memory => Arc::new(Memory::default()),
            Engine::Rocks => meta::open(&MetaConfig::default(), folder).await.unwrap(),
        }
    }
}

pub(super) struct World {
    pub(super) store: Store,
    pub(super) meta: Arc<dyn Meta>,
    /// Where backups go.
    pub(super) dir: PathBuf,
    disk: PathBuf,
    pub(super) folder: TempDir,
}

impl World {
    pub(super) async fn new(engine: Engine) -> World {
        let folder = tempfile::tempdir().unwrap();
        let meta = engine.open(folder.path()).await;
        World::over(folder, meta).await
    }

    async fn over(folder: TempDir, meta: Arc<dyn Meta>) -> World {
        let (dir, disk) = (folder.path().join("backups"), folder.path().join("blobs"));
        let blobs = BlobsConfig::Disk { dir: disk.clone() };
        let store = Store::open(meta.clone(), &blobs, Vec::new(), Arc::new(Metrics::new().unwrap())).await.unwrap();
        World { store, meta, dir, disk, folder }
    }

    /// What comes of another world's backup.
    pub(super) async fn restored(of: &World, engine: Engine, number: u64) -> Result<World, BackupError> {
        let folder = tempfile::tempdir().unwrap();
        let meta = engine.open(folder.path()).await;
        let blobs = provender_blobs::open(&BlobsConfig::Disk { dir: folder.path().join("blobs") }, None).await.unwrap();
        restore(&of.folder().await, Some(number), meta.clone(), blobs, &Telling::default()).await?;
        Ok(World::over(folder, meta).await)
    }

    pub(super) async fn folder(&self) -> Folder {
        Folder::open(&self.dir).await.unwrap()
    }

    pub(super) async fn backup(&self, keep: usize) -> Result<Summary, BackupError> {
        self.backup_into(&self.dir, keep).await
    }

    pub(super) async fn backup_into(&self, dir: &Path, keep: usize) -> Result<Summary, BackupError> {
        let own = [self.disk.clone(), self.folder.path().join("meta")];
        let target = open(dir, &self.store.id().await.unwrap(), &own).await?;
        take(&self.store, &target.folder, &target.blobs, keep, &Telling::default()).await
    }

    pub(super) async fn check(&self, number: u64) -> Vec<String> {
        let folder = self.folder().await;
        let (_, manifest) = folder.choose(Some(number)).await.unwrap();
        let faults = check(&folder, &manifest, &Telling::default()).await.unwrap();
        faults.iter().map(ToString::to_string).collect()
    }

    /// All files below a folder of the backups.
    pub(super) fn files(&self, below: &str) -> Vec<PathBuf> {
        files(&self.dir.join(below))
    }

    /// The store's own file of the large blob of key `n`.
    fn file(&self, n: u16) -> PathBuf {
        let hex = Digest::of(&large(n)).hex();
        files(&self.disk).into_iter().find(|path| path.display().to_string().contains(&hex)).unwrap()
    }

    /// Removes the files of the large blob of key `n` but the one of this nonce.
    pub(super) fn remove_first_file(&self, n: u16, kept: u64) {
        let hex = Digest::of(&large(n)).hex();
        let of_it = files(&self.disk).into_iter().filter(|path| path.display().to_string().contains(&hex));
        let kept = format!("{kept:016x}");
        let old: Vec<_> = of_it.filter(|path| !path.display().to_string().contains(&kept)).collect();
        assert_eq!(old.len(), 1);
        std::fs::remove_file(&old[0]).unwrap();
    }

    /// The store over these rows, with the same blobs.
    pub(super) async fn again(&self, meta: Arc<dyn Meta>) -> Store {
        let blobs = BlobsConfig::Disk { dir: self.disk.clone() };
        Store::open(meta, &blobs, Vec::new(), Arc::new(Metrics::new().unwrap())).await.unwrap()
    }

    pub(super) fn remove_file(&self, n: u16) {
        std::fs::remove_file(self.file(n)).unwrap();
    }

    pub(super) fn flip_file(&self, n: u16) {
        flip(&self.file(n), 7);
    }

    /// Key `n` is LOST, and known to be.
    pub(super) async fn lose(&self, n: u16) {
        self.remove_file(n);
        let digest = Digest::of(&large(n));
        self.store.read_whole(&space(), &digest, digest.size).await.unwrap_err();
    }

    async fn write(&self, batch: Batch) {
        self.meta.commit(batch).await.unwrap();
    }

    async fn row_of(&self, digest: &Digest) -> RowKey {
        let row = self.meta.get(&[rows::blob(digest)]).await.unwrap().pop().flatten().unwrap();
        rows::inline(digest, values::blob_from(row.value).unwrap().nonce)
    }

    /// Takes the row of a small blob's bytes away behind the store's back.
    pub(super) async fn drop_row(&self, digest: &Digest) {
        let mut batch = Batch::new(clock::batch_id());
        batch.delete(self.row_of(digest).await);
        self.write(batch).await;
    }

    /// A small blob is collected.
    pub(super) async fn forget_small(&self, digest: &Digest) {
        let mut batch = Batch::new(clock::batch_id());
        batch.delete(self.row_of(digest).await).delete(rows::blob(digest)).delete(rows::holding(&space(), digest));
        self.write(batch).await;
    }

    /// A large one.
    pub(super) async fn forget(&self, bytes: &Bytes) {
        let digest = Digest::of(bytes);
        let mut batch = Batch::new(clock::batch_id());
        batch.delete(rows::blob(&digest)).delete(rows::holding(&space(), &digest));
        self.write(batch).await;
    }
}

pub(super) fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// Changes one byte of a file.
pub(super) fn flip(path: &Path, at: u64) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

/// Bytes too many for a row.
pub(super) fn large(n: u16) -> Bytes {
    n.to_be_bytes().repeat(10_000).into()
}

pub(super) fn small(n: u16) -> Bytes {
    format!("small {n}").into()
}

/// Stores what key `n` makes; its tree.
pub(super) async fn content(store: &Store, n: u16) -> Digest {
    let mut upload = store.upload(&space(), None);
    upload.write(large(n)).await.unwrap();
    let large = upload.finish().await.unwrap();
    let small = store.put_small(&space(), vec![small(n)]).await.unwrap()[0];
    let mut tree = Tree::new();
    tree.insert("large", Node::File { digest: large, executable: false }).unwrap();
    tree.insert("small", Node::File { digest: small, executable: false }).unwrap();
    store.put_small(&space(), vec![tree.encode().unwrap()]).await.unwrap()[0]
}

/// Key `n` succeeds.
pub(super) async fn succeed(store: &Store, n: u16) {
    begin(store, &request(n)).await;
    let outputs = content(store, n).await;
    let log = store.put_small(&space(), vec![format!("log {n}").into()]).await.unwrap()[0];
    let stdout = Some(Log { digest: log, cut: 0 });
    let outcome = Outcome { outputs: Some(outputs), stdout, ..outcome(0) };
    assert_eq!(store.commit(&space(), request(n).id, &outcome).await.unwrap().0.state, State::Succeeded);
}

pub(super) async fn verdict(store: &Store, n: u16) -> Verdict {
    store.lookup(&space(), &[request(n).key]).await.unwrap()[0].verdict
}

/// Fails unless key `n` has succeeded and serves all its bytes.
pub(super) async fn whole(store: &Store, n: u16) {
    let answer = store.lookup(&space(), &[request(n).key]).await.unwrap().swap_remove(0);
    assert_eq!(answer.verdict, Verdict::Succeeded, "{n}: {}", answer.reason);
    let tree = store.tree(&space(), &answer.outputs.unwrap()).await.unwrap();
    for (name, bytes) in [("large", large(n)), ("small", small(n))] {
        let digest = tree.get(name.as_bytes()).and_then(Node::digest).unwrap();
        assert_eq!(store.read_whole(&space(), &digest, 1 << 20).await.unwrap(), bytes, "{name} of {n}");
    }
}

/// All rows but those that a restore changes; of blobs in files, where those are is left out.
pub(super) async fn dump(meta: &dyn Meta) -> BTreeMap<RowKey, Bytes> {
    let mut all = BTreeMap::new();
    for table in Table::ALL {
        let mut scan = Scan::prefix(table, "");
        loop {
            let page = meta.scan(&scan).await.unwrap();
            scan.after = page.rows.last().map(|(key, _)| key.clone());
            all.extend(page.rows.into_iter().map(|(key, row)| (RowKey { table, key }, row.value)));
            if !page.more {
                break;
            }
        }
    }
    for fact in ["incarnation", "blobs", "restored", crate::store::PAUSED] {
        all.remove(&rows::store(fact));
    }
    for (key, value) in &mut all {
        if key.table == Table::Blob {
            let mut stored = values::blob_from(value.clone()).unwrap();
            if stored.place != Place::Inline {
                (stored.nonce, stored.place) = (0, backend(Form::Raw, None));
            }
            *value = values::blob_to(&stored);
        }
    }
    all
}

/// Fails unless both have the same rows.
#[track_caller]
pub(super) fn same(found: &BTreeMap<RowKey, Bytes>, wanted: &BTreeMap<RowKey, Bytes>, place: &str) {
    let keys: std::collections::BTreeSet<_> = found.keys().chain(wanted.keys()).collect();
    let other: Vec<_> = keys.into_iter().filter(|key| found.get(*key) != wanted.get(*key)).take(5).collect();
    assert!(other.is_empty(), "{place}: {other:?} and perhaps more are not the same");
}
