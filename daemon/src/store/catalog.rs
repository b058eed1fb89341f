//! What people ask: names, histories, and what a reference points at.

use bytes::Bytes;
use provender_core::batch::Table;
use provender_core::execution::State;
use provender_core::key::TaskKey;
use provender_core::name::{Name, Space};
use provender_core::{Answer, Digest, Execution, ExecutionId, Ref, Spec, Verdict, rows};
use provender_proto::convert::Invalid;
use provender_proto::rows as values;

use super::{Store, StoreError};
use crate::meta::Scan;

/// How many history rows are looked through at once.
const PAGE: usize = 1_000;
/// How many history rows one call looks through at most.
const LOOK_THROUGH: usize = 10_000;
/// An answer ends with the entry that reaches this many bytes, well below the largest message.
pub(super) const PAGE_BYTES: usize = 2 << 20;

/// A name and what it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The name.
    pub name: Name,
    /// Its newest success.
    pub latest: Option<Execution>,
    /// Its newest attempt.
    pub last: Option<Execution>,
}

/// What a reference points at.
#[derive(Debug, Clone, PartialEq)]
pub enum Described {
    /// An execution, its spec, and what a lookup of its key says.
    Task(Box<(Execution, Spec, Answer)>),
    /// Bytes.
    Blob(Digest),
    /// A directory.
    Tree(Digest),
    /// A key that was never attempted.
    Registered(Box<Registered>),
}

/// A key that was registered, what it stands for, and what a lookup says.
#[derive(Debug, Clone, PartialEq)]
pub struct Registered {
    /// The key.
    pub key: TaskKey,
    /// What it stands for.
    pub spec: Spec,
    /// The verdict and why.
    pub answer: Answer,
}

impl Store {
    /// The names that begin with a text, after another one, in order; whether there are more.
    pub async fn names(
        &self,
        space: &Space,
        prefix: &str,
        after: Option<&Name>,
        limit: usize,
    ) -> Result<(Vec<Named>, bool), StoreError> {
        let scan = Scan {
            after: after.map(|name| rows::name(space, name).key),
            limit,
            ..Scan::prefix(Table::Name, rows::name_prefix(space, prefix))
        };
        let page = self.inner.meta.scan(&scan).await?;
        let mut found = Vec::with_capacity(page.rows.len());
        for (key, row) in page.rows {
            let damaged = || StoreError::Row { what: format!("{key:?}"), why: "it is no name".into() };
            let name = rows::parse_name(space, &key).ok_or_else(damaged)?;
            let latest = values::name_from(row.value).map_err(StoreError::row(&name))?.latest;
            found.push((name, latest));
        }
        let wanted: Vec<_> = found.iter().map(|(name, latest)| (name, *latest)).collect();
        let latest = self.latest_of(space, &wanted).await?;
        let mut names = Vec::with_capacity(found.len());
        let mut weight = 0;
        for ((name, _), latest) in found.into_iter().zip(latest) {
            if weight >= PAGE_BYTES {
                return Ok((names, true));
            }
            let mut newest = Scan::prefix(Table::NameHistory, rows::by_name_prefix(space, &name));
            newest.limit = 1;
            let newest = self.inner.meta.scan(&newest).await?.rows;
            let last = newest.first().and_then(|(key, _)| rows::trailing_execution(key));
            let last = match last {
                Some(id) => self.executions(space, &[id]).await?.remove(&id),
                None => None,
            };
            let named = Named { name, latest, last };
            weight += [&named.latest, &named.last].into_iter().flatten().map(execution_weight).sum::<usize>();
            names.push(named);
        }
        Ok((names, page.more))
    }

    /// The executions of a name or key, newest first, and where to go on.
    pub async fn history(
        &self,
        space: &Space,
        of: Result<&Name, &TaskKey>,
        failed_only: bool,
        cursor: Option<Bytes>,
        limit: usize,
    ) -> Result<(Vec<Execution>, Option<Bytes>), StoreError> {
        let (table, prefix) = match of {
            Ok(name) => (Table::NameHistory, rows::by_name_prefix(space, name)),
            Err(key) => (Table::KeyHistory, rows::key_history_prefix(space, key)),
        };
        let mut scan = Scan { after: cursor, limit: PAGE, ..Scan::prefix(table, prefix) };
        let mut executions = Vec::new();
        let (mut looked, mut weight) = (0, 0);
        loop {
            let page = self.inner.meta.scan(&scan).await?;
            let ids: Vec<_> = page.rows.iter().filter_map(|(key, _)| rows::trailing_execution(key)).collect();
            let mut found = self.executions(space, &ids).await?;
            for (key, _) in page.rows {
                let execution = rows::trailing_execution(&key).and_then(|id| found.remove(&id));
                scan.after = Some(key.clone());
                looked += 1;
                let wanted =
                    |execution: &Execution| !failed_only || matches!(execution.state, State::Failed | State::Abandoned);
                if let Some(execution) = execution.filter(wanted) {
                    weight += execution_weight(&execution);
                    executions.push(execution);
                }
                // One call's work and answer are bounded; the cursor goes on from here.
                if executions.len() >= limit || weight >= PAGE_BYTES || looked >= LOOK_THROUGH {
                    return Ok((executions, Some(key)));
                }
            }
            if !page.more {
                return Ok((executions, None));
            }
        }
    }

