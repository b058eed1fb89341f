//! `provender.v1.Catalog/Diff`: what differs between two things.

use provender_core::Ref;
use provender_core::compare::Comparison;
use provender_proto::convert::{self, Invalid};
use provender_proto::v1;

use super::Client;
use crate::error::ClientError;

impl Client {
    /// What differs between two executions, two trees or two blobs: at most `limit` causes, and as many outputs (0: 1,000; at most
    /// 100,000). A name without a success stands for its newest attempt.
    pub async fn diff(&self, old: &Ref, new: &Ref, limit: u32) -> Result<Comparison, ClientError> {
        let request = v1::DiffRequest { space: self.space(), old: old.to_string(), new: new.to_string(), limit };
        let mut replies = self.catalog.clone().diff(request).await.map_err(self.failed())?.into_inner();
        let mut comparison: Option<Comparison> = None;
        while let Some(reply) = replies.message().await.map_err(self.failed())? {
            let comparison = match (&mut comparison, &reply.old, &reply.new) {
                (Some(comparison), ..) => comparison,
                (none, Some(old), Some(new)) => {
                    none.insert(Comparison::new(convert::side_from(old)?, convert::side_from(new)?))
                }
                _ => return Err(Invalid::new("old", "is missing").into()),
            };
            for cause in &reply.causes {
                comparison.causes.push(convert::cause_from(cause)?);
            }
            for output in &reply.outputs {
                comparison.outputs.push(convert::output_from(output)?);
            }
            for (from, into) in [(&reply.metrics, &mut comparison.metrics), (&reply.labels, &mut comparison.labels)] {
                for change in from {
                    into.push(convert::change_from(change)?);
                }
            }
            comparison.truncated_causes |= reply.truncated_causes;
            comparison.truncated_outputs |= reply.truncated_outputs;
            comparison.unrelated |= reply.unrelated;
            comparison.unread = comparison.unread.take().or(Some(reply.unread).filter(|why| !why.is_empty()));
        }
        comparison.ok_or_else(|| Invalid::new("old", "is missing").into())
    }
}
