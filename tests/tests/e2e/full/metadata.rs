//! Sorted files that find no room behind the back of whoever wrote, and logs that find none.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use provender_tests::child::{Ran, sane};

use super::*;

/// Another one fills the disk and clears it again while rows are written, so that now and then RocksDB itself finds no room, for its log or
/// for what it sorts: refused with words, what was acknowledged is there, what was refused is not, and it heals each time.
async fn filled_at_any_moment(disk: (u64, &[&str])) {
    let small = Small::new(disk, SMALL_BUFFERS);
    let stop = AtomicBool::new(false);
    let (mut there, mut gone, mut by_itself) = (Vec::new(), Vec::new(), 0);
    let mut client = small.blobs().await;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut n = 0u64;
            while !stop.load(Ordering::Relaxed) {
                n += 1;
                small.fill(n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 50 << 8);
                std::thread::sleep(Duration::from_millis(n % 3 * 40));
                small.free();
                std::thread::sleep(Duration::from_millis(60));
            }
        });
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                for seed in 0..1_500 {
                    let blobs: Vec<_> = (0..4).map(|n| bytes(seed * 4 + n, ROW)).collect();
                    match put_rows(&mut client, blobs.clone()).await {
                        Ok(()) => there.extend(blobs),
                        Err(status) => {
                            by_itself += usize::from(refused(&status).message().contains("While"));
                            gone.extend(blobs);
                            // As a client would.
                            tokio::time::sleep(Duration::from_millis(5)).await;
                        }
                    }
                    if there.len() * ROW > 48 * MIB {
                        break;
                    }
                }
            });
        });
        stop.store(true, Ordering::Relaxed);
    });
    eprintln!("full: {} rows there, {} refused, {by_itself} times by RocksDB itself", there.len(), gone.len());
    assert!(!there.is_empty() && !gone.is_empty());
    all_there(&mut client, &there).await;
    small.heals().await;
    all_there(&mut client, &there).await;
    none_there(&mut client, &gone).await;
}

