//! Taking in a part of the change feed: which events this watcher is told, and from where it would go on after each.
//!
//! Invariant: a version is taken in once. A verdict that was written while something was lost or healed is told, and then the key is
//! looked at again.

use std::collections::{HashMap, VecDeque};

use provender_core::Verdict;
use provender_core::batch::Version;
use provender_core::event::Noted;

use super::losses::Due;
use super::pages::Told;
use super::{Heard, Watching, gone};
use crate::store::StoreError;

impl Watching {
    /// Takes in all that the feed has up to a version.
    pub(super) async fn take_in(&mut self, told: &[(Version, Told)], upto: Version) -> Result<(), StoreError> {
        let (at, mut events) = (self.at, VecDeque::new());
        for (version, told) in told.iter().filter(|(version, _)| *version > at) {
            match told {
                Told::Event(space, noted) if *space == self.space && self.asks_for(*version, noted) => {
                    events.push_back((*version, &**noted));
                }
                Told::Event(..) => {}
                Told::Loss(position) => {
                    self.tell_all(&mut events).await?;
                    self.losses.entered(*version, *position);
                }
                Told::Healing => {
                    self.tell_all(&mut events).await?;
                    self.losses.healed(*version);
                }
                Told::Restored => return Err(gone("the store was restored from a backup meanwhile")),
            }
        }
        self.tell_all(&mut events).await?;
        self.at = self.at.max(upto);
        self.losses.passed(self.at);
        if self.told_first.values().all(|version| *version <= self.at) {
            self.told_first = HashMap::new();
        }
        Ok(())
    }

    fn asks_for(&self, version: Version, noted: &Noted) -> bool {
        let event = &noted.event;
        let new = self.told_first.get(&event.key).is_none_or(|first| version > *first);
        // A quiet one stands under the name of the check: whose record it is about is looked up.
        new && (self.watched.has(&event.key, event.name.as_ref()) || noted.quiet && !self.watched.prefixes.is_empty())
    }

    /// Tells events. One batch's share a version, and only with the last of them all up to there has been told.
    async fn tell_all(&mut self, events: &mut VecDeque<(Version, &Noted)>) -> Result<(), StoreError> {
        while let Some((version, noted)) = events.pop_front() {
            let before = Version(version.0.saturating_sub(1));
            let last = events.front().is_none_or(|(next, _)| *next > version);
            self.tell_one(before, if last { version } else { before }, noted).await?;
        }
        Ok(())
    }

    async fn tell_one(&mut self, before: Version, after: Version, noted: &Noted) -> Result<(), StoreError> {
        let Noted { event, stamp, lost, quiet } = noted;
        let known = self.losses.of(&event.key);
        if event.verdict == Verdict::Lost && known.is_some() && known == event.execution {
            return Ok(());
        }
        // Of a verdict that rests on a later attempt it is enough to know that there is such a record.
        let lost = lost.then(|| known.or(event.execution)).flatten();
        // What was lost, or has healed, while the verdict was being written may have been looked into before this.
        let doubtful = lost.is_some() || event.verdict == Verdict::Succeeded && self.losses.newer_than(*stamp);
        if *quiet && !doubtful {
            return Ok(());
        }
        if !quiet {
            self.losses.told(&event.key, lost);
            self.push(event.clone(), if doubtful { before } else { after });
        }
        if doubtful {
            let told = self.ready.len();
            let due = Due { healing: true, unsure: false, again: *quiet };
            self.retest(std::slice::from_ref(&event.key), due, Version(before.0 + 1)).await?;
            let cursor = self.losses.cursor(self.incarnation, after);
            let any = !quiet || self.ready.len() > told;
            if let Some(Heard::Event(_, last)) = self.ready.back_mut().filter(|_| any) {
                *last = Some(cursor);
            }
        }
        Ok(())
    }
}
