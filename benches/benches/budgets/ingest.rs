//! One large blob, durable: over gRPC, against a stream that the server throws away and against the disk; and by its file's descriptor,
//! against hashing on one processor and against `dd`.

use std::fs::File;
use std::io::Write;
use std::process::Command;
use std::time::Instant;

use bytes::Bytes;
use provender_benches::noise;
use provender_core::Digest;
use provender_proto::MAX_PIECE;

use crate::Result;
use provender_benches::serve::Server;
use provender_benches::table::Row;

const BYTES: usize = 1 << 30;
/// What the blob repeats: more than a processor's cache, and far more than a file system looks back to compress.
const PERIOD: usize = 64 << 20;
const ROUNDS: u64 = 6;

/// Measures the budget.
pub(crate) async fn measure() -> Result<Row> {
    let (mut ours, mut stream, mut disk) = (Vec::new(), Vec::new(), Vec::new());
    let body = noise(0, PERIOD);
    let nothing = Server::nothing().await?;
    for round in 0..=ROUNDS {
        let pieces = pieces(&body, round);
        let digest = digest(&pieces);
        // The one that writes first may find memory or a disk that is better rested.
        let (upload, write) = match round % 2 {
            0 => (upload(&pieces, digest).await?, write(&pieces).await?),
            _ => {
                let write = write(&pieces).await?;
                (upload(&pieces, digest).await?, write)
            }
        };
        let discard = timed(async {
            nothing.client.upload(Some(&digest), 0, futures::stream::iter(pieces.clone())).await?;
            Ok(())
        });
        let discard = discard.await?;
        // The first round warms.
        if round > 0 {
            ours.push(upload);
            stream.push(discard);
            disk.push(write);
        }
    }
    Ok(Row {
        what: "upload of 1 GiB, gRPC, durable".into(),
        unit: "MB/s",
        ours,
        limits: vec![("discarded stream", stream), ("write and fdatasync", disk)],
        budget: 0.8,
    })
}

/// Measures the budget of a file that is handed over by its descriptor.
pub(crate) async fn measure_handover() -> Result<Row> {
    let (mut ours, mut hash, mut disk) = (Vec::new(), Vec::new(), Vec::new());
    let pieces = pieces(&noise(0, PERIOD), 0);
    let digest = digest(&pieces);
    let mut file = File::create_new("given")?;
    pieces.iter().try_for_each(|piece| file.write_all(piece))?;
    let file = File::open("given")?;
    for round in 0..=ROUNDS {
        let daemon = Server::daemon("given-to").await?;
        let give = timed(async {
            if daemon.client.give(&digest, &file, &|| true)? { Ok(()) } else { Err("the daemon takes no files".into()) }
        });
        let give = give.await?;
        drop(daemon);
        std::fs::remove_dir_all("given-to")?;
        let copy = timed(async {
            let dd = Command::new("dd").args(["if=given", "of=copy", "bs=1M", "conv=fsync", "status=none"]).status()?;
            if dd.success() { Ok(()) } else { Err(format!("dd: {dd}").into()) }
        });
        let copy = copy.await?;
        std::fs::remove_file("copy")?;
        let one_core = timed(async {
            let mut hasher = blake3::Hasher::new();
            for piece in &pieces {
                hasher.update(piece);
            }
            assert_eq!(*hasher.finalize().as_bytes(), digest.hash);
            Ok(())
        });
        let one_core = one_core.await?;
        if round > 0 {
            ours.push(give);
            hash.push(one_core);
            disk.push(copy);
        }
    }
    std::fs::remove_file("given")?;
    Ok(Row {
        what: "1 GiB by descriptor, durable".into(),
        unit: "MB/s",
        ours,
        limits: vec![("dd conv=fsync", disk), ("BLAKE3 on one processor", hash)],
        budget: 0.8,
    })
}

/// The rate at which a daemon of its own takes the blob. What it stored is gone afterwards, and its memory free.
async fn upload(pieces: &[Bytes], digest: Digest) -> Result<f64> {
    let daemon = Server::daemon("ingest").await?;
    let pieces = futures::stream::iter(pieces.to_vec());
    let rate = timed(async {
        let found = daemon.client.upload(Some(&digest), 0, pieces).await?;
        assert_eq!(found, digest);
        Ok(())
    });
    let rate = rate.await?;
    drop(daemon);
    std::fs::remove_dir_all("ingest")?;
    Ok(rate)
}

/// The rate of the disk, as `dd bs=1M conv=fdatasync` tells it.
async fn write(pieces: &[Bytes]) -> Result<f64> {
    let mut file = File::create_new("plain")?;
    let rate = timed(async {
        pieces.iter().try_for_each(|piece| file.write_all(piece))?;
        Ok(file.sync_data()?)
    });
    let rate = rate.await?;
    std::fs::remove_file("plain")?;
    Ok(rate)
}

/// Times a blob's way, once the disk has finished what others gave it; in MB/s.
async fn timed(work: impl Future<Output = Result<()>>) -> Result<f64> {
    rustix::fs::sync();
    let start = Instant::now();
    work.await?;
    Ok(BYTES as f64 / 1e6 / start.elapsed().as_secs_f64())
}

/// The pieces of a blob that no other round has.
fn pieces(body: &Bytes, round: u64) -> Vec<Bytes> {
    let first = noise(round + 1, MAX_PIECE);
    let rest = (MAX_PIECE..BYTES).step_by(MAX_PIECE).map(|at| body.slice(at % PERIOD..at % PERIOD + MAX_PIECE));
    std::iter::once(first).chain(rest).collect()
}

fn digest(pieces: &[Bytes]) -> Digest {
    let mut ingest = provender_blobs::Ingest::new(&[]);
    pieces.iter().for_each(|piece| ingest.update(piece));
    ingest.finish().digest
}
