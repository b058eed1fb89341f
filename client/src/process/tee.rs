//! The tee: one stream of the command, shown as it comes and kept.
//!
//! Invariant: it ends when the guard has, even if somebody holds the pipe open or nobody reads what we show; what was in
//! the pipe by then is kept. A reader that has gone away ends the showing alone.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::control::Control;
use super::log::{Log, Spool};

const BUFFER: usize = 64 << 10;
/// A pipe that poll calls writable has room for so much, POSIX's `PIPE_BUF` on Linux: writing it cannot block.
const SHOW: usize = 4096;
/// How long nothing but a slow reader is waited for at a time.
const LOOK_UP: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

pub(super) struct Tee<'a> {
    pub(super) from: OwnedFd,
    /// Where it is shown, if at all.
    pub(super) to: Option<BorrowedFd<'a>>,
    pub(super) spool: Spool,
    /// Readable, by its end, once no guard is left.
    pub(super) stop: BorrowedFd<'a>,
    pub(super) control: &'a Control,
}

impl Tee<'_> {
    pub(super) fn run(mut self) -> io::Result<Log> {
        rustix::io::ioctl_fionbio(&self.from, true)?;
        let mut buffer = vec![0; BUFFER];
        let mut stopped = false;
        loop {
            match rustix::io::read(&self.from, &mut buffer[..]) {
                Ok(0) => break,
                Ok(count) => {
                    self.spool.append(&buffer[..count]);
                    self.show(&buffer[..count]);
                }
                Err(Errno::AGAIN) if stopped => break,
                Err(Errno::AGAIN) => stopped = self.wait_to_read()?,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(self.spool.finish())
    }

    /// Waits for more; `true` if no guard is left, so that only what is in the pipe now can come.
    fn wait_to_read(&self) -> io::Result<bool> {
        let mut fds = [PollFd::new(&self.from, PollFlags::IN), PollFd::new(&self.stop, PollFlags::IN)];
        rustix::io::retry_on_intr(|| poll(&mut fds, None))?;
        Ok(!fds[1].revents().is_empty())
    }

    fn show(&mut self, mut bytes: &[u8]) {
        while let Some(to) = self.to
            && !bytes.is_empty()
        {
            if !self.wait_to_show(to) {
                self.to = None;
                return;
            }
            match rustix::io::write(to, &bytes[..bytes.len().min(SHOW)]) {
                Ok(count) => bytes = &bytes[count..],
                Err(Errno::INTR | Errno::AGAIN) => {}
                // The reader is gone, say `| head`.
                Err(_) => self.to = None,
            }
        }
    }

    /// Waits until something can be shown; `false` if nobody is worth waiting for: the command is over and was stopped,
    /// but the reader (say, a pager) is not taking what is left.
    fn wait_to_show(&self, to: BorrowedFd<'_>) -> bool {
        let mut stopped = false;
        loop {
            let mut fds = [PollFd::from_borrowed_fd(to, PollFlags::OUT), PollFd::new(&self.stop, PollFlags::IN)];
            // The stop stays readable, so from then on it would make us spin.
            let (fds, timeout) = if stopped { (&mut fds[..1], Some(&LOOK_UP)) } else { (&mut fds[..], None) };
            match poll(fds, timeout) {
                Ok(_) if !fds[0].revents().is_empty() => return true,
                Ok(_) => stopped = true,
                Err(Errno::INTR) => {}
                Err(_) => return true,
            }
            if stopped && (self.control.interrupted().is_some() || self.control.killed()) {
                return false;
            }
        }
    }
}
