//! Who serves a mount is killed or stopped at any moment, while others read and map what it shows.
//!
//! Invariants held after each round: no reader waits beyond the bound; what is mounted again is the one mount there; each byte that anybody
//! ever got is right (each reader knows them, see `reader.c`).

use std::path::PathBuf;
use std::time::{Duration, Instant};

use provender_tests::child::{Running, eventually, soak};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use super::{Site, is_mounted, latest, started, succeeds};

/// The longest that any call may take, whatever is done to who serves it: a stalled connection is ended after 20 s, a question to the store
/// after 10.
const BOUND: Duration = Duration::from_secs(35);
/// Of each mount.
const READERS: usize = 2;

/// What is done to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blow {
    KillDaemon,
    KillMount,
    /// For so many milliseconds.
    StopDaemon(u64),
    StopMount(u64),
    /// Until its readers are let go, and then it is killed.
    StopDaemonForGood,
    StopMountForGood,
}

/// A process that reads one of the mounts.
struct Reader(Running);

impl Reader {
    /// How often all was right, how often there was an error, and the longest wait in milliseconds.
    fn counts(&self) -> [u64; 3] {
        let said = self.0.stdout();
        let mut counts = said.split_whitespace().map(|word| word.parse().unwrap());
        [(); 3].map(|()| counts.next().unwrap_or_default())
    }

    /// `R`, `S`, `D` or such.
    fn state(&self) -> char {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.pid().as_raw_nonzero())).unwrap_or_default();
        stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).unwrap_or('?')
    }

    #[track_caller]
    fn lives(&mut self) {
        let ended = self.0.ended();
        assert!(ended.is_none(), "a reader ended with {ended:?}: {}", self.0.stderr());
    }
}

/// The site goes first, and who serves with it: until then a reader may not be able to end.
struct Chaos {
    site: Site,
    /// First those of the daemon's own mount.
    readers: Vec<Reader>,
}

impl Chaos {
    fn new() -> Chaos {
        let site = Site::new();
        let reader = site.path("reader").to_str().unwrap().to_owned();
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/mounted/reader.c");
        succeeds(&["cc", "-O1", "-Wall", "-Werror", "-o", &reader, source]);
        let made = site.world.path("made");
        std::fs::create_dir(&made).unwrap();
        succeeds(&[&reader, "make", made.to_str().unwrap()]);
        site.put("made", "made");
        let begun = |(n, point): (usize, &PathBuf)| {
            let folder = std::fs::canonicalize(latest(point, "made")).unwrap();
            Reader(started(&[&reader, "read", folder.to_str().unwrap(), &n.to_string()]))
        };
        let readers = site.both().iter().flat_map(|point| [point; READERS]).enumerate().map(begun).collect();
        let mut chaos = Chaos { site, readers };
        chaos.all_read_on();
        chaos
    }

    fn server(&self) -> Pid {
        let servers = self.site.servers();
        assert_eq!(servers.len(), 1, "{servers:?}");
        servers[0]
    }

    fn round(&mut self, n: usize, blow: Blow) {
        // Not always at the same moment of what the readers do.
        std::thread::sleep(Duration::from_millis(n as u64 * 37 % 211));
        match blow {
            Blow::KillDaemon => self.end_daemon(),
            Blow::KillMount => self.end_mount(),
            Blow::StopDaemon(millis) => {
                self.site.world.daemon.signal(Signal::STOP);
                std::thread::sleep(Duration::from_millis(millis));
                self.site.world.daemon.signal(Signal::CONT);
            }
            Blow::StopMount(millis) => {
                let server = self.server();
                kill_process(server, Signal::STOP).unwrap();
                std::thread::sleep(Duration::from_millis(millis));
                kill_process(server, Signal::CONT).unwrap();
            }
            Blow::StopDaemonForGood => {
                self.site.world.daemon.signal(Signal::STOP);
                self.are_let_go(0);
                self.end_daemon();
            }
            Blow::StopMountForGood => {
                kill_process(self.server(), Signal::STOP).unwrap();
                self.are_let_go(READERS);
                self.end_mount();
            }
        }
        self.all_read_on();
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        for point in self.site.both() {
            let there = mounts.lines().filter(|line| line.split(' ').nth(1) == point.to_str()).count();
            assert_eq!(there, 1, "{point:?} after {blow:?}");
        }
    }

