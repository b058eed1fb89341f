//! `provender mount` as on another machine: through its cache, from its cache alone, and over a daemon that dies, stands still, or is cut off.

#[path = "remote_mount/line.rs"]
mod line;

use std::fs;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use provender_tests::child::{Running, eventually};
use provender_tests::provender::Provender;
use rustix::process::Signal;
use tempfile::TempDir;

use self::line::Line;
use crate::mounted::is_mounted;
use crate::world::{World, folder, snapshot};

/// A net around what may take up to 10 s by its own rules: what has not come by then hangs.
const BOUND: Duration = Duration::from_secs(25);
/// The same for what must not have to wait for anything.
const PROMPT: Duration = Duration::from_secs(5);

/// Of two groups, and of many.
const MIDDLE: usize = 300_000;
const LARGE: usize = 6 << 20;

/// A daemon with a success `n` whose outputs have all sizes: small files, and large ones that are streamed.
struct Store {
    world: World,
    place: TempDir,
}

/// A view in a process of its own, gone with the value.
struct View {
    process: Running,
    point: PathBuf,
}

/// Bytes that are nowhere alike.
fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(size).collect()
}

impl Store {
    fn new() -> Store {
        let store = Store { world: World::new(), place: folder() };
        let world = &store.world;
        for number in 0..40 {
            world.write(&format!("in/small/{number}"), noise(number + 1, 1000 + number as usize));
        }
        world.write("in/middle", noise(77, MIDDLE));
        world.write("in/large", noise(78, LARGE));
        store.make("n");
        store
    }

    fn make(&self, name: &str) {
        self.world.run(&["--name", name, "--in", "in", "--out", "out"], "cp -a in out; echo said").ok();
    }

    fn cache(&self) -> PathBuf {
        self.place.path().join("cache")
    }

    fn view(&self, flags: &[&str]) -> View {
        self.view_by(&self.world.provender, flags)
    }

    fn view_by(&self, provender: &Provender, flags: &[&str]) -> View {
        let point = self.place.path().join("m");
        let cache = self.cache();
        let fixed = ["mount", "--foreground", point.to_str().unwrap(), "--cache", cache.to_str().unwrap()];
        let process = provender.start(fixed.iter().chain(flags));
        let mut view = View { process, point };
        eventually("it is mounted", || {
            let ended = view.process.ended();
            assert!(ended.is_none(), "{ended:?}: {}", view.process.stderr());
            is_mounted(&view.point)
        });
        view
    }

    fn input(&self, file: &str) -> Vec<u8> {
        fs::read(self.world.path("in").join(file)).unwrap()
    }

