//! What the kernel asks the daemon for, counted: nothing that it knows already, and no bytes that it can read by itself.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use super::{Caches, Site, latest, succeeds};
use crate::security::{http, metrics_address};

const COUNTED: &str = "metrics_listen = \"127.0.0.1:0\"\n";
/// More than stays in rows: such blobs are files.
const LARGE: usize = 6 << 20;

/// How many requests of a kind have come.
fn count(site: &Site, request: &str) -> u64 {
    let metrics = http(&metrics_address(&site.world), "/metrics");
    let name = format!("provender_mount_requests_total{{request=\"{request}\"}} ");
    let found = metrics.lines().find_map(|line| line.strip_prefix(&name));
    found.unwrap_or_else(|| panic!("no {name} in {metrics}")).parse().unwrap()
}

/// How many of a kind come of this.
fn of<T>(site: &Site, request: &str, what: impl FnOnce() -> T) -> u64 {
    let before = count(site, request);
    drop(what());
    count(site, request) - before
}

/// A tree with a large file, and small ones in folders; by the mount's folder for it, which is held open.
fn stored(site: &Site) -> (File, PathBuf) {
    let bytes: Vec<_> = (0..LARGE).map(|n| (n / 5 % 253) as u8).collect();
    site.world.write("tree/large", &bytes);
    for n in 0..200 {
        site.world.write(&format!("tree/{}/{n}", n % 10), format!("{n}"));
    }
    symlink("large", site.world.path("tree/link")).unwrap();
    site.put("tree", "tree");
    let held = File::open(latest(&site.own(), "tree")).unwrap();
    // What lies above it, which can change, is not walked over.
    let path = PathBuf::from(format!("/proc/self/fd/{}", held.as_raw_fd()));
    (held, path)
}

/// Reads the large file in each way.
fn read_all_ways(site: &Site, folder: &Path) {
    let right = std::fs::read(site.world.path("tree/large")).unwrap();
    let mut file = File::open(folder.join("large")).unwrap();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    assert!(bytes == right);
    for n in 0..100 {
        let at = n * 7919 * 7 % LARGE;
        let mut part = [0; 4096];
        let count = file.read_at(&mut part, at as u64).unwrap();
        assert!(part[..count] == right[at..at + count]);
    }
    let map = "import mmap, sys\n\
        shown, right = (open(path, 'rb') for path in sys.argv[1:])\n\
        assert mmap.mmap(shown.fileno(), 0, access=mmap.ACCESS_READ)[:] == right.read()\n";
    // A child has no such descriptor.
    let shown = std::fs::canonicalize(folder).unwrap().join("large");
    succeeds(&["python3", "-c", map, shown.to_str().unwrap(), site.world.path("tree/large").to_str().unwrap()]);
}

#[test]
fn the_kernel_reads_large_files_by_itself() {
    let caches = Caches::mine();
    let site = Site::with(COUNTED);
    let (_held, folder) = stored(&site);
    for _ in 0..2 {
        let opens = count(&site, "open");
        assert_eq!(of(&site, "read", || read_all_ways(&site, &folder)), 0);
        assert_eq!(count(&site, "open") - opens, 2);
        caches.drop_all();
    }

    // Where it may not, it asks; so what was counted above is what is counted.
    let site = Site::with(&format!("{COUNTED}mount_passthrough = false\n"));
    let (_held, folder) = stored(&site);
    assert!(of(&site, "read", || read_all_ways(&site, &folder)) > 10);
    // And keeps what it was told.
    assert_eq!(of(&site, "read", || read_all_ways(&site, &folder)), 0);
    caches.drop_all();
    assert!(of(&site, "read", || read_all_ways(&site, &folder)) > 10);
}

/// Lists, looks at and reads all that is below a folder.
fn walk(folder: &Path) -> usize {
    let entries = folder.read_dir().unwrap().map(|entry| entry.unwrap());
    let each = entries.map(|entry| {
        let metadata = entry.metadata().unwrap();
        assert_eq!(metadata.ino(), std::os::unix::fs::DirEntryExt::ino(&entry));
        if metadata.is_dir() {
            return 1 + walk(&entry.path());
        }
        let bytes = match metadata.is_symlink() {
            true => std::fs::read_link(entry.path()).unwrap().as_os_str().len(),
            false => std::fs::read(entry.path()).unwrap().len(),
        };
        assert_eq!(bytes as u64, metadata.size());
        1
    });
    each.sum()
}

#[test]
fn a_second_walk_of_an_output_asks_for_nothing_but_opens() {
    let caches = Caches::mine();
    let site = Site::with(COUNTED);
    let (_held, folder) = stored(&site);
    let kinds = ["lookup", "getattr", "readdir", "readlink", "read"];
    let counts = || kinds.map(|kind| count(&site, kind));
    let asked = |before: [u64; 5]| {
        let now = counts();
        [0, 1, 2, 3, 4].map(|n| now[n] - before[n])
    };
    for _ in 0..2 {
        let before = counts();
        assert_eq!(walk(&folder), 212);
        let [lookups, _, readdirs, _, reads] = asked(before);
        // The first walk, or the first after all was dropped: what is below is not known.
        assert!(lookups >= 200 && readdirs >= 11 && reads >= 200, "{:?}", asked(before));
        // What was read the kernel may drop at any time, and some hosts have it drop what was idle for seconds; names it keeps.
        let mut walks = std::iter::repeat_with(|| {
            let before = counts();
            assert_eq!(walk(&folder), 212);
            asked(before)
        });
        let seen: Vec<_> = walks.by_ref().take(3).collect();
        assert!(
            seen.iter().all(|[lookups, getattrs, ..]| lookups + getattrs == 0),
            "{kinds:?} of what is known: {seen:?}"
        );
        assert!(seen.contains(&[0; 5]), "{kinds:?} of what is known: {seen:?}");
        caches.drop_all();
    }
}
