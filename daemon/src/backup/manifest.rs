//! The manifest: what one backup consists of.
//!
//! Invariant: it is written last, so that whatever it names is whole and durable; a manifest that is read is the one that was written,
//! or an error.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message;
use provender_blobs::StoreId;
use provender_core::batch::{Table, Version};
use provender_core::{Digest, Timestamp};
use provender_proto::convert;
use provender_proto::store::v1;

use super::pieces::Piece;

/// The format of marker, manifests and pieces that this version reads and writes.
pub const FORMAT: u32 = 1;
const MARK: &str = "provender backup manifest ";

/// One backup.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// The layout of its rows.
    pub layout: u32,
    /// The store's id.
    pub store: String,
    /// Which life of the store.
    pub incarnation: u64,
    /// The blob store that the rows' locations are of.
    pub source: StoreId,
    /// The blob store within the backup; `None` if the bytes stayed in `source`.
    pub blobs: Option<StoreId>,
    /// The commit at which the rows were read.
    pub version: Version,
    /// When that was.
    pub taken: Timestamp,
    /// All rows, in order of tables and keys; without [`Table::Inline`] if there are `blobs`.
    pub rows: Vec<Piece>,
    /// The bytes of small blobs, as they came; some may be of no blob any more.
    pub inline: Vec<Piece>,
    /// Blobs that the rows name and whose bytes could not be had any more.
    pub missing: BTreeSet<Digest>,
    /// How much it is.
    pub totals: Totals,
    /// The version of the program that wrote it.
    pub made_by: String,
}

/// How much a backup holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Rows.
    pub rows: u64,
    /// Their bytes.
    pub row_bytes: u64,
    /// Small blobs.
    pub inline: u64,
    /// Their bytes.
    pub inline_bytes: u64,
    /// Large blobs.
    pub blobs: u64,
    /// Their bytes.
    pub blob_bytes: u64,
    /// Blobs that were known to be lost.
    pub lost: u64,
}

/// Why bytes are no manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// Written by a newer version.
    Newer(u32),
    /// Not as it was written.
    Damaged(&'static str),
}

impl Manifest {
    /// Its file: a line that says what it is, the message, and the BLAKE3 of both.
    pub(super) fn encode(&self) -> Bytes {
        let piece = |piece: &Piece| v1::Piece {
            table: piece.table.tag().into(),
            hash: Bytes::copy_from_slice(&piece.hash),
            bytes: piece.bytes,
            stored: piece.stored,
            rows: piece.rows,
        };
        let Totals { rows, row_bytes, inline, inline_bytes, blobs, blob_bytes, lost } = self.totals;
        let message = v1::Manifest {
            layout: self.layout,
            store: self.store.clone(),
            incarnation: self.incarnation,
            source: self.source.to_string(),
            blobs: self.blobs.map(|id| id.to_string()).unwrap_or_default(),
            version: self.version.0,
            taken_ms: self.taken.millis(),
            rows: self.rows.iter().map(piece).collect(),
            inline: self.inline.iter().map(piece).collect(),
            missing: self.missing.iter().map(convert::digest_to).collect(),
            totals: Some(v1::Totals { rows, row_bytes, inline, inline_bytes, blobs, blob_bytes, lost }),
            made_by: self.made_by.clone(),
        };
        let mut file = format!("{MARK}{FORMAT}\n").into_bytes();
        file.extend(message.encode_to_vec());
        let check = blake3::hash(&file);
        file.extend(check.as_bytes());
        file.into()
    }

