//! Packs: many small blobs as one object, which says itself what is in it.
//!
//! ```text
//! frames, one after the other: the bytes of some blobs, as they are or compressed together by zstd
//! of each frame: the bytes that it takes, and how many blobs are in it, its highest bit set if it is compressed: two big-endian u32;
//!     then their digests, 40 bytes each
//! how many bytes that list has, as a big-endian u32
//! "provender pack 1"
//! ```
//! Owns [`Packing`] and the format. Invariants: what is in a pack, and where, can be told from its end alone; nothing that is read is believed
//! before it fits the pack's size. Whether a blob's bytes are right, others check. It must not know where packs are kept, nor whether
//! anybody still wants what is in them.

use std::collections::HashMap;
use std::io;
use std::ops::Range;

use bytes::Bytes;
use provender_core::Digest;
use provender_core::blob::{Form, PackFrame};
use zstd_safe::{CCtx, compress_bound, get_error_name, get_frame_content_size};

use crate::frames::decoder;
use crate::{BlobError, Location};

/// The most bytes of a pack of several blobs: it is made in memory, and sent in one request.
pub(crate) const MOST: usize = 8 << 20;
/// About how many bytes are compressed together: who wants one blob unpacks so many.
const FRAME: usize = 256 << 10;
/// Fewer bytes than this share saved are not worth it, in per cent.
const WORTH: usize = 5;
const LEVEL: i32 = 3;
const MAGIC: &[u8; 16] = b"provender pack 1";
const COMPRESSED: u32 = 1 << 31;
const DIGEST: usize = 40;
/// What stands before the digests of a frame, and after all of them.
const HEAD: usize = 8;
pub(crate) const FOOT: usize = 4 + MAGIC.len();

/// A pack in the making: each blob once.
#[derive(Debug, Default)]
pub(crate) struct Packing {
    blobs: Vec<(Digest, Bytes)>,
    places: HashMap<Digest, usize>,
    bytes: usize,
}

impl Packing {
    /// Whether there is room for one more blob; in an empty one there always is.
    pub(crate) fn has_room(&self, digest: &Digest, len: usize) -> bool {
        let each = DIGEST + HEAD;
        let with = self.bytes + len + (self.blobs.len() + 1) * each + FOOT;
        self.blobs.is_empty() || self.places.contains_key(digest) || with <= MOST
    }

    /// Adds a blob, if it is not there, and tells its number.
    pub(crate) fn push(&mut self, digest: Digest, bytes: Bytes) -> usize {
        *self.places.entry(digest).or_insert_with(|| {
            self.bytes += bytes.len();
            self.blobs.push((digest, bytes));
            self.blobs.len() - 1
        })
    }

    /// The pack's bytes, and where each blob is in it. This compresses.
    pub(crate) fn finish(self, nonce: u64) -> Result<(Bytes, Vec<Location>), BlobError> {
        let (mut out, mut list, mut locations) = (Vec::new(), Vec::new(), Vec::with_capacity(self.blobs.len()));
        let (mut at, mut rest) = (0_u32, &self.blobs[..]);
        let mut compressor = Compressor::new()?;
        while !rest.is_empty() {
            let mut len = 0;
            let fits = |(_, bytes): &&(Digest, Bytes)| {
                len += bytes.len();
                len <= FRAME
            };
            let (frame, others) = rest.split_at(rest.iter().take_while(fits).count().max(1));
            rest = others;
            let packed = compressor.pack(frame)?;
            let stored = packed.map_or_else(|| frame.iter().map(|(_, bytes)| bytes.len()).sum(), <[u8]>::len) as u32;
            list.extend_from_slice(&stored.to_be_bytes());
            let flag = if packed.is_some() { COMPRESSED } else { 0 };
            list.extend_from_slice(&(frame.len() as u32 | flag).to_be_bytes());
            let mut begin = 0;
            for (digest, bytes) in frame {
                list.extend_from_slice(&digest.to_bytes());
                let form = match packed {
                    Some(_) => Form::Pack { at, frame: Some(PackFrame { stored, begin }) },
                    None => Form::Pack { at: at + begin, frame: None },
                };
                locations.push(Location { digest: *digest, nonce, form });
                begin += bytes.len() as u32;
            }
            match packed {
                Some(packed) => out.extend_from_slice(packed),
                None => frame.iter().for_each(|(_, bytes)| out.extend_from_slice(bytes)),
            }
            at += stored;
        }
        let len = list.len() as u32;
        list.extend_from_slice(&len.to_be_bytes());
        list.extend_from_slice(MAGIC);
        out.extend_from_slice(&list);
        Ok((out.into(), locations))
    }
}

/// Compresses frames, as far as that is worth it.
struct Compressor {
    context: CCtx<'static>,
    unpacked: Vec<u8>,
    packed: Vec<u8>,
}

impl Compressor {
    fn new() -> Result<Compressor, BlobError> {
        let out_of_memory = || failed(io::ErrorKind::OutOfMemory);
        let context = CCtx::try_create().ok_or_else(out_of_memory)?;
        Ok(Compressor { context, unpacked: Vec::new(), packed: Vec::new() })
    }

