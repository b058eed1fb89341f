//! How much memory a daemon takes for a blob of 10 GiB, up, down and by descriptor.

use std::fs::File;
use std::io::Write;

use provender_benches::noise;
use provender_proto::MAX_PIECE;

use crate::Result;
use provender_benches::serve::Server;
use provender_benches::table;

const BYTES: usize = 10 << 30;
/// What the blob repeats.
const PERIOD: usize = 64 << 20;
const BOUND: f64 = 256.0;

/// Measures the budget.
pub(crate) async fn measure() -> Result<()> {
    let body = noise(0, PERIOD);
    let piece = |at: usize| body.slice(at % PERIOD..at % PERIOD + MAX_PIECE);
    let mebibytes = |daemon: &Server| daemon.peak() as f64 / f64::from(1 << 20);

    let daemon = Server::daemon("memory").await?;
    let pieces: Vec<_> = (0..BYTES).step_by(MAX_PIECE).map(piece).collect();
    let digest = daemon.client.upload(None, 0, futures::stream::iter(pieces)).await?;
    table::print_bound("10 GiB, gRPC, up: memory of the daemon", &[mebibytes(&daemon)], "MiB", BOUND);
    let mut download = daemon.client.download(&digest, 0, 0).await?;
    while download.next().await?.is_some() {}
    table::print_bound("the same, and down", &[mebibytes(&daemon)], "MiB", BOUND);
    drop(daemon);
    std::fs::remove_dir_all("memory")?;

    let mut file = File::create_new("large")?;
    (0..BYTES).step_by(MAX_PIECE).try_for_each(|at| file.write_all(&piece(at)))?;
    let (daemon, file) = (Server::daemon("memory").await?, File::open("large")?);
    if !daemon.client.give(&digest, &file, &|| true)? {
        return Err("the daemon takes no files".into());
    }
    table::print_bound("10 GiB by descriptor: memory of the daemon", &[mebibytes(&daemon)], "MiB", BOUND);
    drop(daemon);
    std::fs::remove_dir_all("memory")?;
    Ok(std::fs::remove_file("large")?)
}
