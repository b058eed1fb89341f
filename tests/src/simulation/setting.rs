//! The setting of a schedule: how many there are of whom, and how often what goes wrong.
//!
//! Each seed draws its own, and leaves out many kinds of faults altogether: what two faults hide, one alone may show.

use std::time::Duration;

use super::content::KEYS;
use super::random::Random;

/// How often is told in times out of 10,000.
#[derive(Debug, Clone)]
pub(super) struct Setting {
    pub(super) daemons: usize,
    pub(super) executors: usize,
    pub(super) keys: usize,
    /// How many runs each executor begins.
    pub(super) runs: u64,
    /// What all leases last.
    pub(super) ttl: Duration,
    /// The most that a call takes, each way.
    pub(super) delay: Duration,
    /// Calls that take some time, those that take long, and those that fail in each way.
    pub(super) delayed: u64,
    pub(super) long: u64,
    pub(super) refused: u64,
    pub(super) lost: u64,
    pub(super) lingering: u64,
    /// Executors that crash, pause, are slow, fail, make other outputs, leave a blob out, or check.
    pub(super) crashing: u64,
    pub(super) pausing: u64,
    pub(super) failing: u64,
    pub(super) diverging: u64,
    pub(super) careless: u64,
    pub(super) checking: u64,
    /// How many things operators do, and which they choose from.
    pub(super) deeds: u64,
    pub(super) deed: Vec<Deed>,
}

/// What an operator does, or happens to a daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deed {
    Look,
    Invalidate,
    Lose,
    Rot,
    Crash,
    Cut,
    CutAll,
    Wall,
    Compress,
}

impl Setting {
    pub(super) fn draw(random: &Random) -> Setting {
        // Every other kind of fault is left out.
        let rate = |most: u64| if random.chance(5_000) { 1 + random.below(most) } else { 0 };
        let all =
            [Deed::Invalidate, Deed::Lose, Deed::Rot, Deed::Crash, Deed::Cut, Deed::CutAll, Deed::Wall, Deed::Compress];
        let mut deed: Vec<_> = all.into_iter().filter(|_| random.chance(5_000)).collect();
        deed.push(Deed::Look);
        Setting {
            daemons: 2 + random.index(2),
            executors: 2 + random.index(3),
            keys: 1 + random.index(KEYS),
            runs: 1 + random.below(3),
            ttl: Duration::from_secs(3 + random.below(8)),
            delay: Duration::from_millis(2 + random.below(12)),
            delayed: [500, 3_000, 8_000][random.index(3)],
            long: rate(30),
            refused: rate(200),
            lost: rate(200),
            lingering: rate(200),
            crashing: rate(5_000),
            pausing: rate(2_500),
            failing: rate(3_000),
            diverging: rate(3_000),
            careless: rate(2_000),
            checking: rate(3_000),
            deeds: if random.chance(2_000) { 0 } else { random.below(20) },
            deed,
        }
    }
}
