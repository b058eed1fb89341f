//! `provender status`.

use std::process::ExitCode;

use provender_client::{Client, ClientError, Described};
use provender_core::{Answer, ExecutionId, Ref, TaskKey, json};
use serde_json::json;

use super::Session;
use crate::args::Status;
use crate::fault::{Fault, NO};
use crate::print;

pub(crate) async fn status(session: &Session, args: Status) -> Result<ExitCode, Fault> {
    let client = session.client().await?;
    let mut asked = Vec::with_capacity(args.keys.len());
    for reference in &args.keys {
        asked.push(resolve(&client, reference).await?);
    }
    // However many they are, they are looked up in one go.
    let keys: Vec<_> = asked.iter().filter_map(|(key, _)| key.clone()).collect();
    let mut answers = client.lookup(&keys).await?.into_iter();
    let mut all = true;
    for (reference, (key, diverges_from)) in args.keys.iter().zip(asked) {
        let answer = key.as_ref().and_then(|_| answers.next());
        let answer = answer.unwrap_or_else(|| Answer::unknown("nothing of that name is recorded"));
        all &= answer.verdict == provender_core::Verdict::Succeeded;
        if session.json {
            print::item(&json!({
                "v": json::V,
                "ref": reference.to_string(),
                "key": key.map(|key| key.to_string()),
                "verdict": answer.verdict.as_str(),
                "execution": answer.execution.map(|id| id.to_string()),
                "diverges_from": diverges_from.map(|id| id.to_string()),
                "outputs": answer.outputs.as_ref().map(json::digest),
                "at": answer.at.map(|at| at.to_string()),
                "blob": answer.blob.as_ref().map(json::digest),
                "rule": answer.rule,
                "reason": Some(answer.reason).filter(|reason| !reason.is_empty()),
            }))?;
        } else {
            let execution = answer.execution.map(|id| format!(" exec:{id}")).unwrap_or_default();
            let reason = print::clean(&answer.reason);
            let reason = if reason.is_empty() { reason } else { format!(" ({reason})") };
            print::line(format!("{:<11} {reference}{execution}{reason}", answer.verdict))?;
        }
    }
    Ok(if all { ExitCode::SUCCESS } else { NO.into() })
}

/// The key that is meant, and what its execution diverges from.
async fn resolve(client: &Client, reference: &Ref) -> Result<(Option<TaskKey>, Option<ExecutionId>), Fault> {
    let name = match reference {
        Ref::Key(key) => return Ok((Some(key.clone()), None)),
        Ref::Name { name, nth: None } => Some(name),
        _ => None,
    };
    match client.describe(reference).await {
        Ok(Described::Task(task)) => Ok((Some(task.execution.key), task.execution.diverges_from)),
        Ok(Described::Registered(registered)) => Ok((Some(registered.key), None)),
        Ok(_) => Err(Fault::no(format!("{reference} is no task: a status is one of a key"))),
        // Without a success a name stands for what was last attempted under it.
        Err(ClientError::NotFound(_)) => match name {
            Some(name) => {
                let (newest, _) = client.history(Ok(name.as_str()), false, Default::default(), 1).await?;
                Ok((newest.into_iter().next().map(|execution| execution.key), None))
            }
            None => Ok((None, None)),
        },
        Err(error) => Err(error.into()),
    }
}
