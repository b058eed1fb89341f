//! `PlanGc` and `RunGc`: collecting, and telling of it.
//!
//! The store tells of what goes while it is at it, so the whole runs on a thread of its own, which may wait for a reader. Invariants: a plan
//! ends when its reader goes; a run goes on to its end whoever reads, and waits for them for [`PATIENCE`] in all, after which they miss some of
//! the list but not the sums; what is told and not read yet is a few pieces.

use std::time::Duration;

use prost::Message;
use provender_proto::{MAX_PIECE, convert, v1};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::super::pieces::Pieces;
use super::super::status::status;
use crate::store::{Collected, Going, Store, StoreError};

/// How long a slow reader holds collection up, in all.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked whether a slow one has read.
const LOOK: Duration = Duration::from_millis(5);
/// How many executions are told of at once.
const TOGETHER: usize = 500;

type Reply = Result<v1::GcReply, Status>;

/// Begins, and tells of it.
pub(super) fn gc(store: &Store, draining: &CancellationToken, dry_run: bool) -> Pieces<v1::GcReply> {
    let (replies, stream) = mpsc::channel(4);
    let (store, draining) = (store.clone(), draining.clone());
    tokio::spawn(async move {
        let (telling, runtime) = (Telling::new(replies.clone(), draining.clone()), Handle::current());
        let carried_out = move || runtime.block_on(carry_out(&store, telling, dry_run));
        let last = match tokio::task::spawn_blocking(carried_out).await {
            Ok(Some(last)) => last,
            Ok(None) => return,
            Err(error) => Err(Status::internal(format!("collecting was cut off: {error}"))),
        };
        // Nothing waits for this reader any more but this.
        tokio::select! {
            () = draining.cancelled() => { _ = replies.try_send(last.clone()) }
            _ = replies.send(last.clone()) => {}
        }
    });
    Box::pin(ReceiverStream::new(stream))
}

/// Carries it out; the last reply, if somebody may still read it.
async fn carry_out(store: &Store, mut telling: Telling, dry_run: bool) -> Option<Reply> {
    let (replies, draining) = (telling.replies.clone(), telling.draining.clone());
    let gone = async {
        match dry_run {
            true => replies.closed().await,
            false => std::future::pending().await,
        }
    };
    let ended = {
        let mut tell = |going: &Going| telling.add(going_to(going));
        tokio::select! {
            () = gone => return None,
            () = draining.cancelled() => Err(StoreError::Draining),
            ended = store.collect(dry_run, &mut tell) => ended,
        }
    };
    Some(match ended {
        Ok(done) => Ok(v1::GcReply { summary: Some(summary_to(&done)), ..telling.piece }),
        Err(error) => Err(status(&error)),
    })
}

/// What is to be told, and for how long it may still be waited for a reader.
struct Telling {
    replies: mpsc::Sender<Reply>,
    draining: CancellationToken,
    piece: v1::GcReply,
    size: usize,
    left: Duration,
}

impl Telling {
    fn new(replies: mpsc::Sender<Reply>, draining: CancellationToken) -> Telling {
        Telling { replies, draining, piece: v1::GcReply::default(), size: 0, left: PATIENCE }
    }

    fn add(&mut self, going: v1::Going) {
        self.size += going.encoded_len();
        self.piece.going.push(going);
        if self.piece.going.len() >= TOGETHER || self.size >= MAX_PIECE {
            self.size = 0;
            let piece = std::mem::take(&mut self.piece);
            self.send(piece);
        }
    }

    /// Sends, or drops what nobody reads in time. It blocks its thread.
    fn send(&mut self, piece: v1::GcReply) {
        let mut reply = Ok(piece);
        while let Err(TrySendError::Full(unsent)) = self.replies.try_send(reply) {
            if self.left.is_zero() || self.draining.is_cancelled() {
                tracing::warn!("who asked for a collection does not read what it does, and misses some of it");
                return;
            }
            reply = unsent;
            std::thread::sleep(LOOK);
            self.left = self.left.saturating_sub(LOOK);
        }
    }
}

fn going_to(going: &Going) -> v1::Going {
    v1::Going {
        space: going.space.as_str().to_owned(),
        execution: convert::id_to(going.execution),
        key: going.key.to_string(),
        name: going.name.to_string(),
        record: going.is_record,
        used_ms: going.used.millis(),
        rule: going.rule.as_str().to_owned(),
        reason: going.reason.clone(),
        frees: going.frees,
    }
}

fn summary_to(done: &Collected) -> v1::GcSummary {
    let Collected { counted: _, executions, records, frees, spared, blobs, bytes, used, quota, kept, rows } = *done;
    let quota = quota.unwrap_or_default();
    v1::GcSummary { executions, records, frees, spared, blobs, bytes, used, quota, kept, rows }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn telling(left: Duration) -> (Telling, mpsc::Receiver<Reply>) {
        let (replies, read) = mpsc::channel(4);
        (Telling { left, ..Telling::new(replies, CancellationToken::new()) }, read)
    }

    #[test]
    fn who_does_not_read_holds_nothing_up_for_ever_and_takes_no_memory() {
        let (mut telling, mut read) = telling(LOOK * 4);
        (0..20 * TOGETHER).for_each(|_| telling.add(v1::Going::default()));
        assert_eq!((telling.left, telling.piece.going.len()), (Duration::ZERO, 0));
        let sizes: Vec<_> = std::iter::from_fn(|| read.try_recv().ok()?.ok()).map(|piece| piece.going.len()).collect();
        assert_eq!(sizes, [TOGETHER; 4]);
    }

    #[test]
    fn who_reads_slowly_misses_nothing_and_who_has_gone_is_not_waited_for() {
        let (mut slow, mut read) = telling(PATIENCE);
        let reading = std::thread::spawn(move || {
            let mut told = 0;
            while told < 10 {
                std::thread::sleep(LOOK);
                told += read.blocking_recv().map_or(0, |piece| piece.map_or(0, |piece| piece.going.len()));
            }
            told
        });
        // Each is a piece by its size.
        let large = || v1::Going { reason: "x".repeat(MAX_PIECE), ..v1::Going::default() };
        (0..10).for_each(|_| slow.add(large()));
        assert_eq!(reading.join().ok(), Some(10));
        let (mut gone, read) = telling(PATIENCE);
        drop(read);
        (0..20).for_each(|_| gone.add(large()));
        assert_eq!(gone.left, PATIENCE);
    }
}
