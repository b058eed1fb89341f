//! Losses: bytes that were found missing or damaged, and what that makes of the records that refer to them.
//!
//! Owns [`Loss`], an entry of the log of lost digests, [`Losses`], a part of that log by digest, and what a lookup says of a
//! record that refers to one. Invariant: a digest stands in the log from when it is found lost until bytes are stored for it
//! anew, so a record is whole if no entry after its stamp is in its closure. It must not know how a loss is noticed.

use std::collections::BTreeMap;
use std::fmt;

use crate::digest::Digest;
use crate::execution::{State, Verdict};
use crate::time::Timestamp;
use crate::transition::{Known, Record, Void};

/// The bytes of one digest in a closure.
const ENTRY: usize = 40;
/// How many lost blobs of one record are told apart.
const KEPT: usize = 1_000;
/// How many lost blobs a reason names.
const NAMED: usize = 3;

/// What is wrong with the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// They are not there.
    Missing,
    /// Others are there.
    Corrupt,
}

/// A digest whose bytes the store cannot serve any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// Whose bytes.
    pub digest: Digest,
    /// When it was found, by the clock of the daemon that did.
    pub found: Timestamp,
    /// What is wrong with them.
    pub damage: Damage,
    /// What was seen, for people.
    pub why: String,
}

impl fmt::Display for Loss {
    /// A clause for people: which blob, when, and what was seen.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let damage = match self.damage {
            Damage::Missing => "missing",
            Damage::Corrupt => "damaged",
        };
        let Loss { digest, found, why, .. } = self;
        write!(f, "blob:{} ({} bytes) was found {damage} at {found}: {why}", digest.hex(), digest.size)
    }
}

/// A part of the log, by digest. A digest stands in the log once.
#[derive(Debug, Clone, Default)]
pub struct Losses(BTreeMap<Digest, (u64, Loss)>);

/// Those losses that one record refers to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hits {
    /// The position of the first of them.
    first: Option<u64>,
    /// All of them, up to [`KEPT`].
    digests: Vec<Digest>,
    count: usize,
    /// Some of them.
    named: Vec<Loss>,
}

impl Losses {
    /// Takes in entries with their positions.
    pub fn new(entries: impl IntoIterator<Item = (u64, Loss)>) -> Losses {
        Losses(entries.into_iter().map(|(position, loss)| (loss.digest, (position, loss))).collect())
    }

    /// Adds to `hits` the one of this digest, if there is one.
    pub fn look_up(&self, digest: &Digest, hits: &mut Hits) {
        let Some((position, loss)) = self.0.get(digest) else { return };
        hits.first = Some(hits.first.map_or(*position, |first| first.min(*position)));
        hits.count += 1;
        if hits.digests.len() < KEPT {
            hits.digests.push(*digest);
        }
        if hits.named.len() < NAMED {
            hits.named.push(loss.clone());
        }
    }

    /// Adds those whose digests stand in a piece of a closure, and returns the rest of it that is no whole entry.
    pub fn look_through<'a>(&self, piece: &'a [u8], hits: &mut Hits) -> &'a [u8] {
        let (entries, rest) = piece.as_chunks::<ENTRY>();
        for digest in entries.iter().filter_map(|entry| Digest::from_bytes(entry)) {
            self.look_up(&digest, hits);
        }
        rest
    }
}

impl Hits {
    /// Which they are.
    pub fn digests(&self) -> &[Digest] {
        &self.digests
    }

    /// What the record that refers to them is, and up to where of the log it would be whole; `None` without any.
    pub fn void(&self) -> Option<(Void, u64)> {
        let (first, first_loss) = (self.first?, self.named.first()?);
        let mut reason = self.named.iter().map(Loss::to_string).collect::<Vec<_>>().join("; ");
        if self.count > self.named.len() {
            reason.push_str(&format!("; and {} more blobs", self.count - self.named.len()));
        }
        let (at, blob) = (first_loss.found, Some(first_loss.digest));
        Some((Void { verdict: Verdict::Lost, reason, at, blob, rule: None }, first.saturating_sub(1)))
    }
}

