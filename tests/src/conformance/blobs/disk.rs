//! What the disk backend must do besides: tampering, a folder that is not there, several processes.

use std::fs;
use std::future::ready;
use std::ops::Range;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::TryStreamExt;
use futures::future::try_join_all;
use provender_blobs::{
    BlobError, Blobs, BlobsConfig, CHUNK, Location, Opened, Resume, ResumeToken, StageOptions, Staged, StoreId,
    open_verified, put,
};
use provender_core::Digest;

use super::{bytes, eventually, ingest, list, read};

/// Opens the store in `dir`.
pub async fn open(dir: &Path, known: Option<StoreId>) -> Result<Arc<dyn Blobs>, BlobError> {
    provender_blobs::open(&BlobsConfig::Disk { dir: dir.into() }, known).await
}

/// Later than any file was written.
pub fn far_future() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 34)
}

/// All files of the store but its marker. What is being published meanwhile is in the result.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    // In this order, as files move from the first to the second.
    let mut folders = vec![dir.join("objects"), dir.join("staging")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder of the store") {
            let entry = entry.expect("an entry");
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                _ => files.push(entry.path()),
            }
        }
    }
    files
}

/// Failed, dropped and cancelled transfers leave no file, in staging or elsewhere.
pub async fn given_up_transfers_leave_no_file(dir: &Path) {
    let blobs = open(dir, None).await.expect("open");
    super::a_wrong_digest_leaves_nothing(blobs.clone()).await;
    assert_eq!(files(dir), [] as [PathBuf; 0]);
    super::a_dropped_stage_leaves_nothing(blobs).await;
    eventually("no file is left", async || files(dir).is_empty()).await;
}

