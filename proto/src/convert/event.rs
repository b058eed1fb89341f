//! What a watcher is told.

use provender_core::Timestamp;
use provender_core::event::{Event, MAX_REASON};

use super::{Invalid, cut, id_to, key, name, optional_id, verdict_from, verdict_to};
use crate::v1::watch_reply as v1;

/// Event to wire.
pub fn event_to(event: &Event) -> v1::Event {
    v1::Event {
        key: event.key.to_string(),
        name: event.name.as_ref().map(ToString::to_string).unwrap_or_default(),
        verdict: verdict_to(event.verdict).into(),
        execution: event.execution.map(id_to).unwrap_or_default(),
        reason: cut(event.reason.clone(), MAX_REASON),
        at_ms: event.at.millis(),
    }
}

/// Event from wire.
pub fn event_from(event: &v1::Event) -> Result<Event, Invalid> {
    let under = Some(&event.name).filter(|text| !text.is_empty());
    Ok(Event {
        key: key(&event.key)?,
        name: under.map(|text| name(text)).transpose()?,
        verdict: verdict_from(event.verdict)?,
        execution: optional_id("event.execution", &event.execution)?,
        reason: event.reason.clone(),
        at: Timestamp::from_millis(event.at_ms),
    })
}