    /// What a reference points at.
    pub async fn describe(&self, space: &Space, reference: &Ref) -> Result<Described, StoreError> {
        let missing = || StoreError::NotFound { what: reference.to_string() };
        let id = match reference {
            Ref::Blob(hash) => return self.by_hash(space, hash).await?.map(Described::Blob).ok_or_else(missing),
            Ref::Tree(hash) => {
                let digest = self.by_hash(space, hash).await?.ok_or_else(missing)?;
                self.tree(space, &digest).await?;
                return Ok(Described::Tree(digest));
            }
            Ref::Execution(id) => *id,
            Ref::Key(key) => {
                let answer = self.lookup(space, std::slice::from_ref(key)).await?.pop().ok_or_else(missing)?;
                match answer.execution {
                    Some(id) => id,
                    None => return self.registered(space, key, answer).await?.ok_or_else(missing),
                }
            }
            Ref::Name { name, nth: None } => match self.latest(space, name).await? {
                Some(execution) => execution.id,
                None => {
                    let registered = self.name_row(space, name).await?.registered;
                    return self.without_success(space, name, registered).await;
                }
            },
            Ref::Name { name, nth: Some(nth) } => self.nth_record(space, name, *nth).await?.ok_or_else(missing)?,
        };
        let (execution, spec) = match (self.execution_and_spec(space, id).await, reference) {
            (Err(StoreError::NotFound { .. }), Ref::Key(key)) => return Err(self.collected(space, key).await?),
            (described, _) => described?,
        };
        let answer = self.lookup(space, std::slice::from_ref(&execution.key)).await?.pop();
        let answer = answer.ok_or_else(missing)?;
        Ok(Described::Task(Box::new((execution, spec, answer))))
    }

    /// Why there is nothing to show of a key.
    async fn collected(&self, space: &Space, key: &TaskKey) -> Result<StoreError, StoreError> {
        let answer = self.lookup(space, std::slice::from_ref(key)).await?.pop();
        let (verdict, why) = answer.map_or((Verdict::Unknown, String::new()), |answer| (answer.verdict, answer.reason));
        Ok(StoreError::NotFound { what: format!("what {key} made ({verdict}: {why})") })
    }

    /// What a name without a `latest` stands for: the key that was registered under it, unless there was an attempt, which the
    /// error names, as a person may mean it.
    async fn without_success(
        &self,
        space: &Space,
        name: &Name,
        registered: Option<TaskKey>,
    ) -> Result<Described, StoreError> {
        let (newest, _) = self.history(space, Ok(name), false, None, 1).await?;
        let what = match (newest.first(), registered) {
            (Some(last), _) => {
                let answer = self.lookup(space, std::slice::from_ref(&last.key)).await?.pop();
                // A success that is none any more has a reason; a failure by itself says that it is one.
                let (verdict, why) = match answer {
                    Some(Answer { verdict, reason, .. }) if last.state == State::Succeeded && !reason.is_empty() => {
                        (verdict, format!(": {reason}"))
                    }
                    _ => (last.state.verdict(), String::new()),
                };
                format!("a success of {name} (its newest attempt, exec:{}, is {verdict}{why})", last.id)
            }
            // Under another name it may have been attempted.
            (None, Some(key)) => return Box::pin(self.describe(space, &Ref::Key(key))).await,
            (None, None) => name.to_string(),
        };
        Err(StoreError::NotFound { what })
    }

    async fn nth_record(&self, space: &Space, name: &Name, nth: u32) -> Result<Option<ExecutionId>, StoreError> {
        let mut scan = Scan::prefix(Table::NameRecord, rows::by_name_prefix(space, name));
        let mut left = nth.checked_sub(1).ok_or_else(|| Invalid::new("ref", "N counts from 1"))? as usize;
        loop {
            let page = self.inner.meta.scan(&scan).await?;
            if let Some((key, _)) = page.rows.get(left) {
                return Ok(rows::trailing_execution(key));
            }
            left -= page.rows.len();
            scan.after = page.rows.last().map(|(key, _)| key.clone());
            if !page.more {
                return Ok(None);
            }
        }
    }
}

/// About how many bytes an execution takes in an answer.
pub(super) fn execution_weight(execution: &Execution) -> usize {
    let reason = execution.reason.as_ref().map_or(0, String::len) + execution.remarks.note.len();
    let labels: usize = execution.remarks.labels.iter().map(|(name, value)| name.len() + value.len()).sum();
    let metrics: usize =
        execution.outcome.metrics.iter().map(|(name, value)| name.len() + value.to_string().len()).sum();
    1_024 + labels + metrics + execution.key.as_str().len() + 2 * execution.name.as_str().len() + reason
}
