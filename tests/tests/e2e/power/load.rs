//! Executors at work, what they were told, and what must be true of it afterwards.

use std::fmt;
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use provender_client::{Client, Remote};
use provender_core::Digest;
use provender_core::name::Space;
use provender_core::tree::{Node, Tree};
use provender_proto::convert::digest_to;
use provender_proto::v1::Verdict;
use provender_tests::child::eventually;
use provender_tests::conformance::blobs::bytes;

use super::site::Site;
use crate::raw::Raw;

/// Of outputs that are rows.
const SMALL: &[usize] = &[1, 0, 100, 4_000];
/// Of rows and files, by turns as bytes and by descriptor.
const ALL: &[usize] = &[1, 300_000, 0, 40_000, 1_500_000, 100, 9_000, 700_000];
/// What an executor chooses for its lease, in milliseconds.
const TTL: u64 = 1_500;

/// A task whose one output is made of its number.
#[derive(Debug, Clone, Copy)]
struct Task {
    writer: usize,
    n: usize,
    sizes: &'static [usize],
}

impl Task {
    fn key(&self) -> String {
        format!("test:{}-{}", self.writer, self.n)
    }

    /// Some are what other writers make as well, at about the same time.
    fn content(&self) -> Bytes {
        let seed = if self.n % 4 == 3 { 0 } else { self.writer + 1 };
        bytes((seed * 1_000_000 + self.n) as u64, self.sizes[self.n % self.sizes.len()])
    }

    /// Its tree of one file.
    fn tree(&self) -> Bytes {
        let mut tree = Tree::new();
        tree.insert("out", Node::File { digest: Digest::of(&self.content()), executable: false }).unwrap();
        tree.encode().unwrap()
    }
}

/// All tasks of all rounds.
pub(super) struct Load {
    sizes: &'static [usize],
    told: Arc<Mutex<Told>>,
    /// So many had their bytes looked at.
    checked: usize,
}

#[derive(Default)]
struct Told {
    /// With whether it was acknowledged.
    tasks: Vec<(Task, bool)>,
    acknowledged_before: usize,
}

impl Told {
    fn acknowledged(&self) -> usize {
        self.tasks.iter().filter(|(_, acknowledged)| *acknowledged).count()
    }
}

impl fmt::Display for Load {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told = self.told.lock().unwrap();
        write!(out, "{} tasks were made", told.acknowledged())
    }
}

impl Load {
    /// Outputs of all sizes.
    pub(super) fn all() -> Load {
        Load { sizes: ALL, told: Arc::default(), checked: 0 }
    }

    /// Outputs that become no files.
    pub(super) fn small() -> Load {
        Load { sizes: SMALL, ..Load::all() }
    }

    /// Runs so many writers of so many tasks each, while `meanwhile` does, which is to end the daemon.
    pub(super) fn run(
        &mut self,
        site: &mut Site,
        (writers, tasks): (usize, usize),
        meanwhile: impl FnOnce(&Load, &mut Site),
    ) {
        let (first, told) = {
            let mut told = self.told.lock().unwrap();
            told.acknowledged_before = told.acknowledged();
            (told.tasks.len(), self.told.clone())
        };
        let (stop, stopped) = tokio::sync::watch::channel(());
        let (remote, scratch, sizes) = (site.daemon.remote(), site.scratch("scratch"), self.sizes);
        std::thread::scope(|scope| {
            for writer in 0..writers {
                let (told, remote, mut stopped) = (&told, &remote, stopped.clone());
                let scratch = scratch.with_extension(writer.to_string());
                scope.spawn(move || {
                    in_a_runtime(async {
                        tokio::select! {
                            _ = stopped.changed() => {}
                            () = write(told, remote, Task { writer, n: first, sizes }, tasks, &scratch) => {}
                        }
                    });
                });
            }
            meanwhile(self, site);
            drop(stop);
        });
    }

    /// Waits until so many were acknowledged in this run.
    pub(super) fn wait_for(&self, acknowledged: usize) {
        eventually("commits are acknowledged", || {
            let told = self.told.lock().unwrap();
            told.acknowledged() >= told.acknowledged_before + acknowledged
        });
    }

