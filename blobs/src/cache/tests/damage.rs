//! Files that are changed, cut, or deleted under foot.

use std::fs;
use std::os::unix::fs::FileExt;

use super::*;

fn flip(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    byte[0] ^= 1;
    file.write_all_at(&byte, at).unwrap();
}

/// A cache with a blob that is whole in it.
fn whole(dir: &Path, seed: u64) -> (Cache, Arc<Origin>) {
    let cache = open(dir, AMPLE);
    let origin = Origin::new(seed, 8 * GROUP);
    read(&origin.stream(&cache), 0..origin.digest.size).unwrap();
    eventually("it is whole", || cache.file(&origin.digest));
    (cache, origin)
}

#[test]
fn a_flipped_byte_is_never_handed_out_and_mended() {
    let dir = scratch();
    let (cache, origin) = whole(dir.path(), 20);
    flip(&path(dir.path(), &origin.digest), 5 * GROUP + 9);
    assert!(cache.file(&origin.digest).is_none());
    // Right, if somebody has mended it by now.
    assert!(cache.bytes(&origin.digest).is_none_or(|bytes| bytes == origin.bytes));
    let before = origin.fetched();
    let stream = origin.stream(&cache);
    assert!(read(&stream, 0..origin.digest.size).unwrap() == origin.bytes);
    // None, if it was still in memory.
    assert!(origin.fetched() - before <= GROUP, "only what was damaged is fetched");
    drop(stream);
    let file = eventually("it is whole again", || cache.file(&origin.digest));
    assert!(read_file(&file) == origin.bytes);
}

#[test]
fn a_byte_that_is_flipped_before_the_file_is_whole_is_not_signed() {
    let dir = scratch();
    let cache = open(dir.path(), AMPLE);
    let origin = Origin::new(21, 8 * GROUP);
    let stream = origin.stream(&cache);
    read(&stream, 0..1).unwrap();
    eventually("it is kept", || path(dir.path(), &origin.digest).exists().then_some(()));
    eventually("it is written", || {
        (fs::read(path(dir.path(), &origin.digest)).unwrap()[7] == origin.bytes[7]).then_some(())
    });
    flip(&path(dir.path(), &origin.digest), 7);
    read(&stream, 0..origin.digest.size).unwrap();
    for _ in 0..20 {
        if let Some(file) = cache.file(&origin.digest) {
            assert!(read_file(&file) == origin.bytes, "the flipped byte was signed");
        }
        stream.finish();
    }
    drop(stream);
    let stream = origin.stream(&cache);
    assert!(read(&stream, 0..origin.digest.size).unwrap() == origin.bytes);
    assert_eq!(read_file(&eventually("whole", || cache.file(&origin.digest))), origin.bytes);
}

