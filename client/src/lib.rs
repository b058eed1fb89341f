//! The client: a daemon's API, and what people do with it.
//!
//! Owns the connection ([`Client`]), moving files ([`files`], [`transfer`]), supervising commands ([`process`]), and the engines
//! of `provender run` and `provender dag run` ([`run`], [`dag`]). It must not know RocksDB or how arguments are parsed.

mod client;
pub mod dag;
mod error;
pub mod files;
mod patience;
pub mod process;
pub mod put;
pub mod remote;
pub mod run;
pub mod transfer;

pub use client::{
    BackupPhase, BackupProgress, BackupSummary, Begin, Begun, Client, Described, Download, GcSummary, Going, Heard,
    Invalidate, Lineage, Named, PinId, Registered, Task, Usage, UsageBy, UsageGroup, Verified, Watch, Watching,
};
pub use error::ClientError;
pub use remote::Remote;
