//! 10,000 blobs of 1 KiB, durable, as `provender put` sends them; against one file each with its fsync.

use std::fs::File;
use std::io::Write;
use std::time::Instant;

use bytes::Bytes;
use provender_benches::noise;
use provender_core::Digest;

use crate::Result;
use provender_benches::serve::Server;
use provender_benches::table::Row;

const COUNT: u64 = 10_000;
const SIZE: usize = 1 << 10;
/// So many files tell: they cost the same each.
const FILES: usize = 500;
const ROUNDS: u64 = 5;

/// Measures the budget.
pub(crate) async fn measure() -> Result<Row> {
    let daemon = Server::daemon("small").await?;
    let (mut ours, mut files) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let blobs: Vec<_> = (0..COUNT).map(|seed| noise(round * COUNT + seed, SIZE)).collect();
        rustix::fs::sync();
        let start = Instant::now();
        // Hashed once here and once more by the daemon.
        let named: Vec<_> = blobs.iter().map(|bytes| (Digest::of(bytes), bytes.clone())).collect();
        let sent = daemon.client.upload_bytes(&named).await?;
        ours.push(COUNT as f64 / start.elapsed().as_secs_f64());
        assert_eq!(sent, COUNT * SIZE as u64);

        rustix::fs::sync();
        let start = Instant::now();
        write(&format!("files{round}"), &blobs[..FILES])?;
        files.push(FILES as f64 / start.elapsed().as_secs_f64());
    }
    Ok(Row {
        what: "10,000 blobs of 1 KiB, gRPC, durable".into(),
        unit: "blobs/s",
        ours,
        limits: vec![("file and fsync each (of 500)", files)],
        budget: 10.0,
    })
}

fn write(dir: &str, blobs: &[Bytes]) -> Result<()> {
    std::fs::create_dir(dir)?;
    for (i, bytes) in blobs.iter().enumerate() {
        let mut file = File::create_new(format!("{dir}/{i}"))?;
        file.write_all(bytes)?;
        file.sync_all()?;
    }
    Ok(())
}
