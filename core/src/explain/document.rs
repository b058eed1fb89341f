//! An explanation as JSON: what `why --json` prints.

use serde_json::{Value, json};

use super::Explanation;
use crate::compare::document::cause;
use crate::json::{V, digest, execution};

/// The document. See [`crate::json`] for what holds of all of them.
pub fn explanation(of: &Explanation) -> Value {
    let answer = &of.answer;
    json!({
        "v": V,
        "key": of.key.as_str(),
        "name": of.name.as_ref().map(|name| name.as_str()),
        "verdict": answer.verdict.as_str(),
        "reason": Some(&answer.reason).filter(|reason| !reason.is_empty()),
        "at": answer.at.map(|at| at.to_string()),
        "rule": answer.rule,
        "attempts": of.attempts,
        "last": of.last.as_ref().map(execution),
        "lost": of.lost.iter().map(digest).collect::<Vec<_>>(),
        "nearest": of.nearest.as_ref().map(execution),
        "causes": of.causes.iter().map(cause).collect::<Vec<_>>(),
        "truncated": of.truncated,
    })
}
