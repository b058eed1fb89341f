//! `provender.v1.Tasks/Invalidate`: the question, and the parts of its answer.

use std::pin::Pin;

use futures::Stream;
use prost::Message;
use provender_core::search::Query;
use provender_core::transition::Cause;
use provender_proto::convert::{self, Invalid};
use provender_proto::v1::invalidate_reply::Entry;
use provender_proto::{MAX_KEYS, MAX_LINEAGE, MAX_NAMES, MAX_PIECE, v1};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::Front;
use super::status::status;
use crate::store::{Invalidate, Invalidation, StoreError, Voided};

/// The longest reason that is kept, in bytes: lookups of many keys answer with it.
const MAX_REASON: usize = 256;

type Reply = Result<v1::InvalidateReply, Status>;
/// What is told while it goes on.
pub(super) type Replies = Pin<Box<dyn Stream<Item = Reply> + Send>>;

impl Front {
    /// Begins, and has it go on as long as somebody reads.
    pub(super) fn begin_invalidation(&self, request: v1::InvalidateRequest) -> Result<Replies, StoreError> {
        let space = convert::space(&request.space)?;
        let asked = asked(request)?;
        let by = &asked.cause.by;
        let (keys, names, downstream, dry_run) = (asked.keys.len(), asked.names.len(), asked.downstream, asked.dry_run);
        let evict = asked.cause.rule.is_some();
        tracing::info!(keys, names, downstream, dry_run, evict, user = by.user, host = by.host, "invalidating");
        let invalidation = self.store.invalidate(&space, asked, MAX_LINEAGE);
        let (replies, stream) = mpsc::channel(2);
        tokio::spawn(async move {
            tokio::select! {
                () = replies.closed() => {}
                () = carry_out(invalidation, &replies) => {}
            }
        });
        Ok(Box::pin(ReceiverStream::new(stream)))
    }
}

fn asked(request: v1::InvalidateRequest) -> Result<Invalidate, Invalid> {
    for (field, asked, most) in [("keys", request.keys.len(), MAX_KEYS), ("names", request.names.len(), MAX_NAMES)] {
        if asked > most {
            return Err(Invalid::new(field, format!("{asked} are more than {most} in one call")));
        }
    }
    let by = convert::executor_from(request.by.as_ref());
    let query = match request.r#where.is_empty() {
        true => None,
        false => Some(Query::parse(&request.r#where).map_err(|error| Invalid::new("where", error))?),
    };
    Ok(Invalidate {
        keys: request.keys.iter().map(|key| convert::key(key)).collect::<Result<_, _>>()?,
        names: request.names.iter().map(|name| convert::name(name)).collect::<Result<_, _>>()?,
        query,
        downstream: request.downstream,
        dry_run: request.dry_run,
        cause: Cause {
            by,
            text: convert::cut(request.reason, MAX_REASON),
            rule: request.evict.then(|| "by hand".to_owned()),
        },
    })
}

/// Carries it out, and tells of it in messages that are not too large.
async fn carry_out(mut invalidation: Invalidation, replies: &mpsc::Sender<Reply>) {
    loop {
        let part = match invalidation.next().await {
            Ok(Some(part)) => part,
            Ok(None) => return,
            Err(error) => {
                _ = replies.send(Err(status(&error))).await;
                return;
            }
        };
        let (mut reply, mut size) = (v1::InvalidateReply::default(), 0);
        for entry in part.entries.iter().map(entry_to) {
            size += entry.encoded_len();
            reply.entries.push(entry);
            if size >= MAX_PIECE {
                size = 0;
                // An error means that who asked has gone, which ends this elsewhere.
                _ = replies.send(Ok(std::mem::take(&mut reply))).await;
            }
        }
        reply.truncated = part.truncated;
        _ = replies.send(Ok(reply)).await;
    }
}

fn entry_to(voided: &Voided) -> Entry {
    let id = |id: Option<_>| id.map(convert::id_to).unwrap_or_default();
    Entry {
        key: voided.key.as_ref().map(ToString::to_string).unwrap_or_default(),
        name: voided.name.as_ref().map(ToString::to_string).unwrap_or_default(),
        record: id(voided.record),
        withdrawn: id(voided.withdrawn),
        verdict: convert::verdict_to(voided.verdict).into(),
        reason: voided.reason.clone(),
        downstream: voided.downstream,
    }
}
