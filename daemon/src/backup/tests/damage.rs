//! Whatever is changed in a backup is found, by name, before anything of it is served.

use super::world::{Engine, World, files, flip, large, succeed, whole};
use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_byte_in_any_file_of_a_backup_is_found() {
    let world = World::new(Engine::Memory).await;
    for n in 0..3 {
        succeed(&world.store, n).await;
    }
    world.backup(KEEP).await.unwrap();
    let (mut looked, files) = (0, files(&world.dir));
    for path in files {
        let size = path.metadata().unwrap().len();
        let name = path.file_name().unwrap().to_string_lossy();
        // A blob's file may say behind its location how it is stored.
        let name = name.get(..98).unwrap_or(&name).to_owned();
        for at in [0, size / 2, size.saturating_sub(2)].into_iter().filter(|at| *at < size) {
            flip(&path, at);
            let error = match World::restored_from(&world).await {
                Err(error) => error.to_string(),
                Ok(_) => panic!("{} with another byte at {at} was restored", path.display()),
            };
            // The blob store tells of its own marker.
            let named = error.contains(&name) || (name == "provender-blobs" && error.contains("blobs"));
            assert!(named, "{name}: {error}");
            flip(&path, at);
            looked += 1;
        }
    }
    assert!(looked > 20, "{looked} bytes");
    World::restored_from(&world).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_missing_in_a_backup_is_found_and_made_good_by_the_next() {
    let world = World::new(Engine::Memory).await;
    for n in 0..3 {
        succeed(&world.store, n).await;
    }
    world.backup(KEEP).await.unwrap();
    let (blob, piece) = (world.files("blobs/objects").swap_remove(0), world.files("rows").swap_remove(0));
    std::fs::remove_file(&blob).unwrap();
    assert_eq!(world.check(1).await.len(), 1, "the blob");
    std::fs::remove_file(&piece).unwrap();
    assert!(!world.check(1).await.is_empty());
    assert!(World::restored_from(&world).await.is_err());
    // Cut short, which its size tells.
    let cut = world.files("blobs/objects").swap_remove(0);
    std::fs::remove_file(&cut).unwrap();
    std::fs::write(&cut, "short").unwrap();
    let next = world.backup(KEEP).await.unwrap();
    assert_eq!(next.copied, 2);
    assert_eq!(world.check(2).await, Vec::<String>::new());
    World::restored_from(&world).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_byte_in_what_later_backups_share_is_mended_by_the_next() {
    let world = World::new(Engine::Memory).await;
    for n in 0..3 {
        succeed(&world.store, n).await;
    }
    world.backup(100).await.unwrap();
    // Each piece, of rows and of small blobs: the size stays the same.
    for path in world.files("rows") {
        flip(&path, path.metadata().unwrap().len() / 2);
        assert!(!world.check(1).await.is_empty(), "{}", path.display());
        let next = world.backup(100).await.unwrap();
        assert!(next.written > 0 && world.check(next.number).await.is_empty(), "{}", path.display());
        // Rows of the same bytes heal the old one as well; small blobs' bytes that were added later may stand in other pieces.
        flip_back_if_damaged(&world, &path).await;
    }
    // Each large blob is read again by one of seven in a row.
    let blob = world.files("blobs/objects").swap_remove(0);
    flip(&blob, 7);
    let mut copied = 0;
    for _ in 0..7 {
        let next = world.backup(100).await.unwrap();
        copied += next.copied;
        assert!(copied == 1 || !world.check(next.number).await.is_empty());
    }
    assert_eq!(copied, 1);
    let last = world.folder().await.choose(None).await.unwrap().0;
    for number in 1..=last {
        assert_eq!(world.check(number).await, Vec::<String>::new(), "{number}");
    }
}

/// The first backup is whole again: either the file was mended, or it is put back.
async fn flip_back_if_damaged(world: &World, path: &std::path::Path) {
    if !world.check(1).await.is_empty() {
        flip(path, path.metadata().unwrap().len() / 2);
        assert_eq!(world.check(1).await, Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_to_do_about_a_damaged_file_is_told_and_helps() {
    let world = World::new(Engine::Memory).await;
    succeed(&world.store, 1).await;
    world.backup(KEEP).await.unwrap();
    let blob = world.files("blobs/objects").swap_remove(0);
    flip(&blob, 9);
    let told = world.check(1).await;
    let name = blob.file_name().unwrap().to_string_lossy().into_owned();
    assert!(told[0].contains(&name) && told[0].contains("remove this file and back up again"), "{told:?}");
    std::fs::remove_file(&blob).unwrap();
    let next = world.backup(KEEP).await.unwrap();
    assert_eq!((next.copied, world.check(1).await, world.check(2).await), (1, Vec::new(), Vec::new()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_alone_finds_blobs_that_have_moved_since() {
    let world = World::new(Engine::Memory).await;
    for n in 0..3 {
        succeed(&world.store, n).await;
    }
    let files = Local::create(&world.folder.path().join("alone")).await.unwrap();
    let alone = Folder::new(std::sync::Arc::new(files), &world.folder.path().join("alone"));
    snapshot_rows(&*world.meta.snapshot().await.unwrap(), &alone).await.unwrap();
    // One of them goes to another location, as by compression.
    let moved = world.move_file(1).await;
    let meta = std::sync::Arc::new(crate::meta::Memory::default());
    restore(&alone, None, meta.clone(), world.store.blobs().clone(), &Telling::default()).await.unwrap();
    let again = world.again(meta).await;
    for n in 0..3 {
        whole(&again, n).await;
    }
    let there = again.stored(&Digest::of(&large(1))).await.unwrap().unwrap();
    assert_eq!(there.nonce, moved);
}

impl World {
    /// Stores the large blob of key `n` at another location; its nonce there.
    async fn move_file(&self, n: u16) -> u64 {
        let bytes = large(n);
        let published = provender_blobs::put(&**self.store.blobs(), bytes, None).await.unwrap();
        self.remove_first_file(n, published.location.nonce);
        published.location.nonce
    }

    /// Restores the newest.
    async fn restored_from(of: &World) -> Result<(), BackupError> {
        let folder = tempfile::tempdir().unwrap();
        let config = provender_blobs::BlobsConfig::Disk { dir: folder.path().join("blobs") };
        let blobs = provender_blobs::open(&config, None).await.unwrap();
        let meta = std::sync::Arc::new(crate::meta::Memory::default());
        restore(&Folder::open(&of.dir).await?, None, meta, blobs, &Telling::default()).await.map(drop)
    }
}
