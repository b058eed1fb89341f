//! What two things differ in, both ways.

use provender_core::compare::{Cause, Change, Difference, Side, Told};
use provender_core::{TaskKey, diff};

use super::{
    Invalid, digest_from, digest_to, execution_from, execution_to, id_to, key, name, needed, node_from, node_to,
    optional_id,
};
use crate::v1;

/// A field of two sides to wire.
pub fn change_to(change: &Change) -> v1::Change {
    let value = |told: &Option<Told>| match told {
        Some(Told::Value(value)) => Some(value.to_string()),
        _ => None,
    };
    v1::Change {
        field: change.field.clone(),
        old: value(&change.old),
        new: value(&change.new),
        old_secret: change.old == Some(Told::Secret),
        new_secret: change.new == Some(Told::Secret),
    }
}

/// A field of two sides from wire.
pub fn change_from(change: &v1::Change) -> Result<Change, Invalid> {
    let told = |value: &Option<String>, secret| match value {
        _ if secret => Ok(Some(Told::Secret)),
        None => Ok(None),
        Some(text) => match serde_json::from_str(text) {
            Ok(value) => Ok(Some(Told::Value(value))),
            Err(error) => Err(Invalid::new("change", format!("{}: {error}", change.field))),
        },
    };
    let (old, new) = (told(&change.old, change.old_secret)?, told(&change.new, change.new_secret)?);
    Ok(Change { field: change.field.clone(), old, new })
}

/// A cause to wire.
pub fn cause_to(cause: &Cause) -> v1::Cause {
    use v1::cause::{Content, Input, Is, Unknown, Unstable};
    let is = match &cause.is {
        Difference::Field(change) => Is::Field(change_to(change)),
        Difference::Content { input, path, old, new } => Is::Content(Content {
            input: input.clone(),
            path: path.clone(),
            old: old.as_ref().map(node_to),
            new: new.as_ref().map(node_to),
        }),
        Difference::Input { input, old, new } => Is::Input(Input {
            input: input.clone(),
            old: old.clone().unwrap_or_default(),
            new: new.clone().unwrap_or_default(),
        }),
        Difference::Unstable => Is::Unstable(Unstable {}),
        Difference::Unknown { old, new } => Is::Unknown(Unknown { old: old.to_string(), new: new.to_string() }),
    };
    v1::Cause {
        name: cause.name.to_string(),
        key: cause.key.to_string(),
        old_execution: cause.old.map(id_to).unwrap_or_default(),
        new_execution: cause.new.map(id_to).unwrap_or_default(),
        distance: cause.distance,
        is: Some(is),
    }
}

/// A cause from wire.
pub fn cause_from(cause: &v1::Cause) -> Result<Cause, Invalid> {
    use v1::cause::Is;
    let some = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let is = match needed("cause.is", cause.is.as_ref())? {
        Is::Field(change) => Difference::Field(change_from(change)?),
        Is::Content(content) => Difference::Content {
            input: content.input.clone(),
            path: content.path.clone(),
            old: content.old.as_ref().map(node_from).transpose()?,
            new: content.new.as_ref().map(node_from).transpose()?,
        },
        Is::Input(input) => {
            Difference::Input { input: input.input.clone(), old: some(&input.old), new: some(&input.new) }
        }
        Is::Unstable(_) => Difference::Unstable,
        Is::Unknown(unknown) => Difference::Unknown { old: key(&unknown.old)?, new: key(&unknown.new)? },
    };
    Ok(Cause {
        name: name(&cause.name)?,
        key: key(&cause.key)?,
        old: optional_id("cause.old_execution", &cause.old_execution)?,
        new: optional_id("cause.new_execution", &cause.new_execution)?,
        distance: cause.distance,
        is,
    })
}

/// What is compared to wire.
pub fn side_to(side: &Side) -> v1::diff_reply::Side {
    use v1::diff_reply::side::{Is, Registered};
    let registered =
        |key: &TaskKey, name: &provender_core::Name| Registered { key: key.to_string(), name: name.to_string() };
    let is = match side {
        Side::Execution(execution) => Is::Execution(execution_to(execution)),
        Side::Registered(key, name) => Is::Registered(registered(key, name)),
        Side::Blob(digest) => Is::Blob(digest_to(digest)),
        Side::Tree(digest) => Is::Tree(digest_to(digest)),
    };
    v1::diff_reply::Side { is: Some(is) }
}

/// What is compared from wire.
pub fn side_from(side: &v1::diff_reply::Side) -> Result<Side, Invalid> {
    use v1::diff_reply::side::Is;
    Ok(match needed("side.is", side.is.as_ref())? {
        Is::Execution(execution) => Side::Execution(Box::new(execution_from(execution)?)),
        Is::Registered(registered) => Side::Registered(key(&registered.key)?, name(&registered.name)?),
        Is::Blob(digest) => Side::Blob(digest_from("side.blob", digest)?),
        Is::Tree(digest) => Side::Tree(digest_from("side.tree", digest)?),
    })
}

/// A path at which outputs differ to wire.
pub fn output_to(output: &diff::Difference) -> v1::diff_reply::Output {
    let (old, new) = (output.old.as_ref().map(node_to), output.new.as_ref().map(node_to));
    v1::diff_reply::Output { path: output.path.clone(), old, new }
}

/// A path at which outputs differ from wire.
pub fn output_from(output: &v1::diff_reply::Output) -> Result<diff::Difference, Invalid> {
    let node = |node: &Option<v1::Node>| node.as_ref().map(node_from).transpose();
    Ok(diff::Difference { path: output.path.clone(), old: node(&output.old)?, new: node(&output.new)? })
}
