//! Error -> gRPC status, with `google.rpc` details: the one place.

use std::time::Instant;

use provender_core::transition::Refused;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::backup::BackupError;
use crate::meta::MetaError;
use crate::metrics::Metrics;
use crate::store::StoreError;
use provender_blobs::BlobError;

/// The status that a backup's error becomes.
pub(super) fn backup_status(error: &BackupError) -> Status {
    let code = match error {
        BackupError::Store(error) => return status(error),
        BackupError::Relative { .. } | BackupError::Inside { .. } => Code::InvalidArgument,
        BackupError::Full { .. } => Code::ResourceExhausted,
        BackupError::Busy { .. } => Code::Unavailable,
        BackupError::Damaged { .. } => Code::DataLoss,
        BackupError::Io { .. } | BackupError::Blobs(_) => Code::Unavailable,
        _ => Code::FailedPrecondition,
    };
    let text = cut(error.to_string());
    let mut details = ErrorDetails::new();
    match code {
        Code::InvalidArgument => _ = details.add_bad_request_violation("dir", text.clone()),
        Code::ResourceExhausted => _ = details.add_quota_failure_violation("disk", text.clone()),
        _ => {}
    }
    tracing::warn!(?code, error = %text, "a backup failed");
    Status::with_error_details(code, text, details)
}

/// The status that a store's error becomes.
pub(super) fn status(error: &StoreError) -> Status {
    // A status travels in headers, which are bounded; what a client sent may be quoted in it.
    let text = cut(error.to_string());
    let mut details = ErrorDetails::new();
    let code = match error {
        StoreError::Invalid(invalid) => {
            details.add_bad_request_violation(invalid.field, cut(invalid.why.clone()));
            Code::InvalidArgument
        }
        StoreError::Tree { digest, source } => {
            details.add_bad_request_violation(format!("tree:{}", digest.hex()), source.to_string());
            Code::InvalidArgument
        }
        StoreError::NoFile { .. } => Code::Unimplemented,
        StoreError::TooLarge { .. } => Code::InvalidArgument,
        StoreError::NotFound { what } => {
            details.set_resource_info("provender", cut(what.clone()), "", text.clone());
            Code::NotFound
        }
        StoreError::Refused(Refused::Fenced { execution, key, .. }) => {
            details.add_precondition_failure_violation("FENCED", format!("{key} exec:{execution}"), text.clone());
            Code::Aborted
        }
        StoreError::Refused(Refused::Ended { execution, .. }) => {
            details.add_precondition_failure_violation("ENDED", format!("exec:{execution}"), text.clone());
            Code::FailedPrecondition
        }
        StoreError::Missing { missing, .. } => {
            for digest in missing {
                details.add_precondition_failure_violation("MISSING", format!("blob:{digest}"), "upload it first");
            }
            Code::FailedPrecondition
        }
        StoreError::Lost { .. } | StoreError::Row { .. } | StoreError::Blobs(BlobError::Corrupt { .. }) => {
            Code::DataLoss
        }
        StoreError::Contended { .. } | StoreError::Undecided { .. } | StoreError::Collecting | StoreError::Draining => {
            Code::Unavailable
        }
        StoreError::Full { .. } => Code::ResourceExhausted,
        StoreError::Meta(MetaError::Full { .. }) | StoreError::Blobs(BlobError::Full { .. }) => {
            details.add_quota_failure_violation("disk", text.clone());
            Code::ResourceExhausted
        }
        StoreError::Blobs(BlobError::Mismatch { .. } | BlobError::Short { .. }) => {
            details.add_bad_request_violation("digest", text.clone());
            Code::InvalidArgument
        }
        StoreError::Blobs(BlobError::Behind { .. }) => {
            details.add_precondition_failure_violation("OFFSET", "offset", text.clone());
            Code::FailedPrecondition
        }
        StoreError::Blobs(BlobError::NotFound { .. }) => Code::NotFound,
        StoreError::Cursor { .. } | StoreError::Blobs(BlobError::OutOfRange { .. }) => Code::OutOfRange,
        StoreError::Blobs(BlobError::Layout { .. }) => Code::FailedPrecondition,
        StoreError::Layout { .. }
        | StoreError::Migrating { .. }
        | StoreError::Restoring
        | StoreError::OtherBlobs { .. } => Code::FailedPrecondition,
        StoreError::Meta(MetaError::Corrupt { .. }) => Code::DataLoss,
        StoreError::Meta(_) | StoreError::Blobs(_) => Code::Unavailable,
    };
    if matches!(code, Code::DataLoss | Code::Unavailable | Code::ResourceExhausted) {
        tracing::warn!(?code, error = %text, "a call failed");
    }
    Status::with_error_details(code, text, details)
}

/// At most about a kilobyte of a text.
fn cut(mut text: String) -> String {
    const MOST: usize = 1_000;
    if text.len() > MOST {
        text.truncate(text.floor_char_boundary(MOST));
        text.push('…');
    }
    text
}

/// The status of a message that makes no sense.
pub(super) fn invalid(invalid: provender_proto::convert::Invalid) -> Status {
    status(&invalid.into())
}

/// Carries a call out, and counts it.
pub(super) async fn counted<T>(
    metrics: &Metrics,
    method: &'static str,
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<tonic::Response<T>, Status> {
    let began = Instant::now();
    let result = call.await.map_err(|error| status(&error));
    let code = result.as_ref().err().map_or(Code::Ok, Status::code);
    metrics.calls.with_label_values(&[method, &format!("{code:?}")]).observe(began.elapsed().as_secs_f64());
    result.map(tonic::Response::new)
}
