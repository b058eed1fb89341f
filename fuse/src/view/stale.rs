//! What of the kernel's knowledge is out of date once something has changed in the store.
//!
//! Invariant: it costs the source no question, and names only what the kernel holds.

use provender_core::view::{LATEST, encode};
use provender_core::{Name, TaskKey};

use super::View;
use super::inodes::PathId;
use super::node::{FAILED, KEYS, TASKS};
use crate::source::Branch;

/// Something that has changed in the store.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Change {
    /// What stands under exactly this name, or what its `latest` is.
    Name(Branch, Name),
    /// What answers for a key.
    Key(TaskKey),
}

/// Something that the kernel is to ask for again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stale {
    /// The attributes of a number.
    Attributes(u64),
    /// What a name in a directory stands for.
    Entry {
        /// The directory's number.
        parent: u64,
        /// The name.
        name: Box<[u8]>,
    },
}

impl View {
    /// What the kernel is to ask for again after a change.
    pub fn stale(&self, change: &Change) -> Vec<Stale> {
        let at = |parts: &[&str]| {
            let path = parts.iter().fold(PathId::ROOT, |path, part| path.child(part.as_bytes()));
            self.inodes.at(&path).map(|inode| inode.number)
        };
        let entry = |parent, name: &str| Stale::Entry { parent, name: name.as_bytes().into() };
        match change {
            Change::Name(branch, name) => {
                let parts: Vec<String> = name.parts().map(encode).collect();
                let top = match branch {
                    Branch::Tasks => TASKS,
                    Branch::Failed => FAILED,
                };
                let path: Vec<&str> = [top].into_iter().chain(parts.iter().map(String::as_str)).collect();
                let Some(number) = at(&path) else { return Vec::new() };
                let latest = (*branch == Branch::Tasks).then(|| entry(number, LATEST));
                [Stale::Attributes(number)].into_iter().chain(latest).collect()
            }
            Change::Key(key) => {
                let scheme = at(&[KEYS, key.scheme()]);
                scheme.map(|number| entry(number, &encode(key.id()))).into_iter().collect()
            }
        }
    }
}
