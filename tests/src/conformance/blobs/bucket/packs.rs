//! Small blobs in packs.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::join_all;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use provender_blobs::{BlobError, Blobs, Bucket, Location, Packs, Request};
use provender_core::Digest;

use super::{bucket, client, objects, read, sent, why};
use crate::bucket::proxy::{Fault, Proxy};
use crate::bucket::{Server, config};
use crate::conformance::blobs::bytes;

fn packs(store: &Bucket) -> &dyn Packs {
    store.packs().expect("a bucket packs small blobs")
}

/// Blobs of this size that do not compress, each another.
fn blobs(seed: u64, count: usize, size: usize) -> Vec<(Digest, Bytes)> {
    let all = bytes(seed, count * size);
    let each = (0..count).map(|n| all.slice(n * size..(n + 1) * size));
    each.map(|bytes| (Digest::of(&bytes), bytes)).collect()
}

/// All come back, from whoever has read nothing before too.
async fn come_back(store: &dyn Blobs, locations: &[Location], blobs: &[(Digest, Bytes)]) {
    let found = store.packs().expect("packs").get(locations).await;
    assert_eq!(found.len(), blobs.len());
    for ((found, location), (digest, bytes)) in found.into_iter().zip(locations).zip(blobs) {
        assert_eq!(&location.digest, digest);
        assert!(found.expect("it is there") == bytes, "{location}");
    }
}

/// Ten thousand small blobs that come as an upload of a task's outputs does take few requests, and few to be read.
pub async fn packs_of_ten_thousand(server: &Server) {
    let store = bucket(&server.config("many")).await.expect("a store");
    let blobs = blobs(40, 10_000, 4_096);
    let before = sent(&store, Request::Put);
    // As many at once as a client sends, each of up to 1,000.
    let mut locations = Vec::new();
    for calls in blobs.chunks(4_000) {
        let calls = calls.chunks(1_000).map(|call| packs(&store).put(call.to_vec()));
        locations.extend(join_all(calls).await.into_iter().flat_map(|put| put.expect("put")));
    }
    let puts = sent(&store, Request::Put) - before;
    assert!((5..=12).contains(&puts), "{puts} PUTs");
    assert_eq!(objects(server, "many", "packs").await.len() as u64, puts);
    come_back(&store, &locations, &blobs).await;

    let elsewhere = bucket(&server.config("many")).await.expect("the same store");
    let before = sent(&elsewhere, Request::Get);
    for (locations, blobs) in locations.chunks(1_000).zip(blobs.chunks(1_000)) {
        come_back(&elsewhere, locations, blobs).await;
    }
    let gets = sent(&elsewhere, Request::Get) - before;
    assert!(gets <= 2 * puts + 10, "{gets} GETs");
    let stat = elsewhere.stat(&locations).await.expect("stat");
    assert!(stat.iter().zip(&blobs).all(|(stat, (digest, _))| stat.is_some_and(|stat| stat.size == digest.size)));

    // What is in them is told by them alone.
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let (packs, next) = packs(&elsewhere).list(after, 3).await.expect("list");
        assert!(packs.len() <= 3);
        listed.extend(packs);
        after = next;
        if after.is_none() {
            break;
        }
    }
    let mut told = BTreeSet::new();
    for pack in &listed {
        told.extend(packs(&elsewhere).contents(pack.nonce).await.expect("contents").expect("it is there"));
    }
    assert_eq!((listed.len() as u64, told), (puts, locations.iter().copied().collect()));
    assert_eq!(store.list(None, 10).await.expect("list").locations, [], "they are not among the large ones");

    // One that goes takes what is in it along, and nothing else.
    let gone = locations[0].nonce;
    packs(&elsewhere).remove(gone).await.expect("remove");
    packs(&elsewhere).remove(gone).await.expect("it is fine if it is gone");
    assert_eq!(packs(&elsewhere).contents(gone).await.expect("contents"), None);
    let stat = elsewhere.stat(&locations).await.expect("stat");
    for ((location, stat), found) in locations.iter().zip(stat).zip(packs(&elsewhere).get(&locations).await) {
        assert_eq!((stat.is_some(), found.is_ok()), (location.nonce != gone, location.nonce != gone));
        assert!(!matches!(found, Err(error) if !matches!(error, BlobError::NotFound { .. })));
    }
}

