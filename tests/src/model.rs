//! The reference model of the store, what drives the store beside it, and what judges concurrent histories by it.
//!
//! [`rules`] is the design's section 4 in plain words and maps, written without `provender_core`'s transitions: agreeing with them
//! would prove nothing if they were the same. [`choose`] makes cases that lead into rare corners, [`drive`] carries them out on a real
//! store over a [`world`] and compares all that can be seen after each step, [`linear`] searches concurrent histories for an order
//! that the model could have gone through.

pub mod choose;
pub mod collect;
pub mod count;
pub mod drive;
pub mod history;
pub mod linear;
pub mod rules;
pub mod see;
pub mod step;
pub mod things;
pub mod world;
