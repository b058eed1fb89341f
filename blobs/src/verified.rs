//! Checked reads: the only ones whose bytes may leave the store.
//!
//! Owns [`verified`] and [`open_verified`]. Invariant: a reader of a whole blob does not give its last chunk before
//! all bytes are known to be right; of a part, no byte is given before it is proven, by the file being as it was
//! published, or by the outboard.

use std::collections::VecDeque;
use std::mem;
use std::ops::Range;

use bytes::Bytes;
use futures::stream::try_unfold;
use futures::{TryStreamExt, stream};
use provender_core::blob::Form;

use crate::blocking::{Lent, blocking};
use crate::{BlobError, Blobs, Ingest, Location, Outboard, Reader, Signature};

/// Smaller chunks are hashed where they are, in less time than it takes to hand them to another thread.
const INLINE: usize = 32 * 1024;

/// A checked reader.
#[derive(Debug)]
pub struct Opened {
    /// Its bytes.
    pub reader: Reader,
    /// What is worth recording: without it the next part is as slow as this one was.
    pub learnt: Option<Learnt>,
}

/// What was learnt of a blob because all of it had to be read for a part, and was found right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Learnt {
    /// What its file looked like then, if it is a file.
    pub signature: Option<Signature>,
    /// Its outboard, if it has one.
    pub outboard: Option<Outboard>,
}

/// Opens `range` of a blob, cut at its end, so that wrong bytes end in [`BlobError::Corrupt`].
///
/// A whole blob is hashed as it is read. A part is read as it is if the blob is kept raw and its file still has the
/// `recorded` signature. If not, the groups that it lies in are read and held against the `outboard`, which is asked for only
/// then; and if that is lost, the whole blob is hashed first.
pub async fn open_verified(
    blobs: &dyn Blobs,
    location: &Location,
    recorded: Option<&Signature>,
    outboard: impl Future<Output = Option<Outboard>> + Send,
    range: Range<u64>,
) -> Result<Opened, BlobError> {
    let range = location.cut(range)?;
    let size = location.digest.size;
    let opened = |reader, learnt| Ok(Opened { reader, learnt });
    if range == (0..size) {
        return opened(verified(*location, blobs.open(location, range).await?), None);
    }
    if location.form == Form::Raw && recorded.is_some() {
        let reader = blobs.open(location, range.clone()).await?;
        if reader.signature() == recorded {
            return opened(reader, None);
        }
    }
    if !Outboard::has(size) {
        // A group at most.
        let reader = verified(*location, blobs.open(location, 0..size).await?);
        let signature = reader.signature().copied();
        let part = reader.into_bytes().await?.slice(range.start as usize..range.end as usize);
        let chunks = (!part.is_empty()).then_some(Ok(part));
        let learnt = Learnt { signature, outboard: None };
        return opened(Reader::new(signature, stream::iter(chunks)), Some(learnt));
    }
    let (outboard, learnt) = match outboard.await.filter(|outboard| *outboard.digest() == location.digest) {
        Some(outboard) => (outboard, None),
        None => {
            let reader = blobs.open(location, 0..size).await?;
            let signature = reader.signature().copied();
            let mut check = Check::new(*location, reader);
            while check.next().await?.is_some() {}
            let missing = || location.corrupt("it has no outboard");
            let outboard = check.outboard.ok_or_else(missing)?;
            (outboard.clone(), Some(Learnt { signature, outboard: Some(outboard) }))
        }
    };
    opened(Groups::open(blobs, location, outboard, range).await?, learnt)
}

/// Hashes `reader`, which must be of the whole blob, as it goes. The last chunk, and the end, come only if all bytes
/// are those of the location's digest, no fewer and no more.
pub fn verified(location: Location, reader: Reader) -> Reader {
    let signature = reader.signature().copied();
    let chunks = try_unfold(Check::new(location, reader), |mut check| async {
        Ok(check.next().await?.map(|chunk| (chunk, check)))
    });
    Reader::new(signature, chunks)
}

struct Check {
    location: Location,
    reader: Reader,
    /// Lags a chunk behind, so that hashing one and reading the next overlap.
    ingest: Lent<Ingest>,
    /// Bytes still to come.
    left: u64,
    done: bool,
    /// Once it is done.
    outboard: Option<Outboard>,
}

