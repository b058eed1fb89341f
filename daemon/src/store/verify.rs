//! Verifying: all blobs and rows looked at, when asked or by the scrub.
//!
//! Owns [`Store::verify`], the order in which it goes through what is stored, and what it counts. A look asks the backend what it has, and finds what is
//! missing, cut or touched; a deep one reads all bytes, at a bounded rate, and finds silent decay. Rows are read either way. Invariants: memory is
//! bounded by a page of rows and a chunk of bytes; what is found of blobs takes the way of everything that a reader finds, so nothing is entered as
//! lost that was not looked at twice; what is found of rows is told, and hides no more than the rest of its table. Blobs are in [`blobs`],
//! rows in [`mod@rows`], and the scrub is [`scrub`].

mod blobs;
mod rows;
mod scrub;

use std::time::Duration;

use bytes::Bytes;
use provender_core::Digest;
use provender_core::batch::Table;

use super::{Store, StoreError};
use crate::meta::MetaError;

pub use self::scrub::Scrub;

/// How much damage of metadata is told of in words.
const MOST_TOLD: usize = 20;

/// How to verify.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verify {
    /// All bytes are read.
    pub deep: bool,
    /// How many bytes are read a second, at most; 0 for any.
    pub bytes_per_second: u64,
}

/// What verifying has come to so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    /// Blobs that were looked at.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of these that were read for it.
    pub read: u64,
    /// Blobs that are lost, those that were known to be included.
    pub lost: u64,
    /// Of these, what was found just now.
    pub found: u64,
    /// Rows and entries of the metadata that were read.
    pub rows: u64,
    /// Outboards that were looked at.
    pub outboards: u64,
    /// Of these, those that were missing or damaged, and are written anew.
    pub mended: u64,
    /// Damage in the metadata: rows that say nothing, and places behind which the rest of a table could not be read.
    pub damaged: u64,
    /// What the first 20 of these are.
    pub damage: Vec<String>,
}

/// Where verifying goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Next {
    /// With the blobs behind one.
    Blobs(Option<Digest>),
    /// With the rows of a table behind a key.
    Rows(Table, Option<Bytes>),
    /// With what the engine keeps beside the rows.
    Beside(Option<Bytes>),
}

impl Next {
    const FIRST: Next = Next::Blobs(None);

    /// What comes after all that this goes through.
    fn beyond(&self) -> Option<Next> {
        let tables = match self {
            Next::Blobs(_) => Table::ALL.iter(),
            Next::Rows(table, _) => Table::ALL[Table::ALL.len().min(1 + usize::from(table.tag()))..].iter(),
            Next::Beside(_) => return None,
        };
        let mut tables = tables.filter(|table| rows::are_verified(**table));
        Some(tables.next().map_or(Next::Beside(None), |table| Next::Rows(*table, None)))
    }
}

impl Verify {
    fn rest(&self, bytes: u64) -> Duration {
        match self.bytes_per_second {
            0 => Duration::ZERO,
            most => Duration::from_secs_f64(bytes as f64 / most as f64),
        }
    }
}

impl Verified {
    /// Notes damage of the metadata, which is told to the log as well.
    fn damaged(&mut self, what: String) {
        tracing::error!(what, "the metadata is damaged");
        self.damaged += 1;
        if self.damage.len() < MOST_TOLD {
            self.damage.push(what);
        }
    }
}

impl Store {
    /// Looks at every blob and every row. `told` hears how far it is; what is wrong of blobs is entered into the log of lost digests. An error says
    /// nothing of what was not come to.
    pub async fn verify(&self, how: Verify, mut told: impl FnMut(&Verified) + Send) -> Result<Verified, StoreError> {
        let (mut done, mut next) = (Verified::default(), Some(Next::FIRST));
        while let Some(at) = next {
            next = self.verify_page(at, how, &mut done, &mut told).await?;
        }
        Ok(done)
    }

    /// Looks at a page; where to go on, if there is more.
    async fn verify_page(
        &self,
        at: Next,
        how: Verify,
        done: &mut Verified,
        told: &mut (impl FnMut(&Verified) + Send),
    ) -> Result<Option<Next>, StoreError> {
        let before = done.damaged;
        let page = match &at {
            Next::Blobs(after) => {
                self.verify_blobs(*after, how, done, told).await.map(|last| last.map(|last| Next::Blobs(Some(last))))
            }
            Next::Rows(table, after) => self
                .verify_rows(*table, after.clone(), how, done)
                .await
                .map(|last| last.map(|last| Next::Rows(*table, Some(last)))),
            Next::Beside(after) => {
                self.verify_beside(after.clone(), how, done).await.map(|next| next.map(|next| Next::Beside(Some(next))))
            }
        };
        let next = match page {
            Ok(next) => next,
            // There is no way past it but to what comes next.
            Err(StoreError::Meta(error @ MetaError::Corrupt { .. })) => {
                done.damaged(error.to_string());
                None
            }
            Err(other) => return Err(other),
        };
        self.inner.metrics.damaged.inc_by(done.damaged - before);
        told(done);
        Ok(next.or_else(|| at.beyond()))
    }
}

#[cfg(test)]
mod tests;
