//! An execution as collection sees it: what bears on whether it stays, and the words in which it is said why it goes.

use std::time::Duration;

use provender_core::batch::Row;
use provender_core::collect;
use provender_core::collect::rules::Rule;
use provender_core::execution::State;
use provender_core::name::Space;
use provender_core::{Execution, ExecutionId, Timestamp, Verdict, rows};
use provender_proto::rows as values;

use super::super::StoreError;
use super::super::lookup::{decode_known, known_rows};
use super::Run;

/// An execution, and what bears on whether it stays.
pub(super) struct Looked {
    pub(super) execution: Execution,
    pub(super) is_record: bool,
    /// When it was last used, or ended.
    pub(super) used: Timestamp,
    /// The rule and reason by which its record was evicted by hand.
    pub(super) evicted: Option<String>,
}

impl Run<'_> {
    /// Executions and what bears on each; `None` for one that is gone, or has not ended.
    pub(super) async fn look_all(&mut self, asked: &[(Space, ExecutionId)]) -> Result<Vec<Option<Looked>>, StoreError> {
        let meta = &self.store.inner.meta;
        let places: Vec<_> = asked.iter().map(|(space, id)| rows::execution(space, *id)).collect();
        let mut ended = Vec::with_capacity(asked.len());
        for ((_, id), row) in asked.iter().zip(meta.get(&places).await?) {
            let execution = row.map(|row| values::execution_from(row.value)).transpose();
            let execution = execution.map_err(StoreError::row(format!("execution {id}")))?;
            ended.push(execution.filter(|execution| execution.state != State::Running));
        }
        let each = asked.iter().zip(&ended).filter_map(|((space, _), ended)| ended.as_ref().map(|it| (space, &it.key)));
        let wanted: Vec<_> = each
            .flat_map(|(space, key)| {
                let [row, lease] = known_rows(space, key);
                [row, lease, rows::used(space, key)]
            })
            .collect();
        let found = meta.get(&wanted).await?;
        let mut found = found.chunks_exact(3);
        let mut looked = Vec::with_capacity(asked.len());
        for ended in ended {
            looked.push(match ended {
                Some(execution) => Some(looked_at(execution, found.next().unwrap_or_default())?),
                None => None,
            });
        }
        self.pace(places.len() + wanted.len()).await?;
        Ok(looked)
    }

    /// Why it goes, for people.
    pub(super) fn reason(&self, rule: Rule, looked: &Looked, newer: u64, now: Timestamp) -> String {
        let keep = self.how.rules.of(looked.execution.name.as_str());
        let of = match keep.map(|keep| keep.prefix.as_str()) {
            None | Some("") => "all names".to_owned(),
            Some(prefix) => format!("names at or below {prefix}"),
        };
        let time = |time: Option<Duration>| time.unwrap_or_default().as_secs();
        let why = match rule {
            Rule::Latest => format!(
                "there are {newer} newer successes of {}, and of {of} {} are kept",
                looked.execution.name,
                keep.and_then(|keep| keep.latest).unwrap_or_default()
            ),
            Rule::Unused => format!(
                "it was last used at {}, and of {of} what was not used for {} s is not kept",
                looked.used,
                time(keep.and_then(|keep| keep.used_within))
            ),
            Rule::Failed => format!(
                "it ended at {} and is no success to answer with, and of {of} such are kept for {} s",
                looked.used,
                time(keep.and_then(|keep| keep.failed_within))
            ),
            Rule::Quota => {
                format!("more was stored than the quota allows, and it was the least recently used, at {}", looked.used)
            }
            Rule::Free => format!("the disk was nearly full, and it was the least recently used, at {}", looked.used),
            // These come with reasons of their own.
            Rule::Lost | Rule::Evicted => String::new(),
        };
        format!("collected at {now} by the rule `{rule}`: {why}")
    }
}

/// `found` is its key's row, the lease's, and when the key's record was used.
fn looked_at(execution: Execution, found: &[Option<Row>]) -> Result<Looked, StoreError> {
    let known = decode_known(&execution.key, found.get(..2).unwrap_or_default())?;
    let is_record = collect::is_record(&known, &execution);
    let mut used = execution.ended.unwrap_or_default();
    if let (true, Some(Some(row))) = (is_record, found.get(2)) {
        used = used.max(values::holding_from(row.value.clone()).map_err(StoreError::row(&execution.key))?);
    }
    let record = known.row.record.as_ref().filter(|record| record.execution == execution.id);
    let void = record.and_then(|record| record.void.as_ref()).filter(|void| void.verdict == Verdict::Evicted);
    let evicted = void.map(|void| void.reason.clone());
    Ok(Looked { execution, is_record, used, evicted })
}
