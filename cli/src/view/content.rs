//! The bytes of files, each from the nearest place that has them.
//!
//! Owns [`Contents`]. What is whole in the cache is a file for the kernel; what is small comes whole, and is kept; everything else is streamed
//! through the cache, group by group. Invariant: nothing is handed out that was not checked here. A daemon that is too old to give outboards has
//! the whole blob fetched first; whoever opens it meanwhile waits no longer than for any answer, and fails then.

use std::cell::Cell;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use provender_blobs::Outboard;
use provender_blobs::cache::{Cache, Fetch, FetchError, ReadError, Stream};
use provender_blobs::held::{Held, Keeping, Open};
use provender_client::{Client, ClientError};
use provender_core::Digest;
use provender_fuse::{Content, ReadAt, SourceError, time_left};

use super::link::Link;

/// How long a stream waits for a daemon that is being restarted.
const RESTART: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(100);

/// Opens files.
#[derive(Debug)]
pub(super) struct Contents {
    link: Option<Link>,
    cache: Cache,
    /// What is open of it, and who has it kept.
    open: Open,
    _keeping: Option<Keeping>,
    /// What is being fetched whole since it cannot be proven part by part.
    filling: Mutex<HashMap<Digest, Arc<Filling>>>,
}

impl Contents {
    pub(super) fn new(link: Option<Link>, cache: Cache) -> Contents {
        let open = Open::default();
        let keeping = link.as_ref().map(|link| {
            let asked = link.clone();
            open.keep(link.runtime(), move |digests| {
                let link = asked.clone();
                async move { link.client()?.protect(&digests).await.ok() }
            })
        });
        Contents { link, cache, open, _keeping: keeping, filling: Mutex::default() }
    }

    /// A file, or a directory as it is stored.
    pub(super) fn open(&self, digest: Digest) -> Result<Content, SourceError> {
        if !Outboard::has(digest.size) {
            return self.whole(&digest).map(Content::Bytes);
        }
        if let Some(file) = self.cache.file(&digest) {
            return Ok(Content::Fd(file));
        }
        let stream = match self.cache.streaming(&digest) {
            Some(stream) => stream,
            None => {
                let fetch = Arc::new(Download { link: self.link.clone(), digest });
                self.cache.stream(self.outboard(&digest)?, fetch)
            }
        };
        Ok(Content::Reader(Box::new(Reader { stream, _held: self.open.hold(digest) })))
    }

    fn whole(&self, digest: &Digest) -> Result<Bytes, SourceError> {
        if let Some(bytes) = self.cache.bytes(digest) {
            return Ok(bytes);
        }
        let link = self.link.as_ref().ok_or_else(|| not_cached("a file"))?;
        let bytes = link.ask(async |client| client.bytes(digest, digest.size).await)?;
        self.cache.keep(digest, &bytes);
        Ok(bytes.into())
    }

    fn outboard(&self, digest: &Digest) -> Result<Outboard, SourceError> {
        if let Some(outboard) = self.cache.outboard(digest) {
            return Ok(outboard);
        }
        let link = self.link.as_ref().ok_or_else(|| not_cached("a file"))?;
        match link.ask(async |client| client.outboard(digest).await)? {
            Some(outboard) => {
                self.cache.keep_outboard(&outboard);
                Ok(outboard)
            }
            None => self.fill(link, *digest),
        }
    }

    /// Has a blob fetched whole, by one thread whoever asks.
    fn fill(&self, link: &Link, digest: Digest) -> Result<Outboard, SourceError> {
        let mut all = self.filling.lock().unwrap_or_else(PoisonError::into_inner);
        // What failed is tried again.
        all.retain(|_, filling| !filling.has_failed());
        let filling = all.entry(digest).or_insert_with(|| {
            let filling = Arc::new(Filling::default());
            let (cache, fetch) = (self.cache.clone(), Download { link: Some(link.clone()), digest });
            let told = filling.clone();
            std::thread::spawn(move || told.tell(cache.fill(&digest, &fetch)));
            filling
        });
        let filling = filling.clone();
        drop(all);
        filling.wait().unwrap_or(Err(SourceError::TimedOut))
    }
}

