//! Staging: a private folder beside a destination, from which things are put in place by rename, and back.
//!
//! Invariant: what stands at a destination is at every moment the old or the new thing, whole. The folder vanishes with
//! this value, with all that is left in it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::{AtFlags, FileType, Mode, RenameFlags};
use rustix::io::Errno;

use super::beneath;

/// Folders nested deeper than this are removed in rounds, so that neither the stack nor the descriptors run out.
const MAX_NESTING: usize = 64;

/// A fresh folder that only this user may enter.
pub(super) struct Staging {
    parent: OwnedFd,
    name: String,
    folder: Arc<OwnedFd>,
    kept: bool,
}

/// How something was put in place, so that it can be undone.
pub(super) enum Put {
    /// Nothing stood there.
    New,
    /// What stood there took the name in the staging folder.
    Exchanged,
    /// The file system cannot exchange: what stood there has this name in the staging folder.
    Moved(String),
}

impl Staging {
    /// Makes one in `parent`, its name begun by `prefix`.
    pub(super) fn new(parent: OwnedFd, prefix: &str) -> io::Result<Staging> {
        let random = getrandom::u64().map_err(io::Error::other)?;
        let name = format!("{prefix}{}-{random:016x}", std::process::id());
        rustix::fs::mkdirat(&parent, &name, Mode::RWXU)?;
        let folder = Arc::new(beneath::open_child(&parent, name.as_bytes())?);
        Ok(Staging { parent, name, folder, kept: false })
    }

    /// Leaves the folder and what is in it where they are.
    pub(super) fn keep(&mut self) {
        self.kept = true;
    }

    /// The folder itself.
    pub(super) fn folder(&self) -> &Arc<OwnedFd> {
        &self.folder
    }

