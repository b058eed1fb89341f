//! A tiny `provender run` for tests: `process-probe [--quiet] REPORT COMMAND…` runs the command and writes to the file
//! REPORT what came of it, as one line of text. As `process-probe --count` it is such a command: it writes its pid to
//! `main` and a line to `got` for every single SIGINT, SIGTERM or SIGHUP, where a shell's trap may take two for one.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;

use provender_client::process::{self, Command, Control, GUARD_ARG, Signals};

fn main() -> ExitCode {
    let mut args: Vec<OsString> = std::env::args_os().skip(1).collect();
    if args.first().is_some_and(|arg| arg == GUARD_ARG) {
        return process::guard_main(args.into_iter().skip(1));
    }
    if args.first().is_some_and(|arg| arg == "--count") {
        count();
    }
    let quiet = args.first().is_some_and(|arg| arg == "--quiet");
    if quiet {
        args.remove(0);
    }
    let report = PathBuf::from(args.remove(0));
    let control = Control::new();
    let told = control.clone();
    let signals = Signals::catch(move |received| told.signal(received)).expect("catch signals");
    let command = Command { quiet, ..Command::new(args, ".".into()) };
    let result = process::run(&command, &control);
    drop(signals);
    let (text, code) = match &result {
        Ok(done) => (format!("{:?} interrupted={:?}", done.exit, done.interrupted), done.exit.shell_code()),
        Err(error) => (format!("{error:?}"), 125),
    };
    std::fs::write(report, text).expect("write the report");
    ExitCode::from(code)
}

fn count() -> ! {
    let (mut bell, ringer) = UnixStream::pair().expect("make a socket");
    for signal in [1, 2, 15] {
        let ringer = ringer.try_clone().expect("share the socket");
        signal_hook::low_level::pipe::register(signal, ringer).expect("catch a signal");
    }
    std::fs::write("main", format!("{}\n", std::process::id())).expect("tell the pid");
    let mut got = std::fs::File::create("got").expect("make the list");
    loop {
        bell.read_exact(&mut [0]).expect("wait for a signal");
        got.write_all(b"got\n").expect("write the list");
    }
}
