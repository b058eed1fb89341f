//! Simulated daemons: a store over the shared backends with its background watch, which comes up, is cut off, crashes.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use provender_blobs::Blobs;
use provender_daemon::meta::Meta;
use provender_daemon::metrics::Metrics;
use provender_daemon::store::{Collection, Store, StoreError};
use tokio::task::AbortHandle;

use super::Sim;
use super::clock::OnDaemon;
use super::observed::Observed;
use super::setting::Setting;
use crate::faulty::{Act, Course, Plan, Step, World};

/// One daemon, up or down.
#[derive(Debug)]
pub(super) struct Daemon {
    number: usize,
    up: Mutex<Option<Up>>,
    /// Until when it reaches no metadata.
    cut: Mutex<Duration>,
}

#[derive(Debug, Clone)]
struct Up {
    store: Store,
    world: World,
    /// What it does by itself.
    background: Vec<AbortHandle>,
}

/// Why a call had no answer.
#[derive(Debug)]
pub(super) enum Unanswered {
    /// The daemon is not there (any more).
    Down,
    /// The store says no.
    Store(StoreError),
}

impl Daemon {
    pub(super) fn new(number: usize) -> Daemon {
        Daemon { number, up: Mutex::default(), cut: Mutex::default() }
    }

    fn up(&self) -> Option<Up> {
        self.up.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Comes up, however often that takes.
    pub(super) async fn start(&self, sim: &Arc<Sim>) {
        while self.up().is_none() {
            let number = self.number;
            let world = World::new(Calls { sim: sim.clone(), daemon: number });
            let meta = world.over::<dyn Meta>(Arc::new(Observed { sim: sim.clone(), daemon: number }));
            let blobs = world.over::<dyn Blobs>(sim.blobs.clone());
            let opening = Store::over(meta, blobs, Vec::new(), metrics());
            match OnDaemon::new(number, sim.clocks.clone(), opening).await {
                Ok(store) => {
                    let on_it = |what: BoxFuture<'static, ()>| {
                        tokio::spawn(OnDaemon::new(number, sim.clocks.clone(), what)).abort_handle()
                    };
                    let mut background = vec![on_it(store.clone().watch().boxed())];
                    if let Some((how, _)) = &sim.setting.collecting {
                        let quota = how.quota.filter(|_| !sim.is_calm());
                        store.configure(Collection { quota, ..how.clone() });
                        // Without a file: what it has answered in its last second nobody knows once it has crashed.
                        _ = store.note_uses(Path::new(""), true).await;
                        background.push(on_it(store.clone().flush_forever().boxed()));
                        if quota.is_some() {
                            background.push(on_it(store.clone().watch_room().boxed()));
                        }
                    }
                    sim.fault(Duration::ZERO);
                    sim.event("daemon up", format_args!("{number}"));
                    *self.up.lock().unwrap_or_else(PoisonError::into_inner) = Some(Up { store, world, background });
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(300)).await,
            }
        }
    }

    /// All that it was doing ends where it is.
    pub(super) fn crash(&self) -> bool {
        let up = self.up.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(up) = &up {
            up.world.stop();
            up.background.iter().for_each(AbortHandle::abort);
        }
        up.is_some()
    }

    /// It reaches no metadata until then.
    pub(super) fn cut(&self, until: Duration) {
        *self.cut.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    fn is_cut(&self, now: Duration) -> bool {
        now < *self.cut.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks it; a crash of it ends the call.
    pub(super) async fn call<T, F>(&self, sim: &Arc<Sim>, ask: impl FnOnce(Store) -> F) -> Result<T, Unanswered>
    where
        F: Future<Output = Result<T, StoreError>> + Send,
    {
        let Some(Up { store, world, .. }) = self.up() else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            return Err(Unanswered::Down);
        };
        tokio::select! {
            biased;
            () = world.stopped() => Err(Unanswered::Down),
            answer = OnDaemon::new(self.number, sim.clocks.clone(), ask(store)) => answer.map_err(Unanswered::Store),
        }
    }
}

/// Nobody reads them here, and making them takes longer than a call.
fn metrics() -> Arc<Metrics> {
    thread_local! {
        static METRICS: Arc<Metrics> = Arc::new(Metrics::new().unwrap());
    }
    METRICS.with(Arc::clone)
}

/// The course of one daemon's calls.
#[derive(Debug)]
struct Calls {
    sim: Arc<Sim>,
    daemon: usize,
}

impl Calls {
    fn drawn(&self, step: &Step) -> Course {
        let Sim { random, setting, .. } = &*self.sim;
        let delay = || if random.chance(setting.delayed) { random.time(setting.delay) } else { Duration::ZERO };
        let mut course = Course { before: delay(), act: Act::Go, after: delay() };
        if self.sim.is_calm() {
            return course;
        }
        let (now, meta) = (self.sim.clocks.time(), step.name.starts_with("meta."));
        if meta && self.sim.daemons[self.daemon].is_cut(now) {
            self.sim.fault(Duration::from_millis(1));
            course.act = if random.chance(5_000) { Act::Refuse } else { Act::LoseCall };
            return course;
        }
        if step.name == "blobs.remove" && !setting.removing.is_zero() {
            course.before += random.time(setting.removing);
        }
        let number = random.below(10_000);
        let until = |rates: &[u64]| rates.iter().sum::<u64>();
        let Setting { long, refused, lost, lingering, .. } = *setting;
        course.act = match number {
            n if n < until(&[refused]) => Act::Refuse,
            n if n < until(&[refused, lost]) && n.is_multiple_of(2) => Act::LoseCall,
            n if n < until(&[refused, lost]) => Act::LoseAnswer,
            n if n < until(&[refused, lost, lingering]) && step.name == "meta.commit" => {
                Act::Linger(random.time(Duration::from_secs(20)))
            }
            n if n < until(&[refused, lost, lingering, long]) => {
                course.before = random.time(setting.ttl * 2);
                self.sim.count("fault: a long delay");
                self.sim.fault(course.before);
                Act::Go
            }
            _ => Act::Go,
        };
        course
    }
}

impl Plan for Calls {
    fn course(&self, step: &Step) -> Course {
        self.sim.clocks.looks(self.daemon);
        let course = self.drawn(step);
        let kind = match course.act {
            Act::Refuse => "fault: refused",
            Act::LoseCall => "fault: a call lost",
            Act::LoseAnswer => "fault: an answer lost",
            Act::Linger(_) => "fault: a commit lingers",
            _ => return course,
        };
        self.sim.fault(course.before + course.after);
        self.sim.event(kind, format_args!("{} of daemon {}", step.name, self.daemon));
        course
    }

    fn answered(&self, step: &Step, ok: bool) {
        // What was spawned by a call has no other way to know whose clock is its own.
        self.sim.clocks.looks(self.daemon);
        // The watch alone reads the feed.
        if !ok && step.name == "meta.changes" {
            let now = self.sim.clocks.time();
            self.sim.ledger().blind[self.daemon] = Some(now);
        }
    }
}
