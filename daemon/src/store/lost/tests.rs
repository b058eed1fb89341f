//! Losses on a real disk, over each embedded engine, seen by two daemons on one store.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use provender_blobs::BlobsConfig;
use provender_core::execution::{Log, Outcome, State};
use provender_core::name::Name;
use provender_core::transition::Request;
use provender_core::tree::Tree;
use provender_core::{Answer, ExecutionId, Node, Ref};
use tempfile::TempDir;

use super::super::tests::counting::Counting;
use super::super::tests::{begin, outcome, request};
use super::super::{Begin, Content};
use super::*;
use crate::meta::{self, Memory, Meta, MetaConfig};
use crate::metrics::Metrics;

/// Two daemons on one store.
struct World {
    a: Store,
    b: Store,
    meta: Arc<Counting>,
    disk: PathBuf,
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
        let (meta, disk) = (Arc::new(Counting::new(meta)), folder.path().join("blobs"));
        let blobs = BlobsConfig::Disk { dir: disk.clone() };
        let open = || Store::open(meta.clone(), &blobs, Vec::new(), Arc::new(Metrics::new().unwrap()));
        let (a, b) = (open().await.unwrap(), open().await.unwrap());
        worlds.push(World { a, b, meta, disk, folder });
    }
    worlds
}

fn space() -> Space {
    Space::default()
}

/// Bytes too many for a row.
fn large(n: u8) -> Bytes {
    vec![n; 100_000].into()
}

async fn put(store: &Store, bytes: &Bytes) -> Digest {
    store.put_bytes(&space(), bytes.clone()).await.unwrap()
}

/// A tree with one file.
async fn tree(store: &Store, bytes: &Bytes) -> Digest {
    let digest = put(store, bytes).await;
    let mut tree = Tree::new();
    tree.insert("file", Node::File { digest, executable: false }).unwrap();
    store.put_small(&space(), vec![tree.encode().unwrap()]).await.unwrap()[0]
}

/// The key `test:n`, made once with these bytes as its one output.
async fn succeed(store: &Store, n: u16, bytes: &Bytes) -> ExecutionId {
    begin(store, &request(n)).await;
    commit(store, request(n).id, bytes).await;
    request(n).id
}

async fn commit(store: &Store, id: ExecutionId, bytes: &Bytes) {
    let outcome = Outcome { outputs: Some(tree(store, bytes).await), ..outcome(0) };
    assert_eq!(store.commit(&space(), id, &outcome).await.unwrap().0.state, State::Succeeded);
}

/// Another attempt at the key `test:n`.
fn again(n: u16) -> Request {
    Request { id: ExecutionId([9; 16]), ..request(n) }
}

async fn answer(store: &Store, n: u16) -> Answer {
    store.lookup(&space(), &[request(n).key]).await.unwrap().swap_remove(0)
}

async fn verdict(store: &Store, n: u16) -> Verdict {
    answer(store, n).await.verdict
}

async fn read(store: &Store, bytes: &Bytes) -> Result<Bytes, StoreError> {
    store.read_whole(&space(), &Digest::of(bytes), 1 << 20).await
}

#[track_caller]
fn is_lost<T: std::fmt::Debug>(result: Result<T, StoreError>) {
    assert!(matches!(result, Err(StoreError::Lost { .. })), "{result:?}");
}

impl World {
    /// The file of a blob.
    fn file(&self, bytes: &Bytes) -> PathBuf {
        let hex = Digest::of(bytes).hex();
        let shard = self.disk.join("objects").join(&hex[..2]);
        let entries = std::fs::read_dir(shard).unwrap().map(|entry| entry.unwrap());
        let mut files =
            entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&hex)).map(|entry| entry.path());
        let (first, second) = (files.next().unwrap(), files.next());
        assert_eq!(second, None, "one copy");
        first
    }

    fn delete(&self, bytes: &Bytes) {
        std::fs::remove_file(self.file(bytes)).unwrap();
    }

    /// Deletes a blob's file and lets a daemon notice.
    async fn lose(&self, bytes: &Bytes) {
        self.delete(bytes);
        is_lost(read(&self.b, bytes).await);
    }

    async fn log(&self) -> usize {
        let page = self.meta.scan(&Scan::prefix(Table::Lost, rows::lost_prefix())).await.unwrap();
        page.rows.len()
    }
}

fn flip(file: &Path) {
    let file = std::fs::OpenOptions::new().write(true).open(file).unwrap();
    file.write_at(b"?", 50_000).unwrap();
}

