//! What is told of invalidated keys, both ways.

use provender_core::transition::invalidate::Voided;
use provender_core::{Name, TaskKey};

use super::{Invalid, id_to, key, name, optional_id, verdict_from, verdict_to};
use crate::v1::invalidate_reply::Entry;

/// What became of a key, to wire.
pub fn voided_to(voided: &Voided) -> Entry {
    Entry {
        key: voided.key.as_ref().map(TaskKey::to_string).unwrap_or_default(),
        name: voided.name.as_ref().map(Name::to_string).unwrap_or_default(),
        record: voided.record.map(id_to).unwrap_or_default(),
        withdrawn: voided.withdrawn.map(id_to).unwrap_or_default(),
        verdict: verdict_to(voided.verdict).into(),
        reason: voided.reason.clone(),
        downstream: voided.downstream,
    }
}

/// What became of a key, from wire.
pub fn voided_from(entry: &Entry) -> Result<Voided, Invalid> {
    let some = |text: &str| !text.is_empty();
    Ok(Voided {
        key: some(&entry.key).then(|| key(&entry.key)).transpose()?,
        name: some(&entry.name).then(|| name(&entry.name)).transpose()?,
        record: optional_id("record", &entry.record)?,
        withdrawn: optional_id("withdrawn", &entry.withdrawn)?,
        verdict: verdict_from(entry.verdict)?,
        reason: entry.reason.clone(),
        downstream: entry.downstream,
    })
}
