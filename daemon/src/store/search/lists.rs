//! Cutting lists: what stands in all of them, block by block.
//!
//! All lists are in one order. Of each a page is read; the one whose page reaches the furthest has the fewest rows here, and so is gone
//! through, while the others are asked for what it has. So a list that is long costs no more than the shortest one, and lists that lie apart are
//! jumped over.

use std::ops::Range;

use bytes::Bytes;
use futures::future::try_join_all;
use provender_core::batch::{RowKey, Table};
use provender_core::rows;
use provender_core::search::Place;

use crate::meta::Scan;
use crate::store::{Store, StoreError};

/// What stands in all lists, up to a place.
#[derive(Debug)]
pub(super) struct Block {
    /// In order.
    pub(super) places: Vec<Place>,
    /// The place up to which there are no others; none if there are none at all behind.
    pub(super) up_to: Option<Place>,
    /// How many rows were looked at.
    pub(super) looked: usize,
}

/// The key behind which a list goes on.
pub(super) fn behind(list: &Bytes, after: Place) -> Bytes {
    [list, &after.0[..]].concat().into()
}

impl Store {
    /// The next block behind a place, of at most `size` places.
    pub(super) async fn cut(&self, lists: &[Bytes], after: Option<Place>, size: usize) -> Result<Block, StoreError> {
        let pages = lists.iter().map(|list| async move {
            let after = after.map(|after| behind(list, after));
            let scan = Scan { after, limit: size, ..Scan::prefix(Table::Index, list.clone()) };
            let page = self.inner.meta.scan(&scan).await?;
            let places: Vec<_> = page.rows.iter().filter_map(|(key, _)| rows::parse_place(key)).collect();
            let up_to = places.last().copied().filter(|_| page.more);
            Ok::<_, StoreError>((places, up_to))
        });
        let pages = try_join_all(pages).await?;
        let looked = pages.iter().map(|(places, _)| places.len()).sum();
        // One that has ended reaches the furthest; of several of these, the shortest.
        let reaches = |page: &&(Vec<Place>, Option<Place>)| (page.1.is_none(), page.1, usize::MAX - page.0.len());
        let Some((first, up_to)) = pages.iter().max_by_key(reaches) else {
            return Ok(Block { places: Vec::new(), up_to: None, looked });
        };
        let mut open = Vec::new();
        for place in first {
            // Lists whose page reaches so far have it there or not at all; the others are asked, from the first such one on.
            let there = |(places, up_to): &(Vec<Place>, Option<Place>)| match up_to {
                Some(up_to) if place > up_to => None,
                _ => Some(places.binary_search(place).is_ok()),
            };
            let known: Vec<_> = pages.iter().map(there).collect();
            if !known.contains(&Some(false)) {
                open.push((
                    *place,
                    known.iter().enumerate().filter(|(_, known)| known.is_none()).map(|(at, _)| at).collect(),
                ));
            }
        }
        let places = self.asked(lists, open).await?;
        Ok(Block { places, up_to: *up_to, looked })
    }

    /// Those of the places that stand in these of the lists.
    pub(super) async fn in_lists(
        &self,
        lists: &[Bytes],
        places: Vec<(Place, Range<usize>)>,
    ) -> Result<Vec<Place>, StoreError> {
        self.asked(lists, places.into_iter().map(|(place, range)| (place, range.collect())).collect()).await
    }

    async fn asked(&self, lists: &[Bytes], open: Vec<(Place, Vec<usize>)>) -> Result<Vec<Place>, StoreError> {
        let row = |place: Place, list: usize| RowKey { table: Table::Index, key: behind(&lists[list], place) };
        let wanted: Vec<_> =
            open.iter().flat_map(|(place, of)| of.iter().map(move |list| row(*place, *list))).collect();
        let mut found = match wanted.is_empty() {
            true => Vec::new(),
            false => self.inner.meta.get(&wanted).await?,
        }
        .into_iter();
        let mut places = Vec::new();
        for (place, of) in open {
            // Each answer is taken, whether or not it matters any more.
            let missing = found.by_ref().take(of.len()).filter(Option::is_none).count();
            if missing == 0 {
                places.push(place);
            }
        }
        Ok(places)
    }
}
