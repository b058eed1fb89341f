//! `put`, `get` and `cat`: what goes in comes out, whatever it is called.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use crate::world::{World, odd_folder, snapshot};

#[test]
fn a_folder_comes_back_as_it_was() {
    let world = World::new();
    odd_folder(&world.path("odd"));
    let put = world.cli(&["put", "odd", "--name", "odd"]).ok();
    let made = snapshot(&world.path("odd"));
    let tree = put.word();
    let shown = world.cli(&["--json", "show", "odd"]).ok().json();
    let execution = format!("exec:{}", shown["record"]["execution"].as_str().unwrap());
    let key = shown["record"]["key"].as_str().unwrap().to_owned();
    for (n, reference) in ["odd", "odd@1", "name:odd", &tree, &execution, &key].into_iter().enumerate() {
        let dest = format!("got{n}");
        world.cli(&["get", reference, &dest]).ok();
        assert_eq!(snapshot(&world.path(&dest)), made, "{reference}");
    }
    // Without a destination it is called as the last part of the name.
    world.provender.at(&world.path("elsewhere")).run(["get", "odd"]).ok();
    assert_eq!(snapshot(&world.path("elsewhere/odd")), made);
}

#[test]
fn what_stands_at_the_destination_is_kept_unless_forced() {
    let world = World::new();
    world.write("new/file", "new");
    world.write("there/old", "old");
    world.write("plain", "old");
    world.cli(&["put", "new", "--name", "new"]).ok();
    for dest in ["there", "plain"] {
        world.cli(&["get", "new", dest]).code(1).says(&[dest, "exists", "--force"]);
    }
    assert_eq!((world.read("there/old"), world.read("plain")), ("old".into(), "old".into()));
    for dest in ["there", "plain"] {
        world.cli(&["get", "new", dest, "--force"]).ok();
        assert_eq!(snapshot(&world.path(dest)), snapshot(&world.path("new")));
    }
}

#[test]
fn one_path_of_many_is_got_or_printed() {
    let world = World::new();
    odd_folder(&world.path("odd"));
    world.cli(&["put", "odd", "--name", "odd"]).ok();
    let args = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
    for name in [&b"with space"[..], b"not\xff\xfeutf-8", b"new\nline", &[b'x'; 255], b"nothing", b"deep/er/est/file"] {
        let expected = std::fs::read(world.path("odd").join(OsStr::from_bytes(name))).unwrap();
        let path = OsStr::from_bytes(name).to_owned();
        let printed = world.provender.run([args(&["cat", "odd"]), vec![path.clone()]].concat()).ok();
        assert!(printed.stdout == expected, "{path:?}");
        let dest = world.path("one");
        let get = [args(&["get", "odd"]), vec![dest.clone().into(), "--force".into(), "--path".into(), path]].concat();
        world.provender.run(get).ok();
        assert!(std::fs::read(&dest).unwrap() == expected, "{name:?}");
    }
    world.cli(&["get", "odd", "part", "--path", "deep/er"]).ok();
    assert_eq!(snapshot(&world.path("part")), snapshot(&world.path("odd/deep/er")));
    world.cli(&["cat", "odd", "deep"]).code(1).says(&["folder"]);
    world.cli(&["cat", "odd", "link"]).code(1).says(&["symbolic link"]);
    world.cli(&["cat", "odd", "link/est/file"]).code(1);
    world.cli(&["cat", "odd", "no such"]).code(1).says(&["no such"]);
    world.cli(&["get", "odd", "x", "--path", "../odd"]).code(1);
}

#[test]
fn a_file_is_a_blob_with_or_without_a_name() {
    let world = World::new();
    world.write("a file", "content\n");
    let unnamed = world.cli(&["put", "a file"]).ok().says(&["kept until", "--name"]);
    let blob = unnamed.word();
    assert!(blob.starts_with("blob:"), "{blob}");
    assert_eq!(world.cli(&["cat", &blob]).ok().out(), "content\n");
    world.cli(&["get", &blob, "copy"]).ok();
    assert_eq!(world.read("copy"), "content\n");
    assert!(world.cli(&["ls"]).ok().out().is_empty());

    assert_eq!(world.cli(&["put", "a file", "--name", "n"]).ok().says(&["0 B sent"]).word(), blob);
    assert_eq!(world.cli(&["cat", "n", "a file"]).ok().out(), "content\n");
    world.cli(&["put", "no such"]).code(1).says(&["no such"]);
    // A link that is named is what it points at.
    std::os::unix::fs::symlink("a file", world.path("link")).unwrap();
    assert_eq!(world.cli(&["put", "link"]).ok().word(), blob);
    std::os::unix::fs::symlink("no such", world.path("dangling")).unwrap();
    world.cli(&["put", "dangling"]).code(1).says(&["dangling"]);
}

#[test]
fn what_is_no_file_is_refused() {
    let world = World::new();
    world.write("folder/file", "");
    let pipe = world.path("folder/pipe");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    world.cli(&["put", "folder", "--name", "pipe"]).code(1).says(&["pipe"]);
    let made = world.run(&["--name", "pipe", "--out", "out"], "mkdir out; mkfifo out/fifo");
    assert_eq!(made.code(1).result(), "failed");
}
