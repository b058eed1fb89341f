//! Streams of a blob's bytes.
//!
//! Owns [`Reader`]. Invariant: the signature is that of the very file that the bytes come from, taken before the first
//! of them was read.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures::stream::BoxStream;
use futures::{Stream, TryStreamExt};

use crate::{BlobError, Signature};

/// Some bytes of a blob, in chunks of at most [`crate::CHUNK`] bytes; after an error it ends.
///
/// It holds a few chunks in memory at most, and can be dropped at any time.
pub struct Reader {
    signature: Option<Signature>,
    chunks: BoxStream<'static, Result<Bytes, BlobError>>,
}

impl Reader {
    /// A reader of `chunks`, which come from a file of that signature.
    pub fn new(
        signature: Option<Signature>,
        chunks: impl Stream<Item = Result<Bytes, BlobError>> + Send + 'static,
    ) -> Reader {
        Reader { signature, chunks: Box::pin(chunks) }
    }

    /// What the file looked like before the first byte was read; `None` if the bytes are from no file.
    pub fn signature(&self) -> Option<&Signature> {
        self.signature.as_ref()
    }

    /// All the bytes, in memory: for blobs whose size the caller has bounded.
    pub async fn into_bytes(mut self) -> Result<Bytes, BlobError> {
        let Some(first) = self.try_next().await? else { return Ok(Bytes::new()) };
        let Some(second) = self.try_next().await? else { return Ok(first) };
        let mut bytes = BytesMut::from(first);
        bytes.extend_from_slice(&second);
        while let Some(chunk) = self.try_next().await? {
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.freeze())
    }
}

impl Stream for Reader {
    type Item = Result<Bytes, BlobError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.chunks.as_mut().poll_next(context)
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("signature", &self.signature).finish_non_exhaustive()
    }
}
