//! What the layout promises, beyond what every backend does (that is the conformance suite's).

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::time::Duration;

use bytes::Bytes;
use provender_core::Digest;
use tempfile::TempDir;

use super::marker::Marker;
use super::staged::COPY;
use super::*;
use crate::{CHUNK, open_verified, put};

async fn disk() -> (TempDir, Disk) {
    let dir = TempDir::new().unwrap();
    let disk = Disk::open(&dir.path().join("blobs"), None).await.unwrap();
    (dir, disk)
}

fn file_of(disk: &Disk, location: &Location) -> PathBuf {
    disk.store.dir.join(object(location))
}

fn marker_of(disk: &Disk) -> PathBuf {
    disk.store.dir.join(marker::NAME)
}

#[tokio::test]
async fn a_blob_is_a_read_only_file_in_its_shard() {
    let (_dir, disk) = disk().await;
    let published = put(&disk, Bytes::from_static(b"abc"), None).await.unwrap();
    let path = file_of(&disk, &published.location);
    assert!(path.ends_with(format!("objects/64/{}", published.location)), "{path:?}");
    assert_eq!(fs::read(&path).unwrap(), b"abc");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o444);
    let (file, signature) = disk.file(&published.location).await.unwrap().unwrap();
    assert_eq!((Some(signature), Signature::of(&file).unwrap()), (published.signature, signature));
}

#[tokio::test]
async fn a_hint_is_only_a_hint() {
    let (_dir, disk) = disk().await;
    for size_hint in [Some(0), Some(1 << 21), Some(u64::MAX), None] {
        let mut staged = disk.stage(StageOptions { size_hint, ..StageOptions::default() }).await.unwrap();
        staged.write(Bytes::from(vec![7; 1 << 20])).await.unwrap();
        staged.write(Bytes::from_static(b"tail")).await.unwrap();
        let published = staged.publish(None).await.unwrap();
        let metadata = fs::metadata(file_of(&disk, &published.location)).unwrap();
        assert_eq!(metadata.len(), (1 << 20) + 4);
        assert!(metadata.blocks() * 512 <= (1 << 20) + 8192, "reserved space was kept: {size_hint:?}");
    }
}

#[tokio::test]
async fn pieces_of_every_size_come_together_in_order() {
    let (_dir, disk) = disk().await;
    let mut staged = disk.stage(StageOptions::default()).await.unwrap();
    let mut all = Vec::new();
    for (i, len) in [1, 0, COPY - 1, COPY, 1, CHUNK, CHUNK + 1, 5, 3 * CHUNK, 1, 1].into_iter().enumerate() {
        let piece = vec![i as u8; len];
        all.extend_from_slice(&piece);
        staged.write(piece.into()).await.unwrap();
    }
    let published = staged.publish(Some(Digest::of(&all))).await.unwrap();
    assert_eq!(fs::read(file_of(&disk, &published.location)).unwrap(), all);
}

#[tokio::test]
async fn renaming_never_replaces() {
    let (_dir, disk) = disk().await;
    let root = disk.store.root().unwrap();
    for rename in [staged::rename_new, staged::link_new] {
        fs::write(disk.store.dir.join("staging/new"), "new").unwrap();
        fs::write(disk.store.dir.join("staging/old"), "old").unwrap();
        assert_eq!(rename(&root, "staging/new", "staging/old"), Err(Errno::EXIST));
        assert_eq!(fs::read_to_string(disk.store.dir.join("staging/old")).unwrap(), "old");
        assert_eq!(rename(&root, "staging/new", "objects/new"), Ok(()));
        assert!(!disk.store.dir.join("staging/new").exists());
        fs::remove_file(disk.store.dir.join("objects/new")).unwrap();
    }
}

