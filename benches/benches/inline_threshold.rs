//! Where a small blob is better kept: as a row of the metadata engine, or as a file of its own.
//!
//! Prints one table: per size, the durable ingest of the same blobs as RocksDB rows in synced batches of 64, and as one
//! file each with fsync through the disk backend, one by one and 64 at once; then a warm read of each in random order.
//! Ratios in one run are what counts. `docs/inline-threshold.md` has the decision.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use provender_benches::{Random, load, noise};
use provender_blobs::{Blobs, BlobsConfig, Location, put};
use rocksdb::{ColumnFamilyDescriptor, DB, DBCompressionType, Options, WriteBatch, WriteOptions};
use tokio::task::spawn_blocking;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const BATCH: usize = 64;
const INLINE: &str = "inline";
const KIB: usize = 1024;
const ONE_BY_ONE: usize = 256;

/// What one size took.
struct Row {
    size: usize,
    count: usize,
    rows: Duration,
    files: Duration,
    files_at_once: Duration,
    read_rows: Duration,
    read_files: Duration,
    /// Bytes that RocksDB gave to the disk, log and compaction included, for each byte stored.
    amplification: f64,
}

#[tokio::main]
async fn main() -> Result<()> {
    println!("load: {}", load());
    println!(
        "   size  blobs |   rows/s  files/s   64 at once | rows : files (64 at once) | row read  file read | written/byte"
    );
    for size in [1, 2, 4, 8, 16, 32, 64, 128].map(|kib| kib * KIB) {
        print(&measure(size).await?);
    }
    println!("load: {}", load());
    Ok(())
}

fn print(row: &Row) {
    let rate = |time: Duration| row.count as f64 / time.as_secs_f64();
    let each = |time: Duration| time.as_secs_f64() * 1e6 / row.count as f64;
    println!(
        "{:>3} KiB {:>6} | {:>8.0} {:>8.0} {:>12.0} | {:>12.1} {:>12.1} | {:>5.1} µs {:>7.1} µs | {:>6.2}",
        row.size / KIB,
        row.count,
        rate(row.rows),
        rate(row.files),
        rate(row.files_at_once),
        rate(row.rows) / rate(row.files),
        rate(row.rows) / rate(row.files_at_once),
        each(row.read_rows),
        each(row.read_files),
        row.amplification,
    );
}

async fn measure(size: usize) -> Result<Row> {
    let count = (64 * KIB * KIB / size).clamp(512, 4096);
    let blobs: Arc<Vec<Bytes>> = Arc::new((0..count).map(|seed| noise(seed as u64, size)).collect());
    let order = shuffled(count);
    let (rows, read_rows, amplification) = with_rows(blobs.clone(), order.clone()).await?;
    // Slow, and the same for each: a few tell.
    let (files, _) = with_files(&blobs[..ONE_BY_ONE], &shuffled(ONE_BY_ONE), 1).await?;
    let files = files.mul_f64(count as f64 / ONE_BY_ONE as f64);
    let (files_at_once, read_files) = with_files(&blobs, &order, BATCH).await?;
    Ok(Row { size, count, rows, files, files_at_once, read_rows, read_files, amplification })
}

/// Times the blobs as rows, set up as the daemon sets up its inline rows.
async fn with_rows(blobs: Arc<Vec<Bytes>>, order: Vec<usize>) -> Result<(Duration, Duration, f64)> {
    let dir = tempfile::tempdir()?;
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    let mut inline = Options::default();
    inline.set_enable_blob_files(true);
    inline.set_min_blob_size(512);
    inline.set_blob_file_size(64 << 20);
    inline.set_blob_compression_type(DBCompressionType::None);
    let db = Arc::new(DB::open_cf_descriptors(&options, dir.path(), [ColumnFamilyDescriptor::new(INLINE, inline)])?);

    let before = written()?;
    let start = Instant::now();
    for first in (0..blobs.len()).step_by(BATCH) {
        let (db, blobs) = (db.clone(), blobs.clone());
        spawn_blocking(move || -> Result<()> {
            let mut batch = WriteBatch::default();
            let family = db.cf_handle(INLINE).ok_or("no family")?;
            for (i, bytes) in blobs.iter().enumerate().skip(first).take(BATCH) {
                // Hashed as a blob on its way in would be.
                batch.put_cf(family, key(i, provender_core::Digest::of(bytes).hash), bytes);
            }
            let mut synced = WriteOptions::default();
            synced.set_sync(true);
            Ok(db.write_opt(batch, &synced)?)
        })
        .await??;
    }
    let ingest = start.elapsed();
    let family = db.cf_handle(INLINE).ok_or("no family")?;
    db.flush_cf(family)?;
    db.compact_range_cf(family, None::<&[u8]>, None::<&[u8]>);
    let stored: usize = blobs.iter().map(Bytes::len).sum();
    let amplification = (written()? - before) as f64 / stored as f64;

    let keys: Vec<_> =
        blobs.iter().enumerate().map(|(i, bytes)| key(i, provender_core::Digest::of(bytes).hash)).collect();
    let mut read = Duration::ZERO;
    // The first round warms.
    for _ in 0..2 {
        let start = Instant::now();
        for &i in &order {
            let (db, key) = (db.clone(), keys[i]);
            let value =
                spawn_blocking(move || -> Result<_> { Ok(db.get_cf(db.cf_handle(INLINE).ok_or("no family")?, key)?) });
            assert_eq!(value.await??.map(|value| value.len()), Some(blobs[i].len()));
        }
        read = start.elapsed();
    }
    Ok((ingest, read, amplification))
}

/// Times the blobs as files, `at_once` of them on their way at a time.
async fn with_files(blobs: &[Bytes], order: &[usize], at_once: usize) -> Result<(Duration, Duration)> {
    let dir = tempfile::tempdir()?;
    let store = provender_blobs::open(&BlobsConfig::Disk { dir: dir.path().join("blobs") }, None).await?;
    let store: &dyn Blobs = &*store;
    let start = Instant::now();
    let locations: Vec<Location> = stream::iter(blobs)
        .map(async |bytes| Ok::<_, provender_blobs::BlobError>(put(store, bytes.clone(), None).await?.location))
        .buffered(at_once)
        .try_collect()
        .await?;
    let ingest = start.elapsed();
    let mut read = Duration::ZERO;
    for _ in 0..2 {
        let start = Instant::now();
        for &i in order {
            let bytes = store.open(&locations[i], 0..u64::MAX).await?.into_bytes().await?;
            assert_eq!(bytes.len(), blobs[i].len());
        }
        read = start.elapsed();
    }
    Ok((ingest, read))
}

fn key(nonce: usize, hash: [u8; 32]) -> [u8; 40] {
    let mut key = [0; 40];
    key[..32].copy_from_slice(&hash);
    key[32..].copy_from_slice(&(nonce as u64).to_be_bytes());
    key
}

/// Bytes that this process has caused to be written so far.
fn written() -> Result<u64> {
    let io = std::fs::read_to_string("/proc/self/io")?;
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).ok_or("no write_bytes")?;
    Ok(line.parse()?)
}

fn shuffled(count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    let mut random = Random::new(1);
    for i in (1..count).rev() {
        order.swap(i, (random.draw() % (i as u64 + 1)) as usize);
    }
    order
}
