//! When there is no daemon, or none that can be reached: clear words and the right exit code.

use provender_tests::daemon::Daemon;
use provender_tests::provender::Provender;

use crate::world::{World, folder};

#[test]
fn without_a_daemon_it_says_so() {
    let folder = folder();
    let nobody = format!("unix:{}", folder.path().join("nobody.sock").display());
    let provender = Provender::new(&folder.path().join("h"), folder.path(), &nobody);
    let run = ["run", "--name", "n", "--", "sh", "-c", "echo ran; exit 7"];
    for args in [&run[..], &["status", "a:b"], &["ls"], &["put", "."], &["get", "n"], &["show", "n"], &["logs", "n"]] {
        let ran = provender.run(args).code(125).says(&["cannot reach provenderd", "nobody.sock", "--remote"]);
        assert_eq!(ran.out(), "");
    }
    // No configuration at all: it says where it looked. (A machine that has a daemon of its own finds that one.)
    if !std::path::Path::new("/var/lib/provender/provender.sock").exists() {
        let looked = provender.without("PROVENDER_REMOTE").run(["ls"]);
        looked.code(125).says(&["no daemon was found", "provender.sock", "--remote"]);
        provender.env("PROVENDER_REMOTE", "").run(["ls"]).code(125).says(&["no daemon was found"]);
    }
    let best = ["run", "--best-effort", "--name", "n", "--", "sh", "-c", "echo ran; exit 7"];
    assert_eq!(provender.run(best).code(7).says(&["cannot reach"]).out(), "ran\n");
}

#[test]
fn wrong_addresses_are_told_from_dead_ones() {
    let folder = folder();
    let provender = Provender::new(&folder.path().join("h"), folder.path(), "");
    let ls = |remote: &str| provender.run(["--remote", remote, "ls"]);
    for remote in ["here", "ftp://host", "unix:", "http://", "http://no such host"] {
        ls(remote).code(2).says(&[remote, "unix:PATH"]);
    }
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    ls(&format!("http://{free}")).code(125).says(&["cannot reach", &free.to_string()]);
    // Somebody else's socket: an answer, but not ours.
    let path = folder.path().join("mute.sock");
    let mute = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let talker = std::thread::spawn(move || {
        use std::io::Write;
        let (mut peer, _) = mute.accept().unwrap();
        let _ = peer.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    });
    ls(&format!("unix:{}", path.display())).code(125).says(&["mute.sock"]);
    talker.join().unwrap();
}

#[test]
fn a_socket_path_that_is_too_long_is_named() {
    let folder = folder();
    let long = folder.path().join("x".repeat(100));
    let provender = Provender::new(&folder.path().join("h"), folder.path(), &format!("unix:{}/s", long.display()));
    provender.run(["ls"]).code(125).says(&["107", "bytes"]);
    Daemon::refused(&long, &[]).code(1).says(&["107", "--data"]);
}

#[test]
fn usage_is_2_and_no_is_1() {
    let world = World::new();
    world.cli(&["no-such-command"]).code(2);
    world.cli(&["show"]).code(2);
    world.cli(&["show", "exec:12"]).code(2).says(&["32 hexadecimal digits"]);
    world.cli(&["history", "blob:12"]).code(2);
    for args in [
        &["show", "nothing"][..],
        &["get", "nothing"],
        &["cat", "nothing", "a"],
        &["logs", "nothing"],
        &["history", "nothing"],
    ] {
        world.cli(args).code(1).says(&["nothing"]);
    }
    let status = world.cli(&["status", "a:b", "nothing"]).code(1);
    assert_eq!(status.out().matches("UNKNOWN").count(), 2, "{}", status.out());
    let absent = format!("blob:{}", "0".repeat(64));
    world.cli(&["show", &absent]).code(1);
}
