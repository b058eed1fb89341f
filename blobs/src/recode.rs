//! Storing a blob anew in another form.
//!
//! Invariant: what is stored anew was checked on its way against the digest, and the old copy stays, whatever happens. It
//! must not know which blobs are worth it, nor who refers to them.

use std::time::Duration;

use futures::TryStreamExt;

use crate::blocking::blocking;
use crate::frames::Encoder;
use crate::outboard::GROUP;
use crate::{BlobError, Blobs, Frames, Location, Published, StageOptions, verified};

/// How many places of a blob are looked at, a group each.
const SAMPLES: u64 = 8;
/// The most bytes that [`compresses`] reads.
pub const SAMPLED: u64 = SAMPLES * GROUP;
/// Fewer bytes are packed where they are, in less time than it takes to hand them to another thread.
const INLINE: u64 = 32 * 1024;

/// Whether parts of a blob come to at most `percent` of their size in frames of this level: an estimate that reads
/// [`SAMPLED`] bytes at most.
pub async fn compresses(blobs: &dyn Blobs, location: &Location, level: i32, percent: u64) -> Result<bool, BlobError> {
    let size = location.digest.size;
    // Spread evenly, from the begin to the end.
    let apart = size.saturating_sub(GROUP) / (SAMPLES - 1);
    let (places, len) = if apart < GROUP { (1, size) } else { (SAMPLES, GROUP) };
    let mut samples = Vec::new();
    for n in 0..places {
        samples.push(blobs.open(location, n * apart..n * apart + len).await?.into_bytes().await?);
    }
    let sampled = samples.iter().map(|sample| sample.len() as u64).sum();
    let pack = move || {
        let mut out = Vec::new();
        let mut encoder = Encoder::new(Frames { size: sampled, level, most: sampled / 100 * percent })?;
        let packed = samples.iter().try_for_each(|sample| encoder.push(sample, &mut out));
        match packed.and_then(|()| encoder.finish(&mut out)) {
            Ok(_) => Ok(true),
            Err(BlobError::Incompressible { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    };
    if sampled < INLINE { pack() } else { blocking(pack).await }
}

/// Stores a blob anew, in `frames` or as it is, at a fresh location.
///
/// `rest` is told how many bytes were taken since it was last asked, and says how long to rest. Fails as reading does, as
/// storing does, and with [`BlobError::Incompressible`] if frames come to more than they may.
pub async fn recode(
    blobs: &dyn Blobs,
    location: &Location,
    frames: Option<Frames>,
    mut rest: impl FnMut(usize) -> Duration + Send,
) -> Result<Published, BlobError> {
    let mut reader = verified(*location, blobs.open(location, 0..location.digest.size).await?);
    let options = StageOptions {
        size_hint: Some(location.digest.size),
        announced: Some(location.digest),
        frames,
        ..StageOptions::default()
    };
    let mut staged = blobs.stage(options).await?;
    while let Some(chunk) = reader.try_next().await? {
        let len = chunk.len();
        staged.write(chunk).await?;
        tokio::time::sleep(rest(len)).await;
    }
    staged.publish(Some(location.digest)).await
}
