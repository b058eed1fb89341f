//! The local cache of a mounted view: verified bytes in a folder, for readers that block.
//!
//! Owns [`Cache`]: a folder bounded in bytes, the least recently used going first, which several processes of one user share and
//! which may be deleted at any time. Invariant: **what a file in it holds is proven before it is handed out**: by its digest, by the groups of its
//! outboard, by its own checksum, or by the signature that was recorded after all its groups had been read back and found right. So there is nothing
//! to sync for small files, nothing to repair after a crash, and what is torn or damaged is fetched anew.
//! It must not know where bytes come from: that is a [`Fetch`].
//!
//! A large blob is one file at its own offsets, sparse while parts are missing, so that the kernel can read it by itself once it is whole.
//! Nothing here fails a reader because the folder does: without it, bytes come from the [`Fetch`] and are not kept.

mod ahead;
mod folder;
mod part;
mod room;
mod stream;
mod workers;

/// What is raced for, in the tests with other locks (`tests::raced`).
mod sync {
    pub(super) use parking_lot::{Condvar, Mutex};
    pub(super) use std::sync::atomic::{AtomicBool, AtomicU64};
}

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use provender_core::Digest;

use self::folder::Folder;
use self::part::Part;

use self::room::Room;
pub use self::stream::Stream;
use self::sync::Mutex;
use self::workers::{Job, Workers};
use crate::Outboard;
use crate::outboard::TreeHasher;
use crate::recent::Recent;

/// How many bytes of groups that were read last are kept in memory, for all streams together; one group for each of
/// [`SHARDS`](crate::recent::SHARDS) where groups are larger.
const IN_MEMORY: u64 = 64 << 20;
/// How many bytes are asked for at once by [`Cache::fill`].
const PIECE: u64 = 4 << 20;

/// Why bytes could not be had from where they come from; shared by all who waited for them.
pub type FetchError = Arc<dyn std::error::Error + Send + Sync>;

/// Where the bytes of one blob come from. Calls block, several at once; each must end in bounded time.
pub trait Fetch: Send + Sync + 'static {
    /// The bytes of `range`, which is not empty and lies within the blob. They need not be checked: the cache does.
    fn fetch(&self, range: Range<u64>) -> Result<Bytes, FetchError>;
}

/// Why a read through the cache failed. Never because of the cache's folder.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// The bytes cannot be had.
    #[error("{0}")]
    Fetch(FetchError),
    /// Other bytes came than the blob has.
    #[error("other bytes came than those {} to {} of {digest}", range.start, range.end)]
    Wrong {
        /// The blob.
        digest: Digest,
        /// Which of its bytes.
        range: Range<u64>,
    },
    /// They were still on their way when the reader's patience ended.
    #[error("the bytes did not come in time")]
    TimedOut,
    /// Whoever fetched them for all ended without a result, which is a defect.
    #[error("the fetch of a part of {digest} was given up")]
    Abandoned {
        /// The blob.
        digest: Digest,
    },
}

/// Why a folder cannot be a cache.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// It is not there and cannot be made.
    #[error("cannot make the cache folder {}: {source}", path.display())]
    Make {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others could change what is in it, and what they write would be believed.
    #[error("the cache folder {} {why}; give one that only you can write to (chmod go-w, or --cache)", path.display())]
    Unsafe {
        /// The folder.
        path: PathBuf,
        /// In which way.
        why: &'static str,
    },
}

/// A cache, cheap to clone.
#[derive(Clone)]
pub struct Cache {
    shared: Arc<Shared>,
}

struct Shared {
    place: Option<Place>,
    recent: Recent,
    workers: Workers,
    streams: Mutex<HashMap<Digest, Weak<Stream>>>,
    next_stream: AtomicU64,
}

/// The folder, and what may be in it.
struct Place {
    folder: Folder,
    room: Room,
}

impl Cache {
    /// The cache in a folder, which is made if it is missing, for the user alone; with about `budget` bytes on the disk at most (each process that
    /// writes may be over by a sixteenth). A folder that cannot be written to is read from.
    pub fn open(dir: &Path, budget: u64) -> Result<Cache, CacheError> {
        let place = Place { folder: Folder::open(dir)?, room: Room::new(budget) };
        Ok(Cache::with(Some(place)))
    }

    /// One that keeps nothing: streams share their fetches, and that is all.
    pub fn none() -> Cache {
        Cache::with(None)
    }

    /// Where its files are; `None` if it keeps nothing.
    pub fn folder(&self) -> Option<&Path> {
        self.shared.place.as_ref().map(|place| place.folder.root())
    }

    fn with(place: Option<Place>) -> Cache {
        let (streams, next_stream) = (Mutex::default(), AtomicU64::new(0));
        let (recent, workers) = (Recent::new(IN_MEMORY), Workers::new());
        Cache { shared: Arc::new(Shared { place, recent, workers, streams, next_stream }) }
    }

