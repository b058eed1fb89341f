//! Reading what lies in a bucket, as it comes.
//!
//! Invariant: a transfer that ends too early is no statement about the object.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use futures::stream::{self, BoxStream, try_unfold};
use zstd_safe::DCtx;

use super::Store;
use crate::blocking::blocking;
use crate::frames::{Table, decoder, table_len};
use crate::{BlobError, CHUNK, Location, Reader};

/// The bytes of `range` of what is stored of a blob, in the form in which it is.
pub(super) async fn raw(store: &Arc<Store>, location: &Location, range: Range<u64>) -> Result<Reader, BlobError> {
    let left = range.end - range.start;
    let pieces = store.get(location, range).await?.into_stream();
    let pieces = Pieces { store: store.clone(), pieces, left, piece: Bytes::new() };
    Ok(Reader::new(
        None,
        try_unfold(pieces, |mut pieces| async { Ok(pieces.next().await?.map(|next| (next, pieces))) }),
    ))
}

/// What a server sends, counted.
struct Pieces {
    store: Arc<Store>,
    pieces: BoxStream<'static, object_store::Result<Bytes>>,
    /// Bytes still to come.
    left: u64,
    /// What came and is not taken yet.
    piece: Bytes,
}

impl Pieces {
    async fn next(&mut self) -> Result<Option<Bytes>, BlobError> {
        while self.piece.is_empty() && self.left > 0 {
            let next = self.pieces.try_next().await.map_err(|error| self.store.failed("read a blob", error))?;
            self.piece = next.ok_or_else(|| self.store.cut_off(self.left))?;
            self.piece.truncate(self.left.min(usize::MAX as u64) as usize);
            self.left -= self.piece.len() as u64;
        }
        Ok((!self.piece.is_empty()).then(|| self.piece.split_to(self.piece.len().min(CHUNK))))
    }
}

impl Store {
    pub(super) fn cut_off(&self, left: u64) -> BlobError {
        let why = format!("cannot read a blob: the answer ended {left} bytes too early");
        BlobError::Unavailable { store: self.url.clone(), why }
    }
}

/// The bytes of `range` of a blob that lies in frames; the range is not empty.
pub(super) async fn frames(store: &Arc<Store>, location: &Location, range: Range<u64>) -> Result<Reader, BlobError> {
    let stored = location.stored();
    let table = stored.checked_sub(table_len(location.digest.size)).map(|begin| begin..stored);
    let table = table.ok_or_else(|| location.corrupt("it is shorter than a table of its frames"))?;
    // What is small comes in one request.
    let all = match stored <= CHUNK as u64 {
        true => Some(raw(store, location, 0..stored).await?.into_bytes().await?),
        false => None,
    };
    let bytes = match &all {
        Some(all) => all.slice(table.start as usize..),
        None => raw(store, location, table).await?.into_bytes().await?,
    };
    let table = Table::parse(*location, &bytes)?;
    let frames = table.covering(&range);
    let place = table.place(frames.start).start..table.place(frames.end.saturating_sub(1)).end;
    let packed = match all {
        Some(all) => Reader::new(None, stream::iter([Ok(all.slice(place.start as usize..place.end as usize))])),
        None => raw(store, location, place).await?,
    };
    let unpacker = Unpacker { table, decoder: decoder()?, range };
    let unpacking = Unpacking {
        location: *location,
        packed,
        gathered: BytesMut::new(),
        unpacker: Some(unpacker),
        frames,
        chunk: Bytes::new(),
    };
    let chunks = try_unfold(unpacking, |mut it| async { Ok(it.next().await?.map(|next| (next, it))) });
    Ok(Reader::new(None, chunks))
}

/// Makes frames that come one after the other into the bytes that are in them.
struct Unpacking {
    location: Location,
    packed: Reader,
    gathered: BytesMut,
    /// Away while it works.
    unpacker: Option<Unpacker>,
    /// Those that are still to come.
    frames: Range<u64>,
    chunk: Bytes,
}

struct Unpacker {
    table: Table,
    decoder: DCtx<'static>,
    range: Range<u64>,
}

impl Unpacking {
    async fn next(&mut self) -> Result<Option<Bytes>, BlobError> {
        while self.chunk.is_empty() {
            let Some(frame) = self.frames.next() else { return Ok(None) };
            let Some(mut unpacker) = self.unpacker.take() else { return Ok(None) };
            let place = unpacker.table.place(frame);
            let wanted = (place.end - place.start) as usize;
            while self.gathered.len() < wanted {
                let piece = self.packed.try_next().await?;
                self.gathered
                    .extend_from_slice(&piece.ok_or_else(|| self.location.corrupt("its frames are cut short"))?);
            }
            let packed = self.gathered.split_to(wanted).freeze();
            let unpacked = blocking(move || {
                let bytes = unpacker.table.unpack(&mut unpacker.decoder, frame, &packed, &unpacker.range)?;
                Ok((unpacker, bytes))
            });
            let (unpacker, bytes) = unpacked.await?;
            (self.unpacker, self.chunk) = (Some(unpacker), bytes);
        }
        Ok(Some(self.chunk.split_to(self.chunk.len().min(CHUNK))))
    }
}
