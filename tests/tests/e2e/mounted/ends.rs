//! A mount that comes to an end by itself is there again, and leaves nothing behind; one that somebody else ends is not.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use provender_tests::child::{self, eventually};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};

use super::{Site, is_mounted, latest, started, succeeds};

/// What a read may take while a mount has come to an end and is not there again yet.
const BOUND: Duration = Duration::from_secs(20);

/// How often a mount is aborted.
const ABORTS: usize = 3;

/// Ends the connection of a mount as an administrator may.
fn abort(point: &Path) {
    let device = std::fs::metadata(point).unwrap().dev();
    let control = format!("/sys/fs/fuse/connections/{}/abort", rustix::fs::minor(device));
    std::fs::write(control, "1").unwrap();
}

fn descriptors(pid: Pid) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero())).unwrap().count()
}

fn watchdogs(point: &Path) -> Vec<Pid> {
    let programs = ["provenderd", "provender"].map(child::program);
    let with = |word: &str| {
        programs.iter().flat_map(|program| child::processes(program.to_str().unwrap(), word)).collect::<Vec<_>>()
    };
    let watching = with("__mount-watchdog");
    with(point.to_str().unwrap()).into_iter().filter(|process| watching.contains(process)).collect()
}

#[test]
fn an_aborted_mount_is_there_again_and_leaves_nothing_behind() {
    let site = Site::new();
    std::fs::write(site.world.path("x"), "what is read").unwrap();
    site.put("x", "x");
    for (point, server) in [(site.own(), site.world.daemon.pid()), (site.remote(), site.servers()[0])] {
        let file = latest(&point, "x").join("x");
        let reads = || std::fs::read(&file).is_ok_and(|bytes| bytes == b"what is read");
        eventually("it reads", reads);
        let before = descriptors(server);
        for _ in 0..ABORTS {
            abort(&point);
            eventually("it reads again", reads);
        }
        // One that is left keeps its connection; a server has others that come and go.
        eventually("what was aborted is gone", || descriptors(server) < before + ABORTS);
        eventually("who watched over it is gone", || watchdogs(&point).len() == 1);
    }
}

#[test]
fn a_watchdog_that_ends_is_succeeded() {
    let site = Site::new();
    for point in site.both() {
        let first = watchdogs(&point);
        assert_eq!(first.len(), 1);
        kill_process(first[0], Signal::KILL).unwrap();
        eventually("another watches", || {
            let now = watchdogs(&point);
            now.len() == 1 && now != first
        });
        assert!(is_mounted(&point));
    }
}

/// The second often gets the first's device number.
#[test]
fn who_is_unmounted_gives_way_to_who_comes_next() {
    let site = Site::new();
    let point = site.remote();
    for _ in 0..5 {
        let first = site.servers();
        unmount(&point, UnmountFlags::DETACH).unwrap();
        site.mount();
        eventually("the first has ended", || site.servers().iter().all(|server| !first.contains(server)));
        assert_eq!(site.servers().len(), 1);
        // Longer than anybody looks whether he is still mounted.
        let since = Instant::now();
        while since.elapsed() < Duration::from_millis(700) {
            std::fs::read_dir(point.join("tasks")).unwrap();
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// With any number of descriptors it serves or refuses, and nobody who reads waits for ever.
#[test]
fn who_has_too_few_descriptors_keeps_nobody_waiting() {
    let site = Site::new();
    let (program, point) = (child::program("provender"), site.path("few"));
    let remote = site.world.daemon.remote();
    let (mut served, mut unserved, mut refused) = (0, 0, 0);
    for limit in (8..52).step_by(2) {
        let mount = "ulimit -n $0; exec \"$@\" 2>&1";
        let words = ["mount", "--foreground", "--remote", &remote, point.to_str().unwrap()];
        let limit = limit.to_string();
        let mut server = started(&[&["sh", "-c", mount, &limit, program.to_str().unwrap()], &words[..]].concat());
        while !is_mounted(&point) && server.ended().is_none() {
            std::thread::sleep(Duration::from_millis(5));
        }
        if server.ended().is_some() {
            let ran = server.wait();
            child::sane(&ran.out());
            refused += 1;
            continue;
        }
        let since = Instant::now();
        let listed = started(&["ls", point.join("tasks").to_str().unwrap()]).wait();
        assert!(since.elapsed() < BOUND, "with {limit} descriptors a reader waited");
        if listed.status.success() {
            served += 1
        } else {
            unserved += 1
        }
        server.signal(Signal::TERM);
        let since = Instant::now();
        while server.ended().is_none() && since.elapsed() < BOUND {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(server.ended().is_some(), "with {limit} descriptors it does not end");
        succeeds(&["sh", "-c", "umount -l \"$0\" 2>&1 || true", point.to_str().unwrap()]);
    }
    eprintln!("with few descriptors: {refused} refused, {unserved} could not be read, {served} served");
    assert!(refused > 0 && unserved > 0 && served > 0);
}
