//! Power cuts: the file system under a daemon at work is shut down without flushing anything, mounted anew with what had reached the disk, and
//! the daemon comes up over that. What was acknowledged is there with its very bytes, and nothing else is SUCCEEDED.
//!
//! That each sync is needed is seen by leaving it out: then such a cut loses what was acknowledged. Needs root, loop devices, XFS and ext4.

#[path = "power/load.rs"]
mod load;
#[path = "power/site.rs"]
mod site;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use provender_tests::child::soak;
use provender_tests::syscalls::{Call, Judge, Sentence};

use load::Load;
use site::{On, Site, kind};

/// Cuts under load, each after a random while.
fn cuts(mkfs: &[&str]) {
    let rounds = if soak() { 50 } else { 3 };
    let mut site = Site::on(mkfs, On::All, None).unwrap();
    let mut load = Load::all();
    for round in 0..rounds {
        let pause = Duration::from_millis(200 + u64::from(getrandom::u32().unwrap() % 1_300));
        load.run(&mut site, (8, usize::MAX), |load, site| {
            load.wait_for(20);
            std::thread::sleep(pause);
            site.cut();
        });
        site.restore().unwrap_or_else(|log| panic!("round {round}: {log}"));
        let found = load.check(&site);
        assert!(found.is_empty(), "round {round}, cut {pause:?} after 20 were acknowledged: {found:#?}");
        load.make_the_rest(&site);
    }
    load.doubt();
    assert_eq!((load.check(&site), site.verify_deep()), (Vec::new(), String::new()));
    eprintln!(
        "power: {rounds} cuts on {}: 0 acknowledged commits lost, 0 false SUCCEEDED, 0 wrong bytes; {load}",
        mkfs[0]
    );
}

#[test]
fn a_power_cut_on_xfs_loses_nothing_that_was_acknowledged() {
    cuts(&["mkfs.xfs"]);
}

#[test]
fn a_power_cut_on_ext4_loses_nothing_that_was_acknowledged() {
    cuts(&["mkfs.ext4"]);
}

type Stored = fn() -> Load;

/// Each kind of sync that something rests on; what of the store lies on the disk whose power is cut where that is seen, and what is stored.
///
/// XFS writes its log in order, so a sync brings with it whatever was named before it. So that names are synced is seen to matter where nothing else
/// is synced on that disk afterwards.
const NEEDED: [(&str, On, Stored); 10] = [
    ("the bytes of a blob", On::All, Load::all),
    ("the name of a blob", On::Blobs, Load::all),
    ("the mark of the blob store", On::All, Load::all),
    ("the folders of the store", On::Blobs, Load::small),
    ("the layout of the store", On::All, Load::all),
    ("RocksDB's log", On::All, Load::all),
    ("a table of RocksDB", On::All, Load::all),
    ("the values of RocksDB", On::All, Load::all),
    ("RocksDB's manifest", On::All, Load::all),
    ("which manifest is RocksDB's", On::All, Load::all),
];

/// Kinds that XFS does not need: RocksDB's log, which is synced before anything is acknowledged, brings with it what its folder names, and nobody
/// reads its options.
const COVERED: [&str; 2] = ["RocksDB's folder", "RocksDB's options"];

/// Stores some, a large blob last, kills the daemon, so that RocksDB writes a table at its next start, stores some more, and cuts the power; what is wrong then.
fn stores_and_is_cut(on: On, mut load: Load, judge: Judge) -> Vec<String> {
    let mut site = Site::on(&["mkfs.xfs"], on, Some(judge)).unwrap();
    load.run(&mut site, (1, 8), |load, site| {
        load.wait_for(8);
        site.daemon.kill();
    });
    site.daemon.restart();
    load.run(&mut site, (1, 8), |load, site| {
        load.wait_for(8);
        site.cut();
    });
    match site.restore() {
        Ok(()) => load.check(&site),
        Err(log) => vec![log],
    }
}

#[test]
fn each_sync_that_is_left_out_is_seen_at_a_power_cut() {
    let seen: Arc<Mutex<BTreeMap<&str, usize>>> = Arc::default();
    let saw = seen.clone();
    let judge: Judge = Arc::new(move |call: &Call| {
        if let Some(kind) = kind(call) {
            *saw.lock().unwrap().entry(kind).or_default() += 1;
        }
        Sentence::Pass
    });
    assert_eq!(stores_and_is_cut(On::All, Load::all(), judge), [""; 0]);
    let seen = seen.lock().unwrap();
    eprintln!("power: what is synced, and how often: {seen:#?}");
    let known: BTreeSet<_> = NEEDED.iter().map(|(kind, ..)| *kind).chain(COVERED).collect();
    assert_eq!(seen.keys().copied().collect::<BTreeSet<_>>(), known);

    for (left_out, on, load) in NEEDED {
        let judge = |call: &Call| if kind(call) == Some(left_out) { Sentence::LeaveOut } else { Sentence::Pass };
        let found = stores_and_is_cut(on, load(), Arc::new(judge));
        assert!(!found.is_empty(), "nothing was lost without syncing {left_out}");
        eprintln!("power: without syncing {left_out}: {}", found[0]);
    }
}
