//! The file of a blob that is on its way, from its first byte until it has its name.
//!
//! Owns [`StagingFile`] and what it is until somebody claims it. Invariants: bytes are durable before the file gets its name under `objects`, that
//! name is durable before it is told, and what ends in any other way leaves no file, but for what has a token and is cut off. Whoever has a
//! staging file holds a lock on it. It must not know where bytes come from.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;

use bytes::Bytes;
use provender_core::blob::Form;
use provender_core::digest::hex;
use rustix::fs::{
    AtFlags, FallocateFlags, FlockOperation, Mode, OFlags, RenameFlags, fallocate, fchmod, flock, linkat,
    renameat_with, statat, unlinkat,
};
use rustix::io::Errno;
use tracing::warn;

use super::root::{Root, STAGING};
use super::{Store, object, shard};
use crate::{BlobError, CHUNK, Hashes, Ingest, Location, Published, Resume, ResumeToken, Signature, copy_range};

/// A file that nobody was told of yet: dropping it removes it, under whatever name it has by then, unless it has a token.
#[derive(Debug)]
pub(super) struct StagingFile {
    pub(super) store: Arc<Store>,
    root: Root,
    pub(super) file: File,
    /// Below the root; `None` once the file is to stay.
    path: Option<String>,
    /// Whether it has a token, so that it stays if it is dropped.
    pub(super) kept: Arc<AtomicBool>,
    reserved: u64,
}

impl StagingFile {
    pub(super) fn create(store: &Arc<Store>) -> Result<StagingFile, BlobError> {
        let failed = |error| store.failed("begin a blob", error);
        loop {
            let path = format!("{STAGING}/{:016x}", getrandom::u64().map_err(|error| failed(error.into()))?);
            let root = store.root()?;
            // No file: a sweep took it before it was locked.
            if let Some(file) = open_locked(&root, &path, OFlags::CREATE | OFlags::EXCL).map_err(failed)? {
                return Ok(StagingFile {
                    store: store.clone(),
                    root,
                    file,
                    path: Some(path),
                    kept: Arc::default(),
                    reserved: 0,
                });
            }
        }
    }

    /// Takes up the file of a token, having hashed what it has up to where it goes on. `None` if another one writes to it, and
    /// nothing of it is asked for.
    pub(super) fn resume(
        store: &Arc<Store>,
        resume: Resume,
        ingest: &mut Ingest,
    ) -> Result<Option<StagingFile>, BlobError> {
        let Resume { token, from } = resume;
        let failed = |error| store.failed("go on with a blob", error);
        let (root, path) = (store.root()?, token_path(token));
        let Some(file) = open_locked(&root, &path, OFlags::CREATE).map_err(failed)? else {
            return if from == 0 { Ok(None) } else { Err(BlobError::Behind { from, staged: 0 }) };
        };
        // From here on it is kept whatever happens, but for what fails.
        let mut staging = StagingFile {
            store: store.clone(),
            root,
            file,
            path: Some(path),
            kept: Arc::new(true.into()),
            reserved: 0,
        };
        let staged = staging.file.metadata().map_err(failed)?.len();
        if staged < from {
            return Err(BlobError::Behind { from, staged });
        }
        let mut read = 0;
        let mut piece = vec![0; from.min(CHUNK as u64) as usize];
        while read < from {
            let want = (from - read).min(CHUNK as u64) as usize;
            staging.file.read_exact(&mut piece[..want]).map_err(failed)?;
            ingest.update(&piece[..want]);
            read += want as u64;
        }
        staging.file.set_len(from).map_err(failed)?;
        Ok(Some(staging))
    }

