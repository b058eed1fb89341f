//! Cases: long walks that lead into rare corners, and the shorter ones that a failure is cut down to.
//!
//! A case is a flat list of steps. Each executor's step belongs to one of several lanes, which share nothing but the store: keys, names
//! and contents are a lane's own. So lanes may be carried out at once, and commits share their durable writes; time, restarts and
//! restores are everybody's, and lie between. Any step makes sense at any moment (its answer may be a refusal), so that a failing
//! case is shortened by leaving steps out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use proptest::strategy::{NewTree, Strategy, ValueTree};
use proptest::test_runner::{TestRng, TestRunner};
use provender_core::{Timestamp, Verdict};

use super::collect;
use super::rules::{Bytes, Model};
use super::step::{Blob, CLIENTS, Collect, Content, Harm, Id, KEYS, Key, NAMES, Name, Pinned, Step, What};

/// Of how many random steps the rarest one is taken.
const CANDIDATES: usize = 24;
/// How often kinds are to be taken for a hundred times of another one: more of those that much must come before, fewer of those that
/// undo what others need.
const SHARES: &[(&str, u32)] = &[
    ("begin: asked again", 300),
    ("begin: lease", 400),
    ("begin: lease for a check", 250),
    ("begin: lease over INVALIDATED", 800),
    ("begin: lease over LOST", 3_000),
    ("begin: takeover of an abandoned key", 400),
    ("commit: diverges", 500),
    ("commit: finds a lost folder", 1_000),
    ("commit: recorded", 1_200),
    ("commit: recorded over INVALIDATED", 1_200),
    ("commit: recorded over LOST", 8_000),
    ("commit: the same again", 3_000),
    ("blob: changed under the store", 60),
    ("blob: deleted under the store", 160),
    ("executor: killed", 60),
    ("executor: paused", 60),
    ("fail: failed", 100),
    ("invalidate: a holder", 100),
    ("invalidate: a record", 60),
    ("invalidate: a record and a holder", 100),
    ("invalidate: by name", 60),
    ("invalidate: downstream", 60),
    ("invalidate: nothing to do", 60),
    ("evict: a record", 50),
    ("evict: nothing to do", 50),
    ("pin: a key", 50),
    ("pin: finds a lost folder", 2_000),
    ("pin: a name", 50),
    ("pin: a tree", 60),
    ("pin: all names", 40),
    ("unpin", 200),
    ("read: finds a loss", 80),
    ("read: not held", 200),
    ("upload: finds a loss and heals", 1_500),
    ("upload: heals", 60),
    ("upload: new", 800),
    ("upload: over a harm that nobody has seen", 60),
];
/// How many steps each lane takes between two that are everybody's.
const BETWEEN: usize = 3;

/// How large cases are.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Lanes.
    pub lanes: usize,
    /// Rounds: steps of every lane, then one that is everybody's.
    pub rounds: usize,
    /// Daemons.
    pub daemons: usize,
    /// Whether it is collected, too.
    pub collects: bool,
}

/// What is to be done, in order.
#[derive(Clone, PartialEq, Eq)]
pub struct Case {
    /// How many daemons run.
    pub daemons: usize,
    /// Steps, each of one lane or of all.
    pub steps: Arc<Vec<(Option<usize>, Step)>>,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} steps over {} daemons:", self.steps.len(), self.daemons)?;
        for (lane, step) in self.steps.iter() {
            match lane {
                Some(lane) => writeln!(f, "  lane {lane}: {step}")?,
                None => writeln!(f, "  {step}")?,
            }
        }
        Ok(())
    }
}

impl Strategy for Size {
    type Tree = Shorter;
    type Value = Case;

    fn new_tree(&self, runner: &mut TestRunner) -> NewTree<Self> {
        let mut walk =
            Walk { rng: runner.new_rng(), counts: BTreeMap::new(), lanes: Vec::new(), collects: self.collects };
        walk.lanes.resize_with(self.lanes, || Lane::new(self.daemons));
        let mut steps = Vec::new();
        for _ in 0..self.rounds {
            for lane in 0..self.lanes {
                for _ in 0..BETWEEN {
                    steps.push((Some(lane), walk.next(lane)));
                }
            }
            let step = walk.everybodys(self.daemons);
            collect::meet(walk.lanes.iter_mut().map(|lane| &mut lane.model));
            walk.lanes.iter_mut().for_each(|lane| lane.take(&step));
            steps.push((None, step));
        }
        let all = Collect { room: true, night: true, used: None };
        steps.extend(self.collects.then_some((None, Step::Collect { daemon: 0, how: all })));
        Ok(Shorter::new(Case { daemons: self.daemons, steps: Arc::new(steps) }, self.lanes))
    }
}

