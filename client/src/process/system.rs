//! What the operating systems do differently: the only place that asks which one this is.
//!
//! Off Linux there are no subreapers: a descendant whose parent has ended escapes the guard there.

#[cfg(target_os = "linux")]
mod imp {
    use std::path::PathBuf;

    use rustix::net::RecvFlags;
    use rustix::process::{Pid, Signal};

    /// Received descriptors are not passed on to children.
    pub(in crate::process) const RECEIVE: RecvFlags = RecvFlags::CMSG_CLOEXEC;

    /// This binary, also when another was put in its place meanwhile.
    pub(in crate::process) fn own_binary() -> PathBuf {
        "/proc/self/exe".into()
    }

    /// From now on descendants whose parents end become our own children.
    pub(in crate::process) fn become_reaper() -> std::io::Result<()> {
        Ok(rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?)
    }

    /// From now on the end of our parent sends us `signal`; this survives `exec`.
    pub(in crate::process) fn on_parent_death(signal: Signal) -> std::io::Result<()> {
        Ok(rustix::process::set_parent_process_death_signal(Some(signal))?)
    }

    /// All our children. Their pids stay theirs until we reap them.
    pub(in crate::process) fn children() -> Vec<Pid> {
        let me = std::process::id();
        let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
        let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
        pids.filter(|pid| parent_of(*pid) == Some(me)).filter_map(Pid::from_raw).collect()
    }

    fn parent_of(pid: i32) -> Option<u32> {
        let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
        // The name before it may hold anything, parentheses too.
        let rest = &stat[stat.iter().rposition(|&byte| byte == b')')? + 1..];
        std::str::from_utf8(rest).ok()?.split_ascii_whitespace().nth(1)?.parse().ok()
    }

    /// Whether `signal` was being ignored when this process began, as `nohup` makes it.
    pub(in crate::process) fn is_ignored(signal: i32) -> bool {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
        mask >> (signal - 1) & 1 == 1
    }
}

#[cfg(not(target_os = "linux"))]
mod imp {
    use std::path::PathBuf;

    use rustix::net::RecvFlags;
    use rustix::process::{Pid, Signal};

    pub(in crate::process) const RECEIVE: RecvFlags = RecvFlags::empty();

    pub(in crate::process) fn own_binary() -> PathBuf {
        std::env::current_exe().unwrap_or_default()
    }

    pub(in crate::process) fn become_reaper() -> std::io::Result<()> {
        Ok(())
    }

    pub(in crate::process) fn on_parent_death(_: Signal) -> std::io::Result<()> {
        Ok(())
    }

    pub(in crate::process) fn children() -> Vec<Pid> {
        Vec::new()
    }

    pub(in crate::process) fn is_ignored(_: i32) -> bool {
        false
    }
}

pub(super) use imp::{RECEIVE, become_reaper, children, is_ignored, on_parent_death, own_binary};
