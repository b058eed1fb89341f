//! `provender.v1.Admin`: upkeep, for the daemon's own user.
//!
//! Invariant: over the unix socket only its owner (and root) is heard, whoever else may use the socket; over TCP the service stands
//! on protected listeners alone, which `routes` sees to.

mod gc;
mod pins;
mod usage;

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::Stream;
use provender_proto::convert::Invalid;
use provender_proto::v1;
use provender_proto::v1::admin_server::Admin;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::UdsConnectInfo;
use tonic::{Request, Response, Status};

use super::Front;
use super::pieces::Pieces;
use super::status::{backup_status, counted, invalid, status};
use crate::backup::{self, BackupError, KEEP, Phase, Progress, Summary, Telling};
use crate::store::{Verified, Verify};

/// How often progress is told at most.
const TELL: Duration = Duration::from_millis(200);
/// The most backups that can be asked to be kept.
const MOST_KEPT: u32 = 10_000;

type Reply = Result<v1::BackupReply, Status>;

/// What upkeep needs beyond the store.
#[derive(Debug, Clone)]
pub(super) struct Upkeep {
    pub(super) front: Front,
    /// Where the store itself is: no place for its backups.
    pub(super) own: Arc<[PathBuf]>,
}

#[tonic::async_trait]
impl Admin for Upkeep {
    type VerifyStream = Pin<Box<dyn Stream<Item = Result<v1::VerifyReply, Status>> + Send>>;

