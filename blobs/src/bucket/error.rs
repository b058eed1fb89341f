//! What a bucket refuses, as what that means here.
//!
//! Invariant: whatever is not an answer about an object says nothing of what is there ([`BlobError::Unavailable`]).

use std::io;
use std::sync::Arc;

use crate::BlobError;

/// What is to be done about what servers refuse, by their code for it
/// (<https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>).
const ADVICE: &[(&str, &str)] = &[
    ("NoSuchBucket", "there is no such bucket: create it, or correct `url`"),
    ("InvalidAccessKeyId", "it does not know the access key: correct the credentials"),
    ("SignatureDoesNotMatch", "the secret key is not that of the access key: correct the credentials"),
    ("ExpiredToken", "the credentials have expired: get new ones, and start the daemon anew"),
    ("InvalidToken", "the session token is not valid: get new credentials, and start the daemon anew"),
    ("RequestTimeTooSkewed", "this machine's clock is far from the server's: set it"),
    ("AccessDenied", "the credentials may not do that: allow to get, put, delete and list objects below `url`"),
    ("PermanentRedirect", "the bucket is in another region: set `region` in `options`"),
    ("AuthorizationHeaderMalformed", "the region may be another one: set `region` in `options`"),
];
/// A bucket that takes no more.
const FULL: &[&str] = &["QuotaExceeded", "InsufficientStorage", "XMinioStorageFull"];

/// The bucket at `store` did not do what it was asked.
pub(super) fn failed(store: &str, doing: &'static str, error: object_store::Error) -> BlobError {
    let (store, text) = (store.to_owned(), chain(&error));
    let code = code(&text).unwrap_or_default();
    if FULL.contains(&code) {
        return BlobError::Full { store, doing, source: io::Error::other(text) };
    }
    let refused =
        matches!(error, object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. });
    let why = match ADVICE.iter().find(|(known, _)| *known == code) {
        Some((_, advice)) => format!("cannot {doing} ({code}): {advice}"),
        None if refused => {
            format!("cannot {doing}: it refuses the credentials; correct them, or what they may do ({text})")
        }
        None => format!("cannot {doing}: {text}"),
    };
    BlobError::Unavailable { store, why }
}

/// The same error, for one more of those who share it.
pub(super) fn again(error: &Arc<BlobError>) -> BlobError {
    let shared = || io::Error::other(error.clone());
    match &**error {
        BlobError::Unavailable { store, why } => BlobError::Unavailable { store: store.clone(), why: why.clone() },
        BlobError::Full { store, doing, .. } => BlobError::Full { store: store.clone(), doing, source: shared() },
        BlobError::Io { store, doing, .. } => BlobError::Io { store: store.clone(), doing, source: shared() },
        _ => BlobError::Abandoned { why: "it shared a transfer that failed" },
    }
}

/// The code that a server gave.
fn code(text: &str) -> Option<&str> {
    text.split_once("<Code>")?.1.split_once("</Code>").map(|(code, _)| code)
}

/// All that there is to know of an error, each thing once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}
