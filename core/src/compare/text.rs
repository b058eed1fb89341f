//! A comparison for people: the causes first, one line each; then what came of them.
//!
//! Invariant: no text of others moves the cursor or begins a line.

mod values;

use std::fmt::Write;

use super::{Cause, Change, Comparison, Difference, Side, Told};
use crate::diff;
use crate::execution::Execution;
use crate::tree::Node;

pub(super) use values::around;
use values::{by_how_much, values};

/// How to print.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// Whether to tell of the causes.
    pub causes: bool,
    /// Whether to tell of the outputs.
    pub outputs: bool,
    /// Bytes for people.
    pub size: fn(u64) -> String,
}

/// The lines of a comparison: of its parts, those that there are, with an empty line between them. Metrics and labels stand between causes and
/// outputs, where both are asked for.
pub fn lines(of: &Comparison, layout: Layout) -> Vec<String> {
    let mut parts = Vec::new();
    if layout.causes {
        let mut part = Vec::new();
        if of.unrelated {
            part.push("they have nothing in common: these are other tasks, with other inputs".to_owned());
        } else if let Some((old, new)) = other_names(of) {
            part.push(format!("these are two tasks, {old} and {new}:"));
        }
        part.extend(of.causes.iter().map(|one| cause(one, layout.size)));
        if of.truncated_causes {
            part.push(format!("and more: these are the nearest {}", of.causes.len()));
        }
        if of.causes.is_empty() && !of.truncated_causes {
            part.extend(no_cause(of));
        }
        parts.push(part);
    }
    if layout.causes && layout.outputs {
        parts.push(table("metrics", &of.metrics.iter().collect::<Vec<_>>()));
        parts.push(table("labels", &of.labels.iter().filter(|change| change.differs()).collect::<Vec<_>>()));
    }
    if layout.outputs {
        parts.push(outputs(of, layout));
    }
    let mut lines = Vec::new();
    for part in parts.into_iter().filter(|part| !part.is_empty()) {
        if !lines.is_empty() {
            lines.push(String::new());
        }
        lines.extend(part);
    }
    lines
}

/// What two tasks are called, if that is not the same but for a prefix.
fn other_names(of: &Comparison) -> Option<(String, String)> {
    let name = |side: &Side| match side {
        Side::Execution(execution) => Some(readable(execution.name.as_str())),
        Side::Registered(_, name) => Some(readable(name.as_str())),
        Side::Blob(_) | Side::Tree(_) => None,
    };
    let (old, new) = name(&of.old).zip(name(&of.new))?;
    (old.rsplit('/').next() != new.rsplit('/').next() && !of.causes.is_empty()).then_some((old, new))
}

/// A cause, on one line.
pub fn cause(cause: &Cause, size: fn(u64) -> String) -> String {
    let name = readable(cause.name.as_str());
    match &cause.is {
        Difference::Field(change) => {
            let field = readable(&change.field);
            let secret = |told: &Option<Told>| matches!(told, Some(Told::Secret));
            match (&change.old, &change.new) {
                (None, None) => format!("{name}.{field}: differs"),
                (old, new) if secret(old) && secret(new) => format!("{name}.{field}: (secret) changed"),
                (old, new) => {
                    let (old, new) = values(old, new, field.starts_with("env."));
                    format!("{name}.{field}: {old} -> {new}")
                }
            }
        }
        Difference::Content { input, path, old, new } => {
            let mut at = format!("{name}/inputs/{}", readable_bytes(input));
            if !path.is_empty() {
                write!(at, "/{}", readable_bytes(path)).unwrap_or_default();
            }
            format!("{at}: {}", nodes(old.as_ref(), new.as_ref(), size))
        }
        Difference::Input { input, old, new } => {
            let from = |origin: &Option<String>| match origin {
                Some(origin) => readable(origin),
                None => "(none)".to_owned(),
            };
            format!("{name}/inputs/{}: {} -> {}", readable_bytes(input), from(old), from(new))
        }
        Difference::Unstable => {
            let id = |id: Option<_>| id.map(|id| format!("exec:{id}")).unwrap_or_default();
            let (old, new) = (id(cause.old), id(cause.new));
            format!("{name}: did the same with the same, and made something else ({old}, {new})")
        }
        Difference::Unknown { old, new } if old == new => format!("{name}: what it was made from is not known"),
        Difference::Unknown { old, new } => {
            let (old, new) = (readable(old.as_str()), readable(new.as_str()));
            format!("{name}: {old} -> {new} (nothing is known of what they differ in)")
        }
    }
}

