//! The file of a large blob while parts of it are missing.
//!
//! Invariants: a group that is read from it was held against the outboard, each time, so it does not matter who wrote there, or died doing so; it is
//! signed only after all of it was read back and found right, synced, and seen not to have changed meanwhile. Who writes holds a shared lock on the file
//! and who signs the exclusive one, so that no late write of another process makes a signature false.
//! Whoever deletes the file gets rid of a name: what is open is read on, and the next write makes a new one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

use bytes::Bytes;
use provender_core::Digest;
use rustix::fs::{FlockOperation, SeekFrom, flock, seek};

use super::folder::Folder;
use crate::{Outboard, Signature};

#[derive(Debug)]
pub(super) struct Part {
    digest: Digest,
    file: Option<Open>,
    /// Up to here there was no hole when it was looked last.
    solid: u64,
}

#[derive(Debug, Clone)]
struct Open {
    file: Arc<File>,
    is_writable: bool,
}

/// Where one looks into a file that may change: cheap to clone, so that no lock is held while reading.
#[derive(Debug, Clone)]
pub(super) struct Look(Arc<File>);

impl Part {
    pub(super) fn new(digest: Digest) -> Part {
        Part { digest, file: None, solid: 0 }
    }

    /// To look into the file, if there is one.
    pub(super) fn look(&mut self, folder: &Folder) -> Option<Look> {
        if self.file.is_none() {
            let path = folder.blob(&self.digest);
            let writable = OpenOptions::new().read(true).write(true).open(&path).ok();
            let is_writable = writable.is_some();
            let file = Arc::new(writable.or_else(|| File::open(&path).ok())?);
            self.file = Some(Open { file, is_writable });
        }
        Some(Look(self.file.as_ref()?.file.clone()))
    }

    /// Writes bytes to their place; says how many, which is none where somebody says that all are right already, or is about to.
    pub(super) fn write(&mut self, folder: &Folder, offset: u64, bytes: &[u8]) -> io::Result<u64> {
        // Once more if the file that we have has no name any more.
        for _ in 0..2 {
            let file = self.for_writing(folder)?;
            let Some(_lock) = Lock::take(&file, FlockOperation::NonBlockingLockShared) else { return Ok(0) };
            if !self.is_in_place(folder, &file) {
                self.forget();
                continue;
            }
            if folder.is_signed(&self.digest) {
                return Ok(0);
            }
            if file.metadata()?.len() != self.digest.size {
                file.set_len(self.digest.size)?;
            }
            file.write_all_at(bytes, offset)?;
            return Ok(bytes.len() as u64);
        }
        Ok(0)
    }

    /// Whether no byte is missing, as far as that shows without reading.
    pub(super) fn is_solid(&mut self) -> bool {
        let Some(Open { file, .. }) = &self.file else { return false };
        let size = self.digest.size;
        if file.metadata().is_ok_and(|found| found.len() != size) {
            return false;
        }
        // Where holes cannot be told, all reads as data; then finishing finds out.
        self.solid = seek(file, SeekFrom::Hole(self.solid.min(size - 1))).unwrap_or(size);
        self.solid >= size
    }

    /// What finishing it needs, without a lock for the time that it takes.
    pub(super) fn finishing(&mut self, folder: &Folder) -> Option<Finishing> {
        self.look(folder)?;
        let file = self.file.clone().filter(|open| open.is_writable)?.file;
        if file.metadata().is_ok_and(|found| found.len() > self.digest.size) {
            let _lock = Lock::take(&file, FlockOperation::NonBlockingLockShared)?;
            file.set_len(self.digest.size).ok()?;
        }
        (self.is_in_place(folder, &file) && !folder.is_signed(&self.digest) && self.is_solid())
            .then_some(Finishing { digest: self.digest, file })
    }

    /// From the beginning again, as a group was found wrong or missing.
    pub(super) fn doubt(&mut self, from: u64) {
        self.solid = self.solid.min(from);
    }

    fn for_writing(&mut self, folder: &Folder) -> io::Result<Arc<File>> {
        if let Some(Open { file, is_writable: true }) = &self.file {
            return Ok(file.clone());
        }
        let path = folder.blob(&self.digest);
        let file = folder.create(&path, OpenOptions::new().read(true).write(true).create(true))?;
        let file = Arc::new(file);
        self.forget();
        self.file = Some(Open { file: file.clone(), is_writable: true });
        Ok(file)
    }

    fn forget(&mut self) {
        (self.file, self.solid) = (None, 0);
    }

    fn is_in_place(&self, folder: &Folder, file: &File) -> bool {
        is_in_place(folder, &self.digest, file)
    }
}

fn is_in_place(folder: &Folder, digest: &Digest, file: &File) -> bool {
    let there = fs::symlink_metadata(folder.blob(digest)).map(|found| (found.dev(), found.ino()));
    let ours = file.metadata().map(|found| (found.dev(), found.ino()));
    matches!((there, ours), (Ok(there), Ok(ours)) if there == ours)
}

