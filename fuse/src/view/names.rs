//! Which name or key a component stands for.
//!
//! Invariant: a component that is not shortened costs no question to the source, and a shortened one only those pages that hold
//! what begins with its stem. Whether what is found exists is not asked here.

use provender_core::view::{Decoded, decode, encode};
use provender_core::{Name, TaskKey};

use super::node::PAGE;
use super::{Context, ViewError};
use crate::source::{Branch, Page, SourceError};

/// The name that `component` makes of the names that begin with `prefix`.
pub(super) fn child(
    context: &Context,
    branch: Branch,
    prefix: Option<&Name>,
    component: &str,
) -> Result<Name, ViewError> {
    let part = whole(component, |after| context.source.children(branch, prefix, Some(after), PAGE))?;
    let name = match prefix {
        Some(prefix) => format!("{prefix}/{part}"),
        None => part,
    };
    Name::new(name).map_err(|_| ViewError::NotFound)
}

/// The key of a scheme that `component` stands for.
pub(super) fn key(context: &Context, scheme: &str, component: &str) -> Result<TaskKey, ViewError> {
    let id = whole(component, |after| context.source.keys(scheme, Some(after), PAGE))?;
    TaskKey::new(scheme, &id).map_err(|_| ViewError::NotFound)
}

/// The text that a component stands for; a shortened one is one of those that begin with its stem, which lie side by side.
fn whole(component: &str, ask: impl Fn(&str) -> Result<Page<String>, SourceError>) -> Result<String, ViewError> {
    let stem = match decode(component).ok_or(ViewError::NotFound)? {
        Decoded::Whole(text) => return Ok(text),
        Decoded::Shortened { stem } => stem,
    };
    let mut after = stem.clone();
    loop {
        let page = ask(&after)?;
        for text in &page.items {
            if !text.starts_with(&stem) {
                return Err(ViewError::NotFound);
            }
            if encode(text) == component {
                return Ok(text.clone());
            }
        }
        match page.items.into_iter().next_back() {
            Some(last) if page.more && last > after => after = last,
            _ => return Err(ViewError::NotFound),
        }
    }
}