/// One lane as it is walked: the model, and who has begun what.
struct Lane {
    model: Model,
    next: u16,
    begun: Vec<Vec<Id>>,
    paused: BTreeSet<u8>,
}

impl Lane {
    fn new(daemons: usize) -> Lane {
        let begun = vec![Vec::new(); usize::from(CLIENTS)];
        Lane { model: Model::new(daemons), next: 1, begun, paused: BTreeSet::new() }
    }

    fn take(&mut self, step: &Step) {
        self.model.apply(step, Timestamp::from_millis(u64::from(self.next)));
        match step {
            Step::Begin { client, id, .. } => {
                self.next = self.next.max(id.0 + 1);
                let begun = &mut self.begun[usize::from(*client)];
                if !begun.contains(id) && self.model.attempts.contains_key(id) {
                    begun.push(*id);
                }
            }
            // Whoever is killed knows nothing of what it was at.
            Step::Kill { client } => self.begun[usize::from(*client)].clear(),
            Step::Pause { client } => _ = self.paused.insert(*client),
            Step::Resume { client } => _ = self.paused.remove(client),
            _ => {}
        }
    }
}

struct Walk {
    rng: TestRng,
    counts: BTreeMap<&'static str, u32>,
    lanes: Vec<Lane>,
    collects: bool,
}

