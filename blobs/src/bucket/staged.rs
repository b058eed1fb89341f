//! A blob on its way to a bucket.
//!
//! Owns [`BucketStaged`]: the order of things. A batch of bytes is hashed, and packed if it is to be in frames, while the next one gathers;
//! parts go up side by side from when one is full. An object's name says what is in it: what is announced goes straight to where it
//! belongs, and is discarded if it turns out to be something else; the rest waits in a file without a name. Invariant: no
//! more than a few parts are in memory.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use object_store::multipart::PartId;
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};
use provender_core::Digest;
use provender_core::blob::Form;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};

use super::Store;
use super::journal::Upload;
use crate::blocking::{Lent, blocking};
use crate::frames::Encoder;
use crate::{BlobError, CHUNK, Ingest, Location, Published, StageOptions, Staged};

/// The bytes of a part, unless there would be too many of them.
const PART: usize = 8 << 20;
/// How many parts an object may have.
const PARTS: u64 = 10_000;
/// How many parts are on their way at once, of one blob and of all.
const AT_ONCE: usize = 4;
pub(super) const OF_ALL: usize = 16;

pub(super) struct BucketStaged {
    maker: Lent<Maker>,
    batch: Vec<Bytes>,
    batched: usize,
    announced: Option<Digest>,
    nonce: u64,
    sink: Sink,
}

impl BucketStaged {
    pub(super) fn begin(store: Arc<Store>, options: StageOptions) -> Result<BucketStaged, BlobError> {
        if let Some(crate::Resume { from: from @ 1.., .. }) = options.resume {
            return Err(BlobError::Behind { from, staged: 0 });
        }
        let maker = Maker {
            ingest: Ingest::new(&options.aliases),
            encoder: options.frames.map(Encoder::new).transpose()?,
            made: Vec::new(),
        };
        let announced = options.announced;
        let nonce = getrandom::u64().map_err(|error| BlobError::io(&store.url, "name a blob", error))?;
        let to = announced.map(|digest| {
            let form = if maker.encoder.is_some() { Form::Frames { stored: 0 } } else { Form::Raw };
            store.object(&Location { digest, nonce, form })
        });
        let sink = Sink::new(store, to, announced.map_or(0, |digest| digest.size));
        Ok(BucketStaged { maker: Lent::new(maker), batch: Vec::new(), batched: 0, announced, nonce, sink })
    }

    /// Has what was batched made, and hands on what was made of the batch before.
    async fn make(&mut self) -> Result<(), BlobError> {
        let made = std::mem::take(&mut self.maker.settle().await?.made);
        self.sink.push(made);
        self.sink.send_full().await?;
        let batch = std::mem::take(&mut self.batch);
        self.batched = 0;
        self.maker.lend(move |maker| maker.make(batch));
        Ok(())
    }
}

#[async_trait]
impl Staged for BucketStaged {
    async fn write(&mut self, bytes: Bytes) -> Result<(), BlobError> {
        if self.batched + bytes.len() > CHUNK && self.batched > 0 {
            self.make().await?;
        }
        self.batched += bytes.len();
        self.batch.push(bytes);
        Ok(())
    }

    async fn publish(mut self: Box<Self>, expected: Option<Digest>) -> Result<Published, BlobError> {
        self.make().await?;
        let BucketStaged { maker, announced, nonce, mut sink, .. } = *self;
        let Maker { ingest, encoder, mut made } = maker.take().await?;
        let hashes = ingest.finish();
        hashes.check(expected)?;
        hashes.check(announced)?;
        let form = match encoder {
            None => Form::Raw,
            Some(encoder) => {
                let mut rest = Vec::new();
                let stored = encoder.finish(&mut rest)?;
                made.push(rest.into());
                Form::Frames { stored }
            }
        };
        sink.push(made);
        let location = Location { digest: hashes.digest, nonce, form };
        // What is on its way cannot be called back: if nobody waits for it any more, it is removed when it is there.
        let (claim, claimed) = oneshot::channel();
        tokio::spawn(async move {
            let stored = sink.finish(&location).await;
            _ = claim.send(
                stored.map(|()| Unclaimed { store: sink.store.clone(), object: Some(sink.store.object(&location)) }),
            );
        });
        claimed.await.map_err(|_| ENDING)??.claim();
        Ok(Published { location, signature: None, aliases: hashes.aliases, outboard: hashes.outboard })
    }
}

pub(super) const ENDING: BlobError = BlobError::Abandoned { why: "the program is ending" };

/// An object that nobody was told of. Dropping it removes it.
struct Unclaimed {
    store: Arc<Store>,
    object: Option<Path>,
}

impl Unclaimed {
    fn claim(mut self) {
        self.object = None;
    }
}

