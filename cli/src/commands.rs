//! The commands, one file each.

pub(crate) mod admin;
pub(crate) mod annotate;
pub(crate) mod cat;
mod check;
pub(crate) mod dag;
pub(crate) mod diff;
pub(crate) mod du;
pub(crate) mod gc;
pub(crate) mod get;
pub(crate) mod history;
pub(crate) mod invalidate;
pub(crate) mod lineage;
pub(crate) mod logs;
pub(crate) mod ls;
pub(crate) mod mount;
pub(crate) mod pages;
pub(crate) mod pins;
pub(crate) mod put;
pub(crate) mod run;
pub(crate) mod show;
pub(crate) mod status;
pub(crate) mod verify;
pub(crate) mod watch;
pub(crate) mod why;

use std::sync::Arc;

use provender_client::files::HashCache;
use provender_client::{Client, ClientError, Described, Remote, remote};
use provender_core::execution::Executor;
use provender_core::name::Space;
use provender_core::tree::{MAX_ENCODED, Node, Tree};
use provender_core::{Digest, ExecutionId, Ref};

use crate::fault::Fault;

/// What all commands share.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) remote: Option<String>,
    pub(crate) json: bool,
    pub(crate) quiet: bool,
}

impl Session {
    /// Connects to the daemon.
    pub(crate) async fn client(&self) -> Result<Client, Fault> {
        let remote = Remote::find(self.remote.as_deref())?;
        Ok(Client::connect(&remote, Space::default()).await?)
    }

    /// Says something in passing.
    pub(crate) fn say(&self, text: impl AsRef<str>) {
        if !self.quiet {
            crate::print::note(format_args!("provender: {}", text.as_ref()));
        }
    }
}

/// The user's cache of file hashes.
fn hash_cache() -> Arc<HashCache> {
    Arc::new(match remote::cache_dir() {
        Some(folder) => HashCache::open(&folder.join("hashes")),
        None => HashCache::disabled(),
    })
}

/// Who we are, in our own words.
fn executor(program: &str) -> Executor {
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let uid = || format!("uid {}", rustix::process::getuid().as_raw());
    Executor {
        program: program.into(),
        user: variable("USER").or_else(|| variable("LOGNAME")).unwrap_or_else(uid),
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        pid: std::process::id(),
    }
}

/// What a reference points at; a name without a success stands for its newest attempt, which is given too.
async fn newest(client: &Client, reference: &Ref) -> Result<(Described, Option<ExecutionId>), Fault> {
    let (error, name) = match (client.describe(reference).await, reference) {
        (Err(error @ ClientError::NotFound(_)), Ref::Name { name, nth: None }) => (error, name),
        (described, _) => return Ok((described?, None)),
    };
    let (attempts, _) = client.history(Ok(name.as_str()), false, Default::default(), 1).await?;
    let Some(attempt) = attempts.first() else { return Err(error.into()) };
    Ok((client.describe(&Ref::Execution(attempt.id)).await?, Some(attempt.id)))
}

/// What a reference's outputs are, or the blob or tree itself.
async fn node_of(client: &Client, reference: &Ref) -> Result<Node, Fault> {
    match client.describe(reference).await? {
        Described::Blob(digest) => Ok(Node::File { digest, executable: false }),
        Described::Tree(digest) => Ok(Node::Directory { digest }),
        Described::Registered(_) => Err(never_attempted(reference)),
        Described::Task(task) if !task.counts_for(reference) => {
            let (id, verdict, why) = (task.execution.id, task.verdict, &task.reason);
            Err(Fault::no(format!("{reference} is {verdict} ({why}); exec:{id} is what it was")))
        }
        Described::Task(task) => match task.execution.outcome.outputs {
            Some(digest) => Ok(Node::Directory { digest }),
            None => {
                let verdict = task.execution.state.verdict();
                Err(Fault::no(format!("{reference} is {verdict} and has no outputs")))
            }
        },
    }
}

/// Says that there is nothing of a key but its spec.
fn never_attempted(reference: &Ref) -> Fault {
    Fault::no(format!("{reference} was registered but never attempted"))
}

/// What stands at a path below a node; links are not followed.
async fn descend(client: &Client, from: Node, path: &[u8]) -> Result<Node, Fault> {
    let mut at = from;
    let missing = || Fault::no(format!("there is nothing at {:?}", String::from_utf8_lossy(path)));
    for part in path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".") {
        let Node::Directory { digest } = at else { return Err(missing()) };
        at = tree(client, &digest).await?.get(part).cloned().ok_or_else(missing)?;
    }
    Ok(at)
}

async fn tree(client: &Client, digest: &Digest) -> Result<Tree, Fault> {
    Tree::decode(&client.bytes(digest, MAX_ENCODED).await?.into()).map_err(Fault::ours)
}
