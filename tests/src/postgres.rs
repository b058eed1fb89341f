//! A private PostgreSQL server for one test.
//!
//! Owns the server's process and folder. Invariant: it listens on a unix socket in that folder only, and dies with the value,
//! or with the thread that started it. It is as durable as any: fsync is on.

pub mod proxy;

use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, geteuid, kill_process};

const INSTALL: &str =
    "these tests run a real PostgreSQL: apt-get install postgresql (its server programs, any version from 13)";

/// A running server; stopped and removed when dropped.
#[derive(Debug)]
pub struct Server {
    process: Child,
    folder: tempfile::TempDir,
}

impl Server {
    /// Makes and starts a server. The calling thread must outlive it.
    pub fn start() -> Server {
        Server::start_in(tempfile::Builder::new().prefix("pg").tempdir().expect("a folder for PostgreSQL"))
    }

    /// The same in an empty folder.
    pub fn start_in(folder: tempfile::TempDir) -> Server {
        if geteuid().is_root() {
            let id = |flag| {
                let out = Command::new("id").args([flag, "postgres"]).output().expect("id runs");
                String::from_utf8_lossy(&out.stdout)
                    .trim()
                    .parse()
                    .unwrap_or_else(|_| panic!("no user postgres: {INSTALL}"))
            };
            chown(folder.path(), Some(id("-u")), Some(id("-g"))).expect("root may chown");
        }
        let data = folder.path().join("data");
        let log = folder.path().join("log");
        let output = || Stdio::from(std::fs::File::options().create(true).append(true).open(&log).expect("a log file"));
        let made = program("initdb")
            .args(["--username=postgres", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C", "--pgdata"])
            .arg(&data)
            .stdout(output())
            .stderr(output())
            .status()
            .expect("setpriv runs");
        assert!(made.success(), "initdb failed: {}", read(&log));
        let settings = ["listen_addresses=", "shared_buffers=16MB", "max_wal_size=256MB"];
        let process = program("postgres")
            .arg("-D")
            .arg(&data)
            .args(settings.iter().flat_map(|setting| ["-c", setting]))
            .arg("-c")
            .arg(format!("unix_socket_directories={}", folder.path().display()))
            .stdout(output())
            .stderr(output())
            .spawn()
            .expect("setpriv runs");
        let mut server = Server { process, folder };
        // The server's own word: the last line of its pid file.
        while !read(&data.join("postmaster.pid")).trim_end().ends_with("ready") {
            let ended = server.process.try_wait().expect("it is our child");
            assert!(ended.is_none(), "PostgreSQL ended with {ended:?}: {}", read(&log));
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    /// The server's one database, as a connection string.
    pub fn url(&self) -> String {
        url(self.folder.path())
    }

    /// The socket that it listens on.
    pub fn socket(&self) -> PathBuf {
        socket(self.folder.path())
    }

    /// A connection of the test's own.
    pub async fn connect(&self) -> tokio_postgres::Client {
        let (client, connection) =
            tokio_postgres::connect(&self.url(), tokio_postgres::NoTls).await.expect("the server is up");
        tokio::spawn(connection);
        client
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.process.id()).ok().and_then(Pid::from_raw) {
            // An immediate shutdown: what it stored is thrown away anyway.
            let _ = kill_process(pid, Signal::QUIT);
        }
        let _ = self.process.wait();
    }
}

fn url(folder: &Path) -> String {
    format!("host={} user=postgres dbname=postgres", folder.display())
}

fn socket(folder: &Path) -> PathBuf {
    folder.join(".s.PGSQL.5432")
}

/// A server program that ends with this thread; as the user postgres if this is root, which PostgreSQL refuses to run as.
fn program(name: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "QUIT"]).stdin(Stdio::null());
    if geteuid().is_root() {
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
    }
    command.arg(binaries().join(name));
    command
}

fn binaries() -> PathBuf {
    let asked = Command::new("pg_config").arg("--bindir").output().ok();
    let asked = asked.map(|out| PathBuf::from(String::from_utf8_lossy(&out.stdout).trim()));
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<_> = versions.map(|version| version.path().join("bin")).chain(asked).collect();
    found.retain(|folder| folder.join("initdb").exists() && folder.join("postgres").exists());
    found.sort();
    found.pop().unwrap_or_else(|| panic!("PostgreSQL is not installed; {INSTALL}"))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}
