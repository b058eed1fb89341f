//! Collection at full tilt under a small quota: executors upload, commit, look up, pin and read through the API and the mount meanwhile, and in
//! one form the daemon is killed every few seconds. Nothing that was answered with is broken, and the quota holds.
//!
//! A file's first 32 bytes are the hash of the rest, so whoever reads one knows whether it is whole. `PROVENDER_SOAK=1` takes ten minutes
//! instead of seconds, with a protection of 20 s.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use provender_blobs::BlobsConfig;
use provender_client::{Begin, Begun, Client, ClientError, Remote};
use provender_core::blob::Pinned;
use provender_core::execution::{Executor, Exit, Outcome};
use provender_core::name::{Name, Space};
use provender_core::tree::{Node, Tree};
use provender_core::{Digest, Execution, ExecutionId, Spec, TaskKey, Verdict};
use provender_daemon::meta::{self, MetaConfig};
use provender_daemon::metrics::Metrics;
use provender_daemon::store::Store;
use provender_tests::child::soak;

use crate::cluster::Cluster;
use crate::world::World;

/// How many executors there are.
const EXECUTORS: u64 = 4;
/// What an attempt uploads, beside a file that many share.
const LARGE: usize = 150_000;
const SHARED: usize = 60_000;
/// How long an executor rests after each attempt.
const REST: Duration = Duration::from_millis(100);

/// How many keys there are to choose from: what they make is twice what fits.
fn keys() -> u64 {
    if soak() { 5_000 } else { 250 }
}

/// What came of it.
#[derive(Debug, Default)]
struct Seen {
    made: AtomicU64,
    hits: AtomicU64,
    read: AtomicU64,
    pinned: AtomicU64,
    full: AtomicU64,
    unreachable: AtomicU64,
    mounted: AtomicU64,
    most: AtomicU64,
}

impl Seen {
    fn add(of: &AtomicU64) {
        of.fetch_add(1, Ordering::Relaxed);
    }
}

pub(crate) fn random() -> u64 {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).unwrap();
    u64::from_ne_bytes(bytes)
}

/// Bytes that begin with the hash of their rest.
pub(crate) fn sealed(len: usize, seed: u64) -> Bytes {
    let mut rest = vec![0; len - 32];
    rest.chunks_mut(8).enumerate().for_each(|(n, chunk)| {
        let word = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(n as u64).to_le_bytes();
        chunk.copy_from_slice(&word[..chunk.len()]);
    });
    [&Digest::of(&rest).hash[..], &rest].concat().into()
}

pub(crate) fn is_whole(bytes: &[u8]) -> bool {
    bytes.len() > 32 && Digest::of(&bytes[32..]).hash[..] == bytes[..32]
}

/// Whether an error is the daemon's not being there, as while it is killed.
fn is_away(error: &ClientError) -> bool {
    match error {
        ClientError::Unreachable { .. } => true,
        ClientError::Failed { code, .. } => !matches!(code, tonic::Code::ResourceExhausted | tonic::Code::DataLoss),
        ClientError::Store { source, .. } => is_away(source),
        _ => false,
    }
}

fn is_full(error: &ClientError) -> bool {
    match error {
        ClientError::Failed { code, .. } => *code == tonic::Code::ResourceExhausted,
        ClientError::Store { source, .. } => is_full(source),
        _ => false,
    }
}

struct Worker {
    remote: Remote,
    client: Option<Client>,
    seen: Arc<Seen>,
    kills: bool,
}