    /// Moves `name` out of the parent into this folder as `staged`; `false` if nothing stands there.
    pub(super) fn take(&self, name: &[u8], staged: &str) -> io::Result<bool> {
        match rename(self.parent.as_fd(), name, self.folder.as_fd(), staged.as_bytes()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Moves `staged` into the parent as `name`, unless something stands there ([`io::ErrorKind::AlreadyExists`]).
    pub(super) fn put_new(&self, staged: &str, name: &[u8]) -> io::Result<()> {
        let (from, to) = (self.folder.as_fd(), self.parent.as_fd());
        match rustix::fs::renameat_with(from, staged, to, name, RenameFlags::NOREPLACE) {
            Err(error) if cannot(error) => match rustix::fs::statat(to, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => Ok(rename(from, staged.as_bytes(), to, name)?),
                Ok(_) => Err(Errno::EXIST.into()),
                Err(error) => Err(error.into()),
            },
            Err(Errno::ACCESS) => Ok(rename(from, staged.as_bytes(), to, name)?),
            other => Ok(other?),
        }
    }

    /// Moves `staged` into the parent as `name`, in the place of what stands there.
    pub(super) fn put(&self, staged: &str, name: &[u8]) -> io::Result<Put> {
        // Something may come or go between two calls; nobody wins that race for ever.
        for _ in 0..100 {
            match exchange(self.folder.as_fd(), staged.as_bytes(), self.parent.as_fd(), name) {
                Ok(()) => return Ok(Put::Exchanged),
                Err(Errno::NOENT) => {}
                Err(error) if cannot(error) => return self.put_in_two_steps(staged, name),
                Err(error) => return Err(error.into()),
            }
            match self.put_new(staged, name) {
                Ok(()) => return Ok(Put::New),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other("something else keeps appearing and vanishing there"))
    }

    fn put_in_two_steps(&self, staged: &str, name: &[u8]) -> io::Result<Put> {
        let old = format!("{staged}.old");
        if !self.take(name, &old)? {
            self.put_new(staged, name)?;
            return Ok(Put::New);
        }
        match self.put_new(staged, name) {
            Ok(()) => Ok(Put::Moved(old)),
            Err(error) => {
                self.put_new(&old, name)?;
                Err(error)
            }
        }
    }

    /// Undoes [`Staging::put`].
    pub(super) fn undo(&self, put: &Put, staged: &str, name: &[u8]) -> io::Result<()> {
        match put {
            Put::Exchanged => Ok(exchange(self.folder.as_fd(), staged.as_bytes(), self.parent.as_fd(), name)?),
            Put::New => self.take(name, staged).map(|_| ()),
            Put::Moved(old) => {
                self.take(name, staged)?;
                self.put_new(old, name)
            }
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        if let Err(error) = remove_all(self.parent.as_fd(), self.name.as_bytes()) {
            tracing::warn!(folder = self.name, %error, "a temporary folder could not be removed");
        }
    }
}

/// Whether the file system or kernel does not know this kind of rename.
fn cannot(error: Errno) -> bool {
    matches!(error, Errno::INVAL | Errno::NOSYS | Errno::NOTSUP)
}

/// Exchanges two names, also of folders that their owner may not write: moving one to another parent rewrites its `..`.
fn exchange(from: BorrowedFd<'_>, old: &[u8], to: BorrowedFd<'_>, new: &[u8]) -> rustix::io::Result<()> {
    let exchange = || rustix::fs::renameat_with(from, old, to, new, RenameFlags::EXCHANGE);
    match exchange() {
        Err(Errno::ACCESS) => {
            let locks = (unlock(from, old), unlock(to, new));
            let exchanged = exchange();
            // Where each mode belongs now.
            let (from_lock, to_lock) = if exchanged.is_ok() { (locks.1, locks.0) } else { locks };
            relock(from, old, from_lock);
            relock(to, new, to_lock);
            exchanged
        }
        other => other,
    }
}

/// Renames, also a folder that its owner may not write.
fn rename(from: BorrowedFd<'_>, old: &[u8], to: BorrowedFd<'_>, new: &[u8]) -> rustix::io::Result<()> {
    match rustix::fs::renameat(from, old, to, new) {
        Err(Errno::ACCESS) => {
            let lock = unlock(from, old);
            let renamed = rustix::fs::renameat(from, old, to, new);
            if renamed.is_ok() {
                relock(to, new, lock)
            } else {
                relock(from, old, lock)
            }
            renamed
        }
        other => other,
    }
}

/// Lets the owner of a folder write it; returns the mode that it had if that was not so.
fn unlock(parent: BorrowedFd<'_>, name: &[u8]) -> Option<Mode> {
    let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    let mode = Mode::from_raw_mode(stat.st_mode);
    let is_locked = FileType::from_raw_mode(stat.st_mode) == FileType::Directory && !mode.contains(Mode::RWXU);
    (is_locked && rustix::fs::chmodat(parent, name, mode | Mode::RWXU, AtFlags::empty()).is_ok()).then_some(mode)
}

fn relock(parent: BorrowedFd<'_>, name: &[u8], lock: Option<Mode>) {
    if let Some(mode) = lock
        && let Err(error) = rustix::fs::chmodat(parent, name, mode, AtFlags::empty())
    {
        tracing::debug!(%error, "the mode of a moved folder was not restored");
    }
}

/// Removes what stands at `name`, read-only folders included, never following a symlink.
fn remove_all(parent: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<()> {
    let top = match beneath::open_child(parent, name) {
        Err(Errno::NOENT) => return Ok(()),
        top => top?,
    };
    let mut removal = Removal { top: top.as_fd(), flattened: 0 };
    // Each round takes what the one before moved up from the depths.
    loop {
        let before = removal.flattened;
        removal.empty(top.as_fd(), 0)?;
        if removal.flattened == before {
            break;
        }
    }
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
}

struct Removal<'a> {
    top: BorrowedFd<'a>,
    flattened: u64,
}

impl Removal<'_> {
    fn empty(&mut self, folder: BorrowedFd<'_>, depth: usize) -> rustix::io::Result<()> {
        for name in beneath::names(folder)? {
            self.entry(folder, &name, depth)?;
        }
        Ok(())
    }

    fn entry(&mut self, folder: BorrowedFd<'_>, name: &Bytes, depth: usize) -> rustix::io::Result<()> {
        let bytes: &[u8] = name;
        let stat = rustix::fs::statat(folder, bytes, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return rustix::fs::unlinkat(folder, bytes, AtFlags::empty());
        }
        unlock(folder, bytes);
        if depth >= MAX_NESTING {
            self.flattened += 1;
            let up = format!(".flattened-{}-{:x}", self.flattened, stat.st_ino);
            return rustix::fs::renameat(folder, bytes, self.top, up.as_str());
        }
        let inner = beneath::open_child(folder, bytes)?;
        self.empty(inner.as_fd(), depth + 1)?;
        rustix::fs::unlinkat(folder, bytes, AtFlags::REMOVEDIR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn deep_and_read_only_folders_are_removed() {
        let home = tempfile::tempdir().unwrap();
        let staging = Staging::new(beneath::open_folder(home.path()).unwrap(), ".x-").unwrap();
        let mut at = staging.folder().try_clone().unwrap();
        for depth in 0..600 {
            rustix::fs::mkdirat(&at, "deeper", Mode::RWXU).unwrap();
            let next = beneath::open_child(&at, b"deeper").unwrap();
            drop(rustix::fs::openat(&at, format!("f{depth}"), rustix::fs::OFlags::CREATE, Mode::RUSR).unwrap());
            rustix::fs::fchmod(&at, Mode::RUSR | Mode::XUSR).unwrap();
            at = next;
        }
        rustix::fs::symlinkat("/", &at, "root").unwrap();
        rustix::fs::fchmod(staging.folder(), Mode::RWXU).unwrap();
        drop(staging);
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
    }

    #[test]
    fn put_replaces_and_undo_brings_back() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        fs::create_dir(at("old")).unwrap();
        fs::write(at("old/inside"), "1").unwrap();
        fs::set_permissions(at("old"), fs::Permissions::from_mode(0o555)).unwrap();
        let staging = Staging::new(beneath::open_folder(home.path()).unwrap(), ".x-").unwrap();
        for (staged, name) in [("a", "old"), ("b", "fresh")] {
            fs::write(at(&staging.name).join(staged), "2").unwrap();
            let put = staging.put(staged, name.as_bytes()).unwrap();
            assert_eq!(fs::read(at(name)).unwrap(), b"2");
            assert!(staging.put_new(staged, name.as_bytes()).is_err());
            staging.undo(&put, staged, name.as_bytes()).unwrap();
            assert_eq!(fs::read(at(&staging.name).join(staged)).unwrap(), b"2");
        }
        let two_steps = staging.put_in_two_steps("a", b"old").unwrap();
        assert_eq!(fs::read(at("old")).unwrap(), b"2");
        staging.undo(&two_steps, "a", b"old").unwrap();
        assert_eq!(fs::read(at("old/inside")).unwrap(), b"1");
        assert_eq!(at("old").metadata().unwrap().permissions().mode() & 0o777, 0o555);
        assert!(!at("fresh").exists());
        fs::set_permissions(at("old"), fs::Permissions::from_mode(0o755)).unwrap();
    }
}
