//! Which executions go by age or number: what is configured for the names below a prefix.
//!
//! Invariant: a rule keeps; what no rule keeps goes only where there is one. It must not know what else keeps something.

use std::fmt;
use std::time::Duration;

use super::{ago, later};
use crate::time::Timestamp;

/// What is kept of the names at and below a prefix.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Keep {
    /// The name, or the first parts of names, that this is about; all names if empty.
    pub prefix: String,
    /// So many of the newest successes of each name.
    pub latest: Option<u64>,
    /// Successes that were used so lately, whichever of their name they are.
    pub used_within: Option<Duration>,
    /// What failed, was abandoned or has been replaced, if it ended so lately.
    pub failed_within: Option<Duration>,
}

/// What is configured. Of several prefixes of a name the longest counts, alone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rules {
    keep: Vec<Keep>,
}

/// By which rule something was collected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// There are enough newer successes of its name.
    Latest,
    /// It was not used for long enough.
    Unused,
    /// It was no success, or not any more, and has ended long enough ago.
    Failed,
    /// More is stored than may be; it was the least recently used.
    Quota,
    /// The disk is nearly full; it was the least recently used.
    Free,
    /// What it refers to could not be made out.
    Lost,
    /// Somebody said that it is not to be kept.
    Evicted,
}

impl Rule {
    /// Every rule.
    pub const ALL: [Rule; 7] =
        [Rule::Latest, Rule::Unused, Rule::Failed, Rule::Quota, Rule::Free, Rule::Lost, Rule::Evicted];

    /// The word that records and metrics have.
    pub fn as_str(self) -> &'static str {
        match self {
            Rule::Latest => "latest",
            Rule::Unused => "unused",
            Rule::Failed => "failed",
            Rule::Quota => "quota",
            Rule::Free => "free",
            Rule::Lost => "lost",
            Rule::Evicted => "evicted",
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What is known of an execution that rules are asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// The success that its key answers with.
    Record {
        /// When it was last used; when it was committed, at the least.
        used: Timestamp,
        /// How many newer such successes its name has.
        newer: u64,
    },
    /// Any other that has ended.
    Other {
        /// When.
        ended: Timestamp,
    },
}

/// What the rules say of an execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// It goes.
    Goes(Rule),
    /// It stays until then at the least.
    Until(Timestamp),
    /// It stays while its name has no further successes.
    Stays,
}

impl Rules {
    /// Those of a configuration.
    pub fn new(mut keep: Vec<Keep>) -> Rules {
        keep.sort_by_key(|keep| std::cmp::Reverse(keep.prefix.len()));
        Rules { keep }
    }

    /// What is configured for a name.
    pub fn of(&self, name: &str) -> Option<&Keep> {
        self.keep.iter().find(|keep| covers(&keep.prefix, name))
    }

    /// All that counts for what they say, as text: other rules have another.
    pub fn text(&self) -> String {
        format!("{:?}", self.keep)
    }

    /// Judges an execution of a name. Whatever was used within `protect` stays.
    pub fn judge(&self, name: &str, subject: Subject, protect: Duration, now: Timestamp) -> Judgement {
        let Some(keep) = self.of(name) else { return Judgement::Stays };
        let (from, within, rule) = match subject {
            Subject::Record { used, newer } => match (keep.latest, keep.used_within) {
                (None, None) => return Judgement::Stays,
                (Some(latest), _) if newer < latest => return Judgement::Stays,
                (Some(_), None) => (used, Duration::ZERO, Rule::Latest),
                (_, Some(within)) => (used, within, Rule::Unused),
            },
            Subject::Other { ended } => match keep.failed_within {
                None => return Judgement::Stays,
                Some(within) => (ended, within, Rule::Failed),
            },
        };
        let within = within.max(protect);
        match from < ago(now, within) {
            true => Judgement::Goes(rule),
            false => Judgement::Until(later(from, within)),
        }
    }
}

/// Whether a name is a prefix, or lies below it.
pub fn covers(prefix: &str, name: &str) -> bool {
    let rest = name.strip_prefix(prefix.trim_end_matches('/'));
    prefix.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
