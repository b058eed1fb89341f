//! Where no backup is written, and no store restored.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;

use super::world::{Engine, World, files, succeed};
use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn folders_of_others_are_refused_and_left_alone() {
    let (world, other) = (World::new(Engine::Memory).await, World::new(Engine::Memory).await);
    succeed(&world.store, 1).await;
    let relative = world.backup_into(Path::new("backups"), KEEP).await;
    assert!(matches!(relative, Err(BackupError::Relative { .. })), "{relative:?}");
    let link = world.folder.path().join("link");
    std::os::unix::fs::symlink(world.folder.path().join("blobs"), &link).unwrap();
    for inside in ["blobs/backups", "blobs", "link/a/b"] {
        let inside = world.backup_into(&world.folder.path().join(inside), KEEP).await;
        assert!(matches!(inside, Err(BackupError::Inside { .. })), "{inside:?}");
    }
    let foreign = world.folder.path().join("foreign");
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(foreign.join("thesis.tex"), "").unwrap();
    let refused = world.backup_into(&foreign, KEEP).await;
    assert!(matches!(refused, Err(BackupError::Foreign { ref name, .. }) if name == "thesis.tex"), "{refused:?}");
    assert_eq!(files(&foreign).len(), 1);
    world.backup(KEEP).await.unwrap();
    let before = files(&world.dir);
    let others = other.backup_into(&world.dir, KEEP).await;
    assert!(matches!(others, Err(BackupError::OtherStore { .. })), "{others:?}");
    assert_eq!(files(&world.dir), before);
    // One at a time.
    let reading = Folder::open(&world.dir).await.unwrap();
    assert!(matches!(world.backup(KEEP).await, Err(BackupError::Busy { .. })));
    drop(reading);
    let id = world.store.id().await.unwrap();
    let writing = open(&world.dir, &id, &[]).await.unwrap();
    assert!(matches!(Folder::open(&world.dir).await, Err(BackupError::Busy { .. })));
    drop(writing);
    assert!(matches!(Folder::open(&foreign).await, Err(BackupError::Empty { .. })));
    let folder = Folder::open(&world.dir).await.unwrap();
    assert!(matches!(folder.choose(Some(9)).await, Err(BackupError::NoSuch { number: 9, .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_is_restored_into_nothing_but_emptiness() {
    let world = World::new(Engine::Memory).await;
    succeed(&world.store, 1).await;
    world.backup(KEEP).await.unwrap();
    let folder = Folder::open(&world.dir).await.unwrap();
    let blobs = || Arc::new(provender_blobs::Memory::new());
    let told = Telling::default();
    let before = dump(&*world.meta).await;
    let taken = restore(&folder, None, world.meta.clone(), blobs(), &told).await;
    assert!(matches!(taken, Err(BackupError::NotEmpty { .. })), "{taken:?}");
    same(&dump(&*world.meta).await, &before, "refused");
    let meta = || Arc::new(crate::meta::Memory::default());
    let taken = restore(&folder, None, meta(), world.store.blobs().clone(), &told).await;
    assert!(matches!(taken, Err(BackupError::NotEmpty { .. })), "{taken:?}");
    // Of a version to come.
    let (number, manifest) = folder.choose(None).await.unwrap();
    drop(folder);
    let id = world.store.id().await.unwrap();
    let target = open(&world.dir, &id, &[]).await.unwrap();
    target.folder.add(number + 1, &Manifest { layout: 99, made_by: "9.9".into(), ..manifest }).await.unwrap();
    let newer = restore(&target.folder, None, meta(), blobs(), &told).await;
    assert!(matches!(newer, Err(BackupError::Layout { found: 99, .. })), "{newer:?}");
}

/// A folder on a disk that is full when it is told so.
#[derive(Debug)]
struct Full {
    inner: Local,
    full: AtomicBool,
}

#[async_trait]
impl Files for Full {
    async fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.inner.list(dir).await
    }

    async fn size(&self, path: &str) -> io::Result<Option<u64>> {
        self.inner.size(path).await
    }

    async fn read(&self, path: &str) -> io::Result<Option<Bytes>> {
        self.inner.read(path).await
    }

    async fn stage(&self, path: &str, bytes: Bytes) -> io::Result<()> {
        match self.full.load(Ordering::SeqCst) {
            true => Err(rustix::io::Errno::NOSPC.into()),
            false => self.inner.stage(path, bytes).await,
        }
    }

    async fn publish(&self, path: &str) -> io::Result<()> {
        self.inner.publish(path).await
    }

    async fn remove(&self, path: &str) -> io::Result<()> {
        self.inner.remove(path).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_leaves_the_last_backup_whole_and_the_next_one_works() {
    let world = World::new(Engine::Memory).await;
    succeed(&world.store, 1).await;
    world.backup(KEEP).await.unwrap();
    succeed(&world.store, 2).await;
    {
        let id = world.store.id().await.unwrap();
        let blobs = open(&world.dir, &id, &[]).await.unwrap().blobs;
        let full = Arc::new(Full { inner: Local::create(&world.dir).await.unwrap(), full: AtomicBool::new(true) });
        let folder = Folder::new(full.clone(), &world.dir);
        let failed = take(&world.store, &folder, &blobs, KEEP, &Telling::default()).await;
        assert!(matches!(failed, Err(BackupError::Full { .. })), "{failed:?}");
        let error = failed.unwrap_err().to_string();
        assert!(error.contains("no space is left") && error.contains("ask again"), "{error}");
        full.full.store(false, Ordering::SeqCst);
    }
    assert_eq!(world.folder().await.backups().await.unwrap().len(), 1);
    assert_eq!(world.check(1).await, Vec::<String>::new());
    assert_eq!(world.backup(KEEP).await.unwrap().number, 2);
    assert_eq!(world.check(2).await, Vec::<String>::new());
}