/// Whether the log, which has grown to `head`, has entries that a record was not tested against.
pub fn is_stale(record: &Record, head: u64) -> bool {
    record.void.is_none() && record.stamp < head
}

/// What is known of a key whose record refers to what is lost. It is never stored, so that healing undoes it.
pub fn voided(mut known: Known, void: Void) -> Known {
    // The success is forgotten as by every other void. An attempt that failed came after the record, as a commit overwrites what
    // was before, so it is the newer news.
    known.row.last = known.row.last.filter(|last| last.state != State::Succeeded);
    if let Some(record) = &mut known.row.record {
        record.void = Some(void);
    }
    known
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::execution::ExecutionId;
    use crate::transition::{KeyRow, Last};
    use proptest::prelude::*;

    fn loss(n: u8) -> Loss {
        let found = Timestamp::from_millis(u64::from(n));
        Loss { digest: Digest::of(&[n]), found, damage: Damage::Missing, why: "its file is missing".into() }
    }

    proptest! {
        /// However a closure comes in pieces, exactly the lost digests in it are found, and the first position.
        #[test]
        fn what_a_closure_holds_is_found(
            closure in prop::collection::btree_set(any::<u8>(), 0..40),
            lost in prop::collection::btree_set(any::<u8>(), 0..40),
            step in 1..100usize,
        ) {
            let digests: std::collections::BTreeSet<_> = closure.iter().map(|n| Digest::of(&[*n])).collect();
            let bytes: Vec<u8> = digests.iter().flat_map(|digest| digest.to_bytes()).collect();
            let losses = Losses::new(lost.iter().map(|n| (u64::from(*n) + 1, loss(*n))));
            let (mut hits, mut rest) = (Hits::default(), Vec::new());
            for piece in bytes.chunks(step) {
                rest.extend_from_slice(piece);
                rest = losses.look_through(&rest, &mut hits).to_vec();
            }
            let both: Vec<_> = closure.intersection(&lost).collect();
            prop_assert!(rest.is_empty());
            prop_assert_eq!(hits.count, both.len());
            let whole_to = both.first().map(|n| u64::from(**n));
            prop_assert_eq!(hits.void().map(|(_, whole_to)| whole_to), whole_to);
        }
    }

    #[test]
    fn a_reason_names_some_blobs_and_counts_the_others() {
        let losses = Losses::new((1..=5).map(|n| (u64::from(n), loss(n))));
        let mut hits = Hits::default();
        losses.look_up(&Digest::of(&[1]), &mut hits);
        let reason = hits.void().map(|(void, _)| void.reason).unwrap_or_default();
        let hex = Digest::of(&[1]).hex();
        let at = "1970-01-01T00:00:00.001Z";
        assert_eq!(reason, format!("blob:{hex} (1 bytes) was found missing at {at}: its file is missing"));
        (2..=5).for_each(|n| losses.look_up(&Digest::of(&[n]), &mut hits));
        assert!(hits.void().is_some_and(|(void, _)| void.reason.ends_with("; and 2 more blobs")));
    }

    #[test]
    fn a_failure_since_the_record_is_the_newer_news() {
        let id = ExecutionId([1; 16]);
        let (outputs, closure) = (Digest::of(b"o"), Digest::of(b"c"));
        let committed = Timestamp::from_millis(5);
        let record = Record { execution: id, outputs, closure, committed, stamp: 0, void: None };
        let void =
            Void { verdict: Verdict::Lost, reason: "r".into(), at: Timestamp::from_millis(10), blob: None, rule: None };
        for (state, verdict) in [
            (State::Succeeded, Verdict::Lost),
            (State::Failed, Verdict::Failed),
            (State::Abandoned, Verdict::Abandoned),
        ] {
            let last = Some(Last { execution: id, state, at: committed });
            let row = KeyRow { record: Some(record.clone()), last, ..KeyRow::default() };
            let known = voided(Known { row, lease: None }, void.clone());
            assert_eq!(known.verdict(), verdict, "{state:?}");
            assert!(known.answer().is_none());
        }
        assert!(is_stale(&record, 1) && !is_stale(&record, 0));
        assert!(!is_stale(&Record { void: Some(void), ..record }, 1), "what is void already is not tested");
    }
}
