//! `provender put`.

use std::process::ExitCode;

use provender_client::put::{self, PutError};
use provender_core::json;
use provender_core::tree::Node;
use serde_json::json;

use super::{Session, executor, hash_cache};
use crate::args::Put;
use crate::fault::Fault;
use crate::print;

pub(crate) async fn put(session: &Session, args: Put) -> Result<ExitCode, Fault> {
    let client = session.client().await?;
    let bar = print::bytes_bar("storing", session.quiet);
    let executor = executor("provender put");
    let progress = |bytes| bar.inc(bytes);
    let done = put::put(&client, &args.path, args.name.as_ref(), &executor, hash_cache(), &progress).await;
    bar.finish_and_clear();
    let done = done.map_err(fault)?;
    let reference = match &done.node {
        Node::Directory { digest } => format!("tree:{}", digest.hex()),
        Node::File { digest, .. } => format!("blob:{}", digest.hex()),
        Node::Symlink { .. } => String::new(),
    };
    if session.json {
        print::document(&json!({
            "v": json::V,
            "ref": reference,
            "node": json::node(&done.node),
            "files": done.counts.files,
            "bytes": done.counts.bytes,
            "sent": done.sent,
            "record": done.execution.as_ref().map(json::execution),
            "until": done.until.map(|until| until.to_string()),
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    print::line(&reference)?;
    let what = format!(
        "{}, {}, {} sent",
        print::count(done.counts.files, "file"),
        print::size(done.counts.bytes),
        print::size(done.sent)
    );
    match (&args.name, done.until) {
        (Some(name), _) => session.say(format!("stored as {name} ({what})")),
        (None, Some(until)) => session.say(format!("stored, kept until {until} ({what}); --name keeps it for good")),
        (None, None) => session.say(format!("stored ({what})")),
    }
    Ok(ExitCode::SUCCESS)
}

fn fault(error: PutError) -> Fault {
    match error {
        PutError::Client(error) => error.into(),
        PutError::Internal(_) | PutError::Busy(_) => Fault::ours(error),
        other => Fault::no(other),
    }
}