/// What to say where no cause is known; nothing of trees and blobs that differ, which have none.
fn no_cause(of: &Comparison) -> Option<String> {
    Some(match (&of.old, &of.new) {
        (Side::Execution(old), Side::Execution(new)) if old.id == new.id => {
            format!("no difference: both are exec:{}", new.id)
        }
        (Side::Execution(old), Side::Execution(new)) => {
            let both = format!("exec:{}, exec:{}", old.id, new.id);
            match (old.outcome.outputs, new.outcome.outputs) {
                (Some(was), Some(is)) if was == is => {
                    format!("no difference: the same was done with the same, and made the same ({both})")
                }
                (Some(_), Some(_)) => format!("nothing is known of why they made something else ({both})"),
                _ => {
                    let (was, is) = (standing(old), standing(new));
                    format!("no difference in what was done: exec:{} is {was}, exec:{} is {is}", old.id, new.id)
                }
            }
        }
        (Side::Registered(old, _), Side::Registered(new, _)) if old == new => {
            format!("no difference: both are {}", readable(new.as_str()))
        }
        (Side::Blob(old), Side::Blob(new)) if old == new => format!("no difference: both are blob:{}", new.hex()),
        (Side::Tree(old), Side::Tree(new)) if old == new => format!("no difference: both are tree:{}", new.hex()),
        (Side::Blob(_) | Side::Tree(_), _) => return None,
        _ => "no difference in what is to be done".to_owned(),
    })
}

fn standing(execution: &Execution) -> &'static str {
    execution.state.verdict().as_str()
}

/// A table of two sides and, of numbers, what they differ by.
fn table(title: &str, changes: &[&Change]) -> Vec<String> {
    let mut rows = Vec::new();
    for change in changes {
        let (old, new) = values(&change.old, &change.new, false);
        let by = match (&change.old, &change.new) {
            (Some(Told::Value(old)), Some(Told::Value(new))) => by_how_much(old, new).unwrap_or_default(),
            _ => String::new(),
        };
        rows.push([readable(&change.field), old, new, by]);
    }
    if rows.is_empty() {
        return Vec::new();
    }
    let mut widths = [0; 4];
    for row in &rows {
        widths.iter_mut().zip(row).for_each(|(width, cell)| *width = (*width).max(cell.chars().count()));
    }
    let line = |row: &[String; 4]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        format!("  {}", cells.collect::<Vec<_>>().join("  ")).trim_end().to_owned()
    };
    [title.to_owned()].into_iter().chain(rows.iter().map(line)).collect()
}

fn outputs(of: &Comparison, layout: Layout) -> Vec<String> {
    let mut lines = Vec::new();
    for one in &of.outputs {
        lines.push(format!("  {}", output(one, layout.size)));
    }
    if of.truncated_outputs {
        lines.push(format!("  and more: these are the first {}", of.outputs.len()));
    }
    if let Some(why) = &of.unread {
        lines.push(format!("  the rest cannot be compared: {}", readable(why)));
    }
    if lines.is_empty() {
        lines.extend(no_outputs(of, layout.causes));
        return lines;
    }
    lines.insert(0, "outputs".to_owned());
    lines
}

