//! What a store in a bucket must do besides.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::TryStreamExt;
use futures::future::join_all;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use provender_blobs::{
    BlobError, Blobs, BlobsConfig, Bucket, BucketConfig, CHUNK, Frames, Location, Published, Request, StageOptions, put,
};
use provender_core::Digest;

use super::{bytes, eventually, read};
use crate::bucket::proxy::{Fault, Proxy};
use crate::bucket::{BUCKET, Server, client, config};

mod packs;

pub use self::packs::{packs_of_all_sizes, packs_of_ten_thousand, packs_tampered_with, packs_through_faults};

/// A part of a multipart upload.
const PART: usize = 8 << 20;

/// Opens a store at a prefix.
pub async fn open(server: &Server, prefix: &str) -> Arc<dyn Blobs> {
    provender_blobs::open(&BlobsConfig::Bucket(server.config(prefix)), None).await.expect("a store in the bucket")
}

async fn bucket(config: &BucketConfig) -> Result<Bucket, BlobError> {
    Bucket::open(config, None).await
}

async fn ingest(blobs: &dyn Blobs, bytes: &Bytes, announced: Option<Digest>) -> Result<Published, BlobError> {
    let mut staged = blobs.stage(StageOptions { announced, ..StageOptions::default() }).await?;
    for piece in bytes.chunks(CHUNK) {
        staged.write(bytes.slice_ref(piece)).await?;
    }
    staged.publish(None).await
}

fn sent(blobs: &dyn Blobs, kind: Request) -> u64 {
    blobs.requests().expect("a bucket counts").sent(kind)
}

fn why(error: BlobError) -> String {
    match error {
        BlobError::Unavailable { why, .. } => why,
        other => panic!("{other:?}"),
    }
}

/// Blobs of a part, beside a part and of several come back, whether it is known before what they are or not; and the upload leaves nothing.
pub async fn parts(server: &Server) {
    let store = bucket(&server.config("parts")).await.expect("a store");
    for size in [PART - 1, PART, PART + 1, 2 * PART, 2 * PART + 1, 256 << 20] {
        let bytes = bytes(20, size);
        for announced in [Some(Digest::of(&bytes)), None] {
            let before = sent(&store, Request::Put);
            let published = ingest(&store, &bytes, announced).await.expect("ingest");
            assert!(read(&store, &published.location).await.expect("read") == bytes, "{size}");
            let puts = sent(&store, Request::Put) - before;
            // One names the upload while it lasts.
            let expected = if size <= PART { 1 } else { size.div_ceil(PART) as u64 + 1 };
            assert_eq!(puts, expected, "{size} bytes");
            store.remove(&published.location).await.expect("remove");
        }
    }
    let wrong = Some(Digest::of(b"something else"));
    for size in [10, 2 * PART] {
        let refused = ingest(&store, &bytes(21, size), wrong).await;
        assert!(matches!(refused, Err(BlobError::Mismatch { .. })), "{refused:?}");
    }
    eventually("uploads are forgotten", async || objects(server, "parts", "uploads").await.is_empty()).await;
    assert_eq!(store.list(None, 10).await.expect("list").locations, []);
}

/// In frames nothing else comes back either, and in one request what is small.
pub async fn frames(server: &Server) {
    let store = bucket(&server.config("frames")).await.expect("a store");
    for size in [10, CHUNK, 3 * PART] {
        let bytes: Bytes = bytes(22, size / 3 + 1).repeat(3).into();
        let frames = Some(Frames { size: bytes.len() as u64, level: 3, most: 2 * bytes.len() as u64 + 1_000 });
        let options = StageOptions { announced: Some(Digest::of(&bytes)), frames, ..StageOptions::default() };
        let mut staged = store.stage(options).await.expect("stage");
        for piece in bytes.chunks(CHUNK) {
            staged.write(bytes.slice_ref(piece)).await.expect("write");
        }
        let location = staged.publish(None).await.expect("publish").location;
        let before = sent(&store, Request::Get);
        assert!(read(&store, &location).await.expect("read") == bytes);
        let gets = sent(&store, Request::Get) - before;
        assert_eq!(gets, if location.stored() <= CHUNK as u64 { 1 } else { 2 });
        assert_eq!(store.list(None, 10).await.expect("list").locations, [location], "a listing tells all");
        store.remove(&location).await.expect("remove");
    }
}

