//! The index: the rows by which executions are found, written as they begin, end and are labelled.
//!
//! Invariants: what an execution is found by at its end, but for what it measured, is a constant number of rows; of an execution that
//! begins, labels and ends in the batches that hold, no row of what is, is missing, and none of an old label or verdict is left. Rows that are many
//! come before the batch that they are of, so that some can be left of one that never held; whoever searches looks at the execution
//! itself. What is found is the business of [`super::search`].

use bytes::Bytes;
use provender_core::execution::{Outcome, State};
use provender_core::name::Space;
use provender_core::search::Place;
use provender_core::search::facts::{self, Term};
use provender_core::{Execution, RowKey, Spec, rows};

use super::history::Beginning;
use super::{Store, StoreError, Txn};

/// How many rows are written at once where there are many.
const PIECE: usize = 1_000;
/// A begin with more rows than this has them written before its batch.
const AT_ONCE: usize = 200;

fn row_of<'a>(space: &'a Space, execution: &Execution) -> impl Fn(&Term) -> RowKey + 'a {
    let place = Place::new(execution.began, execution.id);
    move |(field, term)| rows::posting(space, field, term, place)
}

/// All rows by which an execution is found, as it is now.
pub(crate) fn postings(space: &Space, execution: &Execution, spec: &Spec) -> Vec<RowKey> {
    let terms = [
        facts::begin_terms(execution, spec),
        facts::result_terms(execution),
        facts::label_terms(execution),
        facts::metric_terms(&execution.outcome.metrics),
    ];
    let all = rows::posting_of_all(space, Place::new(execution.began, execution.id));
    terms.iter().flatten().map(row_of(space, execution)).chain([all]).collect()
}

impl Store {
    /// Who begins what. Rows that come before the batch stand at the time that it will have begun, which `ahead` keeps from then on.
    pub(super) async fn index_begin(&self, txn: &mut Txn, beginning: &Beginning<'_>) -> Result<(), StoreError> {
        let Beginning { space, execution, spec, ahead } = *beginning;
        let row = row_of(space, execution);
        let begin: Vec<_> = facts::begin_terms(execution, spec).iter().map(&row).collect();
        if begin.len() <= AT_ONCE {
            begin.into_iter().for_each(|row| txn.put(row, Bytes::new()));
        } else if ahead.get().is_none() {
            self.write_rows(&begin).await?;
            _ = ahead.set(execution.began);
        }
        for term in facts::result_terms(execution).iter().chain(&facts::label_terms(execution)) {
            txn.put(row(term), Bytes::new());
        }
        txn.put(rows::posting_of_all(space, Place::new(execution.began, execution.id)), Bytes::new());
        Ok(())
    }

    /// What came of it. It runs no more.
    pub(super) fn index_end(txn: &mut Txn, space: &Space, ended: &Execution) {
        let row = row_of(space, ended);
        let running = Execution { state: State::Running, ended: None, ..ended.clone() };
        facts::result_terms(&running).iter().for_each(|term| txn.delete(row(term)));
        facts::result_terms(ended).iter().for_each(|term| txn.put(row(term), Bytes::new()));
    }

    /// Its labels, as far as they changed.
    pub(super) fn index_labels(txn: &mut Txn, space: &Space, before: &Execution, after: &Execution) {
        let row = row_of(space, after);
        let (old, new) = (facts::label_terms(before), facts::label_terms(after));
        old.difference(&new).for_each(|term| txn.delete(row(term)));
        new.difference(&old).for_each(|term| txn.put(row(term), Bytes::new()));
    }

    /// The rows of what an execution says that it measured, to be written before its end.
    pub(super) fn metric_rows(space: &Space, execution: &Execution, outcome: &Outcome) -> Vec<RowKey> {
        facts::metric_terms(&outcome.metrics).iter().map(row_of(space, execution)).collect()
    }

    /// Writes rows without values, in pieces.
    pub(super) async fn write_rows(&self, rows: &[RowKey]) -> Result<(), StoreError> {
        for piece in rows.chunks(PIECE) {
            self.transact(|mut txn| {
                piece.iter().for_each(|row| txn.put(row.clone(), Bytes::new()));
                async move { Ok((txn, ())) }
            })
            .await?;
        }
        Ok(())
    }
}
