//! What the benches share: servers in processes of their own, how figures are shown, repeatable bytes, and how busy the machine is.

use std::error::Error;

use bytes::Bytes;

pub mod serve;
pub mod table;

/// A bench that cannot go on says why and ends.
pub type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Marsaglia's xorshift64: the same numbers in every run.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The numbers of one seed.
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// `len` bytes that do not compress, other ones for each seed.
pub fn noise(seed: u64, len: usize) -> Bytes {
    let mut state = Random::new(seed);
    let mut bytes: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| state.draw().to_le_bytes()).collect();
    bytes.truncate(len);
    bytes.into()
}

/// The load averages, as Linux gives them.
pub fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}
