//! The cache's folder: what its files are called, and what proves each of them.
//!
//! ```text
//! blobs/ab/<62 hex>.<size>            a blob's bytes at their offsets; a large one may have holes
//! blobs/ab/<62 hex>.<size>.tree       its outboard, which merges to its digest
//! blobs/ab/<62 hex>.<size>.whole      what its file looked like when all of it had been found right, with a checksum
//! answers/ab/<62 hex>                 anything else, with a checksum
//! ```
//! Invariant: nothing is believed for being there. So files are written in place and never synced, but for a large blob before its signature
//! is; and folders are made again whenever they are missing, since anybody may delete everything at any time.
//! The time of last use is the newest modification time of a blob's files, so using one touches `.whole`, which the signature does not cover.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use provender_core::Digest;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, utimensat};

use super::CacheError;
use crate::{Outboard, Signature};

pub(super) const BLOBS: &str = "blobs";
pub(super) const ANSWERS: &str = "answers";
/// How the names of what stands beside a blob end.
pub(super) const BESIDE: [&str; 3] = [WHOLE, SIGNING, TREE];
const TREE: &str = ".tree";
const WHOLE: &str = ".whole";
/// What will be `.whole`.
const SIGNING: &str = ".signing";
/// The largest thing that is kept under a key, in bytes.
const MAX_ANSWER: u64 = 64 << 20;
/// How often a folder is made again that somebody deletes.
const AGAIN: usize = 3;

#[derive(Debug, Clone)]
pub(super) struct Folder {
    root: PathBuf,
}

