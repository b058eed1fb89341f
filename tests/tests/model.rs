//! The real store beside the reference model, on every metadata engine.

// Also in what tests call: a failed expectation is a failed test.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "model/concurrent.rs"]
mod concurrent;
#[path = "model/engines.rs"]
mod engines;
#[path = "model/machine.rs"]
mod machine;
