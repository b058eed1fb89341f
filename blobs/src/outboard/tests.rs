use super::*;
use proptest::prelude::*;

/// The shortest group that BLAKE3 allows, so that few bytes make many.
const TINY: u64 = blake3::CHUNK_LEN as u64;

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 255) as u8).collect()
}

fn hash_all(mut hasher: TreeHasher, bytes: &[u8], step: usize) -> (Digest, Option<Outboard>) {
    bytes.chunks(step.max(1)).for_each(|piece| hasher.update(piece));
    hasher.finish()
}

#[test]
fn sizes_at_every_boundary_have_blake3s_digest() {
    let group = GROUP as usize;
    for groups in [0, 1, 2, 3, 4, 5, 8, 9] {
        for size in [(groups * group).saturating_sub(1), groups * group, groups * group + 1] {
            let bytes = bytes(size);
            for step in [size, 1 << 20, group, group + 1, 100_000] {
                let (digest, outboard) = hash_all(TreeHasher::new(), &bytes, step);
                assert_eq!(digest, Digest::of(&bytes), "{size} by {step}");
                assert_eq!(outboard.is_some(), Outboard::has(size as u64));
                let Some(outboard) = outboard else { continue };
                assert_eq!(Outboard::from_bytes(&digest, &outboard.to_bytes()), Some(outboard.clone()));
                assert_eq!(outboard.values.len(), size.div_ceil(group));
            }
        }
    }
}

#[test]
fn there_are_never_too_many_groups() {
    for (size, expected) in [
        (0, GROUP),
        (1, GROUP),
        (GROUP * MAX_GROUPS, GROUP),
        (GROUP * MAX_GROUPS + 1, 2 * GROUP),
        (1 << 40, 16 << 20),
        (u64::MAX, 1 << 48),
    ] {
        assert_eq!(group(size), expected, "{size}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    /// With groups as short as can be, and few of them, they double again and again.
    #[test]
    fn groups_double_and_the_digest_stays(size in 0..70_000usize, steps in prop::collection::vec(1..9_000usize, 1..4), log in 1..4u32) {
        let (bytes, most) = (bytes(size), 1 << log);
        let mut hasher = TreeHasher::with(TINY, most);
        let (mut rest, mut steps) = (&bytes[..], steps.iter().cycle());
        while !rest.is_empty() {
            let (piece, later) = rest.split_at(rest.len().min(steps.next().copied().unwrap_or(1)));
            hasher.update(piece);
            rest = later;
        }
        prop_assert_eq!(hasher.size(), size as u64);
        let (digest, outboard) = hasher.finish();
        prop_assert_eq!(digest, Digest::of(&bytes));
        if let Some(outboard) = outboard {
            let mut group = TINY;
            while (size as u64).div_ceil(group) > most {
                group *= 2;
            }
            prop_assert_eq!(outboard.group, group);
            prop_assert_eq!(root(&outboard.values).map(|root| *root.as_bytes()), Some(digest.hash));
            for (n, part) in bytes.chunks(group as usize).enumerate() {
                let mut part = part.to_vec();
                let (head, tail) = part.split_at(part.len() / 3);
                let pieces = [Bytes::copy_from_slice(head), Bytes::copy_from_slice(tail)];
                prop_assert!(outboard.is_right(n as u64, &pieces));
                // The head alone, for of a last group of one byte the tail is all there is.
                prop_assert!(!outboard.is_right(n as u64, &pieces[..1]) && !outboard.is_right(n as u64 + 1, &pieces));
                let last = part.len() - 1;
                part[last.min(size % 7)] ^= 1;
                prop_assert!(!outboard.is_right(n as u64, &[part.into()]));
            }
        }
    }

    #[test]
    fn only_the_right_values_are_an_outboard(flip: prop::sample::Index, cut: prop::sample::Index, junk: Vec<u8>) {
        let bytes = bytes(5 * GROUP as usize + 7);
        let (digest, outboard) = hash_all(TreeHasher::new(), &bytes, 1 << 20);
        let right = outboard.expect("it has several groups").to_bytes();
        let mut flipped = right.to_vec();
        flipped[flip.index(right.len())] ^= 1;
        prop_assert_eq!(Outboard::from_bytes(&digest, &flipped), None);
        prop_assert_eq!(Outboard::from_bytes(&digest, &right[..cut.index(right.len())]), None);
        prop_assert_eq!(Outboard::from_bytes(&digest, &[&right[..], &junk].concat()).is_some(), junk.is_empty());
        prop_assert_eq!(Outboard::from_bytes(&digest, &junk), None);
        for size in [0, 1, GROUP, digest.size - GROUP, digest.size + GROUP, u64::MAX] {
            prop_assert_eq!(Outboard::from_bytes(&Digest { size, ..digest }, &right), None);
        }
    }
}

#[test]
fn ranges_are_covered_by_whole_groups() {
    let bytes = bytes(2 * GROUP as usize + 5);
    let (digest, outboard) = hash_all(TreeHasher::new(), &bytes, 1 << 20);
    let outboard = outboard.expect("it has several groups");
    for (range, groups) in [
        (0..0, 0..0),
        (5..5, 0..0),
        (0..1, 0..1),
        (GROUP - 1..GROUP, 0..1),
        (GROUP - 1..GROUP + 1, 0..2),
        (GROUP..GROUP + 1, 1..2),
        (2 * GROUP..digest.size, 2..3),
        (1..digest.size, 0..3),
    ] {
        assert_eq!(outboard.covering(&range), groups, "{range:?}");
    }
    assert_eq!(outboard.place(&(1..3)), GROUP..digest.size);
}
