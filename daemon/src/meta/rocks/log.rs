//! Looking through RocksDB's logs before it does: the write-ahead logs, and the manifest of its files.
//!
//! A record of them carries a checksum of its bytes and type, but not of its length; and what reaches beyond the end of a log is taken for a write that a
//! power cut has cut off, and dropped. So one flipped bit in a length would drop that record and all behind it, acknowledged or
//! not. A type that only recycled logs have, which are not used here, ends a log as silently, or is read over and over for ever.
//! Invariant: a log with such a header is refused; one whose last write was cut off is not. What else is wrong with a log
//! RocksDB finds by itself.
//!
//! The format is RocksDB's (`db/log_format.h`): blocks of 32 KiB, and in them records that end with their block; each has a
//! masked CRC-32C, a length, and a type.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use crate::meta::MetaError;

/// The bytes of a block.
const BLOCK: usize = 32 << 10;
/// The greatest type of a record that is written here: whole, or the first, middle or last part of one.
const LAST: u8 = 4;

/// Fails if a log in this folder of metadata was damaged where RocksDB would not notice.
pub(super) fn check(dir: &Path) -> Result<(), MetaError> {
    let reading = |error| MetaError::unavailable("reading the metadata's logs", error);
    let damaged = |what: String| MetaError::Corrupt { what };
    let current = dir.join("CURRENT");
    let named = fs::read(&current).map_err(reading)?;
    let manifest = std::str::from_utf8(&named).ok().and_then(|name| name.strip_suffix('\n'));
    let manifest = manifest.filter(|name| name.starts_with("MANIFEST-") && dir.join(name).is_file());
    let manifest = manifest.ok_or_else(|| damaged(format!("{} names no manifest that is there", current.display())))?;
    let mut logs = vec![dir.join(manifest)];
    for entry in fs::read_dir(dir).map_err(reading)? {
        let path = entry.map_err(reading)?.path();
        logs.extend(path.extension().is_some_and(|extension| extension == "log").then_some(path));
    }
    for log in logs {
        if let Some(at) = File::open(&log).and_then(look).map_err(reading)? {
            let what = format!("{}: the header of the record at byte {at} is not as it was written", log.display());
            return Err(damaged(what));
        }
    }
    Ok(())
}

/// Where a log has a damaged header.
fn look(mut log: File) -> io::Result<Option<u64>> {
    let (mut block, mut at) = (Vec::with_capacity(BLOCK), 0);
    loop {
        block.clear();
        Read::by_ref(&mut log).take(BLOCK as u64).read_to_end(&mut block)?;
        if let Some(damaged) = damaged(&block) {
            return Ok(Some(at + damaged as u64));
        }
        if block.len() < BLOCK {
            return Ok(None);
        }
        at += BLOCK as u64;
    }
}

/// The same in one block.
fn damaged(block: &[u8]) -> Option<usize> {
    let mut rest = block;
    while let Some((header, behind)) = rest.split_first_chunk() {
        let at = block.len() - rest.len();
        let [a, b, c, d, low, high, kind] = *header;
        let length = usize::from(u16::from_le_bytes([low, high]));
        match behind.get(length..) {
            _ if kind > LAST => return Some(at),
            // Reserved, and never written to.
            _ if kind == 0 && length == 0 => return None,
            Some(next) => rest = next,
            // Cut off, unless all of it is there. (Of 100,000 cut off ones one seems so.)
            None => return is_whole(u32::from_le_bytes([a, b, c, d]), kind, behind).then_some(at),
        }
    }
    None
}

/// Whether these bytes begin with a record of this type and checksum, of whatever length.
fn is_whole(masked: u32, kind: u8, bytes: &[u8]) -> bool {
    let crc = masked.wrapping_sub(0xa282_ead8).rotate_left(15);
    let mut sum = step(!0, kind);
    for byte in bytes {
        if !sum == crc {
            return true;
        }
        sum = step(sum, *byte);
    }
    !sum == crc
}

/// A step of CRC-32C.
fn step(sum: u32, byte: u8) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut at = 0;
        while at < table.len() {
            let (mut sum, mut bit) = (at as u32, 0);
            while bit < 8 {
                sum = (sum >> 1) ^ (0x82f6_3b78 * (sum & 1));
                bit += 1;
            }
            table[at] = sum;
            at += 1;
        }
        table
    };
    TABLE[usize::from(sum as u8 ^ byte)] ^ (sum >> 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crc(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0, |sum, byte| step(sum, *byte))
    }

    fn record(kind: u8, bytes: &[u8]) -> Vec<u8> {
        let masked = crc(&[&[kind], bytes].concat()).rotate_right(15).wrapping_add(0xa282_ead8);
        [&masked.to_le_bytes()[..], &(bytes.len() as u16).to_le_bytes(), &[kind], bytes].concat()
    }

    #[test]
    fn what_was_cut_off_is_told_from_what_was_damaged() {
        // The check value of CRC-32C.
        assert_eq!(crc(b"123456789"), 0xe306_9283);
        let block = [record(1, b"first"), record(1, b""), record(2, &[7; 1000])].concat();
        for end in 0..=block.len() {
            assert_eq!(damaged(&block[..end]), None, "cut off at {end}");
        }
        assert_eq!(damaged(&[&block[..], &[0; 50]].concat()), None);
        for (at, bits) in [(4, 0x80), (5, 1), (5, 0x80), (6, 4), (6, 0x80), (12 + 5, 1), (19 + 5, 0x40), (19 + 6, 8)] {
            let mut flipped = block.clone();
            flipped[at] ^= bits;
            assert!(damaged(&flipped).is_some(), "{bits:x} at {at}");
        }
    }
}
