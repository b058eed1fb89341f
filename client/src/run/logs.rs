//! A command's output: stored after a run, replayed on a hit.

use std::sync::Arc;

use provender_core::execution::{Log, Outcome};

use super::RunError;
use crate::client::Client;
use crate::error::ClientError;
use crate::process;

/// Stores one stream.
pub(super) async fn store(client: &Client, log: &Arc<process::Log>) -> Result<Log, RunError> {
    let cut = log.dropped();
    let (log, hashing) = (log.clone(), log.clone());
    let digest = super::blocking(move || hashing.digest()).await?.map_err(RunError::Log)?;
    client.upload_reader(digest, "the command's output", move |send| send(&mut log.reader())).await?;
    Ok(Log { digest, cut })
}

/// Prints what an execution printed.
pub(super) async fn replay(client: &Client, outcome: &Outcome, quiet: bool) -> Result<(), RunError> {
    if quiet {
        return Ok(());
    }
    if let Some(log) = outcome.stdout.filter(|log| log.digest.size > 0) {
        client.copy(&log.digest, &mut std::io::stdout()).await?;
    }
    if let Some(log) = outcome.stderr.filter(|log| log.digest.size > 0) {
        // That standard error cannot be written to changes nothing.
        match client.copy(&log.digest, &mut std::io::stderr()).await {
            Err(ClientError::Write(_)) => {}
            copied => _ = copied?,
        }
    }
    Ok(())
}
