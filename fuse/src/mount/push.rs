//! Telling the kernel what it is to ask for again.
//!
//! Invariant: it is told by a thread of its own that holds no lock, since the kernel may wait, while it takes it in, for an answer
//! that only the serving threads can give. What comes faster than the kernel takes it is dropped: the kernel asks again by itself
//! within a second.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Weak};

use fuser::{INodeNo, Notifier};
use parking_lot::Mutex;

use crate::view::{Change, Stale, View};

/// How many changes may wait to be told.
const WAITING: usize = 4096;

/// Where to tell what has changed in the store; it never waits.
#[derive(Debug, Clone)]
pub struct Changes(SyncSender<Change>);

impl Changes {
    /// Has the kernel ask again for what this change concerns.
    pub fn tell(&self, change: Change) {
        // Full, or the mount is over.
        _ = self.0.try_send(change);
    }
}

/// The connection that is served now, and its view.
pub(super) type Served = Arc<Mutex<Option<(Weak<View>, Notifier)>>>;

/// Begins to tell whatever connection is `served`, until the last [`Changes`] is dropped.
pub(super) fn start(served: Served) -> io::Result<Changes> {
    let (tell, told) = sync_channel(WAITING);
    std::thread::Builder::new().name("fuse-push".into()).spawn(move || push(&told, &served))?;
    Ok(Changes(tell))
}

fn push(told: &Receiver<Change>, served: &Served) {
    for change in told {
        let Some((view, kernel)) = served.lock().clone() else { continue };
        let Some(stale) = view.upgrade().map(|view| view.stale(&change)) else { continue };
        for stale in stale {
            let pushed = match &stale {
                // A negative offset: the attributes, and no content.
                Stale::Attributes(number) => kernel.inval_inode(INodeNo(*number), -1, 0),
                Stale::Entry { parent, name } => kernel.inval_entry(INodeNo(*parent), OsStr::from_bytes(name)),
            };
            if let Err(error) = pushed {
                tracing::debug!(%error, ?stale, "the kernel did not take in what has changed");
            }
        }
    }
}
