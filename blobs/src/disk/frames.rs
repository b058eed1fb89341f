//! Reading a blob that lies in frames, one chunk ahead of its consumer.
//!
//! Invariant: of the file only the table and the frames that cover the range are read, about a chunk of them at a time.

use std::collections::VecDeque;
use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::try_unfold;
use zstd_safe::DCtx;

use super::Store;
use super::reader::read;
use crate::blocking::Lent;
use crate::frames::{Table, decoder, table_len};
use crate::{BlobError, CHUNK, Location, Reader, Signature};

/// Where a reader is in its file.
pub(super) struct Cursor {
    store: Arc<Store>,
    location: Location,
    file: File,
    signature: Signature,
    table: Table,
    decoder: DCtx<'static>,
    range: Range<u64>,
    /// The frames that are not read yet.
    frames: Range<u64>,
    /// What is unpacked and not yet taken.
    chunks: VecDeque<Bytes>,
}

impl Cursor {
    /// Opens the file, reads its table and the first frames.
    pub(super) fn open(store: Arc<Store>, location: Location, range: Range<u64>) -> Result<Cursor, BlobError> {
        let (file, metadata) = store.find(&location)?.ok_or(BlobError::NotFound { location })?;
        let (stored, signature) = (metadata.len(), Signature::from(&metadata));
        let begin = stored.checked_sub(table_len(location.digest.size)).filter(|_| stored == location.stored());
        let begin = begin.ok_or_else(|| location.corrupt(format_args!("its file has {stored} bytes")))?;
        let table = Table::parse(location, &read(&store, &location, &file, begin..stored)?)?;
        let (frames, decoder, chunks) = (table.covering(&range), decoder()?, VecDeque::new());
        Cursor { store, location, file, signature, table, decoder, range, frames, chunks }.advance()
    }

    /// Unpacks the next frames; there are no chunks afterwards only at the end.
    fn advance(mut self) -> Result<Cursor, BlobError> {
        let mut unpacked = 0;
        while unpacked < CHUNK
            && let Some(frame) = self.frames.next()
        {
            let packed = read(&self.store, &self.location, &self.file, self.table.place(frame))?;
            let mut bytes = self.table.unpack(&mut self.decoder, frame, &packed, &self.range)?;
            unpacked += bytes.len();
            while !bytes.is_empty() {
                self.chunks.push_back(bytes.split_to(bytes.len().min(CHUNK)));
            }
        }
        Ok(self)
    }
}

/// The chunks of `cursor`, from those it has.
pub(super) fn stream(cursor: Cursor) -> Reader {
    let signature = cursor.signature;
    let chunks = try_unfold(Lent::new(cursor), |mut lent| async move {
        let cursor = lent.settle().await?;
        let chunk = cursor.chunks.pop_front();
        if cursor.chunks.is_empty() && !cursor.frames.is_empty() {
            lent.lend(Cursor::advance);
        }
        Ok(chunk.map(|chunk| (chunk, lent)))
    });
    Reader::new(Some(signature), chunks)
}