impl Folder {
    pub(super) fn open(root: &Path) -> Result<Folder, CacheError> {
        let path = || root.to_path_buf();
        make(root).map_err(|source| CacheError::Make { path: path(), source })?;
        let there = fs::metadata(root).map_err(|source| CacheError::Make { path: path(), source })?;
        let is_ours = [0, rustix::process::geteuid().as_raw()].contains(&there.uid());
        match () {
            () if !there.is_dir() => Err(CacheError::Unsafe { path: path(), why: "is no folder" }),
            () if !is_ours => Err(CacheError::Unsafe { path: path(), why: "belongs to somebody else" }),
            () if there.mode() & 0o022 != 0 => {
                Err(CacheError::Unsafe { path: path(), why: "can be written to by others" })
            }
            () => Ok(Folder { root: path() }),
        }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn blob(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        self.root.join(BLOBS).join(&hex[..2]).join(format!("{}.{}", &hex[2..], digest.size))
    }

    pub(super) fn outboard_path(&self, digest: &Digest) -> PathBuf {
        beside(self.blob(digest), TREE)
    }

    fn whole_path(&self, digest: &Digest) -> PathBuf {
        beside(self.blob(digest), WHOLE)
    }

    fn answer(&self, key: &[u8; 32]) -> PathBuf {
        let hex = provender_core::digest::hex(key);
        self.root.join(ANSWERS).join(&hex[..2]).join(&hex[2..])
    }

    /// The file of a large blob, if it looks as it did when it was found right. If not, it is a heap of parts from now on.
    pub(super) fn whole(&self, digest: &Digest) -> Option<File> {
        let signed = self.signed(digest)?;
        let file = File::open(self.blob(digest)).ok();
        let now = file.as_ref().and_then(|file| Signature::of(file).ok());
        let path = self.whole_path(digest);
        if signed.is_none() || now != signed {
            tracing::info!(%digest, "a cached file is not as it was; each part of it is checked before it is used");
            let _ = fs::remove_file(path);
            return None;
        }
        touch(&path);
        file
    }

    /// What the file looked like when it was right; the inner `None` if that note is damaged.
    fn signed(&self, digest: &Digest) -> Option<Option<Signature>> {
        let note = read(&self.whole_path(digest), 4096)?;
        let (signature, seal) = note.split_at_checked(40).unwrap_or_default();
        let right = *seal == *sealed(&[&digest.to_bytes(), signature]).as_bytes();
        Some(Signature::from_bytes(signature).filter(|_| right))
    }

    pub(super) fn is_signed(&self, digest: &Digest) -> bool {
        self.whole_path(digest).exists()
    }

    /// Says that a file is right. One at a time does so for each file.
    pub(super) fn sign(&self, digest: &Digest, signature: &Signature) -> io::Result<()> {
        let signature = signature.to_bytes();
        let seal = sealed(&[&digest.to_bytes(), &signature]);
        // At once, as whoever finds half of it removes it.
        let signing = beside(self.blob(digest), SIGNING);
        self.put(&signing, &[&signature[..], seal.as_bytes()].concat())?;
        fs::rename(signing, self.whole_path(digest))
    }

    /// A blob's bytes, if all are there and right.
    pub(super) fn bytes(&self, digest: &Digest) -> Option<Bytes> {
        let path = self.blob(digest);
        let bytes = read(&path, digest.size)?;
        if Digest::of(&bytes) != *digest {
            return None;
        }
        match self.is_signed(digest) {
            true => touch(&self.whole_path(digest)),
            false => touch(&path),
        }
        Some(bytes.into())
    }

    pub(super) fn outboard(&self, digest: &Digest) -> Option<Outboard> {
        let path = self.outboard_path(digest);
        let outboard = Outboard::from_bytes(digest, &read(&path, Outboard::len(digest.size) as u64)?)?;
        touch(&path);
        Some(outboard)
    }

    pub(super) fn recall(&self, key: &[u8; 32]) -> Option<Bytes> {
        let path = self.answer(key);
        let bytes = Bytes::from(read(&path, MAX_ANSWER)?);
        let body = bytes.get(blake3::OUT_LEN..)?;
        if bytes[..blake3::OUT_LEN] != *sealed(&[key, body]).as_bytes() {
            return None;
        }
        touch(&path);
        Some(bytes.slice(blake3::OUT_LEN..))
    }

    /// Says how many bytes were written: none, if this is there already.
    pub(super) fn remember(&self, key: &[u8; 32], body: &[u8]) -> io::Result<u64> {
        if body.len() as u64 >= MAX_ANSWER - blake3::OUT_LEN as u64
            || self.recall(key).is_some_and(|there| there == body)
        {
            return Ok(0);
        }
        self.put(&self.answer(key), &[sealed(&[key, body]).as_bytes(), body].concat())
    }

    /// Writes a file over what is there; says how many bytes. A reader meanwhile finds it torn, and so as good as missing.
    pub(super) fn put(&self, path: &Path, bytes: &[u8]) -> io::Result<u64> {
        let file = self.create(path, OpenOptions::new().write(true).create(true))?;
        written(&file, path, bytes)
    }

    /// Opens a file that may have to be made, with the folders above it.
    pub(super) fn create(&self, path: &Path, options: &mut OpenOptions) -> io::Result<File> {
        options.mode(0o600);
        for _ in 0..AGAIN {
            match options.open(path) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                opened => return opened,
            }
            match make(path.parent().unwrap_or(&self.root)) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        options.open(path)
    }
}

fn written(file: &File, path: &Path, bytes: &[u8]) -> io::Result<u64> {
    let written = file.write_all_at(bytes, 0).and_then(|()| file.set_len(bytes.len() as u64));
    if let Err(error) = written {
        // It would only be in the way; and on a full disk it is room.
        let _ = fs::remove_file(path);
        return Err(error);
    }
    Ok(bytes.len() as u64)
}

/// All of a file that has at most so many bytes.
fn read(path: &Path, most: u64) -> Option<Vec<u8>> {
    let file = File::open(path).ok()?;
    let size = file.metadata().ok().filter(|found| found.is_file() && found.len() <= most)?.len();
    let mut bytes = Vec::with_capacity(usize::try_from(size).ok()?);
    file.take(most).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

fn make(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn beside(path: PathBuf, suffix: &str) -> PathBuf {
    let mut name: OsString = path.into();
    name.push(suffix);
    name.into()
}

fn sealed(parts: &[&[u8]]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new_derive_key("provender 2026-11 what a cache keeps");
    parts.iter().for_each(|part| _ = hasher.update(part));
    hasher.finalize()
}

/// Says that it was used just now. If that fails, it goes earlier than it should.
pub(super) fn touch(path: &Path) {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let _ = utimensat(CWD, path, &Timestamps { last_access: now, last_modification: now }, AtFlags::empty());
}
