//! Explanations: why a key is not SUCCEEDED, and in what it differs from the nearest success before.
//!
//! Owns [`Explanation`] and its text ([`lines`]). Invariant: each verdict has its answer, and each answer names what it rests on. It must not
//! know how any of it was found.

pub mod document;

use crate::answer::Answer;
use crate::compare::{Cause, text};
use crate::digest::Digest;
use crate::execution::{Execution, Verdict};
use crate::key::TaskKey;
use crate::lineage::readable;
use crate::name::Name;

/// The most attempts that are counted.
pub const MAX_ATTEMPTS: u64 = 100;

/// Why a key is not SUCCEEDED.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    /// The key.
    pub key: TaskKey,
    /// What it is called, if that is known.
    pub name: Option<Name>,
    /// What a lookup says.
    pub answer: Answer,
    /// How many attempts since its last success did not succeed; [`MAX_ATTEMPTS`] stands for as many or more.
    pub attempts: u64,
    /// Who is at it, the last attempt, or what made the record.
    pub last: Option<Execution>,
    /// Of LOST: what is, as far as it is known.
    pub lost: Vec<Digest>,
    /// The success under the name whose spec agrees most, if the key has none of its own.
    pub nearest: Option<Execution>,
    /// In what it differs from that, nearest first.
    pub causes: Vec<Cause>,
    /// Whether there are more causes.
    pub truncated: bool,
}

impl Explanation {
    /// Of a key of which only a lookup's answer is known.
    pub fn of(key: TaskKey, answer: Answer) -> Explanation {
        Explanation {
            key,
            name: None,
            answer,
            attempts: 0,
            last: None,
            lost: Vec::new(),
            nearest: None,
            causes: Vec::new(),
            truncated: false,
        }
    }
}

/// What people read: what the key is and why, then what differs from the nearest success.
pub fn lines(of: &Explanation, size: fn(u64) -> String) -> Vec<String> {
    let mut lines = vec![standing(of)];
    lines.extend(of.lost.iter().map(|blob| format!("  lost: blob:{} ({})", blob.hex(), size(blob.size))));
    if let Some(nearest) = &of.nearest {
        let at = nearest.ended.unwrap_or(nearest.began);
        let differs = match of.causes.is_empty() {
            true => ": nothing that is recorded differs",
            false => ", from which this differs in",
        };
        lines.push(format!("  nearest success: exec:{} of {at}{differs}", nearest.id));
        lines.extend(of.causes.iter().map(|cause| format!("    {}", text::cause(cause, size))));
        lines.extend(of.truncated.then(|| "    and more".to_owned()));
    }
    lines
}

/// One clause on why a task is run, for a list of many.
pub fn brief(of: &Explanation, size: fn(u64) -> String) -> String {
    let mut brief = match (of.answer.verdict, of.causes.first()) {
        (Verdict::Unknown, Some(cause)) => text::cause(cause, size),
        (Verdict::Unknown, None) => "never ran".to_owned(),
        (_, None) => standing_of(of),
        (_, Some(cause)) => format!("{}; {}", standing_of(of), text::cause(cause, size)),
    };
    let more = of.causes.len().saturating_sub(1);
    if more > 0 || of.truncated {
        brief.push_str(&format!(" (and {more}{} more)", if of.truncated { "+" } else { "" }));
    }
    brief
}

fn standing(of: &Explanation) -> String {
    let title = of.name.as_ref().map_or_else(|| of.key.to_string(), Name::to_string);
    let exec = of.answer.execution.map(|id| format!(" (exec:{id})")).unwrap_or_default();
    format!("{title} {}{exec}", standing_of(of))
}

/// What the key is, and why, without what it is called.
fn standing_of(of: &Explanation) -> String {
    let Answer { verdict, at, rule, .. } = &of.answer;
    let at = at.map(|at| format!(" at {at}")).unwrap_or_default();
    let reason = &readable(of.answer.reason.as_bytes());
    let because = || if reason.is_empty() { String::new() } else { format!(": {reason}") };
    match verdict {
        Verdict::Succeeded => format!("succeeded{at}"),
        Verdict::Running => format!("is running{}", because()),
        Verdict::Failed => format!("{}{at}{}", times("failed", of.attempts), because()),
        Verdict::Abandoned => format!("{}{at}{}", times("was abandoned", of.attempts), because()),
        // The reason says by whom and when.
        Verdict::Invalidated if reason.starts_with("invalidated ") => format!("was {reason}"),
        Verdict::Invalidated => format!("was invalidated{at}{}", because()),
        Verdict::Evicted => {
            let rule = rule.as_ref().map(|rule| format!(" (rule: {})", readable(rule.as_bytes())));
            let what = match reason.starts_with("evicted ") {
                true => format!("was {reason}"),
                false => format!("was collected{at}{}", because()),
            };
            what + &rule.unwrap_or_default()
        }
        Verdict::Lost => format!("is lost{}", because()),
        Verdict::Unknown => match (&of.name, &of.nearest) {
            (None, _) => "never ran, and what it stands for is not known".into(),
            (Some(_), None) => "never ran, and nothing else has succeeded under its name".into(),
            (Some(_), Some(_)) => "never ran like this".into(),
        },
    }
}

fn times(what: &str, attempts: u64) -> String {
    match attempts {
        0 | 1 => what.to_owned(),
        MAX_ATTEMPTS.. => format!("{what} (the last of {MAX_ATTEMPTS} or more attempts without a success)"),
        _ => format!("{what} (the last of {attempts} attempts without a success)"),
    }
}

#[cfg(test)]
mod tests;
