//! `provender.v1.Admin`: what is collected, and what is kept from it.

use std::time::Duration;

use bytes::Bytes;
use provender_core::blob::{Pin, Pinned};
use provender_core::key::TaskKey;
use provender_core::name::{Name, Space};
use provender_core::{ExecutionId, Timestamp};
use provender_proto::convert::{self, Invalid};
use provender_proto::v1;
use tonic::Streaming;

use super::Client;
use crate::error::ClientError;

/// The id of a pin: one for what is pinned and who pins it.
pub type PinId = [u8; 16];

/// An execution that goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Going {
    /// In which space.
    pub space: Space,
    /// Which.
    pub execution: ExecutionId,
    /// Its key.
    pub key: TaskKey,
    /// Its name.
    pub name: Name,
    /// Whether it is what its key answers with.
    pub is_record: bool,
    /// When it was last used, about; of what is no record, when it ended.
    pub used: Timestamp,
    /// By which rule: `latest`, `unused`, `failed`, `quota`, `free` or `lost`; a later version may have others.
    pub rule: String,
    /// The rule in words.
    pub reason: String,
    /// The bytes that nothing else refers to, but what goes before it.
    pub frees: u64,
}

/// What a collection came to, or would.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GcSummary {
    /// Executions that go.
    pub executions: u64,
    /// Of these, records.
    pub records: u64,
    /// The bytes that only they refer to; removed once nobody relies on them.
    pub frees: u64,
    /// Of the executions, those that were used or pinned meanwhile, and stay.
    pub spared: u64,
    /// Blobs that it removed.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The bytes that blobs take now.
    pub used: u64,
    /// The bytes that they may take; no limit, if absent.
    pub quota: Option<u64>,
    /// The bytes that should have gone for want of room, but are protected or pinned.
    pub kept: u64,
    /// Rows of metadata that were read and written.
    pub rows: u64,
}

impl Client {
    /// Keeps something whatever collection wants: so long, or until it is unpinned. The reason has at most 4 KiB, the owner 256 bytes.
    /// Asked again by the same owner, it has another reason and end.
    pub async fn pin(
        &self,
        what: &Pinned,
        reason: &str,
        owner: &str,
        time: Option<Duration>,
    ) -> Result<(PinId, Pin), ClientError> {
        let for_ms = time.map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1));
        let (reason, owner) = (reason.to_owned(), owner.to_owned());
        let request =
            v1::PinRequest { space: self.space(), what: Some(convert::pinned_to(what)), reason, owner, for_ms };
        let reply = self.admin.clone().pin(request).await.map_err(self.failed())?.into_inner();
        let pin = reply.pin.ok_or_else(|| Invalid::new("pin", "is missing"))?;
        Ok(convert::pin_from(&pin)?)
    }

    /// Removes the pins of something: those of an owner, or all of them. Those that were removed, of very many the first;
    /// [`ClientError::NotFound`] if there was none.
    pub async fn unpin(&self, what: &Pinned, owner: Option<&str>) -> Result<Vec<(PinId, Pin)>, ClientError> {
        let owner = owner.unwrap_or_default().to_owned();
        let request = v1::UnpinRequest { space: self.space(), what: Some(convert::pinned_to(what)), owner };
        let reply = self.admin.clone().unpin(request).await.map_err(self.failed())?.into_inner();
        Ok(reply.pins.iter().map(convert::pin_from).collect::<Result<_, _>>()?)
    }

    /// Tells of each pin, those of records first.
    pub async fn pins<E: From<ClientError>>(&self, mut tell: impl FnMut(PinId, Pin) -> Result<(), E>) -> Result<(), E> {
        let mut cursor = Bytes::new();
        loop {
            let request = v1::ListPinsRequest { space: self.space(), cursor: cursor.clone(), limit: 0 };
            let reply = self.admin.clone().list_pins(request).await.map_err(self.failed())?.into_inner();
            for pin in &reply.pins {
                let (id, pin) = convert::pin_from(pin).map_err(ClientError::from)?;
                tell(id, pin)?;
            }
            if reply.cursor.is_empty() {
                return Ok(());
            }
            if reply.cursor == cursor {
                return Err(ClientError::from(Invalid::new("cursor", "is the one of the page before")).into());
            }
            cursor = reply.cursor;
        }
    }

    /// What a collection would take away now: tells of each execution. Dropping this stops it. Who takes very long to hear of them misses
    /// some, but not in the sums.
    pub async fn plan_gc<E: From<ClientError>>(
        &self,
        tell: impl FnMut(Going) -> Result<(), E>,
    ) -> Result<GcSummary, E> {
        let replies = self.admin.clone().plan_gc(v1::GcRequest {}).await.map_err(self.failed())?;
        self.collected(replies.into_inner(), tell).await
    }

    /// Collects, and tells of each execution, as [`Client::plan_gc`] does. It is carried out to its end also if this is dropped.
    pub async fn run_gc<E: From<ClientError>>(&self, tell: impl FnMut(Going) -> Result<(), E>) -> Result<GcSummary, E> {
        let replies = self.admin.clone().run_gc(v1::GcRequest {}).await.map_err(self.failed())?;
        self.collected(replies.into_inner(), tell).await
    }

    async fn collected<E: From<ClientError>>(
        &self,
        mut replies: Streaming<v1::GcReply>,
        mut tell: impl FnMut(Going) -> Result<(), E>,
    ) -> Result<GcSummary, E> {
        while let Some(reply) = replies.message().await.map_err(self.failed())? {
            for going in &reply.going {
                tell(going_from(going).map_err(ClientError::from)?)?;
            }
            if let Some(summary) = reply.summary {
                let v1::GcSummary { executions, records, frees, spared, blobs, bytes, used, quota, kept, rows } =
                    summary;
                let quota = Some(quota).filter(|quota| *quota > 0);
                return Ok(GcSummary { executions, records, frees, spared, blobs, bytes, used, quota, kept, rows });
            }
        }
        Err(ClientError::from(Invalid::new("summary", "the collection ended without one")).into())
    }
}

fn going_from(going: &v1::Going) -> Result<Going, Invalid> {
    Ok(Going {
        space: convert::space(&going.space)?,
        execution: convert::execution_id("execution", &going.execution)?,
        key: convert::key(&going.key)?,
        name: convert::name(&going.name)?,
        is_record: going.record,
        used: Timestamp::from_millis(going.used_ms),
        rule: going.rule.clone(),
        reason: going.reason.clone(),
        frees: going.frees,
    })
}
