//! Checked reads: the only ones whose bytes may leave the store.
//!
//! Owns [`verified`] and [`open_verified`]. Invariant: a reader of a whole blob does not give its last chunk before
//! all bytes are known to be right; a part is given without rehashing only from a file that is as it was published.

use std::ops::Range;

use bytes::Bytes;
use futures::TryStreamExt;
use futures::stream::try_unfold;

use crate::blocking::Lent;
use crate::{BlobError, Blobs, Ingest, Location, Reader, Signature};

/// Smaller chunks are hashed where they are, in less time than it takes to hand them to another thread.
const INLINE: usize = 32 * 1024;

/// Opens `range` of a blob, cut at its end, so that wrong bytes end in [`BlobError::Corrupt`].
///
/// A whole blob is hashed as it is read. A part is read as it is if its file still has the `recorded` signature; if
/// not, the whole blob is hashed first. Then the reader's [`Reader::signature`] is another than the recorded one, and
/// worth recording, as the next part would be as slow.
pub async fn open_verified(
    blobs: &dyn Blobs,
    location: &Location,
    recorded: Option<&Signature>,
    range: Range<u64>,
) -> Result<Reader, BlobError> {
    let range = location.cut(range)?;
    let whole = 0..location.digest.size;
    if range == whole {
        return Ok(verified(*location, blobs.open(location, whole).await?));
    }
    let reader = blobs.open(location, range.clone()).await?;
    if recorded.is_some() && reader.signature() == recorded {
        return Ok(reader);
    }
    drop(reader);
    let mut whole = verified(*location, blobs.open(location, whole).await?);
    while whole.try_next().await?.is_some() {}
    let reader = blobs.open(location, range).await?;
    if reader.signature() != whole.signature() {
        return Err(location.corrupt("its file changes while it is being read"));
    }
    Ok(reader)
}

/// Hashes `reader`, which must be of the whole blob, as it goes. The last chunk, and the end, come only if all bytes
/// are those of the location's digest, no fewer and no more.
pub fn verified(location: Location, reader: Reader) -> Reader {
    let signature = reader.signature().copied();
    let check =
        Check { location, reader, ingest: Lent::new(Ingest::new(&[])), left: location.digest.size, done: false };
    Reader::new(signature, try_unfold(check, Check::next))
}

struct Check {
    location: Location,
    reader: Reader,
    /// Lags a chunk behind, so that hashing one and reading the next overlap.
    ingest: Lent<Ingest>,
    /// Bytes still to come.
    left: u64,
    done: bool,
}

impl Check {
    async fn next(mut self) -> Result<Option<(Bytes, Check)>, BlobError> {
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
        Ok((!chunk.is_empty()).then_some((chunk, self)))
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
        let found = self.ingest.settle().await?.clone().finish().digest;
        if found != self.location.digest {
            return Err(self.location.corrupt(format_args!("its bytes are those of {found}")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;
    use proptest::prelude::*;
    use provender_core::Digest;

    /// What a verified reader of `stored` in chunks of `step` gives for a blob that should be `right`.
    async fn read(right: &[u8], stored: &[u8], step: usize) -> (Vec<u8>, Result<(), BlobError>) {
        let location = Location { digest: Digest::of(right), nonce: 1 };
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
