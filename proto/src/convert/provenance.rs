//! Where things stand and came from, both ways.

use bytes::Bytes;
use provender_core::Timestamp;
use provender_core::provenance::{Branch, Origin, Place};
use provender_core::spec::Input;

use super::{Invalid, input_from, input_to, name, needed, node_from, node_to};
use crate::v1;

/// Branch to wire.
pub fn branch_to(branch: Branch) -> v1::Branch {
    match branch {
        Branch::Tasks => v1::Branch::Tasks,
        Branch::Failed => v1::Branch::Failed,
    }
}

/// Branch from wire.
pub fn branch_from(branch: i32) -> Result<Branch, Invalid> {
    match v1::Branch::try_from(branch) {
        Ok(v1::Branch::Tasks) => Ok(Branch::Tasks),
        Ok(v1::Branch::Failed) => Ok(Branch::Failed),
        _ => Err(Invalid::new("branch", format!("{branch} is no branch that this version knows"))),
    }
}

/// Place to wire.
pub fn place_to(place: &Place) -> v1::Place {
    v1::Place { name: place.name.to_string(), folder: place.folder.clone(), at_ms: place.at.millis() }
}

/// Place from wire.
pub fn place_from(place: &v1::Place) -> Result<Place, Invalid> {
    let at = Timestamp::from_millis(place.at_ms);
    Ok(Place { name: name(&place.name)?, folder: place.folder.clone(), at })
}

/// An input and its origin to wire.
pub fn origin_to(name: &Bytes, input: &Input, origin: &Origin<Place>) -> v1::inputs_reply::Entry {
    use v1::inputs_reply::Unheld;
    use v1::inputs_reply::entry::Origin as Wire;
    let origin = match origin {
        Origin::Made(place) => Wire::Made(place_to(place)),
        Origin::Held(node) => Wire::Held(node_to(node)),
        Origin::Unheld => Wire::Unheld(Unheld {}),
    };
    v1::inputs_reply::Entry { input: Some(input_to(name, input)), origin: Some(origin) }
}

/// An input and its origin from wire.
pub fn origin_from(entry: &v1::inputs_reply::Entry) -> Result<(Bytes, Origin<Place>, Input), Invalid> {
    use v1::inputs_reply::entry::Origin as Wire;
    let origin = match needed("origin", entry.origin.as_ref())? {
        Wire::Made(place) => Origin::Made(place_from(place)?),
        Wire::Held(node) => Origin::Held(node_from(node)?),
        Wire::Unheld(_) => Origin::Unheld,
    };
    let (name, input) = input_from(needed("input", entry.input.as_ref())?)?;
    Ok((name, origin, input))
}
