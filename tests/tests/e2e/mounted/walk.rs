//! Large real trees, entry by entry: what was put in against what either mount shows, asked in each way that a program can ask.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use provender_core::Digest;
use provender_tests::child::soak;
use rustix::fs::{Dir, FileType, SeekFrom, seek};
use rustix::io::Errno;

use super::{Site, latest, succeeds};
use crate::world::odd_folder;

/// How much of the toolchain a short run takes.
const PART: u64 = 24 << 20;

/// Compares a folder with what is shown of it, and says how many entries there are.
fn compare(source: &Path, shown: &Path) -> usize {
    let mut count = 0;
    let mut left = vec![PathBuf::new()];
    while let Some(path) = left.pop() {
        let (source, shown) = (source.join(&path), shown.join(&path));
        let names = listed(&shown);
        let expected: Vec<OsString> = sorted(source.read_dir().unwrap().map(|entry| entry.unwrap().file_name()));
        assert_eq!(sorted(names.keys().cloned()), expected, "{path:?}");
        for (name, (kind, number)) in names {
            let (from, at) = (source.join(&name), shown.join(&name));
            let (was, is) = (from.symlink_metadata().unwrap(), at.symlink_metadata().unwrap());
            // What a listing says of an entry is what `stat` says.
            assert_eq!((number, kind), (is.ino(), FileType::from_raw_mode(is.mode())), "{at:?}");
            assert_eq!(was.file_type(), is.file_type(), "{at:?}");
            if was.is_dir() {
                assert_eq!(is.mode() & 0o7777, 0o555, "{at:?}");
                left.push(path.join(&name));
            } else if was.is_symlink() {
                let target = std::fs::read_link(&at).unwrap();
                assert_eq!(target, std::fs::read_link(&from).unwrap(), "{at:?}");
                assert_eq!(is.size(), target.as_os_str().len() as u64);
            } else {
                assert_eq!(is.mode() & 0o7777, if was.mode() & 0o100 == 0 { 0o444 } else { 0o555 }, "{at:?}");
                assert_eq!((is.size(), is.blocks()), (was.size(), was.size().div_ceil(512)), "{at:?}");
                same_file(&from, &at, count);
            }
            count += 1;
        }
    }
    count
}

