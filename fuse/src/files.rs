//! Opening and closing files: the view's content, by the way that all opens of a number go.

use std::fs::File;
use std::sync::Arc;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::opens::{Opens, Otherwise, Way};
use crate::view::{View, ViewError};

/// Lets this process have as many files open as it may at most: each file, connection and queue takes one, and the usual soft limit is a
/// thousand.
pub fn allow_many_files() -> std::io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?)
}

/// The files of a view that are open, with backing files of type `B`.
pub(crate) struct Files<B> {
    view: Arc<View>,
    opens: Opens<B>,
}

/// An open file.
#[derive(Debug)]
pub(crate) struct Opened<B> {
    /// Good until [`Files::release`].
    pub(crate) handle: u64,
    /// How its bytes are read.
    pub(crate) way: Way<B>,
}

impl<B> Files<B> {
    pub(crate) fn new(view: Arc<View>) -> Files<B> {
        Files { view, opens: Opens::default() }
    }

    /// Opens a number. `back` makes a backing file of its content, if the kernel is to read it by itself.
    pub(crate) fn open(&self, number: u64, back: impl FnOnce(&File) -> Option<B>) -> Result<Opened<B>, ViewError> {
        let content = self.view.content(number)?;
        match self.opens.open(number, content.file(), back) {
            Ok(way) => {
                // The kernel holds a backing file by itself.
                let content = matches!(way, Way::Asked).then_some(content);
                Ok(Opened { handle: self.view.hold(number, content), way })
            }
            Err(Otherwise) => {
                self.view.retire(number);
                Err(ViewError::Retired)
            }
        }
    }

    /// Closes a handle.
    pub(crate) fn release(&self, handle: u64) {
        if let Some(number) = self.view.release(handle) {
            self.opens.release(number);
        }
    }

    /// How many numbers are open.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.opens.len()
    }
}
