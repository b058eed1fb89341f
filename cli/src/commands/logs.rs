//! `provender logs`.

use std::process::ExitCode;
use std::time::Duration;

use provender_client::process::MAX_LOG;
use provender_client::{ClientError, Described};
use provender_core::Ref;
use provender_core::execution::State;
use serde_json::json;

use super::{Session, never_attempted, newest};
use crate::args::Logs;
use crate::fault::Fault;
use crate::print;

/// How often a run that is under way is asked for.
const POLL: Duration = Duration::from_millis(500);

pub(crate) async fn logs(session: &Session, args: Logs) -> Result<ExitCode, Fault> {
    let client = session.client().await?;
    let mut reference = args.reference;
    let execution = loop {
        let task = match newest(&client, &reference).await?.0 {
            Described::Task(task) => task,
            Described::Registered(_) => return Err(never_attempted(&reference)),
            Described::Blob(_) | Described::Tree(_) => {
                return Err(Fault::no(format!("{reference} is no run and has no logs")));
            }
        };
        if task.execution.state != State::Running {
            break task.execution;
        }
        if !args.follow {
            return Err(Fault::no(format!("exec:{} is still running; -f waits for it", task.execution.id)));
        }
        reference = Ref::Execution(task.execution.id);
        tokio::time::sleep(POLL).await;
    };
    let streams = [("stdout", execution.outcome.stdout), ("stderr", execution.outcome.stderr)];
    for (name, log) in streams {
        let Some(log) = log.filter(|log| log.digest.size > 0) else { continue };
        if session.json {
            let bytes = client.bytes(&log.digest, MAX_LOG).await?;
            let text = provender_core::json::bytes(&bytes);
            print::item(&json!({ "v": provender_core::json::V, "stream": name, "data": text, "cut": log.cut }))?;
        } else if name == "stdout" {
            client.copy(&log.digest, &mut std::io::stdout()).await?;
        } else {
            match client.copy(&log.digest, &mut std::io::stderr()).await {
                Err(ClientError::Write(source)) => {
                    return Err(Fault::ours(format!("cannot write to standard error: {source}")));
                }
                copied => _ = copied?,
            }
        }
    }
    if execution.outcome.stdout.is_none() && execution.outcome.stderr.is_none() {
        session.say(format!("exec:{} left no logs ({})", execution.id, execution.reason.unwrap_or_default()));
    }
    Ok(ExitCode::SUCCESS)
}
