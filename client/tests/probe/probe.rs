//! A tiny `provender run` for tests: `process-probe [--quiet] REPORT COMMAND…` runs the command and writes to the file
//! REPORT what came of it, as one line of text.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use provender_client::process::{self, Command, Control, GUARD_ARG, Signals};

fn main() -> ExitCode {
    let mut args: Vec<OsString> = std::env::args_os().skip(1).collect();
    if args.first().is_some_and(|arg| arg == GUARD_ARG) {
        return process::guard_main(args.into_iter().skip(1));
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
    ExitCode::from(code as u8)
}