/// A blob on its way, for those who wait for it.
#[derive(Debug, Default)]
struct Filling {
    outcome: Mutex<Option<Result<Outboard, ReadError>>>,
    is_told: Condvar,
}

impl Filling {
    fn tell(&self, outcome: Result<Outboard, ReadError>) {
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        self.is_told.notify_all();
    }

    fn has_failed(&self) -> bool {
        matches!(*self.outcome.lock().unwrap_or_else(PoisonError::into_inner), Some(Err(_)))
    }

    /// `None` if it takes longer than an answer may.
    fn wait(&self) -> Option<Result<Outboard, SourceError>> {
        let outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.is_told.wait_timeout_while(outcome, time_left(), |outcome| outcome.is_none());
        let (outcome, _) = waited.unwrap_or_else(PoisonError::into_inner);
        outcome.clone().map(|outcome| outcome.map_err(failed))
    }
}

/// Ranges of a blob, by the daemon.
struct Download {
    link: Option<Link>,
    digest: Digest,
}

impl Fetch for Download {
    fn fetch(&self, range: Range<u64>) -> Result<Bytes, FetchError> {
        let link = self.link.as_ref().ok_or_else(|| not_cached("a part of a file"));
        let has_come = Cell::new(false);
        let download = async |client: &Client| self.download(client, range, &has_come).await;
        let bytes = link.and_then(|link| link.ask_for_much(&has_come, download));
        bytes.map_err(|error| Arc::new(error) as FetchError)
    }
}

impl Download {
    async fn download(&self, client: &Client, range: Range<u64>, has_come: &Cell<bool>) -> Result<Bytes, ClientError> {
        let began = Instant::now();
        loop {
            match self.part(client, &range, has_come).await {
                Err(error) if error.is_passing() && began.elapsed() < RESTART => tokio::time::sleep(PAUSE).await,
                outcome => return outcome,
            }
        }
    }

    async fn part(&self, client: &Client, range: &Range<u64>, has_come: &Cell<bool>) -> Result<Bytes, ClientError> {
        let length = range.end - range.start;
        let mut pieces = client.download(&self.digest, range.start, length).await?;
        let mut bytes = BytesMut::new();
        while let Some(piece) = pieces.next().await? {
            has_come.set(true);
            // What comes in one piece needs no copy.
            if piece.len() as u64 == length && bytes.is_empty() {
                return Ok(piece);
            }
            bytes.extend_from_slice(&piece);
            if bytes.len() as u64 > length {
                break;
            }
        }
        Ok(bytes.freeze())
    }
}

/// A stream, as the view reads.
struct Reader {
    stream: Arc<Stream>,
    _held: Held,
}

impl ReadAt for Reader {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, SourceError> {
        self.stream.read_at(buf, offset, time_left()).map_err(failed)
    }
}

/// What nobody may be asked for.
pub(super) fn not_cached(what: &str) -> SourceError {
    SourceError::Unavailable {
        source: format!("{what} that is needed is not in the cache, and this view is --offline").into(),
    }
}

/// Each of those who wait for one fetch has its error.
fn failed(error: ReadError) -> SourceError {
    let cause = match &error {
        ReadError::Fetch(cause) => cause,
        ReadError::TimedOut => return SourceError::TimedOut,
        damaged => return SourceError::Damaged { what: damaged.to_string() },
    };
    match cause.downcast_ref::<SourceError>() {
        Some(SourceError::NotFound) => SourceError::NotFound,
        Some(SourceError::Stale) => SourceError::Stale,
        Some(SourceError::TimedOut) => SourceError::TimedOut,
        Some(SourceError::Damaged { what }) => SourceError::Damaged { what: what.clone() },
        Some(SourceError::Unavailable { source }) => SourceError::Unavailable { source: source.to_string().into() },
        None => SourceError::Unavailable { source: Box::new(error) },
    }
}
