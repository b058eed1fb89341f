//! Simulated executors: they begin, beat, upload, commit or fail, and crash, pause, are careless and change daemons on the way.
//!
//! Whatever they are answered is held against the truth.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use provender_core::execution::{Executor, State};
use provender_core::transition::{Refused, Request};
use provender_core::{Digest, Execution, ExecutionId, Name, Spec, Verdict};
use provender_daemon::store::{Begin, Store, StoreError};

use super::Sim;
use super::content::{Content, content};
use super::daemon::Unanswered;
use super::ledger::{Attempt, Freed};
use super::rules::{LATE, PROMPT, told};

/// How often a call is sent again before an executor gives up.
const ATTEMPTS: usize = 6;
/// How long a waiter trusts that it would have been woken, as in the front.
const RECHECK: Duration = Duration::from_secs(10);

/// One run of one key.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) sim: Arc<Sim>,
    /// The daemon that it asks; another one after an error.
    pub(super) daemon: usize,
    pub(super) key: usize,
    pub(super) id: ExecutionId,
    pub(super) check: bool,
    pub(super) wait: bool,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// There is a success now, made by this run or found.
    Success,
    /// It failed, or was told that another did.
    Failed,
    /// Somebody else is at it.
    Busy,
    /// It lost the lease.
    Fenced,
    /// No daemon answered.
    GaveUp,
    /// What it found could not be read.
    Lost,
}

/// All runs of one executor.
pub(super) async fn executor(sim: Arc<Sim>, number: usize) {
    let random = sim.random.clone();
    let setting = sim.setting.clone();
    for _ in 0..setting.runs {
        tokio::time::sleep(random.time(setting.rest)).await;
        let mut run = Run {
            sim: sim.clone(),
            daemon: random.index(setting.daemons),
            key: random.index(setting.keys),
            id: ExecutionId(random.bytes()),
            check: random.chance(setting.checking),
            wait: random.chance(7_000),
        };
        let crashes = random.chance(setting.crashing).then(|| random.time(setting.ttl * 2));
        let running = run.whole();
        let end = match crashes {
            Some(after) => tokio::time::timeout(after, running).await.ok(),
            None => Some(running.await),
        };
        match end {
            Some(end) => sim.event("run", format_args!("executor {number}: {end:?}")),
            None => sim.event("fault: an executor crashed", format_args!("{number}")),
        }
        if sim.is_broken() {
            return;
        }
    }
}