    /// Something of the outputs is as it was made.
    #[track_caller]
    fn is_right(&self, view: &View, file: &str) {
        let found = fs::read(view.out(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(found == self.input(file), "{file} has other bytes");
    }

    /// The same, once the daemon is heard again.
    fn comes_back(&self, view: &View, file: &str) {
        eventually("it goes on", || fs::read(view.out(file)).is_ok());
        self.is_right(view, file);
    }
}

/// A folder that is open, as that of a shell that stands in it: the way to it is not asked for again.
struct Standing(fs::File);

impl Standing {
    fn at(&self, file: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{file}", self.0.as_raw_fd()))
    }
}

impl View {
    /// Stands in the outputs.
    fn stand(&self) -> Standing {
        Standing(fs::File::open(self.out(".")).unwrap())
    }

    fn out(&self, file: &str) -> PathBuf {
        self.point.join("tasks/n/latest/out/out").join(file)
    }

    /// Ends it as a service manager would.
    fn end(self) {
        self.process.signal(Signal::TERM);
        let mut view = self;
        eventually("it ends", || view.process.ended().is_some());
        assert!(!is_mounted(&view.point));
    }
}

impl Drop for View {
    fn drop(&mut self) {
        if is_mounted(&self.point) {
            let _ = Command::new("umount").arg("--lazy").arg(&self.point).status();
        }
    }
}

/// The file of the blob of this size in a cache.
fn cached(cache: &Path, size: usize) -> Option<PathBuf> {
    let below = |dir: PathBuf| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files = below(cache.join("blobs")).flat_map(below);
    files.find(|file| file.to_str().unwrap().ends_with(&format!(".{size}")))
}

/// Whether it is known to be whole there.
fn is_whole(cache: &Path, size: usize) -> bool {
    cached(cache, size).is_some_and(|file| PathBuf::from(format!("{}.whole", file.display())).exists())
}

#[track_caller]
fn prompt<T>(what: &str, within: Duration, act: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let outcome = act();
    assert!(began.elapsed() < within, "{what} took {:?}", began.elapsed());
    outcome
}

#[test]
fn what_was_seen_once_is_shown_offline_and_nothing_else() {
    let mut store = Store::new();
    store.make("other");
    let online = {
        let view = store.view(&[]);
        let online = snapshot(&view.point.join("tasks/n"));
        assert!(snapshot(&view.out(".")) == snapshot(&store.world.path("in")));
        // A part of a file, and a name that is not there.
        let failed = view.point.join("failed");
        assert_eq!(fs::read_dir(failed).unwrap().count(), 0);
        view.end();
        online
    };
    store.world.daemon.stop();
    let view = store.view(&["--offline"]);
    assert!(snapshot(&view.point.join("tasks/n")) == online);
    assert_eq!(fs::read_dir(view.point.join("failed")).unwrap().count(), 0);
    // Whether there is anything else nobody has asked.
    let listed = fs::read_dir(view.point.join("tasks")).and_then(|all| all.collect::<Result<Vec<_>, _>>());
    let unseen = [listed.map(|_| ()), fs::metadata(view.point.join("tasks/other")).map(|_| ())];
    for outcome in unseen {
        let error = outcome.expect_err("a listing that was not seen");
        assert_ne!(error.kind(), std::io::ErrorKind::NotFound, "it does not say that there is nothing");
    }
    assert!(view.process.stderr().contains("not in the cache"), "{}", view.process.stderr());
    // The store of another address has nothing here.
    view.end();
    let elsewhere = store.world.provender.env("PROVENDER_REMOTE", "unix:/nowhere/at/all");
    let view = store.view_by(&elsewhere, &["--offline"]);
    assert!(fs::metadata(view.point.join("tasks/n")).is_err());
    view.end();
}

#[test]
fn a_second_reading_fetches_nothing_and_a_flipped_byte_is_not_shown() {
    let mut store = Store::new();
    let view = store.view(&[]);
    store.is_right(&view, "large");
    store.is_right(&view, "middle");
    eventually("both are whole", || [MIDDLE, LARGE].iter().all(|size| is_whole(&store.cache(), *size)));
    view.end();
    // Nobody can be asked for bytes now.
    let view = store.view(&[]);
    let standing = view.stand();
    store.world.daemon.signal(Signal::STOP);
    for file in ["large", "middle"] {
        assert!(fs::read(standing.at(file)).unwrap() == store.input(file));
    }
    store.world.daemon.signal(Signal::CONT);
    drop(standing);
    view.end();

    for size in [MIDDLE, LARGE] {
        let file = cached(&store.cache(), size).unwrap();
        let open = fs::File::options().read(true).write(true).open(file).unwrap();
        let mut byte = [0];
        open.read_exact_at(&mut byte, 280_000).unwrap();
        open.write_all_at(&[!byte[0]], 280_000).unwrap();
    }
    let view = store.view(&[]);
    store.is_right(&view, "large");
    store.is_right(&view, "middle");
    view.end();
    store.world.daemon.stop();
}

#[test]
fn it_lives_through_a_killed_daemon_and_a_deleted_cache() {
    let mut store = Store::new();
    let view = store.view(&[]);
    let mut file = fs::File::open(view.out("large")).unwrap();
    let mut begin = vec![0; 100_000];
    file.read_exact(&mut begin).unwrap();
    store.world.daemon.kill();
    let rest = thread::scope(|scope| {
        // It begins while there is no daemon.
        let reader = scope.spawn(|| {
            let mut rest = Vec::new();
            file.read_to_end(&mut rest).map(|_| rest)
        });
        store.world.daemon.restart();
        reader.join().unwrap()
    });
    assert!([begin, rest.unwrap()].concat() == store.input("large"));
    store.is_right(&view, "small/3");

    // And while it is read, the cache goes.
    let middle = view.out("middle");
    let mut open = fs::File::open(&middle).unwrap();
    open.read_exact(&mut [0; 10]).unwrap();
    for number in 0..40 {
        if number % 10 == 0 {
            eventually("it is deleted", || fs::remove_dir_all(store.cache()).is_ok());
        }
        store.is_right(&view, &format!("small/{number}"));
    }
    let mut rest = Vec::new();
    open.read_to_end(&mut rest).unwrap();
    assert!(rest == store.input("middle")[10..]);
    drop((open, file));
    view.end();
    let view = store.view(&[]);
    store.is_right(&view, "large");
    view.end();
}

/// What needs the daemon fails within a bound, then at once; what is cached does not; and it goes on by itself.
fn is_cut_and_comes_back(store: &Store, view: &View, cut: impl FnOnce(), mend: impl FnOnce()) {
    store.is_right(view, "small/0");
    store.is_right(view, "middle");
    let mut large = fs::File::open(view.out("large")).unwrap();
    large.read_exact(&mut [0; 10]).unwrap();
    eventually("it is whole", || is_whole(&store.cache(), MIDDLE));
    let standing = view.stand();
    cut();
    let failed = prompt("the first", BOUND, || fs::read(standing.at("small/1")));
    failed.expect_err("nobody answers");
    for number in 2..40 {
        for file in [standing.at(&format!("small/{number}")), view.out(&format!("small/{number}"))] {
            prompt("another", PROMPT, || fs::read(file)).expect_err("nobody answers");
        }
    }
    let mut buffer = vec![0; 10_000];
    let beyond = prompt("a large one", PROMPT, || large.read_exact_at(&mut buffer, 5 << 20));
    assert!(beyond.is_err() || buffer == store.input("large")[5 << 20..][..10_000]);
    for file in ["middle", "small/0"] {
        assert!(prompt("what is kept", PROMPT, || fs::read(standing.at(file))).unwrap() == store.input(file));
    }
    mend();
    store.comes_back(view, "small/1");
    store.is_right(view, "large");
    (2..40).for_each(|number| store.is_right(view, &format!("small/{number}")));
}

#[test]
fn a_daemon_that_stands_still_is_not_waited_for_twice() {
    let store = Store::new();
    let view = store.view(&[]);
    let (stop, go) = (|| store.world.daemon.signal(Signal::STOP), || store.world.daemon.signal(Signal::CONT));
    is_cut_and_comes_back(&store, &view, stop, go);
    view.end();
}

#[test]
fn it_ends_promptly_though_somebody_waits() {
    let store = Store::new();
    let view = store.view(&[]);
    store.is_right(&view, "small/0");
    store.world.daemon.signal(Signal::STOP);
    thread::scope(|scope| {
        let path = view.out("small/1");
        let reader = scope.spawn(move || fs::read(path));
        thread::sleep(Duration::from_millis(300));
        prompt("the end", PROMPT, || view.end());
        prompt("the reader", BOUND, || reader.join().unwrap()).expect_err("its view is gone");
    });
    store.world.daemon.signal(Signal::CONT);
}

#[test]
fn a_cut_network_is_not_waited_for_twice() {
    let store = Store::new();
    let Some(line) = Line::new(&store.world.daemon.socket()) else { return };
    let provender =
        store.world.provender.behind(&["nsenter", &line.namespace()]).env("PROVENDER_REMOTE", line.remote());
    let view = store.view_by(&provender, &[]);
    is_cut_and_comes_back(&store, &view, || line.set("down"), || line.set("up"));
    view.end();
}
