//! The scrub: verifying over and over, at a bounded rate.
//!
//! Invariant: it goes on where it was, also after a restart, and of several daemons on one store each takes a page of its own.

use std::time::Duration;

use bytes::Bytes;
use provender_core::batch::Table;
use provender_core::digest::{hex, unhex};
use provender_core::{Digest, Timestamp, rows};

use super::{Next, Verified, Verify};
use crate::clock;
use crate::store::{Store, StoreError, chain};

/// The longest that the scrub sleeps before it looks whether it is time again.
const NAP: Duration = Duration::from_secs(600);
/// The row that says how far the scrub is.
const SCRUB: &str = "scrub";

/// When the scrub goes through everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scrub {
    /// So long after it began the last time.
    pub every: Duration,
    /// How many bytes are read a second, at most.
    pub bytes_per_second: u64,
}

impl Store {
    /// Reads everything, over and over, each pass at a bounded rate; never returns.
    pub async fn scrub(self, scrub: Scrub) {
        loop {
            let pause = self.scrub_some(&scrub).await.unwrap_or_else(|error| {
                tracing::warn!(error = %chain(&error), "the scrub could not go on; trying again");
                NAP
            });
            tokio::time::sleep(pause).await;
        }
    }

    /// A page of the scrub, if it is time; how long to wait then.
    pub(super) async fn scrub_some(&self, scrub: &Scrub) -> Result<Duration, StoreError> {
        let row = self.inner.meta.get(&[rows::store(SCRUB)]).await?.pop().flatten();
        let was = &row.and_then(|row| Position::parse(&row.value));
        let now = clock::now();
        let every = u64::try_from(scrub.every.as_millis()).unwrap_or(u64::MAX);
        let (began, at) = match was.clone() {
            None => (now, Next::FIRST),
            Some(Position { began, next: None }) => {
                let due = began.millis().saturating_add(every);
                match due.checked_sub(now.millis()).filter(|left| *left > 0) {
                    Some(left) => return Ok(Duration::from_millis(left).min(NAP)),
                    None => (now, Next::FIRST),
                }
            }
            Some(Position { began, next: Some(next) }) => (began, next),
        };
        let mut done = Verified::default();
        let how = Verify { deep: true, bytes_per_second: scrub.bytes_per_second };
        let next = self.verify_page(at, how, &mut done, &mut |_| {}).await?;
        if done.found > 0 {
            tracing::error!(found = done.found, "the scrub found lost blobs");
        }
        let now = &Position { began, next };
        self.transact(|mut txn| async move {
            let there = txn.get_one(rows::store(SCRUB)).await?;
            // Another daemon was there first: its position stands.
            if there.and_then(|row| Position::parse(&row.value)) == *was {
                txn.put(rows::store(SCRUB), now.text());
            }
            Ok((txn, ()))
        })
        .await?;
        Ok(Duration::ZERO)
    }
}

/// How far the scrub is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Position {
    began: Timestamp,
    /// Where it goes on; none between two passes.
    next: Option<Next>,
}

impl Position {
    /// `None` if it is of another version: the pass begins anew.
    fn parse(value: &[u8]) -> Option<Position> {
        let mut words = std::str::from_utf8(value).ok()?.split(' ');
        let began = Timestamp::from_millis(words.next()?.parse().ok()?);
        let after = |key: &str| Some(if key == "-" { None } else { Some(Bytes::from(bytes(key)?)) });
        let next = match (words.next()?, words.next(), words.next(), words.next()) {
            ("", None, None, None) => None,
            ("rows", Some(tag), Some(key), None) => Some(Next::Rows(Table::from_tag(tag.parse().ok()?)?, after(key)?)),
            ("beside", Some(key), None, None) => Some(Next::Beside(after(key)?)),
            (digest, None, None, None) => Some(Next::Blobs(Some(Digest::from_bytes(&unhex::<40>(digest)?)?))),
            _ => return None,
        };
        Some(Position { began, next })
    }

    fn text(&self) -> String {
        let after = |key: &Option<Bytes>| key.as_deref().map_or_else(|| "-".to_owned(), hex);
        let next = match &self.next {
            None | Some(Next::Blobs(None)) => String::new(),
            Some(Next::Blobs(Some(digest))) => hex(&digest.to_bytes()),
            Some(Next::Rows(table, key)) => format!("rows {} {}", table.tag(), after(key)),
            Some(Next::Beside(key)) => format!("beside {}", after(key)),
        };
        format!("{} {next}", self.began.millis())
    }
}

/// The bytes of as many pairs of hexadecimal digits.
fn bytes(text: &str) -> Option<Vec<u8>> {
    (0..text.len().div_ceil(2)).map(|at| unhex::<1>(text.get(2 * at..2 * at + 2)?).map(|[byte]| byte)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_come_back() {
        let key = |bytes: &'static [u8]| Some(Bytes::from_static(bytes));
        let all = [
            None,
            Some(Next::Blobs(Some(Digest::of(b"x")))),
            Some(Next::Rows(Table::Key, None)),
            Some(Next::Rows(Table::Index, key(b"\0 \xff"))),
            Some(Next::Beside(None)),
            Some(Next::Beside(key(&[1]))),
        ];
        for next in all {
            let position = Position { began: Timestamp::from_millis(7), next };
            assert_eq!(Position::parse(position.text().as_bytes()), Some(position));
        }
        for other in ["", "7", "x ", "7 rows", "7 rows 99 -", "7 rows 1 0", "7 rows 1 zz", "7 beside", "7 abc"] {
            assert_eq!(Position::parse(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn every_table_is_come_to_once() {
        let (mut seen, mut next) = (Vec::new(), Some(Next::FIRST));
        while let Some(at) = next {
            next = at.beyond();
            seen.push(at);
        }
        let tables = Table::ALL.iter().filter(|table| table.has_rows()).count();
        assert_eq!(
            seen.len(),
            tables,
            "all but those of small blobs' bytes and of outboards; and blobs; and what is beside"
        );
        assert_eq!(seen.last(), Some(&Next::Beside(None)));
    }
}
