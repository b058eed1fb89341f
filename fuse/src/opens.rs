//! By which way the bytes of each open file reach who reads it.
//!
//! Invariants, as the kernel demands them (its Documentation/filesystems/fuse-passthrough.rst and `fs/fuse/iomode.c`; what breaks them is EIO there): while a
//! number is open, all its opens go one way, and those that the kernel reads by itself share one backing file and its one id, which
//! lives to the last release. The first open decides. It must not know FUSE's messages, nor where bytes come from.

use std::collections::hash_map::Entry;
use std::fs::File;
use std::io;
use std::sync::Arc;

use crate::shards::Shards;

/// A way to a file's bytes.
#[derive(Debug)]
pub(crate) enum Way<B> {
    /// The kernel reads the backing file with this id.
    Kernel(Arc<B>),
    /// The kernel asks us, and keeps what it was told in its page cache.
    Asked,
}

impl<B> Clone for Way<B> {
    fn clone(&self) -> Way<B> {
        match self {
            Way::Kernel(backing) => Way::Kernel(backing.clone()),
            Way::Asked => Way::Asked,
        }
    }
}

/// The number is open by way of another file, which cannot be shared: this open needs a number of its own.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Otherwise;

/// Which file of the host it is, whatever descriptor leads to it.
type FileId = (u64, u64);

#[derive(Debug)]
struct Open<B> {
    way: Way<B>,
    /// The backing file, if the kernel reads it.
    file: Option<FileId>,
    opens: u64,
}

/// The ways of all numbers that are open.
#[derive(Debug)]
pub(crate) struct Opens<B>(Shards<Open<B>>);

impl<B> Default for Opens<B> {
    fn default() -> Opens<B> {
        Opens(Shards::default())
    }
}

impl<B> Opens<B> {
    /// Counts one more open of a number, and says which way it goes. `file` holds its bytes, if a file does, and has just been found
    /// unchanged; `back` makes a backing file of it, unless there is one, and `None` if the kernel is not to read it.
    pub(crate) fn open(
        &self,
        number: u64,
        file: Option<&File>,
        back: impl FnOnce(&File) -> Option<B>,
    ) -> Result<Way<B>, Otherwise> {
        let id = file.and_then(|file| file_id(file).ok());
        // The lock is held while the backing file is made, so that two opens do not make two.
        self.0.with(number, |opens| match opens.entry(number) {
            Entry::Vacant(vacant) => {
                let backing = file.filter(|_| id.is_some()).and_then(back);
                let (way, file) = match backing {
                    Some(backing) => (Way::Kernel(Arc::new(backing)), id),
                    None => (Way::Asked, None),
                };
                Ok(vacant.insert(Open { way, file, opens: 1 }).way.clone())
            }
            Entry::Occupied(mut open) => {
                let open = open.get_mut();
                if open.file.is_some() && open.file != id {
                    return Err(Otherwise);
                }
                open.opens += 1;
                Ok(open.way.clone())
            }
        })
    }

    /// Takes one open back. The kernel has ended its reads by then: it tells of a release afterwards.
    pub(crate) fn release(&self, number: u64) {
        let last = self.0.with(number, |opens| {
            let Entry::Occupied(mut open) = opens.entry(number) else { return None };
            open.get_mut().opens -= 1;
            if open.get().opens == 0 { Some(open.remove()) } else { None }
        });
        // Its id is given back here, outside the lock.
        drop(last);
    }

    /// How many numbers are open.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

fn file_id(file: &File) -> io::Result<FileId> {
    let stat = rustix::fs::fstat(file)?;
    Ok((stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> File {
        tempfile::tempfile().expect("a file")
    }

    fn id(way: Result<Way<u32>, Otherwise>) -> Option<u32> {
        match way.expect("the same way") {
            Way::Kernel(backing) => Some(*backing),
            Way::Asked => None,
        }
    }

    #[test]
    fn all_opens_of_a_number_go_one_way_to_the_last_release() {
        let (opens, file, other) = (Opens::default(), file(), file());
        assert_eq!(id(opens.open(7, Some(&file), |_| Some(1))), Some(1));
        // Another descriptor of the same file is the same file.
        let again = file.try_clone().expect("cloned");
        assert_eq!(id(opens.open(7, Some(&again), |_| panic!("made twice"))), Some(1));
        // Neither another file nor none can stand in while it is open.
        assert_eq!(opens.open(7, Some(&other), |_| Some(2)).err(), Some(Otherwise));
        assert_eq!(opens.open(7, None, |_| Some(2)).err(), Some(Otherwise));
        opens.release(7);
        assert_eq!(opens.open(7, Some(&other), |_| Some(2)).err(), Some(Otherwise));
        opens.release(7);
        assert_eq!(opens.len(), 0);
        assert_eq!(id(opens.open(7, Some(&other), |_| Some(2))), Some(2));
    }

    #[test]
    fn what_is_asked_for_stays_so_while_it_is_open() {
        let (opens, file) = (Opens::default(), file());
        assert_eq!(id(opens.open(7, None, |_| Some(1))), None);
        assert_eq!(id(opens.open(7, Some(&file), |_| Some(1))), None);
        opens.release(7);
        assert_eq!(id(opens.open(7, Some(&file), |_| Some(1))), None);
        opens.release(7);
        opens.release(7);
        // Where the kernel may not read it, it is asked for.
        assert_eq!(id(opens.open(7, Some(&file), |_| None)), None);
        opens.release(7);
        opens.release(7);
        assert_eq!(opens.len(), 0);
    }
}
