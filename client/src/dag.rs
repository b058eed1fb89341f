//! À la mode's task files: `provender dag run` and `provender dag import`.
//!
//! Owns reading and verifying such a file ([`File`]), its plan, and running what of it has not succeeded, each task in a scratch
//! folder of its own ([`run`](fn@run)). Invariants: nothing runs of a file in which anything is wrong; a task's key is its own hash, so
//! the store is asked about tasks and never about files. How one attempt is carried out is [`crate::run`]'s.

mod bencode;
mod engine;
mod file;
mod import;
mod plan;
mod report;
mod scratch;
mod spec;
mod stop;
mod task;
#[cfg(test)]
pub(crate) mod testing;

pub use bencode::BencodeError;
pub use engine::{DagError, Options, run};
pub use file::{Dependency, File, FileError, MAX_FILE, MAX_TASK, SCHEME, Task};
pub use import::import;
pub use report::{Done, Ended, Event, Events, Summary};
pub use scratch::SourceError;

/// The most commands at once: each takes some threads.
pub const MAX_JOBS: usize = 128;
