//! A private S3 server for one test: SeaweedFS, whose version and hashes stand in `tests/seaweedfs.txt`.
//!
//! Owns the server's process and folder. Invariant: it listens on loopback only, and dies with the value, or with the thread that started it.

pub mod proxy;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use object_store::aws::{AmazonS3, AmazonS3Builder};
use provender_blobs::{BucketConfig, Settings};

/// The one bucket that there is.
pub const BUCKET: &str = "artifacts";
/// What it is used with.
pub const ACCESS_KEY: &str = "provender-tests";
/// What it is used with.
pub const SECRET_KEY: &str = "not-much-of-a-secret";
/// It takes some 4 s, or many times that on a busy machine.
const START: Duration = Duration::from_secs(120);

/// A running server; stopped and removed when dropped.
#[derive(Debug)]
pub struct Server {
    process: Child,
    folder: tempfile::TempDir,
    ports: Ports,
}

#[derive(Debug, Clone, Copy)]
struct Ports {
    s3: u16,
    filer: u16,
    others: [u16; 6],
}

impl Server {
    /// Makes and starts a server, with an empty bucket. The calling thread must outlive it.
    pub fn start() -> Server {
        let folder = tempfile::Builder::new().prefix("s3").tempdir().expect("a folder for the S3 server");
        let identity = serde_json::json!({"identities": [{
            "name": "tests",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }]});
        std::fs::write(folder.path().join("identities"), identity.to_string()).expect("its configuration");
        let ports = Ports::free();
        let mut server = Server { process: run(folder.path(), &ports), folder, ports };
        server.wait();
        server.make_bucket(BUCKET);
        server
    }

    /// Ends it as a crash would, and starts it again with what it has on disk.
    pub fn restart(&mut self) {
        self.stop();
        self.process = run(self.folder.path(), &self.ports);
        self.wait();
    }

    /// Ends it as a crash would.
    pub fn stop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }

    /// Where it listens, as `HOST:PORT`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.ports.s3)
    }

    /// A part of its bucket, as it is itself reached.
    pub fn config(&self, prefix: &str) -> BucketConfig {
        config(&self.address(), prefix)
    }

    /// Makes another bucket.
    pub fn make_bucket(&self, name: &str) {
        // A bucket is a folder of its file system.
        let made = self.ask_filer(&format!("POST /buckets/{name}/ HTTP/1.1"));
        assert!(made.starts_with("HTTP/1.1 201"), "{made}");
    }

    fn ask_filer(&self, request: &str) -> String {
        let mut filer = TcpStream::connect(("127.0.0.1", self.ports.filer)).expect("it listens");
        write!(filer, "{request}\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            .expect("it hears");
        let mut answer = String::new();
        filer.read_to_string(&mut answer).expect("it answers");
        answer
    }

    /// Waits until it answers, and takes what is written.
    fn wait(&mut self) {
        let began = Instant::now();
        let is_up = |port| TcpStream::connect(("127.0.0.1", port)).is_ok();
        let ready = |server: &Server| {
            is_up(server.ports.s3)
                && is_up(server.ports.filer)
                && server.ask_filer("PUT /ready HTTP/1.1").starts_with("HTTP/1.1 201")
        };
        while !ready(self) {
            let ended = self.process.try_wait().expect("it is our child");
            let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            let last = log.lines().rev().take(20).collect::<Vec<_>>();
            assert!(ended.is_none(), "the S3 server ended with {ended:?}: {last:#?}");
            assert!(began.elapsed() < START, "the S3 server does not start: {last:#?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A client of the tests' own, at an address.
pub fn client(address: &str) -> AmazonS3 {
    let Settings(options) = config(address, "").options;
    let option = |built: AmazonS3Builder, (name, value): (String, String)| {
        built.with_config(name.parse().expect("an option"), value)
    };
    options.into_iter().fold(AmazonS3Builder::new().with_bucket_name(BUCKET), option).build().expect("a client")
}

/// The same as a part of a daemon's configuration (TOML).
pub fn toml(address: &str, prefix: &str) -> String {
    let BucketConfig { url, options } = config(address, prefix);
    let options: String = options.0.iter().map(|(name, value)| format!("{name} = \"{value}\"\n")).collect();
    format!("[blobs]\nbackend = \"bucket\"\nurl = \"{url}\"\n[blobs.options]\n{options}")
}

/// The bucket at an address, below a prefix.
pub fn config(address: &str, prefix: &str) -> BucketConfig {
    let options = [
        ("endpoint", format!("http://{address}")),
        ("allow_http", "true".into()),
        ("region", "us-east-1".into()),
        ("access_key_id", ACCESS_KEY.into()),
        ("secret_access_key", SECRET_KEY.into()),
    ];
    let options = options.into_iter().map(|(name, value)| (name.to_owned(), value));
    BucketConfig { url: format!("s3://{BUCKET}/{prefix}"), options: Settings(options.collect()) }
}

impl Ports {
    /// Some that nobody listens on now.
    fn free() -> Ports {
        let held: [TcpListener; 8] = std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").expect("a free port"));
        let [s3, filer, others @ ..] = held.map(|held| held.local_addr().expect("it is bound").port());
        Ports { s3, filer, others }
    }
}

fn run(folder: &Path, ports: &Ports) -> Child {
    let log = std::fs::File::options().create(true).append(true).open(folder.join("log")).expect("a log file");
    let [master, master_grpc, volume, volume_grpc, filer_grpc, s3_grpc] = ports.others;
    let data = folder.join("data");
    std::fs::create_dir_all(&data).expect("a folder for its data");
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL"])
        .arg(program())
        .args([
            "server",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-master.telemetry=false",
            "-master.volumeSizeLimitMB=1024",
        ])
        .args([
            "-filer",
            "-s3",
            "-s3.autoCreateBucket=false",
            "-s3.iam=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
        ])
        .arg(format!("-dir={}", data.display()))
        .arg(format!("-s3.config={}", folder.join("identities").display()))
        .args([format!("-s3.port={}", ports.s3), format!("-s3.port.grpc={s3_grpc}")])
        .args([format!("-filer.port={}", ports.filer), format!("-filer.port.grpc={filer_grpc}")])
        .args([format!("-master.port={master}"), format!("-master.port.grpc={master_grpc}")])
        .args([format!("-volume.port={volume}"), format!("-volume.port.grpc={volume_grpc}")])
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a log file"))
        .stderr(log)
        .spawn()
        .expect("setpriv runs")
}

/// Where `make test` installs it, whatever it was built with.
fn program() -> PathBuf {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/seaweedfs.sh");
    let out = Command::new(script).output().expect("the script runs");
    let program = PathBuf::from(String::from_utf8_lossy(&out.stdout).trim());
    assert!(
        program.exists(),
        "these tests run a real S3 server: `scripts/seaweedfs.sh install` brings it, as `make test` does"
    );
    program
}