#[test]
fn torn_files_and_notes_are_as_good_as_missing() {
    let dir = scratch();
    let (cache, origin) = whole(dir.path(), 22);
    let data = path(dir.path(), &origin.digest);
    let right = Signature::of(&File::open(&data).unwrap()).unwrap();
    let folder = Folder::open(&dir.path().join("c")).unwrap();
    let name = data.file_name().unwrap().to_str().unwrap();
    let beside = |suffix: &str| data.with_file_name(format!("{name}{suffix}"));
    let note = fs::read(beside(".whole")).unwrap();
    assert_eq!(note[..40], right.to_bytes());

    // A signature that is right, and a checksum that is not: as after a crash.
    for cut in [0, 20, 40, 71] {
        fs::write(beside(".whole"), &note[..cut]).unwrap();
        assert!(cache.file(&origin.digest).is_none(), "{cut}");
        assert!(!beside(".whole").exists());
    }
    // All is there, and is found right without a fetch.
    let before = origin.fetched();
    drop(origin.stream(&cache));
    eventually("it is signed again", || cache.file(&origin.digest));
    for size in [3 * GROUP - 5, 0, 100 * GROUP] {
        File::options().write(true).open(&data).unwrap().set_len(size).unwrap();
        assert!(cache.file(&origin.digest).is_none());
        assert!(read(&origin.stream(&cache), 0..origin.digest.size).unwrap() == origin.bytes);
        eventually("it is whole again", || {
            // As long as all of it is in the memory of an older stream, nobody misses the file.
            assert!(read(&origin.stream(&cache), 0..origin.digest.size).unwrap() == origin.bytes);
            cache.file(&origin.digest)
        });
    }
    assert!(origin.fetched() > before);

    let small = pattern(5, 3000);
    let digest = Digest::of(&small);
    cache.keep(&digest, &small);
    fs::write(folder.blob(&digest), &small[..2999]).unwrap();
    assert_eq!(cache.bytes(&digest), None);
    cache.keep(&digest, &small);
    assert_eq!(cache.bytes(&digest), Some(small));

    cache.keep_outboard(origin.outboard.as_ref().unwrap());
    flip(&beside(".tree"), 3);
    assert_eq!(cache.outboard(&origin.digest), None);
    cache.remember(&[1; 32], b"said");
    let answers: Vec<_> =
        fs::read_dir(dir.path().join("c/answers")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let answer = fs::read_dir(&answers[0]).unwrap().next().unwrap().unwrap().path();
    flip(&answer, 33);
    assert_eq!(cache.recall(&[1; 32]), None);
}

#[test]
fn it_may_be_deleted_at_any_time() {
    let dir = scratch();
    let (cache, first) = whole(dir.path(), 23);
    let file = cache.file(&first.digest).unwrap();
    let origin = Origin::new(24, 64 * GROUP);
    let stream = origin.stream(&cache);
    for at in (0..origin.digest.size).step_by(GROUP as usize / 2) {
        if at % (8 * GROUP) == 0 {
            // While it is written to, new files can be in the way.
            eventually("it is deleted", || fs::remove_dir_all(dir.path().join("c")).ok());
        }
        let found = read(&stream, at..at + GROUP / 2).unwrap();
        assert!(found == origin.bytes[at as usize..(at + GROUP / 2) as usize], "{at}");
        cache.remember(&[at as u8; 32], b"an answer");
        cache.keep(&Digest::of(b"small"), b"small");
    }
    assert_eq!(read_file(&file), first.bytes, "what is open stays readable");
    assert!(cache.file(&first.digest).is_none());
    let other = Origin::new(25, 4 * GROUP);
    let stream_of_other = other.stream(&cache);
    read(&stream_of_other, 0..1).unwrap();
    eventually("it is deleted", || fs::remove_dir_all(dir.path().join("c")).ok());
    read(&stream_of_other, 3 * GROUP..3 * GROUP + 1).unwrap();
    assert!(path(dir.path(), &other.digest).exists(), "a new file, as the old one has no name");
    // It fills again, in a folder that is again nobody else's.
    cache.keep(&Digest::of(b"small"), b"small");
    assert!(read(&stream, 0..origin.digest.size).unwrap() == origin.bytes);
    assert_eq!(cache.bytes(&Digest::of(b"small")).unwrap(), "small");
    Cache::open(&dir.path().join("c"), AMPLE).unwrap();
}

#[test]
fn a_folder_of_others_is_refused() {
    use std::os::unix::fs::{PermissionsExt, chown};
    let dir = scratch();
    let c = dir.path().join("c");
    fs::write(&c, "").unwrap();
    assert!(matches!(Cache::open(&c, AMPLE), Err(CacheError::Make { .. } | CacheError::Unsafe { .. })));
    fs::remove_file(&c).unwrap();
    Cache::open(&c, AMPLE).unwrap();
    assert_eq!(fs::metadata(&c).unwrap().permissions().mode() & 0o777, 0o700);
    fs::set_permissions(&c, fs::Permissions::from_mode(0o722)).unwrap();
    assert!(matches!(Cache::open(&c, AMPLE), Err(CacheError::Unsafe { .. })));
    fs::set_permissions(&c, fs::Permissions::from_mode(0o700)).unwrap();
    if chown(&c, Some(12345), None).is_ok() {
        assert!(matches!(Cache::open(&c, AMPLE), Err(CacheError::Unsafe { .. })));
    }
}
