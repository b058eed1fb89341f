//! Comparing two tasks: from what differs, up to where that began.
//!
//! Owns [`Comparing`]. Invariants: each pair of tasks is compared once, however many ask and lead to it, so cycles end; what is the same on
//! both sides is never opened, so reads follow what differs and not what is stored; pairs and memory are bounded. It must not know the
//! rules by which specs differ: those are [`provender_core::compare`].

mod contents;
mod open;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use provender_core::compare::{Cause, Difference};
use provender_core::diff;
use provender_core::execution::State;
use provender_core::key::TaskKey;
use provender_core::name::{Name, Space};
use provender_core::{Digest, Execution, ExecutionId, Node, Spec, Timestamp};

use super::{Store, StoreError};

/// How many pairs of tasks are compared at most.
const PAIRS: usize = 100_000;
/// About how many bytes of what was found are kept.
const WEIGHT: usize = 64 << 20;

/// One side of a comparison: what was done or is to be done, and by which execution, if one was.
#[derive(Debug, Clone)]
pub(super) struct Side {
    pub(super) key: TaskKey,
    pub(super) spec: Arc<Spec>,
    pub(super) execution: Option<Arc<Execution>>,
}

/// Comparisons that share what they found: a thousand tasks with one changed root cost about a thousand pairs.
#[derive(Debug)]
pub(super) struct Comparing {
    store: Store,
    space: Space,
    limit: usize,
    overlay: HashMap<TaskKey, Arc<Spec>>,
    pairs: Vec<Pair>,
    index: HashMap<(Id, Id), usize>,
    /// What differs in folders that were compared, and whether there is more.
    folders: HashMap<(Digest, Digest), Known>,
    weight: usize,
}

/// What differs in two folders, and whether there is more.
type Known = (Arc<[diff::Difference]>, bool);

/// What tasks are told apart by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Id {
    Execution(ExecutionId),
    /// Of a key without one.
    Key(TaskKey),
}

/// A task on one side: as much of it as a comparison needs.
#[derive(Debug)]
struct End {
    key: TaskKey,
    /// What an input that comes from it calls its origin.
    name: Option<Name>,
    execution: Option<ExecutionId>,
    began: Timestamp,
    /// What it made, if it succeeded.
    made: Option<Digest>,
    spec: From,
}

/// Where a spec is.
#[derive(Debug)]
enum From {
    Here(Arc<Spec>),
    Stored(Digest),
    /// It was read, and is not needed any more.
    Done,
}

/// Two tasks that stand for each other.
#[derive(Debug)]
struct Pair {
    old: End,
    new: End,
    /// What was found; none before it was looked at.
    found: Option<Found>,
}

/// What was found of a pair.
#[derive(Debug, Default)]
struct Found {
    /// As the second side calls it.
    name: Option<Name>,
    /// Where they part by themselves.
    own: Vec<Difference>,
    /// Inputs that others made otherwise.
    edges: Vec<Edge>,
    /// Whether these are different tasks, so that what differs is where the input comes from.
    strangers: bool,
    /// Whether nothing is known of how these were made.
    blank: bool,
    /// Whether there is more than is kept.
    truncated: bool,
}

/// An input that both have, and that two tasks made.
#[derive(Debug, Clone)]
struct Edge {
    input: Bytes,
    pair: usize,
    old: Option<Node>,
    new: Option<Node>,
    /// Where either side says that it is from.
    origins: (String, String),
}

impl Side {
    fn end(self) -> End {
        match self.execution {
            Some(execution) => End { spec: From::Here(self.spec), ..End::of(&execution) },
            None => End::registered(self.key, Some(self.spec.name.clone()), From::Here(self.spec)),
        }
    }
}

impl End {
    fn of(execution: &Execution) -> End {
        End {
            key: execution.key.clone(),
            name: Some(execution.name.clone()),
            execution: Some(execution.id),
            began: execution.began,
            made: execution.outcome.outputs.filter(|_| execution.state == State::Succeeded),
            spec: From::Stored(execution.spec),
        }
    }

    fn registered(key: TaskKey, name: Option<Name>, spec: From) -> End {
        End { key, name, execution: None, began: Timestamp::MAX, made: None, spec }
    }

    fn id(&self) -> Id {
        self.execution.map_or_else(|| Id::Key(self.key.clone()), Id::Execution)
    }
}

/// What one comparison came to so far.
#[derive(Debug, Default)]
struct Answer {
    causes: Vec<Cause>,
    /// What was told already: the same difference of the same task may be found between other executions of it.
    told: HashSet<Digest>,
    truncated: bool,
}

