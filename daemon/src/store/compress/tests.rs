//! Frames and outboards on a real disk, over each embedded engine.

use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use provender_blobs::{
    Blobs, BlobsConfig, Claim, Page, Reader, ResumeToken, Signature, StageOptions, Staged, Stat, StoreId,
};
use tempfile::TempDir;
use tokio::sync::Notify;

use super::super::{Content, INLINE_MAX};
use super::*;
use crate::meta::{self, Memory, Meta, MetaConfig};
use crate::metrics::Metrics;

const GROUP: u64 = 256 << 10;
/// Whatever there is, as fast as can be.
const ALL: Compression = Compression { after: Duration::ZERO, min_bytes: 0, level: 3, bytes_per_second: u64::MAX };

struct World {
    meta: Arc<dyn Meta>,
    blobs: Arc<dyn Blobs>,
    folder: TempDir,
}

async fn worlds() -> Vec<World> {
    let mut worlds = Vec::new();
    for rocks in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let meta: Arc<dyn Meta> = match rocks {
            true => meta::open(&MetaConfig::default(), folder.path()).await.unwrap(),
            false => Arc::new(Memory::default()),
        };
        let blobs = BlobsConfig::Disk { dir: folder.path().join("blobs") };
        worlds.push(World { meta, blobs: provender_blobs::open(&blobs, None).await.unwrap(), folder });
    }
    worlds
}

impl World {
    /// A daemon that has just come up.
    async fn daemon(&self) -> Store {
        self.over(self.blobs.clone()).await
    }

    async fn over(&self, blobs: Arc<dyn Blobs>) -> Store {
        Store::over(self.meta.clone(), blobs, Vec::new(), Arc::new(Metrics::new().unwrap())).await.unwrap()
    }

    /// The one file of a blob.
    fn file(&self, bytes: &Bytes) -> PathBuf {
        let hex = Digest::of(bytes).hex();
        let shard = self.folder.path().join("blobs/objects").join(&hex[..2]);
        let entries = fs::read_dir(shard).unwrap().map(|entry| entry.unwrap());
        let mut files =
            entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&hex)).map(|entry| entry.path());
        let (first, second) = (files.next().unwrap(), files.next());
        assert_eq!(second, None, "one copy");
        first
    }

    /// Changes one byte of a blob's file.
    fn flip(&self, bytes: &Bytes, at: u64) {
        let path = self.file(bytes);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
    }

    fn is_packed(&self, bytes: &Bytes) -> bool {
        self.file(bytes).to_str().unwrap().ends_with(".zst")
    }
}

fn space() -> Space {
    Space::default()
}

/// Text that shrinks, different for each `seed`.
fn text(seed: u32, len: u64) -> Bytes {
    let line = |n: u32| format!("{seed}: line {n} of {}\n", n.wrapping_mul(2_654_435_761)).into_bytes();
    (0u32..).flat_map(line).take(len as usize).collect()
}