impl Run {
    /// Sends a call until it is answered; to another daemon after an error.
    async fn ask<T, F>(&mut self, ask: impl Fn(Store) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>> + Send,
    {
        let mut attempt = 0;
        loop {
            let answer = self.sim.daemons[self.daemon].call(&self.sim, &ask).await;
            attempt += 1;
            let error = match answer {
                Ok(answer) => return Ok(answer),
                Err(Unanswered::Down) => StoreError::Draining,
                Err(Unanswered::Store(error)) => error,
            };
            let again = matches!(
                error,
                StoreError::Meta(_)
                    | StoreError::Blobs(_)
                    | StoreError::Undecided { .. }
                    | StoreError::Contended { .. }
                    | StoreError::Draining
            );
            if !again || attempt >= ATTEMPTS {
                return Err(error);
            }
            self.daemon = self.sim.random.index(self.sim.setting.daemons);
            tokio::time::sleep(Duration::from_millis(100) + self.sim.random.time(Duration::from_millis(900))).await;
        }
    }

    fn request(&self) -> Request {
        let name = Name::new(format!("name/{}", self.key % 2)).unwrap();
        let spec = Spec { outputs: vec!["shared".into(), "sub/own".into()], ..Spec::new(name) };
        let (key, executor, ttl) = (self.sim.key(self.key), Executor::default(), self.sim.setting.ttl);
        Request { id: self.id, key, spec, executor, ttl, check: self.check, remarks: Default::default() }
    }

    /// From asking to the end.
    pub(super) async fn whole(&mut self) -> End {
        let (sim, request) = (self.sim.clone(), self.request());
        let (since, at) = (sim.ledger().commits, sim.clocks.time());
        let attempt = Attempt { since, ending: None, check: self.check, reported: Vec::new() };
        sim.ledger().attempts.insert(self.id, attempt);
        let wait = self.wait;
        let asked = self.ask(|store| begin(sim.clone(), store, request.clone(), wait)).await;
        match asked {
            Ok(Begin::Hit(execution)) => self.hit(&execution, since, at).await,
            Ok(Begin::Busy(_)) => End::Busy,
            Ok(Begin::Failed(execution)) => {
                let failed = sim.ledger().execution(execution.id).is_some_and(|of| of.state == State::Failed);
                sim.ledger().must(failed, "a failure is told of a failure", || format!("{execution:?}"));
                End::Failed
            }
            Ok(Begin::Lease(..)) => self.attempt().await,
            Err(error) => self.refused("begin", &error),
        }
    }

    async fn hit(&mut self, execution: &Execution, since: usize, at: Duration) -> End {
        {
            let mut ledger = self.sim.ledger();
            let fault = ledger.fault;
            ledger.kept.answered(execution.id, at, fault);
        }
        let key = self.sim.key(self.key);
        told(&mut self.sim.ledger(), &key, since, Verdict::Succeeded, Some(execution.id));
        let outputs = execution.outcome.outputs.unwrap_or(Digest::of(b""));
        match super::content::made(&outputs) {
            Some(made) if self.sim.is_calm() || self.sim.random.chance(3_000) => self.restore(made, execution.id).await,
            Some(_) => End::Success,
            None => {
                self.sim.broke("a hit has outputs", || format!("{execution:?}"));
                End::GaveUp
            }
        }
    }

    /// Reads all of it.
    async fn restore(&mut self, made: &'static Content, of: ExecutionId) -> End {
        let dawdles = !self.sim.is_calm() && self.sim.random.chance(self.sim.setting.dawdling);
        for bytes in made.blobs() {
            if dawdles && let Some((how, _)) = &self.sim.setting.collecting {
                tokio::time::sleep(self.sim.random.time(how.protect * 2)).await;
            }
            let (digest, space) = (Digest::of(bytes), self.sim.space());
            let read = self.ask(|store| {
                let space = space.clone();
                async move { store.read_whole(&space, &digest, 1 << 20).await }
            });
            match read.await {
                Ok(read) if read == *bytes => self.sim.count("blobs read"),
                Ok(_) => self.sim.broke("every byte that leaves is right", || format!("{digest}")),
                Err(StoreError::Lost { .. }) => {
                    let lost = self.sim.ledger().ever_decayed.contains(&digest);
                    self.sim.ledger().must(lost, "nothing is lost that is there", || format!("{digest}"));
                    self.sim.count("reads of what is lost");
                    return End::Lost;
                }
                // Whether it might go was judged when it did.
                Err(StoreError::NotFound { .. }) if self.sim.ledger().collected.contains_key(&of) => {
                    self.sim.count("reads of what is collected");
                    return End::Lost;
                }
                Err(error) => return self.refused("a read", &error),
            }
        }
        End::Success
    }

    /// The work, under a lease.
    async fn attempt(&mut self) -> End {
        let (sim, random, setting) = (self.sim.clone(), self.sim.random.clone(), self.sim.setting.clone());
        let calm = sim.is_calm();
        let now_and_then = |per_10_000| !calm && random.chance(per_10_000);
        let variant = usize::from(now_and_then(setting.diverging));
        let made = content(self.key, variant);
        let beating = Run { sim: sim.clone(), ..*self };
        let worked = {
            let mut work = pin!(async {
                let time = if calm { Duration::ZERO } else { random.time(setting.ttl * 2) };
                tokio::time::sleep(time).await;
                self.upload(made, now_and_then(setting.careless)).await
            });
            let mut beats = pin!(beating.beat());
            tokio::select! {
                biased;
                worked = &mut work => worked,
                () = &mut beats => Err(End::Fenced),
            }
        };
        match worked {
            Ok(()) => {}
            // Not everybody listens.
            Err(End::Fenced) if random.chance(5_000) => {}
            Err(end) => return end,
        }
        if now_and_then(setting.pausing) {
            let time = random.time(setting.ttl * 3);
            sim.event("fault: an executor paused", format_args!("{} for {time:?}", self.id));
            tokio::time::sleep(time).await;
        }
        if now_and_then(setting.failing) { self.fail(made).await } else { self.commit(made).await }
    }

    /// Beats until it is fenced.
    async fn beat(mut self) {
        loop {
            tokio::time::sleep(self.sim.setting.ttl / 3).await;
            let (id, space) = (self.id, self.sim.space());
            let beat = self.ask(|store| {
                let space = space.clone();
                async move { store.heartbeat(&space, id).await }
            });
            if let Err(error @ StoreError::Refused(_)) = beat.await {
                self.refused("a beat", &error);
                return;
            }
        }
    }

    /// Sends what it made in pieces; all of it, or what is missing. Who is `careless` leaves something out.
    async fn upload(&mut self, made: &'static Content, careless: bool) -> Result<(), End> {
        let (sim, space) = (self.sim.clone(), self.sim.space());
        let mut wanted: Vec<&Bytes> = made.blobs().collect();
        let swept = |bytes: &Bytes| sim.ledger().kept.swept(&Digest::of(bytes));
        if careless {
            wanted.swap_remove(sim.random.index(wanted.len()));
            sim.count("uploads that leave something out");
        }
        if !sim.is_calm() && sim.random.chance(4_000) {
            let digests: Vec<_> = wanted.iter().map(|bytes| Digest::of(bytes)).collect();
            let missing = self.ask(|store| {
                let (space, digests) = (space.clone(), digests.clone());
                async move { store.find_missing(&space, &digests).await }
            });
            let missing = missing.await.map_err(|error| self.refused("find_missing", &error))?;
            wanted.retain(|bytes| missing.contains(&Digest::of(bytes)));
            self.relies(digests.into_iter().filter(|digest| !missing.contains(digest)));
        }
        let (large, small): (Vec<&Bytes>, Vec<&Bytes>) =
            wanted.into_iter().partition(|bytes| made.large.contains(bytes));
        for bytes in large {
            let before = swept(bytes);
            let sent = self.ask(|store| {
                let (space, digest) = (space.clone(), Digest::of(bytes));
                async move {
                    let mut upload = store.upload(&space, Some(digest));
                    for piece in bytes.chunks(9_000) {
                        upload.write(Bytes::copy_from_slice(piece)).await?;
                    }
                    upload.finish().await
                }
            });
            let stored = sent.await.map_err(|error| self.refused("an upload", &error))?;
            self.relies([stored]);
            // While it was under way.
            if swept(bytes) > before {
                sim.count("uploads that met a sweep");
            }
        }
        let small: Vec<_> = small.into_iter().cloned().collect();
        let sent = self.ask(|store| {
            let (space, small) = (space.clone(), small.clone());
            async move { store.put_small(&space, small).await }
        });
        let stored = sent.await.map_err(|error| self.refused("an upload", &error))?;
        self.relies(stored);
        Ok(())
    }

    /// What it is told is there has to stay as long as it holds its lease.
    fn relies(&self, on: impl IntoIterator<Item = Digest>) {
        let mut ledger = self.sim.ledger();
        let holds = ledger.leases.values().any(|(lease, _)| lease.execution == self.id);
        if holds {
            ledger.kept.relies(self.id, on);
        }
    }

    async fn commit(&mut self, made: &'static Content) -> End {
        let (sim, space, id) = (self.sim.clone(), self.sim.space(), self.id);
        let code = i32::from(!sim.is_calm() && sim.random.chance(sim.setting.failing / 3));
        let report = (Some(made.root), code == 0);
        sim.ledger().report(id, report.0, report.1);
        for _ in 0..ATTEMPTS {
            let committed = self.ask(|store| {
                let (space, outcome) = (space.clone(), made.outcome(code));
                async move { store.commit(&space, id, &outcome).await }
            });
            match committed.await {
                Ok((execution, recorded)) => return self.acknowledged(&execution, recorded, code),
                Err(StoreError::Missing { .. } | StoreError::Lost { .. } | StoreError::NotFound { .. }) => {
                    sim.count("commits that lack a blob");
                    if let Err(end) = self.upload(made, false).await {
                        return end;
                    }
                }
                Err(error) => return self.refused("a commit", &error),
            }
        }
        End::GaveUp
    }

    /// What a daemon acknowledged is so.
    fn acknowledged(&self, execution: &Execution, recorded: bool, code: i32) -> End {
        let mut ledger = self.sim.ledger();
        let state = if code == 0 { State::Succeeded } else { State::Failed };
        let so = ledger.execution(execution.id) == Some(execution) && execution.state == state;
        ledger.must(so, "what is acknowledged is so", || format!("{execution:?}"));
        let was = ledger.records.contains_key(&execution.id);
        ledger.must(recorded <= was, "who is told of a record has made one", || format!("{execution:?}"));
        drop(ledger);
        self.sim.count("acknowledged commits");
        if state == State::Succeeded { End::Success } else { End::Failed }
    }

    async fn fail(&mut self, made: &'static Content) -> End {
        let (space, id) = (self.sim.space(), self.id);
        self.sim.ledger().report(id, Some(made.root), false);
        let failed = self.ask(|store| {
            let (space, outcome) = (space.clone(), made.outcome(1));
            async move { store.fail(&space, id, "it broke", &outcome).await }
        });
        match failed.await {
            Ok(execution) => self.acknowledged(&execution, false, 1),
            Err(error) => self.refused("a failure", &error),
        }
    }

    /// An error that an executor can get; a refusal must be true.
    fn refused(&self, what: &str, error: &StoreError) -> End {
        let sim = &self.sim;
        match error {
            StoreError::Refused(Refused::Fenced { .. }) => {
                let key = sim.key(self.key);
                let holds = sim.ledger().leases.get(&key).is_some_and(|(lease, _)| lease.execution == self.id);
                sim.ledger().must(!holds, "nobody is fenced who holds the lease", || format!("{what}: {error}"));
                sim.count("fenced");
                End::Fenced
            }
            StoreError::Refused(Refused::Ended { state, .. }) => {
                let is = sim.ledger().execution(self.id).map(|execution| execution.state);
                sim.ledger().must(is == Some(*state), "who has ended has ended so", || format!("{what}: {error}"));
                sim.count("fenced");
                End::Fenced
            }
            // Its own first call was carried out, and the lease has run out since.
            StoreError::Invalid(_) if what == "begin" => End::GaveUp,
            StoreError::Missing { .. } | StoreError::Lost { .. } => End::GaveUp,
            // Its own, or the one that it has waited for.
            StoreError::NotFound { what } if sim.ledger().has_collected(what) => {
                sim.count("calls of what is collected");
                End::GaveUp
            }
            StoreError::Full { .. } if sim.setting.collecting.is_some() => {
                sim.count("uploads that found no room");
                End::GaveUp
            }
            StoreError::Meta(_) | StoreError::Blobs(_) | StoreError::Undecided { .. } | StoreError::Draining
                if !sim.is_calm() =>
            {
                End::GaveUp
            }
            // Calm may have come while this was under way.
            StoreError::Meta(_) | StoreError::Blobs(_) | StoreError::Undecided { .. } | StoreError::Draining => {
                End::GaveUp
            }
            other => {
                sim.broke("no executor is told nonsense", || format!("{what}: {other:?}"));
                End::GaveUp
            }
        }
    }
}

/// What the front does for who waits: it asks again whenever the key's row changes.
async fn begin(sim: Arc<Sim>, store: Store, request: Request, wait: bool) -> Result<Begin, StoreError> {
    let (space, mut waited_for) = (sim.space(), None);
    let waiter = wait.then(|| store.key_changes(&space, &request.key));
    loop {
        let changed = waiter.as_ref().map(|waiter| waiter.changed());
        let mut changed = pin!(async {
            match changed {
                Some(changed) => changed.await,
                None => std::future::pending().await,
            }
        });
        // Enabled by being polled once, before the row is read.
        _ = futures::poll!(&mut changed);
        match store.begin(&space, &request, waited_for).await? {
            Begin::Busy(holder) if wait => {
                waited_for = Some(holder.id);
                sim.count("waits");
            }
            begun => {
                if let Some(holder) = waited_for {
                    heard(&sim, holder);
                }
                return Ok(begun);
            }
        }
        tokio::select! {
            biased;
            () = &mut changed => {}
            () = tokio::time::sleep(RECHECK) => {}
        }
    }
}

/// A waiter heard of a holder's end: in time, if nothing was at fault meanwhile.
fn heard(sim: &Sim, holder: ExecutionId) {
    let now = sim.clocks.time();
    let mut ledger = sim.ledger();
    let Some(Freed { beat, at, expired }) = ledger.freed.get(&holder).copied() else { return };
    let (fault, due) = (ledger.fault, expired.map_or(at, |ttl| beat + ttl));
    if fault > beat {
        let late = at.max(fault) + LATE;
        sim.count("ends heard after faults");
        ledger.must(now <= late, "a waiter hears of an end", || {
            format!("of {holder} at {at:?}, heard at {now:?}; fault {fault:?}")
        });
        return;
    }
    ledger.must(now <= due + PROMPT, "a waiter hears of an end in time", || {
        format!("{holder} was last heard of at {beat:?} and ended at {at:?}, heard at {now:?}; fault {fault:?}")
    });
    drop(ledger);
    sim.count(if expired.is_some() { "expiries heard in time" } else { "ends heard in time" });
}
