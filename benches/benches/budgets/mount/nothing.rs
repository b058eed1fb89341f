//! A file system in memory that does as little as one can by the same library, with what it tells the kernel to keep as the view does.
//!
//! Numbers say what they stand for, names are numbers, bytes repeat: nothing is looked up anywhere.

use std::ffi::OsStr;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry,
    ReplyOpen, Request, Session,
};
use provender_benches::noise;

use crate::Result;

/// A large file.
pub(super) const LARGE: &str = "large";
/// Its bytes.
pub(super) const LARGE_SIZE: u64 = 1 << 30;
/// After so many it repeats.
pub(super) const PERIOD: usize = 64 << 20;
/// Folders of small files.
pub(super) const SMALL: &str = "small";
/// How many.
pub(super) const SMALL_FOLDERS: u64 = 20;
/// The bytes of each file there.
pub(super) const SMALL_SIZE: usize = 2_662;
/// Folders of empty files.
pub(super) const MANY: &str = "many";
/// How many.
pub(super) const MANY_FOLDERS: u64 = 100;
/// What each of those folders has.
pub(super) const FOLDER: u64 = 1_000;
/// One folder of empty files.
pub(super) const MILLION: &str = "million";
/// How many.
pub(super) const MILLION_COUNT: u64 = 1_000_000;

/// For ever, and as many threads as the view has.
const VALID: Duration = Duration::from_secs(1 << 30);
const THREADS: usize = 8;
/// The most that a read takes.
const MOST: usize = 2 << 20;

/// Serves it at `point` until standard input closes.
pub(crate) fn serve(point: &Path) -> Result<()> {
    let mut config = Config::default();
    config.mount_options =
        vec![MountOption::RO, MountOption::NoSuid, MountOption::NoDev, MountOption::DefaultPermissions];
    config.n_threads = Some(THREADS);
    config.clone_fd = true;
    let mut body = noise(7, PERIOD).to_vec();
    body.extend_from_within(..MOST);
    let session = Session::new(Nothing { body: body.into() }, point, &config)?.spawn()?;
    super::until_let_go()?;
    drop(session);
    Ok(())
}

/// What a number stands for.
#[derive(Clone, Copy)]
enum Node {
    Root,
    Large,
    /// The folder of folders, one of them, or a file in one; `true` where files are small and not empty.
    Top(bool),
    Folder(bool, u64),
    File(bool, u64, u64),
    Million,
    Empty(u64),
}

impl Node {
    fn of(number: u64) -> Node {
        let (kind, folder, n) = (number >> 56, number >> 32 & 0xff_ffff, number & 0xffff_ffff);
        match kind {
            0 => Node::Root,
            1 => Node::Large,
            2 | 3 => Node::Top(kind == 2),
            4 | 5 => Node::Folder(kind == 4, folder),
            6 | 7 => Node::File(kind == 6, folder, n),
            8 => Node::Million,
            _ => Node::Empty(n),
        }
    }

    fn number(self) -> INodeNo {
        let not = |small: bool| u64::from(!small);
        INodeNo(match self {
            Node::Root => 1,
            Node::Large => 1 << 56,
            Node::Top(small) => (2 + not(small)) << 56,
            Node::Folder(small, folder) => (4 + not(small)) << 56 | folder << 32,
            Node::File(small, folder, n) => (6 + not(small)) << 56 | folder << 32 | n,
            Node::Million => 8 << 56,
            Node::Empty(n) => 9 << 56 | n,
        })
    }

    /// Its `n`-th entry, and what that is called.
    fn entry(self, n: u64) -> Option<Node> {
        match self {
            Node::Root => [Node::Large, Node::Top(true), Node::Top(false), Node::Million].get(n as usize).copied(),
            Node::Top(small) => {
                (n < if small { SMALL_FOLDERS } else { MANY_FOLDERS }).then_some(Node::Folder(small, n))
            }
            Node::Folder(small, folder) => (n < FOLDER).then_some(Node::File(small, folder, n)),
            Node::Million => (n < MILLION_COUNT).then_some(Node::Empty(n)),
            Node::Large | Node::File(..) | Node::Empty(_) => None,
        }
    }

    fn found(self, name: &str) -> Option<Node> {
        match self {
            Node::Root => match name {
                LARGE => Some(Node::Large),
                SMALL => Some(Node::Top(true)),
                MANY => Some(Node::Top(false)),
                MILLION => Some(Node::Million),
                _ => None,
            },
            _ => self.entry(name.parse().ok()?),
        }
    }

    fn name(self) -> String {
        match self {
            Node::Root => String::new(),
            Node::Large => LARGE.into(),
            Node::Top(small) => if small { SMALL } else { MANY }.into(),
            Node::Million => MILLION.into(),
            Node::Folder(_, n) | Node::File(_, _, n) | Node::Empty(n) => n.to_string(),
        }
    }

    fn kind(self) -> FileType {
        match self {
            Node::Large | Node::File(..) | Node::Empty(_) => FileType::RegularFile,
            _ => FileType::Directory,
        }
    }

    fn attr(self) -> FileAttr {
        let size = match self {
            Node::Large => LARGE_SIZE,
            Node::File(true, ..) => SMALL_SIZE as u64,
            _ => 0,
        };
        let kind = self.kind();
        FileAttr {
            ino: self.number(),
            size,
            blocks: size.div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm: if kind == FileType::Directory { 0o555 } else { 0o444 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

struct Nothing {
    /// A period and what a read may take of the next, for to the kernel a short read is the end of the file.
    body: Bytes,
}

impl Filesystem for Nothing {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        _ = config.add_capabilities(InitFlags::FUSE_PARALLEL_DIROPS);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match name.to_str().and_then(|name| Node::of(parent.0).found(name)) {
            Some(found) => reply.entry(&VALID, &found.attr(), Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&VALID, &Node::of(ino.0).attr());
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let left = Node::of(ino.0).attr().size.saturating_sub(offset).min(size.into()) as usize;
        let from = offset as usize % PERIOD;
        reply.data(&self.body[from..from + left]);
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let node = Node::of(ino.0);
        for at in offset.. {
            let full = match at {
                0 => reply.add(ino, 1, FileType::Directory, "."),
                1 => reply.add(ino, 2, FileType::Directory, ".."),
                _ => match node.entry(at - 2) {
                    Some(entry) => reply.add(entry.number(), at + 1, entry.kind(), entry.name()),
                    None => true,
                },
            };
            if full {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(&self, _: &Request, _: INodeNo, _: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        reply.ok();
    }
}