/// What was refused is not there.
async fn none_there(client: &mut BlobsClient<Channel>, gone: &[Bytes]) {
    let digests: Vec<_> = gone.iter().map(|blob| digest_to(&Digest::of(blob))).collect();
    let request = v1::FindMissingRequest { digests: digests.clone(), ..Default::default() };
    assert_eq!(client.find_missing(request).await.unwrap().into_inner().missing.len(), digests.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_others_fill_at_any_moment_stops_writes_alone_until_there_is_space() {
    filled_at_any_moment(EXT4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn xfs_a_disk_that_others_fill_at_any_moment_stops_writes_alone_until_there_is_space() {
    filled_at_any_moment(XFS).await;
}

async fn all_there(client: &mut BlobsClient<Channel>, blobs: &[Bytes]) {
    for some in blobs.chunks(100) {
        let digests = some.iter().map(|blob| digest_to(&Digest::of(blob))).collect();
        let request = v1::BatchGetRequest { digests, ..Default::default() };
        let items = client.batch_get(request).await.unwrap().into_inner().items;
        assert!(items.iter().map(|item| item.data.as_ref()).eq(some.iter().map(Some)));
    }
}

/// Space there is, but for no more files.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_takes_no_more_files_is_full_as_well() {
    // 256 of them are the blob store's folders.
    let small = Small::new((EXT4.0, &["mkfs.ext4", "-m", "0", "-N", "600"]), SMALL_BUFFERS);
    let mut client = small.blobs().await;
    let kept = bytes(1, 100_000);
    let digest = upload(&mut client, &kept, true).await.unwrap();
    let crowd = small.disk.path().join("crowd");
    std::fs::create_dir(&crowd).unwrap();
    let made = (0..).take_while(|n| std::fs::write(crowd.join(format!("{n}")), "").is_ok()).count();
    let (there, told) = small.write_rows(3).await;
    assert!(refused(&told).message().contains("files") && there.is_empty(), "{told:?}");
    for announced in [true, false] {
        refused(&upload(&mut client, &bytes(2, 2 * MIB), announced).await.unwrap_err());
    }
    assert!(download(&mut client, &digest).await.unwrap() == kept);
    assert!(made > 64, "{made}");
    std::fs::remove_dir_all(&crowd).unwrap();
    small.heals().await;
    upload(&mut client, &bytes(2, 2 * MIB), true).await.unwrap();
    small.nothing_is_staged();
}

/// RocksDB does not get over a log that it cannot make: it has to be opened anew, which the daemon does.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_stops_for_good_is_opened_anew_once_there_is_room() {
    let small = Small::new((EXT4.0, &["mkfs.ext4", "-m", "0", "-N", "600"]), SMALL_BUFFERS);
    let crowd = small.disk.path().join("crowd");
    let fill = || {
        std::fs::create_dir_all(&crowd).ok();
        _ = (0..).take_while(|n| std::fs::write(crowd.join(format!("{n}")), "").is_ok()).count();
    };
    let failed = AtomicBool::new(false);
    let (mut there, mut gone) = (Vec::new(), Vec::new());
    let mut client = small.blobs().await;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Until a sorted file could not be made.
            while !failed.load(Ordering::Relaxed) {
                fill();
                std::thread::sleep(Duration::from_millis(30));
                std::fs::remove_dir_all(&crowd).unwrap();
                std::thread::sleep(Duration::from_millis(30));
            }
            fill();
        });
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                for seed in 0.. {
                    let blobs: Vec<_> = (0..16).map(|n| bytes(seed * 16 + n, ROW)).collect();
                    match put_rows(&mut client, blobs.clone()).await {
                        Ok(()) => there.extend(blobs),
                        Err(status) => {
                            gone.extend(blobs);
                            if refused(&status).message().contains("While") {
                                break;
                            }
                            tokio::time::sleep(Duration::from_millis(2)).await;
                        }
                    }
                    assert!(seed < 4_000, "RocksDB always found room");
                }
            });
        });
        failed.store(true, Ordering::Relaxed);
    });
    // RocksDB tries by itself every 5 seconds, and cannot make a log then.
    for _ in 0..60 {
        all_there(&mut client, &there[..there.len().min(20)]).await;
        refused(&put_rows(&mut client, vec![bytes(600_000, ROW)]).await.unwrap_err());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    std::fs::remove_dir_all(&crowd).unwrap();
    small.heals().await;
    all_there(&mut client, &there).await;
    none_there(&mut client, &gone).await;
}

/// With everything as it comes: what the text asks for is enough.
#[tokio::test(flavor = "multi_thread")]
async fn as_much_space_as_the_text_asks_for_is_enough() {
    let small = Small::new((256 << 20, EXT4.1), "");
    let told = small.fill_up().await;
    let needed = told.message().split("at least ").nth(1).and_then(|rest| rest.split(' ').next());
    let needed: u64 = needed.and_then(|mib| mib.parse().ok()).unwrap_or_else(|| panic!("{told:?}"));
    eprintln!("full: {} MiB are asked for", needed);
    small.free();
    small.fill(needed << 20);
    assert!(small.spare() <= needed << 20);
    OpenOptions::new().write(true).open(small.ballast()).unwrap().set_len(small.ballast_len() - 4096).unwrap();
    small.heals().await;
}

