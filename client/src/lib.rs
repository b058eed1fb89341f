//! placeholder

pub mod files;
pub mod process;
