//! What stands in `inputs/` and `used-by/`.
//!
//! Invariant: a lookup costs one question to the source at most, unless it is for a consumer whose name was shortened. What a component
//! stands for is decided by writing the candidate's own; so each is found by the component that a listing gives.

use bytes::Bytes;
use provender_core::provenance::{Origin, Place};
use provender_core::view::{self, Decoded, decode_consumer, decode_input};
use provender_core::{Digest, Timestamp, tree};
use std::sync::Arc;

use super::node::{Kind, Node, PAGE};
use super::{Context, ViewError, link};
use crate::source::{Consumers, Entry, Input, SourceError};

/// The component of one of a success's inputs, and its type.
pub(super) fn component(inputs: &[Input], input: &Input) -> (Kind, String) {
    let kind = match &input.origin {
        Origin::Made(_) | Origin::Held(tree::Node::Symlink { .. }) => Kind::Link,
        Origin::Held(tree::Node::Directory { .. }) => Kind::Directory,
        Origin::Held(tree::Node::File { .. }) => Kind::File,
        Origin::Unheld => {
            let taken = named(inputs, &[&input.name, &b".json"[..]].concat()).is_some();
            return (Kind::File, view::unheld(&input.name, taken));
        }
    };
    (kind, view::input(&input.name))
}

fn named<'a>(inputs: &'a [Input], name: &[u8]) -> Option<&'a Input> {
    inputs.binary_search_by(|input| input.name[..].cmp(name)).ok().map(|at| &inputs[at])
}

/// The inputs that a component may stand for.
fn candidates<'a>(inputs: &'a [Input], decoded: &Decoded<Vec<u8>>) -> &'a [Input] {
    match decoded {
        Decoded::Whole(name) => named(inputs, name).map_or(&[], std::slice::from_ref),
        Decoded::Shortened { stem } => {
            let rest = &inputs[inputs.partition_point(|input| input.name[..] < stem[..])..];
            &rest[..rest.partition_point(|input| input.name.starts_with(stem))]
        }
    }
}

/// The input that `component` stands for.
pub(super) fn input(context: &Context, entry: &Arc<Entry>, of: &str) -> Result<Node, ViewError> {
    let inputs = context.recent.inputs(&*context.source, entry)?;
    let is_it = |input: &&Input| component(&inputs, input).1 == of;
    let find = |decoded| candidates(&inputs, &decoded).iter().find(is_it);
    let input = decode_input(of).find_map(find).ok_or(ViewError::NotFound)?;
    match &input.origin {
        Origin::Made(place) => link::edge(entry, place).map(link::node),
        Origin::Held(node) => {
            if let tree::Node::Symlink { target } = node {
                link::check_target(target)?;
            }
            Ok(Node::in_tree(node, entry.at))
        }
        Origin::Unheld => {
            let digest = Digest::of(&input.document);
            Ok(Node::Unheld { entry: entry.clone(), input: input.name[..].into(), digest })
        }
    }
}

/// The file that stands for an input, unless it says something else by now.
pub(super) fn document(context: &Context, entry: &Entry, name: &[u8], digest: &Digest) -> Result<Bytes, ViewError> {
    let inputs = context.recent.inputs(&*context.source, entry)?;
    let same = |input: &&Input| input.origin == Origin::Unheld && Digest::of(&input.document) == *digest;
    // Copied: what is open may outlive what it is a slice of.
    let document = named(&inputs, name).filter(same).map(|input| Bytes::copy_from_slice(&input.document));
    document.ok_or_else(|| SourceError::Stale.into())
}

/// The consumer that `component` stands for.
pub(super) fn consumer(context: &Context, entry: &Entry, of: &str) -> Result<Node, ViewError> {
    let (name, folder) = decode_consumer(of).ok_or(ViewError::NotFound)?;
    let place = match name {
        Some(name) => {
            let place = Place { name, folder: folder.to_owned(), at: Timestamp::default() };
            let at = context.source.is_consumer(entry, &place)?.map(|found| found.at);
            at.map(|at| Place { at, ..place })
        }
        None => shortened(context, entry, of)?,
    };
    link::edge(entry, &place.ok_or(ViewError::NotFound)?).map(link::node)
}

fn shortened(context: &Context, entry: &Entry, component: &str) -> Result<Option<Place>, ViewError> {
    let mut after = None;
    loop {
        let page = consumers(context, entry, after.as_ref())?;
        let found = page.items.into_iter().find(|place| view::consumer(&place.name, &place.folder) == component);
        match page.next {
            Some(next) if found.is_none() => after = Some(next),
            _ => return Ok(found),
        }
    }
}

/// A page of consumers, whose folders are folders, and which is not followed by itself.
pub(super) fn consumers(context: &Context, entry: &Entry, after: Option<&Bytes>) -> Result<Consumers, ViewError> {
    let page = context.source.consumers(entry, after, PAGE)?;
    page.items.iter().try_for_each(|place| link::check_folder(&place.folder))?;
    if page.next.is_some() && page.next.as_ref() == after {
        return Err(SourceError::Damaged { what: "a page of consumers is followed by itself".into() }.into());
    }
    Ok(page)
}
