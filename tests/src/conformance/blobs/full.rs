//! A full disk: a small ext4 of its own, on a loop device. Needs root.

use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;
use provender_blobs::{BlobError, Blobs, CHUNK, Location, StageOptions};
use provender_core::Digest;

use super::disk::{files, open};
use super::{bytes, list, read};

/// A mounted file system of 16 MiB; unmounted, and its loop device detached, when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(dir: &Path, mkfs: &[&str]) -> SmallDisk {
        let (image, mounted) = (dir.join("image"), dir.join("mounted"));
        assert!(rustix::process::geteuid().is_root(), "this test mounts a small file system: run it as root");
        std::fs::File::create(&image).and_then(|file| file.set_len(16 << 20)).expect("an image");
        std::fs::create_dir(&mounted).expect("a mount point");
        run(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).args(mkfs).arg(&image));
        run(Command::new("mount").args(["-o", "loop"]).args([&image, &mounted]));
        SmallDisk(mounted)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        run(Command::new("umount").arg("--lazy").arg(&self.0));
    }
}

fn run(command: &mut Command) {
    let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}");
}

/// Publishes blobs of `size` until the disk is full, and returns them.
async fn fill(blobs: &dyn Blobs, seed: u64, size: usize) -> Vec<Location> {
    let mut filler = Vec::new();
    loop {
        let bytes = bytes(seed + filler.len() as u64, size);
        match store(blobs, None, [bytes]).await {
            Ok(location) => filler.push(location),
            Err(error) => {
                is_full(&error);
                return filler;
            }
        }
    }
}

async fn store(
    blobs: &dyn Blobs,
    size_hint: Option<u64>,
    pieces: impl IntoIterator<Item = Bytes>,
) -> Result<Location, BlobError> {
    let mut staged = blobs.stage(StageOptions { size_hint, ..StageOptions::default() }).await?;
    for piece in pieces {
        staged.write(piece).await?;
    }
    Ok(staged.publish(None).await?.location)
}

fn is_full(error: &BlobError) {
    assert!(matches!(error, BlobError::Full { .. }), "{error:?}");
    assert!(error.to_string().contains("no space is left"), "{error}");
}

/// No space for bytes: told as such, nothing left behind, reads go on, and freed space heals.
pub async fn no_space(dir: &Path) {
    let disk = SmallDisk::mount(dir, &[]);
    let blobs = open(&disk.0.join("blobs"), None).await.expect("open");
    let kept = store(&*blobs, None, [bytes(1, CHUNK)]).await.expect("store");
    let large = 64 * CHUNK as u64;
    for size_hint in [None, Some(large)] {
        let pieces = (0..64).map(|seed| bytes(seed, CHUNK));
        is_full(&store(&*blobs, size_hint, pieces).await.expect_err("64 MiB on a disk of 16"));
        super::eventually("the failed blob is gone", async || files(&disk.0.join("blobs")).len() == 1).await;
    }
    let filler = fill(&*blobs, 100, 300_000).await;
    goes_on_and_heals(&disk, &*blobs, kept, filler, 300_000).await;
}

/// No inodes for files and folders: the same.
pub async fn no_inodes(dir: &Path) {
    let disk = SmallDisk::mount(dir, &["-N", "64"]);
    let blobs = open(&disk.0.join("blobs"), None).await.expect("open");
    let kept = store(&*blobs, None, [bytes(1, CHUNK)]).await.expect("store");
    let filler = fill(&*blobs, 100, 10).await;
    goes_on_and_heals(&disk, &*blobs, kept, filler, 10).await;
}

async fn goes_on_and_heals(disk: &SmallDisk, blobs: &dyn Blobs, kept: Location, filler: Vec<Location>, size: usize) {
    assert!(filler.len() > 5, "the disk was full after {} blobs", filler.len());
    let left = filler.len() + 1;
    super::eventually("the failed blob is gone", async || files(&disk.0.join("blobs")).len() == left).await;
    assert_eq!(list(blobs, 7).await.len(), left);
    for location in filler.iter().chain([&kept]) {
        assert_eq!(Digest::of(&read(blobs, location).await.expect("read on a full disk")), location.digest);
    }
    for location in &filler {
        blobs.remove(location).await.expect("remove on a full disk");
    }
    let again = store(blobs, None, [bytes(7, size)]).await.expect("store once there is space");
    assert!(read(blobs, &again).await.expect("read") == bytes(7, size));
}
