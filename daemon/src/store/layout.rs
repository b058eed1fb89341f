//! What the metadata says of its own layout: one row, by which daemons of different versions keep out of each other's way.
//!
//! It is a number, or says that the store is on its way to one: being migrated, or being restored. A version that does not know these
//! words reads no number, and refuses. Invariant: nobody serves a store whose row is not the number that he knows.

use provender_core::digest::{hex, unhex};

use super::{StoreError, fact};
use crate::meta::Meta;

/// The layout that this version reads and writes; one number for rows and files.
///
/// 1 is the first; since 2 every execution is in the index ([`provender_core::Table::Index`]); since 3 all that refers to blobs is counted, or is
/// to be ([`provender_core::Table::Tally`]).
pub const LAYOUT: u32 = 3;

const RESTORING: &str = "restoring";

/// Where a store stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It has this layout.
    At(u32),
    /// It is being migrated, or that was cut off.
    Moving(Moving),
    /// It is being restored, or that was cut off.
    Restoring,
    /// A word of a version to come.
    Unknown,
}

/// A migration under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Moving {
    /// The layout that it has reached.
    pub(crate) from: u32,
    /// The one that it goes to.
    pub(crate) to: u32,
    /// Who is at it.
    pub(crate) by: [u8; 8],
    /// Counts as long as it goes on.
    pub(crate) beat: u64,
    /// Where the rows were kept before it began, once they are.
    pub(crate) snapshot: Option<String>,
    /// Up to which key this step is done.
    pub(crate) after: Option<Vec<u8>>,
}

impl Standing {
    /// What the row's text says.
    pub(crate) fn read(text: &str) -> Standing {
        if let Ok(layout) = text.parse() {
            return Standing::At(layout);
        }
        if text.split(' ').next() == Some(RESTORING) {
            return Standing::Restoring;
        }
        Moving::read(text).map_or(Standing::Unknown, Standing::Moving)
    }
}

impl Moving {
    /// The row's text.
    pub(crate) fn text(&self) -> String {
        let after = self.after.as_deref().map_or("-".to_owned(), hex);
        let (by, snapshot) = (hex(&self.by), self.snapshot.as_deref().unwrap_or("-"));
        format!("{} migrating to {} by {by} beat {} snapshot {snapshot} after {after}", self.from, self.to, self.beat)
    }

    fn read(text: &str) -> Option<Moving> {
        let words: Vec<_> = text.split(' ').collect();
        let [from, "migrating", "to", to, "by", by, "beat", beat, "snapshot", snapshot, "after", after] = words[..]
        else {
            return None;
        };
        let byte = |text: &str, at: usize| unhex::<1>(text.get(2 * at..2 * at + 2)?).map(|[byte]| byte);
        let bytes = |text: &str| (0..text.len() / 2).map(|at| byte(text, at)).collect::<Option<Vec<u8>>>();
        Some(Moving {
            from: from.parse().ok()?,
            to: to.parse().ok()?,
            by: unhex(by)?,
            beat: beat.parse().ok()?,
            snapshot: (snapshot != "-").then(|| snapshot.to_owned()),
            after: if after == "-" { None } else { Some(bytes(after)?) },
        })
    }
}

/// Where the store stands; `None` if it is none yet.
pub(crate) async fn standing(meta: &dyn Meta) -> Result<Option<Standing>, StoreError> {
    Ok(fact(meta, "layout").await?.map(|text| Standing::read(&text)))
}

/// The layout of rows of which the row says this.
pub(crate) fn layout_of(text: &str) -> Option<u32> {
    match Standing::read(text) {
        Standing::At(layout) => Some(layout),
        Standing::Moving(moving) => Some(moving.from),
        Standing::Restoring | Standing::Unknown => None,
    }
}

/// Fails unless this version may serve the store.
pub(super) async fn check(meta: &dyn Meta) -> Result<(), StoreError> {
    match standing(meta).await? {
        None | Some(Standing::At(LAYOUT)) => Ok(()),
        Some(Standing::At(found)) => Err(StoreError::Layout { found, known: LAYOUT }),
        Some(Standing::Moving(Moving { from, to, .. })) => Err(StoreError::Migrating { from, to }),
        Some(Standing::Restoring) => Err(StoreError::Restoring),
        Some(Standing::Unknown) => Err(StoreError::Layout { found: u32::MAX, known: LAYOUT }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_back_and_others_are_unknown() {
        let moving = Moving { from: 1, to: 2, by: [7; 8], beat: 3, snapshot: None, after: None };
        let later = Moving { snapshot: Some("layout-1".into()), after: Some(vec![0, 255]), ..moving.clone() };
        for moving in [moving, later] {
            assert!(moving.text().parse::<u32>().is_err(), "an older version reads no number");
            assert_eq!(layout_of(&moving.text()), Some(1));
            assert_eq!(Standing::read(&moving.text()), Standing::Moving(moving));
        }
        assert_eq!(Standing::read("2"), Standing::At(2));
        assert_eq!(Standing::read("restoring 00ff"), Standing::Restoring);
        for other in ["", "x", "1 migrating", "1 migrating to 2 by xx beat 1 snapshot - after -", "-1"] {
            assert_eq!(Standing::read(other), Standing::Unknown, "{other}");
        }
    }
}