#[tokio::test]
async fn what_is_no_blob_is_skipped_and_harms_nothing() {
    let (_dir, disk) = disk().await;
    let published = put(&disk, Bytes::from_static(b"abc"), None).await.unwrap();
    let path = file_of(&disk, &published.location);
    let (shard, objects) = (path.parent().unwrap(), disk.store.dir.join("objects"));
    let other = Location { nonce: published.location.nonce ^ 1, ..published.location };
    let elsewhere = Location { digest: Digest { hash: [0; 32], size: 0 }, nonce: 1 };
    fs::create_dir(objects.join("64/38")).unwrap();
    fs::write(objects.join("65").join(elsewhere.to_string()), "in a shard that is not its own").unwrap();
    fs::create_dir(objects.join("AB")).unwrap();
    fs::write(objects.join("README"), "?").unwrap();
    fs::write(shard.join(other.to_string().to_uppercase()), "?").unwrap();
    fs::write(shard.join(std::ffi::OsStr::new("\u{1b}[2J \n")), "?").unwrap();
    fs::write(shard.join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"\xff")), "?").unwrap();
    symlink("/etc/passwd", shard.join(other.to_string())).unwrap();
    symlink("/etc", disk.store.dir.join("staging/link")).unwrap();
    fs::create_dir(disk.store.dir.join("staging/dir")).unwrap();

    assert_eq!(disk.list(None, 10).await.unwrap().locations, [published.location]);
    assert!(matches!(disk.open(&other, 0..3).await, Err(BlobError::Corrupt { .. })));
    assert!(matches!(disk.file(&other).await, Err(BlobError::Corrupt { .. })));
    fs::remove_file(shard.join(other.to_string())).unwrap();
    rustix::fs::mknodat(CWD, shard.join(other.to_string()), rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
    assert!(matches!(disk.open(&other, 0..3).await, Err(BlobError::Corrupt { .. })));
    assert_eq!(disk.sweep(SystemTime::UNIX_EPOCH + Duration::MAX / 1000).await.unwrap(), 0);
}

#[tokio::test]
async fn a_part_is_served_again_once_the_touched_file_was_rehashed() {
    let (_dir, disk) = disk().await;
    let bytes = Bytes::from(vec![5; 3 << 20]);
    let published = put(&disk, bytes.clone(), None).await.unwrap();
    let path = file_of(&disk, &published.location);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();

    let reader = open_verified(&disk, &published.location, published.signature.as_ref(), 1..9).await.unwrap();
    let fresh = reader.signature().copied();
    assert_ne!(fresh, published.signature);
    assert_eq!(reader.into_bytes().await.unwrap(), bytes[1..9]);
    let reader = open_verified(&disk, &published.location, fresh.as_ref(), 1..9).await.unwrap();
    assert_eq!(reader.signature().copied(), fresh);
}

#[tokio::test]
async fn a_store_is_made_only_in_an_empty_folder_and_only_when_none_is_known() {
    let (dir, disk) = disk().await;
    let blobs = dir.path().join("blobs");
    assert_eq!(Disk::open(&blobs, None).await.unwrap().id(), disk.id());
    assert_eq!(Disk::open(&blobs, Some(disk.id())).await.unwrap().id(), disk.id());

    let unmounted = dir.path().join("unmounted");
    fs::create_dir(&unmounted).unwrap();
    for (path, known) in [
        (&unmounted, Some(disk.id())),
        (&dir.path().join("missing"), Some(disk.id())),
        (&blobs, Some(StoreId([1; 16]))),
        (&dir.path().into(), None),
    ] {
        assert!(matches!(Disk::open(path, known).await, Err(BlobError::Unavailable { .. })), "{path:?}");
    }
    assert!(fs::read_dir(&unmounted).unwrap().next().is_none());
    fs::create_dir(unmounted.join("lost+found")).unwrap();
    assert_ne!(Disk::open(&unmounted, None).await.unwrap().id(), disk.id());

    put(&disk, Bytes::from_static(b"abc"), None).await.unwrap();
    fs::remove_file(marker_of(&disk)).unwrap();
    assert!(matches!(Disk::open(&blobs, None).await, Err(BlobError::Unavailable { .. })), "blobs without a marker");
}

#[tokio::test]
async fn makers_of_one_store_agree() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("a/b/blobs");
    let opens = (0..16).map(|_| Disk::open(&path, None));
    let ids: HashSet<_> = futures::future::join_all(opens).await.into_iter().map(|disk| disk.unwrap().id()).collect();
    assert_eq!(ids.len(), 1);
    assert_eq!(fs::read_dir(&path).unwrap().count(), 3, "drafts of the marker are left");
}

