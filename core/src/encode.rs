//! Canonical encoding: the bytes that are hashed into keys and identities.
//!
//! Owns [`Encoder`]. Invariant: different sequences of calls give different bytes, because each field is a tag and each
//! text carries its length; so no boundary can be shifted (`["ab"]` is not `["a", "b"]`). It must not know what is encoded.

use crate::digest::Digest;

/// Collects fields under a context, which keeps the hashes of different purposes apart.
#[derive(Debug)]
pub struct Encoder {
    bytes: Vec<u8>,
}

impl Encoder {
    /// An empty encoding for one purpose, for example `provender run key 1`.
    pub fn new(context: &str) -> Encoder {
        let mut encoder = Encoder { bytes: Vec::new() };
        encoder.bytes(context);
        encoder
    }

    /// A byte string.
    pub fn bytes(&mut self, bytes: impl AsRef<[u8]>) -> &mut Encoder {
        let bytes = bytes.as_ref();
        self.count(b's', bytes.len()).bytes.extend_from_slice(bytes);
        self
    }

    /// A number.
    pub fn number(&mut self, number: u64) -> &mut Encoder {
        self.bytes.push(b'i');
        self.bytes.extend_from_slice(&number.to_be_bytes());
        self
    }

    /// A digest.
    pub fn digest(&mut self, digest: &Digest) -> &mut Encoder {
        self.bytes.push(b'h');
        self.bytes.extend_from_slice(&digest.to_bytes());
        self
    }

    /// What may be absent: absent is not empty.
    pub fn option<T>(&mut self, value: Option<T>, encode: impl FnOnce(&mut Encoder, T)) -> &mut Encoder {
        self.bytes.push(if value.is_some() { b'+' } else { b'-' });
        if let Some(value) = value {
            encode(self, value);
        }
        self
    }

    /// A list, its length first.
    pub fn list<T>(
        &mut self,
        items: impl IntoIterator<Item = T, IntoIter: ExactSizeIterator>,
        mut encode: impl FnMut(&mut Encoder, T),
    ) -> &mut Encoder {
        let items = items.into_iter();
        self.count(b'l', items.len());
        items.for_each(|item| encode(self, item));
        self
    }

    /// The BLAKE3 of all that was put in.
    pub fn digest_of_all(&self) -> Digest {
        Digest::of(&self.bytes)
    }

    fn count(&mut self, tag: u8, count: usize) -> &mut Encoder {
        self.bytes.push(tag);
        self.bytes.extend_from_slice(&(count as u64).to_be_bytes());
        self
    }
}
