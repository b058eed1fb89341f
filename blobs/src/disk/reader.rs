//! Reading a blob's file in chunks, one ahead of its consumer.

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::try_unfold;
use rustix::buffer::spare_capacity;
use rustix::io::{Errno, pread};

use super::Store;
use crate::blocking::Lent;
use crate::{BlobError, CHUNK, Location, Reader, Signature};

/// Where a reader is in its file.
pub(super) struct Cursor {
    store: Arc<Store>,
    location: Location,
    file: File,
    signature: Signature,
    /// What is not read yet.
    range: Range<u64>,
    /// What is read and not yet taken.
    chunk: Bytes,
}

impl Cursor {
    /// Opens the file and reads the first chunk: for most blobs, all that there is to do.
    pub(super) fn open(store: Arc<Store>, location: Location, range: Range<u64>) -> Result<Cursor, BlobError> {
        let (file, metadata) = store.find(&location)?.ok_or(BlobError::NotFound { location })?;
        if metadata.len() != location.digest.size {
            return Err(location.corrupt(format_args!("its file has {} bytes", metadata.len())));
        }
        let signature = Signature::from(&metadata);
        Cursor { store, location, file, signature, range, chunk: Bytes::new() }.advance()
    }

    /// Reads the next chunk, which is empty at the end.
    fn advance(mut self) -> Result<Cursor, BlobError> {
        let want = (self.range.end - self.range.start).min(CHUNK as u64);
        let next = self.range.start..self.range.start + want;
        self.range.start = next.end;
        self.chunk = read(&self.store, &self.location, &self.file, next)?.into();
        Ok(self)
    }
}

/// The bytes of `range` of a blob's file, in memory: for ranges that are bounded.
pub(super) fn read(store: &Store, location: &Location, file: &File, range: Range<u64>) -> Result<Vec<u8>, BlobError> {
    let want = (range.end - range.start) as usize;
    let mut bytes = Vec::with_capacity(want);
    while bytes.len() < want {
        let at = range.start + bytes.len() as u64;
        match pread(file, spare_capacity(&mut bytes), at) {
            Ok(0) => return Err(location.corrupt("its file is cut short")),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(store.failed("read a blob", error)),
        }
    }
    // More than `want`, if the allocator gave more room than asked for.
    bytes.truncate(want);
    Ok(bytes)
}

/// The chunks of `cursor`, from the one it has.
pub(super) fn stream(cursor: Cursor) -> Reader {
    let signature = cursor.signature;
    let chunks = try_unfold(Lent::new(cursor), |mut lent| async move {
        let cursor = lent.settle().await?;
        let chunk = std::mem::take(&mut cursor.chunk);
        if !cursor.range.is_empty() {
            lent.lend(Cursor::advance);
        }
        Ok((!chunk.is_empty()).then_some((chunk, lent)))
    });
    Reader::new(Some(signature), chunks)
}
