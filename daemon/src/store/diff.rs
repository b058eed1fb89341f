//! Two things side by side: where they part, what they measured, what they made.

use std::sync::Arc;

use provender_core::compare::{self, Comparison, Side};
use provender_core::name::Space;
use provender_core::tree::Node;
use provender_core::{Execution, Ref, diff};
use provender_proto::convert::Invalid;

use super::compare::{Comparing, Side as Task};
use super::{Described, Store, StoreError};

impl Store {
    /// Compares two executions (a key or a name without a success stands for its newest attempt, else for what was registered), two trees,
    /// or two blobs. Tells of at most `limit` causes, and of as many paths of the outputs.
    pub async fn diff(&self, space: &Space, old: &Ref, new: &Ref, limit: usize) -> Result<Comparison, StoreError> {
        let sides = (self.newest(space, old).await?, self.newest(space, new).await?);
        match sides {
            (Described::Blob(was), Described::Blob(is)) => {
                let mut comparison = Comparison::new(Side::Blob(was), Side::Blob(is));
                let file = |digest| Some(Node::File { digest, executable: false });
                let differs = diff::Difference { path: Default::default(), old: file(was), new: file(is) };
                comparison.outputs.extend((was != is).then_some(differs));
                Ok(comparison)
            }
            (Described::Tree(was), Described::Tree(is)) => {
                let mut comparison = Comparison::new(Side::Tree(was), Side::Tree(is));
                self.compare_trees(space, (was, is), limit, &mut comparison).await?;
                Ok(comparison)
            }
            (was, is) => match (task(was), task(is)) {
                (Ok((was, old)), Ok((is, new))) => self.compare_tasks(space, (was, old), (is, new), limit).await,
                (was, is) => {
                    let kind = |side: &Result<_, &'static str>| side.as_ref().err().copied().unwrap_or("an execution");
                    let why = format!(
                        "{old} is {}, and {new} is {}: two executions are compared, or two trees, or two blobs",
                        kind(&was),
                        kind(&is)
                    );
                    Err(Invalid::new("new", why).into())
                }
            },
        }
    }

    /// What a reference points at; a name without a success stands for its newest attempt.
    async fn newest(&self, space: &Space, reference: &Ref) -> Result<Described, StoreError> {
        let (error, name) = match (self.describe(space, reference).await, reference) {
            (Err(error @ StoreError::NotFound { .. }), Ref::Name { name, nth: None }) => (error, name),
            (described, _) => return described,
        };
        let (attempts, _) = self.history(space, Ok(name), false, None, 1).await?;
        let Some(attempt) = attempts.first() else { return Err(error) };
        self.describe(space, &Ref::Execution(attempt.id)).await
    }

    async fn compare_tasks(
        &self,
        space: &Space,
        (old, was): (Side, Task),
        (new, is): (Side, Task),
        limit: usize,
    ) -> Result<Comparison, StoreError> {
        let mut comparison = Comparison::new(old, new);
        let (first, second) = (was.execution.clone(), is.execution.clone());
        comparison.unrelated = !compare::is_related((&was.key, &was.spec), (&is.key, &is.spec));
        let (causes, truncated) = Comparing::new(self, space, limit).causes(was, is).await?;
        (comparison.causes, comparison.truncated_causes) = (causes, truncated);
        comparison.metrics = compare::metrics(first.as_deref(), second.as_deref());
        comparison.labels = compare::labels(first.as_deref(), second.as_deref());
        let outputs = |execution: &Option<Arc<Execution>>| execution.as_ref()?.outcome.outputs;
        if let (Some(was), Some(is)) = (outputs(&first), outputs(&second)) {
            self.compare_trees(space, (was, is), limit, &mut comparison).await?;
        }
        Ok(comparison)
    }

    async fn compare_trees(
        &self,
        space: &Space,
        (old, new): (provender_core::Digest, provender_core::Digest),
        limit: usize,
        comparison: &mut Comparison,
    ) -> Result<(), StoreError> {
        let walked = self.differences(space, old, new, limit).await?;
        comparison.outputs = walked.differences;
        (comparison.truncated_outputs, comparison.unread) = (walked.more, walked.unread);
        Ok(())
    }
}

/// A task to be compared; else what it is instead.
fn task(described: Described) -> Result<(Side, Task), &'static str> {
    match described {
        Described::Blob(_) => Err("a blob"),
        Described::Tree(_) => Err("a tree"),
        Described::Registered(registered) => {
            let super::Registered { key, spec, .. } = *registered;
            let side = Side::Registered(key.clone(), spec.name.clone());
            Ok((side, Task { key, spec: Arc::new(spec), execution: None }))
        }
        Described::Task(task) => {
            let (execution, spec, _) = *task;
            let (key, side) = (execution.key.clone(), Side::Execution(Box::new(execution.clone())));
            Ok((side, Task { key, spec: Arc::new(spec), execution: Some(Arc::new(execution)) }))
        }
    }
}
