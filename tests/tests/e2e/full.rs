//! A full disk: what finds no room is refused with words that help, reads go on, and freed space heals without a restart.
//!
//! The data folder lies on a small file system of its own, which a ballast file fills to a chosen number of bytes. Needs root.

#[path = "full/collecting.rs"]
mod collecting;
#[path = "full/commits.rs"]
mod commits;
#[path = "full/ingest.rs"]
mod ingest;
#[path = "full/metadata.rs"]
mod metadata;
#[path = "full/starts.rs"]
mod starts;

use std::fs::OpenOptions;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use provender_core::Digest;
use provender_proto::convert::digest_to;
use provender_proto::v1;
use provender_proto::v1::blobs_client::BlobsClient;
use provender_proto::v1::upload_request::{Begin, Request as Part};
use provender_tests::child::eventually;
use provender_tests::conformance::blobs::bytes;
use provender_tests::loop_disk::LoopDisk;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::world::{World, folder};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const EXT4: (u64, &[&str]) = (96 << 20, &["mkfs.ext4", "-m", "0"]);
const XFS: (u64, &[&str]) = (320 << 20, &["mkfs.xfs"]);
/// So that sorted files are written soon.
const SMALL_BUFFERS: &str = "[meta]\nengine = \"rocksdb\"\nwrite_buffer_bytes = 4194304\n";
/// The largest blob that is a row.
const ROW: usize = 16 * KIB;

/// A world whose daemon has its data, and nothing else of the world, on a small disk.
struct Small {
    // Unmounted before the folder around it is cleared.
    disk: LoopDisk,
    world: World,
}

impl Small {
    fn new((size, mkfs): (u64, &[&str]), config: &str) -> Small {
        Small::with((size, mkfs), config, &[], false)
    }

    /// Also with flags, and with the daemon's own log on the disk.
    fn with((size, mkfs): (u64, &[&str]), config: &str, flags: &[&str], logs: bool) -> Small {
        let folder = folder();
        let disk = LoopDisk::mount(folder.path(), size, mkfs);
        std::fs::create_dir(disk.path().join("d")).unwrap();
        symlink(disk.path().join("d"), folder.path().join("d")).unwrap();
        if logs {
            symlink(disk.path().join("d.log"), folder.path().join("d.log")).unwrap();
        }
        let world = World::inside(folder, config, flags);
        Small { disk, world }
    }

    /// Bytes that are free.
    fn spare(&self) -> u64 {
        let stat = rustix::fs::statvfs(self.disk.path()).unwrap();
        stat.f_bavail * stat.f_frsize
    }

    fn ballast(&self) -> PathBuf {
        self.disk.path().join("ballast")
    }

    /// Leaves about so many bytes, at most.
    fn fill(&self, leave: u64) {
        let ballast = OpenOptions::new().append(true).create(true).open(self.ballast()).unwrap();
        rustix::fs::syncfs(&ballast).unwrap();
        let (mut len, mut halved) = (ballast.metadata().unwrap().len(), 0);
        while self.spare() >= leave + 4096 {
            let more = (self.spare() - leave) >> halved;
            match fallocate(&ballast, FallocateFlags::empty(), len, more.max(4096)) {
                Ok(()) => len += more.max(4096),
                Err(Errno::NOSPC) if more > 4096 => halved += 1,
                // What is left is the file system's own.
                Err(Errno::NOSPC) => break,
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn ballast_len(&self) -> u64 {
        self.ballast().metadata().unwrap().len()
    }

    /// Makes room again.
    fn free(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
    }

    /// Rows until no more find room; those that did, and how the first that did not was refused.
    async fn write_rows(&self, seed: u64) -> (Vec<Bytes>, Status) {
        let (mut client, mut there) = (self.blobs().await, Vec::new());
        for n in 0..10_000 {
            let blob = bytes(seed * 10_000 + n, ROW);
            match put_rows(&mut client, vec![blob.clone()]).await {
                Ok(()) => there.push(blob),
                Err(status) => return (there, status),
            }
        }
        panic!("the disk was not full after {} rows", there.len());
    }

    async fn blobs(&self) -> BlobsClient<Channel> {
        let channel = Endpoint::from_shared(self.world.daemon.remote()).unwrap().connect().await.unwrap();
        BlobsClient::new(channel)
    }

    /// Fills the disk to the last block, so that neither blobs nor rows find room.
    async fn fill_up(&self) -> Status {
        self.fill(0);
        let (_, status) = self.write_rows(77).await;
        refused(&status)
    }

    /// Writes are taken again, before long and without a restart.
    async fn heals(&self) {
        let mut client = self.blobs().await;
        let mut seed = 990_000;
        loop {
            seed += 1;
            match put_rows(&mut client, vec![bytes(seed, ROW)]).await {
                Ok(()) => return,
                Err(status) => _ = refused(&status),
            }
            assert!(seed < 990_600, "nothing is written a minute after space was freed");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// What stands in staging goes, whoever was refused.
    fn nothing_is_staged(&self) {
        let staging = self.world.data().join("blobs/staging");
        eventually("nothing is left in staging", || staging.read_dir().unwrap().count() == 0);
    }
}

/// The refusal of who finds no room: its code, and words that say what, why and what to do.
#[track_caller]
fn refused(status: &Status) -> Status {
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    for word in ["full", "No space left on device", "free some space"] {
        assert!(status.message().contains(word), "no {word:?} in {}", status.message());
    }
    status.clone()
}

async fn put_rows(client: &mut BlobsClient<Channel>, blobs: Vec<Bytes>) -> Result<(), Status> {
    client.batch_put(v1::BatchPutRequest { blobs, ..Default::default() }).await.map(drop)
}

/// Sends a blob in pieces.
async fn upload(client: &mut BlobsClient<Channel>, blob: &Bytes, announced: bool) -> Result<Digest, Status> {
    let digest = Digest::of(blob);
    let begin = Begin { digest: announced.then(|| digest_to(&digest)), ..Default::default() };
    let pieces = blob.chunks(MIB).map(|piece| Part::Data(blob.slice_ref(piece)));
    let parts: Vec<_> = std::iter::once(Part::Begin(begin)).chain(pieces).collect();
    let parts = parts.into_iter().map(|part| v1::UploadRequest { request: Some(part) });
    client.upload(futures::stream::iter(parts)).await.map(|_| digest)
}

/// All of a blob.
async fn download(client: &mut BlobsClient<Channel>, digest: &Digest) -> Result<Vec<u8>, Status> {
    let request = v1::DownloadRequest { digest: Some(digest_to(digest)), ..Default::default() };
    let (mut replies, mut all) = (client.download(request).await?.into_inner(), Vec::new());
    while let Some(reply) = replies.message().await? {
        all.extend_from_slice(&reply.data);
    }
    Ok(all)
}
