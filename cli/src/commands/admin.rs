//! `provender admin`: upkeep.

use std::process::ExitCode;

use provender_client::{BackupPhase, BackupProgress, BackupSummary};
use provender_core::json;
use serde_json::json;

use super::Session;
use crate::args;
use crate::fault::Fault;
use crate::print;

pub(crate) async fn admin(session: &Session, what: args::Admin) -> Result<ExitCode, Fault> {
    match what {
        args::Admin::Backup(what) => backup(session, what).await,
    }
}

async fn backup(session: &Session, what: args::Backup) -> Result<ExitCode, Fault> {
    // The folder is the daemon's, but who gives a relative path means his own.
    let dir =
        std::path::absolute(&what.dir).map_err(|error| Fault::usage(format!("{}: {error}", what.dir.display())))?;
    let client = session.client().await?;
    let bar = print::bytes_bar("backing up", session.quiet || session.json);
    let summary = client.backup(&dir, what.keep, |progress| show(&bar, &progress)).await;
    bar.finish_and_clear();
    let BackupSummary { number, taken, rows, blobs, bytes, copied, written, lost, kept } = summary?;
    if session.json {
        print::document(&json!({
            "v": json::V,
            "number": number,
            "dir": dir.display().to_string(),
            "taken": taken.to_string(),
            "rows": rows,
            "blobs": blobs,
            "bytes": bytes,
            "copied": copied,
            "written": written,
            "lost": lost,
            "kept": kept,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let (rows, blobs) = (print::count(rows, "row"), print::count(blobs, "blob"));
    let (bytes, written) = (print::size(bytes), print::size(written));
    print::line(format!("backup {number} of {taken}: {rows}, {blobs} ({bytes}); {written} were new"))?;
    if lost > 0 {
        session.say(format!("{} are LOST in the store, and the backup is without them", print::count(lost, "blob")));
    }
    Ok(ExitCode::SUCCESS)
}

fn show(bar: &indicatif::ProgressBar, progress: &BackupProgress) {
    match progress.phase {
        BackupPhase::Rows => bar.set_message(format!("{} read", print::count(progress.rows, "row"))),
        BackupPhase::Blobs => {
            let BackupProgress { blobs, blobs_total, bytes, bytes_total, .. } = *progress;
            bar.set_message(format!("blob {blobs} of {blobs_total}, of {}", print::size(bytes_total)));
            bar.set_position(bytes);
        }
        BackupPhase::Pruning => bar.set_message("removing what only old backups needed"),
    }
}
