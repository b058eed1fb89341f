//! What each test here has: a short folder of its own with a daemon, a working folder and a command line.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use provender_tests::child::{Ran, Running};
use provender_tests::daemon::Daemon;
use provender_tests::provender::Provender;
use tempfile::TempDir;

/// A daemon and its first user. The daemon goes before the folder does.
pub(crate) struct World {
    pub(crate) daemon: Daemon,
    pub(crate) provender: Provender,
    folder: TempDir,
}

/// A folder whose paths leave room for a socket's.
pub(crate) fn folder() -> TempDir {
    tempfile::Builder::new().prefix("pv").tempdir_in("/tmp").unwrap()
}

impl World {
    /// With a daemon as it comes.
    pub(crate) fn new() -> World {
        World::with("", &[])
    }

    /// With a daemon of this configuration (TOML) and these flags.
    pub(crate) fn with(config: &str, flags: &[&str]) -> World {
        World::inside(folder(), config, flags)
    }

    /// The same, in a folder that the flags or the configuration speak of.
    pub(crate) fn inside(folder: TempDir, config: &str, flags: &[&str]) -> World {
        let file = folder.path().join("provenderd.toml");
        std::fs::write(&file, config).unwrap();
        let flags: Vec<_> = ["--config", file.to_str().unwrap()].into_iter().chain(flags.iter().copied()).collect();
        let daemon = Daemon::start(&folder.path().join("d"), &flags);
        let work = folder.path().join("w");
        std::fs::create_dir(&work).unwrap();
        let provender = Provender::new(&folder.path().join("h"), &work, &daemon.remote());
        World { daemon, provender, folder }
    }

    /// Everything that is this test's own.
    pub(crate) fn root(&self) -> &Path {
        self.folder.path()
    }

    /// The data folder.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("d")
    }

    /// A path in the working folder.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join("w").join(path)
    }

    /// Writes a file of the working folder, making its folders.
    pub(crate) fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// A text file of the working folder; empty if there is none.
    pub(crate) fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.path(path)).unwrap_or_default()
    }

    /// How many lines such a file has: how often a command ran that adds one.
    pub(crate) fn count(&self, path: &str) -> usize {
        self.read(path).lines().count()
    }

    /// `provender ARGS`.
    #[track_caller]
    pub(crate) fn cli(&self, args: &[&str]) -> Ran {
        self.provender.run(args)
    }

    /// `provender --json run ARGS -- sh -c SCRIPT`.
    #[track_caller]
    pub(crate) fn run(&self, args: &[&str], script: &str) -> Ran {
        self.start(args, script).wait()
    }

    /// The same, under way.
    pub(crate) fn start(&self, args: &[&str], script: &str) -> Running {
        start(&self.provender, args, script)
    }

    /// What `status` says of a reference.
    #[track_caller]
    pub(crate) fn verdict(&self, reference: &str) -> String {
        verdict(&self.provender, reference)
    }
}

/// `provender --json run ARGS -- sh -c SCRIPT` under way.
pub(crate) fn start(provender: &Provender, args: &[&str], script: &str) -> Running {
    provender.start(["--json", "run"].iter().chain(args).chain(&["--", "sh", "-c", script]))
}

/// What `status` says of a reference.
#[track_caller]
pub(crate) fn verdict(provender: &Provender, reference: &str) -> String {
    let lines = provender.run(["--json", "status", reference]).lines();
    provender_tests::child::string(&lines[0]["verdict"])
}

/// The key of a `run --json`, from the last line of its standard error.
#[track_caller]
pub(crate) fn key(ran: &Ran) -> String {
    provender_tests::child::string(&ran.record()["key"])
}

/// What a restore has to bring back of a path.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    Folder,
    File { executable: bool, bytes: Vec<u8> },
    Link(OsString),
}

/// All that stands at and below a path, by relative path; the path itself is followed.
pub(crate) fn snapshot(path: &Path) -> BTreeMap<OsString, Entry> {
    let mut found = BTreeMap::new();
    let root = std::fs::canonicalize(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    add(&root, OsString::new(), &mut found);
    found
}

fn add(path: &Path, name: OsString, found: &mut BTreeMap<OsString, Entry>) {
    let metadata = path.symlink_metadata().unwrap();
    let entry = if metadata.is_symlink() {
        Entry::Link(std::fs::read_link(path).unwrap().into_os_string())
    } else if metadata.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            let entry = entry.unwrap();
            let below = [name.as_bytes(), b"/", entry.file_name().as_bytes()].concat();
            add(&entry.path(), OsString::from_vec(below), found);
        }
        Entry::Folder
    } else {
        Entry::File { executable: metadata.permissions().mode() & 0o100 != 0, bytes: std::fs::read(path).unwrap() }
    };
    found.insert(name, entry);
}

/// A folder with all that a tree can hold: odd names, exec bits, links, empty things.
pub(crate) fn odd_folder(at: &Path) {
    use std::os::unix::fs::symlink;
    let name = |bytes: &[u8]| at.join(std::ffi::OsStr::from_bytes(bytes));
    std::fs::create_dir_all(at.join("deep/er/est")).unwrap();
    std::fs::create_dir(at.join("empty")).unwrap();
    for bytes in [
        &b"with space"[..],
        "h\u{fc}\u{2603}\u{1f4e6}".as_bytes(),
        b"not\xff\xfeutf-8",
        b"new\nline",
        b"-dash",
        &[b'x'; 255],
    ] {
        std::fs::write(name(bytes), bytes).unwrap();
    }
    std::fs::write(at.join("deep/er/est/file"), vec![7; 300_000]).unwrap();
    std::fs::write(at.join("nothing"), "").unwrap();
    std::fs::write(at.join("tool"), "#!/bin/sh\nexit 0\n").unwrap();
    std::fs::set_permissions(at.join("tool"), std::fs::Permissions::from_mode(0o755)).unwrap();
    symlink("deep/er", at.join("link")).unwrap();
    symlink("nowhere/at all", at.join("dangling")).unwrap();
}
