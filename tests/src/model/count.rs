//! How often each kind of transition was taken.

use std::collections::BTreeMap;
use std::fmt;

/// Every kind that the model can take; a run that misses one has not tested it.
pub const KINDS: &[&str] = &[
    "begin sent twice at once",
    "begin: asked again",
    "begin: busy",
    "begin: busy (a check)",
    "begin: ended before",
    "begin: hit",
    "begin: lease",
    "begin: lease after a failure",
    "begin: lease for a check",
    "begin: lease over INVALIDATED",
    "begin: lease over LOST",
    "begin: takeover of an abandoned key",
    "begin: who was waited for has failed",
    "blob: changed under the store",
    "blob: deleted under the store",
    "commit sent twice at once",
    "commit: a blob is missing",
    "commit: again",
    "commit: diverges",
    "commit: ended before",
    "commit: fenced by a restore",
    "commit: finds a lost folder",
    "commit: recorded",
    "commit: recorded over INVALIDATED",
    "commit: recorded over LOST",
    "commit: superseded",
    "commit: the exit code fails it",
    "commit: the policy fails it",
    "commit: the same again",
    "daemon: all restarted",
    "executor: killed",
    "executor: paused",
    "executor: resumed",
    "fail: again",
    "fail: ended before",
    "fail: failed",
    "fail: fenced by a restore",
    "fail: superseded",
    "heartbeat: ended before",
    "heartbeat: fenced by a restore",
    "heartbeat: kept",
    "heartbeat: superseded",
    "invalidate: a holder",
    "invalidate: a record",
    "invalidate: a record and a holder",
    "invalidate: by name",
    "invalidate: downstream",
    "invalidate: nothing to do",
    "lease: expired",
    "read: finds a loss",
    "read: not held",
    "read: refused as lost",
    "read: right bytes",
    "restore",
    "upload: again",
    "upload: finds a loss and heals",
    "upload: heals",
    "upload: new",
    "upload: over a harm that nobody has seen",
];

/// Kinds that only a case can take in which it is collected; there are fewer collections than other steps.
pub const OF_COLLECTION: &[&str] = &[
    "begin: lease over EVICTED",
    "collect: a pin keeps a record",
    "collect: a pin keeps bytes",
    "collect: a use keeps a record",
    "collect: by hand",
    "collect: bytes go",
    "collect: for room",
    "collect: no success",
    "collect: not used",
    "collect: there are newer ones",
    "collect: who runs keeps bytes",
    "commit: recorded over EVICTED",
    "evict: a record",
    "evict: nothing to do",
    "execution: collected before",
    "pin: a blob is missing",
    "pin: a key",
    "pin: a name",
    "pin: a tree",
    "pin: all names",
    "pin: finds a lost folder",
    "unpin",
    "unpin: nothing to do",
];

/// Kinds that only several daemons on one store can take.
pub const OF_SEVERAL: &[&str] = &["daemon: restarted"];

/// Counts by kind; of verdicts that lookups gave, too.
#[derive(Debug, Default, Clone)]
pub struct Counts(pub BTreeMap<&'static str, u64>);

impl Counts {
    /// One more of each.
    pub fn add(&mut self, kinds: impl IntoIterator<Item = &'static str>) {
        kinds.into_iter().for_each(|kind| *self.0.entry(kind).or_default() += 1);
    }

    /// Adds another's.
    pub fn merge(&mut self, other: Counts) {
        other.0.into_iter().for_each(|(kind, count)| *self.0.entry(kind).or_default() += count);
    }

    /// The kinds of `kinds` that were taken fewer than `least` times.
    pub fn fewer<'a>(&self, kinds: impl IntoIterator<Item = &'a &'static str>, least: u64) -> Vec<(&'static str, u64)> {
        let count = |kind: &&'static str| (*kind, self.0.get(kind).copied().unwrap_or_default());
        kinds.into_iter().map(count).filter(|(_, count)| *count < least).collect()
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(kind, count)| writeln!(f, "{count:>9}  {kind}"))
    }
}
