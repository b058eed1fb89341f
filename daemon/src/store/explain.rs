//! Explaining: why keys are not SUCCEEDED, and in what they differ from the nearest success.
//!
//! Invariants: nothing is written, and nothing counts as asked for; one call's work follows how many keys are asked about and what differs,
//! not what is stored. What "nearest" means is [`provender_core::nearest`]'s, what is said of it [`provender_core::explain`]'s.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use provender_core::compare::Cause;
use provender_core::execution::State;
use provender_core::explain::{Explanation, MAX_ATTEMPTS};
use provender_core::key::TaskKey;
use provender_core::name::{Name, Space};
use provender_core::spec::Input;
use provender_core::transition::Known;
use provender_core::{Answer, Execution, ExecutionId, Spec, Verdict};

use super::compare::{Comparing, Side};
use super::{Store, StoreError};
use crate::store::provenance::SPECS;

/// The most causes that are told of one key.
const CAUSES: usize = 20;
/// The most lost blobs that are told of one key.
const LOST: usize = 20;

/// A key that is asked about, and what it stands for if the store need not know it.
#[derive(Debug, Clone)]
pub struct Question {
    /// The key.
    pub key: TaskKey,
    /// What it stands for.
    pub spec: Option<Spec>,
}

/// Explanations under way: of one question after the other, sharing what they find.
#[derive(Debug)]
pub struct Explaining {
    store: Store,
    space: Space,
    comparing: Comparing,
    /// The keys of the nearest successes of those that were explained already.
    counterparts: HashMap<TaskKey, TaskKey>,
    questions: std::vec::IntoIter<Question>,
}

impl Store {
    /// Explains keys, one after the other.
    pub fn explain(&self, space: &Space, questions: Vec<Question>) -> Explaining {
        let mut comparing = Comparing::new(self, space, CAUSES);
        let known = questions.iter().filter_map(|asked| Some((asked.key.clone(), Arc::new(asked.spec.clone()?))));
        comparing.overlay(known);
        let (store, space) = (self.clone(), space.clone());
        Explaining { store, space, comparing, counterparts: HashMap::new(), questions: questions.into_iter() }
    }

    /// The key that a name stands for: that of its `latest`, if nothing was attempted since that came to nothing; else that of its newest
    /// attempt; else the one that was registered.
    pub async fn key_of_name(&self, space: &Space, name: &Name) -> Result<TaskKey, StoreError> {
        let (newest, _) = self.history(space, Ok(name), false, None, 1).await?;
        let newest = newest.into_iter().next();
        if newest.as_ref().is_none_or(|newest| newest.state == State::Succeeded)
            && let Some(latest) = self.latest(space, name).await?
        {
            // Unless what was done last is void.
            let since = newest.as_ref().filter(|newest| newest.diverges_from.is_none() && newest.began > latest.began);
            return Ok(since.map_or(latest.key, |newest| newest.key.clone()));
        }
        let known = match newest {
            Some(newest) => Some(newest.key),
            // A name that was only ever hit has records, and no attempts of its own.
            None => match self.newest_record(space, name).await? {
                Some(record) => Some(record.key),
                None => self.name_row(space, name).await?.registered,
            },
        };
        known.ok_or_else(|| StoreError::NotFound { what: name.to_string() })
    }
}

