//! `provender put`: a path into the store, under a name or for a while.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use provender_core::execution::{Executor, Exit, Outcome};
use provender_core::key::TaskKey;
use provender_core::name::Name;
use provender_core::remarks::Remarks;
use provender_core::spec::{Input, Mount};
use provender_core::tree::{Node, Tree};
use provender_core::{Digest, Execution, ExecutionId, Spec, Timestamp};

use crate::client::{Begin, Begun, Client};
use crate::error::ClientError;
use crate::files::{self, CaptureError, Captured, HashCache, Purpose};
use crate::transfer::Progress;

/// Nobody beats while it is committed, so the lease has to outlast that.
const TTL: Duration = Duration::from_secs(600);

/// Why nothing was put.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PutError {
    /// The path cannot be read.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// The daemon.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A link by itself is no artifact.
    #[error("{0} is a symbolic link: name what it points at")]
    Link(String),
    /// Somebody else is putting the same, and did not succeed.
    #[error("the same is being put by execution {0}, which did not succeed; try again")]
    Busy(ExecutionId),
    /// The daemon did not take it for a success.
    #[error("it was not recorded: {0}")]
    Failed(String),
    /// The file's name cannot stand in a tree.
    #[error("the name cannot be stored: {0}")]
    Tree(#[from] provender_core::tree::TreeError),
    /// A thread of ours died.
    #[error("an internal task was ended: {0}")]
    Internal(String),
}

/// What was put.
#[derive(Debug)]
pub struct Put {
    /// What stands at the path.
    pub node: Node,
    /// What it came to.
    pub counts: files::Counts,
    /// How many bytes had to be sent.
    pub sent: u64,
    /// Its record, under a name.
    pub execution: Option<Execution>,
    /// Until when it is kept, without one.
    pub until: Option<Timestamp>,
}

/// Stores what stands at `path`: under a name as its newest success, or without one for 7 days.
pub async fn put(
    client: &Client,
    path: &Path,
    name: Option<&Name>,
    executor: &Executor,
    cache: Arc<HashCache>,
    progress: Progress<'_>,
) -> Result<Put, PutError> {
    let whole = path.to_owned();
    let captured = tokio::task::spawn_blocking(move || files::capture(&whole, Purpose::Input, &cache)).await;
    let mut captured = captured.map_err(|error| PutError::Internal(error.to_string()))??;
    let node = captured.root.clone();
    let Some(digest) = node.digest() else { return Err(PutError::Link(path.display().to_string())) };
    let root = root_of(&mut captured, path)?;
    let sent = client.upload_captured(&captured, progress).await?;
    let (mut execution, mut until) = (None, None);
    match name {
        Some(name) => execution = Some(record(client, name, &node, root, executor).await?),
        None => {
            let tree = matches!(node, Node::Directory { .. });
            let owner = format!("{}@{}", executor.user, executor.host);
            until = Some(client.keep(&digest, tree, &owner, "put").await?);
        }
    }
    Ok(Put { node, counts: captured.counts, sent, execution, until })
}

/// The tree that a record of it has: a folder's own, or one that holds the file alone.
fn root_of(captured: &mut Captured, path: &Path) -> Result<Digest, PutError> {
    use std::os::unix::ffi::OsStrExt;
    if let Node::Directory { digest } = captured.root {
        return Ok(digest);
    }
    let name = path.file_name().map_or(&b"file"[..], |name| name.as_bytes());
    let mut tree = Tree::new();
    tree.insert(Bytes::copy_from_slice(name), captured.root.clone())?;
    let bytes = tree.encode()?;
    let digest = Digest::of(&bytes);
    captured.trees.push((digest, bytes));
    Ok(digest)
}

async fn record(
    client: &Client,
    name: &Name,
    node: &Node,
    root: Digest,
    executor: &Executor,
) -> Result<Execution, PutError> {
    let mut spec = Spec::new(name.clone());
    let content = Some(node.clone());
    spec.inputs.insert("put".into(), Input { mount: Mount::InPlace, content, key: None, execution: None });
    let key = TaskKey::new("put", &root.hex()).expect("`put` and 64 digits are a key");
    let mut id = [0; 16];
    getrandom::fill(&mut id).expect("the system has randomness once it has booted");
    let execution = ExecutionId(id);
    let begin = Begin {
        key: &key,
        spec: &spec,
        execution,
        executor,
        ttl: TTL,
        wait: true,
        check: false,
        remarks: Remarks::default(),
    };
    match client.begin(begin, |_| {}).await? {
        Begun::Hit(execution) => Ok(*execution),
        Begun::Busy(holder) | Begun::Failed(holder) => Err(PutError::Busy(holder.id)),
        Begun::Lease(_) | Begun::Check(..) => {
            let outcome = Outcome { exit: Some(Exit::Code(0)), outputs: Some(root), ..Outcome::default() };
            let (execution, _) = client.commit(execution, &outcome).await?;
            match &execution.reason {
                Some(reason) => Err(PutError::Failed(reason.clone())),
                None => Ok(execution),
            }
        }
    }
}
