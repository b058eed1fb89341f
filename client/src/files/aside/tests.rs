use std::fs;
use std::os::unix::fs::symlink;

use super::*;
use crate::files::ASIDE_PREFIX;

fn leftovers(folder: &Path) -> usize {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().starts_with(ASIDE_PREFIX)).count()
}

#[test]
fn the_old_is_gone_from_view_and_discarded_after_success() {
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name);
    fs::create_dir_all(at("folder/full")).unwrap();
    fs::write(at("folder/full/file"), "old").unwrap();
    fs::write(at("file"), "old").unwrap();
    symlink("nowhere", at("link")).unwrap();
    let outputs = Outputs::parse(["folder/full", "file", "link", "absent", "not/there", "file2/x"]).unwrap();
    fs::write(at("file2"), "a file where a folder should be").unwrap();
    let aside = move_aside(home.path(), &outputs).unwrap();
    assert!(!at("folder/full").exists() && !at("file").exists() && at("link").symlink_metadata().is_err());
    assert_eq!((leftovers(home.path()), leftovers(&at("folder"))), (1, 1));
    fs::write(at("file"), "new").unwrap();
    aside.discard();
    assert_eq!(fs::read(at("file")).unwrap(), b"new");
    assert!(!at("folder/full").exists() && at("link").symlink_metadata().is_err());
    assert_eq!((leftovers(home.path()), leftovers(&at("folder"))), (0, 0));
}

#[test]
fn after_a_failure_everything_comes_back_and_what_is_new_stays() {
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name);
    for name in ["made", "not-made"] {
        fs::create_dir(at(name)).unwrap();
        fs::write(at(name).join("old"), "old").unwrap();
    }
    let outputs = Outputs::parse(["made", "not-made", "deep/er/new"]).unwrap();
    let aside = move_aside(home.path(), &outputs).unwrap();
    fs::create_dir(at("made")).unwrap();
    fs::write(at("made/half"), "new").unwrap();
    fs::write(at("deep/er/new"), "new").unwrap();
    aside.put_back();
    assert!(at("made/old").exists() && !at("made/half").exists());
    assert!(at("not-made/old").exists() && at("deep/er/new").exists());
    assert_eq!(leftovers(home.path()), 0);
}

#[test]
fn a_symlink_on_the_way_is_refused_and_what_was_moved_comes_back() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("a"), "old").unwrap();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("x"), "precious").unwrap();
    symlink(outside.path(), home.path().join("link")).unwrap();
    let outputs = Outputs::parse(["a", "link/x"]).unwrap();
    assert!(matches!(move_aside(home.path(), &outputs), Err(RestoreError::InTheWay { .. })));
    assert!(outside.path().join("x").exists() && home.path().join("a").exists());
    assert_eq!(leftovers(home.path()), 0);
}
