//! Writing events: each in the very batch that changes the verdict which it tells of.
//!
//! Invariant: whoever changes what lookups say of a key calls [`Store::tell`] with what is known of it before and after, tested
//! against the log of lost digests; so the feed has every verdict that there ever was, in order.

use provender_core::event::{self, Event, Noted};
use provender_core::key::TaskKey;
use provender_core::name::Space;
use provender_core::transition::{Ended, Known};
use provender_core::{Answer, Execution, Verdict};
use provender_proto::rows as values;

use crate::clock;
use crate::store::{Store, StoreError, Txn};

impl Store {
    /// Has it told that the transaction changes what is known of a key, if that is news. `of` is the execution that the verdict rests
    /// on afterwards.
    pub(in crate::store) fn tell(txn: &mut Txn, space: &Space, before: &Known, after: &Known, of: &Execution) {
        let quiet = !event::is_news(before, after);
        // A check is news after all if its record is lost at this moment: whoever knows of the loss is to look.
        if !quiet || before.lease.is_some() != after.lease.is_some() {
            note(txn, space, after, of, quiet);
        }
    }

    /// The same for an execution that begins. That a record was LOST is told as well: nobody else may have found out.
    pub(in crate::store) async fn tell_begun(
        &self,
        txn: &mut Txn,
        space: &Space,
        before: &Known,
        after: &Known,
        of: &Execution,
    ) -> Result<(), StoreError> {
        if let (Verdict::Lost, Some(id)) = (before.verdict(), before.evidence()) {
            let lost = self.execution_in(txn, space, id).await?;
            note(txn, space, before, &lost, false);
        }
        Store::tell(txn, space, before, after, of);
        Ok(())
    }

    /// The same for one that ends, by which the lease goes.
    pub(in crate::store) fn tell_ended(txn: &mut Txn, space: &Space, before: &Known, ended: &Ended) {
        let after = Known { row: ended.row.clone(), lease: None };
        Store::tell(txn, space, before, &after, &ended.execution);
    }
}

fn note(txn: &mut Txn, space: &Space, known: &Known, of: &Execution, quiet: bool) {
    let stamp = known.answer().map(|record| record.stamp).unwrap_or_default();
    let lost = event::lost_record(known).is_some();
    let noted = Noted { event: event_of(&of.key, known, Some(of)), stamp, lost, quiet };
    txn.event(space, &values::event_to(&noted));
}

/// What is told of a key, `of` the execution that its verdict rests on.
pub(super) fn event_of(key: &TaskKey, known: &Known, of: Option<&Execution>) -> Event {
    let mut answer = Answer::of(known);
    if let Some(of) = of.filter(|of| answer.rests_on() == Some(of.id)) {
        answer.explain(of);
    }
    Event {
        key: key.clone(),
        name: of.map(|execution| execution.name.clone()),
        verdict: answer.verdict,
        execution: answer.execution,
        reason: answer.reason,
        at: answer.at.unwrap_or_else(clock::now),
    }
}
