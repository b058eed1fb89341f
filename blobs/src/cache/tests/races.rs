//! Who reads, fetches ahead, finishes, gives up, counts and deletes at once, as schedules that are chosen at random and can be replayed.
//! A schedule in which somebody waits for ever is a deadlock, which shuttle finds.
//!
//! What waits, or counts, is compiled once more here, over locks at which shuttle lets others go first: a thread of shuttle's that waits
//! at a real one for another would wait for ever. The rest holds a lock for a moment at most, and is the real thing.

mod line;
mod sync;
mod workers;

#[path = "../room.rs"]
#[allow(clippy::duplicate_mod)]
mod room;
#[path = "../stream.rs"]
#[allow(clippy::duplicate_mod, unreachable_pub)]
mod stream;

use std::sync::LazyLock;

use shuttle::rand::{Rng, thread_rng};
use shuttle::thread;

use self::line::{Fate, Line};
use self::room::Room;
use self::stream::Stream;
use self::workers::Workers;
use super::super::{ahead, folder, part};
use super::*;
use crate::recent::Recent;

struct Shared {
    place: Option<Place>,
    recent: Recent,
    workers: Workers,
}

struct Place {
    folder: Folder,
    room: Room,
}

impl Shared {
    /// With so many bytes in memory, and in a folder, if there is one, so many.
    fn new(memory: u64, place: Option<(&Path, u64)>) -> Arc<Shared> {
        let folder = |dir: &Path| Folder::open(&dir.join("c")).unwrap();
        let place = place.map(|(dir, budget)| Place { folder: folder(dir), room: Room::new(budget) });
        Arc::new(Shared { place, recent: Recent::new(memory), workers: Workers::default() })
    }
}

/// How many schedules are tried without a folder.
const SCHEDULES: usize = 2_000;
/// With one, which costs a sync where a blob is finished.
const ON_DISK: usize = 300;
const READERS: u64 = 3;

/// Three groups, the last one short.
fn origin() -> Arc<Origin> {
    static ORIGIN: LazyLock<Arc<Origin>> = LazyLock::new(|| Origin::new(7, 2 * GROUP + 5));
    ORIGIN.clone()
}

/// Reads one range after the other, mostly in order, and holds what comes against the origin; an error has to be one of these fates.
fn reads(stream: &Arc<Stream>, origin: &Origin, fates: &[Fate], gives_up: bool) {
    let size = origin.digest.size;
    let (mut at, mut buf) = (thread_rng().gen_range(0..size), vec![0; 2 * GROUP as usize]);
    for _ in 0..4 {
        let len = thread_rng().gen_range(1..buf.len());
        let patience = if thread_rng().gen_bool(0.8) { PATIENCE } else { Duration::ZERO };
        match stream.read_at(&mut buf[..len], at, patience) {
            Ok(0) => assert!(at >= size, "no end before the end"),
            Ok(read) => assert!(buf[..read] == origin.bytes[at as usize..at as usize + read], "wrong bytes"),
            Err(ReadError::Fetch(_)) => assert!(fates.contains(&Fate::Fails)),
            Err(ReadError::Wrong { .. }) => assert!(fates.contains(&Fate::Lies) || fates.contains(&Fate::Short)),
            Err(ReadError::Abandoned { .. }) => assert!(gives_up),
            Err(ReadError::TimedOut) => assert!(patience.is_zero()),
        }
        at = if at + GROUP < size { at + GROUP } else { 0 };
    }
}

/// Has many read at once, and `others` do what they do; then all is right.
fn race(shared: &Arc<Shared>, fates: &'static [Fate], gives_up: bool, others: impl FnOnce() + Send + 'static) -> usize {
    let origin = origin();
    let line = Line::new(&origin, fates);
    let stream = line.stream(shared);
    let readers: Vec<_> = (0..READERS)
        .map(|_| {
            let (stream, origin) = (stream.clone(), origin.clone());
            thread::spawn(move || reads(&stream, &origin, fates, gives_up))
        })
        .collect();
    let others = thread::spawn(others);
    if gives_up {
        stream.give_up(thread_rng().gen_range(0..3));
    }
    readers.into_iter().chain([others]).for_each(|thread| thread.join().expect("no panic"));
    shared.workers.done();
    assert!(stream.prefetch_is_idle(), "nothing is on its way");
    reads(&stream, &origin, fates, false);
    line.most()
}

