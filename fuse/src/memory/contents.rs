//! Bytes in each form that a source may hand out.

use std::fs::File;
use std::io::Write;

use bytes::Bytes;
use provender_core::Digest;
use rustix::fs::{MemfdFlags, memfd_create};

use crate::source::{Content, ReadAt, SourceError};

/// At most so many bytes a reader gives at a time.
const SIP: usize = 4093;

/// The bytes as one form or another, by their digest.
pub(super) fn content(digest: Digest, bytes: Bytes) -> Result<Content, SourceError> {
    match digest.hash[0] % 3 {
        0 => Ok(Content::Bytes(bytes)),
        1 => Ok(Content::Reader(Box::new(Sips(bytes)))),
        _ => match memfd(&bytes) {
            Ok(file) => Ok(Content::Fd(file)),
            Err(source) => Err(SourceError::Unavailable { source: source.into() }),
        },
    }
}

fn memfd(bytes: &[u8]) -> std::io::Result<File> {
    let mut file = File::from(memfd_create("blob", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    Ok(file)
}

struct Sips(Bytes);

impl ReadAt for Sips {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, SourceError> {
        let from = usize::try_from(offset).map_or(self.0.len(), |offset| offset.min(self.0.len()));
        let count = buf.len().min(SIP).min(self.0.len() - from);
        buf[..count].copy_from_slice(&self.0[from..from + count]);
        Ok(count)
    }
}
