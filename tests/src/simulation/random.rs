//! Randomness from a seed: the only kind that a simulation has.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A stream of numbers that one seed decides. Draws are shared by all who hold it, in the order in which they draw.
#[derive(Debug)]
pub struct Random(Mutex<u64>);

impl Random {
    /// The stream of a seed.
    pub fn new(seed: u64) -> Random {
        Random(Mutex::new(seed))
    }

    /// 64 bits (SplitMix64).
    pub fn next(&self) -> u64 {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = *state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, or 0.
    pub fn below(&self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    /// An index below `len`.
    pub fn index(&self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// True so many times in 10,000.
    pub fn chance(&self, per_10_000: u64) -> bool {
        self.below(10_000) < per_10_000
    }

    /// A time of whole milliseconds below `end`.
    pub fn time(&self, end: Duration) -> Duration {
        Duration::from_millis(self.below(end.as_millis() as u64))
    }

    /// Fills `bytes`.
    pub fn fill(&self, bytes: &mut [u8]) {
        for piece in bytes.chunks_mut(8) {
            piece.copy_from_slice(&self.next().to_le_bytes()[..piece.len()]);
        }
    }

    /// Bytes of any number.
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.fill(&mut bytes);
        bytes
    }
}
