//! Multipart uploads under way: each is named by an object while it lasts, so that what a process leaves when it dies can be aborted by
//! whichever comes after it. What is not aborted is paid for, and shows in no listing.

use std::time::SystemTime;

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{Error, ObjectStoreExt};
use tracing::debug;

use super::Store;
use crate::BlobError;

impl Store {
    /// Begins a multipart upload to a path, whose last part is also its name here.
    pub(super) async fn begin_upload(&self, to: &Path) -> Result<Upload, BlobError> {
        let failed = |error| self.failed("begin an upload", error);
        let id = self.client.create_multipart(to).await.map_err(failed)?;
        let named = self.uploads().join(to.filename().unwrap_or_default());
        let upload = Upload { to: to.clone(), id, named };
        if let Err(error) = self.client.put(&upload.named, upload.id.clone().into()).await {
            self.abort_upload(&upload).await;
            return Err(failed(error));
        }
        Ok(upload)
    }

    /// Discards one. What cannot be discarded now is when it is swept.
    pub(super) async fn abort_upload(&self, upload: &Upload) {
        match self.client.abort_multipart(&upload.to, &upload.id).await {
            Ok(()) | Err(Error::NotFound { .. }) => self.end_upload(upload).await,
            Err(error) => debug!(to = %upload.to, %error, "an upload could not be aborted"),
        }
    }

    /// Forgets one that is over.
    pub(super) async fn end_upload(&self, upload: &Upload) {
        if let Err(error) = self.client.delete(&upload.named).await {
            debug!(to = %upload.to, %error, "the name of an upload that is over could not be removed");
        }
    }

    /// Discards those that were begun before that and have not ended.
    pub(super) async fn sweep_uploads(&self, before: SystemTime) -> Result<u64, BlobError> {
        let failed = |error| self.failed("look for uploads that were cut off", error);
        let uploads = self.uploads();
        let mut found = self.client.list(Some(&uploads));
        let mut swept = 0;
        while let Some(named) = found.try_next().await.map_err(failed)? {
            if SystemTime::from(named.last_modified) >= before {
                continue;
            }
            let id = match self.client.get(&named.location).await {
                Ok(id) => id.bytes().await.map_err(failed)?,
                Err(Error::NotFound { .. }) => continue,
                Err(error) => return Err(failed(error)),
            };
            let id = String::from_utf8_lossy(&id).into_owned();
            let name = named.location.filename().unwrap_or_default();
            let to = self.objects().join(name.get(..2).unwrap_or_default()).join(name);
            self.abort_upload(&Upload { to, id, named: named.location }).await;
            swept += 1;
        }
        Ok(swept)
    }
}

/// A multipart upload.
#[derive(Debug, Clone)]
pub(super) struct Upload {
    /// The object that it is to become.
    pub(super) to: Path,
    /// As the server calls it.
    pub(super) id: String,
    named: Path,
}
