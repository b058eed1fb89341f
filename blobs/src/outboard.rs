//! The BLAKE3 tree of a blob, down to its groups: what proves a part without the rest.
//!
//! Owns [`Outboard`] and [`TreeHasher`], which computes it in the pass that ingests. A blob is cut into groups of 256 KiB, or
//! twice that as often as it takes for at most 65,536 of them, so an outboard has at most 2 MiB whatever the blob's
//! size; it is the list of the groups' chaining values (the BLAKE3 paper, section 2.7: "outboard" encoding, cut off
//! above the leaves). Invariant: every [`Outboard`] merges to its digest, so it is right whoever kept it.

use std::fmt;
use std::mem;
use std::ops::Range;
use std::sync::Arc;

use blake3::Hasher;
use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use bytes::Bytes;
use provender_core::Digest;

/// The bytes of a group, unless there would be too many.
pub(crate) const GROUP: u64 = 256 << 10;
/// The most groups of a blob.
const MAX_GROUPS: u64 = 65_536;
/// From here on BLAKE3 gains from more than one core.
const MANY_CORES: usize = 256 << 10;

/// How many bytes each group has, but the last, of a blob of `size` bytes: a power of two.
pub(crate) fn group(size: u64) -> u64 {
    let mut group = GROUP;
    while size.div_ceil(group) > MAX_GROUPS {
        group *= 2;
    }
    group
}

/// The chaining values of a blob's groups, proven to be those of its digest. Cheap to clone.
///
/// A blob of one group has none: its digest proves it.
#[derive(Clone, PartialEq, Eq)]
pub struct Outboard {
    digest: Digest,
    group: u64,
    values: Arc<[ChainingValue]>,
}

impl Outboard {
    /// Whether a blob of `size` bytes has an outboard.
    pub fn has(size: u64) -> bool {
        size > GROUP
    }

    /// The bytes of the outboard of a blob of `size` bytes: at most 2 MiB, 0 if it has none.
    pub fn len(size: u64) -> usize {
        // At most 65,536 of them.
        if Outboard::has(size) { size.div_ceil(group(size)) as usize * blake3::OUT_LEN } else { 0 }
    }

    /// Reads what [`Outboard::to_bytes`] wrote for this digest; `None` if anything in it is other than it was.
    pub fn from_bytes(digest: &Digest, bytes: &[u8]) -> Option<Outboard> {
        let (values, rest) = bytes.as_chunks::<{ blake3::OUT_LEN }>();
        let group = group(digest.size);
        let right = Outboard::has(digest.size)
            && rest.is_empty()
            && values.len() as u64 == digest.size.div_ceil(group)
            && *root(values)?.as_bytes() == digest.hash;
        right.then(|| Outboard { digest: *digest, group, values: values.into() })
    }

    /// The values in order, 32 bytes each.
    pub fn to_bytes(&self) -> Bytes {
        Bytes::copy_from_slice(self.values.as_flattened())
    }

    /// What it is the outboard of.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The groups that `range`, which lies within the blob, has bytes of.
    pub(crate) fn covering(&self, range: &Range<u64>) -> Range<u64> {
        if range.is_empty() { 0..0 } else { range.start / self.group..range.end.div_ceil(self.group) }
    }

    /// Where these groups are in the blob.
    pub(crate) fn place(&self, groups: &Range<u64>) -> Range<u64> {
        let at = |group: u64| group.saturating_mul(self.group).min(self.digest.size);
        at(groups.start)..at(groups.end)
    }

    /// Whether `pieces` are, one after the other, the bytes of this group. Blocks for about 0.2 ms/MiB.
    pub(crate) fn is_right(&self, group: u64, pieces: &[Bytes]) -> bool {
        let place = self.place(&(group..group + 1));
        let len: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
        let Some(value) = self.values.get(group as usize).filter(|_| len == place.end - place.start) else {
            return false;
        };
        let mut hasher = at(place.start);
        pieces.iter().for_each(|piece| _ = hasher.update(piece));
        hasher.finalize_non_root() == *value
    }
}

impl fmt::Debug for Outboard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Outboard({}, {} groups)", self.digest, self.values.len())
    }
}

/// A hasher of a subtree that begins at `offset`.
fn at(offset: u64) -> Hasher {
    let mut hasher = Hasher::new();
    hasher.set_input_offset(offset);
    hasher
}

