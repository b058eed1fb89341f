//! Moving files: what was captured goes up, what is restored comes down.
//!
//! Owns uploading a [`Captured`] and the [`Fetch`] that restores use. Invariants: what is there already is not sent; memory is bounded
//! whatever the sizes and counts; a file that is not what it was when it was hashed is an error.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream};
use provender_core::Digest;
use provender_proto::{MAX_BATCH_BYTES, MAX_BATCH_ITEMS, MAX_DIGESTS, MAX_PIECE};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;

use crate::client::Client;
use crate::error::ClientError;
use crate::files::{Captured, CapturedFile, Fetch, FetchError, open_captured};
use crate::patience::Patience;
use crate::process::Control;

/// The largest blob, in bytes, that is sent together with others.
const SMALL: u64 = 256 << 10;
/// From this size on it is asked first whether an earlier upload was cut off, in bytes.
const ASK_FIRST: u64 = 8 << 20;
/// How many calls are under way at once.
const AT_ONCE: usize = 4;

/// Hears of progress: bytes that are now in the store.
pub type Progress<'a> = &'a (dyn Fn(u64) + Sync);

/// Something to send: bytes in memory, or a file.
enum Source<'a> {
    Bytes(&'a Bytes),
    File(&'a CapturedFile),
}

impl Source<'_> {
    fn what(&self) -> String {
        match self {
            Source::Bytes(_) => "a folder's listing".into(),
            Source::File(file) => file.path().display().to_string(),
        }
    }

    fn read(&self) -> Result<Bytes, ClientError> {
        match self {
            Source::Bytes(bytes) => Ok((*bytes).clone()),
            Source::File(file) => {
                let failed = |source| ClientError::Read { what: self.what(), source };
                let mut bytes = Vec::with_capacity(file.digest.size as usize);
                // One more than it had: a file that grows is noticed, not followed.
                let mut file = open_captured(file).map_err(failed)?.take(file.digest.size + 1);
                file.read_to_end(&mut bytes).map_err(failed)?;
                Ok(bytes.into())
            }
        }
    }
}

impl Client {
    /// Makes sure that the daemon holds all of `captured`; returns how many bytes were sent.
    pub async fn upload_captured(&self, captured: &Captured, progress: Progress<'_>) -> Result<u64, ClientError> {
        let trees = captured.trees.iter().map(|(digest, bytes)| (*digest, Source::Bytes(bytes)));
        let files = captured.files.iter().map(|file| (file.digest, Source::File(file)));
        let all: std::collections::HashMap<_, _> = trees.chain(files).collect();
        self.upload_missing(&all, progress).await
    }

    /// Sends blobs that are in memory, as far as the daemon does not hold them.
    pub async fn upload_bytes(&self, blobs: &[(Digest, Bytes)]) -> Result<u64, ClientError> {
        let all = blobs.iter().map(|(digest, bytes)| (*digest, Source::Bytes(bytes))).collect();
        self.upload_missing(&all, &|_| {}).await
    }

    /// Makes sure that the daemon holds a blob, which `read` reads once more, from a thread that may block.
    pub async fn upload_reader(
        &self,
        digest: Digest,
        what: &str,
        read: impl FnOnce(&mut dyn FnMut(&mut dyn Read) -> std::io::Result<()>) -> std::io::Result<()> + Send + 'static,
    ) -> Result<(), ClientError> {
        if self.find_missing(&[digest]).await?.is_empty() {
            return Ok(());
        }
        let (pieces, receiver) = mpsc::channel(AT_ONCE);
        let reading =
            tokio::task::spawn_blocking(move || read(&mut |mut reader| read_pieces(&mut reader, digest.size, &pieces)));
        self.stream(digest, what, 0, receiver, reading).await
    }

    /// Writes a whole blob, checked as it goes: `out` gets no byte beyond its size, and all were right if this is `Ok`. Says
    /// whether `out` took them: that a pipe was closed is no error of ours.
    pub async fn copy(&self, digest: &Digest, out: &mut (dyn Write + Send)) -> Result<bool, ClientError> {
        let corrupt = || ClientError::Corrupt { digest: *digest };
        let (mut hasher, mut left) = (blake3::Hasher::new(), digest.size);
        let mut pieces = self.download(digest, 0, 0).await?;
        while let Some(piece) = pieces.next().await? {
            left = left.checked_sub(piece.len() as u64).ok_or_else(corrupt)?;
            hasher.update(&piece);
            if !taken(out.write_all(&piece))? {
                return Ok(false);
            }
        }
        if left != 0 || *hasher.finalize().as_bytes() != digest.hash {
            return Err(corrupt());
        }
        taken(out.flush())
    }

