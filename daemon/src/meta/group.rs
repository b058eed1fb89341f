//! Group commit: those who commit at the same time share one durable write.
//!
//! Owns the queue of waiting batches and how its answers are given. Invariant: a batch that was queued is decided even if its
//! caller has gone, and nobody waits for a caller. It must not know how an engine reads or writes.

use provender_core::batch::{Batch, BatchId, Fate, Refusal, Version};
use tokio::sync::{mpsc, oneshot};

use super::{CommitError, MetaError};

/// The most batches of a group.
const MAX_BATCHES: usize = 1024;
/// A group ends with the batch that reaches this many bytes.
const MAX_BYTES: usize = 8 << 20;

/// The callers' end.
#[derive(Debug)]
pub(super) struct Queue(mpsc::Sender<Waiting>);

/// The writer's end.
#[derive(Debug)]
pub(super) struct Groups(mpsc::Receiver<Waiting>);

type Answer = oneshot::Sender<Result<Version, CommitError>>;

#[derive(Debug)]
struct Waiting {
    batch: Batch,
    answer: Answer,
}

/// Batches to be applied together, and those who wait for them.
#[derive(Debug)]
pub(super) struct Joined {
    pub(super) batches: Vec<Batch>,
    answers: Vec<Answer>,
}

/// Why a group was not applied.
#[derive(Debug, Clone)]
pub(super) enum Failure {
    /// It did not happen.
    NotCommitted(MetaError),
    /// It might have happened.
    Unknown(MetaError),
}

impl From<Failure> for MetaError {
    fn from(failure: Failure) -> MetaError {
        match failure {
            Failure::NotCommitted(error) | Failure::Unknown(error) => error,
        }
    }
}

/// What the rule said to each batch of a group, and whether those that it admitted were then applied.
pub(super) struct Outcome {
    pub(super) verdicts: Vec<Result<Version, Refusal>>,
    pub(super) applied: Result<(), Failure>,
}

/// A queue and its writer's end. The writer goes on until the queue is dropped.
pub(super) fn queue() -> (Queue, Groups) {
    let (sender, receiver) = mpsc::channel(MAX_BATCHES);
    (Queue(sender), Groups(receiver))
}

impl Queue {
    pub(super) async fn commit(&self, batch: Batch) -> Result<Version, CommitError> {
        let id = batch.id;
        let (answer, answered) = oneshot::channel();
        if self.0.send(Waiting { batch, answer }).await.is_err() {
            return Err(CommitError::NotCommitted { source: MetaError::Closed });
        }
        answered.await.unwrap_or(Err(CommitError::Unknown { id, source: MetaError::Closed }))
    }
}

impl Groups {
    /// Everybody who waits, once somebody does.
    pub(super) async fn next(&mut self) -> Option<Joined> {
        let first = self.0.recv().await?;
        Some(self.join(first))
    }

    /// [`Groups::next`] for a thread of its own.
    pub(super) fn next_blocking(&mut self) -> Option<Joined> {
        let first = self.0.blocking_recv()?;
        Some(self.join(first))
    }

    fn join(&mut self, first: Waiting) -> Joined {
        let mut joined = Joined { batches: Vec::new(), answers: Vec::new() };
        let (mut bytes, mut next) = (0, Some(first));
        while let Some(Waiting { batch, answer }) = next {
            bytes += batch.size();
            joined.batches.push(batch);
            joined.answers.push(answer);
            let full = joined.batches.len() >= MAX_BATCHES || bytes >= MAX_BYTES;
            next = if full { None } else { self.0.try_recv().ok() };
        }
        joined
    }
}

impl Joined {
    /// Tells everybody what became of their batch; a failure before the rule could be asked is everybody's.
    pub(super) fn answer(self, outcome: Result<Outcome, Failure>) {
        let (verdicts, applied) = match outcome {
            Ok(Outcome { verdicts, applied }) => (verdicts, applied),
            Err(failure) => (vec![Ok(Version(0)); self.batches.len()], Err(failure)),
        };
        for ((batch, answer), verdict) in self.batches.into_iter().zip(self.answers).zip(verdicts) {
            let id = batch.id;
            let result = match (verdict, &applied) {
                (Ok(version), Ok(())) => Ok(version),
                (Ok(_), Err(Failure::NotCommitted(source))) => {
                    Err(CommitError::NotCommitted { source: source.clone() })
                }
                (Ok(_), Err(Failure::Unknown(source))) => Err(CommitError::Unknown { id, source: source.clone() }),
                (Err(refusal), _) => refused(id, refusal),
            };
            // A caller that has gone does not want to know.
            let _ = answer.send(result);
        }
    }
}

/// What the caller of a batch that the rule refused is told: one that was committed before is no error.
pub(super) fn refused(id: BatchId, refusal: Refusal) -> Result<Version, CommitError> {
    match refusal {
        Refusal::Decided(Fate::Committed(version)) => Ok(version),
        Refusal::Decided(Fate::Aborted) => Err(CommitError::Aborted { id }),
        Refusal::Conflict(key) => Err(CommitError::Conflict { key }),
        Refusal::Forgotten => Err(CommitError::NotCommitted { source: MetaError::Forgotten { id } }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_caller_that_goes_away_leaves_the_others_and_its_batch_in_place() {
        let (queue, mut groups) = queue();
        let commit = |n| queue.commit(Batch::new(BatchId([n; 16])));
        let (mut gone, mut stays) = (Box::pin(commit(1)), Box::pin(commit(2)));
        assert!(futures::poll!(&mut gone).is_pending() && futures::poll!(&mut stays).is_pending());
        drop(gone);
        let joined = groups.next().await.unwrap();
        assert_eq!(joined.batches.iter().map(|batch| batch.id.0[0]).collect::<Vec<_>>(), [1, 2]);
        joined.answer(Ok(Outcome { verdicts: vec![Ok(Version(1)), Ok(Version(2))], applied: Ok(()) }));
        assert_eq!(stays.await.unwrap(), Version(2));
    }

    #[tokio::test]
    async fn a_failure_does_not_touch_what_was_decided_before() {
        let (queue, mut groups) = queue();
        let commit = |n| queue.commit(Batch::new(BatchId([n; 16])));
        let writer = async {
            let verdicts = vec![Err(Refusal::Decided(Fate::Committed(Version(7)))), Ok(Version(9))];
            let failure = Failure::Unknown(MetaError::Closed);
            groups.next().await.unwrap().answer(Ok(Outcome { verdicts, applied: Err(failure) }));
            drop(groups);
        };
        let (before, unknown, ()) = futures::future::join3(commit(1), commit(2), writer).await;
        assert_eq!(before.unwrap(), Version(7));
        assert!(matches!(unknown, Err(CommitError::Unknown { id: BatchId(id), .. }) if id == [2; 16]));
        assert!(matches!(commit(3).await, Err(CommitError::NotCommitted { source: MetaError::Closed })));
    }
}
