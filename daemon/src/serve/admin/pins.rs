//! `Pin`, `Unpin` and `ListPins`.
//!
//! Invariant: an answer stays below what a client takes, however long the reasons are.

use std::collections::HashMap;
use std::time::Duration;

use prost::Message;
use provender_core::blob::{Pin, Pinned};
use provender_core::name::Space;
use provender_proto::convert::{self, Invalid};
use provender_proto::{MAX_BATCH_BYTES, MAX_PIECE, v1};

use crate::store::{PinId, Store, StoreError};

/// The longest reason, in bytes.
const MAX_REASON: usize = 4 << 10;
/// The longest owner, in bytes.
const MAX_OWNER: usize = 256;
/// How many pins are listed if nothing is said, and at most.
const LISTED: u32 = 1_000;
const MOST_LISTED: u32 = 10_000;
/// How many are read at once: some hundred kilobytes at most.
const PAGE: usize = 100;

pub(super) async fn pin(store: &Store, request: v1::PinRequest) -> Result<v1::PinReply, StoreError> {
    let space = convert::space(&request.space)?;
    let what = convert::pinned_from(request.what.as_ref())?;
    let v1::PinRequest { reason, owner, for_ms, .. } = request;
    within("reason", &reason, MAX_REASON)?;
    within("owner", &owner, MAX_OWNER)?;
    if owner.is_empty() {
        return Err(Invalid::new("owner", "is missing: say who pins it, who can unpin it then").into());
    }
    let time = (for_ms > 0).then(|| Duration::from_millis(for_ms));
    let (id, pin) = store.pin(&space, what, reason, owner, time).await?;
    let Pin { what, owner, expires, .. } = &pin;
    tracing::info!(%what, owner, expires = expires.map(|at| at.to_string()), "pinned");
    Ok(v1::PinReply { pin: Some(convert::pin_to(&id, &pin)) })
}

pub(super) async fn unpin(store: &Store, request: v1::UnpinRequest) -> Result<v1::UnpinReply, StoreError> {
    let space = convert::space(&request.space)?;
    let what = convert::pinned_from(request.what.as_ref())?;
    within("owner", &request.owner, MAX_OWNER)?;
    let owner = Some(request.owner.as_str()).filter(|owner| !owner.is_empty());
    let ids = ids(store, &space, &what).await?;
    let removed = store.unpin(&space, &what, owner).await?;
    if removed.is_empty() {
        let of = owner.map(|owner| format!(" by {owner}")).unwrap_or_default();
        return Err(StoreError::NotFound { what: format!("a pin of {what}{of}") });
    }
    tracing::info!(%what, pins = removed.len(), "unpinned");
    // Of very many owners' the first are told.
    let mut size = 0;
    let told = removed.iter().filter_map(|pin| Some(convert::pin_to(ids.get(&pin.owner)?, pin)));
    let pins = told.take_while(|pin| {
        size += pin.encoded_len();
        size < MAX_BATCH_BYTES
    });
    Ok(v1::UnpinReply { pins: pins.collect() })
}

pub(super) async fn list(store: &Store, request: v1::ListPinsRequest) -> Result<v1::ListPinsReply, StoreError> {
    let space = convert::space(&request.space)?;
    let limit = match request.limit {
        0 => LISTED,
        limit if limit > MOST_LISTED => {
            return Err(Invalid::new("limit", format!("{limit} is more than {MOST_LISTED}")).into());
        }
        limit => limit,
    };
    let mut cursor = Some(request.cursor).filter(|cursor| !cursor.is_empty());
    let (mut reply, mut size, limit) = (v1::ListPinsReply::default(), 0, limit as usize);
    loop {
        let page = PAGE.min(limit - reply.pins.len());
        let (pins, next) = store.pins(&space, cursor, page).await?;
        for (id, pin) in &pins {
            let pin = convert::pin_to(id, pin);
            size += pin.encoded_len();
            reply.pins.push(pin);
        }
        cursor = next;
        if cursor.is_none() || reply.pins.len() >= limit || size >= MAX_PIECE {
            reply.cursor = cursor.unwrap_or_default();
            return Ok(reply);
        }
    }
}

/// The ids of the pins of something, by owner.
async fn ids(store: &Store, space: &Space, what: &Pinned) -> Result<HashMap<String, PinId>, StoreError> {
    let (mut ids, mut after) = (HashMap::new(), None);
    loop {
        let (pins, next) = store.pins(space, after, 10 * PAGE).await?;
        ids.extend(pins.into_iter().filter(|(_, pin)| pin.what == *what).map(|(id, pin)| (pin.owner, id)));
        after = next;
        if after.is_none() {
            return Ok(ids);
        }
    }
}

fn within(field: &'static str, text: &str, most: usize) -> Result<(), Invalid> {
    match text.len() {
        len if len > most => Err(Invalid::new(field, format!("it has {len} bytes, more than {most}"))),
        _ => Ok(()),
    }
}
