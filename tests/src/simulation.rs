//! A simulation.

pub mod audit;
