//! `provender.v1.Catalog/Diff`: the question, and its answer in messages that are not too large.

use std::pin::Pin;

use futures::Stream;
use prost::Message;
use provender_core::Ref;
use provender_core::compare::Comparison;
use provender_proto::convert::{self, Invalid};
use provender_proto::{DEFAULT_DIFF, MAX_DIFF, MAX_PIECE, v1};
use tonic::Status;

use super::Front;
use crate::store::StoreError;

/// What is told.
pub(super) type Replies = Pin<Box<dyn Stream<Item = Result<v1::DiffReply, Status>> + Send>>;

impl Front {
    /// Compares, and tells all of it. Who goes away stops it, as the call is dropped.
    pub(super) async fn compare(&self, request: v1::DiffRequest) -> Result<Replies, StoreError> {
        let space = convert::space(&request.space)?;
        let reference = |field, text: &str| text.parse::<Ref>().map_err(|error| Invalid::new(field, error));
        let (old, new) = (reference("old", &request.old)?, reference("new", &request.new)?);
        let limit = match request.limit as usize {
            0 => DEFAULT_DIFF,
            limit => limit.min(MAX_DIFF),
        };
        let comparison = self.store.diff(&space, &old, &new, limit).await?;
        Ok(Box::pin(futures::stream::iter(replies(&comparison).into_iter().map(Ok))))
    }
}

fn replies(comparison: &Comparison) -> Vec<v1::DiffReply> {
    let mut replies = Vec::new();
    let mut reply = v1::DiffReply {
        old: Some(convert::side_to(&comparison.old)),
        new: Some(convert::side_to(&comparison.new)),
        truncated_causes: comparison.truncated_causes,
        truncated_outputs: comparison.truncated_outputs,
        unread: comparison.unread.clone().unwrap_or_default(),
        unrelated: comparison.unrelated,
        ..v1::DiffReply::default()
    };
    let mut size = reply.encoded_len();
    let mut add = |piece: v1::DiffReply| {
        size += piece.encoded_len();
        reply.causes.extend(piece.causes);
        reply.metrics.extend(piece.metrics);
        reply.labels.extend(piece.labels);
        reply.outputs.extend(piece.outputs);
        if size >= MAX_PIECE {
            size = 0;
            replies.push(std::mem::take(&mut reply));
        }
    };
    let piece = v1::DiffReply::default;
    for cause in &comparison.causes {
        add(v1::DiffReply { causes: vec![convert::cause_to(cause)], ..piece() });
    }
    for metric in &comparison.metrics {
        add(v1::DiffReply { metrics: vec![convert::change_to(metric)], ..piece() });
    }
    for label in &comparison.labels {
        add(v1::DiffReply { labels: vec![convert::change_to(label)], ..piece() });
    }
    for output in &comparison.outputs {
        add(v1::DiffReply { outputs: vec![convert::output_to(output)], ..piece() });
    }
    replies.push(reply);
    replies
}
