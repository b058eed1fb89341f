//! `provender.v1.Tasks/Invalidate`: the question, and the parts of its answer.

use provender_core::search::Query;
use provender_core::transition::Cause;
use provender_proto::convert::{self, Invalid};
use provender_proto::{MAX_KEYS, MAX_LINEAGE, MAX_NAMES, v1};

use super::Front;
use super::pieces::{Outbox, Pieces, pieces};
use crate::store::{Invalidate, Invalidation, StoreError};

/// The longest reason that is kept, in bytes: lookups of many keys answer with it.
const MAX_REASON: usize = 256;

impl Front {
    /// Begins, and has it go on as long as somebody reads.
    pub(super) fn begin_invalidation(
        &self,
        request: v1::InvalidateRequest,
    ) -> Result<Pieces<v1::InvalidateReply>, StoreError> {
        let space = convert::space(&request.space)?;
        let asked = asked(request)?;
        let by = &asked.cause.by;
        let (keys, names, downstream, dry_run) = (asked.keys.len(), asked.names.len(), asked.downstream, asked.dry_run);
        let evict = asked.cause.rule.is_some();
        tracing::info!(keys, names, downstream, dry_run, evict, user = by.user, host = by.host, "invalidating");
        let invalidation = self.store.invalidate(&space, asked, MAX_LINEAGE);
        Ok(pieces(move |out| carry_out(invalidation, out)))
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
        keys: request.keys.iter().map(convert::key).collect::<Result<_, _>>()?,
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

/// Carries it out, and tells of it.
async fn carry_out(mut invalidation: Invalidation, mut out: Outbox<v1::InvalidateReply>) -> Result<(), StoreError> {
    while let Some(part) = invalidation.next().await? {
        for entry in &part.entries {
            out.add(convert::voided_to(entry), |reply, entry| reply.entries.push(entry)).await;
        }
        out.reply().truncated = part.truncated;
        out.send().await;
    }
    Ok(())
}
