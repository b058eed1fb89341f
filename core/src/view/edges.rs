//! The components of provenance: what stands in `inputs/` and in `used-by/`.
//!
//! Invariant: the inputs of one execution have different components, whatever bytes they are called by and whichever of them the
//! store holds; so have the folders of its consumers. None of the view's words stands in these folders, so that none is escaped.

use super::{CUT, Decoded, MAX_COMPONENT, component, is_folder, parse, text};
use crate::name::Name;

/// What ends the component of an input that the store does not hold.
const DOCUMENT: &str = ".json";
/// The same where an input is called like that; nothing else ever writes a dot so, but for the first of a lone `.` or `..`.
const ESCAPED_DOCUMENT: &str = "%2Ejson";

/// An input as a path component, by the rules of [`super::encode`]; each byte that is no UTF-8 is percent-encoded too.
pub fn input(name: &[u8]) -> String {
    component(name, false, MAX_COMPONENT)
}

/// An input that the store does not hold, as a path component: `<input>.json`, of at most 255 bytes with its end. `taken` says
/// whether the same execution has an input of this name and `.json`: then the dot is written as `%2E`.
pub fn unheld(name: &[u8], taken: bool) -> String {
    let end = if taken { ESCAPED_DOCUMENT } else { DOCUMENT };
    let stem = component(name, false, MAX_COMPONENT - end.len());
    // No other component ends in a hash and `.json`.
    let end = if stem.contains(CUT) { DOCUMENT } else { end };
    stem + end
}

/// The inputs that a component may stand for: those whose own component, by [`input`] or [`unheld`], is this one.
pub fn decode_input(component: &str) -> impl Iterator<Item = Decoded<Vec<u8>>> {
    let ends = [Some(component), component.strip_suffix(DOCUMENT), component.strip_suffix(ESCAPED_DOCUMENT)];
    ends.into_iter().flatten().filter_map(parse)
}

/// A consumer as a path component: `<name>@<folder>`, where a `/` of the name is `%2F`, and the name is shortened as far as it
/// takes for the whole to have at most 255 bytes. `folder` must be one (see [`is_folder`]).
pub fn consumer(name: &Name, folder: &str) -> String {
    let max = MAX_COMPONENT.saturating_sub("@".len() + folder.len());
    format!("{}@{folder}", component(name.as_str().as_bytes(), false, max))
}

/// The reverse of [`consumer`]: the name, unless it is shortened, and the folder. `None` for what it never writes.
pub fn decode_consumer(component: &str) -> Option<(Option<Name>, &str)> {
    let (name, folder) = component.rsplit_once('@').filter(|(_, folder)| is_folder(folder))?;
    match text(parse(name)?)? {
        Decoded::Whole(name) => {
            let name = Name::new(name).ok().filter(|name| consumer(name, folder) == component)?;
            Some((Some(name), folder))
        }
        Decoded::Shortened { .. } => Some((None, folder)),
    }
}
