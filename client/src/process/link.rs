//! The link between us and the inner guard: a socket pair that is the guards' standard input.
//!
//! Towards the guard go, first, the command's standard input as a descriptor, then one byte for each signal; the end of
//! the stream means "kill everything". Back comes one report, ended by the end of the stream, which also says that no
//! guard is left. Invariant: neither end is passed on to any other process.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use super::system;

/// Added to a signal's number: the whole process group got it from the terminal, so it is not to be forwarded.
pub(super) const FROM_TERMINAL: u8 = 0x80;

pub(super) fn send_descriptor(link: impl AsFd, descriptor: BorrowedFd<'_>) -> io::Result<()> {
    let descriptors = [descriptor];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(link, &[IoSlice::new(&[0])], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Waits for the descriptor; `None` if the sender is gone without having sent one.
pub(super) fn receive_descriptor(link: impl AsFd) -> io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    rustix::io::retry_on_intr(|| {
        recvmsg(&link, &mut [IoSliceMut::new(&mut byte)], &mut control, system::RECEIVE).map(|_| ())
    })?;
    Ok(control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    }))
}
