//! The open database, and opening it anew.
//!
//! RocksDB gets over most of what a full disk does to it, within seconds of there being space, but not over a log that it could not make:
//! then it writes nothing any more until it is opened anew. Invariant: that is done only while there is room for it, and by nobody who
//! reads; who reads meanwhile waits. Followers of the feed notice nothing.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::RocksConfig;
use super::database::Database;
use crate::meta::MetaError;
use crate::meta::feed::Feed;

/// RocksDB looks for space every 5 seconds; what it has not got over by then it does not get over.
const STUCK: Duration = Duration::from_secs(8);
/// How long reads under way are waited for.
const READS: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub(super) struct Slot {
    config: RocksConfig,
    dir: PathBuf,
    pub(super) feed: Arc<Feed>,
    /// `None` if it could not be opened anew.
    open: RwLock<Option<Arc<Database>>>,
}

impl Slot {
    pub(super) fn open(config: &RocksConfig, dir: &Path) -> Result<Slot, MetaError> {
        let database = Database::open(config, dir, None)?;
        let (feed, open) = (database.feed.clone(), RwLock::new(Some(Arc::new(database))));
        Ok(Slot { config: config.clone(), dir: dir.to_owned(), feed, open })
    }

    /// The database, to be let go of soon.
    pub(super) fn get(&self) -> Result<Arc<Database>, MetaError> {
        if let Some(open) = &*self.open.read().unwrap_or_else(PoisonError::into_inner) {
            return Ok(open.clone());
        }
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        match &*open {
            Some(open) => Ok(open.clone()),
            None => Ok(open.insert(self.again()?).clone()),
        }
    }

    /// Opens it anew if it has stopped for good though there is room. Whoever calls has let go of it.
    pub(super) fn revive(&self) {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        let Some(stopped) = open.take_if(|open| open.has_refused_for(STUCK)) else { return };
        tracing::warn!("the metadata database does not go on though there is space again; opening it anew");
        let began = Instant::now();
        while Arc::strong_count(&stopped) > 1 {
            if began.elapsed() > READS {
                // A backup, say: when it is through.
                stopped.forgive();
                *open = Some(stopped);
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(stopped);
        match self.again() {
            Ok(again) => *open = Some(again),
            Err(error) => tracing::error!(%error, "the metadata database could not be opened anew; trying again"),
        }
    }

    fn again(&self) -> Result<Arc<Database>, MetaError> {
        Database::open(&self.config, &self.dir, Some(&self.feed)).map(Arc::new)
    }
}