#[tokio::test]
async fn a_missing_blob_is_lost_for_all_that_refer_to_it_and_healed_by_an_upload() {
    for world in worlds().await {
        let World { a, b, .. } = &world;
        let made = succeed(a, 1, &large(1)).await;
        succeed(a, 2, &large(1)).await;
        succeed(a, 3, &large(3)).await;
        world.lose(&large(1)).await;
        for n in [1, 2] {
            let Answer { verdict, reason, .. } = answer(a, n).await;
            assert_eq!(verdict, Verdict::Lost);
            let says = format!("blob:{} (100000 bytes) was found missing at ", Digest::of(&large(1)).hex());
            assert!(reason.starts_with(&says) && reason.ends_with(": its file is missing"), "{reason}");
        }
        assert_eq!(answer(b, 1).await.execution, Some(made));
        assert_eq!(verdict(b, 3).await, Verdict::Succeeded);
        // It is missing to everybody, and read by nobody.
        let digest = Digest::of(&large(1));
        assert_eq!(a.find_missing(&space(), &[digest]).await.unwrap(), [digest]);
        is_lost(a.content(&space(), &digest).await);
        is_lost(a.read(&space(), &digest, 5..9).await);
        is_lost(a.read_small(&space(), &[digest]).await);
        assert_eq!(a.by_hash(&space(), &digest.hash).await.unwrap(), Some(digest), "so that the reader is told");
        let refused = a.commit(&space(), request(9).id, &outcome(0)).await;
        assert!(refused.is_err());

        put(b, &large(1)).await;
        assert_eq!(read(a, &large(1)).await.unwrap(), large(1));
        assert_eq!(a.find_missing(&space(), &[digest]).await.unwrap(), []);
        for n in [1, 2, 3] {
            assert_eq!((verdict(a, n).await, verdict(b, n).await), (Verdict::Succeeded, Verdict::Succeeded));
        }
        assert_eq!(world.log().await, 0, "what is healed stands there no more");
        assert_eq!((b.metrics().lost.get(), b.metrics().healed.get()), (1, 1));

        world.lose(&large(1)).await;
        assert_eq!(verdict(a, 1).await, Verdict::Lost, "again");
    }
}

#[tokio::test]
async fn damaged_bytes_are_lost_whoever_reads_them_and_however() {
    for world in worlds().await {
        let (a, digest) = (&world.a, Digest::of(&large(1)));
        for how in 0..4 {
            put(a, &large(1)).await;
            let (file, lost) = (world.file(&large(1)), a.metrics().lost.get());
            match how {
                3 => std::fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(99_999).unwrap(),
                _ => flip(&file),
            }
            match how {
                0 => is_lost(read(a, &large(1)).await),
                1 => is_lost(a.read(&space(), &digest, 5..9).await),
                2 => is_lost(a.content(&space(), &digest).await),
                _ => is_lost(a.tree(&space(), &digest).await),
            }
            assert_eq!(a.metrics().lost.get(), lost + 1, "{how}");
            put(a, &large(1)).await;
            assert_ne!(world.file(&large(1)), file, "another location, and what was wrong is gone");
            assert!(matches!(a.content(&space(), &digest).await, Ok(Content::File(_))));
        }
    }
}

#[tokio::test]
async fn rows_can_be_lost_too() {
    for world in worlds().await {
        let (a, small) = (&world.a, Bytes::from_static(b"small"));
        succeed(a, 1, &small).await;
        for (value, says) in [(Some("other"), "damaged"), (None, "missing")] {
            let digest = Digest::of(&small);
            let stored = a.meta_blob(&digest).await;
            a.transact(|mut txn| {
                match value {
                    Some(value) => txn.put(rows::inline(&digest, stored.nonce), value),
                    None => txn.delete(rows::inline(&digest, stored.nonce)),
                }
                async move { Ok((txn, ())) }
            })
            .await
            .unwrap();
            match value {
                Some(_) => is_lost(read(a, &small).await),
                None => is_lost(a.read_small(&space(), &[digest]).await),
            }
            let Answer { verdict, reason, .. } = answer(&world.b, 1).await;
            assert!(verdict == Verdict::Lost && reason.contains(says), "{verdict} {reason}");
            a.put_small(&space(), vec![small.clone()]).await.unwrap();
            assert_eq!(self::verdict(&world.b, 1).await, Verdict::Succeeded);
            assert_eq!(read(&world.b, &small).await.unwrap(), small);
        }
    }
}

