//! What is in inputs that nobody is known to have made, path by path as far as their folders are held.

use std::sync::Arc;

use bytes::Bytes;
use provender_blobs::BlobError;
use provender_core::compare::Difference;
use provender_core::diff::{self, Diff, Step};
use provender_core::name::Space;
use provender_core::{Digest, Node};

use super::Comparing;
use crate::store::{Store, StoreError};

/// How many pairs of folders of one input are looked into.
const OPENED: usize = 10_000;

/// Where two trees differ, as far as that could be found out.
#[derive(Debug, Default)]
pub(in crate::store) struct Differences {
    pub(in crate::store) differences: Vec<diff::Difference>,
    /// Whether there is more.
    pub(in crate::store) more: bool,
    /// Why the rest is not known, if it is not.
    pub(in crate::store) unread: Option<String>,
}

impl Store {
    /// Where two trees differ, in their order: at most `limit` paths.
    pub(in crate::store) async fn differences(
        &self,
        space: &Space,
        old: Digest,
        new: Digest,
        limit: usize,
    ) -> Result<Differences, StoreError> {
        let (mut diff, mut opened, mut walked) = (Diff::new(old, new), 0, Differences::default());
        while let Some(step) = diff.step() {
            match step {
                Step::Differs(_) if walked.differences.len() >= limit => walked.more = true,
                Step::Differs(difference) => walked.differences.push(difference),
                Step::Open(..) if opened == OPENED => walked.more = true,
                Step::Open(old, new) => {
                    opened += 1;
                    let mut trees = [None, None];
                    for (tree, digest) in trees.iter_mut().zip([old, new]) {
                        let Some(digest) = digest else { continue };
                        match self.tree(space, &digest).await {
                            Ok(read) => *tree = Some(read),
                            Err(error) if is_gone(&error) => walked.unread = Some(error.to_string()),
                            Err(error) => return Err(error),
                        }
                    }
                    let [old, new] = &trees;
                    if walked.unread.is_none() && diff.open(old.as_ref(), new.as_ref()).is_err() {
                        walked.more = true;
                    }
                }
            }
            if walked.more || walked.unread.is_some() {
                break;
            }
        }
        Ok(walked)
    }
}

/// Whether bytes cannot be had, now and if it is tried again.
fn is_gone(error: &StoreError) -> bool {
    use StoreError::{Blobs, Lost, NotFound, Tree};
    matches!(
        error,
        NotFound { .. } | Lost { .. } | Tree { .. } | Blobs(BlobError::NotFound { .. } | BlobError::Corrupt { .. })
    )
}

/// Of a folder that only one side has, what is in it says all.
fn leave_out_folders(differences: &mut Vec<diff::Difference>) {
    let is_above = |one: &diff::Difference, next: &diff::Difference| {
        next.path.strip_prefix(&one.path[..]).is_some_and(|rest| rest.starts_with(b"/"))
    };
    let is_folder = |node: &Option<Node>| matches!(node, None | Some(Node::Directory { .. }));
    let above: Vec<_> = differences
        .windows(2)
        .map(|two| is_folder(&two[0].old) && is_folder(&two[0].new) && is_above(&two[0], &two[1]))
        .collect();
    let mut above = above.into_iter();
    differences.retain(|_| !above.next().unwrap_or(false));
}

impl Comparing {
    /// What differs between two contents of an input, which are not the same; whether there is more.
    pub(super) async fn contents(
        &mut self,
        input: &Bytes,
        old: &Node,
        new: &Node,
    ) -> Result<(Vec<Difference>, bool), StoreError> {
        let whole = || Difference::Content {
            input: input.clone(),
            path: Bytes::new(),
            old: Some(old.clone()),
            new: Some(new.clone()),
        };
        let (Node::Directory { digest: from }, Node::Directory { digest: to }) = (old, new) else {
            return Ok((vec![whole()], false));
        };
        let (differences, more) = match self.folders.get(&(*from, *to)) {
            Some(known) => known.clone(),
            None => {
                let walked = self.store.differences(&self.space, *from, *to, self.limit.saturating_add(1)).await?;
                // What is known in part only is not told in part: it would seem to be all.
                let mut differences = if walked.unread.is_some() { Vec::new() } else { walked.differences };
                leave_out_folders(&mut differences);
                self.weight += differences.iter().map(|one| 256 + one.path.len()).sum::<usize>();
                let known = (Arc::from(differences), walked.more);
                self.folders.insert((*from, *to), known.clone());
                known
            }
        };
        let path = |one: &diff::Difference| Difference::Content {
            input: input.clone(),
            path: one.path.clone(),
            old: one.old.clone(),
            new: one.new.clone(),
        };
        match differences.is_empty() {
            true => Ok((vec![whole()], false)),
            false => Ok((differences.iter().map(path).collect(), more)),
        }
    }
}
