//! What several test binaries share: conformance suites, and the real servers that they run against.

// This package is tests only: here a failed expectation is a failed test.
#![allow(clippy::unwrap_used, clippy::panic)]

pub mod bucket;
pub mod child;
pub mod conformance;
pub mod daemon;
pub mod faulty;
pub mod loop_disk;
pub mod model;
pub mod postgres;
pub mod provender;
pub mod simulation;
pub mod syscalls;
