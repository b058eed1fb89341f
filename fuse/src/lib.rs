//! The mounted view: a store as a read-only file system.
//!
//! Owns the [`Source`] seam that a store is seen through, the [`View`] over it (inode table, lookup, listings, reads), and its
//! [`Mount`] by way of the kernel's FUSE. Invariant: nothing under a mount can be changed, and what is read there is what the
//! source gave, whole: a fault is an error, never a short file. It must not know gRPC, RocksDB, or how a source finds things.

mod adapter;
mod errno;
mod files;
pub mod memory;
mod mount;
mod opens;
mod passing;
mod requests;
mod shards;
pub mod source;
mod view;
mod watchdog;

pub use files::allow_many_files;
pub use mount::{Changes, Mount, MountError, Options, unmount};
pub use requests::{ANSWER, Request, Requests, time_left};
pub use source::{Branch, Consumers, Content, Document, Entry, Input, Page, ReadAt, Source, SourceError};
pub use view::{Attributes, Change, Found, Item, Kind, OpenFile, ROOT, Settings, Stale, View, ViewError};
pub use watchdog::{PATIENCE, WATCHDOG_ARG, watchdog_main};
