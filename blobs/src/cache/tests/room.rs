//! What the cache takes of the disk, and disks that have nothing to take.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use super::*;

/// What is below a folder, in bytes of the disk.
fn taken(dir: &Path) -> u64 {
    let each = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    each.map(|entry| match entry.metadata().unwrap() {
        found if found.is_dir() => taken(&entry.path()),
        found => found.blocks() * 512,
    })
    .sum()
}

#[test]
fn the_least_recently_used_go_first_and_what_is_open_stays() {
    let dir = scratch();
    let budget = 4 << 20;
    let cache = open(dir.path(), budget);
    let kept = |seed: u64| {
        let bytes = pattern(seed, 100_000);
        let digest = Digest::of(&bytes);
        cache.keep(&digest, &bytes);
        digest
    };
    let first = kept(0);
    let large = Origin::new(100, 3 * GROUP);
    read(&large.stream(&cache), 0..large.digest.size).unwrap();
    let open_file = eventually("it is whole", || cache.file(&large.digest));
    let mut all = Vec::new();
    for seed in 1..80 {
        // Files are dated by a clock that ticks every few milliseconds.
        std::thread::sleep(Duration::from_millis(5));
        all.push(kept(seed));
        assert!(cache.bytes(&first).is_some(), "it is used all the time");
        assert!(taken(dir.path()) <= budget + budget / 8, "{}", taken(dir.path()));
    }
    cache.tidy();
    assert!(taken(dir.path()) <= budget);
    assert!(cache.file(&large.digest).is_none(), "it was not used for long");
    assert_eq!(read_file(&open_file), large.bytes);
    let here: Vec<bool> = all.iter().map(|digest| cache.bytes(digest).is_some()).collect();
    let gone = here.iter().take_while(|is_here| !**is_here).count();
    assert!(gone > 30 && here[gone..].iter().all(|is_here| *is_here), "the oldest went: {here:?}");
    // Answers count too, and what is left over by others.
    fs::write(dir.path().join("c/blobs/00-stray"), "").unwrap();
    for key in 0..=255 {
        cache.remember(&[key; 32], &pattern(u64::from(key), 50_000));
        assert!(taken(dir.path()) <= budget + budget / 8);
    }
    assert!(cache.recall(&[255; 32]).is_some() && cache.recall(&[0; 32]).is_none());
}

#[test]
fn what_earlier_processes_left_is_counted() {
    let dir = scratch();
    let large = open(dir.path(), AMPLE);
    for seed in 0..50 {
        let bytes = pattern(seed, 100_000);
        large.keep(&Digest::of(&bytes), &bytes);
    }
    // A tick of the clock that files are dated by.
    std::thread::sleep(Duration::from_millis(20));
    let small = open(dir.path(), 1 << 20);
    small.keep(&Digest::of(b"x"), b"x");
    assert!(taken(dir.path()) <= 1 << 20, "{}", taken(dir.path()));
    assert_eq!(small.bytes(&Digest::of(b"x")).unwrap(), "x", "the newest");
}

#[test]
fn what_is_too_large_for_the_budget_is_streamed_and_not_kept() {
    let dir = scratch();
    let cache = open(dir.path(), 1 << 20);
    let origin = Origin::new(101, 4 << 20);
    let stream = origin.stream(&cache);
    for _ in 0..2 {
        assert_eq!(read(&stream, 0..origin.digest.size).unwrap(), origin.bytes);
    }
    assert!(taken(dir.path()) < 100_000);
}

/// A small disk of its own, gone with the value.
struct Disk(TempDir);

impl Disk {
    /// Only root can; else there is none.
    fn of(size: &str) -> Option<Disk> {
        let dir = scratch();
        let size = format!("size={size}");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(dir.path()).output().unwrap();
        mount.status.success().then_some(Disk(dir))
    }

    /// As soon as nobody writes to it.
    fn read_only(&self) {
        eventually("it is read-only", || {
            let mount = Command::new("mount").args(["-o", "remount,ro"]).arg(self.0.path()).output().unwrap();
            mount.status.success().then_some(())
        });
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_costs_no_reader_anything() {
    let Some(disk) = Disk::of("2m") else { return };
    let cache = open(disk.0.path(), AMPLE);
    let origin = Origin::new(102, 6 << 20);
    let stream = origin.stream(&cache);
    for _ in 0..2 {
        assert!(read(&stream, 0..origin.digest.size).unwrap() == origin.bytes);
    }
    assert!(cache.file(&origin.digest).is_none());
    // Others have filled it.
    let hog = disk.0.path().join("hog");
    _ = fs::write(&hog, vec![1; 4 << 20]);
    let small = pattern(9, 60_000);
    for _ in 0..200 {
        cache.keep(&Digest::of(&small), &small);
        cache.remember(&[3; 32], &small);
        assert!(cache.bytes(&Digest::of(&small)).is_none_or(|found| found == small));
        assert!(cache.recall(&[3; 32]).is_none_or(|found| found == small));
    }
    assert!(read(&stream, 0..origin.digest.size).unwrap() == origin.bytes);
    // Once there is room again, it goes on.
    _ = fs::remove_file(hog);
    drop(stream);
    let found = eventually("it is kept", || {
        cache.keep(&Digest::of(&small), &small);
        cache.bytes(&Digest::of(&small))
    });
    assert_eq!(found, small);
}

#[test]
fn a_folder_that_cannot_be_written_is_read_from() {
    let Some(disk) = Disk::of("16m") else { return };
    let origin = Origin::new(103, 6 * GROUP);
    let part = Origin::new(104, 6 * GROUP);
    {
        let cache = open(disk.0.path(), AMPLE);
        cache.keep(&Digest::of(b"x"), b"x");
        read(&origin.stream(&cache), 0..origin.digest.size).unwrap();
        eventually("it is whole", || cache.file(&origin.digest));
        read(&part.stream(&cache), 4 * GROUP..5 * GROUP).unwrap();
    }
    disk.read_only();
    let cache = open(disk.0.path(), AMPLE);
    assert_eq!(cache.bytes(&Digest::of(b"x")).unwrap(), "x");
    assert_eq!(read_file(&cache.file(&origin.digest).unwrap()), origin.bytes);
    let before = part.fetched();
    assert_eq!(read(&part.stream(&cache), 0..part.digest.size).unwrap(), part.bytes);
    assert_eq!(part.fetched() - before, 5 * GROUP, "what is there is taken");
    cache.remember(&[1; 32], b"x");
    cache.tidy();
    assert!(Cache::open(&disk.0.path().join("other"), AMPLE).is_err());
}
