//! What verifying finds, in rows, in outboards, and in the files of an engine.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use provender_blobs::BlobsConfig;
use provender_core::batch::{Batch, RowKey};
use provender_core::name::Space;
use provender_core::{Verdict, rows as places};

use super::*;
use crate::clock;
use crate::meta::{self, Memory, Meta, MetaConfig, Scan};
use crate::metrics::Metrics;
use crate::store::tests::{begin, outcome, over, request};

const DEEP: Verify = Verify { deep: true, bytes_per_second: 0 };
const LOOK: Verify = Verify { deep: false, bytes_per_second: 0 };

fn space() -> Space {
    Space::default()
}

/// Bytes that nothing compresses.
fn noise(n: u16, len: usize) -> Bytes {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&n.to_be_bytes()).finalize_xof().fill(&mut bytes);
    bytes.into()
}

/// Key `n` succeeds with a small and a large output.
async fn made(store: &Store, n: u16, len: usize) -> [Digest; 2] {
    begin(store, &request(n)).await;
    let small = store.put_small(&space(), vec![noise(n, 3_000)]).await.unwrap()[0];
    let large = store.put_bytes(&space(), noise(n, len)).await.unwrap();
    store.commit(&space(), request(n).id, &outcome(0)).await.unwrap();
    [small, large]
}

async fn verify(store: &Store, how: Verify) -> Verified {
    store.verify(how, |_| {}).await.unwrap()
}

async fn write(meta: &dyn Meta, key: RowKey, value: Option<&[u8]>) {
    let mut batch = Batch::new(clock::batch_id());
    match value {
        Some(value) => batch.put(key, value.to_vec()),
        None => batch.delete(key),
    };
    meta.commit(batch).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outboard_that_is_damaged_or_missing_is_found_and_written_anew() {
    let meta: Arc<dyn Meta> = Arc::new(Memory::default());
    let store = over(meta.clone()).await;
    let mut large = Vec::new();
    for n in 0..3 {
        large.push(made(&store, n, 300_000).await[1]);
    }
    let all = verify(&store, DEEP).await;
    assert_eq!((all.outboards, all.mended, all.lost, all.damaged), (3, 0, 0, 0), "{all:?}");
    let row = |n: usize| places::outboard(&large[n], 0);
    let was = meta.get(&[row(0)]).await.unwrap().pop().flatten().unwrap().value;
    let mut bytes = was.to_vec();
    bytes[40] ^= 1;
    write(&*meta, row(0), Some(&bytes)).await;
    write(&*meta, row(1), None).await;
    let look = verify(&store, LOOK).await;
    assert_eq!((look.outboards, look.mended, look.lost), (0, 0, 0), "{look:?}");
    let found = verify(&store, DEEP).await;
    assert_eq!((found.outboards, found.mended, found.lost, found.damaged), (3, 2, 0, 0), "{found:?}");
    assert_eq!(meta.get(&[row(0)]).await.unwrap().pop().flatten().unwrap().value, was);
    assert!(store.read_outboard(&large[1]).await.unwrap().is_some());
    assert_eq!(verify(&store, DEEP).await.mended, 0);
    // The scrub does the same, page by page.
    write(&*meta, row(2), None).await;
    let scrub = Scrub { every: Duration::from_secs(3600), bytes_per_second: 1 << 40 };
    while store.scrub_some(&scrub).await.unwrap() == Duration::ZERO {}
    assert!(store.read_outboard(&large[2]).await.unwrap().is_some());
    assert!(store.inner.metrics.verified_rows.get() > 50 && store.inner.metrics.verified_outboards.get() >= 9);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_is_not_what_its_table_says_is_told_and_hides_nothing() {
    let meta: Arc<dyn Meta> = Arc::new(Memory::default());
    let store = over(meta.clone()).await;
    for n in 0..3 {
        made(&store, n, 20_000).await;
    }
    let whole = verify(&store, LOOK).await;
    assert_eq!((whole.damaged, whole.lost), (0, 0), "{whole:?}");
    let mut rows = Vec::new();
    for table in Table::ALL {
        rows.extend(meta.scan(&Scan::prefix(table, "")).await.unwrap().rows.into_iter().map(|row| (table, row)));
    }
    let read = rows.iter().filter(|(table, _)| rows::are_verified(*table)).count() as u64;
    assert_eq!(whole.rows, read);
    // Of each table that says anything in its values: another one there.
    let mut tables = Vec::new();
    for (table, (key, row)) in rows {
        let says = rows::are_verified(table) && !row.value.is_empty() && table != Table::Store;
        if !says || tables.contains(&table) {
            continue;
        }
        tables.push(table);
        let key = RowKey { table, key };
        write(&*meta, key.clone(), Some(b"\xff\xff")).await;
        let found = verify(&store, LOOK).await;
        assert_eq!((found.damaged, found.damage.len()), (1, 1), "{table:?}: {found:?}");
        let text = &found.damage[0];
        assert!(text.contains(&format!("{table:?}")) && text.contains("provenderd restore"), "{text}");
        // A blob's own row is what says that there is one.
        let hidden = u64::from(table == Table::Blob);
        assert_eq!((found.blobs, found.rows), (whole.blobs - hidden, whole.rows), "{table:?}");
        write(&*meta, key, Some(&row.value)).await;
    }
    assert!(tables.len() >= 8, "{tables:?}");
    // An execution under another's key is one as well.
    let executions = meta.scan(&Scan::prefix(Table::Execution, "")).await.unwrap().rows;
    let key = RowKey { table: Table::Execution, key: executions[0].0.clone() };
    write(&*meta, key, Some(&executions[1].1.value)).await;
    assert_eq!(verify(&store, LOOK).await.damaged, 1);
    assert_eq!(store.inner.metrics.damaged.get(), tables.len() as u64 + 1);
}

/// A store whose metadata is in one folder, and whose blobs are in another.
async fn on_rocksdb(meta: &Path, blobs: &Path) -> Store {
    let meta = meta::open(&MetaConfig::default(), meta).await.unwrap();
    let blobs = BlobsConfig::Disk { dir: blobs.join("blobs") };
    Store::open(meta, &blobs, Vec::new(), Arc::new(Metrics::new().unwrap())).await.unwrap()
}

/// The largest of the engine's files that end so.
fn largest(folder: &Path, end: &str) -> PathBuf {
    let files = folder.join("meta").read_dir().unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|extension| extension == end));
    files.max_by_key(|path| path.metadata().unwrap().len()).unwrap()
}

