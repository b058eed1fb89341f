//! The thin adapter from the kernel's requests, as fuser hands them out, to the view.
//!
//! Owns the translation, and the flags by which the kernel is told what it may keep and read by itself. Invariants: each request gets
//! exactly one reply; whatever would change something is answered EROFS (`ro` lets the kernel answer most of it before it comes
//! here); a panic below becomes EIO, since a dead thread would leave processes hanging.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BackingId, BsdFileFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, FileType, Filesystem,
    FopenFlags, Generation, INodeNo, InitFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, RenameFlags,
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite,
    ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use rustix::fs::OFlags;

use crate::errno::{errno, is_fault};
use crate::files::{Files, Opened};
use crate::opens::Way;
use crate::passing::Passing;
use crate::requests::{Progress, Request as Asked, Requests, Working};
use crate::view::{Attributes, Kind, View, ViewError};

/// What `stat` and `statfs` give as the preferred size of reads, in bytes.
const BLOCK: u32 = 4096;

/// A view as fuser serves it.
pub(crate) struct Adapter {
    pub(crate) view: Arc<View>,
    pub(crate) files: Files<BackingId>,
    pub(crate) passing: Passing,
    pub(crate) requests: Arc<Requests>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Closes when the kernel is done with the view and it, with its source, is dropped: so it comes last.
    pub(crate) _ended: Sender<()>,
}

impl Adapter {
    fn attr(&self, attributes: &Attributes) -> FileAttr {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(attributes.at.millis());
        FileAttr {
            ino: INodeNo(attributes.number),
            size: attributes.size,
            blocks: attributes.size.div_ceil(512),
            atime: at,
            mtime: at,
            ctime: at,
            crtime: at,
            kind: file_type(attributes.kind),
            perm: attributes.mode,
            // 1 for a directory means that its subdirectories are not counted.
            nlink: 1,
            uid: self.uid,
            gid: self.gid,
            rdev: 0,
            blksize: BLOCK,
            flags: 0,
        }
    }

    /// Notes a request, until what is returned is dropped.
    fn begin(&self, what: Asked) -> Working {
        self.requests.add(what);
        self.progress.begin()
    }

    /// Asks the view. What is the store's fault goes to the log, for a process only ever sees a number.
    fn ask<T>(&self, what: Asked, question: impl FnOnce(&View) -> Result<T, ViewError>) -> Result<T, Errno> {
        let _working = self.begin(what);
        match catch_unwind(AssertUnwindSafe(|| question(&self.view))) {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                if is_fault(&error) {
                    let (what, error) = (what.name(), &error as &dyn std::error::Error);
                    tracing::warn!(what, error, "the mounted view could not answer");
                }
                Err(errno(&error))
            }
            Err(_) => {
                tracing::error!(what = what.name(), "the mounted view panicked");
                Err(Errno::EIO)
            }
        }
    }
}

fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::Directory => FileType::Directory,
        Kind::File => FileType::RegularFile,
        Kind::Link => FileType::Symlink,
    }
}

