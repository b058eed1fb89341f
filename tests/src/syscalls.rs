//! A program's file system calls before they are carried out: each passes a judge who lets it through, leaves it out, or makes it
//! the moment at which the program is killed.
//!
//! The kernel does it (seccomp's user notification, seccomp_unotify(2)), so it holds for every thread and every library, also for those that call
//! the kernel by themselves. Only calls that change a file system are judged. Invariant: a call that nobody judges goes through.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Arc, LazyLock, Mutex, mpsc};

use libseccomp::{
    ScmpAction, ScmpArgCompare, ScmpCompareOp, ScmpFd, ScmpFilterContext, ScmpNotifReq, ScmpNotifResp,
    ScmpNotifRespFlags, ScmpSyscall,
};
use rustix::process::{Pid, Signal, kill_process};

/// A call that is about to change a file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// What is called.
    pub name: &'static str,
    /// The file that it changes; where a file gets another name, the new one.
    pub path: PathBuf,
}

impl Call {
    /// Whether it makes what was written durable.
    pub fn is_sync(&self) -> bool {
        SYNCS.contains(&self.name)
    }
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sentence {
    /// It is carried out.
    Pass,
    /// It is not, and the program is told that it was.
    LeaveOut,
    /// It is not, since the program is killed.
    Die,
}

/// Who decides; asked one call at a time.
pub type Judge = Arc<dyn Fn(&Call) -> Sentence + Send + Sync>;

/// Holds what a program does before its judge; once this is dropped, everything goes through.
#[derive(Debug)]
pub struct Trial {
    pid: u32,
}

/// The one thread whose calls, and those of all that it starts, are told of, and who judges which of them. The library can do that once in
/// a process.
struct Court {
    starting: mpsc::Sender<(Command, Judge, mpsc::Sender<io::Result<Child>>)>,
    judges: Arc<Mutex<BTreeMap<u32, Judge>>>,
}

/// Where a call's arguments say which file it is about.
#[derive(Debug, Clone, Copy)]
enum About {
    Descriptor(usize),
    Name(usize),
    /// A name below an open folder.
    Below(usize, usize),
}

const SYNCS: [&str; 3] = ["fsync", "fdatasync", "syncfs"];

const CALLS: [(&str, About); 28] = [
    ("fsync", About::Descriptor(0)),
    ("fdatasync", About::Descriptor(0)),
    ("sync_file_range", About::Descriptor(0)),
    ("syncfs", About::Descriptor(0)),
    ("write", About::Descriptor(0)),
    ("writev", About::Descriptor(0)),
    ("pwrite64", About::Descriptor(0)),
    ("pwritev", About::Descriptor(0)),
    ("pwritev2", About::Descriptor(0)),
    ("copy_file_range", About::Descriptor(2)),
    ("sendfile", About::Descriptor(0)),
    ("ioctl", About::Descriptor(0)),
    ("ftruncate", About::Descriptor(0)),
    ("fallocate", About::Descriptor(0)),
    ("fchmod", About::Descriptor(0)),
    ("open", About::Name(0)),
    ("openat", About::Below(0, 1)),
    ("mkdir", About::Name(0)),
    ("mkdirat", About::Below(0, 1)),
    ("rename", About::Name(1)),
    ("renameat", About::Below(2, 3)),
    ("renameat2", About::Below(2, 3)),
    ("link", About::Name(1)),
    ("linkat", About::Below(2, 3)),
    ("unlink", About::Name(0)),
    ("unlinkat", About::Below(0, 1)),
    ("rmdir", About::Name(0)),
    ("chmod", About::Name(0)),
];

/// `FICLONE`, of linux/fs.h: the one ioctl here that writes.
const CLONE: u64 = 0x4004_9409;
/// `O_CREAT`.
const CREATE: u64 = 0o100;

static COURT: LazyLock<Court> = LazyLock::new(|| {
    let (tell, told) = mpsc::channel();
    let (starting, to_start) = mpsc::channel::<(Command, Judge, mpsc::Sender<io::Result<Child>>)>();
    let judges = Arc::new(Mutex::new(BTreeMap::<u32, Judge>::new()));
    let (naming, asked) = (judges.clone(), judges.clone());
    std::thread::spawn(move || {
        tell.send(filter()).ok();
        for (mut command, judge, to) in to_start {
            // Nothing that it does is judged before its judge is named.
            let mut judges = naming.lock().expect("nobody panics with it");
            let child = command.spawn();
            judges.extend(child.iter().map(|child| (child.id(), judge.clone())));
            to.send(child).ok();
        }
    });
    let notices = told.recv().expect("a filter");
    std::thread::spawn(move || {
        while let Some(request) = next(notices) {
            // Who died meanwhile needs no answer.
            let _ = answer(&request, &asked).respond(notices);
        }
    });
    Court { starting, judges }
});

/// Starts a program under a judge, who judges also what the program starts. It ends with this process at the latest.
pub fn spawn(command: Command, judge: Judge) -> io::Result<(Child, Trial)> {
    let (to, started) = mpsc::channel();
    COURT.starting.send((command, judge, to)).expect("the court sits");
    let child = started.recv().expect("the court sits")?;
    let trial = Trial { pid: child.id() };
    Ok((child, trial))
}

impl Drop for Trial {
    fn drop(&mut self) {
        COURT.judges.lock().expect("nobody panics with it").remove(&self.pid);
    }
}

/// Has the calling thread's calls told of to the descriptor that this returns.
fn filter() -> ScmpFd {
    let load = || {
        let mut filter = ScmpFilterContext::new(ScmpAction::Allow)?;
        for (name, _) in CALLS {
            let call = ScmpSyscall::from_name(name)?;
            let equal = |arg, mask, value| [ScmpArgCompare::new(arg, ScmpCompareOp::MaskedEqual(mask), value)];
            let only: &[_] = match name {
                "ioctl" => &equal(1, u64::MAX, CLONE),
                "open" => &equal(1, CREATE, CREATE),
                "openat" => &equal(2, CREATE, CREATE),
                _ => &[],
            };
            filter.add_rule_conditional(ScmpAction::Notify, call, only)?;
        }
        filter.load()?;
        filter.get_notify_fd()
    };
    load().unwrap_or_else(|error| panic!("the kernel does not let calls be judged: {error}"))
}

/// The next call; `None` once there is nobody left to make one.
fn next(notices: ScmpFd) -> Option<ScmpNotifReq> {
    // Who asked may have died meanwhile.
    std::iter::repeat_with(|| ScmpNotifReq::receive(notices)).take(1_000).find_map(Result::ok)
}

fn answer(request: &ScmpNotifReq, judges: &Mutex<BTreeMap<u32, Judge>>) -> ScmpNotifResp {
    let none = ScmpNotifRespFlags::empty();
    let judge = judge(request.pid, &judges.lock().expect("nobody panics with it"));
    let sentence = judge.and_then(|judge| Some(judge(&call(request)?))).unwrap_or(Sentence::Pass);
    match sentence {
        Sentence::Pass => ScmpNotifResp::new_continue(request.id, none),
        Sentence::LeaveOut => ScmpNotifResp::new_val(request.id, 0, none),
        Sentence::Die => {
            // The id is a thread's; the kernel kills all of its process.
            let thread = i32::try_from(request.pid).ok().and_then(Pid::from_raw);
            thread.map(|thread| kill_process(thread, Signal::KILL));
            ScmpNotifResp::new_error(request.id, -rustix::io::Errno::INTR.raw_os_error(), none)
        }
    }
}

/// The judge of a thread: that of its process, or of what that was started by.
fn judge(thread: u32, judges: &BTreeMap<u32, Judge>) -> Option<Judge> {
    let mut id = thread;
    while id > 1 {
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
        let field = |name| status.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        if let Some(judge) = judges.get(&field("Tgid:")?) {
            return Some(judge.clone());
        }
        id = field("PPid:")?;
    }
    None
}

/// What is called, and of what; `None` if it is about no file, or by somebody who has gone.
fn call(request: &ScmpNotifReq) -> Option<Call> {
    let (name, about) =
        *CALLS.iter().find(|(name, _)| ScmpSyscall::from_name(name).ok() == Some(request.data.syscall))?;
    let args = request.data.args;
    let proc = PathBuf::from(format!("/proc/{}", request.pid));
    let open = |arg: u64| match arg as u32 as i32 {
        // AT_FDCWD
        -100 => proc.join("cwd"),
        descriptor => proc.join(format!("fd/{descriptor}")),
    };
    let path = match about {
        About::Descriptor(arg) => std::fs::read_link(open(args[arg])).ok()?,
        About::Name(arg) => text(&proc, args[arg]).ok()?,
        About::Below(folder, arg) => std::fs::read_link(open(args[folder])).ok()?.join(text(&proc, args[arg]).ok()?),
    };
    path.is_absolute().then_some(Call { name, path })
}

/// A path in a process's memory.
fn text(proc: &Path, at: u64) -> io::Result<PathBuf> {
    let memory = std::fs::File::open(proc.join("mem"))?;
    let mut bytes = [0; 4096];
    let read = memory.read_at(&mut bytes, at)?;
    let end = bytes[..read].iter().position(|byte| *byte == 0).ok_or(io::ErrorKind::InvalidData)?;
    Ok(OsStr::from_bytes(&bytes[..end]).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::child::command;

    fn sh(script: &str, judge: impl Fn(&Call) -> Sentence + Send + Sync + 'static) -> std::process::ExitStatus {
        let mut command = command("sh");
        command.args(["-c", script]);
        let (mut child, _trial) = spawn(command, Arc::new(judge)).unwrap();
        child.wait().unwrap()
    }

    #[test]
    fn calls_are_seen_left_out_and_died_of() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        let script = format!("cd {}; echo 1 >one; mv one two; sync two; rm two", dir.path().display());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (saw, below) = (seen.clone(), dir.path().to_owned());
        let see = move |call: &Call| {
            if call.path.starts_with(&below) {
                saw.lock().unwrap().push((call.name, call.path.file_name().unwrap().to_owned()));
            }
            Sentence::Pass
        };
        assert!(sh(&script, see).success());
        let names: Vec<_> =
            seen.lock().unwrap().iter().map(|(name, path)| format!("{name} {}", path.display())).collect();
        assert_eq!(names, ["openat one", "write one", "renameat2 two", "fsync two", "unlinkat two"]);

        let leave = |call: &Call| if call.name == "unlinkat" { Sentence::LeaveOut } else { Sentence::Pass };
        assert!(sh(&script, leave).success());
        assert!(two.exists() && !one.exists());

        let die = |call: &Call| if call.name == "renameat2" { Sentence::Die } else { Sentence::Pass };
        sh(&format!("exec 2>&-; {script}"), die);
        assert!(one.exists() && !two.exists(), "of those that sh starts the one that renames has died, and no other");
    }
}
