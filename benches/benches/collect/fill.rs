//! A store of many records, made fast: by the store's own API over memory, piece by piece, of which the rows are then written in large batches.
//!
//! So the rows are those that executors leave, whatever these come to be. Invariants: no two pieces write the same row, but that of a name, of
//! which the later piece is written later; when something was made is as if it had taken the [`PAST`].

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures::{StreamExt, stream};
use provender_benches::{Random, Result};
use provender_core::batch::{Batch, RowKey, Table};
use provender_core::execution::{Executor, Exit, Outcome};
use provender_core::key::TaskKey;
use provender_core::name::{Name, Space};
use provender_core::remarks::Remarks;
use provender_core::transition::Request;
use provender_core::tree::{Node, Tree};
use provender_core::{Digest, ExecutionId, Spec, Timestamp};
use provender_daemon::clock::{self, Simulated};
use provender_daemon::meta::{CommitError, Memory, Meta, Scan};
use provender_daemon::metrics::Metrics;
use provender_daemon::store::{Begin, Store};

/// The records of one piece.
const PIECE: u64 = 500;
/// How many pieces are made at once.
const AT_ONCE: usize = 2;
/// The rows of one batch.
const BATCH: usize = 10_000;
/// How many records after each other share one blob.
const SHARERS: u64 = 4;
/// The bytes of a blob.
const BYTES: usize = 64;
/// The successes of each name.
pub(crate) const OF_A_NAME: u64 = 10;
/// From when until when before now the records were made.
pub(crate) const PAST: Range<Duration> = Duration::from_secs(24 * 3600)..Duration::from_secs(30 * 24 * 3600);

/// How large a store is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    /// Records, each of a key of its own.
    pub(crate) records: u64,
    /// Blobs, about: each record has as many, with its tree and the list of them, and a share in one more.
    pub(crate) blobs: u64,
}

impl Sizes {
    /// How many names there are.
    pub(crate) fn names(self) -> u64 {
        (self.records / OF_A_NAME).max(1)
    }

    fn request(self, n: u64) -> Result<Request> {
        let name = n % self.names();
        let mut spec = Spec::new(Name::new(format!("names/{}/{}", name / 1_000, name % 1_000))?);
        spec.command = vec!["make".into(), "all".into()];
        spec.params = [("seed".to_owned(), n.into())].into();
        let executor = Executor { program: "bench".into(), user: "me".into(), host: "here".into(), pid: 1 };
        let mut id = [0; 16];
        id.copy_from_slice(&Digest::of(&n.to_le_bytes()).hash[..16]);
        let (id, key, ttl) = (ExecutionId(id), key(n)?, Duration::from_secs(60));
        Ok(Request { id, key, spec, executor, ttl, check: false, remarks: Remarks::default() })
    }

    async fn make(self, store: &Store, n: u64) -> Result<()> {
        let (space, request) = (Space::default(), self.request(n)?);
        let Begin::Lease(..) = store.begin(&space, &request, None).await? else {
            return Err(format!("no lease for {}", request.key).into());
        };
        let own = (self.blobs / self.records).saturating_sub(2);
        let mut files: Vec<_> = (0..own).map(|file| bytes(n, file)).collect();
        files.push(bytes(n / SHARERS, u64::MAX));
        let mut tree = Tree::new();
        for (file, digest) in store.put_small(&space, files).await?.into_iter().enumerate() {
            tree.insert(format!("{file}"), Node::File { digest, executable: false })?;
        }
        let outputs = store.put_small(&space, vec![tree.encode()?]).await?.pop();
        let outcome = Outcome { exit: Some(Exit::Code(0)), outputs, ..Outcome::default() };
        match store.commit(&space, request.id, &outcome).await? {
            (_, true) => Ok(()),
            (execution, false) => Err(format!("not recorded: {execution:?}").into()),
        }
    }
}

/// The key of a record, as `provender run` derives them.
pub(crate) fn key(n: u64) -> Result<TaskKey> {
    Ok(TaskKey::new("run", &Digest::of(&n.to_be_bytes()).hex())?)
}

fn bytes(n: u64, file: u64) -> Bytes {
    let mut random = Random::new(n ^ file.rotate_left(40));
    (0..BYTES / 8).flat_map(|_| random.draw().to_le_bytes()).collect()
}

