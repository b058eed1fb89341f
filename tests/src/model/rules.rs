//! The reference model: what the store must answer, in maps and `if`s, to be checked against the design by eye.
//!
//! Owns [`Model`], all that is known of a few keys, two names and a few contents, and one function for each thing that can be done.
//! Times are told, not asked for: a store's clock orders histories, so the model is told what the store said. Rules of the design are
//! quoted where they are followed. It must not use `provender_core::transition`, `lease`, `lost` or `policy`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use provender_core::execution::State;
use provender_core::{Timestamp, Verdict};

use super::step::{Blob, Content, Harm, Id, Key, Name, Pinned, Said, Step};

/// What is at the place of a blob, and what the store knows of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bytes {
    /// They are there, and right.
    Whole,
    /// They were deleted or changed under the store, which nobody has noticed.
    Harmed(Harm),
    /// The store knows that they are missing or wrong.
    Lost,
}

/// One attempt.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Attempt {
    /// Of which key.
    pub key: Key,
    /// Under which name.
    pub name: Name,
    /// How far it has come.
    pub state: State,
    /// What it sent at its end: the exit code, and what it made.
    pub sent: Option<(i32, Option<Content>)>,
    /// The record that it differs from.
    pub diverges: Option<Id>,
    /// When its lease was given, as the store said.
    pub began: Timestamp,
    /// When it ended in success, as the store said.
    pub ended: Timestamp,
    /// The days on which it began and ended.
    pub days: (u32, u32),
    /// The day on which a collection for room has last seen that it is kept.
    pub seen: u32,
}

/// What a key's lookups are answered with, unless it is void.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Record {
    /// The attempt that made it.
    pub by: Id,
    /// What that made.
    pub content: Content,
    /// `Invalidated` or `Evicted`, if it is void for good.
    pub void: Option<Verdict>,
}

/// A claim on a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lease {
    /// Whose.
    pub by: Id,
    /// How often it said that it lives.
    pub beats: u32,
    /// How long it lasts from a beat.
    pub ttl: Duration,
    /// The store's incarnation when it was given.
    pub incarnation: u32,
}

/// What is known of a key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Known {
    /// Its record.
    pub record: Option<Record>,
    /// The last attempt that came to nothing while there was no answer; forgotten when a record is made or invalidated.
    pub news: Option<Id>,
    /// Its lease.
    pub lease: Option<Lease>,
    /// The day on which it was last answered with its record.
    pub used: u32,
}

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Named {
    /// What the last begin or commit under it ended with.
    pub latest: Option<Id>,
    /// The records that were made or hit under it.
    pub records: BTreeSet<Id>,
}

/// A daemon's own clock, and since when it sees each lease unchanged.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Watch {
    /// Its clock.
    pub clock: Duration,
    /// The lease of each key as it was first seen: whose, at which beat, when.
    pub seen: BTreeMap<Key, (Id, u32, Duration)>,
}

/// What is asked about an execution that is gone.
const COLLECTED: &str = "execution: collected before";

/// All that is known.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Model {
    /// Keys that were ever begun.
    pub keys: BTreeMap<Key, Known>,
    /// Attempts, by their ids.
    pub attempts: BTreeMap<Id, Attempt>,
    /// Names.
    pub names: BTreeMap<Name, Named>,
    /// Blobs that are stored.
    pub blobs: BTreeMap<Blob, Bytes>,
    /// The day on which it was last said of each that it is there.
    pub touched: BTreeMap<Blob, u32>,
    /// Attempts that were collected. Nobody takes their ids again.
    pub gone: BTreeSet<Id>,
    /// The day on which a pin has last kept a record from being collected.
    pub kept: u32,
    /// What is pinned.
    pub pins: BTreeSet<Pinned>,
    /// How many nights have passed.
    pub day: u32,
    /// The day on which the oldest began that runs, in any lane, when they last told each other.
    pub others: Option<u32>,
    /// How often the store was restored.
    pub incarnation: u32,
    /// The daemons.
    pub watches: Vec<Watch>,
    /// What kinds of transition the last step took, for counting.
    pub kinds: Vec<&'static str>,
}

