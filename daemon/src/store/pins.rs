//! Pins: what is kept whatever collection wants, by whom, why, and until when.
//!
//! A pin of a blob or tree refers to it as an execution does, and is counted. One of a key, a name or a prefix keeps records, whichever
//! these are, and is asked about before a record goes. Invariant: what is told to be pinned was there, and stays.

use std::time::Duration;

use bytes::Bytes;
use provender_core::batch::Table;
use provender_core::blob::{Pin, Pinned};
use provender_core::collect::{Due, Referrer, Tally, later};
use provender_core::encode::Encoder;
use provender_core::name::Space;
use provender_core::{Digest, RowKey, Timestamp, rows};
use provender_proto::convert::Invalid;
use provender_proto::rows as values;

use super::collect::PINS;
use super::{Store, StoreError, Txn};
use crate::clock;
use crate::meta::Scan;

/// The longest that a blob is kept for the asking.
const MAX_KEEP: Duration = Duration::from_secs(7 * 24 * 3600);
/// The most pins of records, which are all in memory where something is collected.
const MOST: usize = 100_000;

/// The id of a pin: one for what is pinned and who pins it.
pub type PinId = [u8; 16];

impl Store {
    /// Keeps a blob, or a tree and what it refers to, for a while (at most 7 days); says until when.
    pub async fn keep(
        &self,
        space: &Space,
        what: Pinned,
        reason: String,
        owner: String,
        time: Duration,
    ) -> Result<Timestamp, StoreError> {
        let now = clock::now();
        let until = later(now, time.min(MAX_KEEP));
        let pin = Pin { what, reason, owner, made: now, expires: Some(until), closure: None };
        let (_, kept) = self.write_pin(space, pin, true).await?;
        Ok(kept.expires.unwrap_or(Timestamp::MAX))
    }

    /// Pins; the id, and the pin as it is now. Pinned by the same owner before, it has another reason and end now.
    pub async fn pin(
        &self,
        space: &Space,
        what: Pinned,
        reason: String,
        owner: String,
        time: Option<Duration>,
    ) -> Result<(PinId, Pin), StoreError> {
        let now = clock::now();
        let expires = time.map(|time| later(now, time));
        self.write_pin(space, Pin { what, reason, owner, made: now, expires, closure: None }, false).await
    }

    async fn write_pin(&self, space: &Space, mut pin: Pin, prolong: bool) -> Result<(PinId, Pin), StoreError> {
        let looked = clock::monotonic();
        match &pin.what {
            Pinned::Blob(digest) => StoreError::missing(self.find_missing(space, &[*digest]).await?, 1)?,
            Pinned::Tree(root) => {
                let walked = self.walk(space, *root, std::iter::empty(), None).await?;
                pin.closure = Some(self.put_bytes(space, walked.encode()).await?);
            }
            Pinned::Key(_) | Pinned::Name(_) | Pinned::Prefix(_) => {}
        }
        let id = id(&pin);
        let is_record = pin.what.digest().is_none();
        if is_record && self.count_pins(space).await? >= MOST {
            return Err(StoreError::TooLarge {
                what: format!(
                    "there are {MOST} pins of keys, names and prefixes: pin a prefix instead of many names, or unpin some"
                ),
            });
        }
        let (closure, pin) = (pin.closure, &pin);
        let pinned = self.transact(|mut txn| async move {
            let row = if is_record { rows::record_pin(space, &id) } else { rows::pin(space, &id) };
            let there = txn.get_one(row.clone()).await?.map(|there| values::pin_from(there.value));
            let there = there.transpose().map_err(StoreError::row("a pin"))?;
            let mut pin = pin.clone();
            if let Some(there) = &there {
                // No expiry is the latest of all.
                let lasts = there.expires.is_none_or(|until| pin.expires.is_some_and(|wanted| until >= wanted));
                if prolong && lasts {
                    return Ok((txn, (id, there.clone())));
                }
                (pin.made, pin.closure) = (there.made, there.closure);
            }
            if is_record {
                touch_pins(&mut txn).await?;
            } else {
                self.begin_pin(&mut txn, space, &id, &pin, there.is_none()).await?;
            }
            txn.put(row, values::pin_to(&pin));
            Ok((txn, (id, pin)))
        });
        let pinned = pinned.await?;
        // What was there when it was looked at is protected for so long, and from now on by the pin.
        if clock::monotonic().saturating_sub(looked) > self.collection().touch_after()
            && let Some(closure) = closure
            && let Err(error) = self.all_held(space, &closure).await
        {
            self.unpin(space, &pinned.1.what, Some(&pinned.1.owner)).await?;
            return Err(error);
        }
        Ok(pinned)
    }

