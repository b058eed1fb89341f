//! `provender.v1.Catalog/Diff`: the question, and its answer in messages that are not too large.

use provender_core::Ref;
use provender_core::compare::Comparison;
use provender_proto::convert::{self, Invalid};
use provender_proto::{DEFAULT_DIFF, MAX_DIFF, v1};

use super::Front;
use super::pieces::{Outbox, Pieces, pieces};
use crate::store::StoreError;

impl Front {
    /// Compares, and tells all of it. Who goes away stops it, as the call is dropped.
    pub(super) async fn compare(&self, request: v1::DiffRequest) -> Result<Pieces<v1::DiffReply>, StoreError> {
        let space = convert::space(&request.space)?;
        let reference = |field, text: &str| text.parse::<Ref>().map_err(|error| Invalid::new(field, error));
        let (old, new) = (reference("old", &request.old)?, reference("new", &request.new)?);
        let limit = match request.limit as usize {
            0 => DEFAULT_DIFF,
            limit => limit.min(MAX_DIFF),
        };
        let comparison = self.store.diff(&space, &old, &new, limit).await?;
        Ok(pieces(move |out| told(comparison, out)))
    }
}

async fn told(comparison: Comparison, mut out: Outbox<v1::DiffReply>) -> Result<(), StoreError> {
    *out.reply() = v1::DiffReply {
        old: Some(convert::side_to(&comparison.old)),
        new: Some(convert::side_to(&comparison.new)),
        truncated_causes: comparison.truncated_causes,
        truncated_outputs: comparison.truncated_outputs,
        unread: comparison.unread.clone().unwrap_or_default(),
        unrelated: comparison.unrelated,
        ..v1::DiffReply::default()
    };
    for cause in &comparison.causes {
        out.add(convert::cause_to(cause), |reply, cause| reply.causes.push(cause)).await;
    }
    for metric in &comparison.metrics {
        out.add(convert::change_to(metric), |reply, metric| reply.metrics.push(metric)).await;
    }
    for label in &comparison.labels {
        out.add(convert::change_to(label), |reply, label| reply.labels.push(label)).await;
    }
    for output in &comparison.outputs {
        out.add(convert::output_to(output), |reply, output| reply.outputs.push(output)).await;
    }
    out.send().await;
    Ok(())
}