impl Drop for Unclaimed {
    fn drop(&mut self) {
        let (Some(object), Ok(runtime)) = (self.object.take(), Handle::try_current()) else { return };
        let store = self.store.clone();
        // What stays is found by listing, and refers to nothing.
        runtime.spawn(async move { store.client.delete(&object).await });
    }
}

/// Hashes what comes, and makes of it what is stored.
struct Maker {
    ingest: Ingest,
    encoder: Option<Encoder>,
    made: Vec<Bytes>,
}

impl Maker {
    fn make(mut self, batch: Vec<Bytes>) -> Result<Maker, BlobError> {
        let Some(encoder) = &mut self.encoder else {
            batch.iter().for_each(|piece| self.ingest.update(piece));
            self.made = batch;
            return Ok(self);
        };
        let mut packed = Vec::new();
        for piece in &batch {
            self.ingest.update(piece);
            encoder.push(piece, &mut packed)?;
        }
        self.made.push(packed.into());
        Ok(self)
    }
}

/// Where the bytes go. Dropping it discards them.
struct Sink {
    store: Arc<Store>,
    /// The object, if it can be known yet.
    to: Option<Path>,
    /// The size of a part.
    part: usize,
    pieces: Vec<Bytes>,
    len: usize,
    waiting: Option<Arc<File>>,
    waiting_len: u64,
    upload: Multipart,
    sent: usize,
    sending: JoinSet<Result<(usize, PartId), BlobError>>,
    ids: Vec<(usize, PartId)>,
}

/// How far a multipart upload is.
enum Multipart {
    None,
    Beginning(JoinHandle<Result<Upload, BlobError>>),
    Begun(Upload),
}

impl Sink {
    fn new(store: Arc<Store>, to: Option<Path>, size: u64) -> Sink {
        Sink {
            store,
            to,
            part: part_for(size),
            pieces: Vec::new(),
            len: 0,
            waiting: None,
            waiting_len: 0,
            upload: Multipart::None,
            sent: 0,
            sending: JoinSet::new(),
            ids: Vec::new(),
        }
    }

    fn push(&mut self, pieces: Vec<Bytes>) {
        self.len += pieces.iter().map(Bytes::len).sum::<usize>();
        self.pieces.extend(pieces);
    }

    /// Sends the parts that are full, or has them wait.
    async fn send_full(&mut self) -> Result<(), BlobError> {
        while self.len > self.part {
            match self.to.clone() {
                Some(to) => self.send(&to, self.part).await?,
                None => self.wait().await?,
            }
        }
        Ok(())
    }

    /// Sends the next part, of so many bytes, once few enough are on their way.
    async fn send(&mut self, to: &Path, len: usize) -> Result<(), BlobError> {
        let upload = self.upload(to).await?;
        while self.sending.len() >= AT_ONCE {
            self.join().await?;
        }
        let turn = self.store.sending.clone().acquire_owned().await.map_err(|_| ENDING)?;
        let (store, number, part) = (self.store.clone(), self.sent, self.cut(len));
        self.sent += 1;
        self.sending.spawn(async move {
            let _turn = turn;
            let sent = store.client.put_part(&upload.to, &upload.id, number, part).await;
            sent.map(|id| (number, id)).map_err(|error| store.failed("send a part of a blob", error))
        });
        Ok(())
    }

    async fn join(&mut self) -> Result<(), BlobError> {
        match self.sending.join_next().await {
            Some(Ok(sent)) => self.ids.push(sent?),
            Some(Err(_)) => return Err(ENDING),
            None => {}
        }
        Ok(())
    }

    /// The upload; it is begun by a task, so that it is not forgotten if nobody waits for it.
    async fn upload(&mut self, to: &Path) -> Result<Upload, BlobError> {
        loop {
            match &mut self.upload {
                Multipart::Begun(upload) => return Ok(upload.clone()),
                Multipart::Beginning(beginning) => {
                    let begun = beginning.await.map_err(|_| ENDING);
                    self.upload = Multipart::None;
                    self.upload = Multipart::Begun(begun??);
                }
                Multipart::None => {
                    let (store, to) = (self.store.clone(), to.clone());
                    self.upload = Multipart::Beginning(tokio::spawn(async move { store.begin_upload(&to).await }));
                }
            }
        }
    }

    /// The first `len` bytes of what is there.
    fn cut(&mut self, len: usize) -> PutPayload {
        let (mut part, mut left) = (Vec::new(), len.min(self.len));
        self.len -= left;
        let mut taken = 0;
        for piece in &mut self.pieces {
            let cut = piece.split_to(piece.len().min(left));
            left -= cut.len();
            part.push(cut);
            if !piece.is_empty() {
                break;
            }
            taken += 1;
        }
        self.pieces.drain(..taken);
        part.into_iter().collect()
    }