#[tokio::test]
async fn a_store_that_is_not_there_loses_nothing() {
    for world in worlds().await {
        let (a, away) = (&world.a, world.folder.path().join("away"));
        succeed(a, 1, &large(1)).await;
        std::fs::rename(&world.disk, &away).unwrap();
        for replaced in [0, 1, 2] {
            match replaced {
                // Not there, not mounted, another one mounted.
                0 => {}
                1 => std::fs::create_dir(&world.disk).unwrap(),
                _ => drop(provender_blobs::Disk::open(&world.disk, None).await.unwrap()),
            }
            let digest = Digest::of(&large(1));
            for refused in [
                read(a, &large(1)).await.map(drop),
                a.read(&space(), &digest, 5..9).await.map(drop),
                a.content(&space(), &digest).await.map(drop),
            ] {
                assert!(matches!(refused, Err(StoreError::Blobs(BlobError::Unavailable { .. }))), "{refused:?}");
            }
            assert_eq!(verdict(&world.b, 1).await, Verdict::Succeeded);
        }
        assert_eq!((a.lost_head().await.unwrap(), world.log().await), (0, 0));
        std::fs::remove_dir_all(&world.disk).unwrap();
        std::fs::rename(&away, &world.disk).unwrap();
        assert_eq!(read(a, &large(1)).await.unwrap(), large(1));
        // Damage is not believed of a folder without its marker either.
        let marker = (world.disk.join("provender-blobs"), world.disk.join("hidden"));
        std::fs::rename(&marker.0, &marker.1).unwrap();
        flip(&world.file(&large(1)));
        is_lost(read(a, &large(1)).await);
        assert_eq!(a.lost_head().await.unwrap(), 0);
        std::fs::rename(&marker.1, &marker.0).unwrap();
        is_lost(read(a, &large(1)).await);
        assert_eq!(a.lost_head().await.unwrap(), 1);
    }
}