/// Whatever is done to a file, no reader takes it for the blob; a repaired one is believed again.
pub async fn tampering_is_noticed(dir: &Path) {
    let blobs = open(dir, None).await.expect("open");
    let size = 2 * CHUNK as u64 + 5;
    type Tamper = fn(&fs::File);
    let tampers: [(&str, Tamper); 6] = [
        ("first byte", |file| file.write_all_at(b"\xff\xff", 0).expect("write")),
        ("last byte", |file| file.write_all_at(b"\xff", 2 * CHUNK as u64 + 4).expect("write")),
        ("cut short", |file| file.set_len(2 * CHUNK as u64).expect("cut")),
        ("emptied", |file| file.set_len(0).expect("cut")),
        ("appended to", |file| file.write_all_at(b"\xff", 2 * CHUNK as u64 + 5).expect("write")),
        ("behind its time", |file| {
            let written = file.metadata().and_then(|metadata| metadata.modified()).expect("stat");
            file.write_all_at(b"\xff\xff", CHUNK as u64).expect("write");
            file.set_modified(written).expect("set the time back");
        }),
    ];
    for (how, tamper) in tampers {
        let published = ingest(&*blobs, &bytes(20, size as usize)).await.expect("ingest");
        let location = published.location;
        let path = files(dir).pop().expect("the file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("chmod");
        tamper(&fs::OpenOptions::new().write(true).open(&path).expect("open"));

        let (mut received, mut failed) = (0, None);
        match open_verified(&*blobs, &location, published.signature.as_ref(), ready(None), 0..size).await {
            Err(error) => failed = Some(error),
            Ok(Opened { mut reader, .. }) => loop {
                match reader.try_next().await {
                    Ok(Some(chunk)) => received += chunk.len(),
                    Ok(None) => break,
                    Err(error) => break failed = Some(error),
                }
            },
        }
        assert!(matches!(failed, Some(BlobError::Corrupt { .. })), "{how}: {failed:?}");
        assert!(received <= 2 * CHUNK, "{how}: the last chunk was given");
        for range in [0..1, 1..2, size - 1..size] {
            let part = open_verified(&*blobs, &location, published.signature.as_ref(), ready(None), range).await;
            assert!(matches!(part, Err(BlobError::Corrupt { .. })), "{how}: {part:?}");
        }
        let stat = blobs.stat(&[location]).await.expect("stat")[0].expect("is there");
        assert_ne!(stat.signature, published.signature, "{how}");

        fs::write(&path, bytes(20, size as usize)).expect("repair");
        let part =
            open_verified(&*blobs, &location, published.signature.as_ref(), ready(None), 1..9).await.expect("open");
        assert!(
            part.reader.into_bytes().await.expect("read") == bytes(20, size as usize)[1..9],
            "{how}, then repaired"
        );
        blobs.remove(&location).await.expect("remove");
    }
}

async fn is_unavailable(blobs: &dyn Blobs, location: &Location) {
    fn unavailable<T>(result: Result<T, BlobError>) {
        let error = result.err().expect("an answer without a store");
        assert!(matches!(error, BlobError::Unavailable { .. }), "{error:?}");
    }
    unavailable(blobs.open(location, 0..1).await);
    unavailable(blobs.file(location).await);
    unavailable(blobs.prove().await);
    unavailable(blobs.stat(&[*location]).await);
    unavailable(blobs.list(None, 1).await);
    unavailable(blobs.remove(location).await);
    unavailable(blobs.stage(StageOptions::default()).await);
    unavailable(blobs.sweep(far_future()).await);
}

/// A folder that is not the store's, for whatever reason, is never taken for a store without that blob.
pub async fn a_folder_that_is_not_there_is_unavailable(dir: &Path) {
    let (store, aside) = (dir.join("store"), dir.join("aside"));
    let blobs = open(&store, None).await.expect("open");
    let location = ingest(&*blobs, &bytes(30, 10)).await.expect("ingest").location;

    // Gone, then an empty mount point, then another store that is mounted there.
    fs::rename(&store, &aside).expect("rename");
    is_unavailable(&*blobs, &location).await;
    fs::create_dir(&store).expect("mkdir");
    is_unavailable(&*blobs, &location).await;
    assert!(matches!(open(&store, Some(blobs.id())).await, Err(BlobError::Unavailable { .. })));
    open(&store, None).await.expect("another store");
    is_unavailable(&*blobs, &location).await;
    fs::remove_dir_all(&store).expect("rm");
    fs::rename(&aside, &store).expect("rename back");
    assert!(read(&*blobs, &location).await.expect("read again") == bytes(30, 10));

    // The marker alone is gone: what is found is served, but nothing is believed to be missing.
    fs::rename(store.join("provender-blobs"), &aside).expect("rename");
    let missing = Location { nonce: location.nonce ^ 1, ..location };
    assert!(read(&*blobs, &location).await.expect("read") == bytes(30, 10));
    is_unavailable(&*blobs, &missing).await;
    fs::rename(&aside, store.join("provender-blobs")).expect("rename back");
    assert!(matches!(read(&*blobs, &missing).await, Err(BlobError::NotFound { .. })));
}

/// Two instances on one folder see the same, at once; neither sweeps what the other is writing.
pub async fn instances_share_a_folder(dir: &Path) {
    let (one, two) = futures::try_join!(open(dir, None), open(dir, None)).expect("open both");
    assert_eq!(one.id(), two.id());
    let bytes = bytes(40, CHUNK + 1);
    let mut staged = one.stage(StageOptions::default()).await.expect("stage");
    staged.write(bytes.clone()).await.expect("write");
    assert_eq!(two.sweep(far_future()).await.expect("sweep"), 0, "a live writer was swept");
    let published = staged.publish(None).await.expect("publish after the sweep");
    assert!(read(&*two, &published.location).await.expect("read") == bytes);

    let both = (0..32).map(|i| ingest(if i % 2 == 0 { &*one } else { &*two }, &bytes));
    let mut all: Vec<_> = try_join_all(both).await.expect("ingest").into_iter().map(|p| p.location).collect();
    all.push(published.location);
    all.sort();
    assert_eq!(list(&*one, 5).await, all);
    assert_eq!(list(&*two, 100).await, all);
    for (i, location) in all.iter().enumerate() {
        let (this, other) = if i % 2 == 0 { (&one, &two) } else { (&two, &one) };
        this.remove(location).await.expect("remove");
        assert!(matches!(read(&**other, location).await, Err(BlobError::NotFound { .. })));
    }
}

/// What is cut off under a token is kept, and gone on with by whoever has the token, one at a time.
pub async fn what_is_cut_off_is_gone_on_with(dir: &Path) {
    let (token, chunk) = (ResumeToken([7; 16]), CHUNK as u64);
    let all = bytes(60, 5 * CHUNK + 3);
    let begin = async |blobs: &dyn Blobs, from: u64| {
        blobs.stage(StageOptions { resume: Some(Resume { token, from }), ..StageOptions::default() }).await
    };
    let write = async |staged: &mut dyn Staged, range: Range<u64>| {
        for piece in all[range.start as usize..range.end as usize].chunks(200_003) {
            staged.write(all.slice_ref(piece)).await.expect("write");
        }
    };
    let kept = async |blobs: &dyn Blobs| loop {
        match blobs.staged(token).await.expect("staged") {
            Some(kept) => return kept,
            // Its writer is being dropped.
            None => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    };
    let one = open(dir, None).await.expect("open");
    assert_eq!(kept(&*one).await, 0);
    let mut staged = begin(&*one, 0).await.expect("stage");
    write(&mut *staged, 0..3 * chunk + 5).await;
    assert_eq!(one.staged(token).await.expect("staged"), None, "it is being written");
    assert!(matches!(begin(&*one, 1).await.map(drop), Err(BlobError::Behind { from: 1, staged: 0 })));
    let mut other = begin(&*one, 0).await.expect("another one, under no name");
    write(&mut *other, 0..2 * chunk).await;
    drop(other);
    drop(staged);

    // By another process, which may go on from before the end of what is kept, but not from behind it.
    let two = open(dir, None).await.expect("open");
    let there = kept(&*two).await;
    assert!(there >= 2 * chunk && there <= 3 * chunk + 5, "{there}");
    let behind = begin(&*two, there + 1).await.map(drop);
    assert!(matches!(behind, Err(BlobError::Behind { staged, .. }) if staged == there));
    assert_eq!(kept(&*two).await, there);
    eventually("only that one is left", async || files(dir).len() == 1).await;
    for from in [there, chunk + 1] {
        let mut staged = begin(&*two, from).await.expect("go on");
        write(&mut *staged, from..4 * chunk).await;
        drop(staged);
        assert!(kept(&*two).await >= 3 * chunk);
    }
    let mut staged = begin(&*two, 2 * chunk).await.expect("go on");
    write(&mut *staged, 2 * chunk..all.len() as u64).await;
    let published = staged.publish(Some(Digest::of(&all))).await.expect("publish");
    assert!(read(&*one, &published.location).await.expect("read") == all);
    assert_eq!((kept(&*one).await, files(dir).len()), (0, 1), "the token is free again");
    one.remove(&published.location).await.expect("remove");

    // What was kept turns out wrong: it is not kept again.
    let mut staged = begin(&*one, 0).await.expect("stage");
    write(&mut *staged, 0..3 * chunk).await;
    drop(staged);
    let from = kept(&*one).await;
    fs::OpenOptions::new().write(true).open(&files(dir)[0]).and_then(|file| file.write_all_at(b"?", 9)).expect("flip");
    let mut staged = begin(&*one, from).await.expect("go on");
    write(&mut *staged, from..all.len() as u64).await;
    let error = staged.publish(Some(Digest::of(&all))).await.expect_err("a flipped byte");
    assert!(matches!(error, BlobError::Mismatch { .. }));
    assert_eq!(kept(&*one).await, 0);
    eventually("it is not kept", async || files(dir).is_empty()).await;

    // What nobody goes on with is swept; nothing is left of what has not begun.
    let mut staged = begin(&*one, 0).await.expect("stage");
    write(&mut *staged, 0..3 * chunk).await;
    drop(staged);
    assert!(kept(&*one).await > 0);
    assert_eq!(one.sweep(SystemTime::UNIX_EPOCH).await.expect("sweep"), 0);
    assert_eq!(one.sweep(far_future()).await.expect("sweep"), 1);
    drop(begin(&*one, 0).await.expect("stage"));
    eventually("nothing is left", async || files(dir).is_empty()).await;
}

/// A sweep takes what nobody holds and is old enough, and nothing else.
pub async fn a_sweep_goes_by_age(dir: &Path) {
    let blobs = open(dir, None).await.expect("open");
    let kept = put(&*blobs, bytes(50, 10), None).await.expect("put").location;
    let dead = dir.join("staging/0123456789abcdef");
    fs::write(&dead, "left by a dead writer").expect("write");
    let written = fs::metadata(&dead).and_then(|metadata| metadata.modified()).expect("stat");
    assert_eq!(blobs.sweep(written).await.expect("sweep"), 0);
    assert_eq!(blobs.sweep(written + Duration::from_nanos(1)).await.expect("sweep"), 1);
    assert!(!dead.exists());
    assert_eq!(list(&*blobs, 10).await, [kept]);
}
