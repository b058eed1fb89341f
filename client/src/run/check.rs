//! `provender run --check`: run on purpose what has a record, and say what comes out differently.
//!
//! Invariant: a check never changes a build: what stands at the outputs after a success is what the record holds, whatever was made. It
//! must not know which of the two is right; the record stays the answer.

use bytes::{Buf, Bytes};
use provender_core::diff::{Diff, Difference, Step};
use provender_core::tree::{MAX_ENCODED, Tree};
use provender_core::{Digest, Execution, ExecutionId, Ref};

use super::RunError;
use super::attempt::{Site, Work};
use crate::client::{Client, Described};
use crate::error::ClientError;
use crate::files::Captured;
use crate::process::Command;

/// How many differences are told.
const TOLD: usize = 1_000;
/// How many pairs of folders are looked into.
const OPENED: usize = 10_000;

/// What a check came to.
#[derive(Debug)]
pub struct Checked {
    /// The execution that was the check.
    pub execution: Box<Execution>,
    /// The one that it was checked against: the record.
    pub record: Box<Execution>,
    /// Where their outputs differ; nowhere, if it was the same again.
    pub differences: Vec<Differs>,
    /// Whether there are more than are told.
    pub more: bool,
    /// Why no more could be compared, if so: what the record made may be lost.
    pub unread: Option<String>,
}

impl Checked {
    /// Whether the outputs are the same.
    pub fn same(&self) -> bool {
        self.execution.outcome.outputs == self.record.outcome.outputs
    }
}

/// A path at which two outputs differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Differs {
    /// The path, and what stands there on both sides.
    pub difference: Difference,
    /// Of two files with different bytes, the offset of the first byte that differs, or that only one of them has.
    pub first: Option<u64>,
}

/// Work of which nothing stays in place.
pub(super) struct Unmoved<W>(pub(super) W);

impl<W: Work> Work for Unmoved<W> {
    async fn prepare(&mut self, site: Site<'_>) -> Result<Command, RunError> {
        self.0.prepare(site).await
    }

    async fn look_again(&self) -> Result<(), String> {
        self.0.look_again().await
    }

    async fn capture(&self) -> Result<Captured, String> {
        self.0.capture().await
    }

    async fn settle(self, _: bool) {
        self.0.settle(false).await;
    }
}

/// Compares a success with the record that it is a check of; `None` if that was void by then, so that the success is the record now.
pub(super) async fn judge(
    client: &Client,
    record: ExecutionId,
    execution: &Execution,
) -> Result<Option<Checked>, ClientError> {
    let Described::Task(first) = client.describe(&Ref::Execution(record)).await? else { return Ok(None) };
    let (old, new) = (first.execution.outcome.outputs, execution.outcome.outputs);
    let (mut found, mut more, mut unread) = (Vec::new(), false, None);
    match (execution.diverges_from, old, new) {
        (None, old, new) if old != new => return Ok(None),
        (_, Some(old), Some(new)) => match differences(client, old, new, &mut found).await {
            Ok(beyond) => more = beyond,
            // That they differ is known, and has to be said.
            Err(error) => unread = Some(error.to_string()),
        },
        _ => {}
    }
    let (execution, record) = (Box::new(execution.clone()), Box::new(first.execution));
    Ok(Some(Checked { execution, record, differences: found, more, unread }))
}

/// Finds where two trees differ, in their order; whether there is more than is told.
async fn differences(client: &Client, old: Digest, new: Digest, found: &mut Vec<Differs>) -> Result<bool, ClientError> {
    let (mut diff, mut opened) = (Diff::new(old, new), 0);
    while let Some(step) = diff.step() {
        match step {
            Step::Differs(_) if found.len() == TOLD => return Ok(true),
            Step::Differs(difference) => {
                let first = match difference.contents() {
                    Some((old, new)) => Some(first_difference(client, &old, &new).await?),
                    None => None,
                };
                found.push(Differs { difference, first });
            }
            Step::Open(..) if opened == OPENED => return Ok(true),
            Step::Open(old, new) => {
                opened += 1;
                let (old, new) = (tree(client, old).await?, tree(client, new).await?);
                if diff.open(old.as_ref(), new.as_ref()).is_err() {
                    return Ok(true);
                }
            }
        }
    }
    Ok(false)
}

async fn tree(client: &Client, digest: Option<Digest>) -> Result<Option<Tree>, ClientError> {
    let Some(digest) = digest else { return Ok(None) };
    let bytes = client.bytes(&digest, MAX_ENCODED).await?.into();
    let damaged = |error| provender_proto::convert::Invalid::new("tree", error);
    Ok(Some(Tree::decode(&bytes).map_err(damaged)?))
}

/// The offset of the first byte in which two blobs differ, or at which the shorter one ends. They are read no further, in pieces.
async fn first_difference(client: &Client, old: &Digest, new: &Digest) -> Result<u64, ClientError> {
    let (mut old, mut new) = (client.download(old, 0, 0).await?, client.download(new, 0, 0).await?);
    let (mut left, mut right, mut at) = (Bytes::new(), Bytes::new(), 0);
    loop {
        for (piece, download) in [(&mut left, &mut old), (&mut right, &mut new)] {
            while piece.is_empty() {
                match download.next().await? {
                    Some(next) => *piece = next,
                    None => break,
                }
            }
        }
        let both = left.len().min(right.len());
        if let Some(within) = left.iter().zip(&right).position(|(left, right)| left != right) {
            return Ok(at + within as u64);
        }
        if both == 0 {
            return Ok(at);
        }
        at += both as u64;
        left.advance(both);
        right.advance(both);
    }
}
