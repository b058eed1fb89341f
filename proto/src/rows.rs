//! The values of metadata rows: protobuf, so that fields can be added without a migration.

use bytes::Bytes;
use prost::Message;
use provender_core::blob::{Alias, Form, PackFrame, PackUse, Pin, Pinned, Place, Stored};
use provender_core::collect::{Collected, References, Tally};
use provender_core::event::{Event, MAX_REASON, Noted};
use provender_core::lease::Lease;
use provender_core::lost::{Damage, Loss};
use provender_core::name::NameRow;
use provender_core::spec::Spec;
use provender_core::transition::{KeyRow, Last};
use provender_core::{Digest, Execution, ExecutionId, TaskKey, Timestamp};

use crate::convert::{self, Invalid};
use crate::store::v1 as store;
use crate::v1;

/// A row that cannot be read: damaged, or written by a later version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// The bytes are no protobuf message.
    #[error("the row cannot be decoded")]
    Decode(#[from] prost::DecodeError),
    /// A field is not as it must be.
    #[error("the row is not valid")]
    Invalid(#[from] Invalid),
}

/// The row of a key.
pub fn key_to(row: &KeyRow) -> Bytes {
    let last = row.last.as_ref().map(|last| store::Last {
        execution: convert::id_to(last.execution),
        state: convert::state_to(last.state).into(),
        at_ms: last.at.millis(),
    });
    let (record, spec) = (row.record.as_ref().map(convert::record_to), row.spec.as_ref().map(convert::digest_to));
    let collected = row.collected.as_ref().map(|collected| store::Collected {
        at_ms: collected.at.millis(),
        rule: collected.rule.clone(),
        reason: collected.reason.clone(),
    });
    store::KeyRow { record, last, spec, leaving: row.leaving, collected }.encode_to_vec().into()
}

/// The row of a key.
pub fn key_from(bytes: Bytes) -> Result<KeyRow, RowError> {
    let row = store::KeyRow::decode(bytes)?;
    let last = row.last.map(|last| {
        let execution = convert::execution_id("last.execution", &last.execution)?;
        let state = convert::state_from(last.state)?;
        Ok::<_, Invalid>(Last { execution, state, at: Timestamp::from_millis(last.at_ms) })
    });
    let record = row.record.as_ref().map(convert::record_from).transpose()?;
    let spec = row.spec.as_ref().map(|spec| convert::digest_from("spec", spec)).transpose()?;
    let collected = row.collected.map(|collected| {
        let store::Collected { at_ms, rule, reason } = collected;
        Collected { at: Timestamp::from_millis(at_ms), rule, reason }
    });
    Ok(KeyRow { record, last: last.transpose()?, spec, leaving: row.leaving, collected })
}

/// The row of a lease.
pub fn lease_to(lease: &Lease) -> Bytes {
    convert::lease_to(lease).encode_to_vec().into()
}

/// The row of a lease.
pub fn lease_from(bytes: Bytes) -> Result<Lease, RowError> {
    Ok(convert::lease_from(&v1::Lease::decode(bytes)?)?)
}

/// The row of an execution.
pub fn execution_to(execution: &Execution) -> Bytes {
    convert::execution_to(execution).encode_to_vec().into()
}

/// The row of an execution.
pub fn execution_from(bytes: Bytes) -> Result<Execution, RowError> {
    Ok(convert::execution_from(&v1::Execution::decode(bytes)?)?)
}

/// The row of a spec.
pub fn spec_to(spec: &Spec) -> Bytes {
    convert::spec_to(spec).encode_to_vec().into()
}

/// The row of a spec.
pub fn spec_from(bytes: Bytes) -> Result<Spec, RowError> {
    Ok(convert::spec_from(&v1::Spec::decode(bytes)?)?)
}

/// The row of a name.
pub fn name_to(row: &NameRow) -> Bytes {
    let latest = row.latest.map(convert::id_to).unwrap_or_default();
    let registered = row.registered.as_ref().map(TaskKey::to_string).unwrap_or_default();
    store::NameRow { latest, registered }.encode_to_vec().into()
}

/// The row of a name.
pub fn name_from(bytes: Bytes) -> Result<NameRow, RowError> {
    let store::NameRow { latest, registered } = store::NameRow::decode(bytes)?;
    let registered = Some(registered).filter(|key| !key.is_empty());
    Ok(NameRow {
        latest: convert::optional_id("name.latest", &latest)?,
        registered: registered.as_deref().map(convert::key).transpose()?,
    })
}

/// The row of a name under which executions failed: when the last one did.
pub fn failed_name_to(at: Timestamp) -> Bytes {
    store::FailedNameRow { at_ms: at.millis() }.encode_to_vec().into()
}

/// The row of a name under which executions failed.
pub fn failed_name_from(bytes: Bytes) -> Result<Timestamp, RowError> {
    Ok(Timestamp::from_millis(store::FailedNameRow::decode(bytes)?.at_ms))
}

/// The row of bytes that were made: by whom first, and whether others did too.
pub fn maker_to(first: ExecutionId, several: bool) -> Bytes {
    store::MakerRow { first: convert::id_to(first), several }.encode_to_vec().into()
}

/// The row of bytes that were made.
pub fn maker_from(bytes: Bytes) -> Result<(ExecutionId, bool), RowError> {
    let row = store::MakerRow::decode(bytes)?;
    Ok((convert::execution_id("maker.first", &row.first)?, row.several))
}

/// The row of a blob.
pub fn blob_to(stored: &Stored) -> Bytes {
    use store::blob_row::{Backend, Inline, Pack, Place as Row};
    let place = match &stored.place {
        Place::Inline => Row::Inline(Inline {}),
        Place::Backend { signature, form, incompressible } => Row::Backend(Backend {
            signature: signature.clone().unwrap_or_default(),
            frames: match form {
                Form::Frames { stored } => *stored,
                Form::Raw | Form::Pack { .. } => 0,
            },
            incompressible: *incompressible,
            pack: match *form {
                Form::Pack { at, frame: None } => Some(Pack { at, stored: 0, begin: 0 }),
                Form::Pack { at, frame: Some(PackFrame { stored, begin }) } => Some(Pack { at, stored, begin }),
                Form::Raw | Form::Frames { .. } => None,
            },
        }),
    };
    let row = store::BlobRow {
        nonce: stored.nonce,
        published_ms: stored.published.millis(),
        place: Some(place),
        lost: stored.lost.unwrap_or_default(),
        aliases: stored.aliases.iter().map(alias_to).collect(),
    };
    row.encode_to_vec().into()
}

/// The row of a blob.
pub fn blob_from(bytes: Bytes) -> Result<Stored, RowError> {
    use store::blob_row::{Pack, Place as Row};
    let row = store::BlobRow::decode(bytes)?;
    let place = match row.place {
        Some(Row::Inline(_)) => Place::Inline,
        Some(Row::Backend(backend)) => Place::Backend {
            signature: Some(backend.signature).filter(|some| !some.is_empty()),
            form: match (backend.frames, backend.pack) {
                (_, Some(Pack { at, stored: 0, .. })) => Form::Pack { at, frame: None },
                (_, Some(Pack { at, stored, begin })) => Form::Pack { at, frame: Some(PackFrame { stored, begin }) },
                (0, None) => Form::Raw,
                (stored, None) => Form::Frames { stored },
            },
            incompressible: backend.incompressible,
        },
        None => return Err(Invalid::new("blob.place", "is none that this version knows").into()),
    };
    let lost = Some(row.lost).filter(|position| *position > 0);
    let aliases = row.aliases.into_iter().map(|alias| Alias { function: alias.function, hash: alias.hash }).collect();
    Ok(Stored { nonce: row.nonce, place, published: Timestamp::from_millis(row.published_ms), lost, aliases })
}

fn alias_to(alias: &Alias) -> store::blob_row::Alias {
    store::blob_row::Alias { function: alias.function.clone(), hash: alias.hash.clone() }
}

/// The row of a pack.
pub fn pack_to(pack: &PackUse) -> Bytes {
    let PackUse { bytes, dead, condemned } = *pack;
    store::PackRow { bytes, dead, condemned }.encode_to_vec().into()
}

/// The row of a pack.
pub fn pack_from(bytes: Bytes) -> Result<PackUse, RowError> {
    let store::PackRow { bytes, dead, condemned } = store::PackRow::decode(bytes)?;
    Ok(PackUse { bytes, dead, condemned })
}

/// The row of a loss.
pub fn lost_to(loss: &Loss) -> Bytes {
    let row = store::LostRow {
        digest: Some(convert::digest_to(&loss.digest)),
        found_ms: loss.found.millis(),
        corrupt: loss.damage == Damage::Corrupt,
        why: loss.why.clone(),
    };
    row.encode_to_vec().into()
}

/// The row of a loss.
pub fn lost_from(bytes: Bytes) -> Result<Loss, RowError> {
    let row = store::LostRow::decode(bytes)?;
    Ok(Loss {
        digest: convert::needed_digest("lost.digest", row.digest.as_ref())?,
        found: Timestamp::from_millis(row.found_ms),
        damage: if row.corrupt { Damage::Corrupt } else { Damage::Missing },
        why: row.why,
    })
}

/// An event, as the end of its key (see [`provender_core::rows::event`]): about 1,900 bytes at most.
pub fn event_to(noted: &Noted) -> Bytes {
    let Noted { event, stamp, lost, quiet } = noted;
    let row = store::EventRow {
        key: event.key.to_string(),
        name: event.name.as_ref().map(ToString::to_string).unwrap_or_default(),
        verdict: convert::verdict_to(event.verdict).into(),
        execution: event.execution.map(convert::id_to).unwrap_or_default(),
        reason: convert::cut(event.reason.clone(), MAX_REASON),
        at_ms: event.at.millis(),
        stamp: *stamp,
        lost: *lost,
        quiet: *quiet,
    };
    row.encode_to_vec().into()
}

/// An event.
pub fn event_from(bytes: Bytes) -> Result<Noted, RowError> {
    let row = store::EventRow::decode(bytes)?;
    let name = Some(&row.name).filter(|name| !name.is_empty());
    let event = Event {
        key: convert::key(&row.key)?,
        name: name.map(|name| convert::name(name)).transpose()?,
        verdict: convert::verdict_from(row.verdict)?,
        execution: convert::optional_id("event.execution", &row.execution)?,
        reason: row.reason,
        at: Timestamp::from_millis(row.at_ms),
    };
    Ok(Noted { event, stamp: row.stamp, lost: row.lost, quiet: row.quiet })
}

/// The row of a holding: when it was last relied on.
pub fn holding_to(touched: Timestamp) -> Bytes {
    store::HoldingRow { touched_ms: touched.millis() }.encode_to_vec().into()
}

/// The row of a holding.
pub fn holding_from(bytes: Bytes) -> Result<Timestamp, RowError> {
    Ok(Timestamp::from_millis(store::HoldingRow::decode(bytes)?.touched_ms))
}

/// The row of a pin.
pub fn pin_to(pin: &Pin) -> Bytes {
    let mut row = store::PinRow {
        digest: pin.what.digest().as_ref().map(convert::digest_to),
        reason: pin.reason.clone(),
        owner: pin.owner.clone(),
        expires_ms: pin.expires.map(Timestamp::millis).unwrap_or_default(),
        closure: pin.closure.as_ref().map(convert::digest_to),
        made_ms: pin.made.millis(),
        ..store::PinRow::default()
    };
    match &pin.what {
        Pinned::Blob(_) => {}
        Pinned::Tree(_) => row.tree = true,
        Pinned::Key(key) => row.key = key.to_string(),
        Pinned::Name(name) => row.name = name.to_string(),
        Pinned::Prefix(prefix) => row.prefix = Some(prefix.clone()),
    }
    row.encode_to_vec().into()
}

/// The row of a pin.
pub fn pin_from(bytes: Bytes) -> Result<Pin, RowError> {
    let row = store::PinRow::decode(bytes)?;
    let what = match (&row.digest, row.prefix) {
        (Some(digest), _) => match convert::digest_from("pin.digest", digest)? {
            tree if row.tree => Pinned::Tree(tree),
            blob => Pinned::Blob(blob),
        },
        (None, Some(prefix)) => Pinned::Prefix(prefix),
        (None, None) if row.name.is_empty() => Pinned::Key(convert::key(&row.key)?),
        (None, None) => Pinned::Name(convert::name(&row.name)?),
    };
    Ok(Pin {
        what,
        reason: row.reason,
        owner: row.owner,
        made: Timestamp::from_millis(row.made_ms),
        expires: Some(row.expires_ms).filter(|at| *at > 0).map(Timestamp::from_millis),
        closure: convert::optional_digest("pin.closure", row.closure.as_ref())?,
    })
}

/// How far a referrer is counted.
pub fn tally_to(tally: &Tally) -> Bytes {
    let References { spec, blobs, closure } = &tally.references;
    let row = store::TallyRow {
        adds: tally.adds,
        done: tally.done,
        spec: spec.as_ref().map(convert::digest_to),
        blobs: blobs.iter().map(|digest| Bytes::copy_from_slice(&digest.to_bytes())).collect(),
        closure: closure.as_ref().map(convert::digest_to),
        gone: tally.gone.as_deref().map(convert::execution_to),
    };
    row.encode_to_vec().into()
}

/// How far a referrer is counted.
pub fn tally_from(bytes: Bytes) -> Result<Tally, RowError> {
    let row = store::TallyRow::decode(bytes)?;
    let blob = |bytes: &Bytes| Digest::from_bytes(bytes).ok_or_else(|| Invalid::new("tally.blobs", "is no digest"));
    let references = References {
        spec: convert::optional_digest("tally.spec", row.spec.as_ref())?,
        blobs: row.blobs.iter().map(blob).collect::<Result<_, _>>()?,
        closure: convert::optional_digest("tally.closure", row.closure.as_ref())?,
    };
    let gone = row.gone.as_ref().map(convert::execution_from).transpose()?;
    Ok(Tally { adds: row.adds, done: row.done, references, gone: gone.map(Box::new) })
}

/// How many refer to something.
pub fn count_to(referrers: u64) -> Bytes {
    store::CountRow { referrers }.encode_to_vec().into()
}

/// How many refer to something.
pub fn count_from(bytes: Bytes) -> Result<u64, RowError> {
    Ok(store::CountRow::decode(bytes)?.referrers)
}

/// By how many bytes what is stored has changed.
pub fn usage_to(bytes: i64) -> Bytes {
    store::UsageRow { bytes }.encode_to_vec().into()
}

/// By how many bytes what is stored has changed.
pub fn usage_from(bytes: Bytes) -> Result<i64, RowError> {
    Ok(store::UsageRow::decode(bytes)?.bytes)
}

/// Digests, one after the other.
pub fn digests_to<'a>(digests: impl IntoIterator<Item = &'a Digest>) -> Bytes {
    digests.into_iter().flat_map(Digest::to_bytes).collect()
}

/// Digests, one after the other.
pub fn digests_from(bytes: &[u8]) -> Result<Vec<Digest>, RowError> {
    let invalid = || Invalid::new("digests", "is no list of digests").into();
    let (digests, rest) = bytes.as_chunks::<40>();
    if !rest.is_empty() {
        return Err(invalid());
    }
    digests.iter().map(|digest| Digest::from_bytes(digest).ok_or_else(invalid)).collect()
}
