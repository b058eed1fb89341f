//! `provenderd`: one store behind its fronts.
//!
//! Owns configuration, the [`store::Store`] that every front calls, the metadata engines ([`meta`]), the gRPC and HTTP fronts
//! ([`serve`]) and the mounted view's source ([`view`]) and mount. Arrows: fronts -> store -> meta, blobs. Rules are `provender_core`'s.

pub mod backup;
pub mod clock;
pub mod config;
pub mod data;
pub mod meta;
pub mod metrics;
pub mod migrate;
mod mount;
pub mod restore;
pub mod run;
pub mod serve;
pub mod store;
pub mod view;