    /// The blobs compressed together; `None` if that saves too little.
    fn pack(&mut self, frame: &[(Digest, Bytes)]) -> Result<Option<&[u8]>, BlobError> {
        self.unpacked.clear();
        frame.iter().for_each(|(_, bytes)| self.unpacked.extend_from_slice(bytes));
        self.packed.resize(compress_bound(self.unpacked.len()), 0);
        let packed = self.context.compress(&mut self.packed[..], &self.unpacked, LEVEL);
        let len = packed.map_err(|code| failed(io::Error::other(get_error_name(code))))?;
        let worth = self.unpacked.len() - self.unpacked.len() * WORTH / 100;
        Ok((len < worth).then(|| &self.packed[..len]))
    }
}

fn failed(error: impl Into<io::Error>) -> BlobError {
    BlobError::io("zstd", "compress", error)
}

/// Where the bytes are that are to be read for a blob: its own, or those of its frame.
pub(crate) fn span(location: &Location) -> Option<Range<u64>> {
    let Form::Pack { at, frame } = location.form else { return None };
    let len = frame.map_or(location.digest.size, |frame| u64::from(frame.stored));
    Some(u64::from(at)..u64::from(at).saturating_add(len))
}

/// Unpacks a frame: unchecked, but of a bounded size.
pub(crate) fn unpack(location: &Location, packed: &[u8]) -> Result<Bytes, BlobError> {
    let damaged = || location.corrupt("its frame in its pack is damaged");
    let len = get_frame_content_size(packed).ok().flatten().ok_or_else(damaged)?;
    if len > MOST as u64 {
        return Err(damaged());
    }
    let mut bytes = vec![0; len as usize];
    match decoder()?.decompress(&mut bytes[..], packed) {
        Ok(found) if found as u64 == len => Ok(bytes.into()),
        _ => Err(damaged()),
    }
}

/// A blob's bytes: what [`span`] says, or, of a frame, that unpacked.
pub(crate) fn cut(location: &Location, bytes: &Bytes) -> Result<Bytes, BlobError> {
    let begin = match location.form {
        Form::Pack { frame: Some(frame), .. } => u64::from(frame.begin),
        _ => 0,
    };
    let end = begin.saturating_add(location.digest.size);
    if end > bytes.len() as u64 {
        return Err(location.corrupt("its pack has too few bytes for it"));
    }
    Ok(bytes.slice(begin as usize..end as usize))
}

/// Why some bytes are no pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoPack(pub(crate) &'static str);

/// Where the list is of a pack of `size` bytes, by its last [`FOOT`] bytes.
pub(crate) fn list_of(size: u64, foot: &[u8]) -> Result<Range<u64>, NoPack> {
    let (len, magic) = foot.split_first_chunk::<4>().ok_or(NoPack("it is too short"))?;
    if magic != MAGIC {
        return Err(NoPack("it does not end as one"));
    }
    let end = size.checked_sub(FOOT as u64).ok_or(NoPack("it is too short"))?;
    let begin = end.checked_sub(u64::from(u32::from_be_bytes(*len))).ok_or(NoPack("it is shorter than its list"))?;
    Ok(begin..end)
}