    /// How many bytes the file of a token has; `None` while it is being written.
    pub(super) fn staged(store: &Arc<Store>, token: ResumeToken) -> Result<Option<u64>, BlobError> {
        let failed = |error| store.failed("look for a blob to go on with", error);
        match open_locked(&store.root()?, &token_path(token), OFlags::empty()) {
            Ok(Some(file)) => Ok(Some(file.metadata().map_err(failed)?.len())),
            Ok(None) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Some(0)),
            Err(error) => Err(failed(error)),
        }
    }

    /// Reserves space where the file system can, so that a large file lies in one piece.
    pub(super) fn reserve(&mut self, bytes: u64) -> Result<(), Errno> {
        if bytes <= CHUNK as u64 {
            return Ok(());
        }
        let reserved = fallocate(&self.file, FallocateFlags::KEEP_SIZE, 0, bytes);
        if matches!(reserved, Ok(()) | Err(Errno::NOSPC | Errno::DQUOT)) {
            // What found no room may have taken what there was.
            self.reserved = bytes;
            return reserved;
        }
        Ok(())
    }

    pub(super) fn append(mut self, pieces: &[Bytes]) -> Result<StagingFile, BlobError> {
        for piece in pieces {
            if let Err(error) = self.file.write_all(piece) {
                return Err(self.give_up("write a blob", error));
            }
        }
        Ok(self)
    }

    pub(super) fn copy(self, source: &File, offset: u64, len: u64) -> Result<StagingFile, BlobError> {
        match copy_range(source, &self.file, offset, len) {
            Ok(some) if some < len => Err(BlobError::Short { size: offset + len }),
            Ok(_) => Ok(self),
            Err(error) => Err(self.give_up("take a file", error)),
        }
    }

    /// A full disk is not to be kept full: what is there is given back before anybody is told, even while another job has it open, so that
    /// who is told finds room to say so.
    fn give_up(&self, doing: &'static str, error: io::Error) -> BlobError {
        self.kept.store(false, SeqCst);
        // The file goes with its last user in any case.
        _ = self.file.set_len(0);
        self.store.failed(doing, error)
    }

    pub(super) fn publish(mut self, hashes: Hashes, form: Form) -> Result<Unclaimed, BlobError> {
        let location = Location::fresh(hashes.digest, form);
        let location = location.map_err(|error| self.store.failed("publish a blob", error))?;
        self.seal(location.stored()).map_err(|error| self.store.failed("sync a blob", error))?;
        let signature = self.rename(&location).map_err(|error| self.store.failed("publish a blob", error))?;
        let Hashes { aliases, outboard, .. } = hashes;
        let published = Published { location, signature: Some(signature), aliases, outboard };
        Ok(Unclaimed { file: self, published })
    }

    /// Makes the bytes final and durable.
    fn seal(&mut self, size: u64) -> io::Result<()> {
        if self.reserved > size {
            self.file.set_len(size)?;
        }
        fchmod(&self.file, Mode::RUSR | Mode::RGRP | Mode::ROTH)?;
        self.file.sync_all()
    }

    /// Gives the file its name under `objects`, durably.
    fn rename(&mut self, location: &Location) -> io::Result<Signature> {
        let to = object(location);
        rename_new(&self.root, self.path.as_deref().unwrap_or_default(), &to)?;
        self.path = Some(to);
        self.root.sync(&shard(location.digest.hash[0]))?;
        Signature::of(&self.file)
    }
}

/// Opens a file in staging, and locks it; `None` if it has no name any more or another one has locked it.
fn open_locked(root: &Root, path: &str, flags: OFlags) -> io::Result<Option<File>> {
    let open = || root.file(path, flags | OFlags::RDWR, Mode::RUSR | Mode::WUSR);
    let file = match open() {
        // It was sealed by who was killed before it had its name: whoever is not root may not even open it to write.
        Err(Errno::ACCESS) => {
            let sealed = root.file(path, OFlags::RDONLY, Mode::empty())?;
            match flock(&sealed, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => fchmod(&sealed, Mode::RUSR | Mode::WUSR)?,
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
            drop(sealed);
            open()?
        }
        opened => opened?,
    };
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    // Swept, or published, before it was locked.
    let (named, inode) = (statat(root, path, AtFlags::SYMLINK_NOFOLLOW), file.metadata()?.ino());
    Ok(named.is_ok_and(|named| named.st_ino == inode).then_some(file))
}

/// Where the file of a token stands.
fn token_path(token: ResumeToken) -> String {
    format!("{STAGING}/{}", hex(&token.0))
}

/// Renames, never over another file.
pub(super) fn rename_new(root: &Root, from: &str, to: &str) -> Result<(), Errno> {
    match renameat_with(root, from, root, to, RenameFlags::NOREPLACE) {
        // NFS and others do not know the flag.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => link_new(root, from, to),
        renamed => renamed,
    }
}

pub(super) fn link_new(root: &Root, from: &str, to: &str) -> Result<(), Errno> {
    linkat(root, from, root, to, AtFlags::empty())?;
    unlinkat(root, from, AtFlags::empty())
}

impl Drop for StagingFile {
    fn drop(&mut self) {
        let len = self.file.metadata().map_or(0, |file| file.len());
        let kept = self.kept.load(SeqCst) && len > 0;
        if kept && self.reserved > len {
            // Space that was only announced is not kept as well.
            _ = self.file.set_len(len);
        }
        if let (Some(path), false) = (&self.path, kept)
            && let Err(error) = unlinkat(&self.root, path, AtFlags::empty())
            && error != Errno::NOENT
        {
            // A sweep, or the collection of what nothing refers to, finds it later.
            warn!(path, %error, "cannot remove a discarded blob");
        }
    }
}

/// A published blob whose publisher may have gone: unless claimed, it is removed again.
pub(super) struct Unclaimed {
    file: StagingFile,
    published: Published,
}

impl Unclaimed {
    pub(super) fn claim(mut self) -> Published {
        self.file.path = None;
        self.published
    }
}
