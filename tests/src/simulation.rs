//! A seeded simulation: daemons, executors and operators on virtual time, over backends that fail.
//!
//! Owns [`run`]: one seed is one schedule. Several stores share one metadata engine and one blob backend in memory, each behind its own
//! faulty decorators and with its own wrong wall clock; what everybody does, and what goes wrong, comes from the seed. Every commit
//! is judged as it happens ([`rules`]), every answer as it is given, and all rows in the end ([`audit`]). Invariant: the same seed gives the
//! same trace. It must not know how the store does what it does.

pub mod audit;
mod clock;
mod collector;
mod content;
mod daemon;
mod executor;
mod kept;
mod ledger;
mod observed;
mod operator;
mod random;
mod rules;
mod setting;
mod settle;
mod trace;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt::Arguments;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::time::Duration;

use provender_core::{Space, TaskKey};
use provender_daemon::clock as clocks;
use provender_daemon::meta::Memory;
use tokio::sync::Notify;

use self::clock::Clocks;
use self::daemon::Daemon;
use self::kept::Kept;
use self::ledger::Ledger;
use self::setting::Setting;
use self::trace::Trace;
use crate::faulty::Rotten;

pub use self::random::Random;

/// What a schedule that broke no rule came to.
#[derive(Debug)]
pub struct Report {
    /// Of all that happened.
    pub hash: u64,
    /// How many events and faults there were of each kind.
    pub counts: BTreeMap<&'static str, u64>,
    /// How long it took, in virtual time.
    pub time: Duration,
}

/// A schedule that broke a rule.
#[derive(Debug)]
pub struct Broken {
    /// Which rule, and how.
    pub rule: String,
    /// All that happened, if it was asked for.
    pub trace: Vec<String>,
}

/// One simulation.
#[derive(Debug)]
struct Sim {
    random: Arc<Random>,
    setting: Setting,
    clocks: Arc<Clocks>,
    meta: Memory,
    blobs: Arc<Rotten>,
    daemons: Vec<Daemon>,
    ledger: Mutex<Ledger>,
    trace: Mutex<Trace>,
    /// Told of each commit.
    changed: Notify,
    /// Whether nothing goes wrong any more.
    calm: AtomicBool,
}

impl Sim {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn trace(&self) -> MutexGuard<'_, Trace> {
        self.trace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn event(&self, kind: &'static str, detail: Arguments<'_>) {
        let now = self.clocks.time();
        self.trace().event(now, kind, detail);
    }

    fn count(&self, kind: &'static str) {
        self.trace().count(kind);
    }

    /// Something is at fault for so long from now.
    fn fault(&self, time: Duration) {
        let now = self.clocks.time();
        let mut ledger = self.ledger();
        ledger.fault = ledger.fault.max(now + time);
        ledger.kept.fault(now);
    }

    fn is_calm(&self) -> bool {
        self.calm.load(Ordering::Relaxed)
    }

    fn broke(&self, rule: &str, what: impl FnOnce() -> String) {
        self.ledger().broke(rule, what);
    }

    fn is_broken(&self) -> bool {
        self.ledger().broken.is_some()
    }

    fn space(&self) -> Space {
        Space::default()
    }

    fn key(&self, n: usize) -> TaskKey {
        format!("sim:{n}").parse().unwrap()
    }
}

thread_local! {
    static PANICS: Cell<u64> = const { Cell::new(0) };
}

/// Counts this thread's panics: a task's own would go unseen.
fn count_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICS.set(PANICS.get() + 1);
            before(panic);
        }));
    });
}

/// Carries out the schedule of a seed. Each event is kept as text if it `keeps` them.
pub fn run(seed: u64, keeps: bool) -> Result<Report, Broken> {
    count_panics();
    let panics = PANICS.get();
    let random = Arc::new(Random::new(seed));
    let setting = Setting::draw(&random);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let (sim, time) = runtime.block_on(async {
        let clocks = Arc::new(Clocks::new(setting.daemons, random.clone()));
        let _simulation = clocks::simulate(clocks.clone());
        let protect = setting.collecting.as_ref().map_or(Duration::ZERO, |(how, _)| how.protect);
        let ledger = Ledger { blind: vec![None; setting.daemons], kept: Kept::new(protect), ..Ledger::default() };
        let sim = Arc::new(Sim {
            daemons: (0..setting.daemons).map(Daemon::new).collect(),
            random,
            clocks,
            meta: Memory::default(),
            blobs: Arc::new(Rotten::new(Arc::new(provender_blobs::Memory::new()))),
            ledger: Mutex::new(ledger),
            trace: Mutex::new(Trace::new(keeps)),
            changed: Notify::new(),
            calm: AtomicBool::new(false),
            setting,
        });
        sim.event("setting", format_args!("{:?}", sim.setting));
        settle::schedule(&sim).await;
        // With it the daemons let go of the simulation.
        sim.daemons.iter().for_each(|daemon| _ = daemon.crash());
        let time = sim.clocks.time();
        (sim, time)
    });
    drop(runtime);
    if PANICS.get() > panics {
        sim.broke("no task panics", || "see above".into());
    }
    let (mut trace, mut ledger) = (sim.trace(), sim.ledger());
    let broken = ledger.broken.take();
    ledger.kept.seen.counts().into_iter().for_each(|(kind, count)| _ = trace.counts.insert(kind, count));
    match broken {
        Some(rule) => Err(Broken { rule, trace: std::mem::take(&mut trace.lines) }),
        None => Ok(Report { hash: trace.hash(), counts: std::mem::take(&mut trace.counts), time }),
    }
}