/// What is in a pack, by its list, which lies behind `begin` bytes of blobs.
pub(crate) fn contents(nonce: u64, begin: u64, mut list: &[u8]) -> Result<Vec<Location>, NoPack> {
    let damaged = NoPack("its list is damaged");
    let (mut at, mut locations) = (0_u32, Vec::with_capacity(list.len() / DIGEST));
    while let Some((&[a, b, c, d, e, f, g, h], rest)) = list.split_first_chunk::<HEAD>() {
        let (stored, count) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
        let (is_compressed, count) = (count & COMPRESSED != 0, (count & !COMPRESSED) as usize);
        let (digests, others) = rest.split_at_checked(count.saturating_mul(DIGEST)).ok_or(damaged)?;
        let mut begin = 0_u32;
        for digest in digests.chunks_exact(DIGEST) {
            let digest = Digest::from_bytes(digest).ok_or(damaged)?;
            let form = match is_compressed {
                true => Form::Pack { at, frame: Some(PackFrame { stored, begin }) },
                false => Form::Pack { at: at.checked_add(begin).ok_or(damaged)?, frame: None },
            };
            locations.push(Location { digest, nonce, form });
            begin = u32::try_from(digest.size).ok().and_then(|size| begin.checked_add(size)).ok_or(damaged)?;
        }
        if !is_compressed && begin != stored {
            return Err(damaged);
        }
        at = at.checked_add(stored).ok_or(damaged)?;
        list = others;
    }
    match list.is_empty() && u64::from(at) == begin {
        true => Ok(locations),
        false => Err(damaged),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packed(blobs: &[Vec<u8>]) -> (Bytes, Vec<Location>, Vec<usize>) {
        let mut packing = Packing::default();
        let numbers =
            blobs.iter().map(|bytes| packing.push(Digest::of(bytes), Bytes::copy_from_slice(bytes))).collect();
        let (pack, locations) = packing.finish(7).unwrap();
        (pack, locations, numbers)
    }

    /// What whoever has nothing but the bytes finds in them.
    fn read(pack: &[u8]) -> Result<Vec<Location>, NoPack> {
        let size = pack.len() as u64;
        let foot = pack.len().checked_sub(FOOT).ok_or(NoPack("it is too short"))?;
        let list = list_of(size, &pack[foot..])?;
        contents(7, list.start, &pack[list.start as usize..list.end as usize])
    }

    fn bytes_at(pack: &Bytes, location: &Location) -> Result<Bytes, BlobError> {
        let span = span(location).unwrap();
        let damaged = || location.corrupt("it lies beyond");
        if span.end > pack.len() as u64 {
            return Err(damaged());
        }
        let stored = pack.slice(span.start as usize..span.end as usize);
        let is_frame = matches!(location.form, Form::Pack { frame: Some(_), .. });
        cut(location, &if is_frame { unpack(location, &stored)? } else { stored })
    }

    fn blobs() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let dull = (any::<u8>(), 0..5_000_usize).prop_map(|(byte, len)| vec![byte; len]);
        let wild = prop::collection::vec(any::<u8>(), 0..200);
        prop::collection::vec(prop_oneof![dull, wild], 0..20)
    }

    proptest! {
        #[test]
        fn what_is_packed_is_found_by_the_bytes_alone(blobs in blobs(), flip: Option<prop::sample::Index>) {
            let (pack, locations, numbers) = packed(&blobs);
            prop_assert_eq!(&read(&pack).unwrap(), &locations);
            for (bytes, number) in blobs.iter().zip(numbers) {
                prop_assert_eq!(&bytes_at(&pack, &locations[number]).unwrap()[..], &bytes[..]);
            }
            // Damage makes it none, or bytes that are wrong, or none.
            if let Some(at) = flip {
                let mut damaged = pack.to_vec();
                *at.get_mut(&mut damaged) ^= 1;
                let damaged = Bytes::from(damaged);
                for location in read(&damaged).into_iter().flatten().chain(locations) {
                    if let Ok(bytes) = bytes_at(&damaged, &location) {
                        prop_assert_eq!(bytes.len() as u64, location.digest.size);
                    }
                }
            }
        }

        #[test]
        fn other_bytes_are_no_pack(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            prop_assert!(read(&bytes).is_err());
            let ends_as_one = [&bytes[..], MAGIC].concat();
            if let Ok(found) = read(&ends_as_one) {
                prop_assert!(found.is_empty());
            }
        }
    }

    #[test]
    fn like_is_compressed_with_like_and_what_cannot_be_is_left_alone() {
        let text: Vec<_> =
            (0..1000).map(|n| format!("{{\"name\": \"file {n}\", \"size\": {n}}}").repeat(20).into_bytes()).collect();
        let (pack, locations, _) = packed(&text);
        assert!(pack.len() * 5 < text.iter().map(Vec::len).sum(), "{}", pack.len());
        let frames: HashMap<_, _> = locations.iter().map(|location| (span(location), ())).collect();
        assert!((2..10).contains(&frames.len()), "{}", frames.len());
        let mut noise = vec![0; 20_000];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        let (pack, locations, _) = packed(&[noise.clone()]);
        assert_eq!(locations[0].form, Form::Pack { at: 0, frame: None });
        assert_eq!(pack.len(), noise.len() + HEAD + DIGEST + FOOT);
    }

    #[test]
    fn a_pack_is_bounded_and_has_each_blob_once() {
        let mut packing = Packing::default();
        let (mut n, bytes) = (0_u64, Bytes::from(vec![1; 100]));
        loop {
            let digest = Digest { hash: *blake3::hash(&n.to_be_bytes()).as_bytes(), size: 100 };
            if !packing.has_room(&digest, 100) {
                break;
            }
            assert_eq!(packing.push(digest, bytes.clone()), n as usize);
            n += 1;
        }
        assert_eq!(packing.push(Digest { hash: *blake3::hash(&0_u64.to_be_bytes()).as_bytes(), size: 100 }, bytes), 0);
        assert!(packing.bytes > MOST / 2);
        assert!(Packing::default().has_room(&Digest::of(b""), usize::MAX / 2));
    }

    #[test]
    fn a_frame_that_says_to_be_larger_than_any_is_not_unpacked() {
        let bytes = vec![0; MOST + 1];
        let mut packed = vec![0; compress_bound(bytes.len())];
        let len = CCtx::create().compress(&mut packed[..], &bytes, 1).unwrap();
        let location = Location { digest: Digest::of(b"x"), nonce: 1, form: Form::Raw };
        assert!(matches!(unpack(&location, &packed[..len]), Err(BlobError::Corrupt { .. })));
    }
}
