//! `provender.v1.Admin/Usage`: what is stored, part by part.

use provender_proto::convert::Invalid;
use provender_proto::v1;

use super::Client;
use crate::error::ClientError;

/// What the parts are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UsageBy {
    /// The part of the name that follows the prefix.
    #[default]
    Name,
    /// Who ran it, and where.
    Executor,
    /// How long ago it ended.
    Age,
}

/// What a part of the store has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UsageGroup {
    /// What it is; empty for all of it.
    pub label: String,
    /// Its executions.
    pub executions: u64,
    /// Of these, records.
    pub records: u64,
    /// The bytes of all blobs that they refer to.
    pub bytes: u64,
    /// Of these, the bytes of blobs that nothing outside refers to: what deleting it would free.
    pub own: u64,
}

/// What is stored.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Usage {
    /// All executions that were looked at.
    pub all: UsageGroup,
    /// The parts, as the daemon has put them in order.
    pub groups: Vec<UsageGroup>,
    /// The bytes that all blobs of the store take.
    pub stored: u64,
}

impl Client {
    /// What the executions of the names at and below a prefix have (all names if it is empty); `tell` is called with how many were looked at so far.
    /// Dropping this stops it.
    pub async fn usage(&self, prefix: &str, by: UsageBy, mut tell: impl FnMut(u64)) -> Result<Usage, ClientError> {
        let by = match by {
            UsageBy::Name => v1::UsageBy::Name,
            UsageBy::Executor => v1::UsageBy::Executor,
            UsageBy::Age => v1::UsageBy::Age,
        };
        let request = v1::UsageRequest { space: self.space(), prefix: prefix.to_owned(), by: by.into() };
        let mut replies = self.admin.clone().usage(request).await.map_err(self.failed())?.into_inner();
        let mut usage = Usage::default();
        while let Some(reply) = replies.message().await.map_err(self.failed())? {
            usage.groups.extend(reply.groups.into_iter().map(group_from));
            if let Some(total) = reply.total {
                let all = total.all.ok_or_else(|| Invalid::new("all", "is missing"))?;
                return Ok(Usage { all: group_from(all), stored: total.stored, ..usage });
            }
            tell(reply.looked_at);
        }
        Err(Invalid::new("total", "the answer ended without one").into())
    }
}

fn group_from(group: v1::UsageGroup) -> UsageGroup {
    let v1::UsageGroup { label, executions, records, bytes, own } = group;
    UsageGroup { label, executions, records, bytes, own }
}