impl Check {
    fn new(location: Location, reader: Reader) -> Check {
        let (ingest, left) = (Lent::new(Ingest::new(&[])), location.digest.size);
        Check { location, reader, ingest, left, done: false, outboard: None }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, BlobError> {
        if self.done {
            return Ok(None);
        }
        let mut chunk = Bytes::new();
        while chunk.is_empty() && self.left > 0 {
            let next = self.reader.try_next().await?;
            chunk = next.ok_or_else(|| self.location.corrupt("it is cut short"))?;
        }
        let left = self.left.checked_sub(chunk.len() as u64);
        self.left = left.ok_or_else(|| self.location.corrupt("it is longer than it should be"))?;
        self.hash(chunk.clone()).await?;
        if self.left == 0 {
            self.finish().await?;
        }
        Ok((!chunk.is_empty()).then_some(chunk))
    }

    async fn hash(&mut self, chunk: Bytes) -> Result<(), BlobError> {
        let ingest = self.ingest.settle().await?;
        if chunk.len() < INLINE {
            ingest.update(&chunk);
        } else {
            self.ingest.lend(move |mut ingest| {
                ingest.update(&chunk);
                Ok(ingest)
            });
        }
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), BlobError> {
        self.done = true;
        if self.reader.try_next().await?.is_some() {
            return Err(self.location.corrupt("it is longer than it should be"));
        }
        let hashes = mem::replace(&mut self.ingest, Lent::new(Ingest::new(&[]))).take().await?.finish();
        if hashes.digest != self.location.digest {
            return Err(self.location.corrupt(format_args!("its bytes are those of {}", hashes.digest)));
        }
        self.outboard = hashes.outboard;
        Ok(())
    }
}

/// Gives a part of a blob, each group of it once it was held against the outboard. Of groups up to [`crate::CHUNK`] a few are in memory
/// at once, of larger ones one.
struct Groups {
    location: Location,
    outboard: Outboard,
    /// Of the groups, from the begin of the first one to the end of the last.
    reader: Reader,
    /// What is read and not yet checked: the begin of `groups`.
    pieces: VecDeque<Bytes>,
    gathered: u64,
    /// The groups still to come.
    groups: Range<u64>,
    /// What was asked for.
    range: Range<u64>,
    /// What is checked, and lies within that.
    ready: VecDeque<Bytes>,
}

impl Groups {
    async fn open(
        blobs: &dyn Blobs,
        location: &Location,
        outboard: Outboard,
        range: Range<u64>,
    ) -> Result<Reader, BlobError> {
        let groups = outboard.covering(&range);
        let reader = blobs.open(location, outboard.place(&groups)).await?;
        let signature = reader.signature().copied();
        let (pieces, ready) = (VecDeque::new(), VecDeque::new());
        let groups = Groups { location: *location, outboard, reader, pieces, gathered: 0, groups, range, ready };
        let chunks = try_unfold(groups, |mut groups| async { Ok(groups.next().await?.map(|chunk| (chunk, groups))) });
        Ok(Reader::new(signature, chunks))
    }

    async fn next(&mut self) -> Result<Option<Bytes>, BlobError> {
        loop {
            if let Some(chunk) = self.ready.pop_front() {
                return Ok(Some(chunk));
            }
            if self.groups.is_empty() {
                return Ok(None);
            }
            let first = self.groups.start;
            while self.gathered < len(&self.outboard.place(&(first..first + 1))) {
                let chunk = self.reader.try_next().await?.ok_or_else(|| self.location.corrupt("it is cut short"))?;
                self.gathered += chunk.len() as u64;
                self.pieces.push_back(chunk);
            }
            let mut taken = Vec::new();
            while let Some(group) = self.take() {
                taken.push(group);
            }
            let (location, outboard) = (self.location, self.outboard.clone());
            let check = move || match taken.iter().find(|(group, pieces)| !outboard.is_right(*group, pieces)) {
                Some((group, _)) => Err(location.corrupt(format_args!("other bytes are in its part {group}"))),
                None => Ok(taken),
            };
            for (group, pieces) in blocking(check).await? {
                self.give(group, pieces);
            }
        }
    }

    /// The pieces of the next group, if all of it was read.
    fn take(&mut self) -> Option<(u64, Vec<Bytes>)> {
        let group = self.groups.start;
        let mut left = Some(len(&self.outboard.place(&(group..group + 1))))
            .filter(|len| *len <= self.gathered && !self.groups.is_empty())?;
        self.gathered -= left;
        let mut pieces = Vec::new();
        while left > 0 {
            let piece = self.pieces.front_mut()?;
            let part = match piece.len() as u64 <= left {
                true => self.pieces.pop_front()?,
                false => piece.split_to(left as usize),
            };
            left -= part.len() as u64;
            pieces.push(part);
        }
        self.groups.start += 1;
        Some((group, pieces))
    }

    /// Makes of a right group what was asked for of it ready.
    fn give(&mut self, group: u64, pieces: Vec<Bytes>) {
        let mut at = self.outboard.place(&(group..group + 1)).start;
        for piece in pieces {
            let end = at + piece.len() as u64;
            let wanted = self.range.start.clamp(at, end)..self.range.end.clamp(at, end);
            if !wanted.is_empty() {
                self.ready.push_back(piece.slice((wanted.start - at) as usize..(wanted.end - at) as usize));
            }
            at = end;
        }
    }
}

fn len(range: &Range<u64>) -> u64 {
    range.end - range.start
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;
    use proptest::prelude::*;
    use provender_core::Digest;

    /// What a verified reader of `stored` in chunks of `step` gives for a blob that should be `right`.
    async fn read(right: &[u8], stored: &[u8], step: usize) -> (Vec<u8>, Result<(), BlobError>) {
        let location = Location { digest: Digest::of(right), nonce: 1, form: Form::Raw };
        let chunks: Vec<_> = stored.chunks(step).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        let mut reader = verified(location, Reader::new(None, stream::iter(chunks)));
        let mut bytes = Vec::new();
        loop {
            match reader.try_next().await {
                Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
                Ok(None) => return (bytes, Ok(())),
                Err(error) => return (bytes, Err(error)),
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn only_the_right_bytes_come_whole(
            right in prop::collection::vec(any::<u8>(), 0..200),
            stored in prop::option::of(prop::collection::vec(any::<u8>(), 0..200)),
            flip: Option<prop::sample::Index>,
            step in 1..70usize,
            times in prop_oneof![Just(1usize), Just(997)],
        ) {
            let right = right.repeat(times);
            let mut stored = stored.map_or_else(|| right.clone(), |stored| stored.repeat(times));
            if let (Some(at), false) = (flip, stored.is_empty()) {
                *at.get_mut(&mut stored) ^= 1;
            }
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let (bytes, result) = runtime.block_on(read(&right, &stored, step * times));
            if stored == right {
                result.unwrap();
                prop_assert_eq!(bytes, right);
            } else {
                let corrupt = matches!(result, Err(BlobError::Corrupt { .. }));
                prop_assert!(corrupt);
                prop_assert!(bytes.len() < right.len() || right.is_empty());
            }
        }
    }
}
