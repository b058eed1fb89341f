//! The conformance suites of both seams, over every backend.

#[path = "conformance/blobs.rs"]
mod blobs;

#[path = "conformance/meta/mod.rs"]
mod meta;