    /// The file of a large blob that is whole and looks as it did when it was found right; to be read by anybody, also the kernel. Once
    /// open, it stays readable whatever becomes of the cache.
    pub fn file(&self, digest: &Digest) -> Option<File> {
        self.shared.place.as_ref()?.folder.whole(digest)
    }

    /// A blob that was kept as [`Cache::keep`] does, checked; all of it is read.
    pub fn bytes(&self, digest: &Digest) -> Option<Bytes> {
        self.shared.place.as_ref()?.folder.bytes(digest)
    }

    /// Keeps a blob that is at hand as a whole, such as a small file or a directory.
    pub fn keep(&self, digest: &Digest, bytes: &[u8]) {
        let Some(place) = self.shared.place.as_ref().filter(|place| place.room.is_for(digest.size)) else { return };
        let kept = match Outboard::has(digest.size) {
            true => Part::new(*digest).write(&place.folder, 0, bytes),
            false => place.folder.put(&place.folder.blob(digest), bytes),
        };
        place.room.settle(&place.folder, kept);
    }

    /// The outboard of a blob, if it is kept.
    pub fn outboard(&self, digest: &Digest) -> Option<Outboard> {
        self.shared.place.as_ref()?.folder.outboard(digest)
    }

    /// Keeps an outboard, so that what is there of its blob can be proven without asking anybody.
    pub fn keep_outboard(&self, outboard: &Outboard) {
        if let Some(place) = &self.shared.place {
            let path = place.folder.outboard_path(outboard.digest());
            place.room.settle(&place.folder, place.folder.put(&path, &outboard.to_bytes()));
        }
    }

    /// A stream of this blob that somebody else is reading.
    pub fn streaming(&self, digest: &Digest) -> Option<Arc<Stream>> {
        self.shared.streams.lock().get(digest)?.upgrade()
    }

    /// A large blob, to be read part by part: what is kept of it is taken from the folder, the rest fetched, and kept if there is room.
    /// Whoever streams the same blob shares it all, so `fetch` is that of the first.
    pub fn stream(&self, outboard: Outboard, fetch: Arc<dyn Fetch>) -> Arc<Stream> {
        let digest = *outboard.digest();
        let stream = {
            let mut streams = self.shared.streams.lock();
            match streams.get(&digest).and_then(Weak::upgrade) {
                Some(stream) => stream,
                None => {
                    streams.retain(|_, stream| stream.strong_count() > 0);
                    let id = self.shared.next_stream.fetch_add(1, Ordering::Relaxed);
                    let stream = Arc::new(Stream::new(self.shared.clone(), id, outboard, fetch));
                    streams.insert(digest, Arc::downgrade(&stream));
                    stream
                }
            }
        };
        // What is all there already, and only not known to be right, is looked through.
        self.shared.workers.send(Job::Finish(stream.clone()));
        stream
    }

    /// Fetches a blob of which no outboard can be had from its begin to its end, keeping it as it comes, and makes its outboard. Takes as long
    /// as that takes.
    pub fn fill(&self, digest: &Digest, fetch: &dyn Fetch) -> Result<Outboard, ReadError> {
        let (mut hasher, mut part, mut at) = (TreeHasher::new(), Part::new(*digest), 0);
        let place = self.shared.place.as_ref().filter(|place| place.room.is_for(digest.size));
        while at < digest.size {
            let range = at..digest.size.min(at + PIECE);
            let piece = fetch.fetch(range.clone()).map_err(ReadError::Fetch)?;
            if piece.len() as u64 != range.end - range.start {
                return Err(ReadError::Wrong { digest: *digest, range });
            }
            hasher.update(&piece);
            if let Some(place) = place {
                place.room.settle(&place.folder, part.write(&place.folder, at, &piece));
            }
            at = range.end;
        }
        let outboard = match hasher.finish() {
            (found, Some(outboard)) if found == *digest => outboard,
            _ => return Err(ReadError::Wrong { digest: *digest, range: 0..digest.size }),
        };
        self.keep_outboard(&outboard);
        Ok(outboard)
    }

    /// What was last kept under a key, if it is as it was then.
    pub fn recall(&self, key: &[u8; 32]) -> Option<Bytes> {
        self.shared.place.as_ref()?.folder.recall(key)
    }

    /// Keeps a few bytes that are no blob under a key, over what was there.
    pub fn remember(&self, key: &[u8; 32], body: &[u8]) {
        if let Some(place) = &self.shared.place {
            place.room.settle(&place.folder, place.folder.remember(key, body));
        }
    }

    /// Removes what was used least recently, if there is more than the budget allows; done by itself whenever enough was written.
    pub fn tidy(&self) {
        if let Some(place) = &self.shared.place {
            place.room.tidy(&place.folder);
        }
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.shared.place {
            Some(place) => write!(f, "Cache({})", place.folder.root().display()),
            None => f.write_str("Cache(none)"),
        }
    }
}

#[cfg(test)]
mod tests;
