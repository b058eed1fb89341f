//! Making packs: whoever has small blobs to store at the same time shares one.
//!
//! While no pack is on its way, the first blobs that come go at once; those that come meanwhile go together when it is there, or
//! beside it once they fill one. So who is alone does not wait, and of many each request carries as much as it can. Invariants: what was
//! taken is written, or told to have failed, whatever becomes of who asked; so many bytes at most are in memory here.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use object_store::{ObjectStoreExt, PutPayload};
use parking_lot::Mutex;
use provender_core::Digest;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Store;
use super::error::again;
use super::staged::ENDING;
use crate::blocking::blocking;
use crate::pack::{MOST, Packing};
use crate::{BlobError, Location};

/// The most bytes of blobs that wait or are on their way.
const IN_MEMORY: usize = 8 * MOST;
/// How many packs are on their way at once.
const AT_ONCE: usize = 4;

/// The blobs that wait.
#[derive(Debug)]
pub(super) struct Packer {
    gathering: Mutex<Gathering>,
    memory: Arc<Semaphore>,
}

impl Default for Packer {
    fn default() -> Packer {
        Packer { gathering: Mutex::default(), memory: Arc::new(Semaphore::new(IN_MEMORY)) }
    }
}

#[derive(Debug, Default)]
struct Gathering {
    waiting: VecDeque<Waiting>,
    /// What they come to.
    bytes: usize,
    /// How many packs are on their way.
    writing: usize,
}

/// A blob of somebody's.
#[derive(Debug)]
struct Waiting {
    digest: Digest,
    bytes: Bytes,
    /// Which of its caller's it is, and where to tell.
    number: usize,
    answer: UnboundedSender<(usize, Answer)>,
    _memory: Arc<OwnedSemaphorePermit>,
}

/// One error for all whose blobs were in the pack.
type Answer = Result<Location, Arc<BlobError>>;

/// Those whose blobs are in a pack, and which of its blobs those are.
type Askers = Vec<(Waiting, usize)>;

impl Gathering {
    fn take(&mut self, blobs: impl Iterator<Item = Waiting>) {
        for blob in blobs {
            self.bytes += blob.bytes.len();
            self.waiting.push_back(blob);
        }
    }

    /// What goes now, if anything does.
    fn next(&mut self) -> Option<(Packing, Askers)> {
        let is_time = self.writing == 0 || (self.writing < AT_ONCE && self.bytes >= MOST);
        if self.waiting.is_empty() || !is_time {
            return None;
        }
        let (mut packing, mut askers) = (Packing::default(), Askers::new());
        while let Some(first) = self.waiting.pop_front_if(|next| packing.has_room(&next.digest, next.bytes.len())) {
            self.bytes -= first.bytes.len();
            let number = packing.push(first.digest, first.bytes.clone());
            askers.push((first, number));
        }
        self.writing += 1;
        Some((packing, askers))
    }
}

impl Store {
    /// Stores small blobs in packs, and tells where each is.
    pub(super) async fn pack_up(self: &Arc<Self>, blobs: Vec<(Digest, Bytes)>) -> Result<Vec<Location>, BlobError> {
        let (count, (answer, mut answers)) = (blobs.len(), unbounded_channel());
        // Who has more than the memory for all waits for all of it.
        let weight = blobs.iter().map(|(_, bytes)| bytes.len()).sum::<usize>().min(IN_MEMORY) as u32;
        let memory = self.packer.memory.clone().acquire_many_owned(weight).await.map_err(|_| ENDING)?;
        let memory = Arc::new(memory);
        let waiting = blobs.into_iter().enumerate().map(|(number, (digest, bytes))| Waiting {
            digest,
            bytes,
            number,
            answer: answer.clone(),
            _memory: memory.clone(),
        });
        self.packer.gathering.lock().take(waiting);
        drop((answer, memory));
        self.send_packs();
        let mut locations = vec![None; count];
        while let Some((number, answer)) = answers.recv().await {
            locations[number] = Some(answer.map_err(|error| again(&error))?);
        }
        locations.into_iter().collect::<Option<_>>().ok_or(ENDING)
    }

    /// Sends what can be sent now.
    fn send_packs(self: &Arc<Self>) {
        while let Some((packing, askers)) = { self.packer.gathering.lock().next() } {
            let store = self.clone();
            tokio::spawn(async move {
                let sent = Sent(store);
                let outcome = sent.0.send_pack(packing).await.map_err(Arc::new);
                for (asker, number) in askers {
                    let answer = outcome.as_ref().map(|locations| locations[number]).map_err(Arc::clone);
                    // Who does not wait any more has left bytes in a pack that nobody wants.
                    _ = asker.answer.send((asker.number, answer));
                }
            });
        }
    }

    async fn send_pack(self: &Arc<Self>, packing: Packing) -> Result<Vec<Location>, BlobError> {
        let nonce = getrandom::u64().map_err(|error| BlobError::io(&self.url, "name a pack", error))?;
        let store = self.clone();
        let made = blocking(move || {
            let (pack, locations) = packing.finish(nonce)?;
            store.remember(&pack, &locations);
            Ok((pack, locations))
        });
        let (pack, locations) = made.await?;
        let (object, size) = (self.pack(nonce), pack.len() as u64);
        let _turn = self.sending.acquire().await.map_err(|_| ENDING)?;
        let answer = self.client.put(&object, PutPayload::from(pack)).await;
        // Of what was answered with an error, or not at all, it may be there nevertheless: nobody else has its name.
        match answer {
            Ok(_) => Ok(locations),
            Err(error) => match self.size(&object).await {
                Ok(Some(found)) if found == size => Ok(locations),
                _ => Err(self.failed("store small blobs", error)),
            },
        }
    }
}

/// A pack on its way. When it ends, however it does, others have their turn.
struct Sent(Arc<Store>);

impl Drop for Sent {
    fn drop(&mut self) {
        self.0.packer.gathering.lock().writing -= 1;
        if tokio::runtime::Handle::try_current().is_ok() {
            self.0.send_packs();
        }
    }
}
