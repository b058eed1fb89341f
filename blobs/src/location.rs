//! Names: where one copy of a blob is, and which store it is in.
//!
//! Owns [`Location`] and [`StoreId`] with their text forms. Invariants: the order of locations is the order of their
//! texts, so that a store that lists by name lists in order; and one location has one text.

use std::fmt;
use std::io;
use std::ops::Range;
use std::str::FromStr;

use provender_core::Digest;
use provender_core::blob::{Form, PackFrame};
use provender_core::digest::{hex, unhex};

use crate::BlobError;

/// How the names of frames end, so that `zstd -d` takes them.
const ZST: &str = ".zst";
/// What tells a place in a pack. No hexadecimal digit begins like it, so it comes behind frames.
const PACK: &str = "pack.";

/// Where one copy of a blob is: unique for ever, never reused.
///
/// Its text, `HASH.SIZE.NONCE` in lower-case hexadecimal digits of fixed width (98 characters), is a file name. Frames have
/// `.STORED.zst` behind it, so that a listing tells all there is to know of a blob; what is in a pack `.pack.AT`, or in a frame of one
/// `.pack.AT.STORED.BEGIN`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    /// What the bytes are.
    pub digest: Digest,
    /// Random; tells this copy from every other, earlier and later.
    pub nonce: u64,
    /// How the bytes are kept there.
    pub form: Form,
}

impl Location {
    /// A location that was never used. Fails only where the system has no randomness.
    pub(crate) fn fresh(digest: Digest, form: Form) -> io::Result<Location> {
        Ok(Location { digest, nonce: getrandom::u64()?, form })
    }

    /// How many bytes are stored there; of what is in a pack, as many as the blob has.
    pub fn stored(&self) -> u64 {
        match self.form {
            Form::Raw | Form::Pack { .. } => self.digest.size,
            Form::Frames { stored } => stored,
        }
    }

    /// `range` cut at the end of the blob.
    pub(crate) fn cut(&self, range: Range<u64>) -> Result<Range<u64>, BlobError> {
        if range.start > range.end || range.start > self.digest.size {
            return Err(BlobError::OutOfRange { location: *self, range });
        }
        Ok(range.start..range.end.min(self.digest.size))
    }

    pub(crate) fn corrupt(&self, why: impl ToString) -> BlobError {
        BlobError::Corrupt { location: *self, why: why.to_string() }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:016x}.{:016x}", self.digest.hex(), self.digest.size, self.nonce)?;
        match self.form {
            Form::Raw => Ok(()),
            Form::Frames { stored } => write!(f, ".{stored:016x}{ZST}"),
            Form::Pack { at, frame: None } => write!(f, ".{PACK}{at:08x}"),
            Form::Pack { at, frame: Some(PackFrame { stored, begin }) } => {
                write!(f, ".{PACK}{at:08x}.{stored:08x}.{begin:08x}")
            }
        }
    }
}

/// Why a text is no location.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a blob location")]
pub struct ParseLocationError {
    /// The text as given.
    pub text: String,
}

impl FromStr for Location {
    type Err = ParseLocationError;

    fn from_str(text: &str) -> Result<Location, ParseLocationError> {
        let parse = || {
            let (hash, rest) = text.split_once('.')?;
            let number = |text| Some(u64::from_be_bytes(unhex(text)?));
            let (size, rest) = rest.split_once('.')?;
            let (nonce, form) = match rest.split_once('.') {
                None => (rest, Form::Raw),
                Some((nonce, rest)) => (
                    nonce,
                    match rest.strip_prefix(PACK) {
                        Some(place) => packed(place)?,
                        None => Form::Frames { stored: number(rest.strip_suffix(ZST)?)? },
                    },
                ),
            };
            Some(Location { digest: Digest { hash: unhex(hash)?, size: number(size)? }, nonce: number(nonce)?, form })
        };
        // Upper-case digits are refused, so that two files never read as one location.
        parse().filter(|location| location.to_string() == text).ok_or_else(|| ParseLocationError { text: text.into() })
    }
}

/// A place in a pack.
fn packed(text: &str) -> Option<Form> {
    let mut numbers = text.split('.').map(|text| Some(u32::from_be_bytes(unhex(text)?)));
    let at = numbers.next()??;
    let frame = match numbers.next() {
        None => None,
        Some(stored) => Some(PackFrame { stored: stored?, begin: numbers.next()?? }),
    };
    numbers.next().is_none().then_some(Form::Pack { at, frame })
}

/// What tells one store from every other.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct StoreId(pub [u8; 16]);

impl StoreId {
    pub(crate) fn fresh() -> io::Result<StoreId> {
        let mut id = [0; 16];
        getrandom::fill(&mut id)?;
        Ok(StoreId(id))
    }
}

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreId({self})")
    }
}

/// Why a text is no store id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a blob store's id: it takes 32 hexadecimal digits")]
pub struct ParseStoreIdError {
    /// The text as given.
    pub text: String,
}

impl FromStr for StoreId {
    type Err = ParseStoreIdError;

    fn from_str(text: &str) -> Result<StoreId, ParseStoreIdError> {
        unhex(text).map(StoreId).ok_or_else(|| ParseStoreIdError { text: text.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn locations() -> impl Strategy<Value = Location> {
        // Few values each, so that neighbours differ in one part only.
        let few = || prop_oneof![Just(0), Just(9), Just(10), Just(u64::MAX), any::<u64>()];
        let frame = prop::option::of((0..3_u32, 0..3_u32).prop_map(|(stored, begin)| PackFrame { stored, begin }));
        let form = prop_oneof![
            Just(Form::Raw),
            few().prop_map(|stored| Form::Frames { stored }),
            (few(), frame).prop_map(|(at, frame)| Form::Pack { at: at as u32, frame }),
        ];
        (prop_oneof![Just([7; 32]), any::<[u8; 32]>()], few(), few(), form)
            .prop_map(|(hash, size, nonce, form)| Location { digest: Digest { hash, size }, nonce, form })
    }

    proptest! {
        #[test]
        fn texts_round_trip_and_sort_like_locations(a in locations(), b in locations()) {
            prop_assert_eq!(a.to_string().parse(), Ok(a));
            prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
        }

        #[test]
        fn only_the_canonical_text_is_read(location in locations(), at in 0..130usize, with: char, text: String) {
            let canonical = location.to_string();
            let other: String = canonical.chars().enumerate().map(|(i, c)| if i == at { with } else { c }).collect();
            for text in [other, canonical.to_uppercase(), text] {
                if let Ok(read) = text.parse::<Location>() {
                    prop_assert_eq!(read.to_string(), text);
                }
            }
        }
    }

    #[test]
    fn ranges_are_cut_at_the_end_and_refused_past_it() {
        let location = Location { digest: Digest { hash: [0; 32], size: 10 }, nonce: 0, form: Form::Raw };
        assert_eq!(location.cut(0..u64::MAX).unwrap(), 0..10);
        assert_eq!(location.cut(10..11).unwrap(), 10..10);
        assert!(matches!(location.cut(11..11), Err(BlobError::OutOfRange { .. })));
        #[expect(clippy::reversed_empty_ranges)]
        let reversed = 4..3;
        assert!(matches!(location.cut(reversed), Err(BlobError::OutOfRange { .. })));
    }
}