    /// Fails unless the space holds every blob of a list.
    async fn all_held(&self, space: &Space, closure: &Digest) -> Result<(), StoreError> {
        let bytes = self.read_whole(space, closure, closure.size).await?;
        let digests = values::digests_from(&bytes).map_err(StoreError::row(closure))?;
        StoreError::missing(self.find_missing(space, &digests).await?, 20)
    }

    /// Has what a pin refers to counted, and looked at when it ends.
    pub(super) async fn begin_pin(
        &self,
        txn: &mut Txn,
        space: &Space,
        id: &PinId,
        pin: &Pin,
        fresh: bool,
    ) -> Result<(), StoreError> {
        if let Some(expires) = pin.expires {
            txn.put(rows::due(space, expires, &Due::Pin(*id)), Bytes::new());
        }
        if fresh {
            let place = rows::tally(space, &Referrer::Pin(*id));
            // One of before that is not uncounted yet is gone on with, from where it is.
            let before = txn.get_one(place.clone()).await?.map(|row| values::tally_from(row.value)).transpose();
            let before = before.map_err(StoreError::row("a pin"))?;
            let tally = match before {
                Some(before) if before.references == pin.references() => Tally { adds: true, ..before },
                Some(_) => return Err(StoreError::Contended { attempts: 1 }),
                None => Tally::begin(pin.references()),
            };
            txn.put(place, values::tally_to(&tally));
        }
        Ok(())
    }

    /// Removes the pins of something: those of an owner, or all of them. What was removed.
    pub async fn unpin(&self, space: &Space, what: &Pinned, owner: Option<&str>) -> Result<Vec<Pin>, StoreError> {
        let mut removed = Vec::new();
        let mut after = None;
        loop {
            let (pins, next) = self.pins(space, after.take(), 1_000).await?;
            let chosen = pins.into_iter().filter(|(_, pin)| pin.what == *what);
            for (id, pin) in chosen.filter(|(_, pin)| owner.is_none_or(|owner| owner == pin.owner)) {
                let id = &id;
                let gone = self
                    .transact(|mut txn| async move {
                        let record = rows::record_pin(space, id);
                        let found = txn.get(&[record.clone(), rows::pin(space, id)]).await?;
                        if found[0].is_some() {
                            txn.delete(record);
                            touch_pins(&mut txn).await?;
                        }
                        if let Some(row) = &found[1] {
                            let pin = values::pin_from(row.value.clone()).map_err(StoreError::row("a pin"))?;
                            self.uncount_pin(&mut txn, space, id, &pin).await?;
                        }
                        Ok((txn, found.iter().any(Option::is_some)))
                    })
                    .await?;
                removed.extend(gone.then_some(pin));
            }
            after = next;
            if after.is_none() {
                return Ok(removed);
            }
        }
    }

