//! Changes that are told while the kernel looks up what they concern, as schedules that are chosen at random and can be replayed.
//!
//! The kernel's side is played here, by its own rules (`fs/fuse/dir.c`): it goes by a name, and by attributes, for as long as it was told; who looks up
//! what is not known holds the directory's lock, shared, and who takes in that a name is stale the exclusive one; who asks again for what has run
//! out holds none, and what they find is good for a name that is still there; attributes that were asked for before they were stale are not kept.

use std::collections::HashMap;
use std::time::Duration;

use shuttle::rand::{Rng, thread_rng};
use shuttle::sync::{RwLock, mpsc};
use shuttle::thread;

use super::watched::Watched;
use super::*;
use crate::source::Branch;

/// How many schedules are tried.
const SCHEDULES: usize = 3_000;
const LOOKERS: usize = 3;
/// How many successes come while others look.
const CHANGES: u64 = 3;
/// The longest that anything which moves may be gone by without asking.
const BOUND: Duration = Duration::from_secs(1);

/// What the kernel knows of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    number: u64,
    until: Duration,
    /// Tells it from one that was dropped before.
    serial: u64,
}

/// What it knows of a number.
#[derive(Debug, Default)]
struct Shown {
    attributes: Option<(Attributes, Duration)>,
    /// How often it was told that they are stale.
    version: u64,
}

/// None of its locks but those of directories are held while anybody else goes on.
struct Kernel {
    view: View,
    now: Mutex<Duration>,
    names: Mutex<HashMap<(u64, Vec<u8>), Known>>,
    shown: Mutex<HashMap<u64, Shown>>,
    directories: Mutex<HashMap<u64, Arc<RwLock<()>>>>,
    serial: AtomicU64,
}

impl Kernel {
    fn new(view: View) -> Kernel {
        let (names, shown, directories) = Default::default();
        Kernel { view, now: Mutex::default(), names, shown, directories, serial: AtomicU64::new(0) }
    }

    fn pass(&self, time: Duration) {
        *self.now.lock() += time;
    }

    fn directory(&self, number: u64) -> Arc<RwLock<()>> {
        self.directories.lock().entry(number).or_default().clone()
    }

    fn known(&self, at: &(u64, Vec<u8>)) -> Option<Known> {
        self.names.lock().get(at).copied()
    }

    /// The number that a name leads to.
    fn walk(&self, parent: u64, name: &str) -> Result<u64, ViewError> {
        let at = (parent, name.as_bytes().to_vec());
        if let Some(known) = self.known(&at) {
            if *self.now.lock() < known.until {
                return Ok(known.number);
            }
            let asked = self.ask(&at);
            if self.known(&at) == Some(known) {
                match &asked {
                    Ok((number, named)) if *number == known.number => {
                        self.names.lock().insert(at.clone(), Known { until: *self.now.lock() + *named, ..known });
                    }
                    _ => _ = self.names.lock().remove(&at),
                }
            }
            if let Ok((number, _)) = asked
                && number == known.number
            {
                return Ok(number);
            }
        }
        let directory = self.directory(parent);
        let _shared = directory.read().expect("no panic");
        // Somebody else's lookup may have come to its end meanwhile.
        let found = self.known(&at).filter(|known| *self.now.lock() < known.until);
        if let Some(known) = found {
            return Ok(known.number);
        }
        let (number, named) = self.ask(&at)?;
        let until = *self.now.lock() + named;
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        self.names.lock().insert(at, Known { number, until, serial });
        Ok(number)
    }

    /// Asks the view for a name: the number, and for how long the name will not mean another.
    fn ask(&self, (parent, name): &(u64, Vec<u8>)) -> Result<(u64, Duration), ViewError> {
        // A number that is not known yet has no stale attributes.
        let versions: HashMap<u64, u64> =
            self.shown.lock().iter().map(|(number, shown)| (*number, shown.version)).collect();
        let found = self.view.lookup(*parent, name)?;
        // The answer is on its way.
        thread::yield_now();
        let number = found.attributes.number;
        self.take_in(&found, versions.get(&number).copied().unwrap_or_default());
        Ok((number, found.named))
    }

    fn take_in(&self, found: &Found, asked_at: u64) {
        let until = *self.now.lock() + found.valid;
        let mut all = self.shown.lock();
        let shown = all.entry(found.attributes.number).or_default();
        if shown.version == asked_at {
            shown.attributes = Some((found.attributes, until));
        }
    }

    fn attributes(&self, number: u64) -> Attributes {
        let (version, known) = {
            let mut all = self.shown.lock();
            let shown = all.entry(number).or_default();
            (shown.version, shown.attributes)
        };
        if let Some((attributes, until)) = known
            && *self.now.lock() < until
        {
            return attributes;
        }
        let found = self.view.attributes(number).expect("never forgotten");
        thread::yield_now();
        self.take_in(&found, version);
        found.attributes
    }

