//! Packets with a file's descriptor beside them: the side socket on which processes of one machine hand over files.
//!
//! Owns how a message and a descriptor travel; what is said is in `handover.proto`. Invariants: a packet has one message of at most
//! [`MAX_PACKET`] bytes and at most one descriptor; what else a peer sends is an error, and descriptors that it sent are closed. All calls
//! block, up to the timeouts of the socket.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use prost::Message;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, recvmsg, sendmsg,
    socket_with,
};

/// The largest message, in bytes.
pub const MAX_PACKET: usize = 16 << 10;
/// How many connections wait to be accepted.
const BACKLOG: i32 = 64;

/// Where the side socket of the daemon stands whose socket is at `path`.
pub fn beside(path: &Path) -> PathBuf {
    path.with_file_name("handover.sock")
}

/// Listens at a path, where nothing may stand.
pub fn listen_at(path: &Path) -> io::Result<OwnedFd> {
    let socket = socket()?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Connects to a daemon's side socket; no single answer may take longer than `patience`.
pub fn connect_to(path: &Path, patience: Duration) -> io::Result<OwnedFd> {
    let socket = socket()?;
    limit(&socket, patience)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// Bounds how long a call on this socket may take.
pub fn limit(socket: impl AsFd, patience: Duration) -> io::Result<()> {
    set_socket_timeout(&socket, Timeout::Recv, Some(patience))?;
    Ok(set_socket_timeout(&socket, Timeout::Send, Some(patience))?)
}

fn socket() -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Sends a message, and a descriptor with it.
pub fn send(socket: impl AsFd, message: &impl Message, file: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let bytes = message.encode_to_vec();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    let files = file.map(|file| [file]);
    if let Some(files) = &files {
        beside.push(SendAncillaryMessage::ScmRights(files));
    }
    // A peer that has gone is an error, not a signal.
    let sent =
        rustix::io::retry_on_intr(|| sendmsg(&socket, &[IoSlice::new(&bytes)], &mut beside, SendFlags::NOSIGNAL))?;
    match sent == bytes.len() {
        true => Ok(()),
        false => Err(io::ErrorKind::WriteZero.into()),
    }
}

/// The next message and its descriptor; `None` if the peer has gone.
pub fn receive<M: Message + Default>(socket: impl AsFd) -> io::Result<Option<(M, Option<OwnedFd>)>> {
    let wrong = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
    let mut bytes = vec![0; MAX_PACKET];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        recvmsg(&socket, &mut [IoSliceMut::new(&mut bytes)], &mut beside, RecvFlags::CMSG_CLOEXEC)
    })?;
    let mut files = Vec::new();
    for message in beside.drain() {
        match message {
            RecvAncillaryMessage::ScmRights(rights) => files.extend(rights),
            _ => return Err(wrong("something else than a descriptor came with a message")),
        }
    }
    // Descriptors that found no room here were closed by the kernel.
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(wrong("a message is too long, or has several descriptors"));
    }
    if received.bytes == 0 && files.is_empty() {
        return Ok(None);
    }
    let file = files.pop();
    if !files.is_empty() {
        return Err(wrong("a message has several descriptors"));
    }
    let message = M::decode(&bytes[..received.bytes]).map_err(|error| wrong(&error.to_string()))?;
    Ok(Some((message, file)))
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use rustix::net::socketpair;

    use super::*;
    use crate::v1::{DownloadReply, HandoverReply};

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
    }

    #[test]
    fn a_message_and_its_descriptor_come_over_and_nothing_else_does() {
        let (one, two) = pair();
        let told = HandoverReply { reply: Some(crate::v1::handover_reply::Reply::Lent(Default::default())) };
        let file = File::open("/proc/self/exe").unwrap();
        send(&one, &told, Some(file.as_fd())).unwrap();
        send(&one, &told, None).unwrap();
        let (heard, came) = receive::<HandoverReply>(&two).unwrap().unwrap();
        let (came, sent) = (File::from(came.unwrap()), file.metadata().unwrap());
        use std::os::unix::fs::MetadataExt;
        assert_eq!((heard, came.metadata().unwrap().ino()), (told.clone(), sent.ino()));
        assert_eq!(
            receive::<HandoverReply>(&two).unwrap().map(|(heard, file)| (heard, file.is_none())),
            Some((told, true))
        );

        let large = DownloadReply { data: vec![1; MAX_PACKET].into() };
        send(&one, &large, None).unwrap();
        assert_eq!(receive::<DownloadReply>(&two).unwrap_err().kind(), io::ErrorKind::InvalidData);

        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        let files = [file.as_fd(); 3];
        assert!(beside.push(SendAncillaryMessage::ScmRights(&files)));
        sendmsg(&one, &[IoSlice::new(b"?")], &mut beside, SendFlags::empty()).unwrap();
        let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let before = open();
        assert_eq!(receive::<HandoverReply>(&two).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(open(), before, "descriptors stay open");

        sendmsg(&one, &[IoSlice::new(b"\xff")], &mut SendAncillaryBuffer::default(), SendFlags::empty()).unwrap();
        assert_eq!(receive::<HandoverReply>(&two).unwrap_err().kind(), io::ErrorKind::InvalidData);
        limit(&two, Duration::from_millis(10)).unwrap();
        assert_eq!(receive::<HandoverReply>(&two).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(one);
        assert!(receive::<HandoverReply>(&two).unwrap().is_none());
    }
}
