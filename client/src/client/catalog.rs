//! `provender.v1.Catalog`: what people ask.

use std::collections::HashSet;
use std::hash::Hash;

use bytes::Bytes;
use provender_core::execution::State;
use provender_core::key::TaskKey;
use provender_core::lineage::Graph;
use provender_core::name::Name;
use provender_core::{Digest, Execution, Spec, Verdict};
use provender_proto::convert::{self, Invalid};
use provender_proto::v1;

use super::Client;
use crate::error::ClientError;

/// A name and what it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The name.
    pub name: String,
    /// Its newest success.
    pub latest: Option<Execution>,
    /// Its newest attempt.
    pub last: Option<Execution>,
}

/// What a reference points at.
#[derive(Debug, Clone, PartialEq)]
pub enum Described {
    /// An execution.
    Task(Box<Task>),
    /// Bytes.
    Blob(Digest),
    /// A directory.
    Tree(Digest),
    /// A key that was registered and never attempted.
    Registered(Box<Registered>),
}

/// A key that was registered, what it stands for, and what a lookup says.
#[derive(Debug, Clone, PartialEq)]
pub struct Registered {
    /// The key.
    pub key: TaskKey,
    /// What it stands for.
    pub spec: Spec,
    /// Its verdict.
    pub verdict: Verdict,
    /// Why that is not SUCCEEDED.
    pub reason: String,
}

/// An execution, what it was to do, and what a lookup of its key says.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// The execution.
    pub execution: Execution,
    /// Its spec.
    pub spec: Spec,
    /// The verdict of its key.
    pub verdict: Verdict,
    /// Why that is not SUCCEEDED.
    pub reason: String,
}

impl Task {
    /// Whether a reference that led here may take its outputs. A key means its record as long as that is the answer; an execution or
    /// `NAME@N` means that one, whatever became of its key.
    pub fn counts_for(&self, reference: &provender_core::Ref) -> bool {
        let is_key = matches!(reference, provender_core::Ref::Key(_));
        !(is_key && self.execution.state == State::Succeeded && self.verdict != Verdict::Succeeded)
    }
}

/// Which way to walk, how far, and which part of it to tell.
#[derive(Debug, Clone, Copy, Default)]
pub struct Lineage {
    /// To what was made from it, instead of to what it was made from.
    pub down: bool,
    /// How many steps away at most; 0 for any.
    pub depth: u32,
    /// Behind what the page begins: [`Graph::next`] of the page before; 0 for the first one.
    pub skip: u32,
    /// How many nodes of its own the page has at most; 0 for 10,000; at most 1,000,000.
    pub limit: u32,
}

impl Client {
    /// One page of the names that begin with a text, after another one; whether there are more.
    pub async fn names(&self, prefix: &str, after: &str) -> Result<(Vec<Named>, bool), ClientError> {
        let request =
            v1::ListNamesRequest { space: self.space(), prefix: prefix.into(), after: after.into(), limit: 0 };
        let reply = self.catalog.clone().list_names(request).await.map_err(self.failed())?.into_inner();
        let execution = |execution: Option<v1::Execution>| execution.as_ref().map(convert::execution_from).transpose();
        let named = |entry: v1::list_names_reply::Entry| {
            Ok(Named { name: entry.name, latest: execution(entry.latest)?, last: execution(entry.last)? })
        };
        let names = reply.names.into_iter().map(named).collect::<Result<_, ClientError>>()?;
        Ok((names, reply.more))
    }

    /// One page of a name's executions (or of a key's), newest first, and the cursor of the next one.
    pub async fn history(
        &self,
        of: Result<&str, &TaskKey>,
        failed_only: bool,
        cursor: Bytes,
        limit: u32,
    ) -> Result<(Vec<Execution>, Option<Bytes>), ClientError> {
        use v1::history_request::Of;
        let of = match of {
            Ok(name) => Of::Name(name.to_owned()),
            Err(key) => Of::Key(key.to_string()),
        };
        let request = v1::HistoryRequest { space: self.space(), of: Some(of), failed_only, cursor, limit };
        let reply = self.catalog.clone().history(request).await.map_err(self.failed())?.into_inner();
        let executions = reply.executions.iter().map(convert::execution_from).collect::<Result<_, _>>()?;
        Ok((executions, Some(reply.cursor).filter(|cursor| !cursor.is_empty())))
    }

