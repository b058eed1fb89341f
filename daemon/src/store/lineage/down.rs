//! Down: to the successes that consumed what nodes made, by stored edges.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use provender_core::lineage::Node;
use provender_core::provenance::Made;
use provender_core::transition::Known;
use provender_core::{ExecutionId, Spec};

use super::{From, Id, Met, Step, Walk, execution_node};
use crate::store::provenance::{Edge, SPECS, edge_prefixes};
use crate::store::{Store, StoreError};

/// How many edges of one node are looked at in one step.
const PAGE: usize = 1_000;

impl Walk {
    pub(super) async fn go_down(&mut self, steps: Vec<(Step, Option<Bytes>)>) -> Result<(), StoreError> {
        let (store, space) = (&self.store, &self.space);
        let found = stream::iter(steps).map(|(step, behind)| async move {
            let made = made(store, space, &step.from).await?;
            let prefixes = edge_prefixes(space, &made);
            let (edges, next) = store.edges(space, &prefixes, behind, PAGE).await?;
            Ok::<_, StoreError>((step, made, edges, next))
        });
        // In their order, so that nodes are numbered alike each time.
        let found: Vec<(Step, Made, Vec<Edge>, Option<Bytes>)> = found.buffered(SPECS).try_collect().await?;
        for (step, made, edges, next) in found {
            if self.piece.truncated {
                return Ok(());
            }
            self.follow(&step, &made, edges).await?;
            self.resumed.extend(next.map(|row| (step, row)));
        }
        Ok(())
    }

    async fn follow(&mut self, step: &Step, made: &Made, edges: Vec<Edge>) -> Result<(), StoreError> {
        let consumers = self.store.successes(&self.space, edges.iter().map(|edge| edge.consumer)).await?;
        let keys: Vec<_> = consumers.values().map(|consumer| consumer.key.clone()).collect();
        let known = self.store.known_of(&self.space, &keys).await?;
        let verdicts: BTreeMap<ExecutionId, _> =
            consumers.keys().copied().zip(known.iter().map(Known::verdict)).collect();
        let specs: BTreeSet<_> = consumers.values().map(|consumer| consumer.spec).collect();
        let mut inputs: BTreeMap<_, BTreeMap<(usize, Vec<u8>), Bytes>> = BTreeMap::new();
        for piece in specs.into_iter().collect::<Vec<_>>().chunks(SPECS) {
            let named = |spec: &Spec| made.edges(spec).into_iter().map(|(edge, name)| (edge, name.clone())).collect();
            inputs.extend(
                self.store.specs(&self.space, piece).await?.iter().map(|(digest, spec)| (*digest, named(spec))),
            );
        }
        for Edge { from, consumer, mark } in edges {
            let Some(consumer) = consumers.get(&consumer) else { continue };
            // An input that is an edge by its key as well as by its bytes counts once.
            let Some(input) = inputs.get(&consumer.spec).and_then(|inputs| inputs.get(&(from, mark))) else { continue };
            let node = Node { verdict: verdicts.get(&consumer.id).copied(), ..execution_node(consumer) };
            let (id, on) = (Id::Execution(consumer.id), From::Execution(consumer.id));
            self.arrive(step, input.clone(), Met { id, node: Some(node), on: Some(on) });
        }
        Ok(())
    }
}

/// What a node made that others can have consumed.
async fn made(store: &Store, space: &provender_core::Space, from: &From) -> Result<Made, StoreError> {
    match from {
        From::Execution(id) => {
            let (execution, spec) = store.execution_and_spec(space, *id).await?;
            store.made(space, &execution, &spec).await
        }
        From::Key(key) => Ok(Made { key: Some(key.0.clone()), ..Made::default() }),
        From::File(digest) | From::Tree(digest) => Ok(Made { digests: vec![**digest], ..Made::default() }),
    }
}