/// What a process leaves when it dies is discarded once it is old, and what is under way is not.
pub async fn sweeps(server: &Server) {
    let store = bucket(&server.config("sweeps")).await.expect("a store");
    let bytes = bytes(23, 3 * PART);
    let mut staged = store
        .stage(StageOptions { announced: Some(Digest::of(&bytes)), ..StageOptions::default() })
        .await
        .expect("stage");
    for piece in bytes.chunks(CHUNK) {
        staged.write(bytes.slice_ref(piece)).await.expect("write");
    }
    std::mem::forget(staged);
    eventually("the upload is named", async || objects(server, "sweeps", "uploads").await.len() == 1).await;
    let (long_ago, later) = (SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 33));
    assert_eq!(store.sweep(long_ago).await.expect("sweep"), 0);
    assert_eq!(store.sweep(later).await.expect("sweep"), 1);
    assert_eq!(objects(server, "sweeps", "uploads").await, []);
    assert_eq!(store.list(None, 10).await.expect("list").locations, []);
}

/// What cannot be, and what is not there, is told in words that say what to do.
pub async fn refusals(server: &Server) {
    let right = server.config("refusals");
    let store = bucket(&right).await.expect("a store");
    let location = put(&store, bytes(24, 100), None).await.expect("put").location;
    let with = |name: &str, value: &str| {
        let mut config = right.clone();
        config.options.0.insert(name.into(), value.into());
        config
    };
    let refused = async |config: &BucketConfig| why(bucket(config).await.expect_err("it must be refused"));
    let said = refused(&with("access_key_id", "nobody")).await;
    assert!(said.contains("does not know the access key"), "{said}");
    let said = refused(&with("secret_access_key", "wrong")).await;
    assert!(said.contains("the secret key is not that of the access key"), "{said}");
    let url = right.url.replace(BUCKET, "no-such-bucket");
    let said = refused(&BucketConfig { url, ..right.clone() }).await;
    assert!(said.contains("there is no such bucket"), "{said}");
    let said = refused(&with("no_such_option", "1")).await;
    assert!(said.contains("no_such_option"), "{said}");
    let said = refused(&BucketConfig { url: "ftp://somewhere/else".into(), ..right.clone() }).await;
    assert!(said.contains("s3://BUCKET/PREFIX"), "{said}");
    // Whoever was let in and is not any more learns nothing of what is there.
    let out = Bucket::open(&with("secret_access_key", "wrong"), Some(store.id())).await;
    why(out.expect_err("it must be refused"));
    // Where something else is, no store is made.
    let foreign = BucketConfig { url: format!("s3://{BUCKET}/refusals/objects"), ..right.clone() };
    let said = refused(&foreign).await;
    assert!(said.contains("name an empty prefix"), "{said}");
    // Without its marker nothing is known to be missing.
    let missing = Location { nonce: location.nonce ^ 1, ..location };
    assert!(matches!(store.open(&missing, 0..1).await, Err(BlobError::NotFound { .. })));
    assert!(matches!(&*store.stat(&[missing, location]).await.expect("stat"), [None, Some(_)]));
    client(&server.address()).delete(&Path::from("refusals/provender-blobs")).await.expect("delete");
    why(store.open(&missing, 0..1).await.expect_err("no marker"));
    why(store.stat(&[missing, location]).await.expect_err("no marker"));
    why(store.prove().await.expect_err("no marker"));
}

