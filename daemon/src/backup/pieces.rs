//! Pieces: runs of rows, cut where the rows themselves say so.
//!
//! Owns the bytes of a piece and where one ends. Invariants: equal rows give equal pieces, and a changed row changes the pieces
//! around it alone, so that what one backup wrote serves the next; a piece that is read is the piece that was written, or an error.
//! It must not know what a row means.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use provender_core::batch::Table;

/// About how many bytes a piece has.
const AIM: u64 = 256 << 10;
/// A piece ends with the row that reaches this many bytes, wherever that is.
pub(super) const MOST: usize = 4 << 20;
/// The largest piece that is read: one row may come on top of [`MOST`].
const LARGEST: u64 = 64 << 20;

/// A piece, as a manifest names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Whose rows.
    pub table: Table,
    /// BLAKE3 of its bytes.
    pub hash: [u8; 32],
    /// How many they are.
    pub bytes: u64,
    /// How many they are in the file, compressed.
    pub stored: u64,
    /// How many rows.
    pub rows: u64,
}

/// Rows that make a piece.
#[derive(Debug)]
pub(super) struct Cut {
    pub(super) table: Table,
    pub(super) raw: Bytes,
    pub(super) rows: u64,
}

/// Takes rows in order, and cuts them.
#[derive(Debug)]
pub(super) struct Cutter {
    table: Table,
    raw: BytesMut,
    rows: u64,
}

impl Cutter {
    pub(super) fn new(table: Table) -> Cutter {
        Cutter { table, raw: BytesMut::new(), rows: 0 }
    }

    /// Adds a row; the piece that ends with it, if one does.
    pub(super) fn push(&mut self, key: &[u8], value: &[u8]) -> Option<Cut> {
        // Keys have at most 4 KiB, and values are no larger than a message.
        self.raw.put_u32(key.len() as u32);
        self.raw.put_u32(value.len() as u32);
        self.raw.put_slice(key);
        self.raw.put_slice(value);
        self.rows += 1;
        // A row ends a piece with a chance of its share of the bytes; its key alone throws the dice.
        let size = (key.len() + value.len() + 8) as u64;
        let ends = dice(key) % AIM < size || self.raw.len() >= MOST;
        if ends { self.take() } else { None }
    }

    /// What is left.
    pub(super) fn finish(mut self) -> Option<Cut> {
        self.take()
    }

    fn take(&mut self) -> Option<Cut> {
        let rows = std::mem::take(&mut self.rows);
        (rows > 0).then(|| Cut { table: self.table, raw: self.raw.split().freeze(), rows })
    }
}

fn dice(key: &[u8]) -> u64 {
    let hash = blake3::hash(key);
    hash.as_bytes().first_chunk().copied().map_or(0, u64::from_be_bytes)
}

/// How the bytes stand in a piece's file: its first byte.
const PLAIN: u8 = 0;
/// The same as one zstd frame.
const PACKED: u8 = 1;
/// How hard zstd tries: as fast as rows come, and most of what there is to be had of them.
const LEVEL: i32 = 3;

/// The file of a piece.
pub(super) fn to_file(cut: &Cut) -> (Piece, Bytes) {
    let hash = *blake3::hash(&cut.raw).as_bytes();
    let mut packed = vec![0; 1 + zstd_safe::compress_bound(cut.raw.len())];
    packed[0] = PACKED;
    let file = match zstd_safe::compress(&mut packed[1..], &cut.raw, LEVEL) {
        Ok(size) if size < cut.raw.len() => {
            packed.truncate(1 + size);
            Bytes::from(packed)
        }
        // What is compressed already, as bytes of small blobs may be.
        _ => [&[PLAIN], &cut.raw[..]].concat().into(),
    };
    let piece =
        Piece { table: cut.table, hash, bytes: cut.raw.len() as u64, stored: file.len() as u64, rows: cut.rows };
    (piece, file)
}