fn flip(file: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 16], at).unwrap();
}

/// A store of so many keys, closed, with all rows in sorted files; its small blobs.
async fn built(folder: &Path, keys: u16) -> Vec<Digest> {
    let store = on_rocksdb(folder, folder).await;
    let mut small = Vec::new();
    for n in 0..keys {
        small.push(made(&store, n, 20_000).await[0]);
    }
    drop(store);
    // What the log held goes into files as it is read.
    drop(on_rocksdb(folder, folder).await);
    small
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_blob_that_decays_in_rocksdbs_files_is_lost_and_heals() {
    let folder = tempfile::tempdir().unwrap();
    let small = built(folder.path(), 20).await;
    let file = largest(folder.path(), "blob");
    let (all, sought) = (std::fs::read(&file).unwrap(), noise(7, 3_000));
    let at = all.windows(100).position(|window| *window == sought[..100]).unwrap();
    flip(&file, at as u64 + 50);
    for read_first in [false, true] {
        let store = on_rocksdb(folder.path(), folder.path()).await;
        if read_first {
            let all = store.read_small(&space(), &small).await;
            assert!(matches!(all, Err(StoreError::Lost { .. })), "{all:?}");
        } else {
            let found = verify(&store, LOOK).await;
            assert_eq!((found.lost, found.found, found.damaged), (1, 1, 0), "{found:?}");
        }
        for (n, digest) in small.iter().enumerate() {
            let read = store.read_small(&space(), &[*digest]).await;
            match n {
                7 => assert!(matches!(read, Err(StoreError::Lost { .. })), "{read:?}"),
                n => assert_eq!(read.unwrap()[0], Some(noise(n as u16, 3_000))),
            }
        }
        let known = verify(&store, LOOK).await;
        assert_eq!((known.lost, known.found), (1, 0), "{known:?}");
    }
    let store = on_rocksdb(folder.path(), folder.path()).await;
    store.put_small(&space(), vec![sought.clone()]).await.unwrap();
    assert_eq!(store.read_small(&space(), &small[7..8]).await.unwrap()[0], Some(sought));
    assert_eq!(verify(&store, LOOK).await.lost, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_decay_in_rocksdbs_files_are_never_served_and_found() {
    const KEYS: u16 = 150;
    let folder = tempfile::tempdir().unwrap();
    built(folder.path(), KEYS).await;
    let sorted = largest(folder.path(), "sst");
    let (name, size) = (sorted.file_name().unwrap(), sorted.metadata().unwrap().len());
    let (mut refused, mut beside) = (0, 0);
    for part in 0..12 {
        // Each time as it was: RocksDB itself may write these files anew.
        let copy = tempfile::tempdir().unwrap();
        std::fs::create_dir(copy.path().join("meta")).unwrap();
        for entry in folder.path().join("meta").read_dir().unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), copy.path().join("meta").join(entry.file_name())).unwrap();
        }
        flip(&copy.path().join("meta").join(name), size * part / 12 + 3);
        let (meta, blobs) = (copy.path().to_owned(), folder.path().to_owned());
        let opened = match meta::open(&MetaConfig::default(), &meta).await {
            Ok(meta) => {
                let blobs = BlobsConfig::Disk { dir: blobs.join("blobs") };
                Store::open(meta, &blobs, Vec::new(), Arc::new(Metrics::new().unwrap())).await
            }
            Err(error) => Err(error.into()),
        };
        let store = match opened {
            Ok(store) => store,
            Err(StoreError::Meta(MetaError::Corrupt { what })) => {
                assert!(what.contains(copy.path().to_str().unwrap()), "{what}");
                continue;
            }
            Err(other) => panic!("part {part}: {other}"),
        };
        let found = verify(&store, DEEP).await;
        let mut errors = 0;
        for n in 0..KEYS {
            let answers = store.lookup(&space(), &[request(n).key]).await;
            let execution = store.execution(&space(), request(n).id).await;
            match answers {
                Ok(answers) => assert_eq!(answers[0].verdict, Verdict::Succeeded, "{n} at part {part}"),
                Err(StoreError::Meta(MetaError::Corrupt { .. })) => errors += 1,
                Err(other) => panic!("part {part}: {other}"),
            }
            match execution {
                Ok(execution) => assert_eq!(execution.key, request(n).key),
                Err(StoreError::Meta(MetaError::Corrupt { .. })) => errors += 1,
                Err(other) => panic!("part {part}: {other}"),
            }
        }
        assert!(errors == 0 || found.damaged > 0, "part {part}: {found:?}");
        if found.damaged > 0 {
            let text = &found.damage[0];
            assert!(text.contains(name.to_str().unwrap()) && text.contains("provenderd restore"), "{text}");
            // A page of rows hides what stands in it, and no other table.
            beside += u64::from(found.blobs >= 2 * u64::from(KEYS) && found.lost == 0);
        }
        refused += errors;
    }
    assert!(refused > 0 && beside > 0, "{refused} reads were refused; {beside} times all blobs were looked at");
}
