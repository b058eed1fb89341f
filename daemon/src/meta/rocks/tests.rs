//! What RocksDB's files hold is as it was written, or an error: never other rows, never fewer.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use provender_core::batch::Change;

use super::*;

/// What a database holds.
#[derive(Debug, Default)]
struct Model {
    rows: BTreeMap<RowKey, Row>,
    changes: Vec<Change>,
}

impl Model {
    async fn commit(&mut self, meta: &Rocks, rows: &[(Table, String, Bytes)]) {
        let mut batch = Batch::new(crate::clock::batch_id());
        for (table, key, value) in rows {
            batch.put(RowKey { table: *table, key: key.clone().into() }, value.clone());
        }
        let writes = batch.writes.clone();
        let version = meta.commit(batch).await.unwrap();
        for (key, value) in writes {
            self.rows.insert(key, Row { version, value: value.unwrap() });
        }
    }
}

fn small() -> RocksConfig {
    RocksConfig { cache_bytes: 1 << 20, write_buffer_bytes: 8 << 20 }
}

/// A database with rows in sorted files, in a blob file, and in a log alone.
async fn build(dir: &Path) -> Model {
    let mut model = Model::default();
    for round in 0..3_u8 {
        // What the log of the round before held is sorted into files now.
        let meta = Rocks::open(&small(), dir).await.unwrap();
        for n in 0..6_u8 {
            let rows = [
                (Table::Key, format!("key {n}"), Bytes::from(vec![round; 30])),
                (Table::Key, format!("key {n} of {round}"), Bytes::from(vec![n; 300])),
                (Table::Inline, format!("inline {n} of {round}"), Bytes::from(vec![n ^ round; 1500])),
            ];
            model.commit(&meta, &rows).await;
        }
        model.changes = meta.changes(Version(0), 1_000).await.unwrap().changes;
    }
    model
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = dir.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Another folder with the same files, one byte of one of them changed.
fn flipped(from: &Path, name: &str, at: u64, bits: u8) -> tempfile::TempDir {
    // In memory, if there is such a file system: there are many.
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    for file in files(from) {
        std::fs::copy(&file, dir.path().join(file.file_name().unwrap())).unwrap();
    }
    let file = std::fs::File::options().read(true).write(true).open(dir.path().join(name)).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ bits], at).unwrap();
    dir
}

/// What became of a changed byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Found {
    AtStart,
    OnRead,
    Nowhere,
}

/// Reads everything.
async fn verify(meta: &Rocks) -> Result<(), MetaError> {
    for table in Table::ALL {
        let mut scan = Scan::prefix(table, "");
        loop {
            let page = meta.scan(&scan).await?;
            scan.after = page.rows.last().map(|(key, _)| key.clone());
            if !page.more {
                break;
            }
        }
    }
    let mut next = meta.verify(None).await?.next;
    while next.is_some() {
        next = meta.verify(next).await?.next;
    }
    Ok(())
}

