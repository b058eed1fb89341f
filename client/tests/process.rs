//! Real commands under the guard, in this process and in one that is killed.

// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::ffi::OsString;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use provender_client::process::{Command, Control, Exit, Finished, Log, MAX_LOG, ProcessError, Received, run};

const PROBE: &str = env!("CARGO_BIN_EXE_process-probe");

fn command(argv: &[&str]) -> Command {
    let argv = argv.iter().map(OsString::from).collect();
    Command { guard: PROBE.into(), quiet: true, ..Command::new(argv, "/".into()) }
}

fn sh(script: &str) -> Command {
    command(&["sh", "-c", script])
}

fn finish(command: &Command) -> Finished {
    run(command, &Control::new()).unwrap()
}

fn text(log: &Log) -> String {
    let mut text = String::new();
    log.reader().read_to_string(&mut text).unwrap();
    text
}

/// Waits for something that is sure to come; the bound only ends a broken test.
fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A file once its first line is complete.
fn line_in(path: &Path) -> String {
    wait_for("a line", || fs::read_to_string(path).ok().filter(|text| text.ends_with('\n'))).trim().to_owned()
}

/// Whether a process runs; one that only waits to be reaped does not.
fn lives(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

fn dies(pid: &str) {
    wait_for("a death", || (!lives(pid)).then_some(()));
}

fn signal(name: &str, pid: &str) {
    assert!(std::process::Command::new("kill").args([&format!("-{name}"), "--", pid]).status().unwrap().success());
}

fn parent_of(pid: &str) -> String {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().nth(1).unwrap().to_owned()
}

/// The probe as `provender`, in a process group of its own, with its report and working folder.
struct Probe {
    child: Child,
    home: tempfile::TempDir,
}

impl Probe {
    fn start(script: &str) -> Probe {
        Probe::start_command(&["sh", "-c", script])
    }

    fn start_command(argv: &[&str]) -> Probe {
        use std::os::unix::process::CommandExt;
        let home = tempfile::tempdir().unwrap();
        let mut probe = std::process::Command::new(PROBE);
        probe.args(["--quiet", "report"]).args(argv).current_dir(home.path()).stdin(Stdio::null());
        Probe { child: probe.process_group(0).spawn().unwrap(), home }
    }

    fn pid(&self) -> String {
        self.child.id().to_string()
    }

    fn line(&self, name: &str) -> String {
        line_in(&self.home.path().join(name))
    }

    fn report(mut self) -> String {
        wait_for("the probe's end", || self.child.try_wait().unwrap());
        fs::read_to_string(self.home.path().join("report")).unwrap()
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command of three generations, one of them in a session of its own and forsaken by its parent.
const FAMILY: &str =
    "(setsid sh -c 'echo $$ > far; exec sleep 1000' &) ; sleep 1000 & echo $! > near; echo $$ > main; wait";

#[test]
fn exit_codes_are_passed_on() {
    for code in [0, 1, 42, 125, 126, 127, 255] {
        assert_eq!(finish(&sh(&format!("exit {code}"))).exit, Exit::Code(code));
    }
    let killed = finish(&sh("kill -TERM $$")).exit;
    assert_eq!((killed, killed.shell_code()), (Exit::Signal(15), 143));
    assert_eq!(finish(&sh("kill -KILL $$")).exit, Exit::Signal(9));
}

#[test]
fn what_is_no_command_ends_as_in_a_shell() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("plain"), "no program").unwrap();
    let plain = home.path().join("plain").to_str().unwrap().to_owned();
    let folder = home.path().to_str().unwrap();
    for (program, code) in [("no-such-program-here", 127), ("/no/such", 127), (&*plain, 126), (folder, 126), ("", 127)]
    {
        let done = finish(&command(&[program]));
        assert_eq!(done.exit, Exit::Code(code), "{program:?}");
        assert!(text(&done.stderr).starts_with("provender: "), "{program:?}");
    }
    assert!(matches!(run(&command(&[]), &Control::new()), Err(ProcessError::Empty)));
    let lost = Command { cwd: "/no/such/folder".into(), ..sh("true") };
    assert!(matches!(run(&lost, &Control::new()), Err(ProcessError::Folder { .. })));
    let guardless = Command { guard: "/no/such/guard".into(), ..sh("true") };
    assert!(matches!(run(&guardless, &Control::new()), Err(ProcessError::Start { .. })));
}

#[test]
fn folder_environment_and_arguments_arrive() {
    let home = tempfile::tempdir().unwrap();
    let mut command = command(&["sh", "-c", "pwd -P; echo \"$1|$SET|${HOME-unset}\"", "sh", " a\nb "]);
    command.cwd = home.path().into();
    command.env = vec![("SET".into(), Some("x y".into())), ("HOME".into(), None)];
    let out = text(&finish(&command).stdout);
    assert_eq!(out, format!("{}\n a\nb |x y|unset\n", home.path().canonicalize().unwrap().display()));
}

#[test]
fn streams_are_kept_apart_and_binary() {
    let done = finish(&sh("printf '\\000\\377\\n'; printf err >&2"));
    let mut out = Vec::new();
    done.stdout.reader().read_to_end(&mut out).unwrap();
    assert_eq!(out, b"\0\xff\n");
    assert_eq!(text(&done.stderr), "err");
}

#[test]
fn a_long_log_keeps_its_ends() {
    let done = finish(&sh("echo first; head -c 100000000 /dev/zero; echo; echo last"));
    assert_eq!(done.exit, Exit::Code(0));
    assert!(done.stdout.truncated() && done.stdout.size() <= MAX_LOG);
    let dropped = done.stdout.dropped();
    let log = text(&done.stdout);
    assert!(log.starts_with("first\n\0") && log.ends_with("\0\nlast\n"));
    let mark = format!("\n[provender: {dropped} bytes are missing here]\n");
    assert!(log.contains(&mark));
    assert_eq!(log.len() - mark.len() + dropped as usize, 6 + 100_000_000 + 6);
}

#[test]
fn a_terminal_is_the_commands_and_a_pipe_is_not() {
    let home = tempfile::tempdir().unwrap();
    let mut probe = std::process::Command::new(PROBE);
    probe.args(["report", "sh", "-c", "cat; echo end"]).current_dir(home.path());
    let mut probe = probe.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    // Held open: the command must not wait for what nobody will give it.
    let _keys = probe.stdin.take().unwrap();
    let mut shown = String::new();
    probe.stdout.take().unwrap().read_to_string(&mut shown).unwrap();
    assert_eq!(shown, "end\n");
    assert!(probe.wait().unwrap().success());

    let line = format!("exec {PROBE} --quiet report sh -c 'read line; echo $line >line'");
    let mut script = std::process::Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).current_dir(home.path()).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut script = script.spawn().unwrap();
    let mut keys = script.stdin.take().unwrap();
    keys.write_all(b"typed\n").unwrap();
    keys.flush().unwrap();
    assert_eq!(line_in(&home.path().join("line")), "typed");
    wait_for("the end", || script.try_wait().unwrap());
}

