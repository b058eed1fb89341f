//! Files of this machine by descriptor: who may, what becomes of hostile ones, and that extents are shared where they can be.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use provender_core::Digest;
use provender_proto::convert::digest_to;
use provender_proto::handover::{beside, connect_to, receive, send};
use provender_proto::v1::handover_reply::Reply;
use provender_proto::v1::handover_request::{Give, Lend, Request};
use provender_proto::v1::{HandoverReply, HandoverRequest};
use provender_tests::child::eventually;
use provender_tests::conformance::blobs::bytes;
use provender_tests::loop_disk::LoopDisk;
use rustix::fs::{CWD, Mode, OFlags};
use tonic::Code;

use crate::security::{http, metrics_address};
use crate::world::{World, folder};

const MIB: usize = 1 << 20;
const METRICS: [&str; 2] = ["--metrics-listen", "127.0.0.1:0"];

/// How many calls of a method have ended so.
fn calls(world: &World, method: &str, code: &str) -> usize {
    let metrics = http(&metrics_address(world), "/metrics");
    let name = format!("provender_call_seconds_count{{code=\"{code}\",method=\"{method}\"}} ");
    metrics.lines().find_map(|line| line.strip_prefix(&name)).map_or(0, |count| count.parse().unwrap())
}

fn ask(world: &World, request: Request, file: Option<BorrowedFd<'_>>) -> (Reply, Option<OwnedFd>) {
    let socket = connect_to(&beside(&world.daemon.socket()), Duration::from_secs(60)).unwrap();
    send(&socket, &HandoverRequest { request: Some(request) }, file).unwrap();
    let (reply, file) = receive::<HandoverReply>(&socket).unwrap().unwrap();
    (reply.reply.unwrap(), file)
}

fn give(digest: &Digest) -> Request {
    Request::Give(Give { space: String::new(), digest: Some(digest_to(digest)) })
}

fn lend(digest: &Digest) -> Request {
    Request::Lend(Lend { space: String::new(), digest: Some(digest_to(digest)) })
}

fn refused(reply: Reply, code: Code, words: &str) {
    let Reply::Refused(refused) = reply else { panic!("{reply:?}") };
    assert_eq!(Code::from(refused.code), code, "{}", refused.message);
    assert!(refused.message.contains(words), "{}", refused.message);
}

fn is_held(world: &World, digest: &Digest) -> bool {
    !matches!(ask(world, lend(digest), None).0, Reply::Refused(refused) if Code::from(refused.code) == Code::NotFound)
}

#[test]
fn large_files_are_handed_over_by_every_command() {
    let world = World::with("", &METRICS);
    let content = bytes(1, 3 * MIB + 1);
    std::fs::write(world.path("large"), &content).unwrap();
    world.cli(&["put", "large", "--name", "put"]).ok();
    assert_eq!((calls(&world, "Give", "Ok"), calls(&world, "Upload", "Ok")), (1, 0));
    world.cli(&["get", "put", "got"]).ok();
    assert!(std::fs::read(world.path("got/large")).unwrap() == content);
    assert_eq!((calls(&world, "Lend", "Ok"), calls(&world, "Download", "Ok")), (1, 0));

    let run = || world.run(&["--name", "run", "--in", "large", "--out", "out"], "cat large large >out").ok();
    assert_eq!(run().result(), "ran");
    // The input is held already; what it printed goes as bytes.
    assert_eq!(calls(&world, "Give", "Ok"), 2);
    std::fs::remove_file(world.path("out")).unwrap();
    assert_eq!(run().result(), "hit");
    assert_eq!((calls(&world, "Lend", "Ok"), std::fs::read(world.path("out")).unwrap().len()), (2, 2 * content.len()));

    // What is restored is the user's own: whatever is done to it, the store's is as it was.
    for (path, mode) in [("out", 0o644), ("got/large", 0o644)] {
        assert_eq!(world.path(path).metadata().unwrap().permissions().mode() & 0o777, mode);
        OpenOptions::new().write(true).open(world.path(path)).unwrap().write_all_at(b"mine", 5).unwrap();
    }
    world.cli(&["get", "put", "again"]).ok();
    assert!(std::fs::read(world.path("again/large")).unwrap() == content);
}

#[test]
fn extents_are_shared_where_they_can_be() {
    let folder = folder();
    let disk = LoopDisk::mount(folder.path(), 400 << 20, &["mkfs.xfs"]);
    let inside = tempfile::Builder::new().prefix("pv").tempdir_in(disk.path()).unwrap();
    let world = World::inside(inside, "", &METRICS);
    let size = 64 * MIB;
    std::fs::write(world.path("large"), bytes(2, size)).unwrap();
    rustix::fs::syncfs(File::open(disk.path()).unwrap()).unwrap();
    let before = disk.used();
    world.cli(&["put", "large", "--name", "large"]).ok();
    world.cli(&["get", "large", "got"]).ok();
    rustix::fs::syncfs(File::open(disk.path()).unwrap()).unwrap();
    let grown = disk.used().saturating_sub(before);
    assert!(grown < size as u64 / 2, "{grown} bytes more are in use after storing and restoring {size}");

    // Shared is not the same: each writes to its own.
    for path in ["large", "got/large"] {
        OpenOptions::new().write(true).open(world.path(path)).unwrap().write_all_at(b"mine", 5).unwrap();
    }
    world.cli(&["get", "large", "again"]).ok();
    assert!(std::fs::read(world.path("again/large")).unwrap() == bytes(2, size));
    drop(world);
    drop(disk);
}

