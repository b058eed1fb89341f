//! Up: to what nodes were made from, by the origins of their inputs.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use provender_core::lineage::{Kind, Node};
use provender_core::provenance::is_telling;
use provender_core::spec::Input;
use provender_core::transition::Known;
use provender_core::{Digest, Node as Content, TaskKey, Timestamp};

use super::{From, Id, Met, Step, Walk, bytes_node, execution_node};
use crate::store::StoreError;
use crate::store::provenance::{SPECS, TRACED, Want};

/// Nodes of keys, and the specs that lead on from them.
type Keys = BTreeMap<TaskKey, (Node, Option<Digest>)>;

/// An input of a node that is gone on from.
struct Read<'a> {
    step: &'a Step,
    name: &'a Bytes,
    want: Want<'a>,
}

impl Walk {
    pub(super) async fn go_up(&mut self, steps: Vec<Step>) -> Result<(), StoreError> {
        let ids: Vec<_> = steps.iter().filter_map(|step| step.from.id().execution()).collect();
        let executions = self.store.executions(&self.space, &ids).await?;
        let mut consumers = Vec::with_capacity(steps.len());
        for step in &steps {
            match &step.from {
                From::Execution(id) => {
                    let made = executions.get(id);
                    consumers.extend(made.map(|made| (step, made.spec, Some(*id), made.began)));
                }
                From::Key(key) => consumers.extend(key.1.map(|spec| (step, spec, None, Timestamp::MAX))),
                From::File(digest) | From::Tree(digest) => self.go_to_makers(step, **digest).await?,
            }
        }
        let digests: BTreeSet<_> = consumers.iter().map(|(_, spec, ..)| *spec).collect();
        let digests: Vec<_> = digests.into_iter().collect();
        let specs = if digests.is_empty() { BTreeMap::new() } else { self.store.specs(&self.space, &digests).await? };
        let mut reads = Vec::new();
        for (step, spec, consumer, began) in consumers {
            // A spec that is gone leads nowhere.
            let inputs = specs.get(&spec).into_iter().flat_map(|spec| &spec.inputs);
            let want = |input| Want { input, consumer, began };
            reads.extend(inputs.map(|(name, input)| Read { step, name, want: want(input) }));
        }
        for piece in reads.chunks(TRACED) {
            if !self.piece.truncated {
                self.read(piece).await?;
            }
        }
        Ok(())
    }

    async fn read(&mut self, reads: &[Read<'_>]) -> Result<(), StoreError> {
        let wants: Vec<_> = reads.iter().map(|read| read.want).collect();
        let traced = self.store.trace(&self.space, &wants).await?;
        let made = traced.iter().filter_map(|traced| traced.made.as_deref());
        let fresh = made.filter(|made| self.seen.number(&Id::Execution(made.id)).is_none());
        let keys: BTreeSet<_> = fresh.map(|made| made.key.clone()).collect();
        let keys: Vec<_> = keys.into_iter().collect();
        let known = self.store.known_of(&self.space, &keys).await?;
        let verdicts: BTreeMap<_, _> = keys.iter().zip(known.iter().map(Known::verdict)).collect();
        let unmade = reads.iter().zip(&traced).filter(|(_, traced)| traced.made.is_none());
        let unmade = unmade.filter_map(|(read, traced)| Some((read.want.input.key.clone()?, traced.key.clone()?)));
        let unseen = unmade.filter(|(key, _)| self.seen.number(&Id::Key(key.clone())).is_none());
        let described = self.describe_keys(&unseen.collect()).await?;
        for (read, traced) in reads.iter().zip(traced) {
            let met = match (&traced.made, &read.want.input.key) {
                (Some(made), _) => {
                    // Looked up if it is new.
                    let verdict = verdicts.get(&made.key).copied();
                    let node = verdict.map(|verdict| Node { verdict: Some(verdict), ..execution_node(made) });
                    Met { id: Id::Execution(made.id), node, on: Some(From::Execution(made.id)) }
                }
                (None, Some(key)) => {
                    let described = described.get(key);
                    let on = From::key(key, described.and_then(|(_, spec)| *spec));
                    Met { id: Id::Key(key.clone()), node: described.map(|(node, _)| node.clone()), on: Some(on) }
                }
                (None, None) => {
                    let id = content_id(read);
                    let node = bytes_node(&id, traced.held);
                    Met { id, node: Some(node), on: None }
                }
            };
            self.arrive(read.step, read.name.clone(), met);
        }
        Ok(())
    }

    /// What nodes of keys without a success say, and the specs that lead on from them: what each was last attempted with, else
    /// registered with.
    pub(super) async fn describe_keys(&self, keys: &BTreeMap<TaskKey, Known>) -> Result<Keys, StoreError> {
        let evidence: Vec<_> = keys.values().filter_map(Known::evidence).collect();
        let executions = self.store.executions(&self.space, &evidence).await?;
        let attempt = |known: &Known| known.evidence().and_then(|id| executions.get(&id));
        let registered = keys.values().filter(|known| attempt(known).is_none()).filter_map(|known| known.row.spec);
        let registered: Vec<_> = registered.collect::<BTreeSet<_>>().into_iter().collect();
        let mut names = BTreeMap::new();
        for piece in registered.chunks(SPECS) {
            let specs = self.store.specs(&self.space, piece).await?;
            names.extend(specs.into_iter().map(|(digest, spec)| (digest, spec.name)));
        }
        let describe = |key: &TaskKey, known: &Known| {
            let attempt = attempt(known);
            let spec = attempt.map(|execution| execution.spec).or(known.row.spec);
            let registered = || spec.and_then(|spec| names.get(&spec).cloned());
            let node = attempt.map_or_else(|| Node::of(Kind::Key), execution_node);
            let name = node.name.clone().or_else(registered);
            let (key, verdict) = (Some(key.clone()), Some(known.verdict()));
            (Node { kind: Kind::Key, name, key, verdict, ..node }, spec)
        };
        Ok(keys.iter().map(|(key, known)| (key.clone(), describe(key, known))).collect())
    }

    async fn go_to_makers(&mut self, step: &Step, digest: Digest) -> Result<(), StoreError> {
        if !is_telling(&digest) {
            return Ok(());
        }
        let makers = self.store.makers(&self.space, vec![digest]).await?.remove(&digest).unwrap_or_default();
        let made = self.store.successes(&self.space, makers.iter().map(|(_, id)| *id)).await?;
        let keys: Vec<_> = made.values().map(|made| made.key.clone()).collect();
        for (made, known) in made.values().zip(self.store.known_of(&self.space, &keys).await?) {
            let new = Node { verdict: Some(known.verdict()), ..execution_node(made) };
            let (id, on) = (Id::Execution(made.id), From::Execution(made.id));
            self.arrive(step, Bytes::new(), Met { id, node: Some(new), on: Some(on) });
        }
        Ok(())
    }
}

/// Which content an input is that nothing made and no key stands for.
fn content_id(read: &Read<'_>) -> Id {
    let Input { content, execution, .. } = read.want.input;
    match (content, execution) {
        (Some(Content::File { digest, .. }), _) => Id::File(*digest),
        (Some(Content::Directory { digest }), _) => Id::Tree(*digest),
        (_, Some(id)) => Id::Execution(*id),
        // A link, or an input of which nothing is said.
        _ => Id::Other(format!("input {} of node {}", read.name.escape_ascii(), read.step.node)),
    }
}
