//! What the model says of collection: which attempts go and by what, which bytes, and what keeps the rest.
//!
//! Nights divide time. What happened since the last one is recent to the store, and what happened before it is old; so it is told by days
//! when something was used, touched or ended. [`RULES`] are the rules by which the store is told to collect.

use provender_core::Verdict;
use provender_core::execution::State;

use super::rules::Model;
use super::step::{Blob, Collect, Content, Id, Key, Name, Pinned, Said};

/// What is kept of each name.
pub const RULES: [Keep; 2] = [Keep::Newest, Keep::Used];

/// What is kept of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// The newest success, and what is recent.
    Newest,
    /// Of successes those that are recent, and all that failed.
    Used,
}

/// Lanes tell each other since which day somebody runs, who relies on what was said to be there.
pub fn meet<'a>(lanes: impl Iterator<Item = &'a mut Model>) {
    let lanes: Vec<_> = lanes.collect();
    let oldest = lanes.iter().filter_map(|lane| lane.oldest()).min();
    lanes.into_iter().for_each(|lane| lane.others = oldest);
}

impl Model {
    fn oldest(&self) -> Option<u32> {
        let running = self.keys.values().filter_map(|known| known.lease).map(|lease| self.attempts[&lease.by].days.0);
        running.min()
    }

    /// Somebody was told that a blob is there.
    pub fn touch(&mut self, blob: Blob) {
        self.touched.insert(blob, self.day);
    }

    /// Whether nobody has said today that a blob is there.
    pub fn is_old(&self, blob: Blob) -> bool {
        self.touched.get(&blob).is_some_and(|touched| *touched < self.day)
    }

    /// Whether a pin of records has kept any today. That one is not looked at again before it is old.
    pub fn was_kept_by(&self, what: Pinned) -> bool {
        !matches!(what, Pinned::Tree(_)) && self.kept == self.day && self.day > 0
    }

    /// A lookup was answered with a key's record, if it has one.
    pub fn use_record(&mut self, key: Key) {
        if self.answer(key).is_some() {
            self.known(key).used = self.day;
        }
    }

    /// A night passes, perhaps, then it is collected.
    pub(super) fn collect(&mut self, how: Collect) -> Said {
        self.day += u32::from(how.night);
        how.used.into_iter().for_each(|key| self.use_record(key));
        let ids: Vec<_> = self.attempts.keys().copied().collect();
        let goes: Vec<_> = ids.into_iter().filter_map(|id| Some((id, self.goes(id, how.room)?))).collect();
        for (id, kind) in goes {
            let is_record = self.stands(id);
            if is_record && kind != BY_HAND && self.is_pinned(id) {
                self.took("collect: a pin keeps a record");
                self.kept = self.day;
                continue;
            }
            self.took(kind);
            self.remove(id, is_record);
        }
        if how.room {
            self.see();
        }
        self.sweep([self.oldest(), self.others].into_iter().flatten().fold(self.day, u32::min));
        Said::Done
    }