fn noise(len: usize) -> Bytes {
    let mut state = 7_u64;
    let next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

async fn put(store: &Store, bytes: &Bytes) -> Digest {
    store.put_bytes(&space(), bytes.clone()).await.unwrap()
}

async fn part(store: &Store, bytes: &Bytes, range: Range<u64>) -> Result<Bytes, StoreError> {
    store.read_part(&space(), &Digest::of(bytes), range).await
}

/// Every range whose ends are at or beside a group's end.
async fn reads_as(store: &Store, bytes: &Bytes) {
    let size = bytes.len() as u64;
    let ends = [0, 1, GROUP - 1, GROUP, GROUP + 1, 2 * GROUP, size.saturating_sub(1), size];
    for start in ends {
        for end in ends.into_iter().filter(|end| start <= *end && *end <= size) {
            let found = part(store, bytes, start..end).await.unwrap_or_else(|error| panic!("{start}..{end}: {error}"));
            assert!(found == bytes[start as usize..end as usize], "{start}..{end}");
        }
    }
}

fn packed(packed: u64, incompressible: u64, left: u64) -> Compressed {
    Compressed { packed, incompressible, left }
}

#[tokio::test(flavor = "multi_thread")]
async fn cold_blobs_are_compressed_and_read_as_before() {
    for world in worlds().await {
        let a = world.daemon().await;
        let sizes = [INLINE_MAX + 1, GROUP - 1, GROUP, GROUP + 1, 5 * GROUP + 77];
        let texts: Vec<_> = (0..).zip(sizes).map(|(seed, size)| text(seed, size)).collect();
        let (noise, rows) = (noise(3 << 19), [Bytes::new(), text(7, 1), text(8, INLINE_MAX - 1), text(9, INLINE_MAX)]);
        for bytes in texts.iter().chain([&noise]).chain(&rows) {
            put(&a, bytes).await;
        }
        assert_eq!(a.compress_cold(&ALL).await.unwrap(), packed(5, 1, 0));
        assert_eq!(a.compress_cold(&ALL).await.unwrap(), packed(0, 0, 0), "nothing is tried twice");
        assert!(!world.is_packed(&noise));
        for store in [a.clone(), world.daemon().await] {
            for bytes in texts.iter().chain([&noise]).chain(&rows) {
                reads_as(&store, bytes).await;
                assert!(store.find_missing(&space(), &[Digest::of(bytes)]).await.unwrap().is_empty());
            }
            for bytes in &texts {
                assert!(world.is_packed(bytes) && fs::metadata(world.file(bytes)).unwrap().len() < bytes.len() as u64);
                let content = store.content(&space(), &Digest::of(bytes)).await.unwrap();
                assert!(matches!(content, Content::Bytes(found) if found == *bytes));
            }
        }
        // The same again is known, and leaves no other copy.
        put(&a, &texts[4]).await;
        assert!(world.is_packed(&texts[4]));
        assert_eq!(a.inner.metrics.compressed.get(), 5);
        assert!(a.inner.metrics.saved.get() > GROUP);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_blob_in_frames_is_handed_out_part_by_part() {
    let world = worlds().await.remove(0);
    let (a, bytes) = (world.daemon().await, text(1, 20 * GROUP));
    let digest = put(&a, &bytes).await;
    assert!(matches!(a.content(&space(), &digest).await, Ok(Content::File(_))));
    assert_eq!(a.compress_cold(&ALL).await.unwrap(), packed(1, 0, 0));
    assert!(matches!(a.content(&space(), &digest).await, Ok(Content::Parts)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_young_small_or_touched_stays() {
    for world in worlds().await {
        let a = world.daemon().await;
        let bytes = text(1, 100_000);
        let digest = put(&a, &bytes).await;
        let hour = Compression { after: Duration::from_secs(3600), ..ALL };
        assert_eq!(a.compress_cold(&hour).await.unwrap(), packed(0, 0, 0), "it was stored just now");
        let age = async |published, touched| {
            let stored = a.stored(&digest).await.unwrap().unwrap();
            let old = |ms| Timestamp::from_millis(ms);
            let aged = &Stored { published: old(published), ..stored };
            let write = a.transact(|mut txn| async move {
                txn.put(rows::blob(&digest), values::blob_to(aged));
                txn.put(rows::holding(&space(), &digest), values::holding_to(old(0)));
                txn.put(rows::holding(&Space::new("z").unwrap(), &digest), values::holding_to(old(touched)));
                Ok((txn, ()))
            });
            write.await.unwrap();
        };
        age(0, clock::now().millis()).await;
        assert_eq!(a.compress_cold(&hour).await.unwrap(), packed(0, 0, 0), "another space has just touched it");
        age(0, 0).await;
        let larger = Compression { min_bytes: 100_001, ..hour };
        assert_eq!(a.compress_cold(&larger).await.unwrap(), packed(0, 0, 0));
        let exactly = Compression { min_bytes: 100_000, ..hour };
        assert_eq!(a.compress_cold(&exactly).await.unwrap(), packed(1, 0, 0));
        reads_as(&a, &bytes.slice(..100_000)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_is_open_as_a_file_is_left_alone() {
    for world in worlds().await {
        let (a, b) = (world.daemon().await, world.daemon().await);
        let bytes = text(1, 2 * GROUP);
        let digest = put(&a, &bytes).await;
        let Ok(Content::File(file)) = b.content(&space(), &digest).await else { panic!("it is no file") };
        assert_eq!(a.compress_cold(&ALL).await.unwrap(), packed(0, 0, 1));
        assert!(!world.is_packed(&bytes));
        drop(file);
        assert_eq!(a.compress_cold(&ALL).await.unwrap(), packed(1, 0, 0));
        reads_as(&b, &bytes).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_outboard_costs_time_and_no_bytes_and_is_written_anew() {
    for world in worlds().await {
        for is_packed in [false, true] {
            let bytes = text(u32::from(is_packed), 3 * GROUP + 5);
            let digest = put(&world.daemon().await, &bytes).await;
            let row = rows::outboard(&digest, 0);
            let there = async || world.meta.get(std::slice::from_ref(&row)).await.unwrap().remove(0);
            let right = there().await.expect("it is written with the blob").value;
            match is_packed {
                true => _ = world.daemon().await.compress_cold(&ALL).await.unwrap(),
                // Else its signature would prove it.
                false => {
                    let file = File::options().read(true).open(world.file(&bytes)).unwrap();
                    file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
                }
            }
            let mut flipped = right.to_vec();
            flipped[40] ^= 1;
            for (n, wrong) in (1..).zip([Some(flipped.into()), Some(right.slice(1..)), Some(Bytes::new()), None]) {
                let (wrong, row) = (&wrong, &row);
                let damage = world.daemon().await;
                let damaged = damage.transact(|mut txn| async move {
                    match wrong {
                        Some(wrong) => txn.put(row.clone(), wrong.clone()),
                        None => txn.delete(row.clone()),
                    }
                    Ok((txn, ()))
                });
                damaged.await.unwrap();
                let store = world.daemon().await;
                assert_eq!(part(&store, &bytes, 5..GROUP + 5).await.unwrap(), bytes[5..GROUP as usize + 5]);
                assert_eq!(there().await.expect("it is back").value, right);
                if !is_packed {
                    // All of it was read, so its signature is known again: change it once more.
                    let file = File::options().read(true).open(world.file(&bytes)).unwrap();
                    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(n)).unwrap();
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_is_found_in_its_group_and_never_served() {
    for is_packed in [false, true] {
        for world in worlds().await {
            let bytes = text(10 + u32::from(is_packed), 4 * GROUP);
            let digest = put(&world.daemon().await, &bytes).await;
            if is_packed {
                assert_eq!(world.daemon().await.compress_cold(&ALL).await.unwrap(), packed(1, 0, 0));
            }
            // In the last group, or frame, which the others do not need.
            let table = if is_packed { 4 * 8 + 17 } else { 0 };
            world.flip(&bytes, fs::metadata(world.file(&bytes)).unwrap().len() - table - 100);
            let store = world.daemon().await;
            assert_eq!(part(&store, &bytes, 9..2 * GROUP).await.unwrap(), bytes[9..2 * GROUP as usize]);
            assert!(store.stored(&digest).await.unwrap().unwrap().lost.is_none());
            let wrong = part(&store, &bytes, 2 * GROUP..4 * GROUP - 1).await;
            assert!(matches!(wrong, Err(StoreError::Lost { .. })), "{wrong:?}");
            assert!(store.stored(&digest).await.unwrap().unwrap().lost.is_some(), "everybody is told");
            let again = part(&world.daemon().await, &bytes, 0..1).await;
            assert!(matches!(again, Err(StoreError::Lost { .. })), "{again:?}");
            // It is not compressed as it is, and stored anew it is right.
            assert_eq!(store.compress_cold(&ALL).await.unwrap(), packed(0, 0, 0));
            put(&store, &bytes).await;
            reads_as(&world.daemon().await, &bytes).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_bytes_are_not_compressed() {
    for world in worlds().await {
        let (a, bytes) = (world.daemon().await, text(1, 4 * GROUP));
        let digest = put(&a, &bytes).await;
        world.flip(&bytes, GROUP);
        assert_eq!(a.compress_cold(&ALL).await.unwrap(), packed(0, 0, 1));
        assert!(a.stored(&digest).await.unwrap().unwrap().lost.is_some());
        assert!(!world.is_packed(&bytes));
    }
}

/// A backend whose next open waits until it is let go on.
#[derive(Debug)]
struct Late {
    inner: Arc<dyn Blobs>,
    next: Mutex<Option<Arc<Notify>>>,
}

impl Late {
    async fn wait(&self) {
        let next = self.next.lock().unwrap().take();
        if let Some(next) = next {
            next.notified().await;
        }
    }
}

#[async_trait]
impl Blobs for Late {
    fn id(&self) -> StoreId {
        self.inner.id()
    }
    async fn prove(&self) -> Result<(), BlobError> {
        self.inner.prove().await
    }
    async fn stat(&self, locations: &[Location]) -> Result<Vec<Option<Stat>>, BlobError> {
        self.inner.stat(locations).await
    }
    async fn open(&self, location: &Location, range: Range<u64>) -> Result<Reader, BlobError> {
        self.wait().await;
        self.inner.open(location, range).await
    }
    async fn stage(&self, options: StageOptions) -> Result<Box<dyn Staged>, BlobError> {
        self.inner.stage(options).await
    }
    async fn remove(&self, location: &Location) -> Result<(), BlobError> {
        self.inner.remove(location).await
    }
    async fn list(&self, after: Option<&Location>, limit: usize) -> Result<Page, BlobError> {
        self.inner.list(after, limit).await
    }
    async fn file(&self, location: &Location) -> Result<Option<(File, Signature)>, BlobError> {
        self.wait().await;
        self.inner.file(location).await
    }
    async fn claim(&self, location: &Location) -> Result<Option<Claim>, BlobError> {
        self.inner.claim(location).await
    }
    async fn staged(&self, token: ResumeToken) -> Result<Option<u64>, BlobError> {
        self.inner.staged(token).await
    }
    async fn sweep(&self, before: SystemTime) -> Result<u64, BlobError> {
        self.inner.sweep(before).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_about_to_open_what_moves_finds_it_where_it_went() {
    for world in worlds().await {
        for way in 0..3 {
            let gate = Arc::new(Notify::new());
            let late = Arc::new(Late { inner: world.blobs.clone(), next: Mutex::new(Some(gate.clone())) });
            let (a, b) = (world.daemon().await, world.over(late.clone()).await);
            let bytes = text(way, 2 * GROUP);
            let digest = put(&a, &bytes).await;
            let read = {
                let (b, bytes) = (b.clone(), bytes.clone());
                tokio::spawn(async move {
                    match way {
                        0 => part(&b, &bytes, 0..2 * GROUP).await.unwrap() == bytes,
                        1 => part(&b, &bytes, 7..GROUP + 7).await.unwrap() == bytes[7..GROUP as usize + 7],
                        _ => match b.content(&space(), &digest).await.unwrap() {
                            Content::Bytes(found) => found == bytes,
                            other => panic!("{other:?}"),
                        },
                    }
                })
            };
            while late.next.lock().unwrap().is_some() {
                tokio::task::yield_now().await;
            }
            // It has read the row, and is about to open what goes now.
            assert_eq!(a.compress_cold(&ALL).await.unwrap(), packed(1, 0, 0));
            gate.notify_one();
            assert!(read.await.unwrap());
            assert!(b.stored(&digest).await.unwrap().unwrap().lost.is_none());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_read_while_all_is_compressed() {
    for world in worlds().await {
        let (a, b) = (world.daemon().await, world.daemon().await);
        let all: Vec<_> = (0..20).map(|n| text(n, GROUP + u64::from(n) * 20_000)).collect();
        for bytes in &all {
            put(&a, bytes).await;
        }
        let pass = {
            let a = a.clone();
            tokio::spawn(async move { a.compress_cold(&ALL).await.unwrap() })
        };
        let mut rounds = 0;
        while !pass.is_finished() || rounds == 0 {
            for bytes in &all {
                reads_as(&b, bytes).await;
            }
            rounds += 1;
        }
        assert_eq!(pass.await.unwrap(), packed(20, 0, 0));
        assert_eq!(world.blobs.list(None, 100).await.unwrap().locations.len(), 20, "no copy is left over");
    }
}
