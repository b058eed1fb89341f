//! One-pass hashing: the digest of bytes as they go by, and their hashes under other functions.
//!
//! Owns [`Ingest`], for blobs of any size, also those that are kept elsewhere. The outboard comes of the same pass. It must not
//! know I/O.

use provender_core::Digest;
use sha2::Digest as _;

use crate::BlobError;
use crate::outboard::{Outboard, TreeHasher};

/// A hash function besides BLAKE3 by which other systems name blobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HashFunction {
    /// SHA-256, of Bazel's remote execution API and container registries.
    Sha256,
}

impl HashFunction {
    /// Its lower-case name, fit to be stored.
    pub fn name(self) -> &'static str {
        match self {
            HashFunction::Sha256 => "sha256",
        }
    }
}

/// Another name of a blob, complete with the size that is beside it in its [`Digest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alias {
    /// What was computed.
    pub function: HashFunction,
    /// The result.
    pub hash: Vec<u8>,
}

/// All that one pass over the bytes gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hashes {
    /// The blob's identity.
    pub digest: Digest,
    /// Its other hashes, each function once.
    pub aliases: Vec<Alias>,
    /// What proves its parts, unless it is so small that the digest does.
    pub outboard: Option<Outboard>,
}

impl Hashes {
    /// Fails if another digest was expected.
    pub(crate) fn check(&self, expected: Option<Digest>) -> Result<(), BlobError> {
        match expected {
            Some(expected) if expected != self.digest => Err(BlobError::Mismatch { expected, found: self.digest }),
            _ => Ok(()),
        }
    }
}

/// Hashes bytes as they go by.
#[derive(Debug, Clone)]
pub struct Ingest {
    blake3: TreeHasher,
    sha256: Option<sha2::Sha256>,
}

impl Ingest {
    /// Computes the digest and, in the same pass, the hashes of `aliases`.
    pub fn new(aliases: &[HashFunction]) -> Ingest {
        let sha256 = aliases.contains(&HashFunction::Sha256).then(sha2::Sha256::new);
        Ingest { blake3: TreeHasher::new(), sha256 }
    }

    /// Takes the next bytes; large pieces on several cores. Blocks for about 0.5 ms/MiB.
    pub fn update(&mut self, bytes: &[u8]) {
        self.blake3.update(bytes);
        if let Some(sha256) = &mut self.sha256 {
            sha256.update(bytes);
        }
    }

    /// How many bytes went by.
    pub fn size(&self) -> u64 {
        self.blake3.size()
    }

    /// The hashes of all bytes taken.
    pub fn finish(self) -> Hashes {
        let (digest, outboard) = self.blake3.finish();
        let sha256 =
            self.sha256.map(|hasher| Alias { function: HashFunction::Sha256, hash: hasher.finalize().to_vec() });
        Hashes { digest, aliases: sha256.into_iter().collect(), outboard }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use provender_core::digest::unhex;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn pieces_do_not_matter(bytes in prop::collection::vec(any::<u8>(), 0..3000), cut in 0..3000usize, twice: bool) {
            let bytes = bytes.repeat(if twice { 400 } else { 1 });
            let (head, tail) = bytes.split_at(cut.min(bytes.len()));
            let mut ingest = Ingest::new(&[HashFunction::Sha256, HashFunction::Sha256]);
            ingest.update(head);
            ingest.update(tail);
            let hashes = ingest.finish();
            prop_assert_eq!(hashes.digest, Digest::of(&bytes));
            let hash = sha2::Sha256::digest(&bytes).to_vec();
            prop_assert_eq!(hashes.aliases, vec![Alias { function: HashFunction::Sha256, hash }]);
        }
    }

    #[test]
    fn sha256_is_the_published_function() {
        let mut ingest = Ingest::new(&[HashFunction::Sha256]);
        ingest.update(b"abc");
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(ingest.finish().aliases[0].hash, unhex::<32>(expected).unwrap());
        assert_eq!(Ingest::new(&[]).finish().aliases, []);
    }
}
