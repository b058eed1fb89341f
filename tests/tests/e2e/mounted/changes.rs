//! What changes is seen soon, and who was there before goes on with what they had.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use provender_tests::child::eventually;
use rustix::fs::{Advice, fadvise};

use super::{Caches, Site, latest, started};
use crate::world::snapshot;

/// How soon `latest` shows a new success.
const SOON: Duration = Duration::from_secs(1);
/// What a busy machine may add to that, for nobody asks all the time. A wrong duration of validity is far beyond.
const SLACK: Duration = Duration::from_secs(2);

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| format!("{path:?}: {error}"))
}

#[test]
fn latest_shows_a_new_success_within_a_second_on_every_mount() {
    let site = Site::new();
    let run = |n: usize| site.world.run(&["--name", "n", "--out", "out"], &format!("echo {n} >out")).ok();
    for n in 0..6 {
        if n == 0 {
            // That there is none has been seen, too.
            assert!(site.both().iter().all(|point| !latest(point, "n").exists()));
        }
        run(n);
        let done = Instant::now();
        for point in site.both() {
            let shown = || text(&latest(&point, "n").join("out")) == format!("{n}\n");
            eventually("latest shows it", shown);
            let late = done.elapsed().saturating_sub(SOON);
            assert!(late < SLACK, "{point:?} showed success {n} after {:?}", done.elapsed());
            // Listings too, which both grow.
            eventually("its folder is listed", || point.join("tasks/n").read_dir().unwrap().count() == n + 2);
            assert!(done.elapsed() < SOON * 2 + SLACK * 2, "{point:?} listed success {n} after {:?}", done.elapsed());
        }
    }
    // A hit moves it back, and what is void is skipped.
    run(2);
    for point in site.both() {
        eventually("latest is the hit", || text(&latest(&point, "n").join("out")) == "2\n");
    }
    site.world.cli(&["invalidate", "n"]).ok();
    for point in site.both() {
        eventually("latest is what is left", || text(&latest(&point, "n").join("out")) != "2\n");
    }
}

/// A folder of small and large files with its outputs in both mounts, by no link.
fn stored(site: &Site) -> [PathBuf; 2] {
    let world = &site.world;
    for (name, size) in [("small", 10), ("middle", 100_000), ("large", 12 << 20)] {
        let bytes: Vec<_> = (0..size).map(|n: usize| (n / 3 % 251) as u8).collect();
        world.write(&format!("tree/{name}"), &bytes);
    }
    world.write("tree/folder/file", "in a folder");
    site.put("tree", "n");
    site.both().map(|point| std::fs::canonicalize(latest(&point, "n")).unwrap())
}

#[test]
fn a_shell_in_an_old_folder_goes_on() {
    let site = Site::new();
    let folders = stored(&site);
    for (n, folder) in folders.iter().enumerate() {
        let at = |word: &str| site.path(&format!("{word}{n}"));
        let script = format!(
            "cd '{}' && touch '{}' && while ! [ -e '{}' ]; do sleep 0.02; done; pwd; ls; cat small folder/file; cd folder; ls .. | wc -l",
            folder.display(),
            at("there").display(),
            at("go").display()
        );
        let shell = started(&["sh", "-ec", &script]);
        eventually("the shell is there", || at("there").exists());
        for more in 0..3 {
            site.world.write("tree/more", format!("{n} {more}"));
            site.put("tree", "n");
        }
        eventually("latest has gone on", || latest(&site.both()[n], "n").join("more").exists());
        // And with the entries that the kernel has forgotten meanwhile.
        Caches::mine().drop_all();
        std::fs::write(at("go"), "").unwrap();
        let said = shell.wait().ok().out();
        let mut lines = said.lines();
        assert_eq!(lines.next(), folder.to_str());
        assert_eq!(lines.by_ref().take(4).collect::<Vec<_>>(), ["folder", "large", "middle", "small"]);
        assert!(said.ends_with("in a folder4\n"), "{said}");
    }
}

#[test]
fn open_files_of_what_is_void_or_evicted_still_read() {
    for word in ["invalidate", "evict"] {
        let site = Site::new();
        let folders = stored(&site);
        let right = snapshot(&site.world.path("tree"));
        let names = ["small", "middle", "large", "folder/file"];
        let open = |folder: &PathBuf| names.map(|name| (name, File::open(folder.join(name)).unwrap()));
        let opened: Vec<_> = folders.iter().map(open).collect();
        let mapped: Vec<_> = folders.iter().map(|folder| mapping(&site, &folder.join("large"))).collect();
        site.world.cli(&[word, "n"]).ok();
        assert!(site.world.verdict("n") != "SUCCEEDED");
        for point in site.both() {
            eventually("it is the latest no more", || !latest(&point, "n").exists());
        }
        for (name, mut file) in opened.into_iter().flatten() {
            let expected = std::fs::read(site.world.path("tree").join(name)).unwrap();
            for _ in 0..2 {
                let mut bytes = Vec::new();
                file.seek(SeekFrom::Start(0)).unwrap();
                file.read_to_end(&mut bytes).unwrap();
                assert!(bytes == expected, "{name} after {word}");
                // Once more, not from what the kernel keeps.
                fadvise(&file, 0, None, Advice::DontNeed).unwrap();
            }
        }
        for (n, reader) in mapped.into_iter().enumerate() {
            std::fs::write(site.path(&format!("go{n}")), "").unwrap();
            assert_eq!(reader.wait().ok().out(), "mapped\n", "after {word}");
            std::fs::remove_file(site.path(&format!("go{n}"))).unwrap();
        }
        // Nothing of it was written to.
        assert_eq!(snapshot(&site.world.path("tree")), right);

        // A mapping of one that is not there any more, by a process that has it only now.
        fn mapping(site: &Site, file: &Path) -> provender_tests::child::Running {
            let n = usize::from(file.starts_with(site.remote()));
            let there = site.path(&format!("mapped{n}"));
            let script = "import mmap, os, sys, time\n\
                shown, right, there, go = sys.argv[1:]\n\
                with open(shown, 'rb') as file: at = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)\n\
                at[0]\n\
                open(there, 'w').close()\n\
                while not os.path.exists(go): time.sleep(0.02)\n\
                at.madvise(mmap.MADV_DONTNEED)\n\
                assert at[:] == open(right, 'rb').read()\n\
                print('mapped')\n";
            let (right, go) = (site.world.path("tree/large"), site.path(&format!("go{n}")));
            let paths = [file, &right, &there, &go].map(|path| path.to_str().unwrap());
            let reader = started(&[&["python3", "-c", script], &paths[..]].concat());
            eventually("it is mapped", || there.exists());
            reader
        }
    }
}
