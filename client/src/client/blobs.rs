//! `provender.v1.Blobs`: bytes in, bytes out.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use provender_blobs::Outboard;
use provender_core::{Digest, Timestamp};
use provender_proto::convert;
use provender_proto::v1;
use tonic::{Code, Streaming};

use super::Client;
use crate::error::ClientError;
use crate::patience::Patience;

/// The pieces of a blob, as they come. If the connection breaks, it is made again, and the rest asked for.
#[derive(Debug)]
pub struct Download {
    client: Client,
    digest: Digest,
    /// What is still to come.
    left: Range<u64>,
    replies: Option<Streaming<v1::DownloadReply>>,
    patience: Patience,
}

impl Download {
    /// The next piece; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            match self.piece().await {
                Ok(Some(piece)) => {
                    self.left.start += piece.len() as u64;
                    self.patience.renew();
                    return Ok(Some(piece));
                }
                Ok(None) => return Ok(None),
                // All of it has come; how the stream ends tells whether it was right.
                Err(error) if self.left.is_empty() || !error.is_passing() => return Err(error),
                Err(error) if !self.patience.waits().await => return Err(error),
                Err(_) => self.replies = None,
            }
        }
    }

    async fn piece(&mut self) -> Result<Option<Bytes>, ClientError> {
        let replies = match &mut self.replies {
            Some(replies) => replies,
            none => none.insert(self.client.ask_for(&self.digest, &self.left).await?),
        };
        let reply = replies.message().await.map_err(self.client.failed())?;
        Ok(reply.map(|reply| reply.data))
    }
}

impl Client {
    /// Which of the digests (at most 50,000) the daemon does not hold.
    pub async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, ClientError> {
        let reply = self.missing(digests).await?;
        Ok(convert::digests_from("missing", &reply.missing, usize::MAX)?)
    }

    /// Has these (at most 50,000), as far as they are there, protected from collection. For how long at least; `None` from a daemon that does not say.
    pub async fn protect(&self, digests: &[Digest]) -> Result<Option<Duration>, ClientError> {
        let millis = self.missing(digests).await?.protected_millis;
        Ok((millis > 0).then(|| Duration::from_millis(millis)))
    }

    async fn missing(&self, digests: &[Digest]) -> Result<v1::FindMissingReply, ClientError> {
        let digests = digests.iter().map(convert::digest_to).collect();
        let request = v1::FindMissingRequest { space: self.space(), digests };
        Ok(self.blobs.clone().find_missing(request).await.map_err(self.failed())?.into_inner())
    }

    /// From where an upload of a blob that was cut off can go on; `None` if the daemon holds the blob.
    pub async fn query_upload(&self, digest: &Digest) -> Result<Option<u64>, ClientError> {
        let request = v1::QueryUploadRequest { space: self.space(), digest: Some(convert::digest_to(digest)) };
        let reply = self.blobs.clone().query_upload(request).await.map_err(self.failed())?.into_inner();
        Ok((!reply.held).then_some(reply.offset))
    }

    /// Sends one blob in pieces of at most 1 MiB, from a byte on that [`Client::query_upload`] told, or 0; what its bytes came to.
    pub async fn upload(
        &self,
        digest: Option<&Digest>,
        offset: u64,
        pieces: impl Stream<Item = Bytes> + Send + 'static,
    ) -> Result<Digest, ClientError> {
        use futures::StreamExt;
        use v1::upload_request::{Begin, Request as Part};
        let digest = digest.map(convert::digest_to);
        let begin = Part::Begin(Begin { space: self.space(), digest, offset });
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
        let end = if length == 0 { digest.size } else { offset.saturating_add(length).min(digest.size) };
        let left = offset..end.max(offset);
        let replies = Some(self.ask_for(digest, &left).await?);
        Ok(Download { client: self.clone(), digest: *digest, left, replies, patience: Patience::new() })
    }

    async fn ask_for(&self, digest: &Digest, range: &Range<u64>) -> Result<Streaming<v1::DownloadReply>, ClientError> {
        let (offset, length) = (range.start, range.end - range.start);
        let request =
            v1::DownloadRequest { space: self.space(), digest: Some(convert::digest_to(digest)), offset, length };
        Ok(self.blobs.clone().download(request).await.map_err(self.failed())?.into_inner())
    }

    /// What proves the parts of a blob of more than one group, checked; `None` from a daemon that is too old to know.
    pub async fn outboard(&self, digest: &Digest) -> Result<Option<Outboard>, ClientError> {
        let request = v1::OutboardRequest { space: self.space(), digest: Some(convert::digest_to(digest)) };
        match self.blobs.clone().outboard(request).await {
            Ok(reply) => match Outboard::from_bytes(digest, &reply.into_inner().values) {
                Some(outboard) => Ok(Some(outboard)),
                None => Err(ClientError::Corrupt { digest: *digest }),
            },
            Err(status) if status.code() == Code::Unimplemented => Ok(None),
            Err(status) => Err(self.failed()(status)),
        }
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
