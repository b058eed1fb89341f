//! One large blob to and from a bucket, by a daemon whose blobs are there; against the same bytes by the same client library without a
//! daemon, to and from the same server.

use std::time::Instant;

use bytes::Bytes;
use futures::{TryStreamExt, stream};
use object_store::path::Path;
use object_store::{GetOptions, ObjectStore, ObjectStoreExt, WriteMultipart};
use provender_benches::noise;
use provender_blobs::Ingest;
use provender_core::Digest;
use provender_proto::MAX_PIECE;
use provender_tests::bucket::{self, client};

use crate::Result;
use provender_benches::serve::Server;
use provender_benches::table::Row;

const BYTES: usize = 256 << 20;
const ROUNDS: u64 = 5;
/// As the daemon sends them.
const PART: usize = 8 << 20;
const AT_ONCE: usize = 4;

/// Measures both directions.
pub(crate) async fn measure() -> Result<Vec<Row>> {
    let server = bucket::Server::start();
    let daemon = Server::configured("bucket", &bucket::toml(&server.address(), "bench")).await?;
    let plain = client(&server.address());
    let body = noise(0, BYTES);
    let [mut up, mut plain_up, mut down, mut plain_down] = [const { Vec::new() }; 4];
    for round in 0..=ROUNDS {
        // Each is another blob.
        let pieces: Vec<_> = std::iter::once(Bytes::copy_from_slice(&round.to_be_bytes()))
            .chain((8..BYTES).step_by(MAX_PIECE).map(|at| body.slice(at..(at + MAX_PIECE).min(BYTES))))
            .collect();
        let mut ingest = Ingest::new(&[]);
        pieces.iter().for_each(|piece| ingest.update(piece));
        let digest: Digest = ingest.finish().digest;
        let path = Path::from(format!("plain/{round}"));
        let rates = [
            rate(async {
                daemon.client.upload(Some(&digest), 0, stream::iter(pieces.clone())).await?;
                Ok(())
            })
            .await?,
            rate(async {
                let mut upload = WriteMultipart::new_with_chunk_size(plain.put_multipart(&path).await?, PART);
                for piece in pieces.clone() {
                    upload.wait_for_capacity(AT_ONCE).await?;
                    upload.put(piece);
                }
                upload.finish().await?;
                Ok(())
            })
            .await?,
            rate(async {
                let mut download = daemon.client.download(&digest, 0, 0).await?;
                while download.next().await?.is_some() {}
                Ok(())
            })
            .await?,
            rate(async {
                let mut found = plain.get_opts(&path, GetOptions::default()).await?.into_stream();
                while found.try_next().await?.is_some() {}
                Ok(())
            })
            .await?,
        ];
        // Neither has all of what the other left to do.
        plain.delete(&path).await?;
        for (all, rate) in [&mut up, &mut plain_up, &mut down, &mut plain_down].into_iter().zip(rates) {
            // The first round warms.
            all.extend((round > 0).then_some(rate));
        }
    }
    let row = |what: &str, ours, limit| Row {
        what: what.into(),
        unit: "MB/s",
        ours,
        limits: vec![("plain object_store", limit)],
        budget: 0.8,
    };
    Ok(vec![row("256 MiB into a bucket, gRPC", up, plain_up), row("256 MiB out of a bucket, gRPC", down, plain_down)])
}

async fn rate(work: impl Future<Output = Result<()>>) -> Result<f64> {
    let start = Instant::now();
    work.await?;
    Ok(BYTES as f64 / 1e6 / start.elapsed().as_secs_f64())
}
