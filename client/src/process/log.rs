//! Logs: what a command wrote to one stream, kept in an unlinked file.
//!
//! Invariant: at most [`MAX_LOG`] bytes are kept; of more, the first and the last half, with a line between them that says
//! how much is missing, for the end of a log most often tells what went wrong. A full disk cuts the log, not the command.

use std::fs::File;
use std::io::{self, Cursor, Read};
use std::os::unix::fs::FileExt;

use provender_core::digest::Digest;

/// The most bytes of one stream that are kept, the line that marks a cut included.
pub const MAX_LOG: u64 = 64 << 20;
/// Room for the line that marks a cut.
const MARK: u64 = 128;

/// A log while it is written: a head, then a ring that holds the latest bytes.
#[derive(Debug)]
pub(super) struct Spool {
    file: File,
    head: u64,
    ring: u64,
    total: u64,
}

impl Spool {
    pub(super) fn new() -> io::Result<Spool> {
        let half = (MAX_LOG - MARK) / 2;
        Ok(Spool { file: tempfile::tempfile()?, head: half, ring: half, total: 0 })
    }

    pub(super) fn append(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (at, room) = match self.total {
                total if total < self.head => (total, self.head - total),
                total if self.ring == 0 => (total, u64::MAX),
                total => {
                    let in_ring = (total - self.head) % self.ring;
                    (self.head + in_ring, self.ring - in_ring)
                }
            };
            let (now, rest) = bytes.split_at(room.min(bytes.len() as u64) as usize);
            // Without a ring what comes is only counted.
            let keep = self.total < self.head || self.ring > 0;
            if keep && let Err(error) = self.file.write_all_at(now, at) {
                tracing::warn!(%error, "a log is cut");
                self.head = self.total.min(self.head);
                self.ring = 0;
            }
            self.total += now.len() as u64;
            bytes = rest;
        }
    }

    pub(super) fn finish(self) -> Log {
        let Spool { file, head, ring, total } = self;
        let kept = head.saturating_add(ring);
        let dropped = total.saturating_sub(kept);
        let (parts, mark) = if dropped == 0 {
            ([(0, total), (0, 0), (0, 0)], String::new())
        } else {
            let oldest = (total - head).checked_rem(ring).map_or(head, |at| head + at);
            let mark = format!("\n[provender: {dropped} bytes are missing here]\n");
            ([(0, head), (oldest, kept), (head, oldest)], mark)
        };
        Log { file, parts, mark, dropped }
    }
}

/// A finished log.
#[derive(Debug)]
pub struct Log {
    file: File,
    /// Ranges of the file in the order of writing; the mark stands behind the first.
    parts: [(u64, u64); 3],
    mark: String,
    dropped: u64,
}

impl Log {
    /// How many bytes can be read, the line that marks a cut included.
    pub fn size(&self) -> u64 {
        self.parts.iter().map(|(start, end)| end - start).sum::<u64>() + self.mark.len() as u64
    }

    /// How many bytes were not kept.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Whether something was not kept.
    pub fn truncated(&self) -> bool {
        self.dropped > 0
    }

    /// The bytes from the beginning; several readers don't disturb each other.
    pub fn reader(&self) -> impl Read + Send + '_ {
        let [head, middle, tail] = self.parts.map(|(at, end)| Range { file: &self.file, at, end });
        head.chain(Cursor::new(self.mark.as_bytes())).chain(middle).chain(tail)
    }

    /// The digest of what [`Log::reader`] gives.
    pub fn digest(&self) -> io::Result<Digest> {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(self.reader())?;
        Ok(Digest { hash: *hasher.finalize().as_bytes(), size: self.size() })
    }
}

struct Range<'a> {
    file: &'a File,
    at: u64,
    end: u64,
}

impl Read for Range<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = (self.end - self.at).min(buffer.len() as u64) as usize;
        if room == 0 {
            return Ok(0);
        }
        let read = self.file.read_at(&mut buffer[..room], self.at)?;
        self.at += read as u64;
        if read == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(read) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spool(head: u64, ring: u64) -> Spool {
        Spool { file: tempfile::tempfile().unwrap(), head, ring, total: 0 }
    }

    fn text(spool: Spool) -> String {
        let log = spool.finish();
        let mut text = String::new();
        log.reader().read_to_string(&mut text).unwrap();
        assert_eq!(log.size(), text.len() as u64);
        assert_eq!(log.digest().unwrap(), Digest::of(text.as_bytes()));
        assert_eq!(log.truncated(), text.contains("missing"));
        text
    }

    #[test]
    fn whatever_the_pieces_the_first_and_last_bytes_are_kept() {
        let all: String = ('a'..='z').collect();
        for piece in 1..=26 {
            for length in 0..=26 {
                let mut spool = spool(4, 3);
                for piece in all.as_bytes()[..length].chunks(piece) {
                    spool.append(piece);
                }
                let expected = match length {
                    0..=7 => all[..length].to_owned(),
                    _ => {
                        let dropped = length - 7;
                        format!("abcd\n[provender: {dropped} bytes are missing here]\n{}", &all[length - 3..length])
                    }
                };
                assert_eq!(text(spool), expected, "{length} bytes in pieces of {piece}");
            }
        }
    }

    #[test]
    fn a_disk_that_fails_cuts_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, "abcd").unwrap();
        let mut spool = spool(4, 3);
        spool.append(b"abcd");
        spool.file = File::open(&path).unwrap();
        spool.append(b"efgh");
        spool.append(b"ijkl");
        assert_eq!(text(spool), "abcd\n[provender: 8 bytes are missing here]\n");
    }
}