impl Model {
    /// Nothing is known; `daemons` daemons run.
    pub fn new(daemons: usize) -> Model {
        Model { watches: vec![Watch::default(); daemons], ..Model::default() }
    }

    pub(super) fn took(&mut self, kind: &'static str) {
        self.kinds.push(kind);
    }

    pub(super) fn known(&mut self, key: Key) -> &mut Known {
        self.keys.entry(key).or_default()
    }

    fn is_whole(&self, content: Content) -> bool {
        content.blobs().iter().all(|blob| self.blobs.get(blob) != Some(&Bytes::Lost))
    }

    /// The record, while lookups say SUCCEEDED: not invalidated, and no blob of it is known to be lost.
    pub fn answer(&self, key: Key) -> Option<Record> {
        let record = self.keys.get(&key)?.record?;
        (record.void.is_none() && self.is_whole(record.content)).then_some(record)
    }

    /// What a step is answered with, and what it changes. `at` is the time that the store told.
    pub fn apply(&mut self, step: &Step, at: Timestamp) -> Said {
        self.kinds.clear();
        match step {
            Step::Begin { id, key, name, check, seconds, waited, twice, .. } => {
                if *twice {
                    self.took("begin sent twice at once");
                }
                self.begin(*id, *key, *name, *check, Duration::from_secs(*seconds), *waited, at)
            }
            Step::Beat { id, .. } => self.beat(*id),
            Step::Upload { content, whole, .. } => self.upload(*content, *whole),
            Step::Commit { id, exit, content, twice, .. } => {
                if *twice {
                    self.took("commit sent twice at once");
                }
                self.commit(*id, *exit, *content, at)
            }
            Step::Fail { id, .. } => self.fail(*id),
            Step::Invalidate { what, .. } => self.invalidate(what),
            Step::Evict { key, .. } => self.evict(*key),
            Step::Pin { what, .. } => self.pin(*what),
            Step::Unpin { what, .. } => self.unpin(*what),
            Step::Harm { blob, how } => self.harm(*blob, *how),
            Step::Read { blob, .. } => self.read(*blob),
            Step::Kill { .. } => self.only("executor: killed"),
            Step::Pause { .. } => self.only("executor: paused"),
            Step::Resume { .. } => self.only("executor: resumed"),
            Step::Tick { daemon, millis } => self.tick(*daemon, Duration::from_millis(*millis)),
            Step::Restart { daemons } => self.restart(daemons),
            Step::Restore => {
                self.incarnation += 1;
                self.only("restore")
            }
            Step::Collect { how, .. } => self.collect(*how),
        }
    }

    fn only(&mut self, kind: &'static str) -> Said {
        self.took(kind);
        Said::Done
    }

