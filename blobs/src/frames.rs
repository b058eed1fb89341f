//! The zstd seekable format: a blob in frames of one group each, and a table of where they are.
//!
//! Owns [`Frames`], [`Encoder`] and [`Table`]. The format is that of zstd's `contrib/seekable_format`, version 0.1.0, without
//! checksums: zstd frames, then a skippable frame (so that plain `zstd -d` restores the blob) with two sizes for each of
//! them. Invariant: nothing that is read is believed before it fits the blob's size: there are exactly its groups, each frame
//! comes to exactly its group, none is longer than zstd makes them. What their bytes are, others check. It must not know I/O.

use std::io;
use std::ops::Range;

use bytes::Bytes;
use zstd_safe::{CCtx, DCtx, compress_bound, get_error_name};

use crate::outboard::group;
use crate::{BlobError, Location};

/// The magic number of the skippable frame with the table.
const SKIPPABLE: u32 = 0x184D_2A5E;
/// The magic number at the end of the file.
const SEEKABLE: u32 = 0x8F92_EAB1;
/// Before the entries: magic number and length.
const HEAD: u64 = 8;
const ENTRY: u64 = 8;
/// After the entries: their number, the descriptor (no checksums), the magic number.
const FOOT: u64 = 9;
/// A frame is in memory as a whole, so blobs with larger groups (of more than 1 TiB) stay as they are.
const MAX_GROUP: u64 = 16 << 20;

/// How a blob is to be put into frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frames {
    /// The blob's size: fewer or more bytes cannot be published.
    pub size: u64,
    /// zstd's level, from 1 to 19; others are cut to that.
    pub level: i32,
    /// The most bytes that frames may take; beyond, they end in [`BlobError::Incompressible`].
    pub most: u64,
}

impl Frames {
    /// Whether a blob of `size` bytes can be kept in frames.
    pub fn can_hold(size: u64) -> bool {
        group(size) <= MAX_GROUP
    }
}

/// Puts bytes into frames.
pub(crate) struct Encoder {
    asked: Frames,
    context: CCtx<'static>,
    /// The length of all frames but the last, unpacked.
    group: usize,
    taken: u64,
    written: u64,
    /// The begin of a frame's bytes.
    pending: Vec<u8>,
    /// Both sizes of each frame.
    table: Vec<[u32; 2]>,
    scratch: Vec<u8>,
}

impl Encoder {
    pub(crate) fn new(asked: Frames) -> Result<Encoder, BlobError> {
        if !Frames::can_hold(asked.size) {
            return Err(BlobError::Abandoned { why: "it is too large for frames" });
        }
        let out_of_memory = || BlobError::io("zstd", "compress", io::ErrorKind::OutOfMemory);
        let context = CCtx::try_create().ok_or_else(out_of_memory)?;
        let group = group(asked.size) as usize;
        let scratch = vec![0; compress_bound(group)];
        let (pending, table) = (Vec::new(), Vec::new());
        Ok(Encoder { asked, context, group, taken: 0, written: 0, pending, table, scratch })
    }