/// All ways to read, on a full disk on which the daemon's own log lies as well.
#[tokio::test(flavor = "multi_thread")]
async fn reads_go_on_while_the_disk_is_full_and_the_log_too() {
    let place = folder();
    let point = place.path().join("m");
    let mut small = Small::with(EXT4, SMALL_BUFFERS, &["--mount", point.to_str().unwrap()], true);
    let _mounted = Unmounts(point.clone());
    let world = &small.world;
    let content = bytes(1, MIB);
    std::fs::write(world.path("in"), &content).unwrap();
    let run = || world.run(&["--name", "n", "--key", "test:n", "--in", "in", "--out", "out"], "cat in >out; echo said");
    run().ok();
    let digest = Digest::of(&content);
    small.fill_up().await;
    let log = small.disk.path().join("d.log");
    // Each refusal is logged, which finds no room either.
    let mut client = small.blobs().await;
    let mut lines = std::fs::metadata(&log).unwrap().len();
    loop {
        for n in 0..50 {
            refused(&put_rows(&mut client, vec![bytes(600_000 + n, ROW)]).await.unwrap_err());
        }
        let now = std::fs::metadata(&log).unwrap().len();
        if now == lines {
            break;
        }
        lines = now;
    }
    let reads = || {
        assert_eq!(world.verdict("test:n"), "SUCCEEDED");
        for args in [&["ls"][..], &["show", "n"], &["history", "n"], &["logs", "n"], &["why", "test:other"]] {
            answers(world.cli(args));
        }
        std::fs::remove_dir_all(world.path("got")).ok();
        world.cli(&["get", "n", "got"]).ok();
        assert!(std::fs::read(world.path("got/out")).unwrap() == content);
        assert_eq!(world.cli(&["cat", "n", "out"]).ok().stdout, content);
        assert!(std::fs::read(point.join("tasks/n/latest/out/out")).unwrap() == content);
        assert_eq!(std::fs::read(point.join("tasks/n/latest/stdout")).unwrap(), b"said\n");
        assert_eq!(run().ok().result(), "hit");
    };
    reads();

    // What is lost while nothing can be written down: nobody gets wrong bytes, however often they ask.
    let file = object(&small.world.data().join("blobs"), &digest);
    let held = std::fs::read(&file).unwrap();
    let harm = |at: u64, with: &[u8]| {
        OpenOptions::new().write(true).open(&file).unwrap().write_all_at(with, at).unwrap();
    };
    harm(70_000, &[held[70_000] ^ 1]);
    for _ in 0..3 {
        assert_eq!(download(&mut client, &digest).await.unwrap_err().code(), Code::DataLoss);
        let got = world.cli(&["cat", "n", "out"]).says(&["lost or damaged"]);
        assert!(got.stdout.len() < content.len() && content.starts_with(&got.stdout));
    }
    assert_eq!(lost(world), 0);
    small.free();
    small.heals().await;
    assert_eq!(download(&mut client, &digest).await.unwrap_err().code(), Code::DataLoss);
    assert_eq!(world.verdict("test:n"), "LOST");
    // And the log goes on.
    eventually("the log goes on", || std::fs::metadata(&log).unwrap().len() > lines);
    assert_eq!(run().ok().result(), "ran");
    reads();
    sane(&std::fs::read_to_string(&log).unwrap());
    small.world.daemon.stop();
}

#[track_caller]
fn answers(ran: Ran) {
    assert!(matches!(ran.status.code(), Some(0 | 1)), "{:?}: {}", ran.status, ran.err());
    assert!(!ran.out().is_empty(), "{}", ran.err());
}

/// How many losses were noted.
fn lost(world: &World) -> usize {
    let noted = |line: &serde_json::Value| line["fields"]["message"].to_string().contains("is LOST until");
    world.daemon.logs().iter().filter(|line| noted(line)).count()
}

/// The one file in which a store has a blob.
fn object(blobs: &Path, digest: &Digest) -> PathBuf {
    let hex = digest.hex();
    let mut entries = blobs.join("objects").join(&hex[..2]).read_dir().unwrap().map(|entry| entry.unwrap());
    entries.find(|entry| entry.file_name().to_string_lossy().starts_with(&hex)).unwrap().path()
}

/// Leaves no mount behind, whatever becomes of the daemon.
struct Unmounts(PathBuf);

impl Drop for Unmounts {
    fn drop(&mut self) {
        _ = Command::new("umount").args(["--lazy", "--quiet"]).arg(&self.0).status();
    }
}