/// Objects that somebody else cut or changed are corrupt, and their bytes go nowhere.
pub async fn tampering(server: &Server) {
    let store = bucket(&server.config("tampering")).await.expect("a store");
    for other in [&b""[..], b"short", &bytes(26, 300_000), &bytes(26, 300_001)] {
        let location = put(&store, bytes(25, 300_000), None).await.expect("put").location;
        let [object] = &objects(server, "tampering", "objects").await[..] else { panic!("one object") };
        client(&server.address()).put(object, other.to_vec().into()).await.expect("put");
        for range in [0..u64::MAX, 299_999..300_000] {
            let opened = store.open(&location, range.clone()).await;
            match opened {
                Err(BlobError::Corrupt { .. }) => assert!(other.len() != 300_000),
                Ok(_) => assert!(other.len() == 300_000),
                Err(error) => panic!("{error:?}"),
            }
        }
        assert!(matches!(read(&store, &location).await, Err(BlobError::Corrupt { .. })));
        store.remove(&location).await.expect("remove");
    }
}

/// Faults in between cost time, and are no statement about what is there.
pub async fn faults(server: &Server) {
    let proxy = Proxy::start(server.address()).await;
    let store = bucket(&config(&proxy.address(), "faults")).await.expect("a store");
    assert!(store.keeps_conditions());
    let small = bytes(27, 100_000);
    // Answers that nobody hears: it is there, once.
    for method in ["PUT", "POST"] {
        for size in [100_000, 3 * PART] {
            let mut left = 2;
            proxy.judge(move |asked| {
                let it = asked.method == method && !asked.path.contains("/uploads/") && left > 0;
                left -= u32::from(it);
                it.then_some(Fault::Unheard)
            });
            let bytes = bytes(28, size);
            let location = ingest(&store, &bytes, Some(Digest::of(&bytes))).await.expect("ingest").location;
            proxy.heal();
            assert!(read(&store, &location).await.expect("read") == bytes);
            assert_eq!(store.list(None, 10).await.expect("list").locations, [location]);
            store.remove(&location).await.expect("remove");
        }
    }
    let location = put(&store, small.clone(), None).await.expect("put").location;
    // A few refusals are tried again.
    for fault in
        [Fault::Refuse(500, "InternalError"), Fault::Refuse(503, "SlowDown"), Fault::Hangup, Fault::Cut(10_000)]
    {
        let mut left = 3;
        proxy.judge(move |_| {
            left -= u32::from(left > 0);
            (left > 0).then_some(fault)
        });
        assert!(read(&store, &location).await.expect("read") == small, "{fault:?}");
    }
    // Conditions that are ignored are noticed, and several who come at once still come to one store in the end.
    proxy.judge(|_| Some(Fault::Unconditional));
    let ignoring = bucket(&config(&proxy.address(), "ignoring")).await.expect("a store");
    assert!(!ignoring.keeps_conditions());
    proxy.heal();
    let at_once =
        join_all((0..8).map(async |_| bucket(&config(&proxy.address(), "at-once")).await.expect("a store").id())).await;
    assert!(at_once.iter().all(|id| *id == at_once[0]), "{at_once:?}");
    // Refusals are no answers.
    for fault in
        [Fault::Refuse(403, "AccessDenied"), Fault::Refuse(400, "ExpiredToken"), Fault::Refuse(404, "NoSuchBucket")]
    {
        proxy.judge(move |_| Some(fault));
        let missing = Location { nonce: location.nonce ^ 1, ..location };
        for location in [location, missing] {
            why(store.open(&location, 0..1).await.expect_err("refused"));
            why(store.stat(&[location]).await.expect_err("refused"));
        }
        why(store.list(None, 1).await.expect_err("refused"));
        why(put(&store, small.clone(), None).await.expect_err("refused"));
    }
    proxy.heal();
    assert!(read(&store, &location).await.expect("read") == small);
}

/// The paths of the objects in a folder of a store.
async fn objects(server: &Server, prefix: &str, folder: &str) -> Vec<Path> {
    let folder = Path::from(format!("{prefix}/{folder}"));
    client(&server.address()).list(Some(&folder)).map_ok(|found| found.location).try_collect().await.expect("list")
}