    async fn verify(&self, request: Request<v1::VerifyRequest>) -> Result<Response<Self::VerifyStream>, Status> {
        owner(&request)?;
        let v1::VerifyRequest { deep, bytes_per_second } = request.into_inner();
        let (store, draining) = (self.front.store.clone(), self.front.draining.clone());
        let (replies, stream) = mpsc::channel(2);
        tokio::spawn(async move {
            let mut told = Instant::now();
            let verifying = store.verify(Verify { deep, bytes_per_second }, |so_far| {
                if told.elapsed() >= TELL {
                    told = Instant::now();
                    // A reader that is slow misses some.
                    _ = replies.try_send(Ok(verified(so_far, false)));
                }
            });
            let ended = tokio::select! {
                () = replies.closed() => return,
                () = draining.cancelled() => Err(crate::store::StoreError::Draining),
                ended = verifying => ended,
            };
            _ = replies.send(ended.map(|all| verified(&all, true)).map_err(|error| status(&error))).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn pin(&self, request: Request<v1::PinRequest>) -> Result<Response<v1::PinReply>, Status> {
        owner(&request)?;
        let store = &self.front.store;
        counted(store.metrics(), "Pin", pins::pin(store, request.into_inner())).await
    }

    async fn unpin(&self, request: Request<v1::UnpinRequest>) -> Result<Response<v1::UnpinReply>, Status> {
        owner(&request)?;
        let store = &self.front.store;
        counted(store.metrics(), "Unpin", pins::unpin(store, request.into_inner())).await
    }

    async fn list_pins(&self, request: Request<v1::ListPinsRequest>) -> Result<Response<v1::ListPinsReply>, Status> {
        owner(&request)?;
        let store = &self.front.store;
        counted(store.metrics(), "ListPins", pins::list(store, request.into_inner())).await
    }

    type PlanGcStream = Pieces<v1::GcReply>;

    async fn plan_gc(&self, request: Request<v1::GcRequest>) -> Result<Response<Self::PlanGcStream>, Status> {
        owner(&request)?;
        Ok(Response::new(gc::gc(&self.front.store, &self.front.draining, true)))
    }

    type RunGcStream = Pieces<v1::GcReply>;

    async fn run_gc(&self, request: Request<v1::GcRequest>) -> Result<Response<Self::RunGcStream>, Status> {
        owner(&request)?;
        tracing::info!("collecting, as asked");
        Ok(Response::new(gc::gc(&self.front.store, &self.front.draining, false)))
    }

    type UsageStream = Pieces<v1::UsageReply>;

    async fn usage(&self, request: Request<v1::UsageRequest>) -> Result<Response<Self::UsageStream>, Status> {
        owner(&request)?;
        let usage = usage::usage(&self.front.store, &self.front.draining, request.get_ref());
        Ok(Response::new(usage.map_err(|error| status(&error))?))
    }

    type BackupStream = Pin<Box<dyn Stream<Item = Reply> + Send>>;

    async fn backup(&self, request: Request<v1::BackupRequest>) -> Result<Response<Self::BackupStream>, Status> {
        owner(&request)?;
        let v1::BackupRequest { dir, keep } = request.into_inner();
        if keep > MOST_KEPT {
            return Err(invalid(Invalid::new("keep", format!("{keep} is more than {MOST_KEPT}"))));
        }
        let keep = if keep == 0 { KEEP } else { keep as usize };
        let store = self.front.store.clone();
        let own = self.own.clone();
        let failed = |error: BackupError| backup_status(&error);
        let id = store.id().await.map_err(|error| failed(error.into()))?;
        let target = backup::open(&PathBuf::from(dir), &id, &own).await.map_err(failed)?;
        let (replies, stream) = mpsc::channel(2);
        let draining = self.front.draining.clone();
        tokio::spawn(async move {
            let told = Telling::default();
            let taken = backup::take(&store, &target.folder, &target.blobs, keep, &told);
            tokio::pin!(taken);
            let ended = loop {
                tokio::select! {
                    // Who asked has gone: the next one goes on from here.
                    () = replies.closed() => return,
                    () = draining.cancelled() => break Err(crate::store::StoreError::Draining.into()),
                    taken = &mut taken => break taken,
                    () = tokio::time::sleep(TELL) => {
                        // A reader that is slow misses some.
                        _ = replies.try_send(Ok(progress(*told.borrow())));
                    }
                }
            };
            let last = ended.map(|summary| done(&summary, *told.borrow())).map_err(|error| backup_status(&error));
            _ = replies.send(last).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

fn verified(so_far: &Verified, done: bool) -> v1::VerifyReply {
    let Verified { blobs, bytes, read, lost, found, rows, outboards, mended, damaged, ref damage } = *so_far;
    let damage = if done { damage.clone() } else { Vec::new() };
    v1::VerifyReply { blobs, bytes, read, lost, found, done, rows, outboards, mended, damaged, damage }
}

/// Refuses those who reach the socket by their group.
fn owner<T>(request: &Request<T>) -> Result<(), Status> {
    let Some(peer) = request.extensions().get::<UdsConnectInfo>() else { return Ok(()) };
    let own = rustix::process::geteuid().as_raw();
    match peer.peer_cred.map(|peer| peer.uid()) {
        Some(uid) if uid == own || uid == 0 => Ok(()),
        _ => Err(Status::permission_denied("upkeep is for the daemon's own user: ask as that one, or as root")),
    }
}

fn progress(progress: Progress) -> v1::BackupReply {
    let phase = match progress.phase {
        Phase::Rows => v1::BackupPhase::Rows,
        Phase::Blobs => v1::BackupPhase::Blobs,
        Phase::Pruning => v1::BackupPhase::Pruning,
    };
    let Progress { rows, blobs, blobs_total, bytes, bytes_total, .. } = progress;
    v1::BackupReply { phase: phase.into(), rows, blobs, blobs_total, bytes, bytes_total, summary: None }
}

fn done(summary: &Summary, last: Progress) -> v1::BackupReply {
    let (blobs, bytes) = summary.manifest.totals.all_blobs();
    let told = v1::BackupSummary {
        number: summary.number,
        taken_ms: summary.taken().millis(),
        rows: summary.manifest.totals.rows,
        blobs,
        bytes,
        copied_blobs: summary.copied,
        written_bytes: summary.written,
        lost: summary.lost(),
        kept: summary.kept.clone(),
    };
    v1::BackupReply { phase: v1::BackupPhase::Done.into(), summary: Some(told), ..progress(last) }
}
