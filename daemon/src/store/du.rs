//! What is stored, part by part: what each name, executor or age has, and what it alone has.
//!
//! Invariants: bytes that several executions of a group share are counted once for it; a group's own bytes are those that nothing outside of
//! it refers to, so they are what deleting the group would free. Memory follows the blobs of the executions that are looked at: 48 bytes for
//! each in each group, so it goes through them in parts of the digests' range where they are many.

use std::collections::{BTreeMap, HashMap};

use provender_core::batch::Table;
use provender_core::collect::{self, References};
use provender_core::execution::State;
use provender_core::name::Space;
use provender_core::{Digest, Execution, Timestamp, rows};
use provender_proto::rows as values;

use super::hold::UNNOTICED;
use super::{Store, StoreError};
use crate::clock;
use crate::meta::Scan;

/// How many executions, and how many of the blobs that they refer to, are read at once.
const PAGE: usize = 500;
const BLOBS: u64 = 1_000;
/// How many blobs are in memory at once; with more, all executions are gone through again for the next part of them.
const MOST: usize = 4_000_000;
/// The most groups; the rest is one.
const GROUPS: usize = 10_000;
const DAY: u64 = 24 * 3600 * 1000;

/// What the groups are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The part of the name that follows the prefix.
    Name,
    /// Who ran it, and where.
    Executor,
    /// How long ago it ended.
    Age,
}

/// What a part of the store has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Group {
    /// What it is.
    pub label: String,
    /// Its executions.
    pub executions: u64,
    /// Of these, records that are answered with.
    pub records: u64,
    /// The bytes of all blobs that they refer to.
    pub bytes: u64,
    /// Of these, the bytes of blobs that nothing outside of the group refers to.
    pub own: u64,
}

/// What the store has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Du {
    /// All executions that were looked at, as one group.
    pub all: Group,
    /// The groups, those that have most first.
    pub groups: Vec<Group>,
    /// The bytes that all blobs of the store take.
    pub stored: u64,
}

/// How often the groups refer to the blobs of a part of all digests.
#[derive(Default)]
struct Seen {
    blobs: HashMap<Digest, Referred>,
}

/// A blob that was seen.
struct Referred {
    /// The bytes that it takes.
    bytes: u64,
    /// How many refer to it.
    count: u64,
    /// How many of each group do.
    of: Vec<(u32, u64)>,
}

impl Store {
    /// What the executions below a prefix of names have; `tell` is told now and then how many were looked at.
    pub async fn du(
        &self,
        space: &Space,
        prefix: &str,
        by: By,
        tell: &mut (dyn FnMut(u64) + Send + Sync),
    ) -> Result<Du, StoreError> {
        let now = clock::now();
        let (mut labels, mut groups) = (BTreeMap::new(), Vec::<Group>::new());
        let (mut parts, mut part, mut looked_at) = (1_u32, 0_u32, 0);
        let mut all = Group { label: String::new(), ..Group::default() };
        while part < parts {
            let mut seen = Seen::default();
            let mut scan = Scan { limit: PAGE, ..Scan::prefix(Table::NameHistory, rows::space_prefix(space)) };
            loop {
                let page = self.inner.meta.scan(&scan).await?;
                let ids: Vec<_> = page.rows.iter().filter_map(|(key, _)| rows::trailing_execution(key)).collect();
                for execution in self.executions(space, &ids).await?.into_values() {
                    let name = execution.name.as_str();
                    if execution.state == State::Running || !collect::rules::covers(prefix, name) {
                        continue;
                    }
                    let label = label(&execution, prefix, by, now);
                    let known = labels.len();
                    let group = match labels.get(&label) {
                        Some(group) => *group,
                        None if known >= GROUPS => *labels.entry("…".into()).or_insert(known as u32),
                        None => *labels.entry(label).or_insert(known as u32),
                    };
                    if groups.len() < labels.len() {
                        groups.push(Group::default());
                    }
                    if part == 0 {
                        let is_record = self.is_answer(space, &execution).await?;
                        for group in [&mut groups[group as usize], &mut all] {
                            group.executions += 1;
                            group.records += u64::from(is_record);
                        }
                        looked_at += 1;
                    }
                    self.see(space, &execution, group, (part, parts), &mut seen).await?;
                    if seen.blobs.len() > MOST {
                        break;
                    }
                }
                tell(looked_at);
                scan.after = page.rows.last().map(|(key, _)| key.clone());
                if !page.more {
                    break;
                }
                // Begun again in smaller parts, as if nothing had been looked at.
                if seen.blobs.len() > MOST {
                    break;
                }
            }
            if seen.blobs.len() > MOST {
                (parts, part, looked_at) = (parts * 2, 0, 0);
                (labels, groups, all) = (BTreeMap::new(), Vec::new(), Group::default());
                continue;
            }
            seen.add(&mut groups, &mut all);
            part += 1;
        }
        for (label, group) in labels {
            groups[group as usize].label = label;
        }
        groups.sort_by(|a, b| (b.bytes, &a.label).cmp(&(a.bytes, &b.label)));
        Ok(Du { all, groups, stored: self.usage().await? })
    }