    /// Takes in what a change makes stale.
    fn push(&self, change: &Change) {
        for stale in self.view.stale(change) {
            thread::yield_now();
            match stale {
                Stale::Attributes(number) => {
                    let mut all = self.shown.lock();
                    let shown = all.entry(number).or_default();
                    (shown.attributes, shown.version) = (None, shown.version + 1);
                }
                Stale::Entry { parent, name } => {
                    let directory = self.directory(parent);
                    let _exclusive = directory.write().expect("no panic");
                    self.names.lock().remove(&(parent, name.to_vec()));
                }
            }
        }
    }

    fn find(&self, path: &str) -> Result<u64, ViewError> {
        path.split('/').try_fold(ROOT, |parent, part| self.walk(parent, part))
    }

    /// Where a link leads.
    fn target(&self, path: &str) -> Option<String> {
        let link = match self.find(path) {
            Ok(link) => self.view.read_link(link).expect("never forgotten"),
            Err(ViewError::NotFound) => return None,
            Err(error) => panic!("{path}: {error}"),
        };
        Some(String::from_utf8(link.to_vec()).expect("text"))
    }
}

/// A key that will be void.
const KEY: &str = "0";

/// Has many look while successes come, the key becomes void, and time passes; `loses` some of what is told.
fn race(is_known: bool, loses: bool) -> (Arc<MemorySource>, Arc<Kernel>) {
    let source = Arc::new(MemorySource::new());
    let empty = source.put_tree(&Tree::new()).expect("small");
    commit(&source, &name("a"), KEY, at(0), empty, [None, None]);
    let watched = Watched { pause: thread::yield_now, ..Watched::new(source.clone()) };
    let kernel = Arc::new(Kernel::new(View::new(Arc::new(watched), Settings::default())));
    if is_known {
        kernel.find("tasks/a").expect("there");
        kernel.find("keys/run").expect("there");
    }
    let (tell, told) = mpsc::channel();
    let pusher = thread::spawn({
        let kernel = kernel.clone();
        move || told.iter().for_each(|change| kernel.push(&change))
    });
    let lookers = (0..LOOKERS).map(|_| {
        let kernel = kernel.clone();
        thread::spawn(move || {
            for _ in 0..3 {
                kernel.target("tasks/a/latest").expect("there is always one");
                kernel.target(&format!("keys/run/{KEY}"));
                kernel.attributes(kernel.find("tasks/a").expect("there"));
            }
        })
    });
    let mover = thread::spawn({
        let (source, kernel) = (source.clone(), kernel.clone());
        move || {
            let tell = |change| {
                if !loses || thread_rng().gen_bool(0.5) {
                    tell.send(change).expect("the pusher listens");
                }
            };
            for second in 1..=CHANGES {
                commit(&source, &name("a"), &second.to_string(), at(second), empty, [None, None]);
                tell(Change::Name(Branch::Tasks, name("a")));
                kernel.pass(Duration::from_millis(thread_rng().gen_range(0..600)));
                thread::yield_now();
            }
            let key = TaskKey::new("run", KEY).expect("valid");
            source.invalidate(&key);
            tell(Change::Key(key));
        }
    });
    lookers.chain([mover]).collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().expect("no panic"));
    pusher.join().expect("no panic");
    (source, kernel)
}

/// The kernel goes by nothing that was.
fn is_new(source: &MemorySource, kernel: &Kernel) {
    let newest = source.latest(&name("a")).expect("there").expect("a success").folder;
    assert_eq!(kernel.target("tasks/a/latest"), Some(newest.clone()));
    assert_eq!(kernel.target(&format!("keys/run/{KEY}")), None, "its record is void");
    let folder = kernel.find("tasks/a").expect("there");
    assert_eq!(kernel.attributes(folder).at, at(CHANGES));
    assert!(list(&kernel.view, folder, 2).iter().any(|(item, _)| *item.name == *newest.as_bytes()));
}

#[test]
fn once_a_change_is_pushed_nobody_goes_by_what_was() {
    let schedule = || {
        let (source, kernel) = race(true, false);
        is_new(&source, &kernel);
    };
    shuttle::check_random(schedule, SCHEDULES);
}

#[test]
fn a_change_that_is_lost_or_told_too_early_shows_within_a_second() {
    let schedule = || {
        let (source, kernel) = race(false, true);
        kernel.pass(BOUND);
        is_new(&source, &kernel);
    };
    shuttle::check_random(schedule, SCHEDULES);
}
