//! What is collected goes from the mounts, and who has it open goes on with it.

use std::fs::{DirEntry, File, ReadDir};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use provender_tests::child::{eventually, string};
use rustix::io::Errno;

use super::{Caches, Site, latest};
use crate::world::key;

/// One success of each name stays; nothing goes by itself.
const CONFIG: &str = "[gc]\nprotect_seconds = 1\nevery_seconds = 0\n[[gc.keep]]\nlatest = 1\n";
/// Kept as a row, as a file, and as one that the kernel may read by itself.
const FILES: [(&str, usize); 3] = [("small", 3_000), ("middle", 200_000), ("large", 12 << 20)];
/// How many entries a folder has that is being listed: more than the kernel asks for at once.
const ENTRIES: usize = 3_000;

/// A version of `n`, each with bytes of its own: its key.
fn make(site: &Site, version: usize) -> String {
    let each = FILES.map(|(file, size)| format!("yes {version}{file} | head -c {size} >out/{file};"));
    let many = format!("for i in $(seq {ENTRIES}); do echo {version} >out/many/file$i; done");
    let script = format!("echo x >>count; mkdir -p out/many; {} {many}", each.concat());
    let input = format!("in{version}");
    site.world.write(&input, version.to_string());
    key(&site.world.run(&["--name", "n", "--in", &input, "--out", "out"], &script).ok())
}

fn expected(file: &str, size: usize, version: usize) -> Vec<u8> {
    format!("{version}{file}\n").into_bytes().into_iter().cycle().take(size).collect()
}

/// The folder of what `latest` is, by no link.
fn folder(point: &Path) -> PathBuf {
    std::fs::canonicalize(point.join("tasks/n/latest")).unwrap()
}

/// Collects until blobs take no more than so much.
fn collect(site: &Site, sizes: u64) {
    let objects = site.world.data().join("blobs/objects");
    eventually("bytes are removed", || {
        sleep(Duration::from_millis(1_200));
        site.world.cli(&["gc"]).ok();
        size(&objects) == sizes
    });
}

fn size(dir: &Path) -> u64 {
    let each = dir.read_dir().unwrap().map(|entry| {
        let (path, found) = entry.map(|entry| (entry.path(), entry.metadata().unwrap())).unwrap();
        if found.is_dir() { size(&path) } else { found.len() }
    });
    each.sum()
}

fn is_gone(error: &std::io::Error) -> bool {
    let gone = [Errno::NOENT, Errno::STALE].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|code| gone.contains(&code))
}

#[test]
fn what_was_collected_is_gone_from_the_mounts_and_runs_again() {
    let site = Site::with(CONFIG);
    let old = make(&site, 1);
    let folders = site.both().map(|point| folder(&point));
    let shown = |point: &Path, version: usize| {
        let read = std::fs::read(latest(point, "n").join("out/small"));
        read.is_ok_and(|read| read == expected("small", 3_000, version))
    };
    let new = make(&site, 2);
    site.both().iter().for_each(|point| eventually("latest moves on", || shown(point, 2)));
    // It is kept in the kernel by now, all of it.
    for folder in &folders {
        assert_eq!(std::fs::read(folder.join("out/out/middle")).unwrap(), expected("middle", 200_000, 1));
    }
    collect(&site, one_version(&site));
    let why = site.world.cli(&["why", &old]).ok().out();
    let at = string(&site.world.cli(&["--json", "status", &old]).code(1).lines()[0]["at"]);
    assert!(why.contains("rule: latest") && why.contains(&at), "{why}");
    for (point, folder) in site.both().iter().zip(&folders) {
        let places =
            ["", "record.json", "out/out", "out/out/small", "out/out/many/file7"].map(|path| folder.join(path));
        for place in places {
            eventually("it is gone", || place.symlink_metadata().is_err());
            let error = File::open(&place).map(drop).unwrap_err();
            assert!(is_gone(&error), "{place:?}: {error}");
        }
        assert!(shown(point, 2), "latest is what is kept");
        assert_eq!(point.join("tasks/n").read_dir().unwrap().count(), 2);
    }
    assert_eq!(site.world.verdict(&new), "SUCCEEDED");
    // Its next run heals, and is the newest from then on.
    assert_eq!((make(&site, 1), site.world.count("count")), (old.clone(), 3));
    assert_eq!(site.world.verdict(&old), "SUCCEEDED");
    site.both().iter().for_each(|point| eventually("latest is the new success", || shown(point, 1)));
    // Once the newest is collected as well, what is left is.
    site.world.cli(&["evict", &old]).ok();
    site.both().iter().for_each(|point| eventually("latest is what is left", || shown(point, 2)));
    site.world.cli(&["evict", &new]).ok();
    site.world.cli(&["gc"]).ok();
    for point in site.both() {
        eventually("there is no latest", || {
            point.join("tasks/n/latest").symlink_metadata().is_err_and(|it| is_gone(&it))
        });
    }
}

