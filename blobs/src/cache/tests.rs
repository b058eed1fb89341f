//! The cache against an origin that counts what it is asked. `model` tries everything at once, `damage` spoils files, `room` fills the folder,
//! `sharing` has several caches on one, `races` tries many orders of what happens at once.

mod damage;
mod model;
mod races;
mod room;
mod sharing;

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use provender_core::Digest;
use tempfile::TempDir;

use super::*;
use crate::{Ingest, Signature};

const GROUP: u64 = 256 << 10;
/// A budget that nothing here comes near to.
const AMPLE: u64 = 1 << 30;
/// How long a reader waits for another's fetch.
const PATIENCE: Duration = Duration::from_secs(60);

/// A blob, and what was asked of it.
struct Origin {
    digest: Digest,
    outboard: Option<Outboard>,
    bytes: Bytes,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    fetched: Vec<Range<u64>>,
    /// Answers come only once this is not set.
    held: bool,
    broken: bool,
    /// Answers have a byte changed.
    lying: bool,
    /// Answers take a while, as over a network.
    slow: bool,
    /// The first answer that is wrong is the last.
    heals: bool,
}

/// Bytes that differ from group to group and from seed to seed.
fn pattern(seed: u64, size: u64) -> Bytes {
    let mut bytes = vec![0; size as usize];
    blake3::Hasher::new_keyed(&[seed as u8; 32]).finalize_xof().fill(&mut bytes);
    bytes.into()
}

impl Origin {
    fn new(seed: u64, size: u64) -> Arc<Origin> {
        let bytes = pattern(seed, size);
        let mut ingest = Ingest::new(&[]);
        ingest.update(&bytes);
        let hashes = ingest.finish();
        let (state, changed) = (Mutex::default(), Condvar::new());
        Arc::new(Origin { digest: hashes.digest, outboard: hashes.outboard, bytes, state, changed })
    }

    fn stream(self: &Arc<Self>, cache: &Cache) -> Arc<Stream> {
        cache.stream(self.outboard.clone().unwrap(), self.clone())
    }

    fn fetches(&self) -> usize {
        self.state.lock().fetched.len()
    }

    /// How many bytes were asked for, in all.
    fn fetched(&self) -> u64 {
        self.state.lock().fetched.iter().map(|range| range.end - range.start).sum()
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock());
        self.changed.notify_all();
    }
}

impl Fetch for Origin {
    fn fetch(&self, range: Range<u64>) -> Result<Bytes, FetchError> {
        let mut state = self.state.lock();
        state.fetched.push(range.clone());
        self.changed.notify_all();
        while state.held {
            self.changed.wait(&mut state);
        }
        if state.slow {
            drop(state);
            std::thread::sleep(Duration::from_millis(3));
            state = self.state.lock();
        }
        let (broken, lying) = (state.broken, state.lying);
        if state.heals {
            (state.broken, state.lying) = (false, false);
        }
        if broken {
            return Err(Arc::new(io::Error::other("the line is dead")));
        }
        let bytes = self.bytes.slice(range.start as usize..range.end as usize);
        match lying {
            true => {
                let mut bytes = bytes.to_vec();
                *bytes.last_mut().unwrap() ^= 1;
                Ok(bytes.into())
            }
            false => Ok(bytes),
        }
    }
}

/// Reads a range to its end.
fn read(stream: &Arc<Stream>, range: Range<u64>) -> Result<Vec<u8>, ReadError> {
    let mut out = vec![0; (range.end - range.start) as usize];
    let mut filled = 0;
    while filled < out.len() {
        match stream.read_at(&mut out[filled..], range.start + filled as u64, PATIENCE)? {
            0 => break,
            count => filled += count,
        }
    }
    out.truncate(filled);
    Ok(out)
}