    #[expect(clippy::too_many_arguments, reason = "they are what a begin says")]
    fn begin(
        &mut self,
        id: Id,
        key: Key,
        name: Name,
        check: bool,
        ttl: Duration,
        waited: Option<Id>,
        at: Timestamp,
    ) -> Said {
        let answer = self.answer(key);
        if let (Some(record), false) = (answer, check) {
            self.took("begin: hit");
            self.show(name, record.by);
            return Said::Hit(record.by);
        }
        // "When the holder fails, its waiters are told FAILED; they don't rerun N times."
        if let Some(holder) = waited {
            let Some(attempt) = self.attempts.get(&holder) else { return Said::NotFound };
            if attempt.state == State::Failed {
                self.took("begin: who was waited for has failed");
                return Said::Failed(holder);
            }
        }
        let checks = answer.map(|record| record.by);
        let known = self.known(key).clone();
        match known.lease {
            Some(lease) if lease.by == id && lease.incarnation == self.incarnation => {
                self.took("begin: asked again");
                return Said::Lease(checks);
            }
            Some(lease) => {
                self.took(if check { "begin: busy (a check)" } else { "begin: busy" });
                return Said::Busy(lease.by);
            }
            None if self.attempts.contains_key(&id) => {
                self.took("begin: ended before");
                return Said::Invalid;
            }
            None => {}
        }
        let state = known.news.and_then(|news| self.attempts.get(&news)).map(|news| news.state);
        self.took(match (checks, known.record, state) {
            (Some(_), ..) => "begin: lease for a check",
            (None, _, Some(State::Abandoned)) => "begin: takeover of an abandoned key",
            (None, _, Some(_)) => "begin: lease after a failure",
            (None, Some(record), None) => match record.void {
                Some(Verdict::Invalidated) => "begin: lease over INVALIDATED",
                Some(_) => "begin: lease over EVICTED",
                None => "begin: lease over LOST",
            },
            (None, None, None) => "begin: lease",
        });
        self.known(key).lease = Some(Lease { by: id, beats: 0, ttl, incarnation: self.incarnation });
        let (state, ended, days) = (State::Running, Timestamp::default(), (self.day, self.day));
        let attempt = Attempt { key, name, state, sent: None, diverges: None, began: at, ended, days, seen: 0 };
        self.attempts.insert(id, attempt);
        Said::Lease(checks)
    }

    /// "A commit or heartbeat requires that the row still names its execution, so takeover, invalidation or a restore fences it."
    fn refusal(&self, id: Id) -> Option<Said> {
        let Some(attempt) = self.attempts.get(&id) else { return Some(Said::NotFound) };
        if attempt.state != State::Running {
            return Some(Said::Ended(attempt.state));
        }
        match self.keys.get(&attempt.key).and_then(|known| known.lease) {
            Some(lease) if lease.by == id && lease.incarnation == self.incarnation => None,
            other => Some(Said::Fenced(other.map(|lease| lease.by).filter(|by| *by != id))),
        }
    }

