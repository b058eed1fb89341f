//! Uploads that are cut off, by their client or with their daemon: they go on from where they were, and nothing wrong comes of it.

use bytes::Bytes;
use provender_core::Digest;
use provender_proto::convert::digest_to;
use provender_proto::v1;
use provender_proto::v1::blobs_client::BlobsClient;
use provender_proto::v1::upload_request::{Begin, Request as Part};
use provender_tests::child::eventually;
use provender_tests::conformance::blobs::bytes;
use rustix::process::Signal;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::world::World;

const MIB: usize = 1 << 20;

struct Uploader {
    blobs: BlobsClient<Channel>,
    all: Bytes,
    digest: Digest,
}

impl Uploader {
    async fn new(world: &World, all: Bytes) -> Uploader {
        let channel = Endpoint::from_shared(world.daemon.remote()).unwrap().connect().await.unwrap();
        Uploader { blobs: BlobsClient::new(channel), digest: Digest::of(&all), all }
    }

    /// Sends what stands between two bytes, and then the end.
    async fn send(&mut self, from: usize, to: usize) -> Result<v1::UploadReply, Status> {
        let parts = futures::stream::iter(self.parts(from, to));
        Ok(self.blobs.upload(parts).await?.into_inner())
    }

    /// Sends what stands between two bytes, but not the end: the connection breaks once some of it has come.
    fn break_off(&self, world: &World, from: usize, to: usize) {
        let (remote, parts) = (world.daemon.remote(), self.parts(from, to));
        let came = staged(world).max(from as u64) + 2 * MIB as u64;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.spawn(async move {
            let channel = Endpoint::from_shared(remote).unwrap().connect().await.unwrap();
            let parts = futures::StreamExt::chain(futures::stream::iter(parts), futures::stream::pending());
            BlobsClient::new(channel).upload(parts).await
        });
        eventually("some of it has come", || staged(world) > came);
        // And the socket with it.
        runtime.shutdown_background();
    }

    fn parts(&self, from: usize, to: usize) -> Vec<v1::UploadRequest> {
        let begin = Begin { digest: Some(digest_to(&self.digest)), offset: from as u64, ..Begin::default() };
        let data = self.all.slice(from..to);
        let pieces = data.chunks(MIB).map(|piece| Part::Data(data.slice_ref(piece)));
        let parts = std::iter::once(Part::Begin(begin)).chain(pieces);
        parts.map(|part| v1::UploadRequest { request: Some(part) }).collect()
    }

    async fn query(&mut self) -> (bool, usize) {
        let request = v1::QueryUploadRequest { digest: Some(digest_to(&self.digest)), ..Default::default() };
        let reply = self.blobs.query_upload(request).await.unwrap().into_inner();
        (reply.held, reply.offset as usize)
    }
}

fn staged(world: &World) -> u64 {
    let entries = world.data().join("blobs/staging").read_dir().unwrap();
    entries.map(|entry| entry.unwrap().metadata().map_or(0, |file| file.len())).sum()
}

#[tokio::test]
async fn an_upload_goes_on_where_it_was_cut_off_also_by_a_killed_daemon() {
    let mut world = World::new();
    let mut uploader = Uploader::new(&world, bytes(1, 24 * MIB + 7)).await;
    assert_eq!(uploader.query().await, (false, 0));
    uploader.break_off(&world, 0, 10 * MIB);
    let (held, first) = uploader.query().await;
    assert!(!held && first > 0 && first <= 10 * MIB, "{first}");

    // From where it was not; without a digest.
    let ahead = uploader.send(first + 1, 12 * MIB).await.unwrap_err();
    assert_eq!(ahead.code(), Code::FailedPrecondition, "{ahead}");
    let nameless = Begin { offset: 1, ..Begin::default() };
    let nameless = v1::UploadRequest { request: Some(Part::Begin(nameless)) };
    let error = uploader.blobs.clone().upload(futures::stream::iter([nameless])).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument, "{error}");

    uploader.break_off(&world, first, 20 * MIB);
    let (_, second) = uploader.query().await;
    assert!(second > first && second <= 20 * MIB, "{second}");
    world.daemon.kill();
    world.daemon.restart();
    let mut again = Uploader::new(&world, uploader.all.clone()).await;
    assert_eq!(again.query().await, (false, second));
    let reply = again.send(second, uploader.all.len()).await.unwrap();
    assert_eq!(reply.digest, Some(digest_to(&again.digest)));
    assert_eq!((again.query().await, staged(&world)), ((true, 0), 0));
    world.cli(&["get", &format!("blob:{}", again.digest.hex()), "got"]).ok();
    assert!(std::fs::read(world.path("got")).unwrap() == again.all);
}

#[tokio::test]
async fn what_is_kept_of_other_bytes_never_becomes_a_blob() {
    let world = World::new();
    let mut liar = Uploader::new(&world, bytes(2, 8 * MIB)).await;
    let mut right = Uploader::new(&world, bytes(3, 8 * MIB)).await;
    liar.digest = right.digest;
    liar.break_off(&world, 0, 6 * MIB);
    let (_, kept) = right.query().await;
    assert!(kept > 0);
    let error = right.send(kept, 8 * MIB).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument, "{error}");
    assert_eq!(right.query().await, (false, 0));
    right.send(0, 8 * MIB).await.unwrap();
    assert_eq!(right.query().await, (true, 0));
}

#[test]
fn put_goes_on_through_a_killed_daemon() {
    // Restarted on the same port, which nobody else takes so soon.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let flags = ["--listen", &address, "--insecure"];
    let mut world = World::with("", &flags);
    let size = 256 * MIB;
    std::fs::write(world.path("large"), bytes(4, size)).unwrap();
    let remote = format!("http://{address}");
    let mut put = world.provender.start(["--remote", &remote, "put", "large", "--name", "large"]);
    let mut kept = 0;
    for _ in 0..2 {
        eventually("some of it has come", || {
            assert!(put.ended().is_none(), "{}", put.stderr());
            staged(&world) > kept + 24 * MIB as u64
        });
        if kept > 0 {
            went_on(&world, kept);
        }
        // Until the daemon is back nothing more is sent, and nobody's patience runs out.
        put.signal(Signal::STOP);
        world.daemon.kill();
        kept = staged(&world);
        assert!(kept < size as u64, "it was all there before it was cut off");
        world.daemon.restart();
        put.signal(Signal::CONT);
    }
    put.wait().ok();
    went_on(&world, kept);
    assert_eq!(staged(&world), 0);
    world.cli(&["get", "large", "got"]).ok();
    assert!(std::fs::read(world.path("got/large")).unwrap() == bytes(4, size));
}

/// Since its last start the daemon was sent what follows upon so many bytes, and these not again.
fn went_on(world: &World, kept: u64) {
    let from = world.daemon.logged("an upload that was cut off goes on")["fields"]["from"].as_u64();
    assert_eq!(from, Some(kept));
}
