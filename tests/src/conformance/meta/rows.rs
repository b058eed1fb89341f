//! Rows come back as they were written, one moment at a time.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use provender_core::batch::{RowKey, Table};
use provender_daemon::meta::Scan;

use super::{Storage, all, batch, fed, get, name, put, quiet};

pub async fn values_come_back_as_they_were(storage: &dyn Storage) {
    let meta = storage.open().await;
    let keys = [&b""[..], b"\0", b"\0\0", b"a\0b", b"\xff", b"\xff\xff", &[0xff; 4096]];
    let values = [vec![], vec![0], vec![0xff; 65_536], (0..=255).collect()];
    for table in [Table::Store, Table::Key, Table::Inline, Table::Pin] {
        for (n, key) in keys.iter().enumerate() {
            let key = RowKey { table, key: Bytes::copy_from_slice(key) };
            let value = &values[n % values.len()];
            let version = put(&*meta, key.clone(), value.clone()).await;
            let row = get(&*meta, &key).await.unwrap();
            assert_eq!((row.version, &row.value[..]), (version, &value[..]), "{key:?}");
        }
        let found = all(&*meta, Scan::prefix(table, "")).await;
        assert_eq!(found.iter().map(|(key, _)| &key[..]).collect::<Vec<_>>(), keys);
    }
    let mut wanted = vec![fed("absent"), fed(""), quiet(""), fed(""), fed("\0")];
    wanted.extend((0..5_000).map(|n| fed(name(n))));
    let got = meta.get(&wanted).await.unwrap();
    let there = got.iter().take(5).map(Option::is_some).collect::<Vec<_>>();
    assert_eq!((there, got.len()), (vec![false, true, false, true, true], wanted.len()));
    assert_eq!(meta.get(&[]).await.unwrap(), []);
}

pub async fn a_get_sees_one_moment(storage: &dyn Storage) {
    let meta = storage.open().await;
    // Across the tables that an engine may keep apart.
    let keys: Vec<_> = [Table::Key, Table::Inline, Table::Key, Table::Pin]
        .into_iter()
        .enumerate()
        .map(|(n, table)| RowKey { table, key: name(n) })
        .collect();
    let writer = tokio::spawn({
        let (meta, keys) = (Arc::clone(&meta), keys.clone());
        async move {
            for n in 0..300 {
                let mut batch = batch();
                keys.iter().for_each(|key| {
                    batch.put(key.clone(), n.to_string());
                });
                meta.commit(batch).await.unwrap();
            }
        }
    });
    while !writer.is_finished() {
        let rows: BTreeSet<_> =
            meta.get(&keys).await.unwrap().into_iter().map(|row| row.map(|row| row.value)).collect();
        assert_eq!(rows.len(), 1, "{rows:?}");
    }
    writer.await.unwrap();
}

pub async fn scans_keep_to_their_edges(storage: &dyn Storage) {
    let meta = storage.open().await;
    let keys = [&b"a"[..], b"a\0", b"a\xff", b"a\xff\xff", b"a\xff\xffz", b"b", b"\xff", b"\xff\xff", b"\xff\xffa"];
    for (table, value) in [(Table::Lease, "x"), (Table::Execution, "y"), (Table::Spec, "z")] {
        for key in keys {
            put(&*meta, RowKey { table, key: Bytes::copy_from_slice(key) }, value).await;
        }
    }
    for prefix in [&b""[..], b"a", b"a\xff", b"a\xff\xff", b"b", b"c", b"\xff", b"\xff\xff", b"\xff\xff\xff"] {
        for after in keys.iter().map(|key| Some(*key)).chain([None, Some(&b""[..]), Some(b"a\x01"), Some(b"zz")]) {
            let expected: Vec<_> =
                keys.iter().filter(|key| key.starts_with(prefix) && after.is_none_or(|after| **key > after)).collect();
            for limit in [1, 2, expected.len().max(1), 100] {
                let scan = Scan {
                    after: after.map(Bytes::copy_from_slice),
                    limit,
                    ..Scan::prefix(Table::Execution, Bytes::copy_from_slice(prefix))
                };
                let page = meta.scan(&scan).await.unwrap();
                let found: Vec<_> = page.rows.iter().map(|(key, _)| &key[..]).collect();
                let shown = expected.iter().take(limit).map(|key| **key).collect::<Vec<_>>();
                assert_eq!(found, shown, "{scan:?}");
                assert_eq!(page.more, expected.len() > limit, "{scan:?}");
                assert!(page.rows.iter().all(|(_, row)| row.value == "y"));
            }
        }
    }
}

