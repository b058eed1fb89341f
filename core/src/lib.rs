//! The rules of provender as pure functions over plain types.
//!
//! Owns what the words of `docs/glossary.md` mean: digests, trees, keys, specs, executions, leases, provenance, batches.
//! Invariant: same arguments, same answer. It must not know I/O, async, clocks or randomness: `now` and fresh ids are
//! arguments (`clippy.toml` bans the rest).

pub mod answer;
pub mod batch;
pub mod blob;
pub mod collect;
pub mod compare;
pub mod diff;
pub mod digest;
pub mod encode;
pub mod event;
pub mod execution;
pub mod explain;
pub mod extent;
pub mod fields;
pub mod json;
pub mod key;
pub mod lease;
pub mod lineage;
pub mod lost;
pub mod name;
pub mod nearest;
pub mod policy;
pub mod provenance;
pub mod reference;
pub mod remarks;
pub mod rows;
pub mod search;
pub mod spec;
pub mod time;
pub mod transition;
pub mod tree;
pub mod view;

pub use answer::Answer;
pub use batch::{Batch, BatchId, RowKey, Table, Version};
pub use digest::Digest;
pub use execution::{Execution, ExecutionId, Verdict};
pub use key::TaskKey;
pub use name::{Name, Space};
pub use reference::Ref;
pub use spec::Spec;
pub use time::Timestamp;
pub use tree::{Node, Tree};
