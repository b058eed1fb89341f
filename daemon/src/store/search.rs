//! Searching: which executions conditions hold of, newest first.
//!
//! Conditions on one value have lists in the index, which are cut with each other block by block. A range or prefix is many lists: if these are
//! fewer than [`RACE`] rows and end before any other, they are put in order and looked through. What is left is decided by looking at
//! the executions. Invariants: one call's reads and memory are bounded; the cursor is the place of the last one looked at, so whoever goes on
//! sees each once. What a condition means is [`provender_core::search`]'s.

mod lists;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use provender_core::batch::Table;
use provender_core::name::Space;
use provender_core::search::{Place, Query, Reach};
use provender_core::{Digest, Execution, rows};
use provender_proto::convert::Invalid;

use super::catalog::{PAGE_BYTES, execution_weight};
use super::provenance::SPECS;
use super::{Store, StoreError};
use crate::meta::Scan;
use lists::Block;

/// How many rows of each condition are read to find out which one has the fewest.
const RACE: usize = 10_000;
/// How many rows of each are read first.
const START: usize = 32;
/// How many places one call looks at, at most, and how many of their executions.
const LOOK_AT: usize = 10_000;
const EXECUTIONS: usize = 2_000;
/// How many executions are looked at at once.
const AT_ONCE: usize = 64;

/// Many lists, one after the other: the rows of a table's part above and below two keys.
#[derive(Debug, Clone)]
struct Span {
    prefix: Bytes,
    above: Bytes,
    below: Bytes,
}

/// What is gone through.
#[derive(Debug)]
enum Drive {
    /// Lists that are cut with each other.
    Lists,
    /// These places, newest first.
    Places(Vec<Place>),
}

/// Where a search goes on.
#[derive(Debug, Clone, Copy)]
struct Cursor {
    /// Whether no range was found to be small.
    large: bool,
    after: Option<Place>,
}

impl Cursor {
    fn parse(cursor: Option<Bytes>) -> Result<Cursor, StoreError> {
        let Some(cursor) = cursor else { return Ok(Cursor { large: false, after: None }) };
        match (cursor.first(), <[u8; 24]>::try_from(cursor.get(1..).unwrap_or_default())) {
            (Some(large @ (0 | 1)), Ok(place)) => Ok(Cursor { large: *large == 1, after: Some(Place(place)) }),
            _ => Err(Invalid::new("cursor", "is none of a search: give one that the page before ended with").into()),
        }
    }

    fn at(large: bool, place: Place) -> Bytes {
        [&[u8::from(large)][..], &place.0].concat().into()
    }
}

impl Store {
    /// Executions of which a query holds, newest first, and where to go on. A page may be short, or empty, and not be the last.
    pub async fn search(
        &self,
        space: &Space,
        query: &Query,
        cursor: Option<Bytes>,
        limit: usize,
    ) -> Result<(Vec<Execution>, Option<Bytes>), StoreError> {
        let Cursor { mut large, mut after } = Cursor::parse(cursor)?;
        let Some(window) = query.window() else { return Ok((Vec::new(), None)) };
        after = after.max(window.after());
        let (mut lists, mut spans) = (Vec::new(), Vec::new());
        for condition in query.conditions() {
            match condition.reach() {
                Reach::List(term) => lists.push(rows::postings_prefix(space, condition.field(), &term)),
                Reach::Span(above, below) => spans.push(span(space, condition.field(), &above, &below)),
                Reach::Time(_) => {}
            }
        }
        let drive = match spans.is_empty() || large {
            true => Drive::Lists,
            false => self.race(&lists, &spans, after).await?.unwrap_or_else(|| {
                large = true;
                Drive::Lists
            }),
        };
        if lists.is_empty() && matches!(drive, Drive::Lists) {
            lists.push(rows::postings_prefix(space, "", &[]));
        }
        let from = after;
        let mut places = match drive {
            Drive::Places(places) => Some(places.into_iter().filter(move |place| Some(*place) > from).peekable()),
            Drive::Lists => None,
        };
        let (mut found, mut weight) = (Vec::new(), 0);
        let (mut looked, mut executions, mut size) = (0, 0, limit.clamp(START, 256));
        loop {
            let block = match &mut places {
                Some(places) => {
                    let block: Vec<_> = places.by_ref().take(size).collect();
                    let up_to = block.last().copied().filter(|_| places.peek().is_some());
                    looked += block.len();
                    let first: Vec<_> = block.iter().map(|place| (*place, 0..lists.len())).collect();
                    Block { places: self.in_lists(&lists, first).await?, up_to, looked: 0 }
                }
                None => self.cut(&lists, after, size).await?,
            };
            looked += block.looked;
            size = (size * 2).min(1_000);
            let within = block.places.partition_point(|place| !window.is_past(place));
            let mut rest = &block.places[..within];
            while !rest.is_empty() {
                let (some, others) = rest.split_at(rest.len().min((limit - found.len()).clamp(START, AT_ONCE)));
                rest = others;
                let matching = self.matching(space, query, some).await?;
                executions += some.len();
                for place in some {
                    let Some(execution) = matching.get(place) else { continue };
                    weight += execution_weight(execution);
                    found.push(execution.clone());
                    if found.len() >= limit || weight >= PAGE_BYTES {
                        return Ok((found, Some(Cursor::at(large, *place))));
                    }
                }
                if let (Some(last), true) = (some.last(), executions >= EXECUTIONS) {
                    return Ok((found, Some(Cursor::at(large, *last))));
                }
            }
            match block.up_to {
                None => return Ok((found, None)),
                Some(up_to) if window.is_past(&up_to) => return Ok((found, None)),
                Some(up_to) if looked >= LOOK_AT => return Ok((found, Some(Cursor::at(large, up_to)))),
                Some(up_to) => after = Some(up_to),
            }
        }
    }