#[tokio::test]
async fn a_lookup_costs_one_read_until_something_is_lost_and_again_once_it_was_tested() {
    for world in worlds().await {
        let (a, keys): (_, Vec<_>) = (&world.a, (1..=20).map(|n| request(n).key).collect());
        for n in 1..=20 {
            succeed(a, n, &large(n as u8)).await;
        }
        put(a, &large(0)).await;
        let cost = async || {
            world.meta.reset();
            let answers = a.lookup(&space(), &keys).await.unwrap();
            let lost = answers.iter().filter(|answer| answer.verdict == Verdict::Lost).count();
            (lost, world.meta.reads())
        };
        assert_eq!(cost().await, (0, 1));
        world.lose(&large(0)).await;
        let (lost, reads) = cost().await;
        assert!(lost == 0 && reads > 20, "{reads}");
        assert_eq!(cost().await, (0, 1), "they were restamped");
        world.lose(&large(7)).await;
        assert_eq!(cost().await.0, 1);
        let (lost, reads) = cost().await;
        assert!(lost == 1 && reads < 10, "only the lost one is tested again: {reads}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn however_many_notice_it_stands_in_the_log_once() {
    for world in worlds().await {
        let blobs: Vec<_> = (0..8).map(large).collect();
        for bytes in &blobs {
            put(&world.a, bytes).await;
            world.delete(bytes);
        }
        let mut readers = tokio::task::JoinSet::new();
        for n in 0..64 {
            let (store, bytes) = ([&world.a, &world.b][n % 2].clone(), blobs[n / 2 % 8].clone());
            readers.spawn(async move { is_lost(read(&store, &bytes).await) });
        }
        readers.join_all().await;
        assert_eq!((world.a.lost_head().await.unwrap(), world.log().await), (8, 8));
        assert_eq!(world.a.metrics().lost.get() + world.b.metrics().lost.get(), 8);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_upload_while_it_is_noticed_heals_it() {
    for world in worlds().await {
        let World { a, b, .. } = &world;
        succeed(a, 1, &large(1)).await;
        for _ in 0..50 {
            world.delete(&large(1));
            let (store, other) = (a.clone(), b.clone());
            let noticing = tokio::spawn(async move { read(&store, &large(1)).await });
            let uploading = tokio::spawn(async move { put(&other, &large(1)).await });
            _ = (noticing.await.unwrap(), uploading.await.unwrap());
            // An upload finds the loss out by itself, if nobody else did.
            assert_eq!(world.log().await, 0);
            assert_eq!(a.find_missing(&space(), &[Digest::of(&large(1))]).await.unwrap(), []);
            assert_eq!((verdict(a, 1).await, verdict(b, 1).await), (Verdict::Succeeded, Verdict::Succeeded));
            assert_eq!(read(a, &large(1)).await.unwrap(), large(1));
        }
    }
}

#[tokio::test]
async fn whoever_runs_it_again_heals_it() {
    for world in worlds().await {
        let World { a, b, .. } = &world;
        let first = succeed(a, 1, &large(1)).await;
        world.lose(&large(1)).await;
        // In vain, which is the newer news, but takes nothing from the record.
        begin(b, &again(1)).await;
        assert_eq!(verdict(a, 1).await, Verdict::Running);
        b.commit(&space(), again(1).id, &outcome(1)).await.unwrap();
        assert_eq!(verdict(a, 1).await, Verdict::Failed);
        put(a, &large(1)).await;
        assert_eq!((verdict(b, 1).await, answer(b, 1).await.execution), (Verdict::Succeeded, Some(first)));
        // With other outputs, which become the record, since there was none that could be served.
        world.lose(&large(1)).await;
        let third = Request { id: ExecutionId([8; 16]), ..request(1) };
        begin(a, &third).await;
        commit(a, third.id, &large(2)).await;
        assert_eq!((verdict(b, 1).await, answer(b, 1).await.execution), (Verdict::Succeeded, Some(third.id)));
        assert_eq!(a.execution(&space(), third.id).await.unwrap().diverges_from, None);
        let hit = a.begin(&space(), &again(1), None).await.unwrap();
        assert!(matches!(&hit, Begin::Hit(hit) if hit.id == third.id), "{hit:?}");
    }
}

#[tokio::test]
async fn logs_and_the_list_of_what_a_record_refers_to_count() {
    for world in worlds().await {
        let a = &world.a;
        begin(a, &request(1)).await;
        let log = |n| Some(Log { digest: Digest::of(&large(n)), cut: 0 });
        for n in [1, 2] {
            put(a, &large(n)).await;
        }
        a.commit(&space(), request(1).id, &Outcome { stdout: log(1), stderr: log(2), ..outcome(0) }).await.unwrap();
        world.lose(&large(2)).await;
        assert_eq!(verdict(a, 1).await, Verdict::Lost);
        put(a, &large(2)).await;
        assert_eq!(verdict(a, 1).await, Verdict::Succeeded);

        let known = a.known_of(&space(), &[request(1).key]).await.unwrap().remove(0);
        let closure = known.answer().unwrap().closure;
        let stored = a.meta_blob(&closure).await;
        a.transact(|mut txn| {
            txn.delete(rows::inline(&closure, stored.nonce));
            async move { Ok((txn, ())) }
        })
        .await
        .unwrap();
        // Nobody reads it before another loss asks for a test.
        put(a, &large(5)).await;
        world.lose(&large(5)).await;
        for _ in 0..2 {
            let Answer { verdict, reason, .. } = answer(a, 1).await;
            assert!(verdict == Verdict::Lost && reason.contains(&closure.hex()), "{reason}");
        }
    }
}

#[tokio::test]
async fn latest_passes_over_what_is_lost() {
    for world in worlds().await {
        let (a, name) = (&world.a, Name::new("name").unwrap());
        let first = succeed(a, 1, &large(1)).await;
        // Folders are named by the second, so the order of one second is that of ids: the second success is asked for last.
        let second = succeed(a, 2, &large(2)).await;
        let latest = async || a.latest(&space(), &name).await.unwrap().map(|latest| latest.id);
        assert_eq!(latest().await, Some(second));
        world.lose(&large(2)).await;
        assert_eq!(latest().await, Some(first));
        assert_eq!(a.keys(&space(), "test", None, 10).await.unwrap().0, ["1"]);
        assert_eq!(a.names(&space(), "", None, 10).await.unwrap().0[0].latest.as_ref().map(|it| it.id), Some(first));
        world.lose(&large(1)).await;
        assert_eq!(latest().await, None);
        let refused = a.describe(&space(), &Ref::Name { name: name.clone(), nth: None }).await;
        let says = refused.unwrap_err().to_string();
        assert!(says.contains("is LOST: blob:"), "{says}");
        for n in [1, 2] {
            put(a, &large(n)).await;
        }
        assert_eq!(latest().await, Some(second));
    }
}

#[tokio::test]
async fn many_losses_are_looked_through_in_pages() {
    let world = worlds().await.remove(0);
    let a = &world.a;
    succeed(a, 1, &large(1)).await;
    let lost = |n: u64| Loss {
        digest: Digest { size: n, ..Digest::of(b"x") },
        found: clock::now(),
        damage: Damage::Missing,
        why: "w".into(),
    };
    let last = 2 * PAGE as u64 + 10;
    a.transact(|mut txn| {
        (1..=last).for_each(|n| txn.put(rows::lost(n), values::lost_to(&lost(n))));
        txn.put(rows::store(rows::LOST_HEAD), last.to_string());
        async move { Ok((txn, ())) }
    })
    .await
    .unwrap();
    assert_eq!(verdict(a, 1).await, Verdict::Succeeded);
    world.meta.reset();
    assert_eq!((verdict(a, 1).await, world.meta.reads()), (Verdict::Succeeded, 1));
    world.lose(&large(1)).await;
    assert_eq!(verdict(a, 1).await, Verdict::Lost);
    assert_eq!(a.lost_head().await.unwrap(), last + 1);
}

impl Store {
    async fn meta_blob(&self, digest: &Digest) -> Stored {
        let row = self.inner.meta.get(&[rows::blob(digest)]).await.unwrap().remove(0).unwrap();
        values::blob_from(row.value).unwrap()
    }
}

#[tokio::test]
async fn what_is_gone_unnoticed_is_missing_to_who_would_rely_on_it() {
    type Harm = fn(&World, &Bytes);
    let harms: [Harm; 2] = [World::delete, |world, bytes| flip(&world.file(bytes))];
    for harm in harms {
        for world in worlds().await {
            let (a, bytes) = (&world.a, large(1));
            succeed(a, 1, &bytes).await;
            harm(&world, &bytes);
            // Nobody has read it. Who is about to make the same has the right bytes at hand, and is asked for them.
            begin(a, &request(2)).await;
            let root = a.execution(&space(), request(1).id).await.unwrap().outcome.outputs.unwrap();
            let sent = Outcome { outputs: Some(root), ..outcome(0) };
            let refused = a.commit(&space(), request(2).id, &sent).await.unwrap_err();
            assert!(refused.to_string().contains(&Digest::of(&bytes).hex()), "{refused}");
            assert_eq!(verdict(a, 1).await, Verdict::Lost);
            assert_eq!(a.find_missing(&space(), &[Digest::of(&bytes)]).await.unwrap(), [Digest::of(&bytes)]);
            commit(a, request(2).id, &bytes).await;
            assert_eq!((verdict(a, 1).await, verdict(&world.b, 2).await), (Verdict::Succeeded, Verdict::Succeeded));
            assert_eq!(read(a, &bytes).await.unwrap(), bytes);
        }
    }
}

#[tokio::test]
async fn a_file_that_was_touched_is_read_once_and_no_more() {
    for world in worlds().await {
        let (a, bytes) = (&world.a, large(1));
        succeed(a, 1, &bytes).await;
        let file = std::fs::File::options().write(true).open(world.file(&bytes)).unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        let stored = async || a.stored(&Digest::of(&bytes)).await.unwrap().unwrap();
        let before = stored().await;
        assert!(a.find_missing(&space(), &[Digest::of(&bytes)]).await.unwrap().is_empty());
        let after = stored().await;
        assert!(after.place != before.place && after.lost.is_none() && after.nonce == before.nonce);
        assert!(a.find_missing(&space(), &[Digest::of(&bytes)]).await.unwrap().is_empty());
        assert_eq!((stored().await, world.log().await), (after, 0));
    }
}

#[tokio::test]
async fn of_a_long_log_a_lost_record_costs_its_beginning() {
    for world in worlds().await {
        let a = &world.a;
        succeed(a, 1, &large(0)).await;
        world.lose(&large(0)).await;
        for n in 0..100_u64 {
            let bytes = Bytes::from([n.to_be_bytes().as_slice(), &[1; 20_000]].concat());
            put(a, &bytes).await;
            world.lose(&bytes).await;
        }
        assert_eq!(verdict(a, 1).await, Verdict::Lost);
        let before = world.meta.rows();
        assert_eq!(verdict(a, 1).await, Verdict::Lost);
        let cost = world.meta.rows() - before;
        assert!(cost < 90, "{cost} rows of a log of {}", world.log().await);
    }
}
