//! Which backend: plain data, and the one place that matches it.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{BlobError, Blobs, Bucket, BucketConfig, Disk, Memory, StoreId};

/// A blob store, as a configuration file names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "backend", rename_all = "lowercase", deny_unknown_fields)]
pub enum BlobsConfig {
    /// A folder on a local or shared file system, also of several daemons at once.
    Disk {
        /// The folder.
        dir: PathBuf,
    },
    /// A bucket of an object store, also of several daemons at once.
    Bucket(BucketConfig),
    /// The process's memory. Everything is lost at its end.
    Memory {},
}

/// Opens the store.
///
/// `known` is the [`Blobs::id`] that was kept from the first time: then exactly that store is opened, and a folder
/// that is empty because its file system is not mounted is [`BlobError::Unavailable`]. Without it, a store is made
/// if the folder is missing or empty.
pub async fn open(config: &BlobsConfig, known: Option<StoreId>) -> Result<Arc<dyn Blobs>, BlobError> {
    Ok(match config {
        BlobsConfig::Disk { dir } => Arc::new(Disk::open(dir, known).await?),
        BlobsConfig::Bucket(bucket) => Arc::new(Bucket::open(bucket, known).await?),
        BlobsConfig::Memory {} => Arc::new(Memory::new()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_and_backends_are_refused() {
        let read = serde_json::from_str::<BlobsConfig>;
        let disk = BlobsConfig::Disk { dir: "/data/blobs".into() };
        assert_eq!(read(r#"{"backend": "disk", "dir": "/data/blobs"}"#).unwrap(), disk);
        assert_eq!(read(r#"{"backend": "memory"}"#).unwrap(), BlobsConfig::Memory {});
        for wrong in [
            r#"{"backend": "disk"}"#,
            r#"{"backend": "disk", "dir": "/data", "size": 1}"#,
            r#"{"backend": "memory", "dir": "/data"}"#,
            r#"{"backend": "bucket"}"#,
            r#"{"backend": "bucket", "url": "s3://a/b", "dir": "/data"}"#,
            r#"{"backend": "tape"}"#,
            r#"{"dir": "/data"}"#,
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
