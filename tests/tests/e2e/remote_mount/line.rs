//! A network of its own, with one line to the daemon that can be cut.

use std::io;
use std::net::{Shutdown, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

/// A network namespace and a pair of interfaces, one end in it; gone with the value.
pub(super) struct Line {
    name: String,
    net: String,
    port: u16,
}

fn ip(words: &str) -> bool {
    let run = Command::new("ip").args(words.split(' ')).output();
    run.is_ok_and(|run| run.status.success())
}

impl Line {
    /// A line to this socket; `None` where one may not make networks.
    pub(super) fn new(socket: &Path) -> Option<Line> {
        let id = std::process::id() % 50_000;
        let name = format!("pv{id}");
        let net = format!("10.{}.{}", 200 + id / 250 % 50, id % 250);
        let line = Line { name: name.clone(), net: net.clone(), port: 0 };
        let steps = [
            format!("netns add {name}"),
            format!("link add {name}h type veth peer name {name}n netns {name}"),
            format!("addr add {net}.1/24 dev {name}h"),
            format!("link set {name}h up"),
            format!("-n {name} addr add {net}.2/24 dev {name}n"),
            format!("-n {name} link set {name}n up"),
        ];
        if !steps.iter().all(|step| ip(step)) {
            eprintln!("no network can be made here: this is not tested");
            return None;
        }
        let listener = TcpListener::bind((format!("{net}.1"), 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let socket = socket.to_path_buf();
        thread::spawn(move || forward(&listener, &socket));
        let mut line = line;
        line.port = port;
        Some(line)
    }

    /// For `nsenter`.
    pub(super) fn namespace(&self) -> String {
        format!("--net=/run/netns/{}", self.name)
    }

    /// The daemon, from there.
    pub(super) fn remote(&self) -> String {
        format!("http://{}.1:{}", self.net, self.port)
    }

    /// `up` or `down`.
    pub(super) fn set(&self, state: &str) {
        assert!(ip(&format!("link set {}h {state}", self.name)));
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        ip(&format!("link delete {}h", self.name));
        ip(&format!("netns delete {}", self.name));
    }
}

/// Carries bytes to the daemon's socket and back, for as long as the test lives.
fn forward(listener: &TcpListener, socket: &PathBuf) {
    for tcp in listener.incoming().flatten() {
        let Ok(unix) = UnixStream::connect(socket) else { continue };
        let (mut tcp_in, mut unix_in) = (tcp.try_clone().unwrap(), unix.try_clone().unwrap());
        let (mut tcp, mut unix) = (tcp, unix);
        thread::spawn(move || {
            _ = io::copy(&mut tcp_in, &mut unix);
            _ = unix.shutdown(Shutdown::Both);
        });
        thread::spawn(move || {
            _ = io::copy(&mut unix_in, &mut tcp);
            _ = tcp.shutdown(Shutdown::Both);
        });
    }
}
