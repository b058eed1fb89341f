//! Where the view's own links lead.
//!
//! Invariant: they are relative, so that a copied tree works, and lead to an execution's folder below `/tasks`, whatever the
//! source says. A target longer than [`tree::MAX_TARGET`] (only hundreds of escapes or levels make one) is an error.

use provender_core::provenance::Place;
use provender_core::view::{encode, is_folder};
use provender_core::{Name, TaskKey, Timestamp, tree};

use super::node::Node;
use super::{Context, ViewError};
use crate::source::{Entry, SourceError};

/// A link's target, and its time.
type Link = (Box<[u8]>, Timestamp);

/// What stands for it.
pub(super) fn node((target, at): Link) -> Node {
    Node::Link { target, at }
}

/// What `latest` of a name leads to, from beside it.
pub(super) fn latest(context: &Context, name: &Name) -> Result<Link, ViewError> {
    let Entry { folder, at, .. } = context.source.latest(name)?.ok_or(ViewError::NotFound)?;
    check_folder(&folder)?;
    Ok((folder.into_bytes().into(), at))
}

/// What a key leads to, from its scheme's folder.
pub(super) fn record(context: &Context, key: &TaskKey) -> Result<Link, ViewError> {
    let place = context.source.record(key)?.ok_or(ViewError::NotFound)?;
    to("../../tasks/".into(), &place)
}

/// What an edge of a success leads to, from the folder of its inputs or consumers.
pub(super) fn edge(from: &Entry, place: &Place) -> Result<Link, ViewError> {
    // Out of that folder, of the execution's, and of one for each part of the name.
    to("../".repeat(2 + from.name.parts().count()), place)
}

fn to(up: String, place: &Place) -> Result<Link, ViewError> {
    check_folder(&place.folder)?;
    let parts: String = place.name.parts().map(|part| encode(part) + "/").collect();
    let target = [up, parts, place.folder.clone()].concat();
    check_target(target.as_bytes())?;
    Ok((target.into_bytes().into(), place.at))
}

/// Whether the source's word for a folder is one: it becomes a component, or part of a target.
pub(super) fn check_folder(folder: &str) -> Result<(), ViewError> {
    let no_folder = || SourceError::Damaged { what: format!("{folder:?} is no folder of an execution") };
    if is_folder(folder) { Ok(()) } else { Err(no_folder().into()) }
}

/// Whether the kernel could follow a link.
pub(super) fn check_target(target: &[u8]) -> Result<(), ViewError> {
    match target {
        _ if target.len() > tree::MAX_TARGET => Err(ViewError::LongTarget { size: target.len() }),
        _ if target.is_empty() || target.contains(&0) => {
            Err(SourceError::Damaged { what: "a symlink's target is empty or has a NUL byte".into() }.into())
        }
        _ => Ok(()),
    }
}
