//! Events: what watchers are told when a key's verdict changes.
//!
//! Owns [`Event`], when there is one, which of them a watcher asks for ([`Watched`]), and the text by which it goes on later
//! ([`Cursor`]). Invariant: of two things that are known of a key, there is an event between them exactly if a lookup answers
//! differently. It must not know how events are stored or sent.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use crate::batch::Version;
use crate::execution::{ExecutionId, Verdict};
use crate::key::TaskKey;
use crate::name::Name;
use crate::time::Timestamp;
use crate::transition::Known;

/// The longest reason that an event has, in bytes, beside a mark that it was cut.
pub const MAX_REASON: usize = 512;

/// A key's verdict, and what it rests on, once either has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The key.
    pub key: TaskKey,
    /// The name of the execution that the verdict rests on; none if it rests on none.
    pub name: Option<Name>,
    /// What a lookup says from now on.
    pub verdict: Verdict,
    /// The execution that it rests on.
    pub execution: Option<ExecutionId>,
    /// Why it is not SUCCEEDED, for people; cut to [`MAX_REASON`].
    pub reason: String,
    /// When it became so, by a daemon's clock.
    pub at: Timestamp,
}

/// An event as it stands in the change feed: with what tells a watcher whether a loss concerns it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Noted {
    /// The event.
    pub event: Event,
    /// Up to where the log of lost digests was tested for the record, if the verdict is SUCCEEDED.
    pub stamp: u64,
    /// Whether the key has a record that is LOST, whatever the verdict is: should it heal, that is the next event.
    pub lost: bool,
    /// Whether it is no event, unless the record was lost while it was being written: a check has begun, or ended.
    pub quiet: bool,
}

/// Whether what is known of a key `after` a change is news: another verdict, or the same of another execution.
pub fn is_news(before: &Known, after: &Known) -> bool {
    (before.verdict(), before.evidence()) != (after.verdict(), after.evidence())
}

/// The record of a key, if it was found to be LOST.
pub fn lost_record(known: &Known) -> Option<ExecutionId> {
    let record = known.row.record.as_ref()?;
    record.void.as_ref().filter(|void| void.verdict == Verdict::Lost).map(|_| record.execution)
}

/// What a watcher asks for: keys, and all that happens under names that begin with one of some texts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Watched {
    /// The keys.
    pub keys: HashSet<TaskKey>,
    /// How names begin; the empty text is how all do.
    pub prefixes: Vec<String>,
}

impl Watched {
    /// Whether an event of this key, under this name, is asked for.
    pub fn has(&self, key: &TaskKey, name: Option<&Name>) -> bool {
        name.is_some_and(|name| self.has_name(name)) || self.keys.contains(key)
    }

    /// Whether a name begins with one of the prefixes.
    pub fn has_name(&self, name: &Name) -> bool {
        self.prefixes.iter().any(|prefix| name.as_str().starts_with(prefix.as_str()))
    }
}

/// Up to where a watcher has been told, for itself to keep and give back. Opaque to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    /// The store's incarnation: after a restore, versions are given anew.
    pub incarnation: u64,
    /// All of the feed up to here was told.
    pub version: Version,
    /// Whether the watcher was told of a LOST record and not yet that it healed.
    pub lost: bool,
}

/// Why a text is no cursor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no cursor; give one that a watch has printed, as it was")]
pub struct CursorError {
    /// The text, cut to its first 80 characters.
    pub text: String,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cursor { incarnation, version, lost } = self;
        write!(f, "{incarnation}-{}{}", version.0, if *lost { "-lost" } else { "" })
    }
}

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Cursor, CursorError> {
        let parse = || {
            let (rest, lost) = text.strip_suffix("-lost").map_or((text, false), |rest| (rest, true));
            let (incarnation, version) = rest.split_once('-')?;
            let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?;
            Some(Cursor { incarnation: number(incarnation)?, version: Version(number(version)?), lost })
        };
        parse().ok_or_else(|| CursorError { text: text.chars().take(80).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::execution::State;
    use crate::lease::Lease;
    use crate::transition::{KeyRow, Last, Record, Void};

    fn known(record: Option<(u8, Option<Verdict>)>, last: Option<(u8, State)>, lease: Option<u8>) -> Known {
        let (at, digest) = (Timestamp::from_millis, Digest::of(b""));
        let record = record.map(|(id, void)| Record {
            execution: ExecutionId([id; 16]),
            outputs: digest,
            closure: digest,
            committed: at(1),
            stamp: 0,
            void: void.map(|verdict| Void { verdict, reason: String::new(), at: at(3), blob: None, rule: None }),
        });
        let last = last.map(|(id, state)| Last { execution: ExecutionId([id; 16]), state, at: at(2) });
        let lease = lease.map(|id| Lease::new(ExecutionId([id; 16]), std::time::Duration::ZERO, 1));
        Known { row: KeyRow { record, last, ..KeyRow::default() }, lease }
    }

    #[test]
    fn news_is_what_a_lookup_answers_differently() {
        let whole = known(Some((1, None)), None, None);
        assert!(!is_news(&whole, &known(Some((1, None)), None, Some(2))), "a check is no news of the key");
        assert!(!is_news(&known(None, None, Some(2)), &known(None, Some((1, State::Failed)), Some(2))));
        for after in [
            known(Some((2, None)), None, None),
            known(Some((1, Some(Verdict::Lost))), None, None),
            known(Some((1, Some(Verdict::Lost))), None, Some(2)),
            known(None, None, None),
        ] {
            assert!(is_news(&whole, &after), "{after:?}");
        }
        let (failed, again) =
            (known(None, Some((1, State::Failed)), None), known(None, Some((2, State::Failed)), None));
        assert!(is_news(&failed, &again), "the same verdict of another execution");
    }

    #[test]
    fn a_lost_record_is_one_whoever_is_at_it() {
        let running = known(Some((1, Some(Verdict::Lost))), None, Some(3));
        assert_eq!(lost_record(&running), Some(ExecutionId([1; 16])));
        assert_eq!(lost_record(&known(Some((1, Some(Verdict::Evicted))), None, None)), None);
    }

    #[test]
    fn names_are_watched_as_they_are_listed() {
        let key = |text: &str| text.parse::<TaskKey>().expect("valid");
        let name = |text: &str| Name::new(text).expect("valid");
        let watched = Watched { keys: HashSet::from([key("t:1")]), prefixes: vec!["a/b".into()] };
        for (of, under, has) in [
            ("t:1", Some("z"), true),
            ("t:1", None, true),
            ("t:2", None, false),
            ("t:2", Some("a/b"), true),
            ("t:2", Some("a/b/c"), true),
            ("t:2", Some("a/bc"), true),
            ("t:2", Some("a"), false),
            ("t:2", Some("a/c"), false),
        ] {
            assert_eq!(watched.has(&key(of), under.map(name).as_ref()), has, "{of} {under:?}");
        }
        let all = Watched { prefixes: vec![String::new()], ..Watched::default() };
        assert!(all.has_name(&name("a")) && !Watched::default().has_name(&name("a")));
    }

    #[test]
    fn cursors_come_back_and_nothing_else_is_one() {
        for text in ["1-0", "3-18446744073709551615", "1-7-lost"] {
            assert_eq!(text.parse::<Cursor>().map(|cursor| cursor.to_string()), Ok(text.to_owned()));
        }
        for text in
            ["", "1", "-", "1-", "-1", "1-+2", "+1-2", "1-2-3", "1-2-Lost", "1-18446744073709551616", "\u{fc}-1"]
        {
            assert!(text.parse::<Cursor>().is_err(), "{text:?}");
        }
    }
}