    /// One page of the executions of which conditions hold (see [`Condition`](provender_core::search::Condition); 1 to 32), newest first, and
    /// the cursor of the next one. `prefix` is how their names begin. A page may be short, or empty, and not be the last.
    pub async fn search(
        &self,
        conditions: &[String],
        prefix: &str,
        failed_only: bool,
        cursor: Bytes,
        limit: u32,
    ) -> Result<(Vec<Execution>, Option<Bytes>), ClientError> {
        let (r#where, prefix) = (conditions.to_vec(), prefix.to_owned());
        let request = v1::SearchRequest { space: self.space(), r#where, prefix, failed_only, cursor, limit };
        let reply = self.catalog.clone().search(request).await.map_err(self.failed())?.into_inner();
        let executions = reply.executions.iter().map(convert::execution_from).collect::<Result<_, _>>()?;
        Ok((executions, Some(reply.cursor).filter(|cursor| !cursor.is_empty())))
    }

    /// What something was made from, or with `down` what was made from it. Edges that close cycles are marked, as far as one page shows.
    pub async fn lineage(&self, reference: &provender_core::Ref, asked: Lineage) -> Result<Graph, ClientError> {
        let Lineage { down, depth, skip, limit } = asked;
        let request =
            v1::LineageRequest { space: self.space(), r#ref: reference.to_string(), down, depth, limit, skip };
        let mut replies = self.catalog.clone().lineage(request).await.map_err(self.failed())?.into_inner();
        let mut graph = Graph { skipped: skip, ..Graph::default() };
        // Many nodes have a name, and many edges an input, in common; and one by itself would keep the whole message.
        let (mut names, mut inputs) = (HashSet::<Name>::new(), HashSet::<Bytes>::new());
        let mut first = true;
        while let Some(reply) = replies.message().await.map_err(self.failed())? {
            if std::mem::take(&mut first) && reply.skipped != skip {
                return Err(Invalid::new("skipped", "this daemon knows of no pages of a lineage").into());
            }
            for node in &reply.nodes {
                let mut node = convert::lineage_node_from(node)?;
                node.name = node.name.map(|name| shared(&mut names, name, Name::clone));
                graph.nodes.push(node);
            }
            for edge in &reply.edges {
                let mut edge = convert::lineage_edge_from(edge, graph.nodes.len())?;
                edge.input = shared(&mut inputs, edge.input, |input| Bytes::copy_from_slice(input));
                graph.edges.push(edge);
            }
            graph.truncated |= reply.truncated;
            graph.next = graph.next.or(Some(reply.next).filter(|next| *next > 0));
        }
        graph.mark_cycles(down);
        Ok(graph)
    }

    /// What a reference points at.
    pub async fn describe(&self, reference: &provender_core::Ref) -> Result<Described, ClientError> {
        use v1::describe_reply::Is;
        let request = v1::DescribeRequest { space: self.space(), r#ref: reference.to_string() };
        let reply = self.catalog.clone().describe(request).await.map_err(self.failed())?.into_inner();
        let missing = |field| Invalid::new(field, "is missing");
        Ok(match reply.is.ok_or_else(|| missing("is"))? {
            Is::Blob(digest) => Described::Blob(convert::digest_from("blob", &digest)?),
            Is::Tree(digest) => Described::Tree(convert::digest_from("tree", &digest)?),
            Is::Registered(registered) => Described::Registered(Box::new(Registered {
                key: convert::key(&registered.key)?,
                spec: convert::spec_from(registered.spec.as_ref().ok_or_else(|| missing("spec"))?)?,
                verdict: convert::verdict_from(registered.verdict)?,
                reason: registered.reason,
            })),
            Is::Task(task) => Described::Task(Box::new(Task {
                execution: convert::execution_from(task.execution.as_ref().ok_or_else(|| missing("execution"))?)?,
                spec: convert::spec_from(task.spec.as_ref().ok_or_else(|| missing("spec"))?)?,
                verdict: convert::verdict_from(task.verdict)?,
                reason: task.reason,
            })),
        })
    }
}

/// The same value as one that came before, if there was one; else what is kept of it.
fn shared<T: Hash + Eq + Clone>(all: &mut HashSet<T>, value: T, keep: impl FnOnce(&T) -> T) -> T {
    if let Some(known) = all.get(&value) {
        return known.clone();
    }
    let kept = keep(&value);
    all.insert(kept.clone());
    kept
}
