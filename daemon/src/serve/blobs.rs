//! `provender.v1.Blobs` over the store.

use std::pin::Pin;
use std::time::Duration;

use futures::{Stream, StreamExt};
use provender_core::blob::Pinned;
use provender_proto::convert::{self, Invalid};
use provender_proto::v1::blobs_server::Blobs;
use provender_proto::v1::upload_request::Request as Part;
use provender_proto::{MAX_BATCH_BYTES, MAX_BATCH_ITEMS, MAX_DIGESTS, MAX_MESSAGE, MAX_PIECE, v1};
use tonic::{Request, Response, Status, Streaming};

use super::Front;
use super::status::{counted, status};
use crate::store::{StoreError, lost};

#[tonic::async_trait]
impl Blobs for Front {
    async fn find_missing(
        &self,
        request: Request<v1::FindMissingRequest>,
    ) -> Result<Response<v1::FindMissingReply>, Status> {
        let request = request.into_inner();
        counted(self.store.metrics(), "FindMissing", async {
            let digests = convert::digests_from("digests", &request.digests, MAX_DIGESTS)?;
            let missing = self.store.find_missing(&convert::space(&request.space)?, &digests).await?;
            let protected_millis = u64::try_from(self.store.protects().as_millis()).unwrap_or(u64::MAX);
            Ok(v1::FindMissingReply { missing: missing.iter().map(convert::digest_to).collect(), protected_millis })
        })
        .await
    }

    async fn upload(
        &self,
        request: Request<Streaming<v1::UploadRequest>>,
    ) -> Result<Response<v1::UploadReply>, Status> {
        let mut parts = request.into_inner();
        // A stream that breaks is the client's to tell, so its status goes back as it came.
        let mut broken = None;
        let result = counted(self.store.metrics(), "Upload", async {
            let mut next = async || match parts.message().await {
                Ok(part) => Ok(part.and_then(|part| part.request)),
                Err(status) => {
                    broken = Some(status);
                    Err(StoreError::from(Invalid::new("stream", "it broke before its end")))
                }
            };
            let Some(Part::Begin(begin)) = next().await? else {
                return Err(Invalid::new("begin", "an upload begins with it").into());
            };
            let space = convert::space(&begin.space)?;
            let expected = begin.digest.as_ref().map(|digest| convert::digest_from("digest", digest)).transpose()?;
            if let Some(digest) = expected
                && self.store.find_missing(&space, &[digest]).await?.is_empty()
            {
                return Ok(v1::UploadReply {
                    digest: Some(convert::digest_to(&digest)),
                    durable_in: self.store.tier().into(),
                });
            }
            let mut upload = match (expected, begin.offset) {
                (_, 0) => self.store.upload(&space, expected),
                (Some(expected), from) => self.store.resume(&space, expected, from).await?,
                (None, _) => {
                    let why = "an upload goes on only where its digest is known from the beginning";
                    return Err(Invalid::new("offset", why).into());
                }
            };
            while let Some(part) = next().await? {
                let Part::Data(data) = part else {
                    return Err(Invalid::new("begin", "an upload has only one").into());
                };
                upload.write(data).await?;
            }
            let digest = upload.finish().await?;
            Ok(v1::UploadReply { digest: Some(convert::digest_to(&digest)), durable_in: self.store.tier().into() })
        })
        .await;
        match (result, broken) {
            (Err(_), Some(status)) => Err(status),
            (result, _) => result,
        }
    }

    async fn query_upload(
        &self,
        request: Request<v1::QueryUploadRequest>,
    ) -> Result<Response<v1::QueryUploadReply>, Status> {
        let request = request.into_inner();
        counted(self.store.metrics(), "QueryUpload", async {
            let digest = convert::needed_digest("digest", request.digest.as_ref())?;
            let offset = self.store.query_upload(&convert::space(&request.space)?, &digest).await?;
            Ok(v1::QueryUploadReply { held: offset.is_none(), offset: offset.unwrap_or(0) })
        })
        .await
    }

    type DownloadStream = Pin<Box<dyn Stream<Item = Result<v1::DownloadReply, Status>> + Send>>;

