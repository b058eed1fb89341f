//! A map from numbers whose keys are spread over several locks, so that no lock is everybody's.
//!
//! Invariant: a lock is held for the time of one operation on its part of the map, and never while a source is asked.

use std::collections::HashMap;

use parking_lot::Mutex;

/// How many parts; more than there are threads that serve the kernel.
const PARTS: usize = 32;

/// The map.
#[derive(Debug)]
pub(crate) struct Shards<T> {
    parts: [Mutex<HashMap<u64, T>>; PARTS],
}

impl<T> Default for Shards<T> {
    fn default() -> Shards<T> {
        Shards { parts: std::array::from_fn(|_| Mutex::default()) }
    }
}

impl<T> Shards<T> {
    /// Works on the part of the map that holds `number`, alone.
    pub(crate) fn with<R>(&self, number: u64, work: impl FnOnce(&mut HashMap<u64, T>) -> R) -> R {
        // What is counted up and what is hashed are both spread by their lowest bits.
        work(&mut self.parts[(number % PARTS as u64) as usize].lock())
    }

    /// How many there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.parts.iter().map(|part| part.lock().len()).sum()
    }
}
