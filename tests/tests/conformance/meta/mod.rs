//! The metadata engines under their one suite, and what is particular to each.

mod memory;
mod postgres;
mod rocks;
