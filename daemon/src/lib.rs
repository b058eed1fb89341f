//! placeholder

pub mod meta;
