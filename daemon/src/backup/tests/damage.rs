//! Whatever is changed in a backup is found, by name, before anything of it is served.

use super::world::{Engine, World, files, flip, succeed};
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

impl World {
    /// Restores the newest.
    async fn restored_from(of: &World) -> Result<(), BackupError> {
        let folder = tempfile::tempdir().unwrap();
        let config = provender_blobs::BlobsConfig::Disk { dir: folder.path().join("blobs") };
        let blobs = provender_blobs::open(&config, None).await.unwrap();
        let meta = std::sync::Arc::new(crate::meta::Memory::default());
        restore(&Folder::open(&of.dir).await?, None, meta, blobs, &Telling::default()).await.map(drop)
    }
}
