//! Digests: the identity of bytes.
//!
//! Owns [`Digest`] and its text forms. Invariant: a digest says nothing of how or where the bytes are stored.

use std::fmt;
use std::str::FromStr;

/// BLAKE3-256 of raw bytes (<https://github.com/BLAKE3-team/BLAKE3-specs>), with their count beside it.
///
/// Ordered by hash, then size, so that a sorted list of digests can be searched.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest {
    /// The 32 bytes of the hash.
    pub hash: [u8; 32],
    /// How many bytes were hashed.
    pub size: u64,
}

impl Digest {
    /// The digest of `bytes`, on this thread.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest { hash: *blake3::hash(bytes).as_bytes(), size: bytes.len() as u64 }
    }

    /// The hash as 64 lower-case hexadecimal digits.
    pub fn hex(&self) -> String {
        hex(&self.hash)
    }

    /// The 40 bytes that stand for this digest in a canonical encoding: the hash, then the size as big-endian `u64`.
    pub fn to_bytes(&self) -> [u8; 40] {
        let mut out = [0; 40];
        out[..32].copy_from_slice(&self.hash);
        out[32..].copy_from_slice(&self.size.to_be_bytes());
        out
    }

    /// The reverse of [`Digest::to_bytes`]; `None` unless there are exactly 40 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Digest> {
        let (hash, size) = bytes.split_first_chunk::<32>()?;
        Some(Digest { hash: *hash, size: u64::from_be_bytes(size.try_into().ok()?) })
    }
}

impl fmt::Display for Digest {
    /// `HEX:SIZE`, the form that [`Digest::from_str`] reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.hex(), self.size)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}…:{}", hex(&self.hash[..4]), self.size)
    }
}

/// Why a text is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a digest: it takes 64 hexadecimal digits, a colon and a size in bytes")]
pub struct ParseDigestError {
    /// The text as given.
    pub text: String,
}

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (hash, size) = text.split_once(':')?;
            Some(Digest { hash: unhex(hash)?, size: size.parse().ok()? })
        };
        parse().ok_or_else(|| ParseDigestError { text: text.into() })
    }
}

/// Bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// Exactly `N` bytes out of `2 * N` hexadecimal digits of either case.
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let nibble = |digit: u8| char::from(digit).to_digit(16).map(|value| value as u8);
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn text_and_bytes_round_trip(bytes: Vec<u8>) {
            let digest = Digest::of(&bytes);
            prop_assert_eq!(digest.to_string().parse(), Ok(digest));
            prop_assert_eq!(Digest::from_bytes(&digest.to_bytes()), Some(digest));
        }

        #[test]
        fn no_text_panics(text: String) {
            let _ = text.parse::<Digest>();
        }
    }

    #[test]
    fn the_empty_blob_has_the_published_hash() {
        assert_eq!(Digest::of(b"").hex(), "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262");
    }
}