impl Look {
    /// A group, if it is there and right.
    pub(super) fn group(&self, outboard: &Outboard, group: u64) -> Option<Bytes> {
        let place = outboard.place(&(group..group + 1));
        if !self.may_have(outboard, group) {
            return None;
        }
        let mut bytes = vec![0; usize::try_from(place.end - place.start).ok()?];
        self.0.read_exact_at(&mut bytes, place.start).ok()?;
        let bytes = Bytes::from(bytes);
        outboard.is_right(group, std::slice::from_ref(&bytes)).then_some(bytes)
    }

    /// Whether the file has any bytes where the group should be.
    pub(super) fn may_have(&self, outboard: &Outboard, group: u64) -> bool {
        let place = outboard.place(&(group..group + 1));
        match seek(&self.0, SeekFrom::Data(place.start)) {
            Ok(data) => data < place.end,
            // Beyond the end there is none; else it cannot be told.
            Err(error) => error != rustix::io::Errno::NXIO,
        }
    }
}

/// A file that seems whole.
#[derive(Debug)]
pub(super) struct Finishing {
    digest: Digest,
    file: Arc<File>,
}

/// What came of looking through it.
#[derive(Debug)]
pub(super) enum Finished {
    /// It is right, and signed.
    Signed,
    /// This group is not right.
    Wrong(u64),
    /// Somebody wrote to it meanwhile.
    Changed,
}

impl Finishing {
    /// Reads all of it, and signs it if it is right.
    pub(super) fn finish(self, folder: &Folder, outboard: &Outboard) -> io::Result<Finished> {
        let before = Signature::of(&self.file)?;
        match self.wrong(outboard) {
            Some(wrong) => Ok(Finished::Wrong(wrong)),
            None => self.sign(folder, &before),
        }
    }

    fn wrong(&self, outboard: &Outboard) -> Option<u64> {
        let look = Look(self.file.clone());
        let groups = outboard.covering(&(0..self.digest.size));
        groups.into_iter().find(|group| look.group(outboard, *group).is_none())
    }

    /// Signs it if it still looks as it did before it was found right.
    fn sign(self, folder: &Folder, before: &Signature) -> io::Result<Finished> {
        // A signature is believed after a crash too.
        self.file.sync_data()?;
        // On a descriptor of its own, whose lock is not that of our own writers.
        let own = File::open(folder.blob(&self.digest))?;
        let lock = Lock::take(&own, FlockOperation::NonBlockingLockExclusive);
        let after = Signature::of(&self.file)?;
        let is_same = after == *before && after.size == self.digest.size;
        if lock.is_none() || !is_same || !is_in_place(folder, &self.digest, &self.file) {
            return Ok(Finished::Changed);
        }
        folder.sign(&self.digest, &after)?;
        Ok(Finished::Signed)
    }
}

/// A lock on a file, until it is dropped.
struct Lock<'a>(&'a File);

impl Lock<'_> {
    fn take(file: &File, operation: FlockOperation) -> Option<Lock<'_>> {
        loop {
            match flock(file, operation).map_err(io::Error::from) {
                Ok(()) => return Some(Lock(file)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
    }
}

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        let _ = flock(self.0, FlockOperation::Unlock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_changes_while_it_is_looked_through_is_not_signed() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(&dir.path().join("c")).unwrap();
        let bytes = vec![7; 1 << 20];
        let mut ingest = crate::Ingest::new(&[]);
        ingest.update(&bytes);
        let outboard = ingest.finish().outboard.unwrap();
        let digest = *outboard.digest();
        let mut part = Part::new(digest);
        part.write(&folder, 0, &bytes).unwrap();

        let finishing = part.finishing(&folder).unwrap();
        let before = Signature::of(&finishing.file).unwrap();
        assert_eq!(finishing.wrong(&outboard), None);
        // A tick of the clock that files are dated by.
        std::thread::sleep(Duration::from_millis(20));
        File::options().write(true).open(folder.blob(&digest)).unwrap().write_all_at(&[8], 5).unwrap();
        assert!(matches!(finishing.sign(&folder, &before), Ok(Finished::Changed)));
        assert!(matches!(part.finishing(&folder).unwrap().finish(&folder, &outboard), Ok(Finished::Wrong(0))));

        // Somebody is writing to it.
        part.write(&folder, 0, &bytes).unwrap();
        let other = File::open(folder.blob(&digest)).unwrap();
        let lock = Lock::take(&other, FlockOperation::NonBlockingLockShared);
        assert!(matches!(part.finishing(&folder).unwrap().finish(&folder, &outboard), Ok(Finished::Changed)));
        drop(lock);
        // It has another name, or none.
        let finishing = part.finishing(&folder).unwrap();
        std::fs::rename(folder.blob(&digest), dir.path().join("away")).unwrap();
        std::fs::write(folder.blob(&digest), vec![9; 1 << 20]).unwrap();
        assert!(matches!(finishing.finish(&folder, &outboard), Ok(Finished::Changed)));
        std::fs::rename(dir.path().join("away"), folder.blob(&digest)).unwrap();
        assert!(matches!(part.finishing(&folder).unwrap().finish(&folder, &outboard), Ok(Finished::Signed)));
        assert!(folder.whole(&digest).is_some() && part.finishing(&folder).is_none());
    }
}