    pub(super) fn decode(file: &Bytes) -> Result<Manifest, Unreadable> {
        use Unreadable::{Damaged, Newer};
        let line = file.iter().position(|byte| *byte == b'\n').ok_or(Damaged("it is no manifest"))?;
        let format = std::str::from_utf8(&file[..line]).ok().and_then(|line| line.strip_prefix(MARK)?.parse().ok());
        let (signed, check) = file.split_last_chunk::<32>().ok_or(Damaged("it is cut short"))?;
        match format {
            Some(FORMAT) if *blake3::hash(signed).as_bytes() == *check => {}
            Some(newer) if newer > FORMAT => return Err(Newer(newer)),
            _ => return Err(Damaged("its bytes are not those that were written")),
        }
        let message = v1::Manifest::decode(&signed[line + 1..]).map_err(|_| Damaged("it cannot be decoded"))?;
        let pieces = |pieces: &[v1::Piece]| pieces.iter().map(piece).collect::<Option<Vec<_>>>();
        let ids = || {
            let blobs = Some(&message.blobs).filter(|id| !id.is_empty()).map(|id| id.parse());
            Some((message.source.parse().ok()?, blobs.transpose().ok()?))
        };
        let (source, blobs) = ids().ok_or(Damaged("the id of a blob store is none"))?;
        let missing = message.missing.iter().map(|digest| convert::digest_from("missing", digest)).collect();
        let v1::Totals { rows, row_bytes, inline, inline_bytes, blobs: blob_count, blob_bytes, lost } =
            message.totals.unwrap_or_default();
        Ok(Manifest {
            layout: message.layout,
            incarnation: message.incarnation,
            source,
            blobs,
            version: Version(message.version),
            taken: Timestamp::from_millis(message.taken_ms),
            rows: pieces(&message.rows).ok_or(Damaged("it names what is no piece"))?,
            inline: pieces(&message.inline).ok_or(Damaged("it names what is no piece"))?,
            missing: Result::ok(missing).ok_or(Damaged("it names what is no blob"))?,
            totals: Totals { rows, row_bytes, inline, inline_bytes, blobs: blob_count, blob_bytes, lost },
            store: message.store,
            made_by: message.made_by,
        })
    }

    /// What it is known by: the BLAKE3 of its file.
    pub fn hash(&self) -> [u8; 32] {
        *blake3::hash(&self.encode()).as_bytes()
    }

    /// Every piece.
    pub(super) fn pieces(&self) -> impl Iterator<Item = &Piece> {
        self.rows.iter().chain(&self.inline)
    }

    /// The pieces of one table.
    pub(super) fn of(&self, table: Table) -> impl Iterator<Item = &Piece> {
        self.rows.iter().filter(move |piece| piece.table == table)
    }
}

fn piece(piece: &v1::Piece) -> Option<Piece> {
    let table = Table::from_tag(u8::try_from(piece.table).ok()?)?;
    let hash = piece.hash[..].try_into().ok()?;
    Some(Piece { table, hash, bytes: piece.bytes, stored: piece.stored, rows: piece.rows })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_back_and_every_changed_byte_is_found() {
        let piece = |n: u8| Piece { table: Table::Key, hash: [n; 32], bytes: 9, stored: 10, rows: 1 };
        let manifest = Manifest {
            layout: 2,
            store: "ab".into(),
            incarnation: 3,
            source: StoreId([1; 16]),
            blobs: Some(StoreId([2; 16])),
            version: Version(7),
            taken: Timestamp::from_millis(8),
            rows: vec![piece(1), piece(2)],
            inline: vec![piece(3)],
            missing: BTreeSet::from([Digest::of(b"x")]),
            totals: Totals { rows: 1, lost: 2, ..Totals::default() },
            made_by: "0".into(),
        };
        let file = manifest.encode();
        assert_eq!(Manifest::decode(&file), Ok(manifest.clone()));
        for at in 0..file.len() {
            let mut bytes = file.to_vec();
            bytes[at] ^= 1;
            assert!(Manifest::decode(&bytes.into()).is_err(), "byte {at}");
            assert!(Manifest::decode(&file.slice(..at)).is_err(), "cut at {at}");
        }
        let newer = [b"provender backup manifest 2\n", &[0; 40][..]].concat();
        assert_eq!(Manifest::decode(&newer.into()), Err(Unreadable::Newer(2)));
        let alone = Manifest { blobs: None, ..manifest };
        assert_eq!(Manifest::decode(&alone.encode()), Ok(alone));
    }
}
