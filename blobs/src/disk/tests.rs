//! What the layout promises, beyond what every backend does (that is the conformance suite's).

use std::collections::HashSet;
use std::fs;
use std::future::ready;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use provender_core::Digest;
use tempfile::TempDir;

use super::marker::Marker;
use super::staged::COPY;
use super::*;
use crate::outboard::GROUP;
use crate::{CHUNK, Frames, Learnt, Opened, Published, compresses, open_verified, put, recode};

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
    for rename in [staging::rename_new, staging::link_new] {
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
    let elsewhere = Location { digest: Digest { hash: [0; 32], size: 0 }, nonce: 1, form: Form::Raw };
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

    let recorded = published.signature.as_ref();
    let open = |recorded, outboard| open_verified(&disk, &published.location, recorded, ready(outboard), 1..9);
    let Opened { reader, learnt } = open(recorded, None).await.unwrap();
    let fresh = reader.signature().copied();
    assert_ne!(fresh, published.signature);
    assert_eq!(learnt, Some(Learnt { signature: fresh, outboard: published.outboard.clone() }));
    assert_eq!(reader.into_bytes().await.unwrap(), bytes[1..9]);
    // Known so, it is read as it is; and with its outboard, as far as it must be.
    let other = put(&disk, Bytes::from(vec![6; 3 << 20]), None).await.unwrap().outboard;
    for (recorded, outboard, slow) in
        [(fresh.as_ref(), None, false), (recorded, published.outboard.clone(), false), (recorded, other, true)]
    {
        let Opened { reader, learnt } = open(recorded, outboard).await.unwrap();
        assert_eq!((reader.signature().copied(), learnt.is_some()), (fresh, slow));
        assert_eq!(reader.into_bytes().await.unwrap(), bytes[1..9]);
    }
}

/// Stages bytes in frames that may take any room.
async fn pack(disk: &Disk, bytes: &[u8]) -> Published {
    let frames = Some(Frames { size: bytes.len() as u64, level: 3, most: u64::MAX });
    let mut staged = disk.stage(StageOptions { frames, ..StageOptions::default() }).await.unwrap();
    for piece in bytes.chunks(300_007) {
        staged.write(Bytes::copy_from_slice(piece)).await.unwrap();
    }
    staged.publish(Some(Digest::of(bytes))).await.unwrap()
}

/// Text in which no two groups are alike.
fn text(len: usize) -> Vec<u8> {
    (0u32..).flat_map(|n| format!("line {n} of {}\n", n.wrapping_mul(2_654_435_761)).into_bytes()).take(len).collect()
}

#[tokio::test]
async fn frames_are_files_for_plain_zstd() {
    let (_dir, disk) = disk().await;
    for size in [0, 1, GROUP as usize - 1, GROUP as usize, GROUP as usize + 1, 5 * GROUP as usize + 3] {
        let bytes = text(size);
        let published = pack(&disk, &bytes).await;
        let path = file_of(&disk, &published.location);
        assert!(path.to_str().unwrap().ends_with(".zst"));
        let stored = fs::read(&path).unwrap();
        assert_eq!(published.location.stored(), stored.len() as u64);
        let mut found = vec![1; size];
        assert_eq!(zstd_safe::decompress(&mut found[..], &stored), Ok(size));
        assert!(found == bytes);
        assert_eq!(disk.list(None, 9).await.unwrap().locations, [published.location]);
        assert!(disk.file(&published.location).await.unwrap().is_none(), "the kernel cannot read frames");
        disk.remove(&published.location).await.unwrap();
        assert!(!path.exists());
    }
}

