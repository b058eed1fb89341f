//! Whether the kernel reads files by itself, as far as it is allowed and able to (passthrough: the kernel's
//! Documentation/filesystems/fuse/fuse-passthrough.rst).
//!
//! Invariant: what it cannot is read through this process, and said once.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use fuser::{BackingId, InitFlags, KernelConfig, ReplyOpen};
use rustix::io::Errno;

/// Passing files to the kernel.
#[derive(Debug)]
pub(crate) struct Passing {
    /// Whether the kernel may still be asked.
    on: AtomicBool,
    /// How many file systems may lie between us and a backing file's own: with 2, a store may lie on a stacked file system; with 1, a stacked
    /// one may lie on the mount.
    depth: u32,
    /// Whether it was said that some files lie too deep.
    told: AtomicBool,
}

impl Passing {
    /// Of files of which some lie on a stacked file system, or none.
    pub(crate) fn new(on: bool, stacked: bool) -> Passing {
        let depth = if stacked { 2 } else { 1 };
        Passing { on: AtomicBool::new(on), depth, told: AtomicBool::new(false) }
    }

    /// Agrees with the kernel upon it.
    pub(crate) fn agree(&self, config: &mut KernelConfig) {
        if !self.on.load(Ordering::Relaxed) {
            return;
        }
        let depth = config.set_max_stack_depth(self.depth);
        if depth.is_err() || config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_err() {
            self.on.store(false, Ordering::Relaxed);
            tracing::info!(
                "this kernel cannot read files of the mounted view by itself; they are read through this process"
            );
        }
    }

    /// A backing file for the kernel to read; `None` where it cannot.
    pub(crate) fn back(&self, reply: &ReplyOpen, file: &File) -> Option<BackingId> {
        if !self.on.load(Ordering::Relaxed) {
            return None;
        }
        reply.open_backing(file).map_err(|error| self.refused(&error)).ok()
    }

    fn refused(&self, error: &io::Error) {
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOMEM | Errno::MFILE | Errno::NFILE) => {
                tracing::warn!(%error, "a file could not be handed to the kernel; it is read through this process");
            }
            // One folder of files may be stacked deeper than another.
            Some(Errno::LOOP) if !self.told.swap(true, Ordering::Relaxed) => {
                let why = "their file system is stacked too deep";
                tracing::info!(%error, why, "some files of the mounted view are read through this process");
            }
            Some(Errno::LOOP) => {}
            errno if self.on.swap(false, Ordering::Relaxed) => {
                let why = if errno == Some(Errno::PERM) { "it takes CAP_SYS_ADMIN" } else { "the kernel refuses" };
                tracing::info!(%error, why, "files of the mounted view are read through this process, not by the kernel itself");
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_concerns_one_file_does_not_end_it_for_all() {
        let passing = Passing::new(true, false);
        for one in [Errno::LOOP, Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::LOOP] {
            passing.refused(&one.into());
            assert!(passing.on.load(Ordering::Relaxed), "{one}");
        }
        passing.refused(&Errno::PERM.into());
        assert!(!passing.on.load(Ordering::Relaxed));
    }
}
