//! What the model says of time, losses and invalidation, and what can be seen of it: verdicts, histories, `latest`.

use std::time::Duration;

use provender_core::Verdict;
use provender_core::execution::State;

use super::rules::{Attempt, Bytes, Model};
use super::step::{Blob, Content, Harm, Id, KEYS, Key, Name, Said, Void, What};

/// What a lookup says: the verdict, the execution that it rests on, the outputs.
pub type Answer = (Verdict, Option<Id>, Option<Content>);

/// Time.
impl Model {
    /// "A daemon calls it expired after seeing the same row for a TTL on its own monotonic clock, counted from first sight."
    pub(super) fn tick(&mut self, daemon: usize, passed: Duration) -> Said {
        let live: Vec<_> = self.keys.iter().filter_map(|(key, known)| Some((*key, known.lease?))).collect();
        let watch = &mut self.watches[daemon];
        watch.clock += passed;
        let now = watch.clock;
        watch.seen.retain(|key, (by, beats, _)| {
            live.iter().any(|(other, lease)| (other, &lease.by, &lease.beats) == (&*key, &*by, &*beats))
        });
        let mut due = Vec::new();
        for (key, lease) in live {
            let (.., since) = *watch.seen.entry(key).or_insert((lease.by, lease.beats, now));
            if now >= since + lease.ttl {
                watch.seen.remove(&key);
                due.push(lease.by);
            }
        }
        for id in due {
            self.took("lease: expired");
            self.end(id, State::Abandoned);
        }
        Said::Done
    }

    /// Daemons start anew: what they had seen is forgotten, and what there is they see now.
    pub(super) fn restart(&mut self, daemons: &[usize]) -> Said {
        self.took(if daemons.len() == self.watches.len() { "daemon: all restarted" } else { "daemon: restarted" });
        for daemon in daemons {
            self.watches[*daemon].seen.clear();
            self.tick(*daemon, Duration::ZERO);
        }
        Said::Done
    }
}

/// Bytes.
impl Model {
    /// Stores a content; its folder alone, if it is not to be `whole`.
    pub(super) fn upload(&mut self, content: Content, whole: bool) -> Said {
        for blob in content.blobs().into_iter().filter(|blob| whole || matches!(blob, Blob::Folder(_))) {
            let (kind, after) = match self.blobs.get(&blob) {
                None => ("upload: new", Bytes::Whole),
                Some(Bytes::Whole) => ("upload: again", Bytes::Whole),
                Some(Bytes::Lost) => ("upload: heals", Bytes::Whole),
                // Before a second copy of a file is thrown away, the first is looked for.
                Some(Bytes::Harmed(_)) if blob.is_file() => ("upload: finds a loss and heals", Bytes::Whole),
                Some(harmed) => ("upload: over a harm that nobody has seen", *harmed),
            };
            self.took(kind);
            self.blobs.insert(blob, after);
            self.touch(blob);
        }
        Said::Done
    }

    pub(super) fn harm(&mut self, blob: Blob, how: Harm) -> Said {
        if self.blobs.get(&blob) == Some(&Bytes::Whole) {
            self.took(match how {
                Harm::Deleted => "blob: deleted under the store",
                Harm::Changed => "blob: changed under the store",
            });
            self.blobs.insert(blob, Bytes::Harmed(how));
        }
        Said::Done
    }

    /// "Every byte that leaves the store was checked"; "the bytes are never served".
    pub(super) fn read(&mut self, blob: Blob) -> Said {
        let (kind, said) = match self.blobs.get(&blob) {
            None => ("read: not held", Said::NotFound),
            Some(Bytes::Whole) => ("read: right bytes", Said::Bytes),
            Some(Bytes::Harmed(_)) => ("read: finds a loss", Said::Lost),
            Some(Bytes::Lost) => ("read: refused as lost", Said::Lost),
        };
        self.took(kind);
        self.notice(blob);
        said
    }

    pub(super) fn notice(&mut self, blob: Blob) {
        if let Some(Bytes::Harmed(_)) = self.blobs.get(&blob) {
            self.blobs.insert(blob, Bytes::Lost);
        }
    }
}

