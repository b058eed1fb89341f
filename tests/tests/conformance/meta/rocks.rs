//! RocksDB: the suite, and what a lock, a kill, a damaged log and a full disk do to it.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use async_trait::async_trait;
use provender_core::batch::{Batch, BatchId, RowKey, Table};
use provender_core::time::Timestamp;
use provender_daemon::meta::{Meta, MetaConfig, MetaError, open};
use provender_tests::conformance::meta::{Storage, crash};

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    async fn try_open(&self) -> Result<Arc<dyn Meta>, MetaError> {
        open(&MetaConfig::default(), self.0.path()).await
    }
}

#[async_trait]
impl Storage for Folder {
    async fn open(&self) -> Arc<dyn Meta> {
        self.try_open().await.unwrap()
    }

    fn is_shared(&self) -> bool {
        false
    }
}

provender_tests::meta_suite!(Folder::new());

fn row(n: u8) -> RowKey {
    RowKey { table: Table::Key, key: vec![n].into() }
}

async fn put(meta: &dyn Meta, n: u8) {
    let mut batch = Batch::new(BatchId::new(Timestamp::from_millis(1), [n; 10]));
    batch.put(row(n), vec![n; 1000]);
    meta.commit(batch).await.unwrap();
}

/// The write-ahead log that is written to now.
fn log(folder: &Path) -> std::path::PathBuf {
    let files = std::fs::read_dir(folder.join("meta")).unwrap().map(|file| file.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "log")).max().unwrap()
}

#[tokio::test]
async fn two_cannot_have_it_open() {
    let folder = Folder::new();
    let first = folder.open().await;
    let second = folder.try_open().await;
    assert!(matches!(second, Err(MetaError::Locked { .. })), "{second:?}");
    drop(first);
    folder.open().await;
}

#[tokio::test]
async fn another_process_cannot_have_it_open_either() {
    let folder = Folder::new();
    drop(folder.open().await);
    let mut writer = writer(folder.0.path()).arg("0").stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(writer.stdout.take().unwrap()), &mut line).unwrap();
    let second = folder.try_open().await;
    writer.kill().unwrap();
    writer.wait().unwrap();
    assert!(matches!(second, Err(MetaError::Locked { .. })), "{second:?}");
}

#[tokio::test]
async fn a_log_that_is_cut_short_loses_its_last_record_alone() {
    let folder = Folder::new();
    let meta = folder.open().await;
    for n in 0..20 {
        put(&*meta, n).await;
    }
    drop(meta);
    let log = log(folder.0.path());
    let file = std::fs::File::options().write(true).open(&log).unwrap();
    file.set_len(file.metadata().unwrap().len() - 100).unwrap();
    let meta = folder.open().await;
    let rows = meta.get(&(0..20).map(row).collect::<Vec<_>>()).await.unwrap();
    assert_eq!(rows.iter().position(Option::is_none), Some(19));
    put(&*meta, 19).await;
}

#[tokio::test]
async fn a_log_that_is_damaged_in_its_middle_is_refused() {
    let folder = Folder::new();
    let meta = folder.open().await;
    for n in 0..20 {
        put(&*meta, n).await;
    }
    drop(meta);
    let log = log(folder.0.path());
    let mut bytes = std::fs::read(&log).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&log, bytes).unwrap();
    let refused = folder.try_open().await;
    assert!(matches!(refused, Err(MetaError::Corrupt { .. })), "{refused:?}");
}

fn writer(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meta-child"));
    command.args(["write", r#"{"engine": "rocksdb"}"#]).arg(folder);
    command
}

#[tokio::test]
async fn a_killed_writer_leaves_what_was_acknowledged() {
    let folder = Folder::new();
    crash::a_killed_writer_leaves_what_was_acknowledged(&folder, || writer(folder.0.path())).await;
}

/// In a mount namespace of its own, so that it needs no rights and leaves no mount behind.
#[test]
fn a_full_disk_refuses_writes_until_there_is_space() {
    let folder = tempfile::tempdir().unwrap();
    let out = Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-euc"])
        .arg("mount -t tmpfs -o size=48m tmpfs \"$2\" && exec \"$1\" full '' \"$2\"")
        .args(["sh", env!("CARGO_BIN_EXE_meta-child")])
        .arg(folder.path())
        .output()
        .expect("unshare, of util-linux, runs");
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{said}\n(a user namespace with a mount in it must be allowed here)");
}