#[test]
fn what_is_no_file_to_be_read_is_refused() {
    let world = World::with("", &METRICS);
    let content = bytes(3, MIB);
    let digest = Digest::of(&content);
    std::fs::write(world.path("file"), &content).unwrap();
    let open = |options: &mut OpenOptions| options.open(world.path("file")).unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(writer);
    let directory = File::open(world.root()).unwrap();
    let path = rustix::fs::openat(CWD, world.path("file"), OFlags::PATH, Mode::empty()).unwrap();
    let socket = std::os::unix::net::UnixStream::pair().unwrap().0;
    let device = File::open("/dev/zero").unwrap();
    let both = open(OpenOptions::new().read(true).write(true));
    let write = open(OpenOptions::new().write(true));
    let hostile: [(&str, BorrowedFd<'_>); 7] = [
        ("regular", reader.as_fd()),
        ("regular", directory.as_fd()),
        ("regular", socket.as_fd()),
        ("regular", device.as_fd()),
        ("reading alone", path.as_fd()),
        ("reading alone", both.as_fd()),
        ("reading alone", write.as_fd()),
    ];
    for (words, file) in hostile {
        refused(ask(&world, give(&digest), Some(file)).0, Code::InvalidArgument, words);
    }
    refused(ask(&world, give(&digest), None).0, Code::InvalidArgument, "missing");
    let nothing = Give { space: String::new(), digest: None };
    let file = open(OpenOptions::new().read(true));
    refused(ask(&world, Request::Give(nothing), Some(file.as_fd())).0, Code::InvalidArgument, "digest");
    // Other bytes than announced, of that size and of another; also where they would be a row.
    for (size, words) in [(MIB, "expected"), (MIB + 1, "bytes"), (MIB - 1, "bytes"), (9, "bytes")] {
        let other = Digest::of(&bytes(4, size));
        refused(ask(&world, give(&other), Some(file.as_fd())).0, Code::InvalidArgument, words);
        assert!(!is_held(&world, &other));
    }
    assert!(!is_held(&world, &digest));
    assert!(matches!(ask(&world, give(&digest), Some(file.as_fd())).0, Reply::Given(_)));

    // What is lent is to be read alone; a small blob is no file.
    let (_, lent) = ask(&world, lend(&digest), None);
    let lent = File::from(lent.unwrap());
    let mut read = vec![0; MIB];
    lent.read_exact_at(&mut read, 0).unwrap();
    assert!(read == content);
    assert!(lent.write_at(b"?", 0).is_err() && lent.set_len(0).is_err());
    std::fs::write(world.path("small"), b"small").unwrap();
    let small = Digest::of(b"small");
    assert!(matches!(
        ask(&world, give(&small), Some(File::open(world.path("small")).unwrap().as_fd())).0,
        Reply::Given(_)
    ));
    refused(ask(&world, lend(&small), None).0, Code::Unimplemented, "ask for its bytes");

    // Silent and gone peers hold nobody up for long; many at once are sent away.
    let idle: Vec<_> =
        (0..40).map(|_| connect_to(&beside(&world.daemon.socket()), Duration::from_secs(60)).unwrap()).collect();
    world.cli(&["put", "file", "--name", "file"]).ok();
    let told = receive::<HandoverReply>(idle.last().unwrap()).unwrap().map(|(reply, _)| reply.reply.unwrap());
    refused(told.unwrap(), Code::Unimplemented, "too many");
    drop(idle);
}

/// Whatever is done to a file while it is taken: what is stored has the digest that was announced, or nothing is stored.
#[test]
fn a_file_that_changes_while_it_is_taken_is_refused_or_taken_whole() {
    let world = World::new();
    let size = 8 * MIB;
    let content = bytes(5, size);
    let stop = AtomicBool::new(false);
    let (mut taken, mut other_size, mut other_bytes) = (0, 0, 0);
    let hostile = OpenOptions::new().write(true).create(true).truncate(true).open(world.path("file")).unwrap();
    hostile.write_all_at(&content, 0).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut n = 0u64;
            while !stop.load(Ordering::Relaxed) {
                n += 1;
                let at = n.wrapping_mul(0x9e37_79b9) % size as u64;
                match n % 4 {
                    0 => hostile.set_len(at).unwrap(),
                    1 => hostile.set_len(size as u64 + at).unwrap(),
                    2 => hostile.write_all_at(b"hostile", at).unwrap(),
                    _ => hostile.write_all_at(&content[at as usize..], at).unwrap(),
                }
                if n.is_multiple_of(64) {
                    hostile.set_len(size as u64).unwrap();
                    hostile.write_all_at(&content, 0).unwrap();
                    std::thread::sleep(Duration::from_millis(n % 30));
                    // As large as before from here on, so that a change is no matter of sizes.
                    hostile.write_all_at(&n.to_be_bytes(), at.min(size as u64 - 8)).unwrap();
                    std::thread::sleep(Duration::from_millis(n % 20));
                }
            }
        });
        let mut rounds = 0;
        let mut each = || {
            rounds += 1;
            // As a client does: what it has read is what it announces.
            let file = File::open(world.path("file")).unwrap();
            let mut found = vec![0; size];
            let read = file.read_at(&mut found, 0).unwrap_or(0);
            let digest = if read == size { Digest::of(&found) } else { Digest::of(&content) };
            match ask(&world, give(&digest), Some(file.as_fd())).0 {
                Reply::Given(_) => {
                    taken += 1;
                    let (_, lent) = ask(&world, lend(&digest), None);
                    let mut stored = Vec::new();
                    std::io::Read::read_to_end(&mut File::from(lent.unwrap()), &mut stored).unwrap();
                    assert_eq!(Digest::of(&stored), digest);
                }
                Reply::Refused(refused) => {
                    assert_eq!(Code::from(refused.code), Code::InvalidArgument, "{}", refused.message);
                    // Of another size before anything was taken; else it was caught in the act.
                    match refused.message.contains("is of a file of") {
                        true => other_size += 1,
                        false => other_bytes += 1,
                    }
                }
                other => panic!("{other:?}"),
            }
            rounds >= 60 && taken > 1 && other_bytes > 1
        };
        // However busy the machine is: until all of it has happened.
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| eventually("both outcomes", &mut each)));
        stop.store(true, Ordering::Relaxed);
        ended.unwrap();
    });
    eprintln!("handover: {taken} taken whole; {other_bytes} changed meanwhile, {other_size} before");
    let staging = world.data().join("blobs/staging").read_dir().unwrap().count();
    assert_eq!(staging, 0, "something is left of what was refused");
}