    /// Reads of all conditions in turn, and more each time, until one ends: if it is a span, its places, newest first; `None` if all
    /// are long.
    async fn race(&self, lists: &[Bytes], spans: &[Span], after: Option<Place>) -> Result<Option<Drive>, StoreError> {
        let mut so_far = vec![(Vec::new(), None); spans.len()];
        let mut list_after: Vec<_> = lists.iter().map(|list| after.map(|after| lists::behind(list, after))).collect();
        let (mut size, mut all) = (START, 0);
        while all < RACE {
            for (list, after) in lists.iter().zip(&mut list_after) {
                let scan = Scan { after: after.take(), limit: size, ..Scan::prefix(Table::Index, list.clone()) };
                let page = self.inner.meta.scan(&scan).await?;
                if !page.more {
                    return Ok(Some(Drive::Lists));
                }
                *after = page.rows.into_iter().next_back().map(|(key, _)| key);
            }
            for (span, (places, after)) in spans.iter().zip(&mut so_far) {
                let start = after.take().unwrap_or_else(|| span.above.clone());
                let prefix = span.prefix.clone();
                let scan = Scan { after: Some(start), limit: size, ..Scan::prefix(Table::Index, prefix) };
                let page = self.inner.meta.scan(&scan).await?;
                let within = page.rows.iter().take_while(|(key, _)| *key < span.below);
                let before = places.len();
                places.extend(within.filter_map(|(key, _)| rows::parse_place(key)));
                if !page.more || places.len() - before < page.rows.len() {
                    // One execution may have several values within.
                    let places: BTreeSet<Place> = std::mem::take(places).into_iter().collect();
                    return Ok(Some(Drive::Places(places.into_iter().collect())));
                }
                *after = page.rows.into_iter().next_back().map(|(key, _)| key);
            }
            all += size;
            size = (size * 4).min(RACE - all.min(RACE - 1));
        }
        Ok(None)
    }

    /// Those of the executions at these places of which the query holds.
    async fn matching(
        &self,
        space: &Space,
        query: &Query,
        places: &[Place],
    ) -> Result<BTreeMap<Place, Execution>, StoreError> {
        let ids: Vec<_> = places.iter().map(Place::execution).collect();
        let executions = self.executions(space, &ids).await?;
        // Each at its own place: a row of a begin that was decided anew stands at another time, and finds nothing.
        let place_of = |execution: &Execution| Place::new(execution.began, execution.id);
        let (mut matching, mut open) = (BTreeMap::new(), Vec::new());
        for execution in executions.into_values() {
            match query.matches_execution(&execution) {
                Some(true) => _ = matching.insert(place_of(&execution), execution),
                Some(false) => {}
                None => open.push(execution),
            }
        }
        let digests: BTreeSet<Digest> = open.iter().map(|execution| execution.spec).collect();
        for digests in digests.into_iter().collect::<Vec<_>>().chunks(SPECS) {
            let specs = self.specs(space, digests).await?;
            for execution in &open {
                if specs.get(&execution.spec).is_some_and(|spec| query.matches(execution, spec)) {
                    matching.insert(place_of(execution), execution.clone());
                }
            }
        }
        Ok(matching)
    }
}

/// A part of a field's lists, as rows.
fn span(space: &Space, field: &str, above: &[u8], below: &[u8]) -> Span {
    let same = above.iter().zip(below).take_while(|(a, b)| a == b).count();
    let row = |term: &[u8]| rows::postings_prefix(space, field, term);
    Span { prefix: row(&above[..same]), above: row(above), below: row(below) }
}

#[cfg(test)]
mod tests;
