//! Simulated operators, and what befalls daemons: invalidations, decay, crashes, partitions, wrong clocks.

use std::sync::Arc;
use std::time::Duration;

use provender_blobs::Blobs;
use provender_core::blob::Place;
use provender_core::transition::Cause;
use provender_core::{Digest, Verdict};
use provender_daemon::store::{Compressed, Compression, Invalidate, located};

use super::rules::told;
use super::setting::Deed;
use super::{Sim, collector};

/// All deeds of a schedule, one after the other.
pub(super) async fn operator(sim: Arc<Sim>) {
    for _ in 0..sim.setting.deeds {
        tokio::time::sleep(sim.random.time(sim.setting.rest)).await;
        let deed = sim.setting.deed[sim.random.index(sim.setting.deed.len())];
        match deed {
            Deed::Look => look(&sim).await,
            Deed::Invalidate => invalidate(&sim).await,
            Deed::Lose | Deed::Rot => decay(&sim, deed == Deed::Rot).await,
            Deed::Crash => crash(&sim).await,
            Deed::Cut | Deed::CutAll => cut(&sim, deed == Deed::CutAll),
            Deed::Wall => wall(&sim),
            Deed::Compress => compress(&sim).await,
            Deed::Pin => collector::pin(&sim).await,
            Deed::Unpin => collector::unpin(&sim).await,
        }
        if sim.is_broken() {
            return;
        }
    }
}

/// A lookup of all keys, held against the truth.
pub(super) async fn look(sim: &Arc<Sim>) {
    let keys: Vec<_> = (0..sim.setting.keys).map(|n| sim.key(n)).collect();
    let (since, daemon) = (sim.ledger().commits, sim.random.index(sim.setting.daemons));
    let (space, at) = (sim.space(), sim.clocks.time());
    let answers = sim.daemons[daemon].call(sim, |store| {
        let (space, keys) = (space.clone(), keys.clone());
        async move { store.lookup(&space, &keys).await }
    });
    let Ok(answers) = answers.await else { return };
    for (key, answer) in keys.iter().zip(answers) {
        told(&mut sim.ledger(), key, since, answer.verdict, answer.execution);
        if let (Verdict::Succeeded, Some(record)) = (answer.verdict, answer.execution) {
            let mut ledger = sim.ledger();
            let fault = ledger.fault;
            ledger.kept.answered(record, at, fault);
        }
        sim.count(answer.verdict.as_str());
    }
}

async fn invalidate(sim: &Arc<Sim>) {
    let key = sim.key(sim.random.index(sim.setting.keys));
    sim.event("invalidation", format_args!("{key}"));
    sim.ledger().invalidated.insert(key.clone());
    let (space, daemon) = (sim.space(), sim.random.index(sim.setting.daemons));
    let done = sim.daemons[daemon].call(sim, |store| async move {
        let cause = Cause { text: "a deed".into(), ..Cause::default() };
        let asked = Invalidate { keys: vec![key], cause, ..Invalidate::default() };
        let mut invalidation = store.invalidate(&space, asked, 10);
        while invalidation.next().await?.is_some() {}
        Ok(())
    });
    _ = done.await;
}

/// The bytes of a file or two vanish or change; somebody may read them soon, while others look.
async fn decay(sim: &Arc<Sim>, rots: bool) {
    for _ in 0..=sim.random.below(2) {
        let files: Vec<_> = {
            let ledger = sim.ledger();
            let whole = ledger.blobs.iter().filter(|(_, blob)| blob.place != Place::Inline && blob.lost.is_none());
            whole.map(|(digest, blob)| located(digest, blob).0).collect()
        };
        if files.is_empty() {
            return;
        }
        let location = files[sim.random.index(files.len())];
        sim.ledger().decayed.insert(location.digest);
        sim.ledger().ever_decayed.insert(location.digest);
        if rots {
            sim.blobs.rot(location);
            sim.event("fault: a blob rots", format_args!("{}", location.digest));
        } else {
            sim.blobs.remove(&location).await.unwrap();
            sim.event("fault: a blob vanishes", format_args!("{}", location.digest));
        }
        if sim.random.chance(6_000) {
            tokio::spawn(notice(sim.clone(), location.digest));
            tokio::spawn(look_soon(sim.clone()));
            tokio::spawn(look_soon(sim.clone()));
        }
    }
}

/// A daemon puts all there is into frames, while others read, lose and heal it.
async fn compress(sim: &Arc<Sim>) {
    let daemon = sim.random.index(sim.setting.daemons);
    let rest = sim.random.chance(5_000);
    let done = sim.daemons[daemon].call(sim, |store| async move {
        // At 20,000 bytes a second each blob takes about a second.
        let bytes_per_second = if rest { 20_000 } else { u64::MAX };
        let policy = Compression { after: Duration::ZERO, min_bytes: 0, level: 1, bytes_per_second };
        store.compress_cold(&policy).await
    });
    if let Ok(Compressed { packed: 1.., .. }) = done.await {
        sim.event("blobs compressed", format_args!(""));
    }
}

async fn soon(sim: &Sim) {
    tokio::time::sleep(sim.random.time(Duration::from_millis(100))).await;
}

async fn look_soon(sim: Arc<Sim>) {
    soon(&sim).await;
    look(&sim).await;
}

async fn notice(sim: Arc<Sim>, digest: Digest) {
    soon(&sim).await;
    let (space, daemon) = (sim.space(), sim.random.index(sim.setting.daemons));
    let read = sim.daemons[daemon].call(&sim, |store| async move { store.read_whole(&space, &digest, 1 << 20).await });
    if let Ok(read) = read.await
        && Digest::of(&read) != digest
    {
        sim.broke("every byte that leaves is right", || format!("{digest}"));
    }
}

/// A daemon dies, and comes up again later.
async fn crash(sim: &Arc<Sim>) {
    let daemon = sim.random.index(sim.setting.daemons);
    if !sim.daemons[daemon].crash() {
        return;
    }
    let down = sim.random.time(Duration::from_secs(15));
    sim.event("fault: a daemon crashed", format_args!("{daemon} for {down:?}"));
    sim.fault(down);
    let sim = sim.clone();
    tokio::spawn(async move {
        tokio::time::sleep(down).await;
        sim.daemons[daemon].start(&sim).await;
    });
}

/// One daemon, or all, reach no metadata for a while.
fn cut(sim: &Arc<Sim>, all: bool) {
    let time = sim.random.time(sim.setting.ttl * 2);
    let one = sim.random.index(sim.setting.daemons);
    let until = sim.clocks.time() + time;
    let cut = sim.daemons.iter().enumerate().filter(|(number, _)| all || *number == one);
    cut.for_each(|(_, daemon)| daemon.cut(until));
    sim.fault(time);
    let kind = if all { "fault: all daemons cut off" } else { "fault: a daemon cut off" };
    sim.event(kind, format_args!("{one} for {time:?}"));
}

/// A daemon's wall clock steps by an hour, or is set right.
fn wall(sim: &Arc<Sim>) {
    let daemon = sim.random.index(sim.setting.daemons);
    let by = [-3_600_000, 0, 3_600_000][sim.random.index(3)];
    sim.clocks.set_wrong(daemon, by);
    sim.event("fault: a wall clock steps", format_args!("{daemon} by {by} ms"));
}