    /// Takes bytes, and appends the frames that they fill to `out`.
    pub(crate) fn push(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> Result<(), BlobError> {
        self.taken += bytes.len() as u64;
        if self.taken > self.asked.size {
            return Err(other_size());
        }
        while !bytes.is_empty() {
            let (head, rest) = bytes.split_at(bytes.len().min(self.group - self.pending.len()));
            bytes = rest;
            if head.len() == self.group {
                self.frame(head, out)?;
                continue;
            }
            self.pending.extend_from_slice(head);
            if self.pending.len() == self.group {
                let full = std::mem::take(&mut self.pending);
                self.frame(&full, out)?;
            }
        }
        Ok(())
    }

    fn frame(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), BlobError> {
        let packed = self.context.compress(&mut self.scratch[..], bytes, self.asked.level.clamp(1, 19));
        let len = packed.map_err(|code| BlobError::io("zstd", "compress", io::Error::other(get_error_name(code))))?;
        out.extend_from_slice(&self.scratch[..len]);
        // A group has at most 16 MiB, and grows little.
        self.table.push([len as u32, bytes.len() as u32]);
        self.grow(len as u64)
    }

    fn grow(&mut self, len: u64) -> Result<(), BlobError> {
        self.written += len;
        let most = self.asked.most;
        if self.written > most { Err(BlobError::Incompressible { most }) } else { Ok(()) }
    }

    /// Appends what is left, and the table; says how many bytes all of it has.
    pub(crate) fn finish(mut self, out: &mut Vec<u8>) -> Result<u64, BlobError> {
        if self.taken != self.asked.size {
            return Err(other_size());
        }
        let last = std::mem::take(&mut self.pending);
        if !last.is_empty() {
            self.frame(&last, out)?;
        }
        self.grow(table_len(self.asked.size))?;
        let frames = self.table.len() as u64;
        out.extend_from_slice(&head(frames));
        self.table.iter().flatten().for_each(|size| out.extend_from_slice(&size.to_le_bytes()));
        out.extend_from_slice(&foot(frames));
        Ok(self.written)
    }
}

fn other_size() -> BlobError {
    BlobError::Abandoned { why: "it has another size than was said" }
}

/// The bytes that the table of a blob of `size` bytes takes: at most 512 KiB and 17 bytes.
pub(crate) fn table_len(size: u64) -> u64 {
    HEAD + size.div_ceil(group(size)) * ENTRY + FOOT
}

/// Where the frames of a blob are.
#[derive(Debug)]
pub(crate) struct Table {
    location: Location,
    group: u64,
    /// Where each frame ends.
    ends: Vec<u64>,
}

impl Table {
    /// Reads the last [`table_len`] bytes of the frames at `location`.
    pub(crate) fn parse(location: Location, bytes: &[u8]) -> Result<Table, BlobError> {
        let size = location.digest.size;
        let group = group(size);
        let frames = size.div_ceil(group);
        let damaged = || location.corrupt("the table of its frames is damaged");
        let entries = bytes.strip_prefix(&head(frames)[..]).and_then(|rest| rest.strip_suffix(&foot(frames)[..]));
        let (entries, rest) = entries.ok_or_else(damaged)?.as_chunks::<{ ENTRY as usize }>();
        if entries.len() as u64 != frames || !rest.is_empty() || !Frames::can_hold(size) {
            return Err(damaged());
        }
        let (longest, mut end) = (compress_bound(group as usize) as u64, 0);
        let mut table = Table { location, group, ends: Vec::with_capacity(entries.len()) };
        for (frame, entry) in (0..).zip(entries) {
            let &[a, b, c, d, ref unpacked @ ..] = entry;
            let packed = u64::from(u32::from_le_bytes([a, b, c, d]));
            if packed > longest || u64::from(u32::from_le_bytes(*unpacked)) != table.unpacked(frame) {
                return Err(damaged());
            }
            end += packed;
            table.ends.push(end);
        }
        if end + table_len(size) == location.stored() { Ok(table) } else { Err(damaged()) }
    }

    /// The length of a frame's bytes.
    fn unpacked(&self, frame: u64) -> u64 {
        self.group.min(self.location.digest.size.saturating_sub(frame * self.group))
    }

    /// The frames that `range`, which lies within the blob, has bytes of.
    pub(crate) fn covering(&self, range: &Range<u64>) -> Range<u64> {
        if range.is_empty() { 0..0 } else { range.start / self.group..range.end.div_ceil(self.group) }
    }

    /// Where a frame is in the file.
    pub(crate) fn place(&self, frame: u64) -> Range<u64> {
        let end = |frame: usize| self.ends.get(frame).copied().unwrap_or_default();
        let frame = frame as usize;
        frame.checked_sub(1).map_or(0, end)..end(frame)
    }

    /// What `packed`, the bytes of a frame, hold of `range`: unchecked, but of the right length.
    pub(crate) fn unpack(
        &self,
        context: &mut DCtx<'_>,
        frame: u64,
        packed: &[u8],
        range: &Range<u64>,
    ) -> Result<Bytes, BlobError> {
        let mut bytes = vec![0; self.unpacked(frame) as usize];
        match context.decompress(&mut bytes[..], packed) {
            Ok(len) if len == bytes.len() => {}
            Ok(len) => return Err(self.location.corrupt(format_args!("its frame {frame} holds {len} bytes"))),
            Err(code) => {
                let why = get_error_name(code);
                return Err(self.location.corrupt(format_args!("its frame {frame} cannot be unpacked: {why}")));
            }
        }
        let begin = frame * self.group;
        let within = |at: u64| (at.saturating_sub(begin) as usize).min(bytes.len());
        let cut = within(range.start)..within(range.end);
        Ok(Bytes::from(bytes).slice(cut))
    }
}

/// What unpacks frames.
pub(crate) fn decoder() -> Result<DCtx<'static>, BlobError> {
    DCtx::try_create().ok_or_else(|| BlobError::io("zstd", "read a blob", io::ErrorKind::OutOfMemory))
}

fn head(frames: u64) -> [u8; HEAD as usize] {
    let mut out = [0; HEAD as usize];
    out[..4].copy_from_slice(&SKIPPABLE.to_le_bytes());
    out[4..].copy_from_slice(&((frames * ENTRY + FOOT) as u32).to_le_bytes());
    out
}

fn foot(frames: u64) -> [u8; FOOT as usize] {
    let mut out = [0; FOOT as usize];
    out[..4].copy_from_slice(&(frames as u32).to_le_bytes());
    out[5..].copy_from_slice(&SEEKABLE.to_le_bytes());
    out
}

#[cfg(test)]
mod tests;