/// Makes records, in so many equal steps of time; how many rows that are.
pub(crate) async fn fill(meta: &Arc<dyn Meta>, sizes: Sizes, which: Range<u64>, past: Range<Duration>) -> Result<u64> {
    let (began, first, many) = (Instant::now(), which.start, which.end - which.start);
    #[allow(clippy::disallowed_methods, reason = "there is no clock module here")]
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let at = move |n: u64| now - past.end + (past.end - past.start).mul_f64((n - first) as f64 / many as f64);
    let pieces = which.clone().step_by(PIECE as usize).map(move |from| {
        let end = which.end.min(from + PIECE);
        tokio::task::spawn_blocking(move || piece(sizes, from..end, at))
    });
    let mut pieces = stream::iter(pieces).buffered(AT_ONCE);
    let (mut rows, mut told) = (0, Instant::now());
    while let Some(piece) = pieces.next().await {
        let piece = piece??;
        rows += piece.len() as u64;
        for batch in piece.chunks(BATCH) {
            write(&**meta, batch).await?;
        }
        if told.elapsed() > Duration::from_secs(30) {
            told = Instant::now();
            eprintln!("{rows} rows, {:.0} a second", rows as f64 / began.elapsed().as_secs_f64());
        }
    }
    Ok(rows)
}

/// The rows of some records.
fn piece(sizes: Sizes, which: Range<u64>, at: impl Fn(u64) -> Duration) -> Result<Vec<(RowKey, Bytes)>> {
    let time = Arc::new(Then { now: AtomicU64::new(at(which.start).as_millis() as u64), began: Instant::now() });
    let _simulation = clock::simulate(time.clone());
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let memory = Memory::default();
        let blobs = provender_blobs::open(&provender_blobs::BlobsConfig::Memory {}, None).await?;
        let aliases = vec![provender_blobs::HashFunction::Sha256];
        let store = Store::over(Arc::new(memory.clone()), blobs, aliases, Arc::new(Metrics::new()?)).await?;
        for n in which {
            time.now.store(at(n).as_millis() as u64, Ordering::Relaxed);
            sizes.make(&store, n).await?;
        }
        let mut rows = Vec::new();
        // The facts are the real store's.
        for table in Table::ALL.into_iter().filter(|table| table.has_rows() && *table != Table::Store) {
            let mut scan = Scan::prefix(table, "");
            loop {
                let page = memory.scan(&scan).await?;
                scan.after = page.rows.last().map(|(key, _)| key.clone());
                rows.extend(page.rows.into_iter().map(|(key, row)| (RowKey { table, key }, row.value)));
                if !page.more {
                    break;
                }
            }
        }
        Ok(rows)
    })
}

async fn write(meta: &dyn Meta, rows: &[(RowKey, Bytes)]) -> Result<()> {
    let mut batch = Batch::new(clock::batch_id());
    rows.iter().for_each(|(key, value)| _ = batch.put(key.clone(), value.clone()));
    for _ in 0..100 {
        match meta.commit(batch.clone()).await {
            Ok(_) => return Ok(()),
            // Others are being sorted.
            Err(CommitError::NotCommitted { .. }) => tokio::time::sleep(Duration::from_millis(100)).await,
            Err(error) => return Err(error.into()),
        }
    }
    Err("the database takes no rows".into())
}

/// The clock of a time that is past.
struct Then {
    now: AtomicU64,
    began: Instant,
}

impl Simulated for Then {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.now.load(Ordering::Relaxed))
    }

    fn monotonic(&self) -> Duration {
        self.began.elapsed()
    }

    fn fill(&self, bytes: &mut [u8]) {
        // Nonces and ids have to differ from piece to piece.
        static DRAWN: AtomicU64 = AtomicU64::new(0);
        for word in bytes.chunks_mut(32) {
            let drawn = DRAWN.fetch_add(1, Ordering::Relaxed);
            let hash = Digest::of(&[u64::from(std::process::id()), drawn].map(u64::to_le_bytes).concat()).hash;
            word.copy_from_slice(&hash[..word.len()]);
        }
    }
}

/// How many rows there are.
pub(crate) async fn rows(meta: &dyn Meta) -> Result<u64> {
    let mut rows = 0;
    for table in Table::ALL.into_iter().filter(|table| table.has_rows()) {
        let mut scan = Scan::prefix(table, "");
        loop {
            let page = meta.scan(&scan).await?;
            rows += page.rows.len() as u64;
            scan.after = page.rows.last().map(|(key, _)| key.clone());
            if !page.more {
                break;
            }
        }
    }
    Ok(rows)
}
