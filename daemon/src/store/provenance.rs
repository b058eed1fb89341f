//! Provenance: where inputs came from, and who consumed what was made.
//!
//! Edges are written by commits, before it is known whether they succeed; so whoever follows one looks at what it leads to, and
//! passes over what is no success. Invariant: one call's reads and memory are bounded, whatever others have stored. It must not
//! know the rule by which an input consumes: that is [`provender_core::provenance`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use provender_core::batch::Table;
use provender_core::execution::State;
use provender_core::key::TaskKey;
use provender_core::name::{Name, Space};
use provender_core::provenance::{self, Branch, Made, Origin, Place};
use provender_core::spec::Input;
use provender_core::transition::Known;
use provender_core::{Digest, Execution, ExecutionId, Spec, Timestamp, rows};
use provender_proto::convert::Invalid;
use provender_proto::rows as values;

use super::{Store, StoreError};
use crate::meta::Scan;

/// How many inputs are traced at once.
pub(super) const TRACED: usize = 1_000;
/// How many specs are in memory at once; one has at most 2 MiB.
pub(super) const SPECS: usize = 16;
/// How many digests are scanned for at once.
const SCANS_AT_ONCE: usize = 16;
/// How many that made one digest are looked at.
const MAKERS: usize = 1_000;
/// For how many digests of one call more than the first maker is looked at.
const MAKERS_OF: usize = 200;
/// How many scans for edges one call makes.
const SCANS: usize = 256;

/// An input whose origin is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Want<'a> {
    pub(super) input: &'a Input,
    /// Whose input it is; nobody's if it was never attempted.
    pub(super) consumer: Option<ExecutionId>,
    /// When the consumer began.
    pub(super) began: Timestamp,
}

/// What is known of an input's origin.
#[derive(Debug, Clone, Default)]
pub(super) struct Traced {
    /// The success that made it.
    pub(super) made: Option<Arc<Execution>>,
    /// What is known of its key, if nothing made it.
    pub(super) key: Option<Known>,
    /// Whether the store holds its bytes, if nothing made it.
    pub(super) held: bool,
}

/// What edges begin with, and its number (see [`Made::edge`]).
pub(super) type Prefix = (usize, Bytes);

/// One stored edge: by which of the prefixes it was found, to whom, and as which input (see [`rows::input_mark`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Edge {
    pub(super) from: usize,
    pub(super) consumer: ExecutionId,
    pub(super) mark: Vec<u8>,
}

impl Store {
    /// An execution's inputs, sorted by name, each with its origin: the success that it names; else the record of its key; else
    /// a success that made its bytes; else whether the bytes are held.
    pub async fn inputs(
        &self,
        space: &Space,
        id: ExecutionId,
    ) -> Result<Vec<(Bytes, Origin<Place>, Input)>, StoreError> {
        let (execution, spec) = self.execution_and_spec(space, id).await?;
        let inputs: Vec<_> = spec.inputs.into_iter().collect();
        let mut out = Vec::with_capacity(inputs.len());
        for piece in inputs.chunks(TRACED) {
            let want = |input| Want { input, consumer: Some(id), began: execution.began };
            let wants: Vec<_> = piece.iter().map(|(_, input)| want(input)).collect();
            for ((name, input), traced) in piece.iter().zip(self.trace(space, &wants).await?) {
                let origin = match (traced.made.as_deref().and_then(Place::of), &input.content) {
                    (Some(place), _) => Origin::Made(place),
                    (None, Some(node)) if traced.held => Origin::Held(node.clone()),
                    (None, _) => Origin::Unheld,
                };
                out.push((name.clone(), origin, input.clone()));
            }
        }
        Ok(out)
    }

    /// The successes that consumed what an execution made, each once, after a cursor; and the cursor of the next page, which may
    /// come with nobody.
    pub async fn consumers(
        &self,
        space: &Space,
        id: ExecutionId,
        after: Option<Bytes>,
        limit: usize,
    ) -> Result<(Vec<Place>, Option<Bytes>), StoreError> {
        let (execution, spec) = self.execution_and_spec(space, id).await?;
        let made = self.made(space, &execution, &spec).await?;
        let (edges, next) = self.edges(space, &edge_prefixes(space, &made), after, limit).await?;
        let consumers = self.successes(space, edges.iter().map(|edge| edge.consumer)).await?;
        let mut first = BTreeMap::new();
        let specs: BTreeSet<_> = consumers.values().map(|consumer| consumer.spec).collect();
        for piece in specs.into_iter().collect::<Vec<_>>().chunks(SPECS) {
            let found = self.specs(space, piece).await?;
            let edge = |(digest, spec): (&Digest, &Spec)| Some((*digest, made.edges(spec).into_keys().next()?));
            first.extend(found.iter().filter_map(edge));
        }
        let mut places = Vec::new();
        for Edge { from, consumer, mark } in edges {
            let Some(consumer) = consumers.get(&consumer).filter(|consumer| consumer.id != id) else { continue };
            // Each shows up on the first of its edges.
            if first.get(&consumer.spec) == Some(&(from, mark)) {
                places.extend(Place::of(consumer));
            }
        }
        Ok((places, next))
    }

