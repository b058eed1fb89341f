//! A daemon on a disk whose power can be cut.

use std::path::{Path, PathBuf};

use provender_tests::child::{eventually, soak};
use provender_tests::daemon::Daemon;
use provender_tests::loop_disk::LoopDisk;
use provender_tests::provender::Provender;
use provender_tests::syscalls::{Call, Judge};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::world::folder;

/// What of the store lies on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum On {
    All,
    Blobs,
}

/// The daemon goes before its disk does.
pub(super) struct Site {
    pub(super) daemon: Daemon,
    disk: LoopDisk,
    folder: TempDir,
}

impl Site {
    /// `Err` has the log of a daemon that ended instead of serving.
    pub(super) fn on(mkfs: &[&str], on: On, judge: Option<Judge>) -> Result<Site, String> {
        let folder = folder();
        // Each round leaves some 50 MB.
        // What is not written takes nothing; a fast machine stores some hundred MiB a second.
        let size = if soak() { 16 << 30 } else { 4 << 30 };
        let disk = LoopDisk::mount(folder.path(), size, mkfs);
        let config = folder.path().join("provenderd.toml");
        let (data, text) = match on {
            // A disk's top, so that the log stands elsewhere.
            On::All => (disk.path().to_owned(), String::new()),
            On::Blobs => {
                let blobs = disk.path().join("blobs");
                (folder.path().join("d"), format!("[blobs]\nbackend = \"disk\"\ndir = \"{}\"\n", blobs.display()))
            }
        };
        std::fs::write(&config, text).unwrap();
        let flags = ["--config", config.to_str().unwrap()];
        let daemon = match judge {
            None => Daemon::start(&data, &flags),
            Some(judge) => Daemon::start_judged(&data, &flags, judge)?,
        };
        Ok(Site { daemon, disk, folder })
    }

    /// From now on nothing reaches the disk. Nobody computes on without power: a file system that is being shut down may say of a sync that
    /// it is through when it is not, and the daemon must not pass that on.
    pub(super) fn cut(&mut self) {
        self.daemon.signal(Signal::STOP);
        let status = format!("/proc/{}/status", self.daemon.pid().as_raw_nonzero());
        eventually("the daemon stands still", || {
            std::fs::read_to_string(&status).is_ok_and(|status| status.contains("State:\tT"))
        });
        self.disk.cut();
        self.daemon.kill();
    }

    /// The power is back, and the daemon comes up, unjudged. `Err` has its log if it does not.
    pub(super) fn restore(&mut self) -> Result<(), String> {
        self.disk.restore_power();
        self.daemon.acquit();
        self.daemon.try_restart()
    }

    pub(super) fn user(&self) -> Provender {
        let work = self.folder.path().join("w");
        std::fs::create_dir_all(&work).unwrap();
        Provender::new(&self.folder.path().join("h"), &work, &self.daemon.remote())
    }

    /// What a deep look at everything finds wrong.
    pub(super) fn verify_deep(&self) -> String {
        let ran = self.user().run(["verify", "--deep"]);
        if ran.status.success() { String::new() } else { ran.out() + &ran.err() }
    }

    pub(super) fn scratch(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// What a call syncs, in words; `None` if it syncs nothing.
pub(super) fn kind(call: &Call) -> Option<&'static str> {
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (folder, name) = (call.path.parent().map(name)?, name(&call.path));
    // XFS writes a file that was cut short out when it is closed, as RocksDB does with its tables: a sync of XFS's own.
    let counts = call.is_sync() || call.name == "ftruncate" && name.ends_with(".sst");
    counts.then(|| match (folder.as_str(), name.as_str()) {
        ("staging", _) => "the bytes of a blob",
        ("objects", _) => "the name of a blob",
        ("blobs", name) if name.starts_with("provender-blobs") => "the mark of the blob store",
        ("blobs", _) | (_, "blobs" | "mounted" | "d") => "the folders of the store",
        ("meta", name) if name.ends_with(".log") => "RocksDB's log",
        ("meta", name) if name.ends_with(".sst") => "a table of RocksDB",
        ("meta", name) if name.starts_with("MANIFEST") => "RocksDB's manifest",
        ("meta", name) if name.starts_with("OPTIONS") => "RocksDB's options",
        ("meta", name) if name.ends_with(".dbtmp") => "which manifest is RocksDB's",
        ("meta", name) if name.ends_with(".blob") => "the values of RocksDB",
        (_, "meta") => "RocksDB's folder",
        (_, "layout.new") => "the layout of the store",
        _ => panic!("nobody knows why {call:?} is synced"),
    })
}