impl Comparing {
    /// Each comparison will tell of at most `limit` causes.
    pub(super) fn new(store: &Store, space: &Space, limit: usize) -> Comparing {
        Comparing {
            store: store.clone(),
            space: space.clone(),
            limit,
            overlay: HashMap::new(),
            pairs: Vec::new(),
            index: HashMap::new(),
            folders: HashMap::new(),
            weight: 0,
        }
    }

    /// Has keys stand for specs that the store need not know, for tasks that are about to run.
    pub(super) fn overlay(&mut self, specs: impl IntoIterator<Item = (TaskKey, Arc<Spec>)>) {
        self.overlay.extend(specs);
    }

    /// Where two tasks part, nearest first, at most as many as the limit; whether there is more. None if nothing is known to differ.
    pub(super) async fn causes(&mut self, old: Side, new: Side) -> Result<(Vec<Cause>, bool), StoreError> {
        let (old, new) = (old.end(), new.end());
        let mut answer = Answer::default();
        if old.id() == new.id() {
            return Ok((Vec::new(), false));
        }
        let Some(root) = self.enter(old, new) else { return Ok((Vec::new(), true)) };
        let (mut seen, mut level, mut distance) = (HashSet::from([root]), vec![root], 0);
        answer.truncated |= !self.open(&level).await?;
        while !level.is_empty() && answer.causes.len() <= self.limit {
            // Whether an input comes from another task shows in that.
            let next: Vec<_> = level.iter().flat_map(|at| self.edges(*at)).map(|edge| edge.pair).collect();
            answer.truncated |= !self.open(&next).await?;
            let mut onward = Vec::new();
            for at in std::mem::take(&mut level) {
                self.tell(at, distance, &mut answer);
                for nth in 0..self.edges(at).len() {
                    let pair = self.edges(at)[nth].pair;
                    if self.leads_on(at, nth, distance, &mut answer).await? && seen.insert(pair) {
                        onward.push(pair);
                    }
                }
            }
            (level, distance) = (onward, distance + 1);
        }
        let Answer { mut causes, mut truncated, .. } = answer;
        truncated |= causes.len() > self.limit;
        causes.truncate(self.limit);
        Ok((causes, truncated))
    }

    /// The number of a pair, which is new or not; `None` if there is no room for it.
    fn enter(&mut self, old: End, new: End) -> Option<usize> {
        let id = (old.id(), new.id());
        if let Some(at) = self.index.get(&id) {
            return Some(*at);
        }
        let at = self.pairs.len();
        if at >= PAIRS || self.weight >= WEIGHT {
            return None;
        }
        self.weight += 1_000 + 2 * (old.key.as_str().len() + new.key.as_str().len());
        self.index.insert(id, at);
        self.pairs.push(Pair { old, new, found: None });
        Some(at)
    }

    fn edges(&self, at: usize) -> &[Edge] {
        self.pairs[at].found.as_ref().map_or(&[], |found| &found.edges)
    }

    /// Tells what a pair parts in by itself.
    fn tell(&self, at: usize, distance: u32, answer: &mut Answer) {
        let Some(found) = &self.pairs[at].found else { return };
        answer.truncated |= found.truncated;
        for is in &found.own {
            self.say(at, distance, is.clone(), answer);
        }
    }

    fn say(&self, at: usize, distance: u32, is: Difference, answer: &mut Answer) {
        let Pair { old, new, found } = &self.pairs[at];
        let Some(name) = found.as_ref().and_then(|found| found.name.clone()) else { return };
        // One more than is told shows that there are more.
        if answer.causes.len() > self.limit {
            return;
        }
        if answer.told.insert(Digest::of(format!("{} {name} {is:?}", new.key).as_bytes())) {
            let key = new.key.clone();
            answer.causes.push(Cause { name, key, old: old.execution, new: new.execution, distance, is });
        }
    }

    /// Whether what differs in an input of a pair began in what made it. If not, it is told here.
    async fn leads_on(
        &mut self,
        at: usize,
        nth: usize,
        distance: u32,
        answer: &mut Answer,
    ) -> Result<bool, StoreError> {
        let edge = &self.edges(at)[nth];
        let Some(found) = &self.pairs[edge.pair].found else { return Ok(true) };
        let input = edge.input.clone();
        if found.strangers {
            let (old, new) = edge.origins.clone();
            self.say(at, distance, Difference::Input { input, old: Some(old), new: Some(new) }, answer);
            return Ok(false);
        }
        let nothing = found.blank || (found.own.is_empty() && found.edges.is_empty());
        match (&edge.old, &edge.new) {
            (Some(old), Some(new)) if nothing && old != new => {
                let (old, new) = (old.clone(), new.clone());
                let (differences, more) = self.contents(&input, &old, &new).await?;
                answer.truncated |= more;
                differences.into_iter().for_each(|is| self.say(at, distance, is, answer));
                Ok(false)
            }
            _ => Ok(true),
        }
    }
}

#[cfg(test)]
mod tests;
