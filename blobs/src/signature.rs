//! Signatures: what tells that a file is still as it was published.
//!
//! Owns [`Signature`] and its stable encoding. Invariant: whoever changes a file's bytes changes its signature, since
//! no call sets a file's change time. (Kernels older than 6.13 step that clock every few milliseconds: a change made
//! within the same step as the publication is seen by rehashing only.)

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;

/// What a file looked like, without its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signature {
    /// The file system's device number. Another host, or another mount, may give another.
    pub device: u64,
    /// The file's number on that device.
    pub inode: u64,
    /// Bytes.
    pub size: u64,
    /// Last modification, in nanoseconds since 1970.
    pub mtime: i64,
    /// Last change of anything, in nanoseconds since 1970.
    pub ctime: i64,
}

impl Signature {
    /// The signature of an open file.
    pub fn of(file: &File) -> io::Result<Signature> {
        Ok(Signature::from(&file.metadata()?))
    }

    /// The five numbers, big-endian, in the order of the fields.
    pub fn to_bytes(&self) -> [u8; 40] {
        let mut out = [0; 40];
        let fields = [
            self.device.to_be_bytes(),
            self.inode.to_be_bytes(),
            self.size.to_be_bytes(),
            self.mtime.to_be_bytes(),
            self.ctime.to_be_bytes(),
        ];
        out.copy_from_slice(fields.as_flattened());
        out
    }

    /// The reverse of [`Signature::to_bytes`]; `None` unless there are exactly 40 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Signature> {
        let (fields, rest) = bytes.as_chunks::<8>();
        let &[device, inode, size, mtime, ctime] = fields else { return None };
        rest.is_empty().then_some(Signature {
            device: u64::from_be_bytes(device),
            inode: u64::from_be_bytes(inode),
            size: u64::from_be_bytes(size),
            mtime: i64::from_be_bytes(mtime),
            ctime: i64::from_be_bytes(ctime),
        })
    }
}

impl From<&Metadata> for Signature {
    fn from(metadata: &Metadata) -> Signature {
        // Wraps in the year 2262; any other value would do as well, as it is only compared.
        let nanos = |seconds: i64, nanos: i64| seconds.wrapping_mul(1_000_000_000).wrapping_add(nanos);
        Signature {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            mtime: nanos(metadata.mtime(), metadata.mtime_nsec()),
            ctime: nanos(metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bytes_round_trip(device: u64, inode: u64, size: u64, mtime: i64, ctime: i64) {
            let signature = Signature { device, inode, size, mtime, ctime };
            prop_assert_eq!(Signature::from_bytes(&signature.to_bytes()), Some(signature));
        }

        #[test]
        fn only_forty_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..90)) {
            prop_assert_eq!(Signature::from_bytes(&bytes).is_some(), bytes.len() == 40);
        }
    }

    #[test]
    fn the_encoding_is_stable() {
        let signature = Signature { device: 1, inode: 2, size: 3, mtime: -1, ctime: 4 };
        let mut expected = [0; 40];
        (expected[7], expected[15], expected[23], expected[39]) = (1, 2, 3, 4);
        expected[24..32].fill(0xff);
        assert_eq!(signature.to_bytes(), expected);
    }
}
