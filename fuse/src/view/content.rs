//! Reading an open file.
//!
//! Invariant: within a file's size every byte asked for is delivered or the read fails. A short answer would be filled up with
//! zeroes by the kernel.

use std::fs::File;

use bytes::Bytes;
use rustix::buffer::spare_capacity;
use rustix::io::{Errno, pread};

use super::ViewError;
use crate::requests::time_left;
use crate::source::{Content, SourceError};

/// The content of an open file.
#[derive(Debug)]
pub struct OpenFile {
    content: Content,
    size: u64,
}

impl OpenFile {
    /// Takes content that must be `size` bytes long.
    pub(super) fn new(content: Content, size: u64) -> Result<OpenFile, ViewError> {
        let found = match &content {
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::Fd(file) => rustix::fs::fstat(file).map_err(ViewError::Io)?.st_size as u64,
            Content::Reader(_) => size,
        };
        if found == size { Ok(OpenFile { content, size }) } else { Err(damaged(size, found)) }
    }

    /// The same in memory, if it is at most so many bytes long.
    pub(super) fn held(self, most: u64) -> Result<OpenFile, ViewError> {
        match &self.content {
            Content::Fd(_) | Content::Reader(_) if self.size <= most => {
                let bytes = self.read(0, self.size as usize)?;
                Ok(OpenFile { content: Content::Bytes(bytes), size: self.size })
            }
            _ => Ok(self),
        }
    }

    /// What it is read from.
    pub(super) fn content(&self) -> &Content {
        &self.content
    }

    /// The file that holds its bytes and nothing else, if there is one.
    pub fn file(&self) -> Option<&File> {
        match &self.content {
            Content::Fd(file) => Some(file),
            Content::Bytes(_) | Content::Reader(_) => None,
        }
    }

    /// The bytes from `offset` on: `len` of them, or as many as there are.
    pub(super) fn read(&self, offset: u64, len: usize) -> Result<Bytes, ViewError> {
        let left = self.size.saturating_sub(offset);
        let len = len.min(usize::try_from(left).unwrap_or(usize::MAX));
        if len == 0 {
            return Ok(Bytes::new());
        }
        match &self.content {
            Content::Bytes(bytes) => Ok(bytes.slice(offset as usize..offset as usize + len)),
            Content::Fd(file) => {
                let mut out = Vec::with_capacity(len);
                while out.len() < len {
                    let at = offset + out.len() as u64;
                    match pread(file, spare_capacity(&mut out), at) {
                        Ok(0) => return Err(damaged(self.size, at)),
                        Ok(_) | Err(Errno::INTR) => {}
                        Err(error) => return Err(ViewError::Io(error)),
                    }
                }
                // The allocation may be larger than what was asked for.
                out.truncate(len);
                Ok(out.into())
            }
            Content::Reader(reader) => {
                let mut out = vec![0; len];
                let mut filled = 0;
                while filled < len {
                    // Pieces that come in time, each, shall not take longer together.
                    if time_left().is_zero() {
                        return Err(SourceError::TimedOut.into());
                    }
                    match reader.read_at(&mut out[filled..], offset + filled as u64)? {
                        0 => return Err(damaged(self.size, offset + filled as u64)),
                        count => filled = len.min(filled + count),
                    }
                }
                Ok(out.into())
            }
        }
    }
}

fn damaged(expected: u64, found: u64) -> ViewError {
    SourceError::Damaged { what: format!("a file of {expected} bytes ends after {found}") }.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    struct Short;

    impl crate::source::ReadAt for Short {
        fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, SourceError> {
            let left = &b"0123"[offset.min(4) as usize..];
            let count = buf.len().min(left.len()).min(3);
            buf[..count].copy_from_slice(&left[..count]);
            Ok(count)
        }
    }

    #[test]
    fn what_ends_early_is_an_error() {
        assert!(OpenFile::new(Content::Bytes("0123".into()), 5).is_err());
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(b"0123").expect("written");
        assert!(OpenFile::new(Content::Fd(file.try_clone().expect("cloned")), 5).is_err());
        // Cut only after it was opened.
        let open = OpenFile::new(Content::Fd(file.try_clone().expect("cloned")), 4).expect("four bytes");
        assert_eq!(open.read(1, 100).expect("readable"), "123");
        file.set_len(2).expect("cut");
        assert!(open.read(0, 100).is_err());

        let reader = OpenFile::new(Content::Reader(Box::new(Short)), 5).expect("as long as it says");
        assert_eq!(reader.read(0, 4).expect("there"), "0123");
        assert!(reader.read(3, 2).is_err());
        assert_eq!(reader.read(5, 10).expect("the end"), "");
        assert_eq!(reader.read(u64::MAX, usize::MAX).expect("beyond"), "");
        crate::requests::came(crate::ANSWER);
        assert!(matches!(reader.read(0, 4), Err(ViewError::Source(SourceError::TimedOut))));
    }
}
