//! `provender.v1.Tasks/Invalidate`: what is not to be relied on any more.

use provender_core::execution::Executor;
use provender_core::key::TaskKey;
use provender_core::name::Name;
use provender_core::transition::invalidate::Voided;
use provender_proto::{convert, v1};

use super::Client;
use crate::error::ClientError;

/// What to invalidate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Invalidate {
    /// These keys; at most 10,000.
    pub keys: Vec<TaskKey>,
    /// The keys whose records stand under these names, and those that are being run under them; at most 1,000 names.
    pub names: Vec<Name>,
    /// The keys whose records were made by executions of which all of these conditions hold, and those that are being run by such; at most 32
    /// (see [`Condition`](provender_core::search::Condition)).
    pub conditions: Vec<String>,
    /// And all that was made from what those made.
    pub downstream: bool,
    /// Make the records EVICTED, as collected by hand, instead of INVALIDATED, and leave who is at their keys alone.
    pub evict: bool,
    /// Say what would be invalidated, and change nothing.
    pub dry_run: bool,
    /// Why, for people; cut to 256 bytes.
    pub reason: String,
    /// Who asks.
    pub by: Executor,
}

impl Client {
    /// Invalidates, and tells of each key as it is done; whether there was more than the daemon walks to. It may be asked again after
    /// an error.
    pub async fn invalidate<E: From<ClientError>>(
        &self,
        what: Invalidate,
        mut tell: impl FnMut(Voided) -> Result<(), E>,
    ) -> Result<bool, E> {
        let request = v1::InvalidateRequest {
            space: self.space(),
            keys: what.keys.iter().map(TaskKey::to_string).collect(),
            names: what.names.iter().map(Name::to_string).collect(),
            downstream: what.downstream,
            dry_run: what.dry_run,
            reason: what.reason,
            by: Some(convert::executor_to(&what.by)),
            evict: what.evict,
            r#where: what.conditions,
        };
        let mut replies = self.tasks.clone().invalidate(request).await.map_err(self.failed())?.into_inner();
        let mut truncated = false;
        while let Some(reply) = replies.message().await.map_err(self.failed())? {
            for entry in &reply.entries {
                tell(convert::voided_from(entry).map_err(ClientError::from)?)?;
            }
            truncated |= reply.truncated;
        }
        Ok(truncated)
    }
}