#[tokio::test]
async fn a_flipped_byte_anywhere_in_frames_reaches_nobody() {
    let (_dir, disk) = disk().await;
    let bytes = text(3 * GROUP as usize + 100);
    let published = pack(&disk, &bytes).await;
    let path = file_of(&disk, &published.location);
    let right = fs::read(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let size = bytes.len() as u64;
    let (location, whole) = (&published.location, 0..size);
    let table = right.len() - crate::frames::table_len(size) as usize;
    let mut harmless = 0;
    // Each byte of the table, and many of the frames.
    for at in (0..table).step_by(4_999).chain(table..right.len()).chain([0, 1, 4, 5, table - 1]) {
        let mut wrong = right.clone();
        wrong[at] ^= 1 << (at % 8);
        fs::write(&path, wrong).unwrap();
        let mut served = 0;
        for range in [whole.clone(), 0..1, GROUP - 1..GROUP + 1, size - 1..size, 1..size] {
            for outboard in [published.outboard.clone(), None] {
                let read = async {
                    let opened =
                        open_verified(&disk, location, published.signature.as_ref(), ready(outboard), range.clone());
                    opened.await?.reader.into_bytes().await
                };
                match read.await {
                    Ok(found) => {
                        assert!(found == bytes[range.start as usize..range.end as usize], "{at}: {range:?}");
                        served += 1;
                    }
                    Err(error) => assert!(matches!(error, BlobError::Corrupt { .. }), "{at}: {error}"),
                }
            }
        }
        // What is in other frames can still be read; of a damaged table nothing is believed.
        assert!(at < table || served == 0, "{at}: {served} reads");
        harmless += usize::from(served == 10);
    }
    // zstd has a bit or two that mean nothing.
    assert!(harmless < 3, "{harmless} flips were not found");
    for len in [0, 1, table, right.len() - 1] {
        fs::write(&path, &right[..len]).unwrap();
        assert!(matches!(disk.open(location, 0..1).await, Err(BlobError::Corrupt { .. })));
    }
}

#[tokio::test]
async fn what_does_not_pay_is_not_packed() {
    let (_dir, disk) = disk().await;
    let bytes = text(1 << 20);
    let published = put(&disk, bytes.into(), None).await.unwrap();
    let location = &published.location;
    assert!(compresses(&disk, location, 3, 95).await.unwrap() && !compresses(&disk, location, 3, 1).await.unwrap());
    let frames = |most| Some(Frames { size: location.digest.size, level: 3, most });
    let mut taken = 0;
    let packed = recode(&disk, location, frames(1 << 19), |len| {
        taken += len;
        Duration::ZERO
    });
    let packed = packed.await.unwrap();
    assert_eq!((packed.location.digest, packed.outboard), (location.digest, published.outboard));
    assert_eq!(taken, 1 << 20);
    let raw = recode(&disk, &packed.location, None, |_| Duration::ZERO).await.unwrap();
    assert_eq!((raw.location.form, raw.location.digest), (Form::Raw, location.digest));
    let refused = recode(&disk, location, frames(1 << 10), |_| Duration::ZERO).await;
    assert!(matches!(refused, Err(BlobError::Incompressible { most: 1024 })), "{refused:?}");
    // Neither fewer nor more bytes than were said.
    for size in [(1 << 20) - 1, (1 << 20) + 1] {
        let frames = Some(Frames { size, level: 3, most: u64::MAX });
        assert!(recode(&disk, location, frames, |_| Duration::ZERO).await.is_err());
    }
    let mut all = vec![*location, packed.location, raw.location];
    all.sort();
    assert_eq!(disk.list(None, 9).await.unwrap().locations, all);
}

#[tokio::test]
async fn an_open_file_is_not_claimed_and_a_claimed_one_not_opened() {
    let (_dir, disk) = disk().await;
    let location = put(&disk, Bytes::from_static(b"abc"), None).await.unwrap().location;
    let (first, _) = disk.file(&location).await.unwrap().unwrap();
    let (second, _) = disk.file(&location).await.unwrap().unwrap();
    assert!(disk.claim(&location).await.unwrap().is_none());
    // A duplicate is the same open file.
    let duplicate = first.try_clone().unwrap();
    drop((first, second));
    assert!(disk.claim(&location).await.unwrap().is_none());
    drop(duplicate);
    let claim = disk.claim(&location).await.unwrap().unwrap();
    assert!(disk.file(&location).await.unwrap().is_none() && disk.claim(&location).await.unwrap().is_none());
    assert!(disk.open(&location, 0..3).await.is_ok());
    drop(claim);
    assert!(disk.file(&location).await.unwrap().is_some());
    disk.remove(&location).await.unwrap();
    assert!(matches!(disk.claim(&location).await, Err(BlobError::NotFound { .. })));
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
            assert!(
                open_verified(&disk, location, None, std::future::ready(None), 1..9)
                    .await
                    .unwrap()
                    .reader
                    .into_bytes()
                    .await
                    .is_ok()
            );
        }
        assert!(stray.exists() && !old[1].parent().unwrap().exists());
        assert_eq!(fs::read_dir(disk.store.dir.join("objects")).unwrap().count(), 256);
    }
}

#[tokio::test]
async fn what_an_older_daemon_publishes_during_the_migration_is_moved_as_well() {
    let (_dir, disk) = disk().await;
    // All of them below one old folder.
    let mut locations = Vec::new();
    for n in (0..u32::MAX).filter(|n| Digest::of(&n.to_be_bytes()).hash[..2] == [7, 7]).take(4) {
        locations.push(put(&disk, n.to_be_bytes().to_vec().into(), None).await.unwrap().location);
    }
    let old = age(&disk, &locations);
    let aside = disk.store.dir.with_file_name("aside");
    fs::create_dir(&aside).unwrap();
    let come = |n: usize| aside.join(n.to_string());
    (1..4).for_each(|n| fs::rename(&old[n], come(n)).unwrap());
    let files: Vec<_> = locations.iter().map(|location| file_of(&disk, location)).collect();
    let over = std::sync::atomic::AtomicBool::new(false);
    let published = std::thread::scope(|scope| {
        let older = scope.spawn(|| {
            for n in 1..4 {
                // As soon as the one before was moved.
                while !files[n - 1].exists() && !over.load(Ordering::SeqCst) {
                    std::thread::yield_now();
                }
                if over.load(Ordering::SeqCst) || fs::rename(come(n), &old[n]).is_err() {
                    return n;
                }
            }
            4
        });
        layout::migrate(&disk.store.dir, disk.id()).unwrap();
        over.store(true, Ordering::SeqCst);
        older.join().unwrap()
    });
    // On a busy machine it may come too late, and finds no folder.
    for (n, file) in files.iter().enumerate().take(published) {
        assert!(file.exists(), "{n} of {published}");
    }
    assert!(!old[0].parent().unwrap().exists());
}