impl Walk {
    fn below(&mut self, n: usize) -> usize {
        use proptest::prelude::Rng;
        ((u64::from(self.rng.next_u32()) * n as u64) >> 32) as usize
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// Of some random steps the one whose kind was taken least so far.
    fn next(&mut self, lane: usize) -> Step {
        let mut best: Option<(u32, Step, Vec<&'static str>)> = None;
        for _ in 0..CANDIDATES {
            let step = self.random(lane);
            let mut model = self.lanes[lane].model.clone();
            model.apply(&step, Timestamp::default());
            let count = |kind: &&'static str| {
                let share = SHARES.iter().find(|(of, _)| of == kind).map_or(100, |(_, share)| *share);
                self.counts.get(kind).copied().unwrap_or_default() * 1_000 / share
            };
            let rarity = model.kinds.iter().map(count).min().unwrap_or(u32::MAX);
            if best.as_ref().is_none_or(|(least, ..)| rarity < *least) {
                best = Some((rarity, step, model.kinds));
            }
        }
        let (_, step, kinds) = best.expect("there were candidates");
        kinds.into_iter().for_each(|kind| *self.counts.entry(kind).or_default() += 1);
        self.lanes[lane].take(&step);
        step
    }

    fn everybodys(&mut self, daemons: usize) -> Step {
        match self.below(24) {
            0 | 1 => Step::Restore,
            2 => Step::Restart { daemons: (0..daemons).collect() },
            3 => Step::Restart { daemons: vec![self.below(daemons)] },
            4..8 if self.collects => {
                let used = (self.below(2) == 0).then(|| Key(self.below(KEYS.into()) as u8));
                let how = Collect { room: self.below(6) == 0, night: self.below(3) > 0, used };
                Step::Collect { daemon: self.below(daemons), how }
            }
            // Mostly for one daemon, so that it sees a lease long enough.
            _ => Step::Tick {
                daemon: if self.below(3) == 0 { daemons - 1 } else { 0 },
                millis: self.one(&[500, 1_000, 1_500, 3_000]),
            },
        }
    }

    fn random(&mut self, lane: usize) -> Step {
        let active: Vec<_> = (0..CLIENTS).filter(|client| !self.lanes[lane].paused.contains(client)).collect();
        let paused: Vec<_> = self.lanes[lane].paused.iter().copied().collect();
        if active.is_empty() || (!paused.is_empty() && self.below(12) == 0) {
            return Step::Resume { client: self.one(&paused) };
        }
        let client = self.one(&active);
        let content = self.one(&Content::ALL);
        let blob = self.one(&[Blob::Folder(content), Blob::File(content)]);
        match self.below(if self.collects { 36 } else { 32 }) {
            0..9 => self.begin(lane, client),
            9..12 => self.of_execution(lane, client, |id| Step::Beat { client, id }),
            12..15 => Step::Upload { client, content, whole: self.below(4) > 0 },
            15..22 => self.commit(lane, client),
            22..24 => self.of_execution(lane, client, |id| Step::Fail { client, id }),
            24..26 => Step::Invalidate { client, what: self.what() },
            26..28 => self.harm(lane, blob),
            28..30 => Step::Read { client, blob, way: self.below(4) as u8 },
            30 => Step::Kill { client },
            31 => Step::Pause { client },
            32 => Step::Evict { client, key: self.key(lane) },
            33..35 => Step::Pin { client, what: self.pinned(content) },
            _ => Step::Unpin { client, what: self.pinned(content) },
        }
    }

    fn pinned(&mut self, content: Content) -> Pinned {
        match self.below(5) {
            0 => Pinned::Key(Key(self.below(KEYS.into()) as u8)),
            1 => Pinned::Name(Name(self.below(NAMES.into()) as u8)),
            2 => Pinned::All,
            _ => Pinned::Tree(content),
        }
    }

    fn what(&mut self) -> What {
        match self.below(4) {
            0 => What::Name(Name(self.below(NAMES.into()) as u8)),
            1 => What::Downstream(Key(0)),
            _ => What::Key(Key(self.below(KEYS.into()) as u8)),
        }
    }

    /// To what is whole: a blob of an answer, a file, any.
    fn harm(&mut self, lane: usize, blob: Blob) -> Step {
        let whole = self.lanes[lane].model.blobs.iter().filter(|(_, bytes)| **bytes == Bytes::Whole);
        let whole: Vec<_> = whole.map(|(blob, _)| *blob).collect();
        let model = &self.lanes[lane].model;
        let answers = (0..KEYS).filter_map(|key| model.answer(Key(key))).flat_map(|record| record.content.blobs());
        let answers: Vec<_> = answers.filter(|blob| whole.contains(blob)).collect();
        let files: Vec<_> = whole.iter().copied().filter(|blob| blob.is_file()).collect();
        let among = match self.below(4) {
            0 if !files.is_empty() => &files,
            1 | 2 if !answers.is_empty() => &answers,
            _ => &whole,
        };
        let blob = if among.is_empty() { blob } else { self.one(among) };
        Step::Harm { blob, how: self.one(&[Harm::Deleted, Harm::Changed]) }
    }

    /// Any key, but rather one that is LOST.
    fn key(&mut self, lane: usize) -> Key {
        let model = &self.lanes[lane].model;
        let lost: Vec<_> = (0..KEYS).map(Key).filter(|key| model.lookup(*key).0 == Verdict::Lost).collect();
        if lost.is_empty() || self.below(3) == 0 { Key(self.below(KEYS.into()) as u8) } else { self.one(&lost) }
    }

    fn begin(&mut self, lane: usize, client: u8) -> Step {
        let begun = self.lanes[lane].begun[usize::from(client)].clone();
        // What it has begun is asked for again.
        if !begun.is_empty() && self.below(6) == 0 {
            let id = self.one(&begun);
            // What is gone is asked for by nobody.
            let there = self.lanes[lane].model.attempts.get(&id).map(|attempt| (attempt.key, attempt.name));
            let Some((key, name)) = there else { return Step::Beat { client, id } };
            return Step::Begin { client, id, key, name, check: false, seconds: 1, waited: None, twice: false };
        }
        let key = self.key(lane);
        let others: Vec<_> = self.lanes[lane].model.history(key).into_iter().take(2).map(|(id, _)| id).collect();
        let waited = if !others.is_empty() && self.below(4) == 0 { Some(self.one(&others)) } else { None };
        Step::Begin {
            client,
            id: Id(self.lanes[lane].next),
            key,
            name: Name(self.below(NAMES.into()) as u8),
            check: self.below(3) == 0,
            seconds: self.one(&[1, 3]),
            waited,
            twice: self.below(6) == 0,
        }
    }

    /// With what the client has begun, mostly what it is still at; with nothing begun, a step of nobody's execution.
    fn of_execution(&mut self, lane: usize, client: u8, step: impl Fn(Id) -> Step) -> Step {
        let Lane { model, begun, .. } = &self.lanes[lane];
        let begun = begun[usize::from(client)].clone();
        let holds = |id: &Id| model.keys.values().any(|known| known.lease.is_some_and(|lease| lease.by == *id));
        let held: Vec<_> = begun.iter().copied().filter(holds).collect();
        if begun.is_empty() {
            return Step::Pause { client };
        }
        let of = if held.is_empty() || self.below(3) == 0 { &begun } else { &held };
        step(self.one(of))
    }

    fn commit(&mut self, lane: usize, client: u8) -> Step {
        let blobs = &self.lanes[lane].model.blobs;
        let harmed = |it: &Content| matches!(blobs.get(&Blob::Folder(*it)), Some(Bytes::Harmed(_)));
        let harmed: Vec<_> = Content::ALL.into_iter().filter(harmed).map(Some).collect();
        let all = Content::ALL.into_iter().map(Some).chain([None]).collect();
        let contents: Vec<_> = if harmed.is_empty() || self.below(3) > 0 { all } else { harmed };
        let (content, exit, twice) = (self.one(&contents), self.one(&[0, 0, 0, 0, 1]), self.below(5) == 0);
        let step = self.of_execution(lane, client, |id| Step::Commit { client, id, exit, content, twice });
        // What was sent before is sent again.
        match step {
            Step::Commit { client, id, twice, .. } if self.below(3) == 0 => {
                let sent = self.lanes[lane].model.attempts.get(&id).and_then(|attempt| attempt.sent);
                let (exit, content) = sent.filter(|(exit, _)| *exit != Step::FAILS_WITH).unwrap_or((exit, content));
                Step::Commit { client, id, exit, content: content.filter(|it| *it != Content::Nothing), twice }
            }
            step => step,
        }
    }
}

/// Cuts a failing case down: to one lane, then by halves and ever smaller pieces (delta debugging, Zeller and Hildebrandt 2002).
#[derive(Debug)]
pub struct Shorter {
    /// The shortest one that failed, and the one that is tried.
    failing: Case,
    tried: Case,
    lane: usize,
    lanes: usize,
    at: usize,
    piece: usize,
}

impl Shorter {
    fn new(case: Case, lanes: usize) -> Shorter {
        let piece = case.steps.len();
        Shorter { failing: case.clone(), tried: case, lane: 0, lanes, at: 0, piece }
    }