    /// What is not as it was told: the verdicts of all, and the bytes of those whose bytes were not looked at before.
    pub(super) fn check(&mut self, site: &Site) -> Vec<String> {
        let tasks = self.told.lock().unwrap().tasks.clone();
        let known = std::mem::replace(&mut self.checked, tasks.len());
        in_a_runtime(async {
            let (raw, client) = connect(&site.daemon.remote()).await;
            let (mut wrong, mut at) = (Vec::new(), 0);
            for some in tasks.chunks(1_000) {
                let answers = raw.lookup(some.iter().map(|(task, _)| task.key()).collect()).await;
                for ((task, acknowledged), answer) in some.iter().zip(answers) {
                    let (key, verdict) = (task.key(), answer.verdict());
                    at += 1;
                    match verdict {
                        Verdict::Succeeded if at <= known => {}
                        Verdict::Succeeded => wrong.extend(wrong_bytes(&raw, &client, *task).await),
                        _ if *acknowledged => wrong.push(format!("{key} was acknowledged and is {verdict:?}")),
                        _ => {}
                    }
                }
            }
            wrong
        })
    }

    /// Has all bytes looked at again by the next check.
    pub(super) fn doubt(&mut self) {
        self.checked = 0;
    }

    /// Makes whatever was under way.
    pub(super) fn make_the_rest(&self, site: &Site) {
        let tasks = self.told.lock().unwrap().tasks.clone();
        in_a_runtime(async {
            let (raw, client) = connect(&site.daemon.remote()).await;
            for (task, _) in tasks.iter().filter(|(_, acknowledged)| !acknowledged) {
                let made = make(&raw, &client, *task, &site.scratch("scratch")).await;
                assert!(made, "stuck: {} cannot be made", task.key());
            }
        });
        self.told.lock().unwrap().tasks.iter_mut().for_each(|(_, acknowledged)| *acknowledged = true);
    }
}

/// Makes one task after the other, up to the first that fails.
async fn write(told: &Mutex<Told>, remote: &str, first: Task, tasks: usize, scratch: &Path) {
    let (raw, client) = connect(remote).await;
    for n in (first.n..).take(tasks) {
        let task = Task { n, ..first };
        let at = {
            let tasks = &mut told.lock().unwrap().tasks;
            tasks.push((task, false));
            tasks.len() - 1
        };
        if !make(&raw, &client, task, scratch).await {
            return;
        }
        told.lock().unwrap().tasks[at].1 = true;
    }
}

fn in_a_runtime<T>(what: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(what)
}

async fn connect(remote: &str) -> (Raw, Client) {
    let client = Client::connect(&Remote::find(Some(remote)).unwrap(), Space::default()).await.unwrap();
    (Raw::to(remote).await, client)
}

/// Whether it has succeeded, which it may have before.
async fn make(raw: &Raw, client: &Client, task: Task, scratch: &Path) -> bool {
    let made = async {
        let Some(execution) = raw.lease_or_hit(&task.key(), TTL, &["out"]).await.ok()? else { return Some(()) };
        let (content, tree) = (task.content(), task.tree());
        let digest = Digest::of(&content);
        if content.len() > 256 << 10 && task.n % 2 == 1 {
            std::fs::write(scratch, &content).ok()?;
            client.give(&digest, &File::open(scratch).ok()?, &|| true).ok()?;
        } else {
            client.upload_bytes(&[(digest, content)]).await.ok()?;
        }
        let root = Digest::of(&tree);
        client.upload_bytes(&[(root, tree)]).await.ok()?;
        raw.commit(&execution, Some(root)).await.ok().map(drop)
    };
    made.await.is_some()
}

/// What is wrong with the outputs of one that is SUCCEEDED.
async fn wrong_bytes(raw: &Raw, client: &Client, task: Task) -> Option<String> {
    let (key, root) = (task.key(), Digest::of(&task.tree()));
    let history = raw.history(&key).await;
    let outputs = history.iter().find_map(|execution| execution.outcome.as_ref()?.outputs.as_ref());
    if outputs != Some(&digest_to(&root)) {
        return Some(format!("{key} is SUCCEEDED with other outputs: {outputs:?}"));
    }
    for expected in [task.tree(), task.content()] {
        match client.bytes(&Digest::of(&expected), expected.len() as u64).await {
            Ok(bytes) if bytes == expected => {}
            Ok(_) => return Some(format!("{key}: wrong bytes")),
            Err(error) => return Some(format!("{key}: {error}")),
        }
    }
    None
}
