//! What is collected: gone from the mount, while who has it open reads on.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use provender_tests::child::eventually;
use rustix::io::Errno;

use super::{Caches, Site, latest};
use crate::world::key;

/// What is not used goes, by hand alone.
const CONFIG: &str = "[gc]\nprotect_seconds = 1\nevery_seconds = 0\n[[gc.keep]]\nused_within_seconds = 1\n";
/// A file that is a row, one that is read through the daemon, and one that the kernel reads by itself.
const SIZES: [(&str, usize); 3] = [("small", 1_000), ("middle", 100_000), ("large", 12 << 20)];

fn content(version: usize, size: usize) -> Vec<u8> {
    (0..size).map(|n| ((n / 3 + version) % 251) as u8).collect()
}

/// Stores a version of `n`: its key.
fn make(site: &Site, version: usize) -> String {
    for (name, size) in SIZES {
        site.world.write(&format!("v{version}/{name}"), content(version, size));
    }
    let input = format!("v{version}");
    key(&site.world.run(&["--name", "n", "--in", &input, "--out", "out"], &format!("cp -r {input} out")).ok())
}

fn shows(point: &Path, version: usize) -> bool {
    let small = latest(point, "n").join("out/small");
    std::fs::read(small).is_ok_and(|bytes| bytes == content(version, SIZES[0].1))
}

fn is_gone(path: &Path) -> bool {
    let error = std::fs::metadata(path).err();
    error.is_some_and(|error| {
        error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(Errno::STALE.raw_os_error())
    })
}

#[test]
fn what_was_collected_is_gone_and_open_files_read_on() {
    let caches = Caches::mine();
    let site = Site::with(CONFIG);
    let (old, new) = (make(&site, 1), make(&site, 2));
    site.world.cli(&["pin", &old]).ok();
    let folders = site.both().map(|point| std::fs::canonicalize(latest(&point, "n").join("out")).unwrap());
    let mut open = Vec::new();
    for folder in &folders {
        for (name, size) in SIZES {
            let mut file = File::open(folder.join(name)).unwrap();
            let mut first = vec![0; 500];
            file.read_exact(&mut first).unwrap();
            open.push((file, first, size));
        }
    }
    let listing = folders.each_ref().map(|folder| std::fs::read_dir(folder).unwrap());
    // Its bytes go a protection after it.
    let objects = site.world.data().join("blobs/objects");
    let files = || crate::gc::files(&objects).len();
    assert_eq!(files(), 4);
    eventually("it is collected, and its bytes", || {
        sleep(Duration::from_millis(1_500));
        site.world.cli(&["gc"]).ok();
        files() == 2
    });
    assert_eq!(site.world.verdict(&new), "EVICTED");
    caches.drop_all();
    for (point, folder) in site.both().iter().zip(&folders) {
        eventually("latest moves on", || shows(point, 1));
        eventually("its folder is gone", || is_gone(folder) && is_gone(&folder.join("large")));
        let listed = point.join("tasks/n").read_dir().unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(listed.count(), 2, "latest and what it is");
    }
    for (mut file, mut read, size) in open {
        file.read_to_end(&mut read).unwrap();
        assert!(read == content(2, size), "an open file of {size} bytes reads on");
    }
    for listed in listing {
        // What was listed when it was opened, or that it is gone; never something else.
        for entry in listed {
            match entry {
                Ok(entry) => assert!(SIZES.iter().any(|(name, _)| entry.file_name() == *name)),
                Err(error) => assert!(matches!(error.raw_os_error(), Some(2 | 116)), "{error}"),
            }
        }
    }
    // Its next run heals, and it is the latest again.
    assert_eq!(make(&site, 2), new);
    for point in site.both() {
        eventually("it is shown again", || shows(&point, 2));
        let large = std::fs::read(latest(&point, "n").join("out/large")).unwrap();
        assert!(large == content(2, SIZES[2].1));
    }
}