/// Whatever is answered is right.
async fn judge(dir: &Path, model: &Model, place: &str) -> Found {
    let is_clear = |error: &MetaError| {
        let text = error.to_string();
        assert!(
            matches!(error, MetaError::Corrupt { .. }) && text.contains("provenderd restore"),
            "{place}: {error:?}"
        );
        text
    };
    let meta = match Rocks::open(&small(), dir).await {
        Ok(meta) => meta,
        Err(error) => {
            let text = is_clear(&error);
            assert!(text.contains(&dir.display().to_string()), "{place}: {text}");
            return Found::AtStart;
        }
    };
    let mut found = Found::Nowhere;
    for (key, row) in &model.rows {
        match meta.get(std::slice::from_ref(key)).await {
            Ok(there) => assert_eq!(there[0].as_ref(), Some(row), "{place}: {key:?}"),
            Err(error) => {
                is_clear(&error);
                found = Found::OnRead;
            }
        }
    }
    // Many at once are read by other means.
    for tables in [&[Table::Key][..], &[Table::Key, Table::Inline]] {
        let rows: BTreeMap<_, _> = model.rows.iter().filter(|(key, _)| tables.contains(&key.table)).collect();
        let keys: Vec<_> = rows.keys().copied().cloned().collect();
        match meta.get(&keys).await {
            Ok(there) => assert!(there.iter().map(Option::as_ref).eq(rows.values().map(|row| Some(*row))), "{place}"),
            Err(error) => {
                is_clear(&error);
                found = Found::OnRead;
            }
        }
    }
    match meta.changes(Version(0), 1_000).await {
        Ok(there) => assert_eq!(there.changes, model.changes, "{place}"),
        Err(error) => {
            is_clear(&error);
            found = Found::OnRead;
        }
    }
    match verify(&meta).await {
        Ok(()) => assert_eq!(found, Found::Nowhere, "{place}: verifying has not found it"),
        Err(error) => {
            let text = is_clear(&error);
            assert!(text.contains(&dir.display().to_string()), "{place}: {text}");
            found = Found::OnRead;
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_byte_in_any_of_rocksdbs_files_gives_no_other_rows_and_no_fewer() {
    let whole = tempfile::tempdir().unwrap();
    let model = build(whole.path()).await;
    let mut seen: BTreeMap<(String, Found), usize> = BTreeMap::new();
    for file in files(whole.path()) {
        let (name, size) = (file.file_name().unwrap().to_str().unwrap().to_owned(), file.metadata().unwrap().len());
        let kind = match file.extension() {
            Some(extension) => extension.to_str().unwrap().to_owned(),
            None => name.split('-').next().unwrap().to_owned(),
        };
        let (some, end) = match &*kind {
            "log" | "MANIFEST" | "CURRENT" => (60, 12),
            "sst" | "blob" => (20, 12),
            // Nothing of these counts.
            _ => (3, 0),
        };
        let ends = (0..end.min(size)).chain(size.saturating_sub(end)..size);
        for at in ends.chain((end..size).step_by((size / some).max(1) as usize)) {
            let place = format!("{name}, byte {at} of {size}");
            let dir = flipped(whole.path(), &name, at, 1 << (at % 8));
            *seen.entry((kind.clone(), judge(dir.path(), &model, &place).await)).or_default() += 1;
        }
    }
    println!("{seen:#?}");
    let count = |kind: &str, found| seen.get(&(kind.to_owned(), found)).copied().unwrap_or_default();
    for kind in ["sst", "blob", "log", "MANIFEST", "CURRENT"] {
        assert!(count(kind, Found::AtStart) + count(kind, Found::OnRead) > 5, "{kind}: {seen:?}");
    }
    // Of logs nothing is passed over.
    assert_eq!(count("log", Found::Nowhere) + count("MANIFEST", Found::Nowhere), 0, "{seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_rows_come_in_the_order_in_which_they_were_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let model = build(dir.path()).await;
    let absent = |n: u8| RowKey { table: Table::Key, key: format!("key {n}, which is not there").into() };
    let mut keys: Vec<_> = model.rows.keys().rev().cloned().collect();
    // More than RocksDB is asked for at once; some twice, some that there are not, from two families and their middles.
    keys.extend((0..200).map(absent));
    keys.extend(model.rows.keys().cloned().cycle().skip(7).step_by(5).take(200));
    let meta = Rocks::open(&small(), dir.path()).await.unwrap();
    let expected: Vec<_> = keys.iter().map(|key| model.rows.get(key).cloned()).collect();
    assert_eq!(meta.get(&keys).await.unwrap(), expected);
    assert!(expected.iter().any(Option::is_none) && keys.len() > 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_missing_is_told_and_no_empty_database_made_instead() {
    let whole = tempfile::tempdir().unwrap();
    let model = build(whole.path()).await;
    for file in files(whole.path()) {
        let name = file.file_name().unwrap().to_str().unwrap();
        // A log that was being written to when it all ended is known of by nobody else; a blob file is missed by who reads it.
        if [".sst", "CURRENT", "MANIFEST"].iter().any(|kind| name.contains(kind)) {
            let dir = flipped(whole.path(), name, 0, 0);
            std::fs::remove_file(dir.path().join(name)).unwrap();
            assert_eq!(judge(dir.path(), &model, name).await, Found::AtStart, "{name}");
        }
    }
}

/// Where the records of a log begin.
fn records(log: &[u8]) -> Vec<u64> {
    let (mut all, mut at) = (Vec::new(), 0);
    while let Some(header) = log.get(at..at + 7) {
        all.push(at as u64);
        at += 7 + usize::from(u16::from_le_bytes([header[4], header[5]]));
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_in_a_header_of_a_log_drops_nothing() {
    let whole = tempfile::tempdir().unwrap();
    let model = build(whole.path()).await;
    for file in files(whole.path()) {
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        if !name.ends_with(".log") && !name.starts_with("MANIFEST") {
            continue;
        }
        let log = std::fs::read(&file).unwrap();
        let records = records(&log);
        // The last one is what a power cut may have cut off, the first is all there is.
        for at in [records[0], records[1], records[records.len() - 1]] {
            for bit in 0..24 {
                let dir = flipped(whole.path(), &name, at + 4 + bit / 8, 1 << (bit % 8));
                let place = format!("{name}, bit {bit} of the header at {at}");
                assert_eq!(judge(dir.path(), &model, &place).await, Found::AtStart, "{place}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_was_cut_off_is_dropped_and_no_other() {
    let whole = tempfile::tempdir().unwrap();
    let model = build(whole.path()).await;
    let file = files(whole.path()).into_iter().rfind(|file| file.extension().is_some_and(|end| end == "log")).unwrap();
    let (name, log) = (file.file_name().unwrap().to_str().unwrap(), std::fs::read(&file).unwrap());
    let last = *records(&log).last().unwrap();
    for end in [last + 1, last + 6, last + 7, last + 200, log.len() as u64 - 1] {
        let dir = flipped(whole.path(), name, 0, 0);
        std::fs::File::options().write(true).open(dir.path().join(name)).unwrap().set_len(end).unwrap();
        let meta = Rocks::open(&small(), dir.path()).await.unwrap();
        let head = meta.head().await.unwrap();
        let before = model.rows.values().map(|row| row.version).max().unwrap();
        assert_eq!(head.0, before.0 - 1, "cut off at {end}");
        for (key, row) in model.rows.iter().filter(|(_, row)| row.version <= head) {
            assert_eq!(meta.get(std::slice::from_ref(key)).await.unwrap()[0].as_ref(), Some(row), "cut off at {end}");
        }
    }
}