    fn end_daemon(&mut self) {
        self.site.world.daemon.kill();
        self.site.world.daemon.restart();
    }

    fn end_mount(&self) {
        let server = self.server();
        kill_process(server, Signal::KILL).unwrap();
        // Before that it holds the mount still.
        eventually("it has ended", || test_kill_process(server).is_err() || is_dead(server));
        self.site.mount();
        assert!(is_mounted(&self.site.remote()));
    }

    /// Waits until those of one mount have got an error, so wait no more, although who serves them is stopped.
    fn are_let_go(&mut self, first: usize) {
        let since = Instant::now();
        let errors = |readers: &[Reader]| readers.iter().map(|reader| reader.counts()[1]).collect::<Vec<_>>();
        let before = errors(&self.readers[first..first + READERS]);
        loop {
            let now = errors(&self.readers[first..first + READERS]);
            if now.iter().zip(&before).all(|(now, before)| now > before) {
                break;
            }
            assert!(since.elapsed() < BOUND, "readers wait for who is stopped: {:?}", self.states());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn states(&self) -> Vec<char> {
        self.readers.iter().map(Reader::state).collect()
    }

    /// Waits until each reader has found all right many times anew, and has not waited for too long.
    fn all_read_on(&mut self) {
        let since = Instant::now();
        let before: Vec<_> = self.readers.iter().map(|reader| reader.counts()[0]).collect();
        loop {
            self.readers.iter_mut().for_each(Reader::lives);
            let on = |(reader, before): (&Reader, &u64)| reader.counts()[0] >= before + 30;
            if self.readers.iter().zip(&before).all(on) {
                break;
            }
            assert!(since.elapsed() < BOUND, "readers do not go on: {:?}, {:?}", self.states(), self.counts());
            std::thread::sleep(Duration::from_millis(10));
        }
        for [_, _, longest] in self.counts() {
            assert!(u128::from(longest) < BOUND.as_millis(), "{:?}", self.counts());
        }
    }

    fn counts(&self) -> Vec<[u64; 3]> {
        self.readers.iter().map(Reader::counts).collect()
    }
}

fn is_dead(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
}

fn survives(rounds: usize, blows: &[Blow]) {
    let mut chaos = Chaos::new();
    for n in 0..rounds {
        chaos.round(n, blows[n % blows.len()]);
    }
    eprintln!("{rounds} rounds of {blows:?}; right, errors, longest wait in ms of each reader: {:?}", chaos.counts());
}

#[test]
fn who_serves_is_killed_at_any_moment_and_no_byte_is_wrong() {
    survives(if soak() { 100 } else { 6 }, &[Blow::KillDaemon, Blow::KillMount]);
}

#[test]
fn who_serves_is_stopped_and_goes_on_and_no_byte_is_wrong() {
    let blows = [Blow::StopDaemon(150), Blow::StopMount(300), Blow::StopDaemon(1_200), Blow::StopMount(900)];
    survives(if soak() { 100 } else { 4 }, &blows);
}

/// Each round takes as long as a stalled connection is waited for.
#[test]
fn a_daemon_is_stopped_for_good_and_its_readers_are_let_go() {
    survives(if soak() { 10 } else { 1 }, &[Blow::StopDaemonForGood]);
}

#[test]
fn a_mount_is_stopped_for_good_and_its_readers_are_let_go() {
    survives(if soak() { 10 } else { 1 }, &[Blow::StopMountForGood]);
}
