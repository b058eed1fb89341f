//! The process that the blob conformance suite kills or measures: `blob_writer hold|publish|through|packed DIR`.

use std::io::{Read, Write};
use std::path::Path;

use futures::TryStreamExt;
use provender_blobs::{BlobError, Blobs, CHUNK, StageOptions, put, verified};
use provender_tests::conformance::blobs::packed::Packed;
use provender_tests::conformance::blobs::{bytes, disk};

#[tokio::main]
async fn main() -> Result<(), BlobError> {
    // Ends with whoever started it.
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let mut arguments = std::env::args().skip(1);
    let (Some(mode), Some(dir)) = (arguments.next(), arguments.next()) else { usage() };
    let blobs = disk::open(Path::new(&dir), None).await?;
    match mode.as_str() {
        "hold" => hold(&*blobs).await,
        "publish" => publish(&*blobs).await,
        "through" => through(&*blobs).await,
        "packed" => through(&Packed(blobs)).await,
        _ => usage(),
    }
}

fn usage() -> ! {
    eprintln!("usage: blob_writer hold|publish|through|packed DIR");
    std::process::exit(2);
}

/// Stages 3 MiB, says so, and waits to be killed.
async fn hold(blobs: &dyn Blobs) -> Result<(), BlobError> {
    let mut staged = blobs.stage(StageOptions::default()).await?;
    for seed in 0..3 {
        staged.write(bytes(seed, CHUNK)).await?;
    }
    say("staged");
    std::future::pending().await
}

/// Publishes blobs, four at a time, and says where, until it is killed.
async fn publish(blobs: &dyn Blobs) -> Result<(), BlobError> {
    let one = |lane: u64| async move {
        for seed in 0.. {
            let published = put(blobs, bytes(lane * 1_000_000 + seed, 2 * CHUNK + 5), None).await?;
            say(published.location);
        }
        Ok(())
    };
    futures::future::try_join4(one(1), one(2), one(3), one(4)).await.map(|_: ((), (), (), ())| ())
}

/// Stores 256 MiB and reads them back; says by how many KiB that raised the peak of its memory.
async fn through(blobs: &dyn Blobs) -> Result<(), BlobError> {
    stream(blobs, 4).await?;
    let before = peak();
    stream(blobs, 256).await?;
    say(peak() - before);
    Ok(())
}

async fn stream(blobs: &dyn Blobs, chunks: u64) -> Result<(), BlobError> {
    let mut staged =
        blobs.stage(StageOptions { size_hint: Some(chunks * CHUNK as u64), ..StageOptions::default() }).await?;
    for seed in 0..chunks {
        staged.write(bytes(seed, CHUNK)).await?;
    }
    let location = staged.publish(None).await?.location;
    let mut reader = verified(location, blobs.open(&location, 0..location.digest.size).await?);
    while reader.try_next().await?.is_some() {}
    blobs.remove(&location).await
}

/// The most memory that this process ever held, in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    line.trim_end_matches("kB").trim().parse().expect("a number of KiB")
}

fn say(what: impl std::fmt::Display) {
    let mut out = std::io::stdout().lock();
    // A line at once, as its reader may kill this process after it.
    writeln!(out, "{what}").and_then(|()| out.flush()).expect("standard output");
}