/// Blobs of any small size, each once, whoever asks and however: whole, in part, checked, by many at once.
pub async fn packs_of_all_sizes(server: &Server) {
    let store = Arc::new(bucket(&server.config("sizes")).await.expect("a store"));
    let mut all: Vec<(Digest, Bytes)> = Vec::new();
    for size in [0, 1, 100, 4_096, 16_384, 65_536, 262_144] {
        for (seed, bytes) in [(41, bytes(41, size)), (0, vec![7; size].into())] {
            let bytes = if seed == 0 { bytes } else { bytes.clone() };
            all.push((Digest::of(&bytes), bytes));
        }
    }
    let locations = packs(&store).put(all.clone()).await.expect("put");
    assert_eq!(packs(&store).put(Vec::new()).await.expect("nothing"), []);
    come_back(&*store, &locations, &all).await;
    let elsewhere = bucket(&server.config("sizes")).await.expect("the same store");
    come_back(&elsewhere, &locations, &all).await;
    for (location, (digest, bytes)) in locations.iter().zip(&all) {
        assert_eq!(location.to_string().parse(), Ok(*location));
        assert!(read(&*store, location).await.expect("checked") == bytes);
        let (begin, end) = (digest.size / 3, digest.size / 2);
        let part = store.open(location, begin..end).await.expect("open").into_bytes().await.expect("read");
        assert!(part == bytes[begin as usize..end as usize]);
        let beyond = digest.size + 1..digest.size + 2;
        assert!(matches!(store.open(location, beyond).await, Err(BlobError::OutOfRange { .. })));
        store.remove(location).await.expect("it stays until its pack goes");
    }
    // Twice in one call, and by many who share a pack, each is in it once.
    let (one, before) = (all[4].clone(), objects(server, "sizes", "packs").await.len());
    let calls = (0..50).map(|_| packs(&store).put(vec![one.clone(), all[5].clone(), one.clone()]));
    let put: Vec<_> = join_all(calls).await.into_iter().map(|put| put.expect("put")).collect();
    assert!(put.iter().all(|put| put[0] == put[2] && put[0].nonce == put[1].nonce));
    let made = objects(server, "sizes", "packs").await.len() - before;
    assert!((1..=3).contains(&made), "{made} packs for 50 who came at once");
    for location in put.iter().map(|put| put[0]) {
        assert_eq!(packs(&store).contents(location.nonce).await.expect("contents").expect("it is there").len(), 2);
    }
    // Who does not wait for an answer costs nobody else one.
    let cut_off = tokio::time::timeout(Duration::from_millis(1), packs(&store).put(blobs(42, 900, 9_000))).await;
    assert!(cut_off.is_err());
    come_back(&*store, &packs(&store).put(all.clone()).await.expect("put"), &all).await;
}

/// Packs that somebody else cut, changed or replaced: no wrong byte is taken for right, and nothing panics.
pub async fn packs_tampered_with(server: &Server) {
    let small = blobs(43, 100, 3_000);
    for (seed, text) in [(0, false), (1, true)] {
        let prefix = format!("tampered-{seed}");
        let blobs: Vec<_> = match text {
            true => (0..100)
                .map(|n| format!("line {n}\n").repeat(300))
                .map(|text| (Digest::of(text.as_bytes()), text.into()))
                .collect(),
            false => small.clone(),
        };
        let store = bucket(&server.config(&prefix)).await.expect("a store");
        let locations = packs(&store).put(blobs.clone()).await.expect("put");
        let [object] = &objects(server, &prefix, "packs").await[..] else { panic!("one pack") };
        let whole = client(&server.address()).get(object).await.expect("get").bytes().await.expect("bytes");
        let mut flipped = whole.to_vec();
        for at in (0..flipped.len()).step_by(97) {
            flipped[at] ^= 1;
        }
        let others =
            [&b""[..], b"short", &whole[..whole.len() / 2], &whole[..whole.len() - 1], &flipped, b"provender pack 1"];
        for (number, other) in others.into_iter().enumerate() {
            client(&server.address()).put(object, other.to_vec().into()).await.expect("put");
            let store = bucket(&server.config(&prefix)).await.expect("the same store");
            let contents = packs(&store).contents(locations[0].nonce).await;
            assert!(matches!(contents, Err(BlobError::Damaged { .. })), "{contents:?}");
            let (stat, found) = (store.stat(&locations).await.expect("stat"), packs(&store).get(&locations).await);
            let mut wrong = 0;
            for (((location, stat), found), (digest, bytes)) in locations.iter().zip(stat).zip(found).zip(&blobs) {
                match found {
                    Ok(found) if found == bytes => assert!(stat.is_some_and(|stat| stat.size == digest.size)),
                    Ok(_) | Err(BlobError::Corrupt { .. }) => {
                        wrong += 1;
                        let checked = read(&store, location).await;
                        assert!(matches!(checked, Err(BlobError::Corrupt { .. })), "{checked:?}");
                    }
                    Err(error) => panic!("{error:?}"),
                }
            }
            // What is cut off of the end may be the list alone.
            assert!(wrong > 0 || number == 2 && text || number == 3, "{number}");
        }
    }
}