#[test]
fn a_reader_that_leaves_does_not_end_the_command() {
    let home = tempfile::tempdir().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut probe = std::process::Command::new(PROBE);
    probe.args(["report", "sh", "-c", "head -c 1000000 /dev/zero && echo done > done"]).current_dir(home.path());
    assert!(probe.stdout(OwnedFd::from(writer)).status().unwrap().success());
    assert!(home.path().join("done").exists());
}

#[test]
fn leftovers_are_killed_and_hold_nothing_up() {
    let home = tempfile::tempdir().unwrap();
    let script = "(setsid sh -c 'echo $$ > far; exec sleep 1000' &); while ! [ -s far ]; do sleep 0.01; done; echo out";
    let done = finish(&Command { cwd: home.path().into(), ..sh(script) });
    assert_eq!((done.exit, text(&done.stdout), done.left_behind), (Exit::Code(0), "out\n".into(), vec![]));
    assert!(!lives(&line_in(&home.path().join("far"))));
}

#[test]
fn resources_are_those_of_the_whole_tree() {
    let done = finish(&sh(
        "sh -c 'i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done'; head -c 50000000 /dev/zero | tail -c 50000000 | wc -c",
    ));
    assert!(done.user > Duration::from_millis(10), "{:?}", done.user);
    assert!(done.peak_rss > 40_000_000, "{}", done.peak_rss);
    assert!(done.wall > Duration::ZERO);
}

#[test]
fn kill_ends_the_whole_tree_and_comes_before_the_start_too() {
    let home = tempfile::tempdir().unwrap();
    let control = Control::new();
    let command = Command { cwd: home.path().into(), ..sh(FAMILY) };
    let done = std::thread::scope(|scope| {
        let running = scope.spawn(|| run(&command, &control));
        let pids = ["far", "near", "main"].map(|name| line_in(&home.path().join(name)));
        control.kill();
        let done = running.join().unwrap().unwrap();
        assert!(pids.iter().all(|pid| !lives(pid)));
        done
    });
    assert_eq!((done.exit, done.killed), (Exit::Signal(9), true));
    let marker = Command { cwd: home.path().into(), ..sh("echo > started") };
    assert!(matches!(run(&marker, &control), Err(ProcessError::Cancelled)));
    let interrupted = Control::new();
    interrupted.signal(Received { signal: 2, from_terminal: true });
    assert!(matches!(run(&marker, &interrupted), Err(ProcessError::Cancelled)));
    assert!(!home.path().join("started").exists());
}

