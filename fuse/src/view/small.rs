//! Small files, kept in memory for those who open them next.
//!
//! Invariants: what is kept was checked when it came, and cannot change here; the locks, several by digest, are never held while the source
//! is asked.

use bytes::Bytes;
use parking_lot::Mutex;
use provender_core::Digest;

use super::ViewError;
use super::content::OpenFile;
use super::kept::Kept;
use crate::source::{Content, Source};

/// The largest file that is kept, in bytes.
const SMALL: u64 = 16 << 10;
/// About what one takes beside its bytes.
const OVERHEAD: u64 = 200;
/// How many locks there are.
const PARTS: usize = 16;

/// The small files that were opened last.
#[derive(Debug)]
pub(super) struct Small([Mutex<Kept<Bytes>>; PARTS]);

impl Small {
    /// Keeps about `budget` bytes.
    pub(super) fn new(budget: u64) -> Small {
        Small(std::array::from_fn(|_| Mutex::new(Kept::new(budget / PARTS as u64))))
    }

    /// The content of a file.
    pub(super) fn open(&self, source: &dyn Source, digest: Digest) -> Result<OpenFile, ViewError> {
        let part = &self.0[usize::from(digest.hash[0]) % PARTS];
        if digest.size <= SMALL
            && let Some(bytes) = part.lock().get(&digest)
        {
            return OpenFile::new(Content::Bytes(bytes), digest.size);
        }
        let content = source.open(digest)?;
        if let Content::Bytes(bytes) = &content
            && digest.size <= SMALL
            && bytes.len() as u64 == digest.size
        {
            part.lock().insert(digest, bytes.clone(), digest.size + OVERHEAD);
        }
        OpenFile::new(content, digest.size)
    }
}
