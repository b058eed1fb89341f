//! `provender.v1.Blobs`: bytes in, bytes out.

use std::sync::Arc;

use bytes::Bytes;
use futures::Stream;
use provender_core::{Digest, Timestamp};
use provender_proto::convert;
use provender_proto::v1;
use tonic::Streaming;

use super::Client;
use crate::error::ClientError;

/// The pieces of a blob, as they come.
#[derive(Debug)]
pub struct Download {
    address: Arc<str>,
    replies: Streaming<v1::DownloadReply>,
}

impl Download {
    /// The next piece; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        let reply = self.replies.message().await.map_err(|status| ClientError::of(&self.address, status))?;
        Ok(reply.map(|reply| reply.data))
    }
}

impl Client {
    /// Which of the digests (at most 50,000) the daemon does not hold.
    pub async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, ClientError> {
        let digests = digests.iter().map(convert::digest_to).collect();
        let request = v1::FindMissingRequest { space: self.space(), digests };
        let reply = self.blobs.clone().find_missing(request).await.map_err(self.failed())?.into_inner();
        Ok(convert::digests_from("missing", &reply.missing, usize::MAX)?)
    }

    /// Sends one blob in pieces of at most 1 MiB; what its bytes came to.
    pub async fn upload(
        &self,
        digest: Option<&Digest>,
        pieces: impl Stream<Item = Bytes> + Send + 'static,
    ) -> Result<Digest, ClientError> {
        use futures::StreamExt;
        use v1::upload_request::{Begin, Request as Part};
        let digest = digest.map(convert::digest_to);
        let begin = Part::Begin(Begin { space: self.space(), digest });
        let parts = futures::stream::iter([begin]).chain(pieces.map(Part::Data));
        let parts = parts.map(|part| v1::UploadRequest { request: Some(part) });
        let reply = self.blobs.clone().upload(parts).await.map_err(self.failed())?.into_inner();
        Ok(convert::needed_digest("digest", reply.digest.as_ref())?)
    }

    /// Sends many small blobs (at most 10,000 and 3 MiB together); their digests in order.
    pub async fn batch_put(&self, blobs: Vec<Bytes>) -> Result<Vec<Digest>, ClientError> {
        let request = v1::BatchPutRequest { space: self.space(), blobs };
        let reply = self.blobs.clone().batch_put(request).await.map_err(self.failed())?.into_inner();
        Ok(convert::digests_from("digests", &reply.digests, usize::MAX)?)
    }

    /// Many small blobs (at most 10,000 and 3 MiB together), in order; `None` where the daemon holds none.
    pub async fn batch_get(&self, digests: &[Digest]) -> Result<Vec<Option<Bytes>>, ClientError> {
        let digests = digests.iter().map(convert::digest_to).collect();
        let request = v1::BatchGetRequest { space: self.space(), digests };
        let reply = self.blobs.clone().batch_get(request).await.map_err(self.failed())?.into_inner();
        Ok(reply.items.into_iter().map(|item| item.data).collect())
    }

    /// A blob from `offset` on, `length` bytes of it (0: to its end), in pieces.
    pub async fn download(&self, digest: &Digest, offset: u64, length: u64) -> Result<Download, ClientError> {
        let digest = Some(convert::digest_to(digest));
        let request = v1::DownloadRequest { space: self.space(), digest, offset, length };
        let replies = self.blobs.clone().download(request).await.map_err(self.failed())?.into_inner();
        Ok(Download { address: self.address.clone(), replies })
    }

    /// Keeps a blob or tree for a while; until when.
    pub async fn keep(&self, digest: &Digest, tree: bool, owner: &str, reason: &str) -> Result<Timestamp, ClientError> {
        let request = v1::KeepRequest {
            space: self.space(),
            digest: Some(convert::digest_to(digest)),
            tree,
            owner: owner.into(),
            reason: reason.into(),
            for_ms: u64::MAX,
        };
        let reply = self.blobs.clone().keep(request).await.map_err(self.failed())?.into_inner();
        Ok(Timestamp::from_millis(reply.until_ms))
    }
}