/// Gives a value of extended attributes: its size to who asks with no room, else the whole.
fn answer(value: Result<Vec<u8>, Errno>, room: u32, reply: ReplyXattr) {
    match value {
        Ok(value) if room == 0 => reply.size(u32::try_from(value.len()).unwrap_or(u32::MAX)),
        Ok(value) if value.len() > room as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(error) => reply.error(error),
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // Old kernels lack some. Without the first, all lookups in one directory wait for each other; a link's number has one target.
        for wanted in [InitFlags::FUSE_PARALLEL_DIROPS, InitFlags::FUSE_CACHE_SYMLINKS] {
            _ = config.add_capabilities(wanted);
        }
        self.passing.agree(config);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.ask(Asked::Lookup, |view| view.lookup(parent.0, name.as_bytes())) {
            Ok(found) => {
                let attr = self.attr(&found.attributes);
                reply.entry_with_ttls(&found.valid, &found.named, &attr, Generation(0));
            }
            Err(error) => reply.error(error),
        }
    }

    fn forget(&self, _: &Request, ino: INodeNo, nlookup: u64) {
        let _working = self.begin(Asked::Forget);
        self.view.forget(ino.0, nlookup);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.ask(Asked::Getattr, |view| view.attributes(ino.0)) {
            Ok(found) => reply.attr(&found.valid, &self.attr(&found.attributes)),
            Err(error) => reply.error(error),
        }
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match self.ask(Asked::Readlink, |view| view.read_link(ino.0)) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(error),
        }
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let truncates = OFlags::from_bits_retain(flags.0 as u32).intersects(OFlags::TRUNC | OFlags::CREATE);
        if flags.acc_mode() != OpenAccMode::O_RDONLY || truncates {
            return reply.error(Errno::EROFS);
        }
        match self.ask(Asked::Open, |_| self.files.open(ino.0, |file| self.passing.back(&reply, file))) {
            Ok(Opened { handle, way: Way::Kernel(backing) }) => {
                reply.opened_passthrough(FileHandle(handle), FopenFlags::empty(), &backing);
            }
            // A number's bytes never change, so that what the page cache has of it stays good.
            Ok(Opened { handle, way: Way::Asked }) => {
                reply.opened(FileHandle(handle), FopenFlags::FOPEN_KEEP_CACHE);
            }
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.ask(Asked::Read, |view| view.read(fh.0, offset, size as usize)) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error),
        }
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        let _working = self.begin(Asked::Release);
        self.files.release(fh.0);
        reply.ok();
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let opened = self.ask(Asked::Opendir, |view| Ok((view.open_directory(ino.0)?, view.is_settled(ino.0))));
        match opened {
            Ok((handle, true)) => {
                let kept = FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE;
                reply.opened(FileHandle(handle), kept);
            }
            Ok((handle, false)) => reply.opened(FileHandle(handle), FopenFlags::empty()),
            Err(error) => reply.error(error),
        }
    }

    fn readdir(&self, _: &Request, _: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let listed = self.ask(Asked::Readdir, |view| {
            view.list(fh.0, offset, |item, next| {
                !reply.add(INodeNo(item.number), next, file_type(item.kind), OsStr::from_bytes(&item.name))
            })
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }

    fn releasedir(&self, _: &Request, _: INodeNo, fh: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        let _working = self.begin(Asked::Releasedir);
        self.view.release(fh.0);
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        // How large the store is, is not the view's to tell; nothing is free.
        reply.statfs(0, 0, 0, 0, 0, BLOCK, 255, BLOCK);
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let value = self.ask(Asked::Getxattr, |view| view.xattr(ino.0, name.as_bytes()));
        answer(value.map(String::into_bytes), size, reply);
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let names = self.ask(Asked::Listxattr, |view| view.xattrs(ino.0));
        answer(
            names.map(|names| names.into_iter().flat_map(|name| [name.as_bytes(), b"\0"].concat()).collect()),
            size,
            reply,
        );
    }

    fn access(&self, _: &Request, _: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        if mask.contains(AccessFlags::W_OK) { reply.error(Errno::EROFS) } else { reply.ok() }
    }

    // From here on: what would change something. fuser's own answers to these say "not implemented".

    fn setattr(
        &self,
        _: &Request,
        _: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.error(Errno::EROFS);
    }

    fn mknod(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn mkdir(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn unlink(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn rmdir(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn symlink(&self, _: &Request, _: INodeNo, _: &OsStr, _: &Path, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn rename(&self, _: &Request, _: INodeNo, _: &OsStr, _: INodeNo, _: &OsStr, _: RenameFlags, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn link(&self, _: &Request, _: INodeNo, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::EROFS);
    }

    fn create(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        reply.error(Errno::EROFS);
    }

    fn setxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: &[u8], _: i32, _: u32, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn removexattr(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn fallocate(&self, _: &Request, _: INodeNo, _: FileHandle, _: u64, _: u64, _: i32, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn copy_file_range(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::EROFS);
    }
}
