//! How much of the disk the cache takes: what was used least recently goes first.
//!
//! Invariant: after each sixteenth of the budget that this process writes, all that is there is counted, whoever wrote it, and brought below
//! the budget; and the cache leaves a part of the disk free for others. One process at a time does so. What somebody has open stays readable, since only names are removed.

use std::collections::{BinaryHeap, HashMap};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use rustix::fs::{FlockOperation, flock, statvfs};
use rustix::io::Errno;

use super::folder::{ANSWERS, BESIDE, BLOBS, Folder};
use super::sync::{AtomicBool, AtomicU64, Mutex};

/// How many candidates are kept in memory in one count; if they are not enough it is counted again.
const CANDIDATES: usize = 65_536;
/// What a file takes beside its bytes, about.
const OVERHEAD: u64 = 4096;
/// After so many writes that fail it is looked again whether there is room.
const FAILURES: u64 = 64;
/// What is left free of the disk, at most: else a twentieth.
const SPARED: u64 = 1 << 30;

#[derive(Debug)]
pub(super) struct Room {
    budget: u64,
    /// Bytes that this process has written since the last count.
    written: AtomicU64,
    failures: AtomicU64,
    warned: AtomicBool,
    counting: Mutex<()>,
}

/// Something that goes as a whole: a blob with what stands beside it, or an answer. The newest is the greatest.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    used: (i64, i64),
    path: PathBuf,
    size: u64,
}

impl Room {
    pub(super) fn new(budget: u64) -> Room {
        // The first write counts what earlier runs have left.
        let written = AtomicU64::new(budget);
        Room { budget, written, failures: AtomicU64::new(0), warned: AtomicBool::new(false), counting: Mutex::new(()) }
    }

    /// Whether a blob of so many bytes is kept: not if it would drive out most of what else there is.
    pub(super) fn is_for(&self, size: u64) -> bool {
        size <= self.budget / 2
    }

    /// Takes note of what became of a write.
    pub(super) fn settle(&self, folder: &Folder, outcome: io::Result<u64>) {
        match outcome {
            Ok(0) => {}
            Ok(bytes) => {
                let written = self.written.fetch_add(bytes + OVERHEAD, Ordering::Relaxed) + bytes + OVERHEAD;
                if written >= self.budget / 16 {
                    self.tidy(folder);
                }
            }
            Err(error) => {
                if !self.warned.swap(true, Ordering::Relaxed) {
                    let folder = folder.root().display();
                    tracing::warn!(%folder, %error, "nothing more can be written to the cache; what is not in it is fetched each time");
                }
                if self.failures.fetch_add(1, Ordering::Relaxed).is_multiple_of(FAILURES) {
                    self.tidy(folder);
                }
            }
        }
    }

    /// Counts, and removes what is too much. Returns at once if that is being done.
    pub(super) fn tidy(&self, folder: &Folder) {
        let Some(_counting) = self.counting.try_lock() else { return };
        self.written.store(0, Ordering::Relaxed);
        // Without a lock two processes count at once, which removes a little more than needed.
        let lock = folder.create(&folder.root().join("lock"), fs::OpenOptions::new().write(true).create(true));
        if lock
            .as_ref()
            .is_ok_and(|lock| flock(lock, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK))
        {
            return;
        }
        loop {
            let (total, oldest) = count(folder);
            let limit = self.limit(folder, total);
            if total <= limit {
                return;
            }
            // A little more, so that this is not all that is done from now on.
            let mut over = total - (limit - limit / 16);
            let mut progress = false;
            for candidate in oldest.into_sorted_vec() {
                if over == 0 {
                    return;
                }
                if remove(&candidate.path) {
                    progress = true;
                    over = over.saturating_sub(candidate.size);
                }
            }
            if over == 0 || !progress {
                return;
            }
        }
    }

    fn limit(&self, folder: &Folder, total: u64) -> u64 {
        let Ok(disk) = statvfs(folder.root()) else { return self.budget };
        let spared = (disk.f_blocks.saturating_mul(disk.f_frsize) / 20).min(SPARED);
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        self.budget.min((total + free).saturating_sub(spared))
    }
}

/// What is there in bytes of the disk, and the oldest of it.
fn count(folder: &Folder) -> (u64, BinaryHeap<Candidate>) {
    let (mut total, mut oldest) = (0, BinaryHeap::new());
    let below = |path: PathBuf| fs::read_dir(path).into_iter().flatten().flatten();
    let shelves = [BLOBS, ANSWERS].into_iter().flat_map(|part| below(folder.root().join(part)));
    for shelf in shelves.map(|shelf| shelf.path()) {
        let mut here: HashMap<OsString, Candidate> = HashMap::new();
        for file in below(shelf.clone()) {
            // It may be gone by now.
            let Ok(found) = fs::symlink_metadata(file.path()) else { continue };
            let stem = stem(file.file_name());
            let fresh = || Candidate { used: (0, 0), path: shelf.join(&stem), size: 0 };
            let candidate = here.entry(stem.clone()).or_insert_with(fresh);
            candidate.size += found.blocks() * 512;
            candidate.used = candidate.used.max((found.mtime(), found.mtime_nsec()));
        }
        for candidate in here.into_values() {
            total += candidate.size;
            oldest.push(candidate);
            if oldest.len() > CANDIDATES {
                oldest.pop();
            }
        }
    }
    (total, oldest)
}

/// The name of the blob that a file belongs to.
fn stem(name: OsString) -> OsString {
    let bytes = name.as_bytes();
    match BESIDE.iter().find_map(|suffix| bytes.strip_suffix(suffix.as_bytes())) {
        Some(stem) => OsString::from_vec(stem.into()),
        None => name,
    }
}

/// Removes a blob and what stands beside it, what says that it is right first; whether anything was there.
fn remove(path: &Path) -> bool {
    let beside = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let all = BESIDE.iter().map(|suffix| beside(suffix)).take(1).chain([path.to_path_buf()]);
    let all = all.chain(BESIDE.iter().skip(1).map(|suffix| beside(suffix)));
    all.filter(|path| fs::remove_file(path).is_ok()).count() > 0
}