    /// Counts a refusal. One whose attempt was abandoned was superseded: by nobody yet, or by somebody.
    fn refused(&mut self, id: Id, said: Said, [superseded, restored, ended]: [&'static str; 3]) -> Said {
        let abandoned = self.attempts.get(&id).is_some_and(|attempt| attempt.state == State::Abandoned);
        self.took(match said {
            Said::NotFound => COLLECTED,
            Said::Fenced(_) => restored,
            _ if abandoned => superseded,
            _ => ended,
        });
        said
    }

    fn beat(&mut self, id: Id) -> Said {
        if let Some(said) = self.refusal(id) {
            let kinds = ["heartbeat: superseded", "heartbeat: fenced by a restore", "heartbeat: ended before"];
            return self.refused(id, said, kinds);
        }
        self.took("heartbeat: kept");
        let key = self.attempts[&id].key;
        if let Some(lease) = &mut self.known(key).lease {
            lease.beats += 1;
        }
        Said::Kept
    }

    fn commit(&mut self, id: Id, exit: i32, content: Option<Content>, at: Timestamp) -> Said {
        let Some(attempt) = self.attempts.get(&id).cloned() else {
            self.took(COLLECTED);
            return Said::NotFound;
        };
        // The same call again is answered the same.
        if let (State::Succeeded | State::Failed, Some((code, made))) = (attempt.state, attempt.sent)
            && code == exit
            && (content.is_none() || content == made)
        {
            self.took("commit: again");
            return self.committed(id);
        }
        if let Some(said) = self.refusal(id) {
            return self.refused(
                id,
                said,
                ["commit: superseded", "commit: fenced by a restore", "commit: ended before"],
            );
        }
        // A task without outputs made the empty folder, which needs no bytes of ours.
        let content = content.unwrap_or(Content::Nothing);
        let looked = ["commit: a blob is missing", "commit: finds a lost folder", "commit: finds a lost file"];
        if let Some(said) = self.look_through(content, looked) {
            return said;
        }
        let attempt = self.attempts.get_mut(&id).expect("it is there");
        attempt.sent = Some((exit, Some(content)));
        let (key, name) = (attempt.key, attempt.name);
        if exit != 0 || !content.passes() {
            self.took(if exit != 0 { "commit: the exit code fails it" } else { "commit: the policy fails it" });
            self.end(id, State::Failed);
            return self.committed(id);
        }
        attempt.ended = at;
        let answer = self.answer(key);
        let before = self.known(key).record;
        self.end(id, State::Succeeded);
        match answer {
            // "The first record stays the answer while it is SUCCEEDED";
            Some(first) if first.content == content => {
                self.took("commit: the same again");
                self.show(name, first.by);
            }
            Some(first) => {
                self.took("commit: diverges");
                self.attempts.get_mut(&id).expect("it is there").diverges = Some(first.by);
            }
            // "over LOST, EVICTED or INVALIDATED the new success becomes the record."
            None => {
                self.took(match before {
                    None => "commit: recorded",
                    Some(Record { void: Some(Verdict::Invalidated), .. }) => "commit: recorded over INVALIDATED",
                    Some(Record { void: Some(_), .. }) => "commit: recorded over EVICTED",
                    Some(Record { void: None, .. }) => "commit: recorded over LOST",
                });
                let known = self.known(key);
                known.record = Some(Record { by: id, content, void: None });
                known.news = None;
                self.show(name, id);
            }
        }
        self.committed(id)
    }

    /// Whether all of a content is there: folders are read; files are looked at, small ones are not.
    pub(super) fn look_through(
        &mut self,
        content: Content,
        [missing, folder, file]: [&'static str; 3],
    ) -> Option<Said> {
        for blob in content.blobs() {
            let (kind, said) = match self.blobs.get(&blob) {
                None | Some(Bytes::Lost) => (missing, Said::Missing),
                Some(Bytes::Harmed(_)) if matches!(blob, Blob::Folder(_)) => (folder, Said::Lost),
                Some(Bytes::Harmed(_)) if blob.is_file() => (file, Said::Missing),
                Some(_) => continue,
            };
            self.took(kind);
            if said == Said::Lost || kind == file {
                self.blobs.insert(blob, Bytes::Lost);
            }
            if kind == file {
                // It was held before it was looked at.
                self.touch(blob);
            }
            return Some(said);
        }
        None
    }

    fn fail(&mut self, id: Id) -> Said {
        const SENT: (i32, Option<Content>) = (Step::FAILS_WITH, None);
        if self.attempts.get(&id).is_some_and(|it| it.state == State::Failed && it.sent == Some(SENT)) {
            self.took("fail: again");
            return self.committed(id);
        }
        if let Some(said) = self.refusal(id) {
            return self.refused(id, said, ["fail: superseded", "fail: fenced by a restore", "fail: ended before"]);
        }
        self.took("fail: failed");
        self.attempts.get_mut(&id).expect("it is there").sent = Some(SENT);
        self.end(id, State::Failed);
        self.committed(id)
    }

    /// What the end of an attempt is answered with.
    fn committed(&self, id: Id) -> Said {
        let attempt = &self.attempts[&id];
        let record = self.keys.get(&attempt.key).and_then(|known| known.record);
        let recorded = record.is_some_and(|record| record.by == id);
        Said::Committed { state: attempt.state, recorded, diverges: attempt.diverges }
    }

    /// An attempt ends, and its lease goes. That it came to nothing is news of the key, unless there is an answer.
    pub(super) fn end(&mut self, id: Id, state: State) {
        let day = self.day;
        let attempt = self.attempts.get_mut(&id).expect("who ends has begun");
        (attempt.state, attempt.days.1) = (state, day);
        let key = attempt.key;
        let news = self.answer(key).is_none() && state != State::Succeeded;
        let known = self.known(key);
        known.lease = None;
        if news {
            known.news = Some(id);
        }
    }

    /// "`latest` of a name is the execution that the last `Begin` or `Commit` under that name ended with, hits included."
    fn show(&mut self, name: Name, id: Id) {
        let name = self.names.entry(name).or_default();
        name.latest = Some(id);
        name.records.insert(id);
    }
}
