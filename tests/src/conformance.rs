//! Conformance suites: what every implementation of a seam must do, as functions over any of them.

pub mod blobs;
pub mod meta;