    /// A whole blob of at most `max` bytes, checked.
    pub async fn bytes(&self, digest: &Digest, max: u64) -> Result<Vec<u8>, ClientError> {
        if digest.size > max {
            return Err(ClientError::Corrupt { digest: *digest });
        }
        let mut bytes = Vec::new();
        self.copy(digest, &mut bytes).await?;
        Ok(bytes)
    }

    async fn upload_missing(
        &self,
        all: &std::collections::HashMap<Digest, Source<'_>>,
        progress: Progress<'_>,
    ) -> Result<u64, ClientError> {
        let digests: Vec<_> = all.keys().copied().collect();
        let mut missing = Vec::new();
        for digests in digests.chunks(MAX_DIGESTS) {
            missing.extend(self.find_missing(digests).await?);
        }
        let sent: u64 = missing.iter().map(|digest| digest.size).sum();
        let wanted = missing.iter().filter_map(|digest| Some((*digest, all.get(digest)?)));
        let (small, large): (Vec<_>, Vec<_>) = wanted.partition(|(digest, _)| digest.size <= SMALL);

        let batches = stream::iter(batches(small)).map(|batch| self.send_batch(batch, progress));
        batches.buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        let streams = stream::iter(large).map(|(digest, source)| self.send_large(digest, source, progress));
        streams.buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        Ok(sent)
    }

    async fn send_batch(&self, batch: Vec<(Digest, &Source<'_>)>, progress: Progress<'_>) -> Result<(), ClientError> {
        let blobs = batch.iter().map(|(_, source)| source.read()).collect::<Result<Vec<_>, _>>()?;
        let digests = self.batch_put(blobs).await?;
        for ((expected, source), found) in batch.iter().zip(digests) {
            if *expected != found {
                return Err(ClientError::Changed { what: source.what(), expected: *expected, found });
            }
            progress(found.size);
        }
        Ok(())
    }

    /// Sends a blob, going on where it was cut off before, by an earlier client too.
    async fn send_large(&self, digest: Digest, source: &Source<'_>, progress: Progress<'_>) -> Result<(), ClientError> {
        if let Source::File(file) = source
            && self.hand_over(digest, (*file).clone()).await?
        {
            progress(digest.size);
            return Ok(());
        }
        let (mut patience, mut from) = (Patience::new(), 0);
        if digest.size >= ASK_FIRST {
            // A daemon that does not know the question keeps nothing.
            from = self.query_upload(&digest).await.unwrap_or(Some(0)).unwrap_or(0);
        }
        loop {
            let error = match self.send_from(digest, source, from).await {
                Ok(()) => break,
                Err(error) => error,
            };
            if from > 0 && error.is_refused() {
                // What was kept is not its beginning, or not kept any more.
                from = 0;
                continue;
            }
            if !error.is_passing() || !patience.waits().await {
                return Err(error);
            }
            match self.query_upload(&digest).await {
                Ok(None) => break,
                Ok(Some(kept)) => {
                    if kept > from {
                        patience.renew();
                    }
                    from = kept;
                }
                Err(_) => {}
            }
        }
        progress(digest.size);
        Ok(())
    }

    /// Whether the daemon took the file itself.
    async fn hand_over(&self, digest: Digest, file: CapturedFile) -> Result<bool, ClientError> {
        let (client, what) = (self.clone(), file.path().display().to_string());
        // Gone with this call, whatever ends it.
        let here = Arc::new(());
        let asked = Arc::downgrade(&here);
        let given = tokio::task::spawn_blocking(move || {
            // A file that is not as it was is found out when its bytes are sent.
            let Ok(open) = open_captured(&file) else { return Ok(false) };
            client.give(&digest, &open, &|| asked.strong_count() > 0)
        });
        let store = |error| ClientError::Store { what, source: Box::new(error) };
        let given = given.await.unwrap_or(Ok(false)).map_err(store);
        drop(here);
        given
    }

    async fn send_from(&self, digest: Digest, source: &Source<'_>, from: u64) -> Result<(), ClientError> {
        let (pieces, receiver) = mpsc::channel(AT_ONCE);
        let left = digest.size.saturating_sub(from);
        let reading = match source {
            Source::Bytes(bytes) => {
                let bytes = bytes.slice(from as usize..);
                tokio::task::spawn_blocking(move || read_pieces(&mut &bytes[..], left, &pieces))
            }
            Source::File(file) => {
                let file = (*file).clone();
                tokio::task::spawn_blocking(move || {
                    let mut file = open_captured(&file)?;
                    file.seek(SeekFrom::Start(from))?;
                    read_pieces(&mut file, left, &pieces)
                })
            }
        };
        self.stream(digest, &source.what(), from, receiver, reading).await
    }

    async fn stream(
        &self,
        digest: Digest,
        what: &str,
        from: u64,
        pieces: mpsc::Receiver<Bytes>,
        reading: JoinHandle<std::io::Result<()>>,
    ) -> Result<(), ClientError> {
        let found = self.upload(Some(&digest), from, ReceiverStream::new(pieces)).await;
        let read = reading.await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        read.map_err(|source| ClientError::Read { what: what.to_owned(), source })?;
        match found {
            Ok(found) if found == digest => Ok(()),
            Ok(found) => Err(ClientError::Changed { what: what.to_owned(), expected: digest, found }),
            Err(error) => Err(ClientError::Store { what: what.to_owned(), source: Box::new(error) }),
        }
    }
}

/// Whether a reader took it; one that has gone away did not.
fn taken(written: std::io::Result<()>) -> Result<bool, ClientError> {
    match written {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        written => written.map(|()| true).map_err(ClientError::Write),
    }
}

/// Sends what a reader has in pieces, one byte more than expected at most.
fn read_pieces(file: &mut dyn Read, size: u64, pieces: &mpsc::Sender<Bytes>) -> std::io::Result<()> {
    let mut left = size + 1;
    loop {
        let mut piece = BytesMut::zeroed(MAX_PIECE.min(left as usize));
        let mut filled = 0;
        while filled < piece.len() {
            match file.read(&mut piece[filled..])? {
                0 => break,
                read => filled += read,
            }
        }
        piece.truncate(filled);
        left -= filled as u64;
        // The receiver goes when the daemon has the blob already, or has said no.
        if filled == 0 || pieces.blocking_send(piece.freeze()).is_err() || left == 0 {
            return Ok(());
        }
    }
}

fn batches<'a>(small: Vec<(Digest, &'a Source<'a>)>) -> Vec<Vec<(Digest, &'a Source<'a>)>> {
    let mut batches: Vec<Vec<_>> = Vec::new();
    let mut bytes = 0;
    for item in small {
        let size = item.0.size as usize;
        match batches.last_mut() {
            Some(batch) if batch.len() < MAX_BATCH_ITEMS / 4 && bytes + size <= MAX_BATCH_BYTES => {
                bytes += size;
                batch.push(item);
            }
            _ => {
                bytes = size;
                batches.push(vec![item]);
            }
        }
    }
    batches
}