/// What lies between fails: nothing is acknowledged that is not there, and nothing is taken for lost.
pub async fn packs_through_faults(server: &Server) {
    let proxy = Proxy::start(server.address()).await;
    let store = bucket(&config(&proxy.address(), "faulty")).await.expect("a store");
    let blobs = blobs(44, 500, 2_000);
    for fault in [Fault::Unheard, Fault::Refuse(503, "SlowDown"), Fault::Hangup] {
        let mut left = 2;
        proxy.judge(move |asked| {
            let it = asked.method == "PUT" && left > 0;
            left -= u32::from(it);
            it.then_some(fault)
        });
        let locations = packs(&store).put(blobs.clone()).await.expect("put");
        let elsewhere = bucket(&server.config("faulty")).await.expect("the same store");
        come_back(&elsewhere, &locations, &blobs).await;
    }
    proxy.heal();
    let locations = packs(&store).put(blobs.clone()).await.expect("put");
    let fresh = async || bucket(&config(&proxy.address(), "faulty")).await.expect("the same store");
    let reader = fresh().await;
    let missing = Location { nonce: locations[0].nonce ^ 1, ..locations[0] };
    for fault in
        [Fault::Refuse(403, "AccessDenied"), Fault::Refuse(404, "NoSuchBucket"), Fault::Refuse(400, "ExpiredToken")]
    {
        proxy.judge(move |_| Some(fault));
        why(packs(&store).put(blobs.clone()).await.expect_err("refused"));
        for found in packs(&reader).get(&[locations[0], missing]).await {
            why(found.expect_err("refused"));
        }
        why(reader.stat(&[locations[0]]).await.expect_err("refused"));
        why(packs(&reader).contents(missing.nonce).await.expect_err("refused"));
        why(packs(&reader).list(None, 1).await.expect_err("refused"));
        why(packs(&reader).remove(missing.nonce).await.expect_err("refused"));
    }
    // A few answers are cut off.
    let mut left = 3;
    proxy.judge(move |asked| {
        let it = asked.method == "GET" && left > 0;
        left -= u32::from(it);
        it.then_some(Fault::Cut(50_000))
    });
    come_back(&reader, &locations, &blobs).await;
    proxy.heal();
    assert!(matches!(packs(&reader).get(&[missing]).await[..], [Err(BlobError::NotFound { .. })]));
    // Where all go wrong, all who wait are told, and those who come after are served.
    proxy.judge(|asked| (asked.method == "PUT").then_some(Fault::Refuse(403, "AccessDenied")));
    let began = Instant::now();
    let calls = (0..20).map(|n| packs(&store).put(blobs[n..n + 5].to_vec()));
    assert!(join_all(calls).await.into_iter().all(|put| put.is_err()) && began.elapsed() < Duration::from_secs(60));
    proxy.heal();
    come_back(&store, &packs(&store).put(blobs.clone()).await.expect("put"), &blobs).await;
    // Without its marker nothing is known to be missing.
    client(&server.address()).delete(&Path::from("faulty/provender-blobs")).await.expect("delete");
    why(packs(&reader).get(&[missing]).await.pop().expect("one").expect_err("no marker"));
    why(packs(&reader).contents(missing.nonce).await.expect_err("no marker"));
}