#[test]
fn whoever_reads_a_group_is_fetched_once() {
    let schedule = || assert_eq!(race(&Shared::new(AMPLE, None), &[Fate::Right], false, || {}), 1);
    shuttle::check_random(schedule, SCHEDULES);
}

#[test]
fn whatever_becomes_of_a_fetch_all_who_wait_for_it_go_on() {
    const FATES: &[Fate] = &[Fate::Right, Fate::Right, Fate::Fails, Fate::Lies, Fate::Short];
    // What was right is not fetched again, whatever became of its neighbours.
    let schedule = || assert!(race(&Shared::new(AMPLE, None), FATES, true, || {}) <= 1);
    shuttle::check_random(schedule, SCHEDULES);
}

#[test]
fn whatever_becomes_of_the_file_no_byte_is_wrong() {
    const FATES: &[Fate] = &[Fate::Right, Fate::Right, Fate::Right, Fate::Fails, Fate::Lies];
    let schedule = || {
        let dir = scratch();
        // No more than a group a shard in memory; and there is room for the blob, and not for what else is written.
        let shared = Shared::new(0, Some((dir.path(), 4 * GROUP)));
        let (at, spoils) = (dir.path().join("c/blobs"), shared.clone());
        race(&shared, FATES, false, move || {
            let place = spoils.place.as_ref().expect("given");
            for round in 0..6 {
                let file = place.folder.blob(&origin().digest);
                match thread_rng().gen_range(0..4) {
                    0 => _ = std::fs::remove_dir_all(&at),
                    1 => _ = std::fs::remove_file(file),
                    // Another process that dies while it writes; none writes to what is signed.
                    2 if !place.folder.is_signed(&origin().digest) => {
                        _ = place.folder.put(&file, &vec![round; GROUP as usize + 7]);
                    }
                    2 => place.room.tidy(&place.folder),
                    _ => {
                        let key = [round; 32];
                        place.room.settle(&place.folder, place.folder.remember(&key, &vec![round; GROUP as usize]));
                    }
                }
                thread::yield_now();
            }
        });
        let place = shared.place.as_ref().expect("given");
        if let Some(file) = place.folder.whole(&origin().digest) {
            assert!(read_file(&file) == origin().bytes, "signed, and not right");
        }
    };
    shuttle::check_random(schedule, ON_DISK);
}

#[test]
fn what_no_count_has_seen_is_still_due() {
    const BUDGET: u64 = 160 << 10;
    // Much more than what a count leaves free.
    const WRITTEN: usize = 32 << 10;
    let schedule = || {
        let dir = scratch();
        let shared = Shared::new(0, Some((dir.path(), BUDGET)));
        let writers: Vec<_> = (0..3_u8)
            .map(|writer| {
                let shared = shared.clone();
                thread::spawn(move || {
                    let place = shared.place.as_ref().expect("given");
                    for n in 0..4_u8 {
                        let mut key = [writer; 32];
                        key[1] = n;
                        let written = place.folder.remember(&key, &[n; WRITTEN - blake3::OUT_LEN]);
                        thread::yield_now();
                        place.room.settle(&place.folder, written);
                    }
                })
            })
            .collect();
        writers.into_iter().for_each(|writer| writer.join().expect("no panic"));
        // One byte more, and whoever writes it finds that it is time, if it is.
        let place = shared.place.as_ref().expect("given");
        place.room.settle(&place.folder, Ok(1));
        let taken = taken(&dir.path().join("c/answers"));
        assert!(taken <= BUDGET + BUDGET / 16, "{taken} bytes");
    };
    shuttle::check_random(schedule, ON_DISK);
}

/// What the files below a folder take of the disk.
fn taken(at: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let below = |path: &Path| std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    below(at).iter().flat_map(|shelf| below(shelf)).map(|file| file.metadata().unwrap().blocks() * 512).sum()
}