/// What to say where no path differs.
fn no_outputs(of: &Comparison, after_causes: bool) -> Option<String> {
    let outputs = |side: &Side| match side {
        Side::Execution(execution) => execution.outcome.outputs,
        _ => None,
    };
    let called = |side: &Side| match side {
        Side::Execution(execution) => format!("exec:{} ({})", execution.id, standing(execution)),
        Side::Registered(key, _) => format!("{} (never attempted)", readable(key.as_str())),
        Side::Blob(digest) => format!("blob:{}", digest.hex()),
        Side::Tree(digest) => format!("tree:{}", digest.hex()),
    };
    let (old, new) = (outputs(&of.old), outputs(&of.new));
    match (&of.old, &of.new) {
        (Side::Blob(_) | Side::Tree(_), _) => no_cause(of).filter(|_| !after_causes),
        // Who compares plans asks for no outputs.
        (Side::Registered(..), Side::Registered(..)) if after_causes => None,
        // It was said of the whole.
        _ if after_causes && of.causes.is_empty() && old == new => None,
        _ if old.is_some() && old == new => Some("outputs are the same".to_owned()),
        _ => {
            let none = [&of.old, &of.new].into_iter().filter(|side| outputs(side).is_none()).map(called);
            let none: Vec<_> = none.collect();
            match &none[..] {
                [] => None,
                [one] => Some(format!("outputs cannot be compared: {one} has none")),
                both => Some(format!("outputs cannot be compared: neither {} has any", both.join(" nor "))),
            }
        }
    }
}

/// A path at which outputs differ, on one line.
fn output(one: &diff::Difference, size: fn(u64) -> String) -> String {
    let path = if one.path.is_empty() { String::new() } else { format!("  {}", readable_bytes(&one.path)) };
    let what = match (&one.old, &one.new) {
        (Some(old), Some(new)) => nodes(Some(old), Some(new), size),
        (old, new) => old.as_ref().or(new.as_ref()).map(|node| brief(node, size)).unwrap_or_default(),
    };
    format!("{}{path}  {what}", one.kind())
}

/// What stands at a path on both sides.
fn nodes(old: Option<&Node>, new: Option<&Node>, size: fn(u64) -> String) -> String {
    match (old, new) {
        (Some(Node::File { digest: was, executable: old }), Some(Node::File { digest: is, executable: new })) => {
            let now = if *new { "now executable" } else { "no longer executable" };
            let (was_size, is_size) = (size(was.size), size(is.size));
            match (was == is, old == new) {
                (true, _) => format!("{is_size}, {now}"),
                (false, true) if was.size == is.size => format!("{is_size}, other bytes"),
                (false, true) => format!("{was_size} -> {is_size}"),
                (false, false) => format!("{was_size} -> {is_size}, {now}"),
            }
        }
        (Some(Node::Directory { .. }), Some(Node::Directory { .. })) => {
            "the folders differ (what is in them is not in the store)".to_owned()
        }
        (Some(old), Some(new)) => format!("{} -> {}", brief(old, size), brief(new, size)),
        (None, Some(new)) => format!("added, {}", brief(new, size)),
        (Some(old), None) => format!("removed, {}", brief(old, size)),
        (None, None) => String::new(),
    }
}

fn brief(node: &Node, size: fn(u64) -> String) -> String {
    match node {
        Node::File { digest, executable } => {
            format!("{}{}", size(digest.size), if *executable { ", executable" } else { "" })
        }
        Node::Symlink { target } => format!("a link to {}", readable_bytes(target)),
        Node::Directory { .. } => "a folder".to_owned(),
    }
}

/// Text of others: what would move the cursor or begin another line is escaped.
fn readable(text: &str) -> String {
    let each = |c: char| if c.is_control() { c.escape_default().collect() } else { String::from(c) };
    text.chars().map(each).collect()
}

fn readable_bytes(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => readable(text),
        Err(_) => bytes.escape_ascii().to_string(),
    }
}
