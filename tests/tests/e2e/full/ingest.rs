//! Bytes that find no room on their way in, whichever way they come.

use std::fs::File;
use std::os::fd::AsFd;
use std::time::Duration;

use provender_proto::convert::digest_to;
use provender_proto::handover::{beside, connect_to, receive, send};
use provender_proto::v1::handover_reply::Reply;
use provender_proto::v1::handover_request::{Give, Request};
use provender_proto::v1::{HandoverReply, HandoverRequest};
use provender_tests::child::string;

use super::*;

/// What people are told, on the command line as well.
const TOLD: [&str; 3] = ["is full", "No space left on device", "free some space"];

async fn bytes_without_room_are_refused(disk: (u64, &[&str])) {
    let small = Small::with(disk, SMALL_BUFFERS, &["--listen", "127.0.0.1:0", "--insecure"], false);
    let world = &small.world;
    let address = string(&world.daemon.logged("listening on TCP")["fields"]["address"]);
    let tcp = format!("http://{address}");
    std::fs::write(world.path("kept"), bytes(1, MIB)).unwrap();
    world.cli(&["put", "kept", "--name", "kept"]).ok();
    let large = bytes(2, 48 * MIB);
    std::fs::write(world.path("large"), &large).unwrap();
    let digest = Digest::of(&large);
    small.fill(36 << 20);
    let before = small.spare();

    // In pieces, of a size that is known from the beginning and of one that is not.
    let mut client = small.blobs().await;
    for announced in [true, false] {
        refused(&upload(&mut client, &large, announced).await.unwrap_err());
        small.nothing_is_staged();
    }
    // By descriptor.
    let socket = connect_to(&beside(&world.daemon.socket()), Duration::from_secs(60)).unwrap();
    let give = Request::Give(Give { space: String::new(), digest: Some(digest_to(&digest)) });
    let file = File::open(world.path("large")).unwrap();
    send(&socket, &HandoverRequest { request: Some(give) }, Some(file.as_fd())).unwrap();
    match receive::<HandoverReply>(&socket).unwrap().unwrap().0.reply.unwrap() {
        Reply::Refused(told) => refused(&Status::new(told.code.into(), told.message)),
        other => panic!("{other:?}"),
    };
    small.nothing_is_staged();
    // As people do: both ways.
    for remote in [world.daemon.remote(), tcp.clone()] {
        world.cli(&["--remote", &remote, "put", "large", "--name", "large"]).code(125).says(&TOLD);
        small.nothing_is_staged();
    }
    world.cli(&["status", "large"]).code(1);
    // As the output of a run, which is a success nowhere.
    let run = |world: &World| world.run(&["--name", "run", "--key", "test:run", "--out", "out"], "cat large >out");
    let ran = run(world).code(125).says(&TOLD);
    assert_eq!(ran.result(), "unrecorded");
    assert_eq!(world.verdict("test:run"), "FAILED");
    small.nothing_is_staged();
    rustix::fs::syncfs(File::open(small.disk.path()).unwrap()).unwrap();
    let lost = before.saturating_sub(small.spare());
    assert!(lost < 4 << 20, "{lost} bytes are gone for what was refused");

    // And small ones, as rows, once there is nothing at all.
    let told = small.fill_up().await;
    assert!(told.message().contains("metadata"), "{told:?}");
    for again in [false, true] {
        refused(&put_rows(&mut client, vec![bytes(5, 100)]).await.unwrap_err());
        refused(&upload(&mut client, &bytes(6, 100), again).await.unwrap_err());
        refused(&upload(&mut client, &bytes(6, 100_000), again).await.unwrap_err());
    }
    small.nothing_is_staged();
    std::fs::remove_dir_all(world.path("got")).ok();
    world.cli(&["get", "kept", "got"]).ok();
    assert!(std::fs::read(world.path("got/kept")).unwrap() == bytes(1, MIB));

    small.free();
    small.heals().await;
    world.cli(&["--remote", &tcp, "put", "large", "--name", "large"]).ok();
    assert!(download(&mut client, &digest).await.unwrap() == large);
    assert_eq!(run(world).ok().result(), "ran");
    assert_eq!(world.verdict("test:run"), "SUCCEEDED");
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_without_room_are_refused_whichever_way_they_come() {
    bytes_without_room_are_refused(EXT4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn xfs_bytes_without_room_are_refused_whichever_way_they_come() {
    bytes_without_room_are_refused(XFS).await;
}

/// What is kept of an upload takes no more than it has, also if going on with it finds no room.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_goes_on_without_room_keeps_none_for_itself() {
    let small = Small::new(EXT4, SMALL_BUFFERS);
    let large = bytes(3, 48 * MIB);
    let digest = Digest::of(&large);
    let mut client = small.blobs().await;
    // Cut off after 4 MiB.
    let begin = Begin { digest: Some(digest_to(&digest)), ..Default::default() };
    let pieces = large.chunks(MIB).take(6).map(|piece| Part::Data(large.slice_ref(piece)));
    let parts: Vec<_> = std::iter::once(Part::Begin(begin)).chain(pieces).collect();
    let parts = parts.into_iter().map(|part| v1::UploadRequest { request: Some(part) });
    let staging = small.world.data().join("blobs/staging");
    let staged = || staging.read_dir().unwrap().map(|entry| entry.unwrap().metadata().unwrap()).next();
    {
        let mut client = client.clone();
        let endless = futures::StreamExt::chain(futures::stream::iter(parts), futures::stream::pending());
        let sending = tokio::spawn(async move { client.upload(endless).await.map(drop) });
        eventually("some of it has come", || staged().is_some_and(|file| file.len() >= 4 << 20));
        sending.abort();
    }
    let query = v1::QueryUploadRequest { digest: Some(digest_to(&digest)), ..Default::default() };
    let kept = client.query_upload(query).await.unwrap().into_inner().offset;
    assert!(kept >= 4 << 20, "{kept}");
    let before = small.spare();
    small.fill(12 << 20);
    let begin = Begin { digest: Some(digest_to(&digest)), offset: kept, ..Default::default() };
    let part = v1::UploadRequest { request: Some(Part::Begin(begin)) };
    refused(&client.upload(futures::stream::iter([part])).await.unwrap_err());
    eventually("what was reserved is free", || small.spare() >= 12 * MIB as u64 - 64 * KIB as u64);
    small.free();
    assert!(small.spare() + 64 * KIB as u64 >= before);
    // And it goes on once there is.
    let left = large.slice(kept as usize..);
    let begin = Begin { digest: Some(digest_to(&digest)), offset: kept, ..Default::default() };
    let pieces = left.chunks(MIB).map(|piece| Part::Data(left.slice_ref(piece)));
    let parts: Vec<_> = std::iter::once(Part::Begin(begin)).chain(pieces).collect();
    let parts = parts.into_iter().map(|part| v1::UploadRequest { request: Some(part) });
    client.upload(futures::stream::iter(parts)).await.unwrap();
    assert!(download(&mut client, &digest).await.unwrap() == large);
    small.nothing_is_staged();
}