    /// The next one to be tried, unless all were.
    fn next(&mut self) -> bool {
        let all = Arc::clone(&self.failing.steps);
        let steps: Vec<_> = if self.lane < self.lanes {
            let lane = self.lane;
            self.lane += 1;
            all.iter().filter(|(of, _)| of.is_none_or(|of| of == lane)).cloned().collect()
        } else {
            if self.at >= all.len() {
                (self.at, self.piece) = (0, self.piece.min(all.len()) / 2);
            }
            if self.piece == 0 {
                self.tried = self.failing.clone();
                return false;
            }
            let cut = self.at..(self.at + self.piece).min(all.len());
            all[..cut.start].iter().chain(&all[cut.end..]).cloned().collect()
        };
        self.tried = Case { daemons: self.failing.daemons, steps: Arc::new(steps) };
        true
    }
}

impl ValueTree for Shorter {
    type Value = Case;

    fn current(&self) -> Case {
        self.tried.clone()
    }

    fn simplify(&mut self) -> bool {
        // What was tried fails too.
        if self.tried != self.failing && self.lane > 0 && self.lane <= self.lanes && self.piece > 0 {
            self.lane = self.lanes;
        }
        self.failing = self.tried.clone();
        self.next()
    }

    fn complicate(&mut self) -> bool {
        // What was tried passes: the piece is needed.
        if self.lane >= self.lanes && self.tried.steps.len() < self.failing.steps.len() {
            self.at += self.piece;
        }
        self.next()
    }
}

#[cfg(test)]
mod tests {
    use super::super::count::{Counts, KINDS, OF_COLLECTION, OF_SEVERAL};
    use super::*;

    /// Every kind is taken by the model alone, and often enough that a few hundred cases take it a thousand times.
    #[test]
    fn cases_lead_into_every_corner() {
        for collects in [false, true] {
            let mut counts = Counts::default();
            let mut runner = TestRunner::deterministic();
            for _ in 0..30 {
                let size = Size { lanes: 8, rounds: 50, daemons: 2, collects };
                let case = size.new_tree(&mut runner).unwrap().current();
                let mut lanes = vec![Model::new(2); 8];
                for (lane, step) in case.steps.iter() {
                    collect::meet(lanes.iter_mut());
                    for (n, model) in lanes.iter_mut().enumerate() {
                        if lane.is_none_or(|lane| lane == n) {
                            model.apply(step, Timestamp::default());
                            counts.add(model.kinds.drain(..));
                        }
                    }
                }
            }
            println!("{counts}");
            let collected = OF_COLLECTION.iter().filter(|_| collects);
            let fewer = [counts.fewer(KINDS.iter().chain(OF_SEVERAL), 100), counts.fewer(collected, 10)];
            assert!(fewer.iter().all(Vec::is_empty), "{fewer:?}");
        }
    }
}
