//! Explanations <-> wire.

use prost::Message;
use provender_core::Name;
use provender_core::explain::Explanation;

use super::answer::{answer_from, answer_to};
use super::{Invalid, cause_from, cause_to, digest_from, digest_to, execution_from, execution_to, key, name, needed};
use crate::v1;

/// The longest reason in an explanation, in bytes.
const MAX_REASON: usize = 8 << 10;

/// How many bytes of causes one explanation tells of.
const CAUSES: usize = 1 << 20;

/// An explanation to wire. Causes beyond a megabyte are cut off.
pub fn explanation_to(mut of: Explanation) -> v1::explain_reply::Reason {
    let mut size = 0;
    let fitting = of.causes.iter().take_while(|cause| {
        size += cause_to(cause).encoded_len();
        size <= CAUSES
    });
    let fitting = fitting.count();
    of.truncated |= fitting < of.causes.len();
    of.causes.truncate(fitting);
    v1::explain_reply::Reason {
        key: of.key.to_string(),
        name: of.name.as_ref().map(Name::to_string).unwrap_or_default(),
        answer: Some(answer_to(of.answer, MAX_REASON)),
        attempts: of.attempts,
        last: of.last.as_ref().map(execution_to),
        nearest: of.nearest.as_ref().map(execution_to),
        causes: of.causes.iter().map(cause_to).collect(),
        truncated: of.truncated,
        lost: of.lost.iter().map(digest_to).collect(),
    }
}

/// An explanation from wire.
pub fn explanation_from(wire: v1::explain_reply::Reason) -> Result<Explanation, Invalid> {
    let mut of = Explanation::of(key(&wire.key)?, answer_from(needed("answer", wire.answer)?)?);
    if !wire.name.is_empty() {
        of.name = Some(name(&wire.name)?);
    }
    (of.attempts, of.truncated) = (wire.attempts, wire.truncated);
    of.last = wire.last.as_ref().map(execution_from).transpose()?;
    of.nearest = wire.nearest.as_ref().map(execution_from).transpose()?;
    of.causes = wire.causes.iter().map(cause_from).collect::<Result<_, _>>()?;
    of.lost = wire.lost.iter().map(|digest| digest_from("lost", digest)).collect::<Result<_, _>>()?;
    Ok(of)
}
