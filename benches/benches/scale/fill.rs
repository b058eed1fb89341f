//! Many executions, made by the store's own API: what a year of experiments, a long pipeline and a library that all use leave behind.
//!
//! Of N executions 4 in 10 are experiments under one name that read one dataset, 3 in 10 are a chain in which each reads the one before,
//! and 3 in 10, each with a name of its own, read one library. So there are as many edges.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt, stream};
use provender_core::execution::{Executor, Exit, Outcome};
use provender_core::key::TaskKey;
use provender_core::name::{Name, Space};
use provender_core::remarks::Remarks;
use provender_core::spec::{Input, Mount};
use provender_core::transition::Request;
use provender_core::{Digest, ExecutionId, Spec};
use provender_daemon::store::{Begin, Store};

use crate::Result;

/// So many are under way at once.
const AT_ONCE: usize = 512;
/// Long enough for whoever waits for 511 others.
const TTL: Duration = Duration::from_secs(600);

/// What one execution is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Task {
    /// The dataset, or the library.
    Base(&'static str),
    /// An experiment: its parameters follow from its number.
    Experiment(u64),
    /// A link of the chain.
    Link(u64),
    /// What uses the library.
    User(u64),
}

impl Task {
    /// All of a store of `count` executions.
    pub(crate) fn all(count: u64) -> impl Iterator<Item = Task> {
        let (experiments, links) = (count * 4 / 10, count * 3 / 10);
        let users = count.saturating_sub(experiments + links);
        let bases = ["data", "lib"].map(Task::Base).into_iter();
        bases
            .chain((0..experiments).map(Task::Experiment))
            .chain((0..links).map(Task::Link))
            .chain((0..users).map(Task::User))
    }

    pub(crate) fn name(self) -> String {
        match self {
            Task::Base(name) => name.into(),
            Task::Experiment(_) => "train".into(),
            Task::Link(n) => format!("chain/{n}"),
            Task::User(n) => format!("users/{n}"),
        }
    }

    /// Digits of a hash, as keys have them.
    pub(crate) fn key(self) -> TaskKey {
        let id = match self {
            Task::Base(name) => Digest::of(name.as_bytes()),
            Task::Experiment(n) => Digest::of(format!("train {n}").as_bytes()),
            Task::Link(_) | Task::User(_) => Digest::of(self.name().as_bytes()),
        };
        TaskKey::new("bench", &id.hex()).expect("digits are an id")
    }

    fn reads(self) -> Option<Task> {
        match self {
            Task::Base(_) | Task::Link(0) => None,
            Task::Experiment(_) => Some(Task::Base("data")),
            Task::Link(n) => Some(Task::Link(n - 1)),
            Task::User(_) => Some(Task::Base("lib")),
        }
    }

    pub(crate) fn spec(self) -> Result<Spec> {
        let mut spec = Spec::new(Name::new(self.name())?);
        spec.command = vec!["python".into(), "step.py".into()];
        spec.image = Some(if matches!(self, Task::Experiment(_)) { "train" } else { "build" }.into());
        if let Task::Experiment(n) = self {
            // Each value of `seed` stands once, each other one in many.
            let model = serde_json::json!({ "layers": n % 7, "opt": { "lr": (n % 1_000) as f64 / 1e3 } });
            spec.params = [("model".to_owned(), model), ("seed".to_owned(), n.into())].into();
        }
        if let Some(read) = self.reads() {
            let input = Input { mount: Mount::CheckedOut, content: None, key: Some(read.key()), execution: None };
            spec.inputs.insert("from".into(), input);
        }
        Ok(spec)
    }

    async fn make(self, store: &Store) -> Result<()> {
        let (key, spec, space) = (self.key(), self.spec()?, Space::default());
        let mut id = [0; 16];
        id.copy_from_slice(&Digest::of(key.as_str().as_bytes()).hash[..16]);
        let id = ExecutionId(id);
        let executor = Executor { program: "bench".into(), user: "me".into(), host: "here".into(), pid: 1 };
        let request = Request { id, key, spec, executor, ttl: TTL, check: false, remarks: Remarks::default() };
        match store.begin(&space, &request, None).await? {
            Begin::Lease(..) => {}
            Begin::Hit(_) => return Ok(()),
            other => return Err(format!("{}: no lease: {other:?}", self.name()).into()),
        }
        let mut outcome = Outcome { exit: Some(Exit::Code(0)), ..Outcome::default() };
        if let Task::Experiment(n) = self {
            outcome.metrics.insert("loss".into(), (1.0 / (n + 1) as f64).into());
        }
        store.commit(&space, id, &outcome).await?;
        Ok(())
    }
}

/// Makes what is not there yet.
pub(crate) async fn fill(store: &Arc<Store>, count: u64) -> Result<()> {
    let began = Instant::now();
    let made = stream::iter(Task::all(count)).map(|task| {
        let store = store.clone();
        async move { tokio::spawn(async move { task.make(&store).await }).await? }
    });
    let mut made = made.buffer_unordered(AT_ONCE);
    let mut done = 0_u64;
    while made.try_next().await?.is_some() {
        done += 1;
        if done.is_multiple_of(100_000) {
            eprintln!("{done} made, {:.0} a second", done as f64 / began.elapsed().as_secs_f64());
        }
    }
    Ok(())
}
