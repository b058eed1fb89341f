//! A disk that is full of what may go: collection makes room at once, and nobody notices.

use provender_tests::child::string;

use super::*;

/// How large each output is; some seven fit.
const EACH: usize = 12 * MIB;

/// Stores one: its key.
fn put(world: &World, n: u64) -> String {
    let (file, name) = (format!("in{n}"), format!("n{n}"));
    world.write(&file, bytes(n, EACH));
    let put = world.cli(&["--json", "put", &file, "--name", &name]).ok();
    std::fs::remove_file(world.path(&file)).unwrap();
    string(&put.json()["record"]["key"])
}

#[test]
fn what_is_old_goes_for_what_comes() {
    // Nothing is collected by the clock, nor for the quota: the disk alone is too small.
    let config = "[gc]\nprotect_seconds = 1\nevery_seconds = 0\nquota_percent = 100\nreserve_percent = 0\n";
    let small = Small::new(EXT4, &format!("{config}{SMALL_BUFFERS}"));
    let world = &small.world;
    let keys: Vec<_> = (0..20).map(|n| put(world, n)).collect();
    assert_eq!([0, 5, 19].map(|n| world.verdict(&keys[n])), ["EVICTED", "EVICTED", "SUCCEEDED"]);
    let why = world.cli(&["why", &keys[0]]).ok().out();
    assert!(why.contains("rule: free"), "{why}");
    world.cli(&["cat", "n19", "in19"]).ok();
    assert_eq!(world.cli(&["--json", "verify", "--deep"]).ok().json()["lost"], 0);
}

#[test]
fn what_is_protected_stays_however_full_it_is() {
    let small = Small::new(EXT4, &format!("[gc]\nquota_bytes = 40000000\n{SMALL_BUFFERS}"));
    let world = &small.world;
    for n in 0..3 {
        put(world, n);
    }
    world.write("more", bytes(99, EACH));
    let refused = world.cli(&["put", "more", "--name", "more"]).code(125);
    refused.says(&["no space is left", "of the 40000000 bytes", "gc.quota_bytes", "unpin"]);
    for n in 0..3 {
        assert_eq!(world.verdict(&format!("n{n}")), "SUCCEEDED");
        world.cli(&["cat", &format!("n{n}"), &format!("in{n}")]).ok();
    }
    assert_ne!(world.verdict("more"), "SUCCEEDED");
}