#[tokio::test]
async fn a_newer_layout_and_a_damaged_marker_are_told() {
    let (_dir, disk) = disk().await;
    let text = fs::read_to_string(marker_of(&disk)).unwrap();
    let write = |text: &str| {
        fs::remove_file(marker_of(&disk)).unwrap();
        fs::write(marker_of(&disk), text).unwrap();
    };
    write(&text.replace("layout 2", "layout 3"));
    let error = Disk::open(&disk.store.dir, None).await.unwrap_err();
    assert!(matches!(error, BlobError::Layout { found: 3, known: 2, .. }));
    let more = format!("{text}more\n");
    let old = text.replace("layout 2", "layout 1") + "from 1\n";
    for damaged in ["", "layout 0\n", "layout 2\n", &text[..20], &more, &old, &"layout 2\n".repeat(9999)] {
        write(damaged);
        for known in [None, Some(disk.id())] {
            let error = Disk::open(&disk.store.dir, known).await.unwrap_err();
            assert!(matches!(error, BlobError::Unavailable { .. }), "{damaged:?}: {error}");
        }
    }
    write(&text);
    Disk::open(&disk.store.dir, None).await.unwrap();
}

/// Makes the store as one of layout 1, and says where each blob's file was.
fn age(disk: &Disk, locations: &[Location]) -> Vec<PathBuf> {
    let dir = &disk.store.dir;
    let text = fs::read_to_string(marker_of(disk)).unwrap();
    fs::remove_file(marker_of(disk)).unwrap();
    fs::write(marker_of(disk), text.replace("layout 2", "layout 1")).unwrap();
    let old = |location: &Location| {
        let [a, b, ..] = location.digest.hash;
        let folder = dir.join(format!("objects/{a:02x}/{b:02x}"));
        fs::create_dir_all(&folder).unwrap();
        fs::rename(file_of(disk, location), folder.join(location.to_string())).unwrap();
        folder.join(location.to_string())
    };
    let old = locations.iter().map(old).collect();
    for byte in 0..=u8::MAX {
        // Most of them, as the others hold something.
        _ = fs::remove_dir(dir.join(shard(byte)));
    }
    old
}

#[tokio::test]
async fn a_store_of_an_older_layout_is_migrated_from_wherever_that_stopped() {
    for known in [false, true] {
        let (_dir, disk) = disk().await;
        let mut locations = Vec::new();
        for n in 0..40u8 {
            locations.push(put(&disk, vec![n; 100].into(), None).await.unwrap().location);
        }
        locations.sort();
        let old = age(&disk, &locations);
        let stray = old[0].with_file_name("stray");
        fs::write(&stray, "?").unwrap();
        let known = known.then(|| disk.id());

        // Begun, with some of it done: nobody is told that the rest is missing.
        let root = Root::unproven(&disk.store.dir).unwrap();
        Marker { id: disk.id(), from: Some(1) }.replace(&root).unwrap();
        layout::make_shards(&root).unwrap();
        fs::rename(&old[3], file_of(&disk, &locations[3])).unwrap();
        assert!(matches!(disk.stat(&locations).await, Err(BlobError::Unavailable { .. })));
        assert!(matches!(disk.list(None, 1).await, Err(BlobError::Unavailable { .. })));

        let opens = futures::future::join_all((0..4).map(|_| Disk::open(&disk.store.dir, known))).await;
        for opened in opens {
            let opened = opened.unwrap();
            assert_eq!(opened.id(), disk.id());
            assert_eq!(opened.list(None, 100).await.unwrap().locations, locations);
        }
        for location in &locations {
            assert!(open_verified(&disk, location, None, 1..9).await.unwrap().into_bytes().await.is_ok());
        }
        assert!(stray.exists() && !old[1].parent().unwrap().exists());
        assert_eq!(fs::read_dir(disk.store.dir.join("objects")).unwrap().count(), 256);
    }
}
