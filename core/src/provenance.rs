//! Provenance: how one artifact was made, as far as the store can tell.
//!
//! Owns the nouns of the walk over it. Edges are written by commits (see [`crate::rows`]); what they lead to is found when it is
//! asked for, since an input may name a key that the store learns of only later.

use crate::name::Name;
use crate::time::Timestamp;
use crate::tree::Node;

/// Where an ended execution stands in the mounted view.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The name that it stands under.
    pub name: Name,
    /// Its folder there.
    pub folder: String,
    /// When it ended.
    pub at: Timestamp,
}

/// Where an input came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin<Made> {
    /// A success made it.
    Made(Made),
    /// Nobody is known to have made it; the store holds its bytes.
    Held(Node),
    /// Nobody is known to have made it, and the store does not hold it.
    Unheld,
}
