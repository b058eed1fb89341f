//! Answers of lookups <-> wire.
//!
//! Invariant: the answers to one call fit into one message; where they are many, their reasons are cut.

use provender_core::{Answer, Timestamp};

use super::{Invalid, cut, digest_from, digest_to, id_to, optional_id, verdict_from, verdict_to};
use crate::v1;

/// How many bytes the reasons of one reply may take.
const REASONS: usize = 2 << 20;

/// The answers to one call to wire.
pub fn answers_to(answers: Vec<Answer>) -> Vec<v1::lookup_reply::Answer> {
    let most = REASONS / answers.len().max(1);
    answers.into_iter().map(|answer| answer_to(answer, most)).collect()
}

pub(super) fn answer_to(answer: Answer, most: usize) -> v1::lookup_reply::Answer {
    v1::lookup_reply::Answer {
        verdict: verdict_to(answer.verdict).into(),
        execution: answer.execution.map(id_to).unwrap_or_default(),
        outputs: answer.outputs.as_ref().map(digest_to),
        reason: cut(answer.reason, most),
        at_ms: answer.at.map(Timestamp::millis).unwrap_or_default(),
        blob: answer.blob.as_ref().map(digest_to),
        rule: answer.rule,
    }
}

/// Answer from wire.
pub fn answer_from(answer: v1::lookup_reply::Answer) -> Result<Answer, Invalid> {
    Ok(Answer {
        verdict: verdict_from(answer.verdict)?,
        execution: optional_id("execution", &answer.execution)?,
        outputs: answer.outputs.as_ref().map(|digest| digest_from("outputs", digest)).transpose()?,
        at: Some(answer.at_ms).filter(|at| *at > 0).map(Timestamp::from_millis),
        blob: answer.blob.as_ref().map(|digest| digest_from("blob", digest)).transpose()?,
        rule: answer.rule,
        reason: answer.reason,
    })
}