    async fn is_answer(&self, space: &Space, execution: &Execution) -> Result<bool, StoreError> {
        let row = self.inner.meta.get(&[rows::key(space, &execution.key)]).await?.pop().flatten();
        let row = row.map(|row| values::key_from(row.value)).transpose().map_err(StoreError::row(&execution.key))?;
        let record = row.and_then(|row| row.record).filter(|record| record.void.is_none());
        Ok(record.is_some_and(|record| record.execution == execution.id))
    }

    /// Notes the blobs that an execution refers to, of this part.
    async fn see(
        &self,
        space: &Space,
        execution: &Execution,
        group: u32,
        (part, parts): (u32, u32),
        seen: &mut Seen,
    ) -> Result<(), StoreError> {
        let References { blobs: mut digests, closure, .. } = References::of(execution);
        digests.extend(closure);
        let (listed, mut at) = (closure.map_or(0, |closure| closure.size / 40), 0);
        loop {
            if let Some(closure) = closure.filter(|_| at < listed) {
                let next = listed.min(at + BLOBS);
                match UNNOTICED.scope((), self.read_part(space, &closure, 40 * at..40 * next)).await {
                    Ok(bytes) => digests.extend(values::digests_from(&bytes).map_err(StoreError::row(closure))?),
                    Err(StoreError::Lost { .. } | StoreError::NotFound { .. }) => at = listed,
                    Err(error) => return Err(error),
                }
                at = at.max(next);
            }
            digests.retain(|digest| {
                let [first, second, ..] = digest.hash;
                (u64::from(u16::from_be_bytes([first, second])) * u64::from(parts)) >> 16 == u64::from(part)
            });
            let wanted: Vec<_> =
                digests.iter().flat_map(|digest| [rows::blob(digest), rows::count(space, digest)]).collect();
            let found = self.inner.meta.get(&wanted).await?;
            for (digest, pair) in digests.drain(..).zip(found.chunks_exact(2)) {
                let Some(stored) = &pair[0] else { continue };
                let stored = values::blob_from(stored.value.clone()).map_err(StoreError::row(digest))?;
                let count = pair[1].as_ref().map_or(Ok(1), |row| values::count_from(row.value.clone()));
                let count = count.map_err(StoreError::row(digest))?;
                let fresh = || Referred { bytes: stored.bytes(&digest), count, of: Vec::new() };
                let of = &mut seen.blobs.entry(digest).or_insert_with(fresh).of;
                match of.iter_mut().find(|(of, _)| *of == group) {
                    Some((_, times)) => *times += 1,
                    None => of.push((group, 1)),
                }
            }
            // If it is too much, it is begun again.
            if at >= listed || seen.blobs.len() > MOST {
                return Ok(());
            }
        }
    }
}

impl Seen {
    fn add(self, groups: &mut [Group], all: &mut Group) {
        for Referred { bytes, count, of } in self.blobs.into_values() {
            let times: u64 = of.iter().map(|(_, times)| times).sum();
            for (group, times) in of {
                let group = &mut groups[group as usize];
                group.bytes += bytes;
                group.own += if times >= count { bytes } else { 0 };
            }
            all.bytes += bytes;
            all.own += if times >= count { bytes } else { 0 };
        }
    }
}

fn label(execution: &Execution, prefix: &str, by: By, now: Timestamp) -> String {
    match by {
        By::Name => {
            let below = execution.name.as_str().get(prefix.trim_end_matches('/').len()..).unwrap_or_default();
            let first = below.trim_start_matches('/').split('/').next().unwrap_or_default();
            let prefix = prefix.trim_end_matches('/');
            match (prefix.is_empty(), first.is_empty()) {
                (true, _) => first.to_owned(),
                (false, true) => prefix.to_owned(),
                (false, false) => format!("{prefix}/{first}"),
            }
        }
        By::Executor => format!("{}@{}", execution.executor.user, execution.executor.host),
        By::Age => {
            let days = now.millis().saturating_sub(execution.ended.unwrap_or_default().millis()) / DAY;
            let bound = [1, 7, 30, 90, 365].into_iter().find(|bound| days < *bound);
            bound.map_or("365 days or more".into(), |bound| format!("less than {bound} days"))
        }
    }
}
