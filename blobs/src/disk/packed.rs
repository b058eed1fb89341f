//! A blob on its way to disk in frames.
//!
//! Owns [`DiskPacked`]. Invariants: those of [`super::staged`], whose file it writes. Hashing, packing and writing are one
//! job after the other, on one core, since nobody waits for it.

use async_trait::async_trait;
use bytes::Bytes;
use provender_core::Digest;
use provender_core::blob::Form;

use super::staging::StagingFile;
use crate::blocking::{Lent, blocking};
use crate::frames::Encoder;
use crate::{BlobError, CHUNK, Frames, HashFunction, Ingest, Published, Staged};

pub(super) struct DiskPacked {
    packer: Lent<Packer>,
    batch: Vec<Bytes>,
    batched: usize,
}

struct Packer {
    file: StagingFile,
    ingest: Ingest,
    encoder: Encoder,
}

impl DiskPacked {
    pub(super) fn new(file: StagingFile, aliases: &[HashFunction], frames: Frames) -> Result<DiskPacked, BlobError> {
        let packer = Packer { file, ingest: Ingest::new(aliases), encoder: Encoder::new(frames)? };
        Ok(DiskPacked { packer: Lent::new(packer), batch: Vec::new(), batched: 0 })
    }
}

#[async_trait]
impl Staged for DiskPacked {
    async fn write(&mut self, bytes: Bytes) -> Result<(), BlobError> {
        if self.batched + bytes.len() > CHUNK && self.batched > 0 {
            self.packer.settle().await?;
            let batch = std::mem::take(&mut self.batch);
            self.batched = 0;
            self.packer.lend(move |packer| packer.take(&batch));
        }
        self.batched += bytes.len();
        self.batch.push(bytes);
        Ok(())
    }

    async fn publish(self: Box<Self>, expected: Option<Digest>) -> Result<Published, BlobError> {
        let DiskPacked { packer, batch, .. } = *self;
        let packer = packer.take().await?;
        let unclaimed = blocking(move || {
            let Packer { file, ingest, encoder } = packer.take(&batch)?;
            let hashes = ingest.finish();
            hashes.check(expected)?;
            let mut rest = Vec::new();
            let stored = encoder.finish(&mut rest)?;
            file.append(&[rest.into()])?.publish(hashes, Form::Frames { stored })
        });
        Ok(unclaimed.await?.claim())
    }
}

impl Packer {
    fn take(mut self, pieces: &[Bytes]) -> Result<Packer, BlobError> {
        let mut packed = Vec::new();
        for piece in pieces {
            self.ingest.update(piece);
            self.encoder.push(piece, &mut packed)?;
        }
        self.file = self.file.append(&[packed.into()])?;
        Ok(self)
    }
}