    /// Whether the success that stands in this folder under its own name is a consumer of what an execution made.
    pub async fn is_consumer(
        &self,
        space: &Space,
        id: ExecutionId,
        name: &Name,
        folder: &str,
    ) -> Result<Option<Place>, StoreError> {
        let Some(consumer) = self.in_folder(space, Branch::Tasks, name, folder).await? else { return Ok(None) };
        let place = Place::of(&consumer).filter(|place| place.name == *name && place.folder == folder);
        let maker = self.executions(space, &[id]).await?.remove(&id);
        let (Some(place), Some(maker), true) = (place, maker, consumer.id != id) else { return Ok(None) };
        let Some(spec) = self.specs(space, &[consumer.spec]).await?.remove(&consumer.spec) else { return Ok(None) };
        let consumed: BTreeSet<_> = spec.inputs.values().filter_map(digest_of).collect();
        let consumed: Vec<_> = consumed.into_iter().collect();
        let edges: Vec<_> = consumed.iter().map(|digest| rows::producer(space, digest, id)).collect();
        let mut digests = Vec::new();
        for (consumed, edges) in consumed.chunks(TRACED).zip(edges.chunks(TRACED)) {
            let found = self.inner.meta.get(edges).await?;
            digests.extend(consumed.iter().zip(found).filter_map(|(digest, row)| row.map(|_| *digest)));
        }
        let made = Made::by(&maker, digests);
        Ok(Some(place).filter(|_| spec.inputs.values().any(|input| made.edge(input).is_some())))
    }

