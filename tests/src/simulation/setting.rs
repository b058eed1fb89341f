//! The setting of a schedule: how many there are of whom, and how often what goes wrong.
//!
//! Each seed draws its own, and leaves out many kinds of faults altogether: what two faults hide, one alone may show.

use std::time::Duration;

use provender_core::collect::rules::{Keep, Rules};
use provender_daemon::store::Collection;

use super::content::{KEYS, TAKES};
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
    /// How daemons collect, and the most that each waits before it does; without it none does.
    pub(super) collecting: Option<(Collection, Duration)>,
    /// The most that an executor rests between two runs, and an operator between two deeds, and that removing a blob takes.
    pub(super) rest: Duration,
    pub(super) removing: Duration,
    /// Executors that take their time between two blobs of what they found.
    pub(super) dawdling: u64,
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
    Pin,
    Unpin,
}

impl Setting {
    /// Whether a call may take as long as what is used is protected: then a pin may come after what was looked through for it has gone.
    pub(super) fn is_slow(&self) -> bool {
        self.long + self.lingering > 0 || self.deed.iter().any(|deed| matches!(deed, Deed::Cut | Deed::CutAll))
    }

    pub(super) fn draw(random: &Random) -> Setting {
        // Every other kind of fault is left out.
        let rate = |most: u64| if random.chance(5_000) { 1 + random.below(most) } else { 0 };
        let all =
            [Deed::Invalidate, Deed::Lose, Deed::Rot, Deed::Crash, Deed::Cut, Deed::CutAll, Deed::Wall, Deed::Compress];
        let mut deed: Vec<_> = all.into_iter().filter(|_| random.chance(5_000)).collect();
        deed.push(Deed::Look);
        let keys = 1 + random.index(KEYS);
        let eager = random.chance(EAGER);
        let collecting = match eager {
            true => Some(eager_collecting(random, keys)),
            false => random.chance(COLLECTING).then(|| collecting(random, keys)),
        };
        let swift = collecting.is_some() && random.chance(5_000);
        if collecting.is_some() {
            // Protection is told by wall clocks. Every other time no call takes so long as it lasts, and so trees are pinned too.
            let cut = |deed: &Deed| matches!(deed, Deed::Cut | Deed::CutAll);
            deed.retain(|deed| *deed != Deed::Wall && !(swift && cut(deed)));
            deed.extend([Deed::Pin, Deed::Unpin].into_iter().filter(|_| random.chance(7_000)));
        }
        // A collection takes many calls, and most should come to their end.
        let faults = if eager { 15 } else { 200 };
        Setting {
            daemons: 2 + random.index(2),
            executors: 2 + random.index(3),
            keys,
            runs: match (eager, &collecting) {
                (true, _) => 4 + random.below(6),
                (false, Some(_)) => 2 + random.below(5),
                (false, None) => 1 + random.below(3),
            },
            ttl: Duration::from_secs(if eager { 3 } else { 3 + random.below(8) }),
            delay: Duration::from_millis(2 + random.below(12)),
            delayed: [500, 3_000, 8_000][random.index(3)],
            long: if swift { 0 } else { rate(30) },
            refused: rate(faults),
            lost: rate(faults),
            lingering: if swift { 0 } else { rate(200) },
            crashing: rate(5_000),
            pausing: rate(2_500),
            failing: rate(3_000),
            diverging: rate(3_000),
            careless: rate(2_000),
            checking: rate(3_000),
            collecting,
            rest: Duration::from_secs(if eager { 10 + random.below(30) } else { 4 }),
            removing: Duration::from_secs(if eager { random.below(8) } else { 0 }),
            dawdling: if eager { rate(5_000) } else { 0 },
            deeds: if random.chance(2_000) { 0 } else { random.below(20) },
            deed,
        }
    }
}

/// In how many schedules of 10,000 daemons collect so that much goes while others store it again, and in how many of the rest as it comes.
const EAGER: u64 = 3_300;
const COLLECTING: u64 = 1_200;

/// What is used is protected for so long that leases run out meanwhile; rules and a quota by which something goes.
fn collecting(random: &Random, keys: usize) -> (Collection, Duration) {
    let some = |least: u64, most: u64| random.chance(5_000).then(|| Duration::from_secs(least + random.below(most)));
    let keep = Keep {
        prefix: ["", "name", "name/1"][random.index(3)].into(),
        latest: random.chance(5_000).then(|| random.below(2)),
        used_within: some(1, 15),
        failed_within: some(1, 15),
    };
    // One variant of all keys fits in by far, both do not.
    let (one, both) = (TAKES.0 + TAKES.1 * keys as u64, TAKES.0 + 2 * TAKES.1 * keys as u64);
    let how = Collection {
        protect: Duration::from_secs(3 + random.below(12)),
        rules: Rules::new(vec![keep]),
        quota: random.chance(5_000).then(|| one + random.below(both - one)),
        every: Duration::ZERO,
        rows_per_second: [200, 50_000][random.index(2)],
        tombstones: [0, 1, 1_000][random.index(3)],
        ..Collection::default()
    };
    (how, Duration::from_secs(1 + random.below(8)))
}

/// The same, so that most of what is stored goes soon: by a rule, or since hardly any of it fits in.
fn eager_collecting(random: &Random, keys: usize) -> (Collection, Duration) {
    let (mut how, _) = collecting(random, keys);
    how.protect = Duration::from_secs(2 + random.below(3));
    let moment = Some(Duration::from_secs(1));
    let latest = random.chance(3_000).then_some(1);
    match random.index(3) {
        // With one more it goes over the high mark.
        0 => how.quota = Some(TAKES.0 + TAKES.1 * keys as u64),
        _ => {
            how.rules = Rules::new(vec![Keep { latest, used_within: moment, failed_within: moment, ..Keep::default() }])
        }
    }
    (how, Duration::from_secs(8))
}
