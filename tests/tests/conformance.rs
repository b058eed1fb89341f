//! The conformance suites of both seams, over every backend.

// Also in what tests call: a failed expectation is a failed test.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "conformance/blobs.rs"]
mod blobs;

#[path = "conformance/meta/mod.rs"]
mod meta;