    /// A page of pins, those of records first, and where to go on. Those that have ended are left out.
    pub async fn pins(
        &self,
        space: &Space,
        after: Option<Bytes>,
        limit: usize,
    ) -> Result<(Vec<(PinId, Pin)>, Option<Bytes>), StoreError> {
        let now = clock::now();
        let (table, after) = match after.as_deref().map(<[u8]>::split_first) {
            None => (Table::RecordPin, None),
            Some(Some((b'r', rest))) => (Table::RecordPin, Some(Bytes::copy_from_slice(rest))),
            Some(Some((b'p', rest))) => {
                (Table::Pin, Some(Bytes::copy_from_slice(rest)).filter(|rest| !rest.is_empty()))
            }
            Some(_) => return Err(Invalid::new("cursor", "is none of this question").into()),
        };
        let page =
            self.inner.meta.scan(&Scan { after, limit, ..Scan::prefix(table, rows::space_prefix(space)) }).await?;
        let mut pins = Vec::with_capacity(page.rows.len());
        for (key, row) in &page.rows {
            let id = key.last_chunk().copied();
            let id = id.ok_or_else(|| StoreError::Row { what: format!("{key:?}"), why: "it is of no pin".into() })?;
            let pin = values::pin_from(row.value.clone()).map_err(StoreError::row("a pin"))?;
            pins.extend((!pin.has_ended(now)).then_some((id, pin)));
        }
        let last = page.rows.last().map(|(key, _)| key).filter(|_| page.more);
        let next = match (table, last) {
            (Table::RecordPin, Some(last)) => Some([b"r", &last[..]].concat().into()),
            (Table::RecordPin, None) => Some(Bytes::from_static(b"p")),
            (_, Some(last)) => Some([b"p", &last[..]].concat().into()),
            (_, None) => None,
        };
        Ok((pins, next))
    }

    async fn count_pins(&self, space: &Space) -> Result<usize, StoreError> {
        let (mut scan, mut count) = (Scan::prefix(Table::RecordPin, rows::space_prefix(space)), 0);
        loop {
            let page = self.inner.meta.scan(&scan).await?;
            count += page.rows.len();
            scan.after = page.rows.last().map(|(key, _)| key.clone());
            if !page.more {
                return Ok(count);
            }
        }
    }

    /// Removes a pin of a blob or tree that has ended, and what stands for it by time.
    pub(super) async fn end_pin(
        &self,
        space: &Space,
        id: PinId,
        now: Timestamp,
        due: RowKey,
    ) -> Result<(), StoreError> {
        let (due, id) = (&due, &id);
        self.transact(|mut txn| async move {
            txn.delete(due.clone());
            let row = rows::pin(space, id);
            let Some(there) = txn.get_one(row.clone()).await? else { return Ok((txn, ())) };
            let pin = values::pin_from(there.value).map_err(StoreError::row("a pin"))?;
            match pin.expires {
                Some(expires) if expires > now => txn.put(rows::due(space, expires, &Due::Pin(*id)), ""),
                None => {}
                Some(_) => self.uncount_pin(&mut txn, space, id, &pin).await?,
            }
            Ok((txn, ()))
        })
        .await
    }

    /// Has what a pin refers to uncounted, in the batch by which it goes.
    async fn uncount_pin(&self, txn: &mut Txn, space: &Space, id: &PinId, pin: &Pin) -> Result<(), StoreError> {
        let place = rows::tally(space, &Referrer::Pin(*id));
        let tally = txn.get_one(place.clone()).await?.map(|row| values::tally_from(row.value)).transpose();
        let tally = tally.map_err(StoreError::row("a pin"))?;
        txn.put(place, values::tally_to(&Tally::end(pin.references(), tally.as_ref())));
        txn.delete(rows::pin(space, id));
        Ok(())
    }
}

/// Whoever collects reads the pins of records anew.
async fn touch_pins(txn: &mut Txn) -> Result<(), StoreError> {
    let fact: RowKey = rows::store(PINS);
    txn.get_one(fact.clone()).await?;
    txn.put(fact, provender_core::digest::hex(&clock::random::<8>()));
    Ok(())
}

fn id(pin: &Pin) -> PinId {
    let mut id = Encoder::new("provender pin 1");
    match &pin.what {
        Pinned::Blob(digest) => id.digest(digest).number(0),
        Pinned::Tree(digest) => id.digest(digest).number(1),
        Pinned::Key(key) => id.bytes(key.as_str()).number(2),
        Pinned::Name(name) => id.bytes(name.as_str()).number(3),
        Pinned::Prefix(prefix) => id.bytes(prefix).number(4),
    };
    id.bytes(&pin.owner);
    id.digest_of_all().hash.first_chunk().copied().unwrap_or_default()
}
