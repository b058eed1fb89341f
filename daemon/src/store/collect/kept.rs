//! Pins of records, in memory while a run looks at who goes.
//!
//! Invariant: they are as they stand in the metadata at a version of the fact that changes with them, which whatever is decided by them expects.

use std::collections::HashMap;

use provender_core::batch::{RowKey, Table, Version};
use provender_core::blob::Pinned;
use provender_core::name::{Name, Space};
use provender_core::{Execution, Timestamp, rows};
use provender_proto::rows as values;

use super::super::{Store, StoreError};
use crate::clock;
use crate::meta::Scan;

/// The fact that changes when pins of records do.
pub(in crate::store) const PINS: &str = "pins";

/// The pins of records, each with its end; of several of one thing, the last.
#[derive(Debug, Default)]
pub(super) struct Pins {
    pub(super) version: Option<Version>,
    ends: HashMap<(Space, Pinned), Timestamp>,
    /// Whether any is of a name or prefix, so that it matters where else a record is shown.
    by_name: bool,
}

impl Pins {
    fn has(&self, space: &Space, what: Pinned, now: Timestamp) -> bool {
        self.ends.get(&(space.clone(), what)).is_some_and(|ends| *ends > now)
    }

    fn keeps_name(&self, space: &Space, name: &Name, now: Timestamp) -> bool {
        let text = name.as_str();
        let prefixes = text.match_indices('/').map(|(at, _)| &text[..at]).chain(["", text]);
        self.has(space, Pinned::Name(name.clone()), now)
            || prefixes.into_iter().any(|prefix| self.has(space, Pinned::Prefix(prefix.to_owned()), now))
    }
}

impl Store {
    /// Reads the pins of records. Those that have ended go, unless this is to change nothing.
    pub(super) async fn record_pins(&self, dry_run: bool) -> Result<Pins, StoreError> {
        let meta = &self.inner.meta;
        let fact = meta.get(&[rows::store(PINS)]).await?.pop().flatten();
        let mut pins = Pins { version: fact.map(|row| row.version), ..Pins::default() };
        let (now, mut scan) = (clock::now(), Scan::prefix(Table::RecordPin, ""));
        loop {
            let page = meta.scan(&scan).await?;
            let mut ended = Vec::new();
            for (key, row) in &page.rows {
                let damaged = || StoreError::Row { what: format!("{key:?}"), why: "it is of no space".into() };
                let space = rows::space_of(key).ok_or_else(damaged)?;
                let pin = values::pin_from(row.value.clone()).map_err(StoreError::row("a pin"))?;
                if pin.has_ended(now) {
                    ended.push(RowKey { table: Table::RecordPin, key: key.clone() });
                    continue;
                }
                pins.by_name |= !matches!(pin.what, Pinned::Key(_));
                let what = match pin.what {
                    Pinned::Prefix(prefix) => Pinned::Prefix(prefix.trim_end_matches('/').to_owned()),
                    what => what,
                };
                let ends = pins.ends.entry((space, what)).or_insert(Timestamp::MIN);
                *ends = (*ends).max(pin.expires.unwrap_or(Timestamp::MAX));
            }
            if !dry_run && !ended.is_empty() {
                self.drop_ended(&ended).await?;
            }
            scan.after = page.rows.last().map(|(key, _)| key.clone());
            if !page.more {
                return Ok(pins);
            }
        }
    }

    /// Deletes those that have ended and were not prolonged meanwhile.
    async fn drop_ended(&self, ended: &[RowKey]) -> Result<(), StoreError> {
        self.transact(|mut txn| async move {
            for (place, row) in ended.iter().zip(txn.get(ended).await?) {
                let Some(row) = row else { continue };
                if values::pin_from(row.value).map_err(StoreError::row("a pin"))?.has_ended(clock::now()) {
                    txn.delete(place.clone());
                }
            }
            Ok((txn, ()))
        })
        .await
    }

    /// Whether a pin keeps a record: by its key, its name, or another name under which it is shown.
    pub(super) async fn is_pinned(&self, pins: &Pins, space: &Space, record: &Execution) -> Result<bool, StoreError> {
        let now = clock::now();
        if pins.has(space, Pinned::Key(record.key.clone()), now) || pins.keeps_name(space, &record.name, now) {
            return Ok(true);
        }
        if !pins.by_name {
            return Ok(false);
        }
        let mut scan = Scan::prefix(Table::Shown, rows::shown_prefix(space, record.id));
        loop {
            let page = self.inner.meta.scan(&scan).await?;
            let names = page.rows.iter().filter_map(|(row, _)| rows::parse_shown(space, record.id, row));
            if names.into_iter().any(|name| pins.keeps_name(space, &name, now)) {
                return Ok(true);
            }
            scan.after = page.rows.last().map(|(key, _)| key.clone());
            if !page.more {
                return Ok(false);
            }
        }
    }
}
