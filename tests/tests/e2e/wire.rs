//! Messages that no client of ours would send: each is refused in clear words, and the daemon goes on.

use bytes::Bytes;
use provender_core::tree::{Node, Tree};
use provender_core::{Digest, ExecutionId};
use provender_proto::convert::digest_to;
use provender_proto::v1::begin_reply::Reply;
use provender_proto::v1::blobs_client::BlobsClient;
use provender_proto::v1::catalog_client::CatalogClient;
use provender_proto::v1::tasks_client::TasksClient;
use provender_proto::v1::upload_request::{Begin, Request as Part};
use provender_proto::v1::{self, State};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::world::World;

/// A daemon, spoken to without our client.
struct Wire {
    tasks: TasksClient<Channel>,
    blobs: BlobsClient<Channel>,
    catalog: CatalogClient<Channel>,
    world: World,
}

impl Wire {
    async fn new() -> Wire {
        let world = World::new();
        let channel = Endpoint::from_shared(world.daemon.remote()).unwrap().connect().await.unwrap();
        let (tasks, blobs) = (TasksClient::new(channel.clone()), BlobsClient::new(channel.clone()));
        Wire { tasks, blobs, catalog: CatalogClient::new(channel), world }
    }

    async fn begin(&mut self, key: &str, ttl_ms: u64, spec: v1::Spec) -> Result<Bytes, Status> {
        let mut id = [0; 16];
        getrandom::fill(&mut id).unwrap();
        let execution = Bytes::copy_from_slice(&id);
        let key = key.into();
        let request =
            v1::BeginRequest { key, spec: Some(spec), execution: execution.clone(), ttl_ms, ..Default::default() };
        match self.tasks.begin(request).await?.into_inner().message().await?.and_then(|reply| reply.reply) {
            Some(Reply::Lease(_)) => Ok(execution),
            other => panic!("no lease but {other:?}"),
        }
    }

    async fn commit(&mut self, execution: &Bytes, outputs: Option<Digest>) -> Result<v1::Execution, Status> {
        let exit = Some(v1::Exit { exit: Some(v1::exit::Exit::Code(0)) });
        let outcome = v1::Outcome { exit, outputs: outputs.as_ref().map(digest_to), ..Default::default() };
        let request = v1::CommitRequest { execution: execution.clone(), outcome: Some(outcome), ..Default::default() };
        Ok(self.tasks.commit(request).await?.into_inner().execution.unwrap())
    }

    async fn upload(&mut self, parts: Vec<Part>) -> Result<v1::UploadReply, Status> {
        let parts = parts.into_iter().map(|part| v1::UploadRequest { request: Some(part) });
        Ok(self.blobs.upload(tokio_stream(parts)).await?.into_inner())
    }

    async fn put(&mut self, blobs: Vec<Bytes>) {
        for blobs in blobs.chunks(1000) {
            let request = v1::BatchPutRequest { blobs: blobs.to_vec(), ..Default::default() };
            self.blobs.batch_put(request).await.unwrap();
        }
    }

    /// It still does all that it is for.
    async fn lives(&self) {
        let ran = self.world.run(&["--name", "alive", "--out", "out"], "echo alive >out").ok();
        assert!(["ran", "hit"].contains(&ran.result().as_str()));
    }
}

fn tokio_stream<T: Send + 'static>(
    items: impl Iterator<Item = T> + Send + 'static,
) -> impl futures::Stream<Item = T> + Send {
    futures::stream::iter(items)
}

/// It must be refused with this code and these words.
#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, word: &str) -> Status {
    let status = result.expect_err(word);
    assert_eq!(status.code(), code, "{status:?}");
    assert!(status.message().contains(word), "no {word:?} in {status:?}");
    assert!(!status.message().contains("panicked"), "{status:?}");
    status
}