/// The rows in a piece's file, keys and values; else what is wrong with it.
pub(super) fn from_file(piece: &Piece, mut file: Bytes) -> Result<Vec<(Bytes, Bytes)>, &'static str> {
    if file.len() as u64 != piece.stored {
        return Err("it has not the size that it was written with");
    }
    if piece.bytes > LARGEST {
        return Err("it is larger than any piece");
    }
    let raw = match file.try_get_u8() {
        Ok(PLAIN) => file,
        Ok(PACKED) => {
            let mut raw = vec![0; piece.bytes as usize];
            let size = zstd_safe::decompress(&mut raw[..], &file).map_err(|_| "it cannot be decompressed")?;
            raw.truncate(size);
            raw.into()
        }
        _ => return Err("it is of a form that this version does not know"),
    };
    if raw.len() as u64 != piece.bytes || *blake3::hash(&raw).as_bytes() != piece.hash {
        return Err("its bytes are not those that were written");
    }
    rows(raw).filter(|rows| rows.len() as u64 == piece.rows).ok_or("its rows cannot be told from each other")
}

fn rows(mut raw: Bytes) -> Option<Vec<(Bytes, Bytes)>> {
    let mut rows = Vec::new();
    while !raw.is_empty() {
        let (key, value) = (raw.try_get_u32().ok()? as usize, raw.try_get_u32().ok()? as usize);
        if raw.len() < key.checked_add(value)? {
            return None;
        }
        rows.push((raw.split_to(key), raw.split_to(value)));
    }
    Some(rows)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn cut(rows: &[(Vec<u8>, Vec<u8>)]) -> Vec<Cut> {
        let mut cutter = Cutter::new(Table::Key);
        let mut cuts: Vec<_> = rows.iter().filter_map(|(key, value)| cutter.push(key, value)).collect();
        cuts.extend(cutter.finish());
        cuts
    }

    fn many(n: u32) -> Vec<(Vec<u8>, Vec<u8>)> {
        (0..n).map(|n| (n.to_be_bytes().to_vec(), vec![n as u8; 300])).collect()
    }

    #[test]
    fn rows_come_back_and_a_change_stays_where_it_is() {
        let mut rows = many(20_000);
        let files: Vec<_> = cut(&rows).iter().map(to_file).collect();
        assert!((8..80).contains(&files.len()), "{} pieces", files.len());
        let back: Vec<_> = files.iter().flat_map(|(piece, file)| from_file(piece, file.clone()).unwrap()).collect();
        assert!(back.iter().map(|(key, value)| (key.to_vec(), value.to_vec())).eq(rows.iter().cloned()));

        rows[5_000].1 = b"another value".to_vec();
        rows.remove(15_000);
        let hashes = |files: &[(Piece, Bytes)]| files.iter().map(|(piece, _)| piece.hash).collect::<BTreeSet<_>>();
        let after: Vec<_> = cut(&rows).iter().map(to_file).collect();
        let new = hashes(&after).difference(&hashes(&files)).count();
        assert!((1..=4).contains(&new), "{new} pieces are new");
    }

    #[test]
    fn what_was_changed_is_found() {
        let cuts = cut(&many(50));
        let (piece, file) = to_file(&cuts[0]);
        for at in [0, 1, 7, file.len() - 1] {
            let mut bytes = file.to_vec();
            bytes[at] ^= 1;
            from_file(&piece, bytes.into()).expect_err("changed");
        }
        from_file(&piece, file.slice(1..)).expect_err("cut");
        let other = Piece { rows: piece.rows + 1, ..piece };
        from_file(&other, file).expect_err("of other rows");
        for wrong in [&[0, 0, 0, 9][..], &[0, 0, 0, 9, 0, 0, 0, 9, 1], &[255; 16]] {
            assert!(super::rows(Bytes::copy_from_slice(wrong)).is_none());
        }
    }
}