/// Fetches for restores, from threads that may block.
#[derive(Debug, Clone)]
pub struct ClientFetch {
    client: Client,
    runtime: Handle,
    control: Control,
}

impl ClientFetch {
    /// A fetch through `client`, whose connection lives on `runtime`, until a signal comes to `control`.
    pub fn new(client: Client, runtime: Handle, control: Control) -> ClientFetch {
        ClientFetch { client, runtime, control }
    }

    fn wait<T>(&self, work: impl Future<Output = Result<T, FetchError>>) -> Result<T, FetchError> {
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                signal = self.control.signalled(0) => Err(format!("interrupted by signal {signal}").into()),
                done = work => done,
            }
        })
    }
}

impl Fetch for ClientFetch {
    fn small(&self, wants: &[Digest], sink: &mut dyn FnMut(usize, &[u8]) -> ControlFlow<()>) -> Result<(), FetchError> {
        let found = self.wait(async { Ok(self.client.batch_get(wants).await?) })?;
        for (index, bytes) in found.iter().enumerate() {
            if let Some(bytes) = bytes
                && sink(index, bytes).is_break()
            {
                break;
            }
        }
        Ok(())
    }

    fn lent(&self, want: &Digest) -> Result<Option<File>, FetchError> {
        let lent = self.client.lent(want, &|| self.is_wanted().is_ok())?;
        self.is_wanted()?;
        Ok(lent)
    }

    fn is_wanted(&self) -> Result<(), FetchError> {
        self.wait(std::future::ready(Ok(())))
    }

    fn large(&self, want: &Digest, out: &mut dyn Write) -> Result<(), FetchError> {
        self.wait(async {
            let mut download = self.client.download(want, 0, 0).await?;
            while let Some(piece) = download.next().await? {
                out.write_all(&piece)?;
            }
            Ok(())
        })
    }
}