fn spec(outputs: &[&str]) -> v1::Spec {
    let outputs = outputs.iter().map(|path| Bytes::copy_from_slice(path.as_bytes())).collect();
    v1::Spec { name: "wire".into(), outputs, ..Default::default() }
}

fn digest(hash: &[u8], size: u64) -> v1::Digest {
    v1::Digest { hash: Bytes::copy_from_slice(hash), size }
}

fn tree(entries: &[(&str, Node)]) -> (Digest, Bytes) {
    let mut tree = Tree::new();
    for (name, node) in entries {
        tree.insert(Bytes::copy_from_slice(name.as_bytes()), node.clone()).unwrap();
    }
    let bytes = tree.encode().unwrap();
    (Digest::of(&bytes), bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_are_none_are_refused() {
    let mut wire = Wire::new().await;
    for hash in [&b""[..], &[1; 31], &[1; 33], &[1; 5000]] {
        let find = v1::FindMissingRequest { digests: vec![digest(hash, 1)], ..Default::default() };
        let status = refused(wire.blobs.find_missing(find).await, Code::InvalidArgument, "32 bytes");
        assert_eq!(status.get_details_bad_request().unwrap().field_violations.len(), 1);
        let download = v1::DownloadRequest { digest: Some(digest(hash, 1)), ..Default::default() };
        refused(wire.blobs.download(download).await, Code::InvalidArgument, "32 bytes");
        let outboard = v1::OutboardRequest { digest: Some(digest(hash, 1)), ..Default::default() };
        refused(wire.blobs.outboard(outboard).await, Code::InvalidArgument, "32 bytes");
    }
    for size in [0, 1 << 20, u64::MAX] {
        let outboard = v1::OutboardRequest { digest: Some(digest(&[1; 32], size)), ..Default::default() };
        refused(wire.blobs.outboard(outboard).await, Code::NotFound, "blob");
    }
    refused(wire.blobs.download(v1::DownloadRequest::default()).await, Code::InvalidArgument, "digest");
    for key in ["", "nocolon", "UP:x", "run:", &format!("run:{}", "x".repeat(300)), "a:\u{0}"] {
        let lookup = v1::LookupRequest { keys: vec![key.into()], ..Default::default() };
        refused(wire.tasks.lookup(lookup).await, Code::InvalidArgument, "key");
    }
    for name in ["", "/", "a//b", "../up", &"n/".repeat(600), "nul\0", "line\nbreak"] {
        let result = wire.begin("a:b", 0, v1::Spec { name: name.into(), ..Default::default() }).await;
        refused(result, Code::InvalidArgument, "name");
    }
    for id in [&b""[..], &[0; 15], &[0; 17]] {
        let beat = v1::HeartbeatRequest { execution: Bytes::copy_from_slice(id), ..Default::default() };
        refused(wire.tasks.heartbeat(beat).await, Code::InvalidArgument, "16 bytes");
    }
    let begin = v1::BeginRequest { key: "a:b".into(), execution: vec![1; 16].into(), ..Default::default() };
    refused(wire.tasks.begin(begin).await, Code::InvalidArgument, "spec");
    let space = v1::LookupRequest { space: "s\u{0}".into(), keys: vec!["a:b".into()] };
    refused(wire.tasks.lookup(space).await, Code::InvalidArgument, "space");
    let describe = v1::DescribeRequest { r#ref: "exec:zz".into(), ..Default::default() };
    refused(wire.catalog.describe(describe).await, Code::InvalidArgument, "");
    refused(wire.catalog.history(v1::HistoryRequest::default()).await, Code::InvalidArgument, "");
    let cursor = v1::HistoryRequest {
        of: Some(v1::history_request::Of::Name("n".into())),
        cursor: vec![255; 100].into(),
        limit: u32::MAX,
        ..Default::default()
    };
    let answer = wire.catalog.history(cursor).await;
    assert!(answer.as_ref().err().is_none_or(|status| status.code() == Code::InvalidArgument), "{answer:?}");
    wire.lives().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_fits_is_refused() {
    let mut wire = Wire::new().await;
    let lookup = |count: usize| v1::LookupRequest { keys: vec!["a:b".into(); count], ..Default::default() };
    assert_eq!(wire.tasks.lookup(lookup(10_000)).await.unwrap().into_inner().answers.len(), 10_000);
    refused(wire.tasks.lookup(lookup(10_001)).await, Code::InvalidArgument, "10000");
    let find =
        |count: usize| v1::FindMissingRequest { digests: vec![digest(&[1; 32], 1); count], ..Default::default() };
    refused(wire.blobs.find_missing(find(50_001)).await, Code::InvalidArgument, "50000");
    let put = |count: usize, size: usize| v1::BatchPutRequest {
        blobs: vec![vec![7; size].into(); count],
        ..Default::default()
    };
    refused(wire.blobs.batch_put(put(10_001, 1)).await, Code::InvalidArgument, "10000");
    refused(wire.blobs.batch_put(put(4, 1 << 20)).await, Code::OutOfRange, "");
    refused(wire.blobs.batch_put(put(1, (3 << 20) + 1)).await, Code::InvalidArgument, "bytes");
    refused(wire.blobs.batch_put(put(100, 1 << 20)).await, Code::OutOfRange, "");
    for size in [4 << 20, u64::MAX] {
        let get = v1::BatchGetRequest { digests: vec![digest(&[1; 32], size); 2], ..Default::default() };
        refused(wire.blobs.batch_get(get).await, Code::InvalidArgument, "bytes");
    }
    let huge = v1::Spec { name: "n".into(), raw: Some(vec![0; 8 << 20].into()), ..Default::default() };
    refused(wire.begin("a:b", 0, huge).await, Code::OutOfRange, "");
    wire.lives().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_are_not_what_they_say_leave_nothing() {
    let mut wire = Wire::new().await;
    let data = |size: usize| Part::Data(vec![3; size].into());
    let begin = |digest: Option<v1::Digest>| Part::Begin(Begin { digest, ..Default::default() });
    let content = vec![3; 100_000];
    let right = Digest::of(&content);
    refused(wire.upload(vec![]).await, Code::InvalidArgument, "begin");
    refused(wire.upload(vec![data(1)]).await, Code::InvalidArgument, "begin");
    refused(wire.upload(vec![begin(None), data(1), begin(None)]).await, Code::InvalidArgument, "only one");
    for size in [10, 100_000, 3_000_000] {
        let wrong = digest(&[9; 32], size as u64);
        refused(wire.upload(vec![begin(Some(wrong.clone())), data(size)]).await, Code::InvalidArgument, "");
        let find = v1::FindMissingRequest { digests: vec![wrong], ..Default::default() };
        assert_eq!(wire.blobs.find_missing(find).await.unwrap().into_inner().missing.len(), 1);
    }
    for parts in [vec![data(99_999)], vec![data(100_000), data(1)], vec![]] {
        let parts = [vec![begin(Some(digest_to(&right)))], parts].concat();
        refused(wire.upload(parts).await, Code::InvalidArgument, "");
    }
    // Of a size that nobody has room for, not a byte is waited for.
    let endless = vec![begin(Some(digest(&[9; 32], u64::MAX))), data(100_000)];
    refused(wire.upload(endless).await, Code::ResourceExhausted, "may be stored in all");

    let reply = wire.upload(vec![begin(Some(digest_to(&right))), data(60_000), data(40_000)]).await.unwrap();
    assert_eq!(reply.digest, Some(digest_to(&right)));
    let wrong_size = v1::DownloadRequest { digest: Some(digest(&right.hash, 99_999)), ..Default::default() };
    refused(wire.blobs.download(wrong_size).await, Code::NotFound, "");
    let download =
        |offset, length| v1::DownloadRequest { digest: Some(digest_to(&right)), offset, length, ..Default::default() };
    for offset in [100_001, u64::MAX] {
        refused(wire.blobs.download(download(offset, 1)).await, Code::InvalidArgument, "past the end");
    }
    let mut pieces = wire.blobs.download(download(99_990, u64::MAX)).await.unwrap().into_inner();
    let mut got = Vec::new();
    while let Some(piece) = pieces.message().await.unwrap() {
        got.extend_from_slice(&piece.data);
    }
    assert_eq!(got, [3; 10]);
    wire.lives().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_names_only_what_is_there() {
    let mut wire = Wire::new().await;
    let file = |text: &[u8]| Node::File { digest: Digest::of(text), executable: false };
    let (root, bytes) = tree(&[("a", file(b"missing one")), ("b", file(b"there")), ("c", file(b"missing two"))]);
    let execution = wire.begin("test:missing", 60_000, spec(&["a"])).await.unwrap();

    // First not even the tree is there, then not all that it names.
    let status = refused(wire.commit(&execution, Some(root)).await, Code::FailedPrecondition, "");
    let subjects = |status: &Status| -> Vec<String> {
        let violations = status.get_details_precondition_failure().unwrap().violations;
        assert!(violations.iter().all(|violation| violation.r#type == "MISSING"));
        violations.into_iter().map(|violation| violation.subject).collect()
    };
    assert_eq!(subjects(&status), [format!("blob:{root}")]);
    wire.put(vec![bytes, Bytes::from_static(b"there")]).await;
    let status = refused(wire.commit(&execution, Some(root)).await, Code::FailedPrecondition, "");
    let mut expected = [&b"missing one"[..], b"missing two"].map(|text| format!("blob:{}", Digest::of(text)));
    let mut found = subjects(&status);
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
    assert_eq!(wire.world.verdict("test:missing"), "RUNNING");

    wire.put(vec![Bytes::from_static(b"missing one"), Bytes::from_static(b"missing two")]).await;
    assert_eq!(wire.commit(&execution, Some(root)).await.unwrap().state, i32::from(State::Succeeded));
    assert_eq!(wire.world.verdict("test:missing"), "SUCCEEDED");
    // Asked again after a lost answer, it answers the same; asked for something else, it is over.
    assert_eq!(wire.commit(&execution, Some(root)).await.unwrap().state, i32::from(State::Succeeded));
    let (other, bytes) = tree(&[("a", file(b"there"))]);
    wire.put(vec![bytes]).await;
    refused(wire.commit(&execution, Some(other)).await, Code::FailedPrecondition, "ended as SUCCEEDED");
    let kept = wire.world.cli(&["--json", "show", "test:missing"]).ok().json();
    assert_eq!(kept["record"]["outputs"]["hash"], root.hex());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_without_its_outputs_is_a_failure() {
    let mut wire = Wire::new().await;
    let (empty, bytes) = tree(&[]);
    wire.put(vec![bytes]).await;
    for (n, outputs) in [None, Some(empty)].into_iter().enumerate() {
        let key = format!("test:none{n}");
        let execution = wire.begin(&key, 60_000, spec(&["must/be"])).await.unwrap();
        let ended = wire.commit(&execution, outputs).await.unwrap();
        assert_eq!(ended.state, i32::from(State::Failed));
        assert!(ended.reason().contains("must/be"), "{ended:?}");
        assert_eq!(wire.world.verdict(&key), "FAILED");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trees_that_are_none_are_refused() {
    let mut wire = Wire::new().await;
    let (_, good) = tree(&[("a", Node::Symlink { target: "b".into() })]);
    let mut bad: Vec<Bytes> = vec![Bytes::new(), "no tree".into(), good.slice(..good.len() - 1)];
    bad.push([&good[..], b"x"].concat().into());
    let entry = |name: &str| [b"l", &[name.len() as u8][..], name.as_bytes(), &[0, 1], b"t"].concat();
    let with = |names: &[&str]| {
        let entries: Vec<u8> = names.iter().flat_map(|name| entry(name)).collect();
        Bytes::from([b"provender tree 1\n", &entries[..]].concat())
    };
    assert_eq!(with(&["a"]).len(), good.len(), "made as the encoder does");
    bad.extend([
        with(&["b", "a"]),
        with(&["a", "a"]),
        with(&[".."]),
        with(&["."]),
        with(&["a/b"]),
        with(&["nul\0"]),
        with(&[""]),
    ]);
    wire.put(bad.clone()).await;
    for (n, bytes) in bad.iter().enumerate() {
        let root = Digest::of(bytes);
        let execution = wire.begin(&format!("test:bad{n}"), 60_000, spec(&[])).await.unwrap();
        let status = refused(wire.commit(&execution, Some(root)).await, Code::InvalidArgument, "");
        assert_eq!(status.get_details_bad_request().unwrap().field_violations[0].field, format!("tree:{}", root.hex()));
        // The same one level down.
        let (above, encoded) = tree(&[("sub", Node::Directory { digest: root })]);
        wire.put(vec![encoded]).await;
        refused(wire.commit(&execution, Some(above)).await, Code::InvalidArgument, "");
        assert_ne!(wire.world.verdict(&format!("test:bad{n}")), "SUCCEEDED");
    }
    wire.lives().await;
}

/// Levels of folders; at each, these names all lead to the next.
fn nested(levels: usize, names: &[&str]) -> (Digest, Vec<Bytes>) {
    let (mut at, bytes) = tree(&[("leaf", Node::Symlink { target: "end".into() })]);
    let mut all = vec![bytes];
    for _ in 1..levels {
        let entries: Vec<_> = names.iter().map(|name| (*name, Node::Directory { digest: at })).collect();
        let (digest, bytes) = tree(&entries);
        all.push(bytes);
        at = digest;
    }
    (at, all)
}

#[tokio::test(flavor = "multi_thread")]
async fn trees_deeper_or_wider_than_life_are_bounded() {
    let mut wire = Wire::new().await;
    for (levels, fits) in [(256, true), (257, false), (3000, false)] {
        let (root, blobs) = nested(levels, &["d"]);
        wire.put(blobs).await;
        let execution = wire.begin(&format!("test:deep{levels}"), 60_000, spec(&[])).await.unwrap();
        match fits {
            true => assert_eq!(wire.commit(&execution, Some(root)).await.unwrap().state, i32::from(State::Succeeded)),
            false => _ = refused(wire.commit(&execution, Some(root)).await, Code::InvalidArgument, "deeper"),
        }
    }
    // 2^40 paths in 41 blobs: the daemon's work follows the blobs.
    let (root, blobs) = nested(41, &["a", "b"]);
    wire.put(blobs).await;
    let execution = wire.begin("test:wide", 60_000, spec(&[])).await.unwrap();
    refused(wire.commit(&execution, Some(root)).await, Code::InvalidArgument, "stand for more than");
    // Who names the tree itself gets no further: a restore does not even begin.
    let reference = format!("tree:{}", root.hex());
    wire.world.cli(&["get", &reference, "wide"]).code(1).says(&["more than", "--path"]);
    assert!(!wire.world.path("wide").exists());
    // A short way to each level hides no depth.
    let (mut deep, mut blobs) = nested(1, &[]);
    let mut levels = Vec::new();
    for _ in 0..400 {
        let (digest, bytes) = tree(&[("d", Node::Directory { digest: deep })]);
        (deep, blobs) = (digest, [blobs, vec![bytes]].concat());
        levels.push((format!("l{}", levels.len()), Node::Directory { digest }));
    }
    let shortcuts: Vec<_> = levels.iter().map(|(name, node)| (&name[..], node.clone())).collect();
    let (root, bytes) = tree(&shortcuts);
    blobs.push(bytes);
    wire.put(blobs).await;
    let execution = wire.begin("test:shortcuts", 60_000, spec(&[])).await.unwrap();
    refused(wire.commit(&execution, Some(root)).await, Code::InvalidArgument, "deeper");
    wire.lives().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_hold_the_lease_changes_nothing() {
    let mut wire = Wire::new().await;
    let stranger = Bytes::copy_from_slice(&ExecutionId([7; 16]).0);
    let beat = |execution: &Bytes| v1::HeartbeatRequest { execution: execution.clone(), ..Default::default() };
    refused(wire.tasks.heartbeat(beat(&stranger)).await, Code::NotFound, "0707");
    refused(wire.commit(&stranger, None).await, Code::NotFound, "0707");
    let fail = |execution: &Bytes| v1::FailRequest {
        execution: execution.clone(),
        reason: "because".into(),
        ..Default::default()
    };
    refused(wire.tasks.fail(fail(&stranger)).await, Code::NotFound, "0707");

    // The first is not heard of for its TTL of a second; the second takes the key over.
    let first = wire.begin("test:key", 1_000, spec(&[])).await.unwrap();
    while wire.world.verdict("test:key") == "RUNNING" {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let second = wire.begin("test:key", 60_000, spec(&[])).await.unwrap();
    for status in [
        refused(wire.tasks.heartbeat(beat(&first)).await, Code::FailedPrecondition, "ABANDONED"),
        refused(wire.commit(&first, None).await, Code::FailedPrecondition, "ABANDONED"),
        refused(wire.tasks.fail(fail(&first)).await, Code::FailedPrecondition, "ABANDONED"),
    ] {
        assert_eq!(status.get_details_precondition_failure().unwrap().violations[0].r#type, "ENDED");
    }
    assert_eq!(wire.world.verdict("test:key"), "RUNNING");
    wire.tasks.heartbeat(beat(&second)).await.unwrap();
    assert_eq!(wire.commit(&second, None).await.unwrap().state, i32::from(State::Succeeded));
    refused(wire.commit(&first, None).await, Code::FailedPrecondition, "ABANDONED");
    // An id is good for one attempt.
    let again =
        v1::BeginRequest { key: "test:other".into(), spec: Some(spec(&[])), execution: first, ..Default::default() };
    let mut replies = wire.tasks.begin(again).await.unwrap().into_inner();
    refused(replies.message().await, Code::InvalidArgument, "new id");
}

#[tokio::test(flavor = "multi_thread")]
async fn searches_that_are_none_are_refused() {
    let mut wire = Wire::new().await;
    let asked = |conditions: Vec<String>| v1::SearchRequest { r#where: conditions, ..Default::default() };
    let long = format!("a={}", "x".repeat(1_023));
    for (conditions, word) in [
        (vec![], "1 to 32"),
        (vec!["a=1".to_owned(); 33], "1 to 32"),
        (vec![long], "1024 bytes"),
        (vec!["a=1".into(), "b".into()], "FIELD=VALUE"),
    ] {
        refused(wire.catalog.search(asked(conditions.clone())).await, Code::InvalidArgument, word);
        if !conditions.is_empty() {
            let invalidate = v1::InvalidateRequest { r#where: conditions, ..Default::default() };
            refused(wire.tasks.invalidate(invalidate).await, Code::InvalidArgument, word);
        }
    }
    let cursor = v1::SearchRequest { cursor: Bytes::from_static(b"x"), ..asked(vec!["a=1".into()]) };
    refused(wire.catalog.search(cursor).await, Code::InvalidArgument, "cursor");
    let prefix = v1::SearchRequest { prefix: "x".repeat(1_025), ..asked(vec!["a=1".into()]) };
    refused(wire.catalog.search(prefix).await, Code::InvalidArgument, "1024 bytes");
    wire.lives().await;
}
