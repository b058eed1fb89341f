//! What every backend of `Blobs` must do: each function takes a fresh, empty store.

use std::collections::BTreeSet;
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{join_all, try_join_all};
use futures::{FutureExt, TryStreamExt};
use provender_blobs::{
    Alias, BlobError, Blobs, CHUNK, HashFunction, Location, Opened, Published, Signature, StageOptions, open_verified,
    put, verified,
};
use provender_core::Digest;

pub mod bucket;
pub mod crash;
pub mod disk;
pub mod full;
pub mod packed;

/// The bytes that one frame holds, and one group of an outboard proves.
const GROUP: usize = 256 << 10;
/// Also at what is the largest row (`INLINE_MAX`), and at what begins another frame.
const SIZES: [usize; 13] = [
    0,
    1,
    (16 << 10) - 1,
    16 << 10,
    (16 << 10) + 1,
    GROUP - 1,
    GROUP,
    GROUP + 1,
    CHUNK - 1,
    CHUNK,
    CHUNK + 1,
    5 * CHUNK,
    5 * CHUNK + GROUP + 1,
];

/// `len` bytes in which no two chunks are alike, different for each `seed`.
pub fn bytes(seed: u64, len: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes.into()
}

/// Stages `bytes` in uneven pieces and publishes them as what they are.
async fn ingest(blobs: &dyn Blobs, bytes: &Bytes) -> Result<Published, BlobError> {
    let mut staged = blobs.stage(StageOptions::default()).await?;
    for piece in bytes.chunks(300_007) {
        staged.write(bytes.slice_ref(piece)).await?;
    }
    staged.publish(Some(Digest::of(bytes))).await
}

async fn read(blobs: &dyn Blobs, location: &Location) -> Result<Bytes, BlobError> {
    verified(*location, blobs.open(location, 0..u64::MAX).await?).into_bytes().await
}

/// Every location, by pages of `limit`.
async fn list(blobs: &dyn Blobs, limit: usize) -> Vec<Location> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = blobs.list(after.as_ref(), limit).await.expect("list");
        all.extend(page.locations);
        match page.next {
            Some(next) => after = Some(next),
            None => return all,
        }
    }
}

