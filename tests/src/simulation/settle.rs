//! The course of a schedule: daemons come up, everybody does what the seed says, then all faults end and every key must come to a
//! success.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::join_all;
use provender_core::{ExecutionId, Verdict};

use super::Sim;
use super::audit::audit;
use super::collector::{collector, quiet};
use super::executor::{End, Run, executor};
use super::operator::{look, operator};

/// How long everybody may go on once nothing goes wrong any more, and how long a key may take to come to a success then.
const ENDS: Duration = Duration::from_secs(300);
/// How many executors ask for each key in the end.
const AT_ONCE: usize = 3;
/// How often one of them asks again: what decayed is found blob by blob.
const ATTEMPTS: usize = 12;

pub(super) async fn schedule(sim: &Arc<Sim>) {
    join_all(sim.daemons.iter().map(|daemon| daemon.start(sim))).await;
    let executors = (0..sim.setting.executors).map(|number| tokio::spawn(executor(sim.clone(), number)));
    let mut tasks: Vec<_> = executors.collect();
    tasks.push(tokio::spawn(operator(sim.clone())));
    let collectors = (0..sim.setting.daemons).map(|daemon| tokio::spawn(collector(sim.clone(), daemon)));
    let collectors = join_all(collectors.collect::<Vec<_>>());
    let storm = sim.setting.rest * 5 + sim.random.time(sim.setting.rest * 15);
    let all = join_all(tasks);
    tokio::pin!(all);
    let ended = tokio::time::timeout(storm, &mut all).await.is_ok();
    calm(sim).await;
    if !ended && tokio::time::timeout(ENDS, &mut all).await.is_err() {
        sim.broke("waiters end", || format!("somebody still waits, {ENDS:?} after all faults"));
    }
    if tokio::time::timeout(ENDS, collectors).await.is_err() {
        sim.broke("collections end", || format!("one still goes on, {ENDS:?} after all faults"));
    }
    if sim.is_broken() {
        return;
    }
    settle(sim).await;
    if !sim.is_broken() && sim.setting.collecting.is_some() {
        quiet(sim).await;
        // The next run of what was evicted heals it.
        settle(sim).await;
    }
    if !sim.is_broken() {
        let decayed = sim.ledger().decayed.clone();
        let found = audit(&sim.meta, &*sim.blobs, &decayed).await;
        if let Some(fault) = found.faults.first() {
            sim.broke("all rows are whole", || fault.clone());
        }
    }
}

/// All faults end.
async fn calm(sim: &Arc<Sim>) {
    sim.calm.store(true, Ordering::Relaxed);
    let (records, blobs) = {
        let seen = &sim.ledger().kept.seen;
        (seen.records, seen.blobs)
    };
    if records > 0 && blobs > 0 {
        sim.count("schedules in which records and blobs went before");
    }
    sim.event("calm", format_args!("nothing goes wrong any more"));
    sim.fault(Duration::ZERO);
    sim.daemons.iter().for_each(|daemon| daemon.cut(Duration::ZERO));
    if sim.setting.collecting.as_ref().is_some_and(|(how, _)| how.quota.is_some()) {
        // Nobody collects from now on, so there has to be room: they come up with another configuration.
        sim.daemons.iter().for_each(|daemon| _ = daemon.crash());
    }
    join_all(sim.daemons.iter().map(|daemon| daemon.start(sim))).await;
}

/// Every key comes to a success by plain runs, several at once, of which one does the work.
async fn settle(sim: &Arc<Sim>) {
    let plain = |key: usize, number: usize| {
        let sim = sim.clone();
        async move {
            for attempt in 0..ATTEMPTS {
                let daemon = (number + attempt) % sim.setting.daemons;
                let id = ExecutionId(sim.random.bytes());
                let mut run = Run { sim: sim.clone(), daemon, key, id, check: false, wait: true };
                let end = run.whole().await;
                sim.event("plain run", format_args!("key {key}: {end:?}"));
                if end == End::Success || sim.is_broken() {
                    return end;
                }
            }
            End::GaveUp
        }
    };
    let runs: Vec<_> = (0..sim.setting.keys).flat_map(|key| (0..AT_ONCE).map(move |number| (key, number))).collect();
    let runs = runs.into_iter().map(|(key, number)| tokio::spawn(plain(key, number)));
    let bound = sim.setting.ttl + Duration::from_secs(40);
    match tokio::time::timeout(bound, join_all(runs)).await {
        Err(_) => sim.broke("no key is stuck", || format!("a key came to no success within {bound:?}")),
        Ok(ends) => {
            let stuck = ends.iter().filter(|end| !matches!(end, Ok(End::Success))).count();
            if stuck > 0 {
                sim.broke("no key is stuck", || format!("{stuck} plain runs came to no success: {ends:?}"));
            }
        }
    }
    if sim.is_broken() {
        return;
    }
    look(sim).await;
    for key in 0..sim.setting.keys {
        let (verdict, _) = sim.ledger().standing(&sim.key(key));
        if verdict != Verdict::Succeeded {
            sim.broke("every key comes to a success", || format!("key {key} is {verdict}"));
        }
    }
}