    async fn download(&self, request: Request<v1::DownloadRequest>) -> Result<Response<Self::DownloadStream>, Status> {
        let request = request.into_inner();
        counted(self.store.metrics(), "Download", async {
            let digest = convert::needed_digest("digest", request.digest.as_ref())?;
            let end = match request.length {
                0 => digest.size,
                length => request.offset.saturating_add(length),
            };
            let space = convert::space(&request.space)?;
            let reader = self.store.read(&space, &digest, request.offset..end).await?;
            let sent = self.store.metrics().bytes_out.clone();
            let replies = reader.map(move |piece| match piece {
                Ok(data) => {
                    debug_assert!(data.len() <= MAX_PIECE);
                    sent.inc_by(data.len() as u64);
                    Ok(v1::DownloadReply { data })
                }
                Err(error) => Err(status(&lost(&digest, error))),
            });
            Ok(Box::pin(replies) as Self::DownloadStream)
        })
        .await
    }

    async fn outboard(&self, request: Request<v1::OutboardRequest>) -> Result<Response<v1::OutboardReply>, Status> {
        let request = request.into_inner();
        counted(self.store.metrics(), "Outboard", async {
            let digest = convert::needed_digest("digest", request.digest.as_ref())?;
            let outboard = self.store.proof(&convert::space(&request.space)?, &digest).await?;
            Ok(v1::OutboardReply { values: outboard.map(|outboard| outboard.to_bytes()).unwrap_or_default() })
        })
        .await
    }

    async fn batch_put(&self, request: Request<v1::BatchPutRequest>) -> Result<Response<v1::BatchPutReply>, Status> {
        let request = request.into_inner();
        counted(self.store.metrics(), "BatchPut", async {
            let bytes = request.blobs.iter().map(|blob| blob.len()).sum::<usize>();
            if request.blobs.len() > MAX_BATCH_ITEMS || bytes > MAX_BATCH_BYTES {
                let why = format!("a batch has at most {MAX_BATCH_ITEMS} blobs and {MAX_BATCH_BYTES} bytes");
                return Err(Invalid::new("blobs", why).into());
            }
            let digests = self.store.put_small(&convert::space(&request.space)?, request.blobs).await?;
            let digests = digests.iter().map(convert::digest_to).collect();
            Ok(v1::BatchPutReply { digests, durable_in: self.store.tier().into() })
        })
        .await
    }

    async fn batch_get(&self, request: Request<v1::BatchGetRequest>) -> Result<Response<v1::BatchGetReply>, Status> {
        let request = request.into_inner();
        counted(self.store.metrics(), "BatchGet", async {
            let digests = convert::digests_from("digests", &request.digests, MAX_BATCH_ITEMS)?;
            let sizes = digests.iter().fold(0u64, |sum, digest| sum.saturating_add(digest.size));
            if sizes > MAX_BATCH_BYTES as u64 {
                let why = format!("they come to {sizes} bytes, more than the {MAX_BATCH_BYTES} of one batch");
                return Err(Invalid::new("digests", why).into());
            }
            let found = self.store.read_small(&convert::space(&request.space)?, &digests).await?;
            let sent: usize = found.iter().flatten().map(|bytes| bytes.len()).sum();
            debug_assert!(sent < MAX_MESSAGE);
            self.store.metrics().bytes_out.inc_by(sent as u64);
            let items = found.into_iter().map(|data| v1::batch_get_reply::Item { data }).collect();
            Ok(v1::BatchGetReply { items })
        })
        .await
    }

    async fn keep(&self, request: Request<v1::KeepRequest>) -> Result<Response<v1::KeepReply>, Status> {
        let request = request.into_inner();
        counted(self.store.metrics(), "Keep", async {
            let digest = convert::needed_digest("digest", request.digest.as_ref())?;
            let space = convert::space(&request.space)?;
            let v1::KeepRequest { tree, reason, owner, .. } = request;
            let what = if tree { Pinned::Tree(digest) } else { Pinned::Blob(digest) };
            let until = self.store.keep(&space, what, reason, owner, Duration::from_millis(request.for_ms)).await?;
            Ok(v1::KeepReply { until_ms: until.millis() })
        })
        .await
    }
}