/// Invalidation.
impl Model {
    pub(super) fn invalidate(&mut self, what: &What) -> Said {
        let mut voided = Vec::new();
        match what {
            What::Key(key) => voided.push(self.void(*key)),
            What::Downstream(key) => {
                // Who follows what was made reads the folders.
                let walked = self.attempts.values().filter(|it| it.key.reads() == Some(*key) || it.key == *key);
                let walked = walked.filter(|it| it.state == State::Succeeded);
                let contents = walked.filter_map(|it| it.sent.and_then(|(_, content)| content));
                for content in contents.collect::<Vec<_>>() {
                    content.blobs().into_iter().filter(|blob| !blob.is_content()).for_each(|blob| self.notice(blob));
                }
                voided.push(self.void(*key));
                for reader in (0..KEYS).map(Key).filter(|reader| reader.reads() == Some(*key)) {
                    let known = self.known(reader).clone();
                    // Who only checks an answer that was made from something else goes on; there is none here.
                    let void = self.void(reader);
                    if void.record.is_some() || void.withdrawn.is_some() {
                        self.took("invalidate: downstream");
                        debug_assert!(known.record.is_some() || known.lease.is_some());
                        voided.push(void);
                    }
                }
            }
            What::Name(name) => {
                let listed = self.names.get(name).map(|named| named.records.clone()).unwrap_or_default();
                for key in (0..KEYS).map(Key) {
                    let known = self.known(key).clone();
                    let record = known.record.is_some_and(|record| listed.contains(&record.by));
                    let under = known.lease.is_some_and(|lease| self.attempts[&lease.by].name == *name);
                    // Whose record stands under the name, and who is at it under the name: not a check of another name's answer.
                    if record || (under && self.answer(key).is_none()) {
                        let void = self.void(key);
                        if void.record.is_some() || void.withdrawn.is_some() {
                            self.took("invalidate: by name");
                            voided.push(void);
                        }
                    }
                }
            }
        }
        voided.sort();
        Said::Voided(voided)
    }

    /// The record, if it is the answer or could become it again, is void; whoever is at the key is withdrawn.
    fn void(&mut self, key: Key) -> Void {
        let Model { keys, attempts, day, .. } = self;
        let known = keys.entry(key).or_default();
        let withdrawn = known.lease.take().map(|lease| lease.by);
        if let Some(attempt) = withdrawn.and_then(|id| attempts.get_mut(&id)) {
            (attempt.state, attempt.days.1) = (State::Abandoned, *day);
        }
        let mut void = Void { key, record: None, withdrawn };
        match &mut known.record {
            Some(record) if record.void.is_none() => {
                record.void = Some(Verdict::Invalidated);
                known.news = None;
                void.record = Some(record.by);
            }
            _ => known.news = withdrawn.or(known.news),
        }
        self.took(match (void.record, withdrawn) {
            (Some(_), None) => "invalidate: a record",
            (Some(_), Some(_)) => "invalidate: a record and a holder",
            (None, Some(_)) => "invalidate: a holder",
            (None, None) => "invalidate: nothing to do",
        });
        void
    }
}

/// What can be seen.
impl Model {
    /// What a lookup says.
    pub fn lookup(&self, key: Key) -> Answer {
        let Some(known) = self.keys.get(&key) else { return (Verdict::Unknown, None, None) };
        if let Some(record) = self.answer(key) {
            return (Verdict::Succeeded, Some(record.by), Some(record.content));
        }
        if let Some(lease) = known.lease {
            return (Verdict::Running, Some(lease.by), None);
        }
        if let Some(news) = known.news {
            return (self.attempts[&news].state.verdict(), Some(news), None);
        }
        match known.record {
            None => (Verdict::Unknown, None, None),
            Some(record) => (record.void.unwrap_or(Verdict::Lost), Some(record.by), None),
        }
    }

    /// A key's attempts, newest first; of those that began in one millisecond, by their ids.
    pub fn history(&self, key: Key) -> Vec<(Id, &Attempt)> {
        let mut attempts: Vec<_> = self.attempts.iter().filter(|(_, attempt)| attempt.key == key).collect();
        attempts.sort_by_key(|(id, attempt)| (std::cmp::Reverse(attempt.began), **id));
        attempts.into_iter().map(|(id, attempt)| (*id, attempt)).collect()
    }

    /// "What is INVALIDATED, LOST or EVICTED is skipped; absent if none."
    pub fn latest(&self, name: Name) -> Option<Id> {
        let named = self.names.get(&name)?;
        let stands = |id: &Id| self.answer(self.attempts[id].key).is_some_and(|record| record.by == *id);
        let mut records: Vec<_> = named.records.iter().copied().collect();
        records.sort_by_key(|id| (std::cmp::Reverse(self.attempts[id].ended), *id));
        named.latest.into_iter().chain(records).find(stands)
    }

    /// What `find_missing` says of a blob.
    pub fn is_missing(&self, blob: Blob) -> bool {
        matches!(self.blobs.get(&blob), None | Some(Bytes::Lost))
    }

    /// Whether to ask that changes nothing: of a file it is looked whether that is as it was.
    pub fn may_be_asked(&self, blob: Blob) -> bool {
        !(blob.is_file() && matches!(self.blobs.get(&blob), Some(Bytes::Harmed(_))))
    }
}
