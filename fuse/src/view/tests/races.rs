//! Many who look up, open, read, close and forget at once, as schedules that are chosen at random and can be replayed.
//!
//! The kernel's side is played here, by its own rules: which opens of an inode go together (`fs/fuse/iomode.c`), that a release is told
//! after the last read and a forget whenever it likes. Whoever breaks them would meet EIO, or another file's bytes, in a real mount.
//! Each operation of ours holds its lock from begin to end; so it is between them, and at each question to the source, that others get in.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::sync::atomic::AtomicBool;

use rustix::fs::{MemfdFlags, memfd_create};
use shuttle::rand::{Rng, thread_rng};
use shuttle::sync::Mutex as Turns;
use shuttle::thread;

use super::watched::Watched;
use super::*;
use crate::files::Files;
use crate::opens::Way;
use crate::source::Content;

const BYTES: &[u8] = b"what everybody reads";
/// How many schedules are tried.
const SCHEDULES: usize = 4_000;

/// A backing file of the kernel's, and whether its id was given back.
#[derive(Debug)]
struct Backing {
    id: u64,
    file: u64,
    closed: Arc<AtomicBool>,
}

impl Drop for Backing {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::SeqCst);
    }
}

/// What the kernel knows of a number.
#[derive(Debug, Default)]
struct Known {
    /// Lookups to be given back.
    lookups: u64,
    /// Who holds it: by a path, or open.
    held: u64,
    /// Opens that go through the page cache.
    cached: u64,
    /// Opens that read the backing file, and which one.
    passed: u64,
    backing: Option<u64>,
}

struct Kernel {
    view: Arc<View>,
    files: Files<Backing>,
    known: Turns<HashMap<u64, Known>>,
    next: AtomicU64,
    handed: Handed,
}

/// Which file each thread was handed last, if it was a file.
type Handed = Arc<Mutex<HashMap<thread::ThreadId, Option<u64>>>>;

fn inode(file: &File) -> u64 {
    rustix::fs::fstat(file).expect("open").st_ino
}

impl Kernel {
    fn new(view: Arc<View>, handed: Handed) -> Kernel {
        Kernel { files: Files::new(view.clone()), view, known: Turns::default(), next: AtomicU64::new(1), handed }
    }

    fn with<T>(&self, number: u64, work: impl FnOnce(&mut Known) -> T) -> T {
        work(self.known.lock().expect("no panic").entry(number).or_default())
    }

    fn lookup(&self, parent: u64, name: &str) -> Attributes {
        let found = self.view.lookup(parent, name.as_bytes()).expect("there").attributes;
        self.with(found.number, |known| {
            known.lookups += 1;
            known.held += 1;
        });
        found
    }

    /// Lets go of a number; once nobody holds it, it may be forgotten, by whoever has the time.
    fn put(self: &Arc<Kernel>, number: u64) {
        let lookups = {
            let mut all = self.known.lock().expect("no panic");
            let known = all.get_mut(&number).expect("held");
            known.held -= 1;
            match known.held {
                0 => all.remove(&number).map_or(0, |known| known.lookups),
                _ => 0,
            }
        };
        if lookups > 0 {
            let kernel = self.clone();
            thread::spawn(move || kernel.view.forget(number, lookups));
        }
    }

    /// Opens a number, reads it, closes it; `false` if it has to be looked up again.
    fn read(self: &Arc<Kernel>, number: u64, file: &str) -> bool {
        let back = |file: &File| {
            let id = self.next.fetch_add(1, Ordering::SeqCst);
            Some(Backing { id, file: inode(file), closed: Arc::default() })
        };
        let opened = match self.files.open(number, back) {
            Ok(opened) => opened,
            Err(ViewError::Retired) => return false,
            Err(error) => panic!("{file}: {error}"),
        };
        let handle = opened.handle;
        // The answer is on its way.
        thread::yield_now();
        let passed = match &opened.way {
            Way::Kernel(backing) => {
                let found = self.handed.lock().get(&thread::current().id()).copied().flatten();
                assert_eq!(found, Some(backing.file), "another file than the one that was found unchanged");
                Some((backing.id, backing.closed.clone()))
            }
            Way::Asked => None,
        };
        drop(opened);
        self.with(number, |known| match &passed {
            Some((id, closed)) => {
                assert!(!closed.load(Ordering::SeqCst), "the backing file is not known any more");
                assert_eq!(known.cached, 0, "passed while it is open through the page cache");
                assert!(known.backing.is_none_or(|backing| backing == *id), "two backing files");
                (known.backing, known.passed) = (Some(*id), known.passed + 1);
            }
            None => {
                assert_eq!(known.passed, 0, "through the page cache while it is passed");
                known.cached += 1;
            }
        });
        thread::yield_now();
        if passed.is_none() {
            assert_eq!(self.view.read(handle, 0, 100).expect("readable"), BYTES);
        }
        self.with(number, |known| match passed {
            Some(_) => {
                known.passed -= 1;
                if known.passed == 0 {
                    known.backing = None;
                }
            }
            None => known.cached -= 1,
        });
        let kernel = self.clone();
        thread::spawn(move || kernel.files.release(handle));
        true
    }
}