impl Worker {
    /// Asks until the daemon is there.
    async fn asking<T>(&mut self, ask: impl AsyncFn(&Client) -> Result<T, ClientError>) -> Result<T, ClientError> {
        let since = Instant::now();
        loop {
            let asked = match &self.client {
                Some(client) => ask(client).await,
                None => match Client::connect(&self.remote, Space::default()).await {
                    Ok(client) => {
                        self.client = Some(client);
                        continue;
                    }
                    Err(error) => Err(error),
                },
            };
            match asked {
                Err(error) if self.kills && is_away(&error) => {
                    assert!(since.elapsed() < Duration::from_secs(60), "the daemon does not come back: {error}");
                    Seen::add(&self.seen.unreachable);
                    self.client = None;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                asked => return asked,
            }
        }
    }

    /// Reads all that an execution made, right after it was answered with.
    async fn read(&mut self, hit: &Execution) {
        let root = hit.outcome.outputs.unwrap();
        let broken = |error: ClientError| panic!("{} was answered with and is broken: {error}", hit.key);
        let tree = self.asking(async |client| client.bytes(&root, 1 << 20).await).await.unwrap_or_else(broken);
        for (_, node) in Tree::decode(&tree.into()).unwrap().iter() {
            let digest = node.digest().unwrap();
            let bytes = self.asking(async |client| client.bytes(&digest, 1 << 20).await).await.unwrap_or_else(broken);
            assert!(is_whole(&bytes), "{digest} is not what it was");
        }
        Seen::add(&self.seen.read);
    }

    /// Asks for a key, and makes what it has not.
    async fn turn(&mut self) -> Result<(), ClientError> {
        let n = random() % keys();
        let key: TaskKey = format!("churn:{n}").parse().unwrap();
        let spec = Spec::new(Name::new(format!("churn/{}/{n}", n % 5)).unwrap());
        let (executor, id) = (Executor::default(), ExecutionId(std::array::from_fn(|_| random() as u8)));
        // Nobody beats here. Only whose daemon is killed has to be waited out.
        let ttl = Duration::from_secs(if self.kills { 5 } else { 60 });
        let begun = self
            .asking(async |client| {
                let remarks = Default::default();
                let begin = Begin {
                    key: &key,
                    spec: &spec,
                    execution: id,
                    executor: &executor,
                    ttl,
                    wait: false,
                    check: false,
                    remarks,
                };
                client.begin(begin, |_| {}).await
            })
            .await?;
        match begun {
            Begun::Hit(hit) => {
                Seen::add(&self.seen.hits);
                self.read(&hit).await;
                if random().is_multiple_of(16) {
                    let tree = Pinned::Tree(hit.outcome.outputs.unwrap());
                    let second = Some(Duration::from_secs(1));
                    self.asking(async |client| client.pin(&tree, "for a while", "churn", second).await).await?;
                    Seen::add(&self.seen.pinned);
                }
                Ok(())
            }
            Begun::Lease(_) => {
                let files = [sealed(LARGE, random()), sealed(SHARED, n % 7), sealed(3_000, n % 11)];
                let mut tree = Tree::new();
                let mut blobs = Vec::new();
                for (n, bytes) in files.into_iter().enumerate() {
                    let digest = Digest::of(&bytes);
                    tree.insert(format!("f{n}"), Node::File { digest, executable: false }).unwrap();
                    blobs.push((digest, bytes));
                }
                let encoded = tree.encode().unwrap();
                let root = Digest::of(&encoded);
                blobs.push((root, encoded));
                self.asking(async |client| client.upload_bytes(&blobs).await).await?;
                let outcome = Outcome { exit: Some(Exit::Code(0)), outputs: Some(root), ..Outcome::default() };
                match self.asking(async |client| client.commit(id, &outcome).await).await {
                    Ok(_) => Seen::add(&self.seen.made),
                    // While the daemon was away its lease ran out.
                    Err(ClientError::Fenced(_)) if self.kills => {}
                    Err(error) => return Err(error),
                }
                let answer = self.asking(async |client| client.lookup(std::slice::from_ref(&key)).await).await?;
                assert!(self.kills || answer[0].verdict == Verdict::Succeeded, "{answer:?}");
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn work(mut self, until: Instant) {
        while Instant::now() < until {
            match self.turn().await {
                Ok(()) => {}
                Err(error) if is_full(&error) => Seen::add(&self.seen.full),
                Err(error) => panic!("{error}"),
            }
            tokio::time::sleep(REST).await;
        }
    }
}

/// Reads whatever `latest` shows, as people do.
fn browse(mount: &Path, seen: &Seen, done: &AtomicBool) {
    let gone = |error: &std::io::Error| matches!(error.raw_os_error(), Some(2 | 116 | 107 | 5 | 103));
    while !done.load(Ordering::Relaxed) {
        let n = random() % keys();
        let path = mount.join(format!("tasks/churn/{}/{n}/latest/out/f0", n % 5));
        match std::fs::read(&path) {
            Ok(bytes) => {
                assert!(is_whole(&bytes), "{} shows other bytes", path.display());
                Seen::add(&seen.mounted);
            }
            Err(error) => assert!(gone(&error), "{}: {error}", path.display()),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn size(dir: &Path) -> u64 {
    let Ok(entries) = dir.read_dir() else { return 0 };
    let each = entries.flatten().map(|entry| match entry.metadata() {
        Ok(found) if found.is_dir() => size(&entry.path()),
        Ok(found) => found.len(),
        Err(_) => 0,
    });
    each.sum()
}

/// The rows of a daemon's store that is stopped, from scratch.
pub(crate) async fn audit(config: &MetaConfig, data: &Path, blobs: &BlobsConfig) {
    let meta = meta::open(config, data).await.unwrap();
    let store = Store::open(meta, blobs, Vec::new(), Arc::new(Metrics::new().unwrap())).await.unwrap();
    assert_eq!(store.audit().await.unwrap(), Vec::<String>::new());
}

fn churn(kills: bool) {
    let (protect, time, quota) = match soak() {
        true => (20, Duration::from_secs(600), 400_000_000_u64),
        false => (2, Duration::from_secs(16), 20_000_000),
    };
    let mount = crate::world::folder();
    let point = mount.path().join("mount");
    let config = format!("[gc]\nprotect_seconds = {protect}\nevery_seconds = 1\nquota_bytes = {quota}\n");
    let mut world = World::with(&config, &["--mount", point.to_str().unwrap()]);
    let (seen, done) = (Arc::new(Seen::default()), Arc::new(AtomicBool::new(false)));
    let until = Instant::now() + time;
    let remote: Remote = Remote::find(Some(&world.daemon.remote())).unwrap();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let workers: Vec<_> = (0..EXECUTORS)
        .map(|_| {
            let worker = Worker { remote: remote.clone(), client: None, seen: seen.clone(), kills };
            std::thread::spawn(move || runtime().block_on(worker.work(until)))
        })
        .collect();
    let browser = {
        let (seen, done) = (seen.clone(), done.clone());
        std::thread::spawn(move || browse(&point, &seen, &done))
    };
    let objects = world.data().join("blobs/objects");
    let mut next = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        std::thread::sleep(Duration::from_millis(100));
        seen.most.fetch_max(size(&objects), Ordering::Relaxed);
        if kills && Instant::now() > next {
            world.daemon.kill();
            world.daemon.restart();
            next = Instant::now() + Duration::from_secs(3);
        }
    }
    let ended: Vec<_> = workers.into_iter().map(std::thread::JoinHandle::join).collect();
    done.store(true, Ordering::Relaxed);
    let browsed = browser.join();
    eprintln!("churn: quota {quota}, {seen:?}");
    ended.into_iter().for_each(|ended| ended.unwrap());
    browsed.unwrap();
    let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
    assert!(count(&seen.made) > 20 && count(&seen.read) > 10 && count(&seen.mounted) > 10, "{seen:?}");
    assert_eq!(count(&seen.full), 0, "there was room for what is not protected");
    assert!(kills || count(&seen.made) * LARGE as u64 > quota + quota / 4, "it was no churn: {seen:?}");
    // One mark beyond it, for what comes while it is looked at.
    assert!(count(&seen.most) <= quota + quota / 10, "{seen:?}");
    let verified = world.cli(&["--json", "verify", "--deep"]).ok().json();
    assert_eq!(verified["lost"], 0, "{verified}");
    world.daemon.stop();
    let blobs = BlobsConfig::Disk { dir: world.data().join("blobs") };
    runtime().block_on(audit(&MetaConfig::default(), &world.data(), &blobs));
}

#[test]
fn nothing_that_was_answered_with_breaks_while_collection_runs_hard() {
    churn(false);
}

#[test]
fn nor_does_it_while_the_daemon_is_killed_every_few_seconds() {
    churn(true);
}

#[test]
fn nor_does_it_between_two_daemons_on_postgres() {
    let (protect, time, quota) = match soak() {
        true => (20, Duration::from_secs(600), 400_000_000_u64),
        // Whoever collects waits for the other daemon's answers each time.
        false => (2, Duration::from_secs(16), 20_000_000),
    };
    let config = format!("[gc]\nprotect_seconds = {protect}\nevery_seconds = 1\nquota_bytes = {quota}\n");
    let mut cluster = Cluster::two_on_postgres_configured(1, &[], &config);
    let (seen, until) = (Arc::new(Seen::default()), Instant::now() + time);
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let workers: Vec<_> = (0..EXECUTORS as usize)
        .map(|n| {
            let remote = Remote::find(Some(&cluster.remote(n))).unwrap();
            let worker = Worker { remote, client: None, seen: seen.clone(), kills: false };
            std::thread::spawn(move || runtime().block_on(worker.work(until)))
        })
        .collect();
    let objects = cluster.shared("blobs/objects");
    while Instant::now() < until {
        std::thread::sleep(Duration::from_millis(100));
        seen.most.fetch_max(size(&objects), Ordering::Relaxed);
    }
    let ended: Vec<_> = workers.into_iter().map(std::thread::JoinHandle::join).collect();
    eprintln!("churn on PostgreSQL: quota {quota}, {seen:?}");
    ended.into_iter().for_each(|ended| ended.unwrap());
    let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
    assert!(count(&seen.made) > 20 && count(&seen.read) > 5, "{seen:?}");
    assert_eq!(count(&seen.full), 0, "there was room for what is not protected");
    assert!(count(&seen.made) * LARGE as u64 > quota, "nothing had to go: {seen:?}");
    let verified = cluster.users[0].run(["--json", "verify", "--deep"]).ok().json();
    assert_eq!(verified["lost"], 0, "{verified}");
    runtime().block_on(cluster.audit());
}