    /// By what an attempt goes, unless it is pinned.
    fn goes(&mut self, id: Id, room: bool) -> Option<&'static str> {
        let attempt = self.attempts[&id].clone();
        let known = self.known(attempt.key).clone();
        if attempt.state == State::Running {
            return None;
        }
        if known.record.is_some_and(|record| record.by == id && record.void == Some(Verdict::Evicted)) {
            return Some(BY_HAND);
        }
        let is_record = self.stands(id);
        let by_rule = match (RULES[usize::from(attempt.name.0)], is_record) {
            (Keep::Newest, true) => (self.newest(attempt.name) != Some(id)).then_some("collect: there are newer ones"),
            (Keep::Newest, false) => Some("collect: no success"),
            (Keep::Used, true) => Some("collect: not used"),
            (Keep::Used, false) => None,
        };
        // What was once seen to be kept for its use or a pin is not looked at for room until that is long ago.
        let for_room = (room && attempt.seen < self.day).then_some("collect: for room");
        let kind = by_rule.or(for_room)?;
        let is_recent = attempt.days.1 == self.day;
        if is_record && known.used == self.day && !is_recent {
            self.took("collect: a use keeps a record");
            return None;
        }
        (!is_recent).then_some(kind)
    }

    /// What a collection for room sees that is kept although it has ended long ago.
    fn see(&mut self) {
        let ids: Vec<_> = self.attempts.keys().copied().filter(|id| self.stands(*id)).collect();
        for id in ids {
            let used = self.keys[&self.attempts[&id].key].used;
            if (used == self.day || self.is_pinned(id))
                && let Some(attempt) = self.attempts.get_mut(&id)
            {
                attempt.seen = self.day;
            }
        }
    }

    /// Whether an attempt's record is its key's answer, or could become it again.
    fn stands(&self, id: Id) -> bool {
        let record = self.keys.get(&self.attempts[&id].key).and_then(|known| known.record);
        record.is_some_and(|record| record.by == id && record.void.is_none())
    }

    /// The newest of a name's own records.
    fn newest(&self, name: Name) -> Option<Id> {
        let own = self.attempts.iter().filter(|(id, attempt)| attempt.name == name && self.stands(**id));
        own.min_by_key(|(id, attempt)| (std::cmp::Reverse(attempt.ended), **id)).map(|(id, _)| *id)
    }

    /// Whether a pin keeps a record: by its key, its name, or another one under which it was asked for.
    fn is_pinned(&self, id: Id) -> bool {
        let Some(attempt) = self.attempts.get(&id) else { return false };
        let shown = self.names.iter().filter(|(_, named)| named.records.contains(&id)).map(|(name, _)| *name);
        let names = shown.chain([attempt.name]).map(Pinned::Name);
        names.chain([Pinned::Key(attempt.key), Pinned::All]).any(|what| self.pins.contains(&what))
    }

    fn remove(&mut self, id: Id, is_record: bool) {
        let Some(attempt) = self.attempts.remove(&id) else { return };
        self.gone.insert(id);
        for named in self.names.values_mut() {
            named.records.remove(&id);
            named.latest = named.latest.filter(|latest| *latest != id);
        }
        // Who takes back what was made reads the folders.
        let made = attempt.sent.and_then(|(_, content)| content).map(Content::blobs).unwrap_or_default();
        made.into_iter().filter(|blob| !blob.is_content()).for_each(|blob| self.notice(blob));
        let known = self.known(attempt.key);
        // "A record that was collected is EVICTED"; one that was invalidated stays so.
        if let (true, Some(record)) = (is_record, &mut known.record) {
            (record.void, known.news) = (Some(Verdict::Evicted), None);
        }
        known.news = known.news.filter(|news| *news != id);
    }

    /// Bytes go that nothing refers to and nobody relies on.
    fn sweep(&mut self, since: u32) {
        let blobs: Vec<_> = self.blobs.keys().copied().collect();
        for blob in blobs {
            let has = |content: Content| content.blobs().contains(&blob);
            let made = self.attempts.values().filter(|it| matches!(it.state, State::Succeeded | State::Failed));
            let made = made.filter_map(|it| it.sent.and_then(|(_, content)| content)).any(has);
            let pinned = self.pins.iter().any(|pin| matches!(pin, Pinned::Tree(content) if has(*content)));
            let old = |since: u32| self.touched.get(&blob).is_none_or(|touched| *touched < since);
            match (made, pinned) {
                (true, _) => {}
                (false, true) if old(since) => self.took("collect: a pin keeps bytes"),
                (false, false) if old(since) => {
                    self.took("collect: bytes go");
                    self.blobs.remove(&blob);
                }
                (false, false) if old(self.day) => self.took("collect: who runs keeps bytes"),
                (false, _) => {}
            }
        }
    }
}

const BY_HAND: &str = "collect: by hand";

/// What people ask of it.
impl Model {
    /// "Evicted by hand it is an answer no more at once, and goes with the next run."
    pub(super) fn evict(&mut self, key: Key) -> Said {
        let known = self.known(key);
        let mut void = super::step::Void { key, record: None, withdrawn: None };
        if let Some(record) = known.record.as_mut().filter(|record| record.void.is_none()) {
            record.void = Some(Verdict::Evicted);
            void.record = Some(record.by);
            known.news = None;
        }
        self.took(if void.record.is_some() { "evict: a record" } else { "evict: nothing to do" });
        Said::Voided(vec![void])
    }

    /// "What is told to be pinned was there, and stays."
    pub(super) fn pin(&mut self, what: Pinned) -> Said {
        if let Pinned::Tree(content) = what {
            let looked = ["pin: a blob is missing", "pin: finds a lost folder", "pin: finds a lost file"];
            if let Some(said) = self.look_through(content, looked) {
                return said;
            }
        }
        self.took(match what {
            Pinned::Key(_) => "pin: a key",
            Pinned::Name(_) => "pin: a name",
            Pinned::All => "pin: all names",
            Pinned::Tree(_) => "pin: a tree",
        });
        self.pins.insert(what);
        Said::Done
    }

    pub(super) fn unpin(&mut self, what: Pinned) -> Said {
        let kind = if self.pins.remove(&what) { "unpin" } else { "unpin: nothing to do" };
        self.took(kind);
        Said::Done
    }
}
