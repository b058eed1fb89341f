//! One large blob, durable, over gRPC; against a stream that the server throws away, and against the disk.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use bytes::Bytes;
use provender_benches::noise;
use provender_core::Digest;
use provender_proto::MAX_PIECE;

use crate::Result;
use crate::serve::Server;
use crate::table::Row;

const BYTES: usize = 1 << 30;
/// What the blob repeats: more than a processor's cache, and far more than a file system looks back to compress.
const PERIOD: usize = 64 << 20;
const ROUNDS: u64 = 5;

/// Measures the budget.
pub(crate) async fn measure() -> Result<Row> {
    let (mut ours, mut stream, mut disk) = (Vec::new(), Vec::new(), Vec::new());
    let body = noise(0, PERIOD);
    let nothing = Server::nothing().await?;
    for round in 0..ROUNDS {
        let pieces = pieces(&body, round);
        let digest = digest(&pieces);
        let daemon = Server::daemon("ingest").await?;

        let sent = pieces.clone();
        settle();
        let start = Instant::now();
        let found = daemon.client.upload(Some(&digest), futures::stream::iter(sent)).await?;
        ours.push(rate(start));
        assert_eq!(found, digest);

        let sent = pieces.clone();
        settle();
        let start = Instant::now();
        nothing.client.upload(Some(&digest), futures::stream::iter(sent)).await?;
        stream.push(rate(start));

        settle();
        let start = Instant::now();
        write(Path::new("ingest/plain"), &pieces)?;
        disk.push(rate(start));

        // Space is freed while nothing is measured.
        drop(daemon);
        std::fs::remove_dir_all("ingest")?;
    }
    Ok(Row {
        what: "upload of 1 GiB, gRPC, durable".into(),
        unit: "MB/s",
        ours,
        limits: vec![("discarded stream", stream), ("write and fdatasync", disk)],
        budget: 0.8,
    })
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

/// As `dd bs=1M conv=fdatasync` does.
fn write(path: &Path, pieces: &[Bytes]) -> Result<()> {
    let mut file = File::create_new(path)?;
    pieces.iter().try_for_each(|piece| file.write_all(piece))?;
    Ok(file.sync_data()?)
}

/// Lets the disk finish what others gave it.
fn settle() {
    rustix::fs::sync();
}

fn rate(start: Instant) -> f64 {
    BYTES as f64 / 1e6 / start.elapsed().as_secs_f64()
}
