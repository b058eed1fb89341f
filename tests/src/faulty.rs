//! Seams that fail on purpose: decorators over `Meta` and `Blobs` that are told, call by call, what shall go wrong.
//!
//! Owns [`World`], what one daemon believes to stand on, and [`Faulty`], a backend within it. Each call is one step, numbered
//! and named; a [`Plan`] decides its course. Invariants: nothing is made up, so what a faulty seam answers is something that a real one
//! could; from the moment a world stands still, no call of it returns or takes effect. It must not know what is tested with it.

mod blobs;
mod files;
mod meta;
mod rotten;

use std::fmt::Debug;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

pub use rotten::Rotten;

/// One call of a seam.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Counts from 0, in the order in which the calls began.
    pub number: u64,
    /// The seam and the method, such as `meta.commit`.
    pub name: &'static str,
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Act {
    /// Nothing goes wrong.
    #[default]
    Go,
    /// It fails, has not happened, and says so.
    Refuse,
    /// It is lost on its way: it has not happened, and who called cannot know.
    LoseCall,
    /// Its answer is lost: it has happened, and who called cannot know.
    LoseAnswer,
    /// It seems lost, and happens that much later, if it is a commit; anything else is lost.
    Linger(Duration),
    /// The world stands still before it happens.
    StopBefore,
    /// It happens, and the world stands still before the answer.
    StopAfter,
}

/// The course of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Course {
    /// How long it takes until it happens.
    pub before: Duration,
    /// What happens.
    pub act: Act,
    /// How long it takes from then to the answer.
    pub after: Duration,
}

impl From<Act> for Course {
    fn from(act: Act) -> Course {
        Course { act, ..Course::default() }
    }
}

/// Decides the course of each call.
pub trait Plan: Debug + Send + Sync + 'static {
    /// What shall become of this call.
    fn course(&self, step: &Step) -> Course;

    /// The call is answered now; `ok` unless it failed, by plan or by itself.
    fn answered(&self, _step: &Step, _ok: bool) {}
}

/// Everything that one daemon calls. Cheap to clone.
#[derive(Debug, Clone)]
pub struct World {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    plan: Box<dyn Plan>,
    steps: AtomicU64,
    still: AtomicBool,
    stopped: Notify,
}

/// A backend within a world.
#[derive(Debug)]
pub struct Faulty<S: ?Sized> {
    inner: Arc<S>,
    world: World,
}

/// How a call failed by plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    /// It surely has not happened.
    Refused,
    /// Nobody knows.
    Unknown,
    /// Nobody knows, and it is still on its way.
    Late(Duration),
}

/// What a faulty seam gives as the source of its errors.
#[derive(Debug, thiserror::Error)]
#[error("this call was planned to fail")]
pub struct Planned;

impl World {
    /// A world whose calls follow `plan`.
    pub fn new(plan: impl Plan) -> World {
        let (steps, still) = (AtomicU64::new(0), AtomicBool::new(false));
        World { inner: Arc::new(Inner { plan: Box::new(plan), steps, still, stopped: Notify::new() }) }
    }

    /// `inner` within this world.
    pub fn over<S: ?Sized>(&self, inner: Arc<S>) -> Arc<Faulty<S>> {
        Arc::new(Faulty { inner, world: self.clone() })
    }

    /// How many calls have begun.
    pub fn steps(&self) -> u64 {
        self.inner.steps.load(Ordering::SeqCst)
    }

    /// From now on no call returns or takes effect.
    pub fn stop(&self) {
        self.inner.still.store(true, Ordering::SeqCst);
        self.inner.stopped.notify_waiters();
    }

    /// Whether it stands still.
    pub fn is_still(&self) -> bool {
        self.inner.still.load(Ordering::SeqCst)
    }

    /// Returns once it stands still.
    pub async fn stopped(&self) {
        let stopped = self.inner.stopped.notified();
        tokio::pin!(stopped);
        stopped.as_mut().enable();
        if !self.is_still() {
            stopped.await;
        }
    }

    /// Goes on only while the world does.
    async fn alive(&self) {
        if self.is_still() {
            pending::<()>().await;
        }
    }

    async fn pause(&self, time: Duration) {
        if !time.is_zero() {
            tokio::time::sleep(time).await;
        }
        self.alive().await;
    }

    /// One call: `effect` is what it does, unless the plan is against it.
    async fn step<T, E>(
        &self,
        name: &'static str,
        effect: impl Future<Output = Result<T, E>>,
        error: impl FnOnce(Failure) -> E,
    ) -> Result<T, E> {
        self.alive().await;
        let step = Step { number: self.inner.steps.fetch_add(1, Ordering::SeqCst), name };
        let Course { before, act, after } = self.inner.plan.course(&step);
        self.pause(before).await;
        let result = match act {
            Act::Go => effect.await,
            Act::Refuse => Err(error(Failure::Refused)),
            Act::LoseCall => Err(error(Failure::Unknown)),
            Act::Linger(time) => Err(error(Failure::Late(time))),
            Act::LoseAnswer => {
                _ = effect.await;
                Err(error(Failure::Unknown))
            }
            Act::StopBefore => {
                self.stop();
                pending().await
            }
            Act::StopAfter => {
                _ = effect.await;
                self.stop();
                pending().await
            }
        };
        self.pause(after).await;
        self.inner.plan.answered(&step, result.is_ok());
        result
    }
}

/// The plan that lets everything go.
#[derive(Debug, Clone, Copy)]
pub struct Fair;

impl Plan for Fair {
    fn course(&self, _step: &Step) -> Course {
        Course::default()
    }
}

/// The plan that lets everything go but one of the steps that it counts.
#[derive(Debug)]
pub struct Once {
    number: u64,
    act: Act,
    counts: fn(&'static str) -> bool,
    counted: AtomicU64,
}

impl Once {
    /// The course of the step with this number, from 0, is `act`.
    pub fn new(number: u64, act: Act) -> Once {
        Once::among(|_| true, number, act)
    }

    /// The same among the steps whose names `counts` admits.
    pub fn among(counts: fn(&'static str) -> bool, number: u64, act: Act) -> Once {
        Once { number, act, counts, counted: AtomicU64::new(0) }
    }

    /// How many steps were counted.
    pub fn counted(&self) -> u64 {
        self.counted.load(Ordering::SeqCst)
    }
}

impl Plan for Arc<Once> {
    fn course(&self, step: &Step) -> Course {
        let is_it = (self.counts)(step.name) && self.counted.fetch_add(1, Ordering::SeqCst) == self.number;
        if is_it { self.act.into() } else { Course::default() }
    }
}

/// Whether a step of this name can change what is stored.
pub fn changes(name: &'static str) -> bool {
    matches!(
        name,
        "meta.commit"
            | "meta.resolve"
            | "blobs.stage"
            | "staged.write"
            | "staged.publish"
            | "blobs.remove"
            | "files.stage"
            | "files.publish"
            | "files.remove"
    )
}

#[cfg(test)]
mod tests;