    /// The origins of at most [`TRACED`] inputs, in their order.
    pub(super) async fn trace(&self, space: &Space, wants: &[Want<'_>]) -> Result<Vec<Traced>, StoreError> {
        let mut traced = vec![Traced::default(); wants.len()];
        let named = self.successes(space, wants.iter().filter_map(|want| want.input.execution)).await?;
        for (traced, want) in traced.iter_mut().zip(wants) {
            traced.made = want.input.execution.and_then(|id| named.get(&id).cloned());
        }
        self.trace_keys(space, wants, &mut traced).await?;
        self.trace_bytes(space, wants, &mut traced).await?;
        let unmade = traced.iter().zip(wants).filter(|(traced, _)| traced.made.is_none());
        let held = self.held(space, unmade.filter_map(|(_, want)| digest_of(want.input)).collect()).await?;
        for (traced, want) in traced.iter_mut().zip(wants) {
            traced.held = digest_of(want.input).is_some_and(|digest| held.contains(&digest));
        }
        Ok(traced)
    }

    /// Where no success is named, the record of the key is the origin.
    async fn trace_keys(&self, space: &Space, wants: &[Want<'_>], traced: &mut [Traced]) -> Result<(), StoreError> {
        let unmade = || traced.iter().zip(wants).filter(|(traced, _)| traced.made.is_none());
        let keys: BTreeSet<&TaskKey> = unmade().filter_map(|(_, want)| want.input.key.as_ref()).collect();
        let keys: Vec<TaskKey> = keys.into_iter().cloned().collect();
        let known: BTreeMap<_, _> = keys.iter().zip(self.known_of(space, &keys).await?).collect();
        let answers = known.values().filter_map(Known::answer).map(|record| record.execution);
        let records = self.successes(space, answers).await?;
        for (traced, want) in traced.iter_mut().zip(wants).filter(|(traced, _)| traced.made.is_none()) {
            let Some(known) = want.input.key.as_ref().and_then(|key| known.get(key)) else { continue };
            traced.made = known.answer().and_then(|record| records.get(&record.execution).cloned());
            traced.key = Some(known.clone());
        }
        Ok(())
    }

    /// Where no key has a record, a success that made the same bytes is the origin.
    async fn trace_bytes(&self, space: &Space, wants: &[Want<'_>], traced: &mut [Traced]) -> Result<(), StoreError> {
        let unmade = traced.iter().zip(wants).filter(|(traced, _)| traced.made.is_none());
        let digests: BTreeSet<_> = unmade.filter_map(|(_, want)| digest_of(want.input)).collect();
        let makers = self.makers(space, digests.into_iter().filter(provenance::is_telling).collect()).await?;
        let taken = traced.iter().zip(wants).map(|(traced, want)| {
            let makers = digest_of(want.input).filter(|_| traced.made.is_none()).and_then(|digest| makers.get(&digest));
            makers.and_then(|makers| provenance::maker(makers, want.consumer, want.began))
        });
        let taken: Vec<_> = taken.collect();
        let found = self.successes(space, taken.iter().copied().flatten()).await?;
        for (traced, taken) in traced.iter_mut().zip(taken) {
            if let Some(made) = taken.and_then(|id| found.get(&id)) {
                traced.made = Some(made.clone());
            }
        }
        Ok(())
    }

    /// Of each digest the successes that made it, as far as they are looked at.
    pub(super) async fn makers(
        &self,
        space: &Space,
        digests: Vec<Digest>,
    ) -> Result<BTreeMap<Digest, Vec<(Timestamp, ExecutionId)>>, StoreError> {
        if digests.is_empty() {
            return Ok(BTreeMap::new());
        }
        let markers: Vec<_> = digests.iter().map(|digest| rows::maker(space, digest)).collect();
        let (mut first, mut several) = (BTreeMap::new(), Vec::new());
        for (digest, row) in digests.iter().zip(self.inner.meta.get(&markers).await?) {
            let Some(row) = row else { continue };
            let (id, others) = values::maker_from(row.value).map_err(StoreError::row(digest))?;
            if others && several.len() < MAKERS_OF { several.push(*digest) } else { _ = first.insert(*digest, id) }
        }
        let light = |execution: &Arc<Execution>| (execution.ended.unwrap_or_default(), execution.id);
        let found = self.successes(space, first.values().copied()).await?;
        let mut makers: BTreeMap<_, _> =
            first.iter().filter_map(|(digest, id)| Some((*digest, vec![light(found.get(id)?)]))).collect();
        let scanned = stream::iter(several).map(|digest| async move {
            let scan = Scan { limit: MAKERS, ..Scan::prefix(Table::Producer, rows::producers_prefix(space, &digest)) };
            let page = self.inner.meta.scan(&scan).await?;
            let ids = page.rows.iter().filter_map(|(key, _)| rows::trailing_execution(key));
            let found = self.successes(space, ids).await?;
            Ok::<_, StoreError>((digest, found.values().map(light).collect::<Vec<_>>()))
        });
        makers.extend(scanned.buffer_unordered(SCANS_AT_ONCE).try_collect::<Vec<_>>().await?);
        Ok(makers)
    }

    /// Notes down who was the first to make bytes, and that there are others, so that who asks for the origin of many need not scan
    /// for each.
    pub(super) async fn write_makers(
        &self,
        space: &Space,
        id: ExecutionId,
        made: &BTreeSet<Digest>,
    ) -> Result<(), StoreError> {
        let made: Vec<_> = made.iter().map(|digest| rows::maker(space, digest)).collect();
        for piece in made.chunks(TRACED) {
            self.transact(|mut txn| async move {
                // Each row changes twice at most: only when it has to is it a reason to collide.
                let found = self.inner.meta.get(piece).await?;
                let change = |row: Option<&provender_core::batch::Row>| {
                    let there = row.map(|row| values::maker_from(row.value.clone())).transpose();
                    Ok::<_, StoreError>(match there.map_err(StoreError::row("who made bytes"))? {
                        None => Some(values::maker_to(id, false)),
                        Some((first, false)) if first != id => Some(values::maker_to(first, true)),
                        Some(_) => None,
                    })
                };
                let mut changing = Vec::new();
                for (row, found) in piece.iter().zip(&found) {
                    changing.extend(change(found.as_ref())?.map(|_| row.clone()));
                }
                for (row, found) in changing.iter().zip(txn.get(&changing).await?) {
                    if let Some(value) = change(found.as_ref())? {
                        txn.put(row.clone(), value);
                    }
                }
                Ok((txn, ()))
            })
            .await?;
        }
        Ok(())
    }

    /// What an execution is known to have made: its root, and what stands at the paths that its spec names.
    pub(super) async fn made(&self, space: &Space, execution: &Execution, spec: &Spec) -> Result<Made, StoreError> {
        let Some(root) = execution.outcome.outputs else { return Ok(Made::by(execution, [])) };
        match execution.state {
            State::Succeeded => Ok(Made::by(execution, self.stands_at(space, root, spec).await?)),
            _ => Ok(Made::by(execution, [root])),
        }
    }

    /// A root, and what stands in it at the paths that a spec names, as far as its trees can be read.
    pub(super) async fn stands_at(
        &self,
        space: &Space,
        root: Digest,
        spec: &Spec,
    ) -> Result<BTreeSet<Digest>, StoreError> {
        let mut digests = BTreeSet::from([root]);
        let paths: Vec<_> = spec.outputs.iter().chain(spec.policy.required.keys()).collect();
        if paths.is_empty() {
            return Ok(digests);
        }
        match self.find_paths(space, root, paths.into_iter()).await {
            Ok((_, found)) => digests.extend(found),
            // Of what has lost its trees the root is still known.
            Err(StoreError::NotFound { .. } | StoreError::Lost { .. } | StoreError::Tree { .. }) => {}
            Err(error) => return Err(error),
        }
        Ok(digests)
    }

    /// A page of the edges that begin with these prefixes, in their order, after a cursor; and the cursor of the next page, which
    /// may come with no edges.
    pub(super) async fn edges(
        &self,
        space: &Space,
        prefixes: &[Prefix],
        after: Option<Bytes>,
        limit: usize,
    ) -> Result<(Vec<Edge>, Option<Bytes>), StoreError> {
        let mut at = match &after {
            None => 0,
            Some(cursor) => {
                let at = prefixes.iter().position(|(_, prefix)| cursor.starts_with(prefix));
                at.ok_or_else(|| Invalid::new("cursor", format!("is none of this question in {space:?}")))?
            }
        };
        let (mut edges, mut after, mut scans) = (Vec::new(), after, 0);
        while let Some((from, prefix)) = prefixes.get(at) {
            if edges.len() >= limit || scans == SCANS {
                return Ok((edges, Some(after.unwrap_or_else(|| prefix.clone()))));
            }
            scans += 1;
            let limit = limit - edges.len();
            let scan = Scan { after: after.take(), limit, ..Scan::prefix(Table::Consumer, prefix.clone()) };
            let page = self.inner.meta.scan(&scan).await?;
            for (row, _) in &page.rows {
                let damaged = || StoreError::Row { what: format!("{row:?}"), why: "it is no edge".into() };
                let (consumer, mark) = rows::parse_consumer(prefix, row).ok_or_else(damaged)?;
                edges.push(Edge { from: *from, consumer, mark: mark.to_vec() });
            }
            match page.rows.into_iter().next_back() {
                Some((last, _)) if page.more => after = Some(last),
                _ => at += 1,
            }
        }
        Ok((edges, None))
    }

    /// Those of the executions that succeeded and still have a folder.
    pub(super) async fn successes(
        &self,
        space: &Space,
        ids: impl Iterator<Item = ExecutionId>,
    ) -> Result<BTreeMap<ExecutionId, Arc<Execution>>, StoreError> {
        let ids: Vec<_> = ids.collect::<BTreeSet<_>>().into_iter().collect();
        let found = self.executions(space, &ids).await?;
        let shown = |execution: &Execution| execution.state == State::Succeeded && execution.folder.is_some();
        let found = found.into_iter().filter(|(_, execution)| shown(execution));
        Ok(found.map(|(id, execution)| (id, Arc::new(execution))).collect())
    }

    /// Those of the specs that there are: at most [`SPECS`] at once.
    pub(super) async fn specs(&self, space: &Space, digests: &[Digest]) -> Result<BTreeMap<Digest, Spec>, StoreError> {
        let wanted: Vec<_> = digests.iter().map(|digest| rows::spec(space, digest)).collect();
        let found = digests.iter().zip(self.inner.meta.get(&wanted).await?);
        let decode = |digest: &Digest, row: provender_core::batch::Row| {
            let what = format!("the spec {}", digest.hex());
            Ok((*digest, values::spec_from(row.value).map_err(StoreError::row(what))?))
        };
        found.filter_map(|(digest, row)| row.map(|row| decode(digest, row))).collect()
    }

    /// Those of the blobs that the space holds. Unlike an answer to who uploads, it protects nothing.
    pub(super) async fn held(&self, space: &Space, digests: BTreeSet<Digest>) -> Result<BTreeSet<Digest>, StoreError> {
        if digests.is_empty() {
            return Ok(digests);
        }
        let wanted: Vec<_> =
            digests.iter().flat_map(|digest| [rows::holding(space, digest), rows::blob(digest)]).collect();
        let found = self.inner.meta.get(&wanted).await?;
        let pairs = digests.iter().zip(found.chunks_exact(2));
        Ok(pairs.filter(|(_, pair)| pair.iter().all(Option::is_some)).map(|(digest, _)| *digest).collect())
    }
}

/// What the edges from what was made begin with.
pub(super) fn edge_prefixes(space: &Space, made: &Made) -> Vec<Prefix> {
    let key = made.key.iter().map(|key| (0, rows::consumers_of_key_prefix(space, key)));
    let digests = made.digests.iter().enumerate();
    key.chain(digests.map(|(at, digest)| (at + 1, rows::consumers_of_digest_prefix(space, digest)))).collect()
}

fn digest_of(input: &Input) -> Option<Digest> {
    input.content.as_ref().and_then(provender_core::Node::digest)
}

#[cfg(test)]
pub(super) mod tests;
