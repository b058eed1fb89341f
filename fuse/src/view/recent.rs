//! The inputs of the executions that were last looked into.
//!
//! Invariant: what is answered is no older than [`Settings::inputs_valid`](super::Settings::inputs_valid). So looking at each of an execution's many inputs
//! costs the source one question a second, not one for each.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use provender_core::ExecutionId;

use crate::source::{Entry, Input, Source, SourceError};

/// How many executions' inputs are kept.
const KEPT: usize = 8;

struct Answer {
    of: ExecutionId,
    at: Instant,
    inputs: Arc<[Input]>,
}

/// The last answers, the newest at the end.
pub(super) struct Recent {
    valid: Duration,
    answers: Mutex<VecDeque<Answer>>,
}

impl Recent {
    /// Answers are good for so long.
    pub(super) fn new(valid: Duration) -> Recent {
        Recent { valid, answers: Mutex::default() }
    }

    /// The inputs of an execution.
    pub(super) fn inputs(&self, source: &dyn Source, entry: &Entry) -> Result<Arc<[Input]>, SourceError> {
        // Before the source is asked: what it says may be as old as that.
        let at = Instant::now();
        {
            let mut answers = self.answers.lock();
            answers.retain(|answer| at.saturating_duration_since(answer.at) < self.valid);
            if let Some(answer) = answers.iter().find(|answer| answer.of == entry.id) {
                return Ok(answer.inputs.clone());
            }
        }
        let inputs = source.inputs(entry)?;
        if !self.valid.is_zero() {
            let mut answers = self.answers.lock();
            answers.retain(|answer| answer.of != entry.id);
            answers.push_back(Answer { of: entry.id, at, inputs: inputs.clone() });
            if answers.len() > KEPT {
                answers.pop_front();
            }
        }
        Ok(inputs)
    }
}