/// Waits for what must come about by itself; fails if it does not come at all.
pub async fn eventually(what: &str, condition: impl AsyncFn() -> bool) {
    for _ in 0..6_000 {
        if condition().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never: {what}");
}

/// Blobs of every size come back as they went in, whole and by `stat`.
pub async fn sizes_round_trip(blobs: Arc<dyn Blobs>) {
    for size in SIZES {
        let bytes = bytes(1, size);
        let published = ingest(&*blobs, &bytes).await.expect("ingest");
        assert_eq!(published.location.digest, Digest::of(&bytes));
        assert_eq!(published.aliases, []);
        let stat = blobs.stat(&[published.location]).await.expect("stat")[0].expect("is there");
        assert_eq!((stat.size, stat.signature), (published.location.stored(), published.signature));
        assert_eq!(published.outboard.is_some(), size > GROUP);
        let mut reader = blobs.open(&published.location, 0..u64::MAX).await.expect("open");
        let mut found = Vec::new();
        while let Some(chunk) = reader.try_next().await.expect("read") {
            assert!(!chunk.is_empty() && chunk.len() <= CHUNK);
            found.extend_from_slice(&chunk);
        }
        assert!(found == bytes, "other bytes came back at size {size}");
        assert!(read(&*blobs, &published.location).await.expect("verified read") == bytes);
        if let Some((file, signature)) = blobs.file(&published.location).await.expect("file") {
            assert_eq!((file.metadata().expect("stat").len(), Some(signature)), (size as u64, published.signature));
        }
    }
}

/// Every range whose ends are at or beside a group's, a chunk's or the blob's end, raw and verified in each way that there is.
pub async fn ranges(blobs: Arc<dyn Blobs>) {
    let bytes = bytes(2, 2 * CHUNK + 5);
    let size = bytes.len() as u64;
    let Published { location, signature, outboard, .. } = ingest(&*blobs, &bytes).await.expect("ingest");
    let (group, chunk) = (GROUP as u64, CHUNK as u64);
    let beside = [group, chunk, 2 * chunk].into_iter().flat_map(|end| [end - 1, end, end + 1]);
    let ends: Vec<_> = [0, 1, size - 1, size].into_iter().chain(beside).collect();
    for start in ends.clone() {
        for end in ends.clone().into_iter().chain([size + 1, u64::MAX]).filter(|end| *end >= start) {
            let expected = &bytes[start as usize..end.min(size) as usize];
            let raw = blobs.open(&location, start..end).await.expect("open").into_bytes().await.expect("read");
            assert!(raw == expected, "{start}..{end}");
            for (recorded, outboard) in [
                (signature.as_ref(), None),
                (None, outboard.clone()),
                (signature.as_ref(), outboard.clone()),
                (None, None),
            ] {
                let opened = open_verified(&*blobs, &location, recorded, ready(outboard), start..end);
                let checked = opened.await.expect("open").reader;
                assert!(checked.into_bytes().await.expect("read") == expected, "{start}..{end}, verified");
            }
        }
    }
    for wrong in [size + 1..size + 1, size + 1..u64::MAX, u64::MAX..u64::MAX] {
        assert!(matches!(blobs.open(&location, wrong).await, Err(BlobError::OutOfRange { .. })));
    }
}

/// A blob of `chunks` chunks goes in and comes back, whole and in parts, chunk by chunk.
pub async fn a_large_blob_comes_back(blobs: Arc<dyn Blobs>, chunks: u64) {
    let size = chunks * CHUNK as u64;
    let options = StageOptions { size_hint: Some(size), ..StageOptions::default() };
    let mut staged = blobs.stage(options).await.expect("stage");
    for seed in 0..chunks {
        staged.write(bytes(seed, CHUNK)).await.expect("write");
    }
    let Published { location, signature, outboard, .. } = staged.publish(None).await.expect("publish");
    assert_eq!(location.digest.size, size);
    let mut reader = verified(location, blobs.open(&location, 0..size).await.expect("open"));
    let (mut at, mut rest) = (0, Bytes::new());
    while let Some(mut chunk) = reader.try_next().await.expect("read") {
        while !chunk.is_empty() {
            if rest.is_empty() {
                rest = bytes(at, CHUNK);
                at += 1;
            }
            let part = chunk.split_to(chunk.len().min(rest.len()));
            assert!(part == rest.split_to(part.len()), "chunk {at}");
        }
    }
    assert!(at == chunks && rest.is_empty());
    for chunk in [1, chunks / 2, chunks - 1] {
        // Across the begin of that chunk, as if its file had been touched.
        let (begin, group) = (chunk * CHUNK as u64, GROUP as u64);
        let range = begin - group - 1..begin + group + 1;
        let expected = [&bytes(chunk - 1, CHUNK)[CHUNK - GROUP - 1..], &bytes(chunk, CHUNK)[..GROUP + 1]].concat();
        let other = signature.map(|signature| Signature { ctime: signature.ctime ^ 1, ..signature });
        let opened = open_verified(&*blobs, &location, other.as_ref(), ready(outboard.clone()), range);
        let Opened { reader, learnt } = opened.await.expect("open");
        assert!(learnt.is_none(), "not all of it is read");
        assert!(reader.into_bytes().await.expect("read") == expected, "chunk {chunk}");
    }
    blobs.remove(&location).await.expect("remove");
}

/// What was never there is told as such, by every method, and can be removed.
pub async fn missing_is_not_found(blobs: Arc<dyn Blobs>) {
    let there = put(&*blobs, bytes(3, 10), None).await.expect("put").location;
    let missing = Location { nonce: there.nonce ^ 1, ..there };
    let stats = blobs.stat(&[missing, there, missing]).await.expect("stat");
    assert_eq!(stats.iter().map(Option::is_some).collect::<Vec<_>>(), [false, true, false]);
    assert_eq!(blobs.stat(&[]).await.expect("stat of nothing"), []);
    assert!(matches!(blobs.open(&missing, 0..1).await, Err(BlobError::NotFound { location }) if location == missing));
    // Who has no files does not look.
    assert!(matches!(blobs.file(&missing).await, Ok(None) | Err(BlobError::NotFound { .. })));
    blobs.remove(&missing).await.expect("gone is fine");
    assert_eq!(list(&*blobs, 10).await, [there]);
}

/// Announced bytes that are others, fewer or more are refused, and nothing is left.
pub async fn a_wrong_digest_leaves_nothing(blobs: Arc<dyn Blobs>) {
    for size in SIZES {
        let right = bytes(4, size);
        let others = [Digest::of(&bytes(5, size + 1)), Digest { size: size as u64 + 1, ..Digest::of(&right) }];
        for expected in others {
            let error = put(&*blobs, right.clone(), Some(expected)).await.expect_err("a wrong digest");
            let right = Digest::of(&right);
            assert!(matches!(error, BlobError::Mismatch { expected: e, found } if (e, found) == (expected, right)));
        }
    }
    assert_eq!(list(&*blobs, 10).await, []);
}

/// Staged blobs that are dropped, at any point and also within `publish`, are gone.
pub async fn a_dropped_stage_leaves_nothing(blobs: Arc<dyn Blobs>) {
    for size in SIZES {
        let begin = async || {
            let mut staged =
                blobs.stage(StageOptions { size_hint: Some(size as u64), ..StageOptions::default() }).await?;
            staged.write(bytes(6, size)).await?;
            Ok::<_, BlobError>(staged)
        };
        drop(begin().await.expect("stage"));
        drop(begin().now_or_never());
        // Polled once: a backend that needs no waiting has published by then, and has told so.
        if let Some(published) = begin().await.expect("stage").publish(None).now_or_never() {
            blobs.remove(&published.expect("publish").location).await.expect("remove");
        }
        let mut staged = begin().await.expect("stage");
        let _ = staged.write(bytes(7, 2 * CHUNK)).now_or_never();
        drop(staged);
    }
    eventually("nothing is listed", async || list(&*blobs, 10).await.is_empty()).await;
}

/// 64 uploads of one blob at once are 64 copies, each with its own life.
pub async fn copies_of_one_blob_are_apart(blobs: Arc<dyn Blobs>) {
    let bytes = bytes(8, CHUNK + 1);
    let all = try_join_all((0..64).map(|_| ingest(&*blobs, &bytes))).await.expect("ingest");
    let mut left: BTreeSet<_> = all.iter().map(|published| published.location).collect();
    assert_eq!(left.len(), 64);
    while let Some(location) = left.pop_first() {
        blobs.remove(&location).await.expect("remove");
        assert!(matches!(read(&*blobs, &location).await, Err(BlobError::NotFound { .. })));
        assert!(list(&*blobs, 100).await.iter().eq(&left));
        for other in left.iter().step_by(13) {
            assert!(read(&*blobs, other).await.expect("read") == bytes);
        }
    }
}

/// What was removed stays removed, whatever is stored after it.
pub async fn locations_are_never_reused(blobs: Arc<dyn Blobs>) {
    let mut used = BTreeSet::new();
    for _ in 0..20 {
        let location = put(&*blobs, bytes(9, 100), None).await.expect("put").location;
        assert!(used.insert(location));
        blobs.remove(&location).await.expect("remove");
        blobs.remove(&location).await.expect("remove again");
    }
    let used: Vec<_> = used.into_iter().collect();
    assert!(blobs.stat(&used).await.expect("stat").iter().all(Option::is_none));
}

/// Pages are in order and without repetition while blobs come and go; what is there all along is in them.
pub async fn listing_goes_on_while_publishing(blobs: Arc<dyn Blobs>) {
    let puts = |seeds: std::ops::Range<u64>| join_all(seeds.map(|seed| put(&*blobs, bytes(seed, 50), None)));
    let steady: BTreeSet<_> = puts(0..60).await.into_iter().map(|put| put.expect("put").location).collect();
    let churn = async {
        let mut stay = BTreeSet::new();
        for round in 0..20 {
            for published in puts(1_000 + round * 3..1_003 + round * 3).await {
                let location = published.expect("put").location;
                match round % 2 {
                    0 => blobs.remove(&location).await.expect("remove"),
                    _ => assert!(stay.insert(location)),
                }
            }
        }
        stay
    };
    let lists = async {
        for limit in [1, 2, 7, 59, 60, 1_000] {
            let listed = list(&*blobs, limit).await;
            assert!(listed.is_sorted_by(|a, b| a < b));
            let listed: BTreeSet<_> = listed.into_iter().collect();
            assert!(steady.is_subset(&listed));
        }
    };
    let (stay, ()) = futures::join!(churn, lists);
    for limit in [0, 1, 13, 1_000] {
        assert!(list(&*blobs, limit).await.iter().eq(steady.union(&stay)), "by pages of {limit}");
    }
}

/// A blob that is removed while it is read is read to its end.
pub async fn an_open_reader_outlives_removal(blobs: Arc<dyn Blobs>) {
    let bytes = bytes(10, 5 * CHUNK);
    let location = ingest(&*blobs, &bytes).await.expect("ingest").location;
    let mut reader = verified(location, blobs.open(&location, 0..u64::MAX).await.expect("open"));
    let mut found = reader.try_next().await.expect("read").expect("a chunk").to_vec();
    let file = blobs.file(&location).await.expect("file");
    blobs.remove(&location).await.expect("remove");
    while let Some(chunk) = reader.try_next().await.expect("read on") {
        found.extend_from_slice(&chunk);
    }
    assert!(found == bytes);
    if let Some((mut file, _)) = file {
        let mut found = Vec::new();
        std::io::Read::read_to_end(&mut file, &mut found).expect("read the file");
        assert!(found == bytes);
    }
    assert!(matches!(blobs.open(&location, 0..1).await, Err(BlobError::NotFound { .. })));
}

/// Other hashes come along when asked for.
pub async fn aliases_are_computed(blobs: Arc<dyn Blobs>) {
    let hash = "bb9f8df61474d25e71fa00722318cd387396ca1736605e1248821cc0de3d3af8";
    for pieces in [1, 64] {
        let zeros = Bytes::from(vec![0; 4 * CHUNK / pieces]);
        let options = StageOptions { aliases: vec![HashFunction::Sha256], ..StageOptions::default() };
        let mut staged = blobs.stage(options).await.expect("stage");
        for _ in 0..pieces {
            staged.write(zeros.clone()).await.expect("write");
        }
        let published = staged.publish(None).await.expect("publish");
        let [Alias { function: HashFunction::Sha256, hash: found }] = &published.aliases[..] else {
            panic!("{:?}", published.aliases)
        };
        assert_eq!(provender_core::digest::hex(found), hash);
    }
}