fn read_file(file: &File) -> Vec<u8> {
    use std::os::unix::fs::FileExt;
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

#[track_caller]
fn eventually<T>(what: &str, mut find: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = find() {
            return found;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn scratch() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn open(dir: &Path, budget: u64) -> Cache {
    Cache::open(&dir.join("c"), budget).unwrap()
}

/// The path of a blob's file.
fn path(dir: &Path, digest: &Digest) -> PathBuf {
    Folder::open(&dir.join("c")).unwrap().blob(digest)
}

#[test]
fn what_was_read_once_is_a_file_and_is_not_fetched_again() {
    let dir = scratch();
    let cache = open(dir.path(), AMPLE);
    let origin = Origin::new(1, 9 * GROUP + 17);
    assert!(cache.file(&origin.digest).is_none());
    let stream = origin.stream(&cache);
    assert_eq!(read(&stream, 0..origin.digest.size + 5).unwrap(), origin.bytes);
    assert_eq!(read(&stream, 3..5).unwrap(), origin.bytes[3..5]);
    drop(stream);
    let file = eventually("it is whole", || cache.file(&origin.digest));
    assert_eq!(read_file(&file), origin.bytes);
    assert_eq!(origin.fetched(), origin.digest.size, "each byte once: {:?}", origin.state.lock().fetched);

    // By a later process.
    let later = open(dir.path(), AMPLE);
    assert_eq!(read_file(&later.file(&origin.digest).unwrap()), origin.bytes);
    assert_eq!(later.bytes(&origin.digest).unwrap(), origin.bytes);
}

#[test]
fn what_is_partly_there_is_gone_on_with() {
    let dir = scratch();
    let origin = Origin::new(2, 8 * GROUP);
    {
        let cache = open(dir.path(), AMPLE);
        let outboard = origin.outboard.as_ref().unwrap();
        cache.keep_outboard(outboard);
        let stream = origin.stream(&cache);
        read(&stream, 5 * GROUP + 1..5 * GROUP + 2).unwrap();
        assert_eq!(origin.fetched(), GROUP, "nothing is fetched ahead of who jumps");
    }
    let cache = open(dir.path(), AMPLE);
    assert_eq!(cache.outboard(&origin.digest), origin.outboard);
    origin.set(|state| state.broken = true);
    let stream = origin.stream(&cache);
    let kept = 5 * GROUP..6 * GROUP;
    assert_eq!(read(&stream, kept.clone()).unwrap(), origin.bytes[kept.start as usize..kept.end as usize]);
    assert!(matches!(read(&stream, 0..1), Err(ReadError::Fetch(_))));
}

#[test]
fn wrong_bytes_are_an_error_and_are_not_kept() {
    let dir = scratch();
    let cache = open(dir.path(), AMPLE);
    let origin = Origin::new(3, 4 * GROUP);
    let stream = origin.stream(&cache);
    origin.set(|state| state.lying = true);
    assert!(matches!(read(&stream, 0..10), Err(ReadError::Wrong { .. })));
    origin.set(|state| state.lying = false);
    assert_eq!(read(&stream, 0..10).unwrap(), origin.bytes[..10]);
    origin.set(|state| state.lying = true);
    // Those that come in one piece ahead of a reader.
    stream.prefetch(1..4);
    assert!(matches!(read(&stream, 3 * GROUP..3 * GROUP + 1), Err(ReadError::Wrong { .. })));
    origin.set(|state| state.lying = false);
    assert_eq!(read(&stream, 0..origin.digest.size).unwrap(), origin.bytes);
}

#[test]
fn what_somebody_gave_up_is_fetched_by_the_next() {
    let dir = scratch();
    let origin = Origin::new(5, 4 * GROUP);
    let stream = origin.stream(&open(dir.path(), AMPLE));
    stream.give_up(2);
    assert!(stream.prefetch_is_idle() && origin.fetches() == 0);
    assert_eq!(read(&stream, 0..origin.digest.size).unwrap(), origin.bytes);
}

#[test]
fn without_an_outboard_a_blob_is_fetched_whole_and_proven_by_its_digest() {
    let dir = scratch();
    let cache = open(dir.path(), AMPLE);
    let origin = Origin::new(4, 20 * GROUP + 3);
    origin.set(|state| state.lying = true);
    assert!(matches!(cache.fill(&origin.digest, &*origin), Err(ReadError::Wrong { .. })));
    origin.set(|state| state.lying = false);
    let outboard = cache.fill(&origin.digest, &*origin).unwrap();
    assert_eq!(Some(outboard.clone()), origin.outboard);
    origin.set(|state| state.broken = true);
    let stream = cache.stream(outboard, origin.clone());
    assert_eq!(read(&stream, 0..origin.digest.size).unwrap(), origin.bytes);
    eventually("it is whole", || cache.file(&origin.digest));
}

#[test]
fn small_blobs_and_answers_come_back_as_they_were() {
    let dir = scratch();
    let cache = open(dir.path(), AMPLE);
    for size in [0, 1, 4096, GROUP, GROUP + 1, 3 * GROUP] {
        let bytes = pattern(size, size);
        let digest = Digest::of(&bytes);
        assert_eq!(cache.bytes(&digest), None);
        cache.keep(&digest, &bytes);
        cache.keep(&digest, &bytes);
        assert_eq!(open(dir.path(), AMPLE).bytes(&digest), Some(bytes), "{size}");
    }
    let key = [7; 32];
    assert_eq!(cache.recall(&key), None);
    for body in ["first", "", "a longer one", "short"] {
        cache.remember(&key, body.as_bytes());
        assert_eq!(cache.recall(&key).unwrap(), body);
    }
    assert_eq!(cache.recall(&[8; 32]), None);
}