#[test]
fn when_provender_is_killed_all_of_the_command_dies() {
    let mut probe = Probe::start(FAMILY);
    let pids = ["far", "near", "main"].map(|name| probe.line(name));
    assert!(pids.iter().all(|pid| lives(pid)));
    probe.child.kill().unwrap();
    probe.child.wait().unwrap();
    pids.iter().for_each(|pid| dies(pid));
}

#[test]
fn when_either_guard_is_killed_all_of_the_command_dies() {
    for generations in [1, 2] {
        let probe = Probe::start(FAMILY);
        let pids = ["far", "near", "main"].map(|name| probe.line(name));
        let guard = (0..generations).fold(pids[2].clone(), |pid, _| parent_of(&pid));
        assert_ne!(guard, probe.pid());
        signal("KILL", &guard);
        pids.iter().for_each(|pid| dies(pid));
        let report = probe.report();
        assert!(report.contains(if generations == 1 { "GuardLost" } else { "Signal(9)" }), "{report}");
    }
}

#[test]
fn even_without_any_guard_the_command_itself_dies() {
    let probe = Probe::start("echo $$ > main; exec sleep 1000");
    let main = probe.line("main");
    let inner = parent_of(&main);
    let outer = parent_of(&inner);
    // Stopped, so that it cannot act on the end of the inner one.
    signal("STOP", &outer);
    signal("KILL", &inner);
    dies(&main);
    signal("KILL", &outer);
    assert!(probe.report().contains("GuardLost"));
}

#[test]
fn a_signal_reaches_the_command_once_whoever_it_is_sent_to() {
    for name in ["INT", "TERM", "HUP"] {
        let probe = Probe::start_command(&[PROBE, "--count"]);
        let main = probe.line("main");
        for (round, target) in [probe.pid(), format!("-{}", probe.pid()), probe.pid()].iter().enumerate() {
            signal(name, target);
            let got = probe.home.path().join("got");
            wait_for("the signal", || (fs::read_to_string(&got).unwrap_or_default().len() > 4 * round).then_some(()));
            // A second delivery would follow at once.
            std::thread::sleep(Duration::from_millis(300));
            assert_eq!(fs::read_to_string(&got).unwrap().len(), 4 * (round + 1), "{name} to {target}");
        }
        signal("USR1", &main);
        let report = probe.report();
        assert!(report.starts_with("Signal(10) interrupted=Some("), "{report}");
    }
}

#[test]
fn the_terminals_interrupt_reaches_the_command_once() {
    let home = tempfile::tempdir().unwrap();
    // `script` gives it a terminal of its own; 0x03 typed there is Ctrl-C.
    let line = format!("exec {PROBE} --quiet report {PROBE} --count");
    let mut script = std::process::Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).current_dir(home.path()).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut script = script.spawn().unwrap();
    let main = line_in(&home.path().join("main"));
    let mut keys = script.stdin.take().unwrap();
    keys.write_all(&[3]).unwrap();
    keys.flush().unwrap();
    wait_for("the signal", || fs::read(home.path().join("got")).ok().filter(|got| !got.is_empty()));
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(fs::read_to_string(home.path().join("got")).unwrap(), "got\n");
    signal("USR1", &main);
    wait_for("the end", || script.try_wait().unwrap());
    assert_eq!(fs::read_to_string(home.path().join("report")).unwrap(), "Signal(10) interrupted=Some(2)");
}

#[test]
fn what_nohup_ignores_stays_ignored() {
    let home = tempfile::tempdir().unwrap();
    let script = format!("trap '' HUP; exec {PROBE} --quiet report sh -c 'kill -HUP $$; echo alive > alive'");
    let status = std::process::Command::new("sh").args(["-c", &script]).current_dir(home.path()).status().unwrap();
    assert!(status.success() && home.path().join("alive").exists());
}

#[test]
fn a_stalled_reader_does_not_hold_up_an_interrupted_command() {
    let home = tempfile::tempdir().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    let mut probe = std::process::Command::new(PROBE);
    probe.args(["report", "sh", "-c", "echo $$ > main; exec head -c 10000000 /dev/zero"]).current_dir(home.path());
    let mut probe = probe.stdout(OwnedFd::from(writer)).spawn().unwrap();
    line_in(&home.path().join("main"));
    signal("INT", &probe.id().to_string());
    wait_for("the probe's end", || probe.try_wait().unwrap());
    drop(reader);
    assert_eq!(fs::read_to_string(home.path().join("report")).unwrap(), "Signal(2) interrupted=Some(2)");
}