/// The bytes that one version takes in the blob folder.
fn one_version(site: &Site) -> u64 {
    let both = size(&site.world.data().join("blobs/objects"));
    assert_eq!(both % 2, 0, "both versions take as much");
    both / 2
}

/// Who is at the files and in a folder of one.
struct Reader {
    files: Vec<(usize, File, Vec<u8>)>,
    listing: ReadDir,
    listed: Vec<DirEntry>,
    version: usize,
}

impl Reader {
    /// Opens all, and reads the beginning of each.
    fn new(out: &Path, version: usize) -> Reader {
        let open = |(n, (file, _)): (usize, (&str, usize))| {
            let mut file = File::open(out.join(file)).unwrap();
            let mut begun = vec![0; 100];
            file.read_exact(&mut begun).unwrap();
            (n, file, begun)
        };
        let files = FILES.into_iter().enumerate().map(open).collect();
        let mut listing = out.join("many").read_dir().unwrap();
        let listed = listing.by_ref().take(3).map(Result::unwrap).collect();
        Reader { files, listing, listed, version }
    }

    /// Goes on to the end.
    fn goes_on(self, place: &Path) {
        for (n, mut file, mut read) in self.files {
            let (name, size) = FILES[n];
            file.read_to_end(&mut read).unwrap_or_else(|error| panic!("{name} in {place:?}: {error}"));
            assert!(read == expected(name, size, self.version), "{name} in {place:?} is not what it was");
        }
        // All of it, each once; or, from some place on, the error that says so.
        let (mut names, mut ended) = (Vec::new(), None);
        names.extend(self.listed.iter().map(|entry| entry.file_name().into_string().unwrap()));
        for entry in self.listing {
            match entry {
                Ok(entry) => names.push(entry.file_name().into_string().unwrap()),
                Err(error) => {
                    assert!(is_gone(&error), "{place:?}: {error}");
                    ended = Some(error);
                    break;
                }
            }
        }
        let mut right: Vec<_> = (1..=ENTRIES).map(|n| format!("file{n}")).collect();
        right.sort();
        names.sort();
        let known = names.iter().all(|name| right.binary_search(name).is_ok());
        assert!(known && names.windows(2).all(|pair| pair[0] != pair[1]), "{place:?}: {names:?}");
        assert!(ended.is_some() || names == right, "{place:?} was listed as {} entries without an error", names.len());
    }
}

#[test]
fn who_has_open_what_is_collected_reads_on_to_its_end() {
    let site = Site::with(CONFIG);
    make(&site, 0);
    let one = size(&site.world.data().join("blobs/objects"));
    // The daemon's own mount has the file itself, whose bytes go; the other one has it kept as long as it is open.
    for (point, version, kept) in [(site.own(), 1, 0), (site.remote(), 3, 12 << 20)] {
        make(&site, version);
        eventually("it is the latest", || {
            std::fs::read(latest(&point, "n").join("out/small"))
                .is_ok_and(|read| read == expected("small", 3_000, version))
        });
        let out = folder(&point).join("out/out");
        let reader = Reader::new(&out, version);
        make(&site, version + 1);
        collect(&site, one + kept);
        eventually("it is gone", || File::open(out.join("small")).is_err());
        // Not from what the kernel keeps.
        Caches::mine().drop_all();
        reader.goes_on(&out);
        collect(&site, one);
    }
}
