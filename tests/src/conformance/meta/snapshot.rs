//! A snapshot is one moment, however long it is read.

use std::sync::Arc;

use bytes::Bytes;
use provender_core::batch::{Row, RowKey, Table};
use provender_daemon::meta::{Scan, Snapshot};

use super::{Storage, batch, fed, name, put, quiet};

/// All rows of a scan of a snapshot, page by page.
async fn all(snapshot: &dyn Snapshot, mut scan: Scan) -> Vec<(Bytes, Row)> {
    let mut rows = Vec::new();
    loop {
        let page = snapshot.scan(&scan).await.unwrap();
        scan.after = page.rows.last().map(|(key, _)| key.clone());
        rows.extend(page.rows);
        if !page.more {
            return rows;
        }
    }
}

pub async fn a_snapshot_stays_as_it_was(storage: &dyn Storage) {
    let meta = storage.open().await;
    let empty = meta.snapshot().await.unwrap();
    let inline = |n: usize| RowKey { table: Table::Inline, key: name(n) };
    for n in 0..300 {
        let mut batch = batch();
        batch.put(quiet(name(n)), name(n)).put(inline(n), vec![n as u8; 1_000]);
        meta.commit(batch).await.unwrap();
    }
    let snapshot = meta.snapshot().await.unwrap();
    assert_eq!(snapshot.version(), meta.head().await.unwrap());
    let before = meta.scan(&Scan::prefix(Table::Execution, "")).await.unwrap().rows;
    for n in 0..300 {
        let mut batch = batch();
        match n % 3 {
            0 => batch.delete(quiet(name(n))).delete(inline(n)),
            1 => batch.put(quiet(name(n)), "changed"),
            _ => batch.put(quiet(name(n + 1_000)), "new"),
        };
        meta.commit(batch).await.unwrap();
    }
    for _ in 0..2 {
        assert_eq!(all(&*snapshot, Scan { limit: 70, ..Scan::prefix(Table::Execution, "") }).await, before);
        let got = snapshot.get(&[quiet(name(0)), quiet(name(1)), quiet(name(1_002)), inline(3)]).await.unwrap();
        let values: Vec<_> = got.iter().map(|row| row.as_ref().map(|row| row.value.len())).collect();
        assert_eq!(values, [Some(8), Some(8), None, Some(1_000)]);
    }
    assert!(all(&*empty, Scan::prefix(Table::Execution, "")).await.is_empty());
    assert_eq!(empty.version().0, 0);
    // What has been let go of keeps nobody from anything.
    drop((snapshot, empty));
    put(&*meta, fed("after"), "").await;
}

pub async fn a_snapshot_is_of_one_commit(storage: &dyn Storage) {
    let meta = storage.open().await;
    let writer = tokio::spawn({
        let meta = Arc::clone(&meta);
        async move {
            for n in 0..200 {
                let mut batch = batch();
                batch.put(fed("a"), name(n)).put(quiet("b"), name(n));
                batch.put(RowKey { table: Table::Inline, key: "c".into() }, name(n));
                meta.commit(batch).await.unwrap();
            }
        }
    });
    while !writer.is_finished() {
        let snapshot = meta.snapshot().await.unwrap();
        let a = snapshot.get(&[fed("a")]).await.unwrap().pop().flatten();
        let b = all(&*snapshot, Scan::prefix(Table::Execution, "")).await.pop().map(|(_, row)| row);
        let c = all(&*snapshot, Scan::prefix(Table::Inline, "")).await.pop().map(|(_, row)| row);
        assert!(a == b && b == c, "{a:?} {b:?} {c:?}");
        assert_eq!(a.map_or(0, |row| row.version.0), snapshot.version().0);
    }
    writer.await.unwrap();
}