impl Explaining {
    /// The next explanations; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Vec<Explanation>>, StoreError> {
        let asked: Vec<_> = self.questions.by_ref().take(SPECS).collect();
        if asked.is_empty() {
            return Ok(None);
        }
        let keys: Vec<_> = asked.iter().map(|asked| asked.key.clone()).collect();
        let known = self.store.known_of(&self.space, &keys).await?;
        let evidence: Vec<_> = known.iter().filter_map(Known::evidence).collect();
        let executions = self.store.executions(&self.space, &evidence).await?;
        let specs = self.specs(&asked, &known, &executions).await?;
        let mut all = Vec::with_capacity(asked.len());
        for ((key, known), spec) in keys.into_iter().zip(known).zip(specs) {
            all.push(self.one(key, &known, &executions, spec).await?);
        }
        Ok(Some(all))
    }

    /// What each key stands for, as far as that is known.
    async fn specs(
        &self,
        asked: &[Question],
        known: &[Known],
        executions: &BTreeMap<ExecutionId, Execution>,
    ) -> Result<Vec<Option<Arc<Spec>>>, StoreError> {
        let attempted = |known: &Known| known.evidence().and_then(|id| executions.get(&id)).map(|made| made.spec);
        let stored: Vec<_> = known.iter().map(|known| attempted(known).or(known.row.spec)).collect();
        let wanted: BTreeSet<_> = stored.iter().copied().flatten().collect();
        let found = match wanted.is_empty() {
            true => BTreeMap::new(),
            false => self.store.specs(&self.space, &wanted.into_iter().collect::<Vec<_>>()).await?,
        };
        let stored = stored.into_iter().map(|digest| digest.and_then(|digest| found.get(&digest)).cloned());
        Ok(asked.iter().zip(stored).map(|(asked, stored)| asked.spec.clone().or(stored).map(Arc::new)).collect())
    }

    async fn one(
        &mut self,
        key: TaskKey,
        known: &Known,
        executions: &BTreeMap<ExecutionId, Execution>,
        spec: Option<Arc<Spec>>,
    ) -> Result<Explanation, StoreError> {
        let mut answer = Answer::of(known);
        let last = answer.execution.and_then(|id| executions.get(&id)).cloned();
        if let Some(last) = last.as_ref().filter(|last| answer.rests_on() == Some(last.id)) {
            answer.explain(last);
        }
        if *known == Known::default()
            && let Some(before) = self.store.forgotten().await?
        {
            answer.reason =
                format!("{}, or what was known of it was collected before {before} and is forgotten", answer.reason);
        }
        let mut told = Explanation::of(key, answer);
        told.name = spec.as_ref().map(|spec| spec.name.clone()).or(last.as_ref().map(|last| last.name.clone()));
        if matches!(told.answer.verdict, Verdict::Failed | Verdict::Abandoned) {
            told.attempts = self.attempts(&told.key).await?;
        }
        if let (Verdict::Lost, Some(record)) = (told.answer.verdict, &known.row.record) {
            told.lost = self.store.lost_of(&self.space, record, LOST).await?;
        }
        // Who has had a success of its own is compared with nothing else.
        if let (None, Some(spec)) = (&known.row.record, spec) {
            let nearest = self.store.nearest(&self.space, &told.key, &self.as_before(&spec)).await?;
            if let Some((nearest, old)) = nearest {
                self.counterparts.insert(told.key.clone(), nearest.key.clone());
                (told.causes, told.truncated) = self.causes(&nearest, old, &told.key, spec).await?;
                told.nearest = Some(nearest);
            }
        }
        told.last = last;
        Ok(told)
    }

    /// A spec as it would be if what it reads were what that was compared with: so that a task and what it is made from are compared with one
    /// history, and not each with its own.
    fn as_before(&self, spec: &Spec) -> Spec {
        let mut spec = spec.clone();
        for input in spec.inputs.values_mut() {
            if let Some(before) = input.key.as_ref().and_then(|key| self.counterparts.get(key)) {
                *input = Input { content: None, execution: None, key: Some(before.clone()), ..input.clone() };
            }
        }
        spec
    }

    async fn causes(
        &mut self,
        nearest: &Execution,
        old: Spec,
        key: &TaskKey,
        new: Arc<Spec>,
    ) -> Result<(Vec<Cause>, bool), StoreError> {
        let execution = Some(Arc::new(nearest.clone()));
        let old = Side { key: nearest.key.clone(), spec: Arc::new(old), execution };
        self.comparing.causes(old, Side { key: key.clone(), spec: new, execution: None }).await
    }

    /// How many attempts at a key did not succeed since one did.
    async fn attempts(&self, key: &TaskKey) -> Result<u64, StoreError> {
        let most = MAX_ATTEMPTS as usize;
        let (newest, _) = self.store.history(&self.space, Err(key), false, None, most).await?;
        let failed = |execution: &&Execution| matches!(execution.state, State::Failed | State::Abandoned);
        Ok(newest.iter().take_while(failed).count() as u64)
    }
}

#[cfg(test)]
mod tests;
