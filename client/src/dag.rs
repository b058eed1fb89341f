//! draft
pub mod bencode;
mod file;
mod plan;
mod spec;
#[cfg(test)]
pub(crate) mod testing;
pub use file::{Dependency, File, FileError, MAX_FILE, MAX_TASK, SCHEME, Task};