pub async fn scans_are_paged_by_rows(storage: &dyn Storage) {
    let meta = storage.open().await;
    let mut batch = batch();
    (0..1_000).for_each(|n| {
        batch.put(quiet(name(n)), "");
    });
    meta.commit(batch).await.unwrap();
    for limit in [1, 7, 999, 1_000, 1_001] {
        let rows = all(&*meta, Scan { limit, ..Scan::prefix(Table::Execution, "") }).await;
        assert!(rows.iter().map(|(key, _)| key.clone()).eq((0..1_000).map(name)), "limit {limit}");
    }
    // Nothing is not a page: it would never end.
    assert_eq!(meta.scan(&Scan { limit: 0, ..Scan::prefix(Table::Execution, "") }).await.unwrap().rows.len(), 1);
}

pub async fn scans_are_paged_by_bytes(storage: &dyn Storage) {
    let meta = storage.open().await;
    for n in 0..8 {
        let mut batch = batch();
        for m in 0..25 {
            batch.put(RowKey { table: Table::Inline, key: name(n * 25 + m) }, vec![n as u8; 65_536]);
        }
        meta.commit(batch).await.unwrap();
    }
    let page = meta.scan(&Scan::prefix(Table::Inline, "")).await.unwrap();
    assert!(page.more && page.rows.len() < 100, "{} rows of 64 KiB in one page", page.rows.len());
    let rows = all(&*meta, Scan::prefix(Table::Inline, "")).await;
    assert!(rows.iter().map(|(key, _)| key.clone()).eq((0..200).map(name)));
}

pub async fn a_scan_goes_on_while_others_write(storage: &dyn Storage) {
    let meta = storage.open().await;
    let mut batch = batch();
    (0..500).for_each(|n| {
        batch.put(quiet(name(2 * n)), "");
    });
    meta.commit(batch).await.unwrap();
    let writer = tokio::spawn({
        let meta = Arc::clone(&meta);
        async move {
            for n in 0..100 {
                let mut batch = super::batch();
                batch.put(quiet(name(2 * (n * 37 % 500) + 1)), "new").delete(quiet(name(2 * (n * 37 % 500) + 1001)));
                meta.commit(batch).await.unwrap();
            }
        }
    });
    // What was there all along is found once, in order, whatever comes and goes around it.
    while !writer.is_finished() {
        let rows = all(&*meta, Scan { limit: 64, ..Scan::prefix(Table::Execution, "") }).await;
        assert!(rows.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert!(
            rows.iter()
                .filter(|(_, row)| row.value != "new")
                .map(|(key, _)| key.clone())
                .eq((0..500).map(|n| name(2 * n)))
        );
    }
    writer.await.unwrap();
}

pub async fn a_batch_of_fifty_thousand_writes(storage: &dyn Storage) {
    let meta = storage.open().await;
    let mut big = batch();
    for n in 0..50_000 {
        big.expect(quiet(name(n)), provender_core::batch::Expect::Absent).put(quiet(name(n)), name(n));
    }
    let version = meta.commit(big).await.unwrap();
    let rows = all(&*meta, Scan::prefix(Table::Execution, "")).await;
    assert_eq!(rows.len(), 50_000);
    assert!(rows.iter().all(|(key, row)| row.version == version && row.value == *key));

    let mut gone = batch();
    (0..50_000).filter(|n| n % 2 == 0).for_each(|n| {
        gone.delete(quiet(name(n))).put(fed(name(n)), "");
    });
    meta.commit(gone).await.unwrap();
    assert_eq!(all(&*meta, Scan::prefix(Table::Execution, "")).await.len(), 25_000);
    assert_eq!(meta.changes(version, 1).await.unwrap().changes.len(), 25_000);
}

pub async fn what_was_committed_is_there_when_reopened(storage: &dyn Storage) {
    let meta = storage.open().await;
    let first = put(&*meta, fed("a"), "1").await;
    let mut second = batch();
    second.put(fed("b"), "2").put(RowKey { table: Table::Inline, key: "c".into() }, vec![7; 30_000]).delete(fed("a"));
    let version = meta.commit(second.clone()).await.unwrap();
    let aborted = batch();
    meta.resolve(aborted.id).await.unwrap();
    drop(meta);

    let meta = storage.open().await;
    assert_eq!(meta.head().await.unwrap(), version);
    assert_eq!(get(&*meta, &fed("a")).await, None);
    assert_eq!(get(&*meta, &fed("b")).await.unwrap().version, version);
    assert_eq!(meta.commit(second).await.unwrap(), version);
    assert!(meta.commit(aborted).await.is_err());
    assert_eq!(meta.changes(first, 10).await.unwrap().changes.len(), 2);
    assert!(put(&*meta, fed("a"), "3").await > version);
}
