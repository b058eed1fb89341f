//! Following the change feed.
//!
//! Owns the last known position of a storage, on which followers wait, and how a page of the feed is cut. Invariant: a
//! position only grows. It must not know how an engine stores its feed.

use provender_core::batch::{Change, Version};
use tokio::sync::watch;

use super::{Changes, MetaError};

/// How far a storage has come, as far as this process knows.
#[derive(Debug)]
pub(super) struct Feed(watch::Sender<Position>);

#[derive(Debug, Clone, Copy)]
struct Position {
    head: Version,
    /// The last version that has a change in the feed.
    fed: Version,
}

impl Feed {
    /// A feed at `head`, whose last change is not known.
    pub(super) fn at(head: Version) -> Feed {
        Feed(watch::Sender::new(Position { head, fed: head }))
    }

    pub(super) fn head(&self) -> Version {
        self.0.borrow().head
    }

    /// Wakes those who wait for something before or at `fed`. What is told must be visible already.
    pub(super) fn advance(&self, head: Version, fed: Option<Version>) {
        self.0.send_if_modified(|position| {
            let moved = fed.is_some_and(|fed| fed > position.fed);
            position.head = position.head.max(head);
            position.fed = position.fed.max(fed.unwrap_or_default());
            moved
        });
    }

    /// Returns once there was a change after `after`.
    pub(super) async fn changed(&self, after: Version) {
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = self.0.subscribe().wait_for(|position| position.fed > after).await;
    }

    /// Whether anybody waits.
    pub(super) fn is_followed(&self) -> bool {
        self.0.receiver_count() > 0
    }
}

/// The page of about `limit` entries that `entries` (all of the feed after the cursor, in order) begin with. `head` must
/// have been read before the entries were; what is beyond it is left to the next page, since to whoever asks on another thread
/// its version may not be there yet.
pub(super) fn page(
    head: Version,
    limit: usize,
    entries: impl IntoIterator<Item = Result<Change, MetaError>>,
) -> Result<Changes, MetaError> {
    let mut changes: Vec<Change> = Vec::new();
    for change in entries {
        let change = change?;
        if change.version > head {
            break;
        }
        if let Some(last) = changes.last()
            && changes.len() >= limit
            && last.version != change.version
        {
            let cursor = last.version;
            return Ok(Changes { changes, cursor });
        }
        changes.push(change);
    }
    Ok(Changes { changes, cursor: head })
}

#[cfg(test)]
mod tests {
    use provender_core::{RowKey, Table};

    use super::*;

    #[test]
    fn a_cursor_is_never_beyond_the_head() {
        let change = |version| {
            let key = RowKey { table: Table::Key, key: "k".into() };
            Ok(Change { version: Version(version), key, deleted: false })
        };
        let cut = |head, limit| {
            let page = page(Version(head), limit, [2, 2, 3, 5].map(change)).expect("no error");
            (page.changes.len(), page.cursor)
        };
        assert_eq!(cut(9, 100), (4, Version(9)));
        assert_eq!(cut(4, 100), (3, Version(4)), "one commit is written, and not yet told of");
        assert_eq!(cut(9, 1), (2, Version(2)));
        assert_eq!(cut(1, 100), (0, Version(1)));
    }
}
