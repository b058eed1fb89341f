//! Simulated collectors: daemons that collect whenever the seed says, several at once, and operators that pin and unpin; and what must hold
//! once everything is quiet.

use std::sync::Arc;
use std::time::Duration;

use provender_core::blob::Pinned;
use provender_core::{Name, Verdict};
use provender_daemon::store::{Collected, StoreError};

use super::Sim;
use super::content::content;
use super::daemon::Unanswered;

/// After how long one daemon goes on with what another has begun to collect, and some more.
const TAKEN_OVER: Duration = Duration::from_secs(20);
/// Whose pins they are.
const OWNERS: [&str; 2] = ["one", "other"];

/// A daemon that collects again and again until all is calm.
pub(super) async fn collector(sim: Arc<Sim>, daemon: usize) {
    let Some((_, pause)) = sim.setting.collecting else { return };
    loop {
        tokio::time::sleep(sim.random.time(pause)).await;
        if sim.is_calm() || sim.is_broken() {
            return;
        }
        let dry_run = sim.random.chance(1_000);
        match collect(&sim, daemon, dry_run).await {
            Ok(done) => {
                let Collected { executions, records, spared, blobs, .. } = done;
                sim.event("collection", format_args!("by daemon {daemon}: {executions}, {records}, {spared}, {blobs}"));
                for (kind, count) in [("collections that spare something", spared), ("collections of blobs", blobs)] {
                    if count > 0 {
                        sim.count(kind);
                    }
                }
            }
            Err(Unanswered::Store(StoreError::Collecting)) => sim.count("collections that were overtaken"),
            Err(Unanswered::Store(
                StoreError::Meta(_)
                | StoreError::Blobs(_)
                | StoreError::Undecided { .. }
                | StoreError::Contended { .. }
                | StoreError::Draining,
            )) => sim.count("collections that were cut off"),
            Err(Unanswered::Down) => {}
            Err(Unanswered::Store(other)) => sim.broke("a collection makes sense", || format!("{other:?}")),
        }
    }
}

async fn collect(sim: &Arc<Sim>, daemon: usize, dry_run: bool) -> Result<Collected, Unanswered> {
    let asked = sim.daemons[daemon].call(sim, |store| async move { store.collect(dry_run, &mut |_| {}).await });
    asked.await
}

/// Some key, name or tree, for a while or for good.
pub(super) async fn pin(sim: &Arc<Sim>) {
    let (what, time) = (anything(sim), sim.random.chance(7_000).then(|| sim.random.time(Duration::from_secs(40))));
    let owner = OWNERS[sim.random.index(2)];
    let (space, daemon) = (sim.space(), sim.random.index(sim.setting.daemons));
    let pinned = sim.daemons[daemon]
        .call(sim, |store| async move { store.pin(&space, what, "a deed".into(), owner.into(), time).await });
    if let Ok((_, pin)) = pinned.await {
        sim.count(if pin.what.digest().is_some() { "trees pinned" } else { "records pinned" });
    }
}

/// The pins of something go, of one owner or of all.
pub(super) async fn unpin(sim: &Arc<Sim>) {
    let what = anything(sim);
    let owner = sim.random.chance(5_000).then(|| OWNERS[sim.random.index(2)]);
    let (space, daemon) = (sim.space(), sim.random.index(sim.setting.daemons));
    let unpinned = sim.daemons[daemon].call(sim, |store| async move { store.unpin(&space, &what, owner).await });
    if unpinned.await.is_ok_and(|unpinned| !unpinned.is_empty()) {
        sim.count("unpinned");
    }
}

fn anything(sim: &Sim) -> Pinned {
    let key = sim.random.index(sim.setting.keys);
    match sim.random.index(if sim.setting.is_slow() { 3 } else { 5 }) {
        0 => Pinned::Key(sim.key(key)),
        1 => Pinned::Name(Name::new(format!("name/{}", key % 2)).unwrap()),
        2 => Pinned::Prefix("name".into()),
        _ => Pinned::Tree(content(key, sim.random.index(2)).root),
    }
}

/// Nobody does anything any more: collection comes to its end, and what it keeps is right.
pub(super) async fn quiet(sim: &Arc<Sim>) {
    let Some((how, _)) = &sim.setting.collecting else { return };
    for _ in 0..3 {
        tokio::time::sleep(how.protect + sim.setting.ttl + TAKEN_OVER).await;
        match collect(sim, 0, false).await {
            Ok(done) => sim.event("collection in the end", format_args!("{} and {}", done.executions, done.blobs)),
            Err(error) => return sim.broke("collection comes to its end", || format!("{error:?}")),
        }
    }
    match sim.daemons[0].call(sim, |store| async move { store.audit().await }).await {
        Ok(wrong) if wrong.is_empty() => {}
        wrong => return sim.broke("what collection keeps is right", || format!("{wrong:?}")),
    }
    for n in 0..sim.setting.keys {
        match sim.ledger().standing(&sim.key(n)).0 {
            Verdict::Evicted => sim.count("keys evicted in the end"),
            // That it was is forgotten.
            Verdict::Unknown if how.tombstones < 1_000 => {}
            Verdict::Succeeded => {}
            other => sim.broke("collection only evicts", || format!("key {n} is {other}")),
        }
    }
}