fn sorted(names: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

/// The entries of a folder by name, and that each position that was told leads to what comes after it.
fn listed(folder: &Path) -> BTreeMap<OsString, (FileType, u64)> {
    let opened = File::open(folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    let mut dir = Dir::read_from(&opened).unwrap();
    let mut all = Vec::new();
    while let Some(entry) = dir.read() {
        let entry = entry.unwrap();
        let name = OsStr::from_bytes(entry.file_name().to_bytes()).to_owned();
        all.push((name, entry.file_type(), entry.ino(), entry.offset()));
    }
    // From the end to the beginning, so that no position is where the last read ended.
    let few = all.len() / 50 + 1;
    for n in (0..all.len()).rev().step_by(few) {
        dir.seek(all[n].3).unwrap();
        let next = dir.read().map(|entry| entry.unwrap());
        let next = next.map(|entry| OsStr::from_bytes(entry.file_name().to_bytes()).to_owned());
        assert_eq!(next.as_ref(), all.get(n + 1).map(|entry| &entry.0), "after {:?} in {folder:?}", all[n].0);
    }
    dir.rewind();
    let again = dir.map(|entry| OsStr::from_bytes(entry.unwrap().file_name().to_bytes()).to_owned());
    assert!(again.eq(all.iter().map(|entry| entry.0.clone())), "{folder:?} lists otherwise the second time");
    let named = all.into_iter().filter(|entry| entry.0 != "." && entry.0 != "..");
    named.map(|(name, kind, number, _)| (name, (kind, number))).collect()
}

/// Compares bytes in the ways of the `n`-th file: whole in pieces of one size, then in parts from odd places on.
fn same_file(from: &Path, at: &Path, n: usize) {
    const SIZES: &[usize] = &[4096, 1, 65_537, 1 << 20, 511, 131_072, 3 << 20, 13];
    let bytes = std::fs::read(from).unwrap();
    let (mut file, len) = (File::open(at).unwrap(), bytes.len());
    // By byte only where that ends.
    let size = SIZES[n % SIZES.len()].max(len / 2_000).max(1);
    let (mut buf, mut done) = (vec![0; size], 0);
    loop {
        let count = file.read(&mut buf).unwrap_or_else(|error| panic!("{at:?} at {done}: {error}"));
        assert!(buf[..count] == bytes[done..done + count], "{at:?}: read of {size} at {done}");
        done += count;
        if count == 0 {
            break;
        }
    }
    assert_eq!(done, len, "{at:?}");
    for part in 0..8 {
        let offset = (part * len / 8 + part * 7919).min(len + 1);
        let count = file.read_at(&mut buf[..], offset as u64).unwrap();
        let expected = &bytes[offset.min(len)..(offset + size).min(len)];
        // A file of ours gives all that is there.
        assert!(buf[..count] == *expected, "{at:?}: read of {size} at {offset} gave {count}");
    }
    holes(&file, &bytes, at);
    assert_eq!(digest(at), Digest::of(&bytes).hex(), "{at:?}");
}

/// Data and holes take turns and cover the file, and what is told to be a hole is one.
fn holes(file: &File, bytes: &[u8], at: &Path) {
    let len = bytes.len() as u64;
    assert_eq!(seek(file, SeekFrom::Data(len)), Err(Errno::NXIO), "{at:?}");
    assert_eq!(seek(file, SeekFrom::Hole(len)), Err(Errno::NXIO), "{at:?}");
    let mut position = 0;
    while position < len {
        let data = match seek(file, SeekFrom::Data(position)) {
            Err(Errno::NXIO) => len,
            found => found.unwrap(),
        };
        let range = position as usize..data as usize;
        assert!(bytes[range].iter().all(|byte| *byte == 0), "{at:?}: a hole at {position}");
        if data == len {
            break;
        }
        position = seek(file, SeekFrom::Hole(data)).unwrap();
        assert!((data + 1..=len).contains(&position), "{at:?}: {data} to {position} of {len}");
    }
}

fn digest(at: &Path) -> String {
    let mut value = [0; 64];
    let len = rustix::fs::getxattr(at, "user.provender.digest", &mut value[..]).unwrap();
    String::from_utf8_lossy(&value[..len]).into_owned()
}

/// Compares all files as memory, which safe Rust cannot.
fn same_mapped(source: &Path, shown: &Path) {
    let script = "import mmap, os, sys\n\
        source, shown = map(os.fsencode, sys.argv[1:])\n\
        def mapped(path):\n\
        \x20 with open(path, 'rb') as file: return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)\n\
        for folder, _, names in os.walk(shown):\n\
        \x20 for name in names:\n\
        \x20   path = os.path.join(folder, name)\n\
        \x20   if os.path.islink(path) or not os.path.getsize(path): continue\n\
        \x20   a, b = mapped(path), mapped(os.path.join(source, os.path.relpath(path, shown)))\n\
        \x20   assert memoryview(a) == memoryview(b), path\n";
    succeeds(&["python3", "-c", script, source.to_str().unwrap(), shown.to_str().unwrap()]);
}

#[test]
fn the_rust_toolchain_is_shown_as_it_is() {
    let site = Site::new();
    let root = succeeds(&["rustc", "--print", "sysroot"]).out();
    let lib = Path::new(root.trim_end()).join("lib");
    let source = if soak() {
        lib
    } else {
        let part = site.world.path("lib");
        copy_part(&lib, &part);
        part
    };
    site.put(source.to_str().unwrap(), "lib");
    for point in site.both() {
        let shown = latest(&point, "lib");
        assert!(compare(&source, &shown) > 50);
        same_mapped(&source, &shown);
    }
}

/// The smaller files, and the beginnings of the larger ones.
fn copy_part(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in from.read_dir().unwrap() {
        let entry = entry.unwrap();
        let (kind, to) = (entry.file_type().unwrap(), to.join(entry.file_name()));
        if kind.is_dir() {
            copy_part(&entry.path(), &to);
        } else {
            let mut part = File::open(entry.path()).unwrap().take(PART / 32);
            std::io::copy(&mut part, &mut File::create(&to).unwrap()).unwrap();
            std::fs::set_permissions(&to, entry.metadata().unwrap().permissions()).unwrap();
        }
    }
}

#[test]
fn a_git_checkout_with_odd_names_is_shown_as_it_is() {
    let site = Site::new();
    let source = site.world.path("checkout");
    checkout(&source);
    site.put("checkout", "checkout");
    for point in site.both() {
        let shown = latest(&point, "checkout");
        assert!(compare(&source, &shown) > 350);
        same_mapped(&source, &shown);
    }
}

/// A repository of three commits, with what Git has of its own and all that file systems can have.
fn checkout(at: &Path) {
    odd_folder(at);
    let git = |words: &[&str]| succeeds(&[&super::GIT[..], &["-C", at.to_str().unwrap()], words].concat());
    git(&["init", "--quiet"]);
    let name = |bytes: &[u8]| at.join(OsStr::from_bytes(bytes));
    std::fs::create_dir_all(at.join("many")).unwrap();
    for n in 0..300 {
        std::fs::write(at.join(format!("many/{n}")), vec![b'a' + (n % 26) as u8; n]).unwrap();
    }
    git(&["add", "--all"]);
    git(&["commit", "--quiet", "--message", "one"]);
    for bytes in
        [&b"\n"[..], b"\xff\xfe\xfd", b"-rf", b" ", b"...", b"*", b"a\tb\\c\"d'", &[0xe9; 255], &[b'\x01'; 100]]
    {
        std::fs::create_dir_all(name(b"odd").join(OsStr::from_bytes(bytes)).join("below")).unwrap();
        std::fs::write(name(b"odd").join(OsStr::from_bytes(bytes)).join(OsStr::from_bytes(bytes)), bytes).unwrap();
    }
    git(&["add", "--all"]);
    git(&["commit", "--quiet", "--message", "two"]);
    for (target, link) in [
        ("many/1".to_owned(), "to_file"),
        ("./many/../many//2".into(), "roundabout"),
        ("..".into(), "up"),
        (".".into(), "here"),
        ("/".into(), "root"),
        ("to_itself".into(), "to_itself"),
        ("t".repeat(4_000), "long"),
        ("new\nline".into(), "to_newline"),
    ] {
        symlink(target, at.join(link)).unwrap();
    }
    // A hole in front, between and behind, and nothing but a hole; the same bytes twice, once as a program.
    let holes = File::create(at.join("holes")).unwrap();
    holes.write_all_at(&[1; 5_000], 1 << 20).unwrap();
    holes.write_all_at(&[2; 5_000], 3 << 20).unwrap();
    holes.set_len((4 << 20) + 1).unwrap();
    File::create(at.join("hole")).unwrap().set_len(1_000_001).unwrap();
    for path in ["twin", "twin.sh"] {
        std::fs::write(at.join(path), "#!/bin/sh\nexit 0\n").unwrap();
    }
    std::fs::set_permissions(at.join("twin.sh"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    git(&["add", "--all"]);
    git(&["commit", "--quiet", "--message", "three"]);
    git(&["gc", "--quiet"]);
}
