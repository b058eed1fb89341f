use super::*;
use crate::Form;
use crate::outboard::GROUP;
use proptest::prelude::*;
use provender_core::Digest;

fn encode(bytes: &[u8], step: usize, most: u64) -> Result<Vec<u8>, BlobError> {
    let mut encoder = Encoder::new(Frames { size: bytes.len() as u64, level: 3, most })?;
    let mut out = Vec::new();
    for piece in bytes.chunks(step.max(1)) {
        encoder.push(piece, &mut out)?;
    }
    assert_eq!(encoder.finish(&mut out)?, out.len() as u64);
    Ok(out)
}

fn table(size: u64, stored: &[u8]) -> Result<Table, BlobError> {
    let form = Form::Frames { stored: stored.len() as u64 };
    let location = Location { digest: Digest { hash: [1; 32], size }, nonce: 1, form };
    Table::parse(location, &stored[stored.len().saturating_sub(table_len(size) as usize)..])
}

fn decode(size: u64, stored: &[u8], range: Range<u64>) -> Result<Vec<u8>, BlobError> {
    let (table, mut decoder, mut out) = (table(size, stored)?, decoder()?, Vec::new());
    for frame in table.covering(&range) {
        let place = table.place(frame);
        let packed = &stored[place.start as usize..place.end as usize];
        out.extend_from_slice(&table.unpack(&mut decoder, frame, packed, &range)?);
    }
    Ok(out)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn ranges_come_back_as_they_went_in(
        groups in 0..4u64,
        more in prop_oneof![Just(0), Just(1), Just(GROUP - 1), 0..GROUP],
        step in 1..700_000usize,
        ends: [prop::sample::Index; 2],
    ) {
        let bytes: Vec<u8> = (0..groups * GROUP + more).map(|at| (at * at / 999) as u8).collect();
        let size = bytes.len() as u64;
        let stored = encode(&bytes, step, u64::MAX).unwrap();
        let [a, b] = ends.map(|end| end.index(bytes.len() + 1) as u64);
        for range in [0..size, a.min(b)..a.max(b), 0..0, size..size] {
            let found = decode(size, &stored, range.clone()).unwrap();
            prop_assert!(found == bytes[range.start as usize..range.end as usize], "{:?}", range);
        }
        let most = stored.len() as u64 - 1;
        let refused = matches!(encode(&bytes, step, most), Err(BlobError::Incompressible { .. }));
        prop_assert!(refused && encode(&bytes, step, most + 1).is_ok());
    }

    /// Damaged frames give an error or as many bytes as there should be, damaged tables an error.
    #[test]
    fn no_damage_panics_or_changes_lengths(flips in prop::collection::vec((any::<prop::sample::Index>(), 1..=255u8), 1..4)) {
        let bytes: Vec<u8> = (0..2 * GROUP + 9).map(|at| (at / 7) as u8).collect();
        let size = bytes.len() as u64;
        let right = encode(&bytes, 1 << 20, u64::MAX).unwrap();
        let mut wrong = right.clone();
        flips.iter().for_each(|(at, by)| wrong[at.index(right.len())] ^= by);
        if let Ok(found) = decode(size, &wrong, 0..size) {
            prop_assert_eq!(found.len(), bytes.len());
        }
        let begin = right.len() - table_len(size) as usize;
        if wrong[begin..] != right[begin..] {
            // Two lengths may change places, which only the bytes show.
            let sums = wrong[begin..begin + 8] == right[begin..begin + 8] && table(size, &wrong).is_ok();
            prop_assert!(!sums || flips.len() > 1);
        }
    }
}

#[test]
fn a_table_of_another_blob_is_refused() {
    let stored = encode(&vec![7; GROUP as usize + 1], 1 << 20, u64::MAX).unwrap();
    assert!(table(GROUP + 1, &stored).is_ok());
    for size in [0, 1, GROUP, GROUP + 2, 2 * GROUP + 1, 1 << 45, u64::MAX] {
        assert!(matches!(table(size, &stored), Err(BlobError::Corrupt { .. })), "{size}");
    }
    assert!(table(GROUP + 1, &[&stored[..], &[0]].concat()).is_err() && table(GROUP + 1, b"").is_err());
}

#[test]
fn blobs_whose_groups_are_large_stay_raw() {
    for (size, can) in [(0, true), (1 << 40, true), ((1 << 40) + 1, false), (u64::MAX, false)] {
        assert_eq!(Frames::can_hold(size), can);
        assert_eq!(Encoder::new(Frames { size, level: 99, most: 1 }).is_ok(), can);
    }
}