/// What subtrees of equal length, the last one perhaps shorter, merge to. There are at least two.
fn root(values: &[ChainingValue]) -> Option<blake3::Hash> {
    let (left, right) = halves(values)?;
    Some(merge_subtrees_root(&subtree(left), &subtree(right), Mode::Hash))
}

fn subtree(values: &[ChainingValue]) -> ChainingValue {
    match (halves(values), values) {
        (Some((left, right)), _) => merge_subtrees_non_root(&subtree(left), &subtree(right), Mode::Hash),
        (None, [value]) => *value,
        (None, _) => ChainingValue::default(),
    }
}

/// As BLAKE3 cuts: on the left the largest power of two that leaves something on the right.
fn halves(values: &[ChainingValue]) -> Option<(&[ChainingValue], &[ChainingValue])> {
    let last = values.len().checked_sub(1).filter(|last| *last > 0)?;
    values.split_at_checked(1 << last.ilog2())
}

/// Hashes bytes as they go by, group by group, on all cores where there are many at once.
#[derive(Debug, Clone)]
pub(crate) struct TreeHasher {
    group: u64,
    most: u64,
    /// Of the groups that are full and followed by another.
    values: Vec<ChainingValue>,
    /// The last group: it may turn out to be the whole blob.
    last: Hasher,
}

impl TreeHasher {
    pub(crate) fn new() -> TreeHasher {
        TreeHasher::with(GROUP, MAX_GROUPS)
    }

    fn with(group: u64, most: u64) -> TreeHasher {
        TreeHasher { group, most, values: Vec::new(), last: Hasher::new() }
    }

    /// How many bytes went by.
    pub(crate) fn size(&self) -> u64 {
        self.values.len() as u64 * self.group + self.last.count()
    }

    pub(crate) fn update(&mut self, mut bytes: &[u8]) {
        loop {
            let room = usize::try_from(self.most * self.group - self.size()).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.fill(now);
            if later.is_empty() {
                return;
            }
            // There are as many groups as there may be, all full, and more comes.
            self.double();
            bytes = later;
        }
    }

    /// Takes bytes that need no larger groups.
    fn fill(&mut self, bytes: &[u8]) {
        let room = usize::try_from(self.group - self.last.count()).unwrap_or(usize::MAX);
        let Some((head, rest)) = bytes.split_at_checked(room).filter(|(_, rest)| !rest.is_empty()) else {
            hash(&mut self.last, bytes);
            return;
        };
        let end = self.size() + head.len() as u64;
        let whole = usize::try_from(self.group).unwrap_or(usize::MAX);
        let mut parts = vec![(mem::take(&mut self.last), head)];
        parts.extend((0..).zip(rest.chunks(whole)).map(|(n, part)| (at(end + n * self.group), part)));
        if bytes.len() < MANY_CORES {
            parts.iter_mut().for_each(|(hasher, part)| _ = hasher.update(part));
        } else {
            rayon_core::scope(|scope| {
                parts.iter_mut().for_each(|(hasher, part)| scope.spawn(move |_| hash(hasher, part)));
            });
        }
        self.last = parts.pop().map(|(hasher, _)| hasher).unwrap_or_default();
        self.values.extend(parts.iter().map(|(hasher, _)| hasher.finalize_non_root()));
    }

    /// Goes on with groups of twice the length; all that there are must be full, and even in number.
    fn double(&mut self) {
        self.values.push(self.last.finalize_non_root());
        let (pairs, _) = self.values.as_chunks::<2>();
        self.values = pairs.iter().map(|[left, right]| merge_subtrees_non_root(left, right, Mode::Hash)).collect();
        self.group *= 2;
        self.last = at(self.values.len() as u64 * self.group);
    }

    /// The digest, and the outboard unless the digest is enough.
    pub(crate) fn finish(mut self) -> (Digest, Option<Outboard>) {
        let size = self.size();
        if self.values.is_empty() {
            return (Digest { hash: *self.last.finalize().as_bytes(), size }, None);
        }
        self.values.push(self.last.finalize_non_root());
        // There are two at least, so there is a root.
        let hash = root(&self.values).map_or([0; 32], |root| *root.as_bytes());
        let digest = Digest { hash, size };
        (digest, Some(Outboard { digest, group: self.group, values: self.values.into() }))
    }
}

fn hash(hasher: &mut Hasher, bytes: &[u8]) {
    if bytes.len() > MANY_CORES {
        hasher.update_rayon(bytes);
    } else {
        hasher.update(bytes);
    }
}

#[cfg(test)]
mod tests;