/// A daemon that takes the question and never answers: a signal ends who waits for it, and leaves nothing.
#[test]
fn a_daemon_that_does_not_answer_holds_nobody_who_is_told_to_stop() {
    let world = World::new();
    std::fs::write(world.path("large"), bytes(8, 2 * MIB)).unwrap();
    world.cli(&["put", "large", "--name", "large"]).ok();
    let path = beside(&world.daemon.socket());
    std::fs::remove_file(&path).unwrap();
    let silent = provender_proto::handover::listen_at(&path).unwrap();
    let args = ["--name", "run", "--key", "test:run", "--out", "out"];
    let script = "cat large large >out";
    for waiting in [world.provender.start(["get", "large", "got"]), world.start(&args, script)] {
        let peer = rustix::net::accept(&silent).unwrap();
        let asked = receive::<HandoverRequest>(&peer).unwrap().unwrap().0;
        waiting.signal(rustix::process::Signal::INT);
        let ended = waiting.wait();
        assert_eq!(ended.status.code(), Some(130), "{asked:?}: {}", ended.err());
        // Whoever asked has let go of it.
        assert!(receive::<HandoverRequest>(&peer).unwrap().is_none());
    }
    let mut left: Vec<_> = world.path("").read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    // What the command made is as it left it.
    assert_eq!(left, ["large", "out"]);
    assert_eq!(world.verdict("test:run"), "FAILED");
}

#[test]
fn another_users_file_is_not_taken_by_descriptor() {
    let world = World::with("socket_group = \"nogroup\"\n", &METRICS);
    std::fs::write(world.path("large"), bytes(6, MIB)).unwrap();
    // Were it reachable: it is closed to others by its mode as well.
    let socket = beside(&world.daemon.socket());
    assert_eq!(socket.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o666)).unwrap();
    crate::security::as_other(&world, "--groups=65534").run(["put", "large", "--name", "large"]).ok();
    assert_eq!((calls(&world, "Give", "Ok"), calls(&world, "Upload", "Ok")), (0, 1));
}

#[test]
fn what_is_damaged_is_not_lent() {
    let world = World::new();
    let content = bytes(7, 2 * MIB);
    std::fs::write(world.path("large"), &content).unwrap();
    world.cli(&["put", "large", "--name", "large"]).ok();
    let digest = Digest::of(&content);
    let mut files = vec![world.data().join("blobs/objects")];
    while files.last().unwrap().is_dir() {
        let entries = files.pop().unwrap().read_dir().unwrap();
        files.extend(entries.map(|entry| entry.unwrap().path()));
    }
    let file = files.pop().unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    OpenOptions::new().write(true).open(&file).unwrap().write_all_at(b"\xff\xff", 77).unwrap();
    refused(ask(&world, lend(&digest), None).0, Code::DataLoss, "");
    world.cli(&["get", "large", "got"]).code(1);
    assert!(!world.path("got").exists());
}
