//! What is done in a round, drawn from its seed: who asks for what, who is killed, and when.
//!
//! The same seed gives the same plan. How far everybody has got by then is for the machine to say.

/// How many keys a round has.
pub(super) const KEYS: usize = 4;

/// Numbers from a seed (splitmix64, Steele, Lea and Flood 2014).
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Less than `end`.
    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

/// What the command of a key does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Writes all and succeeds.
    Works,
    /// The same, held up in the middle until the kills are over.
    HeldUp,
    /// Writes all, and exits with 1.
    Fails,
    /// Exits with 0 and leaves out an output that it has declared.
    Forgets,
}

impl Kind {
    pub(super) fn can_succeed(self) -> bool {
        matches!(self, Kind::Works | Kind::HeldUp)
    }
}

/// One key, and what its outputs are like.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key {
    pub(super) kind: Kind,
    /// The sizes of its two outputs: rows and files of the store.
    pub(super) sizes: [usize; 2],
    pub(super) ttl: usize,
    /// How long its command takes in any case, in milliseconds.
    pub(super) pause: usize,
}

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Victim {
    /// A daemon, and for how many milliseconds it stays away.
    Daemon { daemon: usize, away: usize },
    /// All daemons.
    Daemons { away: usize },
    /// The `provender` of an executor.
    Executor(usize),
    /// One of its guards.
    Guard(usize),
    /// Its command.
    Command(usize),
}

/// When.
#[derive(Debug, Clone, Copy)]
pub(super) enum When {
    /// So many milliseconds after what came before.
    After(usize),
    /// So many milliseconds after the command of this key began.
    AtWork(usize, usize),
    /// So many milliseconds after the command of this key came to its end: in the midst of storing and committing.
    AtEnd(usize, usize),
}

/// A round.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) keys: [Key; KEYS],
    /// The key that each executor asks for.
    pub(super) executors: Vec<usize>,
    pub(super) kills: Vec<(When, Victim)>,
}

impl Plan {
    pub(super) fn draw(random: &mut Random, daemons: usize) -> Plan {
        let keys = [(); KEYS].map(|()| Key {
            kind: random.one_of(&[Kind::Works, Kind::Works, Kind::Works, Kind::HeldUp, Kind::Fails, Kind::Forgets]),
            sizes: [(); 2].map(|()| random.one_of(&[1, 100, 10_000, 40_000, 300_000, 2_000_000])),
            ttl: random.one_of(&[1, 1, 2]),
            pause: 1 + random.below(300),
        });
        // Some keys are asked for by two.
        let twice = (0..KEYS).filter(|_| random.below(3) == 0).collect::<Vec<_>>();
        let executors: Vec<_> = (0..KEYS).chain(twice).collect();
        let kills = (0..1 + random.below(3)).map(|_| {
            let executor = random.below(executors.len());
            let (key, away) = (executors[executor], random.below(1_000));
            let at_work = When::AtWork(key, random.below(keys[key].pause));
            let at_end = When::AtEnd(key, random.below(60));
            let soon = When::After(random.below(200));
            let any = random.one_of(&[soon, at_work, at_end]);
            let (when, victim) = match random.below(10) {
                0..=2 => (any, Victim::Daemon { daemon: random.below(daemons), away }),
                3 => (any, Victim::Daemons { away }),
                4..=6 => (any, Victim::Executor(executor)),
                // These live while the command does.
                7..=8 => (at_work, Victim::Guard(executor)),
                _ => (at_work, Victim::Command(executor)),
            };
            (when, victim)
        });
        let mut kills: Vec<_> = kills.collect();
        // Daemons stay away for as long as a command takes, so they come last.
        kills.sort_by_key(|(_, victim)| matches!(victim, Victim::Daemon { .. } | Victim::Daemons { .. }));
        Plan { keys, executors, kills }
    }
}
