use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use provender_blobs::{BlobsConfig, put};
use provender_core::name::Space;
use provender_core::{Timestamp, Verdict};

use super::super::Collection;
use super::*;
use crate::meta::Memory;
use crate::metrics::Metrics;
use crate::store::tests::{begin, outcome, request};

const HOUR: u64 = 3600 * 1000;

/// A wall clock that goes ahead by so many milliseconds; files do not.
struct Ahead(AtomicU64);

impl clock::Simulated for Ahead {
    #[allow(clippy::disallowed_methods)]
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap();
        Timestamp::from_millis(since.as_millis() as u64 + self.0.load(Ordering::Relaxed))
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }

    fn fill(&self, bytes: &mut [u8]) {
        getrandom::fill(bytes).unwrap();
    }
}

fn bytes(n: u8) -> Bytes {
    vec![n; 50_000].into()
}

#[tokio::test]
async fn an_old_file_of_nobody_goes_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let ahead = Arc::new(Ahead(AtomicU64::new(0)));
    let _simulation = clock::simulate(ahead.clone());
    let (config, metrics) = (BlobsConfig::Disk { dir: folder.path().into() }, Arc::new(Metrics::new().unwrap()));
    let store = Store::open(Arc::new(Memory::default()), &config, Vec::new(), metrics).await.unwrap();
    store.configure(Collection { every: Duration::ZERO, ..Collection::default() });
    let (space, blobs) = (Space::default(), store.inner.blobs.clone());
    begin(&store, &request(1)).await;
    let kept = store.put_bytes(&space, bytes(1)).await.unwrap();
    let large = outcome(0);
    store.pin(&space, provender_core::blob::Pinned::Blob(kept), "why".into(), "me".into(), None).await.unwrap();
    store.commit(&space, request(1).id, &large).await.unwrap();
    // Stored by whom a crash has met before they could record it: something that nobody has, and another copy of what is kept.
    let lost = [put(&*blobs, bytes(2), None).await.unwrap(), put(&*blobs, bytes(1), None).await.unwrap()];
    let lost = lost.map(|published| published.location);
    let mut upload = store.upload(&space, None);
    upload.write(bytes(3)).await.unwrap();
    let there = async || {
        let found = blobs.stat(&lost).await.unwrap();
        found.into_iter().map(|found| found.is_some()).collect::<Vec<_>>()
    };
    let collect = async |hours: u64| {
        ahead.0.store(hours * HOUR, Ordering::Relaxed);
        store.collect(false, &mut |_| {}).await.unwrap();
    };
    for hours in [0, 30, 7 * 24 - 1] {
        collect(hours).await;
        assert_eq!(there().await, [true, true], "after {hours} hours somebody may be about to record it");
    }
    // Looked for once a day.
    collect(7 * 24 + 1).await;
    assert_eq!(there().await, [true, true], "it was looked at two hours ago");
    collect(8 * 24).await;
    assert_eq!(there().await, [false, false]);
    // What is named is as old, and what is being uploaded has no place yet.
    assert!(store.read_whole(&space, &kept, 1 << 20).await.unwrap() == bytes(1));
    assert_eq!(store.lookup(&space, &[request(1).key]).await.unwrap()[0].verdict, Verdict::Succeeded);
    let uploaded = upload.finish().await.unwrap();
    assert!(store.read_whole(&space, &uploaded, 1 << 20).await.unwrap() == bytes(3));
    assert_eq!(blobs.list(None, 100).await.unwrap().locations.len(), 2);
    assert_eq!(store.audit().await.unwrap(), Vec::<String>::new());
}
