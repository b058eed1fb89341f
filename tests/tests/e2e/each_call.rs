//! A daemon that dies at each call by which it changes a file system: of an upload, of a migration and of a backup. What it leaves is
//! gone on from, by the same call of its user or by its next start.
//!
//! The harness counts the calls as the kernel sees them: it goes on until all is over before the next one. Of many like calls in a row the
//! first two count (of those that make the folders of a store, say); with `PROVENDER_SOAK` each.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use provender_client::{Client, Remote};
use provender_core::Digest;
use provender_core::name::Space;
use provender_tests::child::{Ran, eventually, soak};
use provender_tests::conformance::blobs::bytes;
use provender_tests::daemon::Daemon;
use provender_tests::provender::Provender;
use provender_tests::syscalls::{Call, Judge, Sentence};
use tempfile::TempDir;

use crate::raw::Raw;
use crate::world::folder;

/// Kills at a call of those that change something below a folder.
#[derive(Default)]
struct Tripwire {
    /// At which one; nothing counts while there is none.
    at: Option<usize>,
    counted: usize,
    /// The last two calls that were seen.
    last: [Option<(&'static str, PathBuf)>; 2],
}

type Shared = Arc<Mutex<Tripwire>>;

impl Tripwire {
    fn meets(&mut self, call: &Call) -> Sentence {
        let alike = (call.name, call.path.parent().unwrap_or(&call.path).to_owned());
        let again = !soak() && self.last.iter().all(|last| last.as_ref() == Some(&alike));
        self.last.rotate_left(1);
        self.last[1] = Some(alike);
        let Some(at) = self.at.filter(|_| !again) else { return Sentence::Pass };
        self.counted += 1;
        // Whoever else is at it dies as well.
        if self.counted > at { Sentence::Die } else { Sentence::Pass }
    }
}

fn arm(wire: &Shared, at: usize) {
    *wire.lock().unwrap() = Tripwire { at: Some(at), ..Tripwire::default() };
}

/// How many calls there were since it was armed.
fn disarm(wire: &Shared) -> usize {
    let mut wire = wire.lock().unwrap();
    wire.at = None;
    wire.counted
}

fn judge(wire: &Shared, below: &Path) -> Judge {
    let (wire, below) = (wire.clone(), below.to_owned());
    Arc::new(move |call: &Call| {
        // RocksDB writes a diary, of which nothing depends.
        let counts = call.path.starts_with(&below) && call.path.file_name().is_none_or(|name| name != "LOG");
        if counts { wire.lock().unwrap().meets(call) } else { Sentence::Pass }
    })
}

/// A daemon that is started anew whenever it died.
struct Mortal {
    daemon: Daemon,
    wire: Shared,
    folder: TempDir,
}

impl Mortal {
    fn below(folder: TempDir, below: &Path) -> Mortal {
        let wire = Shared::default();
        let daemon = Daemon::start_judged(&folder.path().join("d"), &[], judge(&wire, below)).unwrap();
        Mortal { daemon, wire, folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn user(&self) -> Provender {
        let work = self.path("w");
        std::fs::create_dir_all(&work).unwrap();
        Provender::new(&self.path("h"), &work, &self.daemon.remote())
    }

    /// Does something with the wire at one call. Whether the daemon lived, and there were no more calls than that.
    fn dies_at<T>(&mut self, at: usize, what: impl FnOnce(&Mortal) -> T) -> (T, bool) {
        arm(&self.wire, at);
        let done = what(self);
        let counted = disarm(&self.wire);
        if counted > at {
            self.daemon.wait();
            self.daemon.restart();
        }
        (done, counted <= at)
    }
}

async fn client(remote: &str) -> Client {
    reach(remote).await.unwrap()
}

/// The same, if somebody is there.
async fn reach(remote: &str) -> Option<Client> {
    Client::connect(&Remote::find(Some(remote)).unwrap(), Space::default()).await.ok()
}

fn block_on<T>(what: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(what)
}

/// How a blob comes: each tries once, and says whether it was told that the daemon has it.
type Way = fn(&Mortal, &Bytes) -> bool;

fn streamed(mortal: &Mortal, content: &Bytes) -> bool {
    block_on(async {
        // What the daemon does by itself may have killed it before anybody came.
        let Ok(raw) = Raw::reach(&mortal.daemon.remote()).await else { return false };
        raw.send(content, None).await.is_ok_and(|tier| tier == "local")
    })
}

/// The connection breaks in the middle first.
fn resumed(mortal: &Mortal, content: &Bytes) -> bool {
    let (remote, digest) = (mortal.daemon.remote(), Digest::of(content));
    let staging = mortal.path("d/blobs/staging");
    let staged = || staging.read_dir().unwrap().flatten().any(|file| file.metadata().is_ok_and(|file| file.len() > 0));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (to, half) = (remote.clone(), content.slice(..content.len() / 2));
    let first = runtime.spawn(async move { Raw::to(&to).await.send_and_stay(&half, digest).await });
    eventually("some of it has come, or nobody is there", || staged() || first.is_finished());
    runtime.shutdown_background();
    block_on(async {
        let offset = reach(&remote).await?.query_upload(&digest).await.ok()??;
        let rest = content.slice(offset as usize..);
        Raw::reach(&remote).await.ok()?.send(&rest, Some((digest, offset))).await.ok()
    })
    .is_some()
}

fn given(mortal: &Mortal, content: &Bytes) -> bool {
    let file = mortal.path("given");
    std::fs::write(&file, content).unwrap();
    let Some(client) = block_on(reach(&mortal.daemon.remote())) else { return false };
    client.give(&Digest::of(content), &File::open(&file).unwrap(), &|| true).unwrap_or(false)
}

#[test]
fn an_upload_that_dies_at_any_call_is_made_by_the_next_one() {
    let folder = folder();
    let data = folder.path().join("d");
    let mut mortal = Mortal::below(folder, &data);
    let ways: [(&str, usize, Way); 4] = [
        ("a row", 9_000, streamed),
        ("a file", 300_000, streamed),
        ("a file in two parts", 4_500_000, resumed),
        ("a file by descriptor", 2_500_000, given),
    ];
    let mut seed = 0;
    for (name, size, way) in ways {
        let (mut stored, mut number) = (0, 0);
        loop {
            seed += 1;
            let content = bytes(seed, size);
            let (told, over) = mortal.dies_at(number, |mortal| way(mortal, &content));
            let place = format!("{name} at call {number}");
            assert!(told || !over, "{place}: refused, though nothing was in its way");
            let digest = Digest::of(&content);
            block_on(async {
                let client = client(&mortal.daemon.remote()).await;
                let missing = !client.find_missing(&[digest]).await.unwrap().is_empty();
                assert!(!(told && missing), "{place}: acknowledged and lost");
                if missing {
                    client.upload_bytes(&[(digest, content.clone())]).await.unwrap();
                }
                stored += usize::from(!missing && !told);
                let back = client.bytes(&digest, content.len() as u64).await;
                assert!(back.is_ok_and(|back| back == content), "{place}: other bytes");
            });
            if over {
                break;
            }
            number += 1;
        }
        eprintln!("each call: {name} takes {number}, and after {stored} it was stored though nobody was told");
        assert!(number > 1, "{name}: {number} calls");
    }
    // What those left who died is not kept for ever.
    mortal.daemon.stop();
    let config = mortal.path("provenderd.toml");
    std::fs::write(&config, "keep_uploads_seconds = 1\n").unwrap();
    let _daemon = Daemon::start(&data, &["--config", config.to_str().unwrap()]);
    eventually("staging is empty", || data.join("blobs/staging").read_dir().unwrap().count() == 0);
}

/// Makes the blob store in a data folder one of layout 1, as versions before wrote it.
fn age(data: &Path) -> usize {
    let blobs = data.join("blobs");
    let mark = blobs.join("provender-blobs");
    let text = std::fs::read_to_string(&mark).unwrap();
    std::fs::remove_file(&mark).unwrap();
    std::fs::write(&mark, text.replace("layout 2", "layout 1")).unwrap();
    let mut aged = 0;
    for folder in blobs.join("objects").read_dir().unwrap() {
        let folder = folder.unwrap().path();
        for file in folder.read_dir().unwrap() {
            let file = file.unwrap();
            let name = file.file_name().into_string().unwrap();
            let under = folder.join(&name[2..4]);
            std::fs::create_dir_all(&under).unwrap();
            std::fs::rename(file.path(), under.join(name)).unwrap();
            aged += 1;
        }
        // Most of them, as the others hold something.
        _ = std::fs::remove_dir(folder);
    }
    aged
}

#[test]
fn a_migration_of_blobs_that_dies_at_any_call_goes_on_at_the_next_start() {
    let folder = folder();
    let data = folder.path().join("d");
    let mut mortal = Mortal::below(folder, &data.join("blobs"));
    let all: Vec<Bytes> = (0..3).map(|n| bytes(n, 40_000)).collect();
    let blobs: Vec<_> = all.iter().map(|content| (Digest::of(content), content.clone())).collect();
    block_on(async { client(&mortal.daemon.remote()).await.upload_bytes(&blobs).await.unwrap() });
    for number in 0.. {
        mortal.daemon.stop();
        assert_eq!(age(&data), all.len());
        arm(&mortal.wire, number);
        let began = mortal.daemon.try_restart();
        if disarm(&mortal.wire) <= number {
            began.unwrap();
            eprintln!("each call: a migration of {} blobs takes {number}", all.len());
            assert!(number > 8, "{number} calls");
            return;
        }
        assert!(began.is_err(), "it served before it was migrated, at call {number}");
        mortal.daemon.restart();
        block_on(async {
            let client = client(&mortal.daemon.remote()).await;
            for (digest, content) in &blobs {
                let back = client.bytes(digest, digest.size).await;
                assert!(back.is_ok_and(|back| back == *content), "other bytes after call {number}");
            }
        });
    }
}

#[test]
fn a_backup_that_dies_at_any_call_leaves_those_before_whole() {
    let folder = folder();
    let backups = folder.path().join("backups");
    let mut mortal = Mortal::below(folder, &backups);
    let put = |mortal: &Mortal, n: u64| {
        std::fs::write(mortal.path("w").join("file"), bytes(n, 40_000)).unwrap();
        mortal.user().run(["put", "file", "--name", "put"]).ok();
    };
    let backup = |mortal: &Mortal| mortal.user().run(["--json", "admin", "backup", backups.to_str().unwrap()]);
    let check = |mortal: &Mortal| -> Ran {
        let data = mortal.path("restored");
        let ran = Daemon::once(&data, &["restore", backups.to_str().unwrap(), "--check"]);
        _ = std::fs::remove_dir_all(data);
        ran
    };
    mortal.user();
    put(&mortal, 0);
    backup(&mortal).ok();
    for number in 0.. {
        // Something new each time, in a file and in rows.
        put(&mortal, number as u64 + 1);
        let (_, over) = mortal.dies_at(number, backup);
        check(&mortal).ok();
        if over {
            eprintln!("each call: a backup takes {number}");
            assert!(number > 20, "{number} calls");
            return;
        }
        backup(&mortal).ok();
    }
}