fn memfd() -> File {
    let mut file = File::from(memfd_create("file", MemfdFlags::CLOEXEC).expect("made"));
    file.write_all(BYTES).expect("written");
    file
}

/// A store with a file whose bytes stand now in this file of the host, now in that, now in none.
fn shifting() -> (Arc<MemorySource>, Arc<View>, Arc<AtomicU64>, Handed) {
    let source = Arc::new(MemorySource::new());
    let digest = source.put(BYTES);
    let mut tree = Tree::new();
    tree.insert("file", tree::Node::File { digest, executable: false }).expect("valid");
    tree.insert("twin", tree::Node::File { digest, executable: true }).expect("valid");
    let outputs = source.put_tree(&tree).expect("small");
    commit(&source, &name("a"), "1", at(0), outputs, [None, None]);
    let (files, which, handed) = ([memfd(), memfd()], Arc::new(AtomicU64::new(0)), Handed::default());
    let (now, hands) = (which.clone(), handed.clone());
    let instead = move |asked: &Digest| {
        let content = || {
            let file = files.get(now.load(Ordering::SeqCst) as usize);
            hands.lock().insert(thread::current().id(), file.map(inode));
            match file {
                Some(file) => Content::Fd(file.try_clone().expect("cloned")),
                None => Content::Bytes(Bytes::from_static(BYTES)),
            }
        };
        (*asked == digest).then(content)
    };
    let watched =
        Watched { instead: Some(Box::new(instead)), pause: thread::yield_now, ..Watched::new(source.clone()) };
    (source, Arc::new(View::new(Arc::new(watched), Settings::default())), which, handed)
}

#[test]
fn however_opens_and_releases_meet_the_kernels_rules_hold() {
    shuttle::check_random(
        || {
            let (_, view, which, handed) = shifting();
            let folder = find(&view, "tasks/a/latest").expect("there");
            let folder = String::from_utf8(view.read_link(folder.number).expect("a link").to_vec()).expect("text");
            let out = find(&view, &format!("tasks/a/{folder}/out")).expect("there").number;
            let kernel = Arc::new(Kernel::new(view.clone(), handed));
            let readers: Vec<_> = (0..4)
                .map(|reader| {
                    let kernel = kernel.clone();
                    let file = if reader == 3 { "twin" } else { "file" };
                    thread::spawn(move || {
                        for _ in 0..2 {
                            let mut tries = 0;
                            loop {
                                let found = kernel.lookup(out, file);
                                let read = kernel.read(found.number, file);
                                kernel.put(found.number);
                                if read {
                                    break;
                                }
                                tries += 1;
                                assert!(tries < 20, "a path that is looked up again can be opened");
                            }
                        }
                    })
                })
                .collect();
            let shifter = thread::spawn(move || {
                for _ in 0..3 {
                    which.store(thread_rng().gen_range(0..3), Ordering::SeqCst);
                    thread::yield_now();
                }
            });
            readers.into_iter().for_each(|reader| reader.join().expect("no panic"));
            shifter.join().expect("no panic");
            // What is released and forgotten in the background comes to its end.
            for _ in 0..10_000 {
                if kernel.files.len() == 0 && kernel.view.handles.len() == 0 && view.inodes.len() == HELD {
                    return;
                }
                thread::yield_now();
            }
            panic!("left: {} {} {}", kernel.files.len(), view.handles.len(), view.inodes.len());
        },
        SCHEDULES,
    );
}

/// The numbers on the way that the test holds for good: `tasks`, `a` (twice), its link, the folder, `out`.
const HELD: usize = 5;

#[test]
fn however_lookups_and_forgets_meet_a_held_number_keeps_its_meaning() {
    shuttle::check_random(
        || {
            let (source, view, _, handed) = shifting();
            let directory = find(&view, "tasks/a").expect("there").number;
            let kernel = Arc::new(Kernel::new(view.clone(), handed));
            let lookers: Vec<_> = (0..3)
                .map(|_| {
                    let kernel = kernel.clone();
                    thread::spawn(move || {
                        for _ in 0..3 {
                            let latest = kernel.lookup(directory, "latest");
                            let target = kernel.view.read_link(latest.number).expect("held");
                            thread::yield_now();
                            // Whatever `latest` has come to mean, and whoever forgot it.
                            assert_eq!(kernel.view.read_link(latest.number).expect("held"), target);
                            assert_eq!(kernel.view.attributes(latest.number).expect("held").attributes, latest);
                            kernel.put(latest.number);
                        }
                    })
                })
                .collect();
            let mover = thread::spawn(move || {
                for second in 1..4 {
                    let empty = source.put_tree(&Tree::new()).expect("small");
                    commit(&source, &name("a"), &second.to_string(), at(second), empty, [None, None]);
                    thread::yield_now();
                }
            });
            lookers.into_iter().for_each(|looker| looker.join().expect("no panic"));
            mover.join().expect("no panic");
            for _ in 0..10_000 {
                if view.inodes.len() == 2 {
                    return;
                }
                thread::yield_now();
            }
            panic!("left: {}", view.inodes.len());
        },
        SCHEDULES,
    );
}
