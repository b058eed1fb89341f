//! The mounted view as the kernel has it: by `provenderd --mount` and by `provender mount`, each asked what a real file system would be.

#[path = "mounted/changes.rs"]
mod changes;
#[path = "mounted/chaos.rs"]
mod chaos;
#[path = "mounted/collected.rs"]
mod collected;
#[path = "mounted/crowded.rs"]
mod crowded;
#[path = "mounted/ends.rs"]
mod ends;
#[path = "mounted/fio.rs"]
mod fio;
#[path = "mounted/readonly.rs"]
mod readonly;
#[path = "mounted/runs.rs"]
mod runs;
#[path = "mounted/upcalls.rs"]
mod upcalls;
#[path = "mounted/walk.rs"]
mod walk;

use std::fs::File;
use std::path::{Path, PathBuf};

use provender_tests::child::{self, Ran, Running};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::world::{World, folder};

/// Git, without anybody's settings.
const GIT: [&str; 10] = [
    "env",
    "GIT_CONFIG_NOSYSTEM=1",
    "GIT_CONFIG_GLOBAL=/dev/null",
    "git",
    "-c",
    "user.name=nobody",
    "-c",
    "user.email=nobody@example.com",
    "-c",
    "safe.directory=*",
];

/// A world with its store mounted twice, by the daemon and by the command line, both for other users too. Whatever becomes of the
/// test, neither stays mounted.
pub(crate) struct Site {
    pub(crate) world: World,
    pub(crate) place: TempDir,
}

impl Site {
    pub(crate) fn new() -> Site {
        Site::with("")
    }

    /// With this in the daemon's configuration (TOML), before the first table.
    fn with(config: &str) -> Site {
        let place = folder();
        std::fs::set_permissions(place.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let config = format!("mount_allow_other = true\n{config}");
        let world = World::with(&config, &["--mount", place.path().join("daemon").to_str().unwrap()]);
        let site = Site { world, place };
        site.mount();
        site
    }

    /// `provender mount`, also where a dead one stands.
    fn mount(&self) {
        self.world.cli(&["mount", "--allow-other", self.remote().to_str().unwrap()]).ok();
    }

    /// The daemon's own mount.
    pub(crate) fn own(&self) -> PathBuf {
        self.place.path().join("daemon")
    }

    /// The one of `provender mount`.
    pub(crate) fn remote(&self) -> PathBuf {
        self.place.path().join("remote")
    }

    pub(crate) fn both(&self) -> [PathBuf; 2] {
        [self.own(), self.remote()]
    }

    /// Whoever serves the second mount, not who watches over it.
    fn servers(&self) -> Vec<Pid> {
        child::mounting(child::program("provender").to_str().unwrap(), self.remote().to_str().unwrap())
    }

    /// Stores a file or folder of the working folder under a name.
    #[track_caller]
    fn put(&self, path: &str, name: &str) {
        self.world.cli(&["--quiet", "put", path, "--name", name]).ok();
    }

    /// A path beside the mounts.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.place.path().join(path)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // Who serves goes first, stopped or not: else who reads, and who unmounts, would wait for it.
        for server in self.servers().into_iter().chain([self.world.daemon.pid()]) {
            let _ = kill_process(server, Signal::KILL);
        }
        for point in self.both() {
            if is_mounted(&point) {
                let _ = unmount(&point, UnmountFlags::DETACH);
            }
        }
    }
}

/// Where the outputs of the latest success of a name stand in a mount.
fn latest(point: &Path, name: &str) -> PathBuf {
    point.join("tasks").join(name).join("latest/out")
}

pub(crate) fn is_mounted(point: &Path) -> bool {
    let table = std::fs::read_to_string("/proc/self/mounts").unwrap();
    table.lines().any(|line| line.split(' ').nth(1) == point.to_str())
}

/// Who may drop what the kernel caches, or counts on that nobody else does. One test at a time has it, in whichever process.
struct Caches {
    _lock: File,
}

impl Caches {
    fn mine() -> Caches {
        let lock = File::create(Path::new(env!("CARGO_TARGET_TMPDIR")).join("caches")).unwrap();
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
        Caches { _lock: lock }
    }

    fn drop_all(&self) {
        rustix::fs::sync();
        std::fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
    }
}

/// A program with its arguments, run to its end, which must be a success.
#[track_caller]
fn succeeds(words: &[&str]) -> Ran {
    started(words).wait().ok()
}

/// The same under way.
fn started(words: &[&str]) -> Running {
    let mut command = child::command(words[0]);
    command.args(&words[1..]);
    Running::start(command)
}