    /// Has what is there wait in a file until it is known what it is.
    async fn wait(&mut self) -> Result<(), BlobError> {
        let store = self.store.clone();
        let failed = move |error| {
            BlobError::io(&store.url, "keep a blob in a temporary file until it is known what it is", error)
        };
        let file = match &self.waiting {
            Some(file) => file.clone(),
            None => {
                let (file, failed) = (blocking(|| Ok(tempfile::tempfile())).await?, failed.clone());
                self.waiting.insert(Arc::new(file.map_err(failed)?)).clone()
            }
        };
        let (pieces, at) = (self.pieces.clone(), self.waiting_len);
        let written = blocking(move || {
            let mut at = at;
            for piece in &pieces {
                file.write_all_at(piece, at).map_err(&failed)?;
                at += piece.len() as u64;
            }
            Ok(at)
        });
        self.waiting_len = written.await?;
        self.pieces.clear();
        self.len = 0;
        Ok(())
    }

    /// Takes back from the file what waited, part by part, and sends it.
    async fn send_waiting(&mut self, to: &Path) -> Result<(), BlobError> {
        let Some(file) = self.waiting.take() else { return Ok(()) };
        let rest = std::mem::take(&mut self.pieces);
        self.len = 0;
        self.part = part_for(self.waiting_len);
        let mut at = 0;
        while at < self.waiting_len {
            let (file, store) = (file.clone(), self.store.clone());
            let mut piece = vec![0; (self.waiting_len - at).min(self.part as u64) as usize];
            at += piece.len() as u64;
            let read = blocking(move || {
                let from = at - piece.len() as u64;
                let read = file.read_exact_at(&mut piece, from);
                read.map(|()| piece).map_err(|error| BlobError::io(&store.url, "read a temporary file", error))
            });
            self.push(vec![read.await?.into()]);
            while self.len > self.part {
                self.send(to, self.part).await?;
            }
        }
        self.push(rest);
        Ok(())
    }

    /// Makes it an object, which is durable and visible.
    async fn finish(&mut self, location: &Location) -> Result<(), BlobError> {
        let to = self.store.object(location);
        self.send_waiting(&to).await?;
        self.to = Some(to.clone());
        self.send_full().await?;
        if let Multipart::None = self.upload {
            let whole = self.cut(self.len);
            return self.settle(self.store.client.put(&to, whole).await.map(drop), location).await;
        }
        self.send(&to, self.len).await?;
        while !self.sending.is_empty() {
            self.join().await?;
        }
        self.ids.sort_by_key(|(number, _)| *number);
        let (upload, ids) = (self.upload(&to).await?, self.ids.drain(..).map(|(_, id)| id).collect());
        let completed = self.store.client.complete_multipart(&upload.to, &upload.id, ids).await;
        self.settle(completed.map(drop), location).await?;
        self.upload = Multipart::None;
        let store = self.store.clone();
        tokio::spawn(async move { store.end_upload(&upload).await });
        Ok(())
    }

    /// Of what was answered with an error, or not at all, it may be there nevertheless: nobody else has its name.
    async fn settle(&self, answer: object_store::Result<()>, location: &Location) -> Result<(), BlobError> {
        let Err(error) = answer else { return Ok(()) };
        match self.store.head(location).await {
            Ok(Some(size)) if size == location.stored() => Ok(()),
            _ => Err(self.store.failed("store a blob", error)),
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let upload = std::mem::replace(&mut self.upload, Multipart::None);
        let Ok(runtime) = Handle::try_current() else { return };
        let (store, mut sending) = (self.store.clone(), std::mem::take(&mut self.sending));
        if matches!(upload, Multipart::None) {
            return;
        }
        runtime.spawn(async move {
            // A part that comes after its upload was aborted would stay.
            sending.shutdown().await;
            match upload {
                Multipart::Begun(upload) => store.abort_upload(&upload).await,
                Multipart::Beginning(beginning) => {
                    if let Ok(Ok(upload)) = beginning.await {
                        store.abort_upload(&upload).await;
                    }
                }
                Multipart::None => {}
            }
        });
    }
}

/// The size of a part of so many bytes.
fn part_for(size: u64) -> usize {
    let least = size.div_ceil(PARTS - 1).next_multiple_of(1 << 20);
    PART.max(least.try_into().unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_object_has_too_many_parts() {
        assert_eq!(part_for(0), PART);
        for size in [1, PART as u64, 10 << 30, 80 << 30, 5 << 40] {
            assert!(size.div_ceil(part_for(size) as u64) <= PARTS, "{size}");
        }
    }
}
