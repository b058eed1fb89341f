//! The marker: the object that makes a prefix of a bucket a store.
//!
//! Invariants: it is made once, before all else, and never changes; of several processes that make a store at one prefix at once, one wins and
//! all see its id. Where the bucket ignores conditions the last one wins, which the others see when they look again.

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{Error, ObjectStoreExt, PutMode, PutPayload};

use super::Store;
use crate::{BlobError, StoreId};

const NAME: &str = "provender-blobs";
const LAYOUT: u32 = 1;
/// A marker has fewer bytes than that.
const MOST: u64 = 4096;

impl Store {
    fn marker(&self) -> Path {
        self.prefix.clone().join(NAME)
    }

    /// Fails unless the store is there now, and is this one.
    pub(super) async fn prove(&self) -> Result<(), BlobError> {
        match self.read_marker().await? {
            Some(id) if id == self.id => Ok(()),
            Some(id) => Err(self.unavailable(format!(
                "there is another store (its id is {id} instead of {}); correct `url`, or restore what the metadata belongs to",
                self.id
            ))),
            None => Err(self.unavailable(format!(
                "it has no object {NAME:?} any more; was it emptied? Correct `url`, or put it back with the text {:?}",
                text(self.id)
            ))),
        }
    }

    /// The id of the store at the prefix; one is made if nothing is there.
    pub(super) async fn open_or_create(&self) -> Result<StoreId, BlobError> {
        if let Some(id) = self.read_marker().await? {
            return Ok(id);
        }
        let prefix = (!self.prefix.as_ref().is_empty()).then_some(&self.prefix);
        let failed = |error| self.failed("look what is in it", error);
        if let Some(foreign) = self.client.list(prefix).try_next().await.map_err(failed)? {
            // Somebody else may have made it in between.
            if let Some(id) = self.read_marker().await? {
                return Ok(id);
            }
            let why = format!(
                "it has no object {NAME:?}, but {:?}; name an empty prefix, or put it back",
                foreign.location.as_ref()
            );
            return Err(self.unavailable(why));
        }
        let id = StoreId::fresh().map_err(|error| BlobError::io(&self.url, "make a store", error))?;
        self.write_marker(id).await?;
        let made = self.read_marker().await?;
        made.ok_or_else(|| self.unavailable("what was just written to it cannot be read back".into()))
    }

    /// Whether the bucket keeps to conditions: what is there already must not be written once more. Nothing here relies on
    /// it but who makes a store at the same moment as others.
    pub(super) async fn keeps_conditions(&self) -> Result<bool, BlobError> {
        self.write_marker(self.id).await.map(|written| !written)
    }

    /// Writes the marker unless there is one, and whether it did so.
    async fn write_marker(&self, id: StoreId) -> Result<bool, BlobError> {
        let (path, text) = (self.marker(), PutPayload::from(text(id)));
        match self.client.put_opts(&path, text.clone(), PutMode::Create.into()).await {
            Ok(_) => Ok(true),
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(false),
            // It knows no conditions, and says so.
            Err(Error::NotImplemented { .. } | Error::NotSupported { .. }) => {
                let put = self.client.put(&path, text).await;
                put.map(|_| true).map_err(|error| self.failed("make a store", error))
            }
            Err(error) => Err(self.failed("make a store", error)),
        }
    }

    async fn read_marker(&self) -> Result<Option<StoreId>, BlobError> {
        let failed = |error| self.failed("read what store it is", error);
        let found = match self.client.get(&self.marker()).await {
            Ok(found) if found.meta.size > MOST => return Err(self.damaged()),
            Ok(found) => found.bytes().await.map_err(failed)?,
            // Buckets that are not there say "not found" as well.
            Err(error @ Error::NotFound { .. }) if error.to_string().contains("NoSuchBucket") => {
                return Err(failed(error));
            }
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let found = std::str::from_utf8(&found).map_err(|_| self.damaged())?;
        match parse(found) {
            Ok(id) => Ok(Some(id)),
            Err(Some(found)) => Err(BlobError::Layout { store: self.url.clone(), found, known: LAYOUT }),
            Err(None) => Err(self.damaged()),
        }
    }

    fn damaged(&self) -> BlobError {
        self.unavailable(format!("its object {NAME:?} is damaged"))
    }

    fn unavailable(&self, why: String) -> BlobError {
        BlobError::Unavailable { store: self.url.clone(), why }
    }
}

fn text(id: StoreId) -> String {
    format!("layout {LAYOUT}\nstore {id}\n")
}

/// Fails with the layout if that is newer.
fn parse(found: &str) -> Result<StoreId, Option<u32>> {
    let (layout, rest) = found.strip_prefix("layout ").and_then(|rest| rest.split_once('\n')).ok_or(None)?;
    match layout.parse() {
        Ok(LAYOUT) => {}
        Ok(layout) if layout > LAYOUT => return Err(Some(layout)),
        _ => return Err(None),
    }
    let id = rest.strip_prefix("store ").and_then(|id| id.trim_end().parse().ok()).ok_or(None)?;
    // All of it, so that one that is cut or has grown is none.
    if text(id) == found { Ok(id) } else { Err(None) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_markers_of_known_layouts_are_read() {
        let id = StoreId([7; 16]);
        assert_eq!(parse(&text(id)), Ok(id));
        assert_eq!(parse(&text(id).replace("layout 1", "layout 2")), Err(Some(2)));
        for wrong in ["", "layout 1\n", "layout x\n", "layout 0\nstore 7\n", &text(id)[1..], &(text(id) + "\n")] {
            assert_eq!(parse(wrong), Err(None), "{wrong:?}");
        }
    }
}
