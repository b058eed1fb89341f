//! `provender status`.

use std::process::ExitCode;

use provender_client::{ClientError, Described};
use provender_core::{Answer, Ref, Verdict, json};
use serde_json::json;

use super::Session;
use crate::args::Status;
use crate::fault::{Fault, NO};
use crate::print;

pub(crate) async fn status(session: &Session, args: Status) -> Result<ExitCode, Fault> {
    let client = session.client().await?;
    let mut all = true;
    for reference in &args.keys {
        let mut diverges_from = None;
        let key = match reference {
            Ref::Key(key) => Some(key.clone()),
            other => match client.describe(other).await {
                Ok(Described::Task(task)) => {
                    diverges_from = task.execution.diverges_from;
                    Some(task.execution.key)
                }
                Ok(Described::Registered(registered)) => Some(registered.key),
                Ok(_) => return Err(Fault::no(format!("{other} is no task: a status is one of a key"))),
                // Without a success a name stands for what was last attempted under it.
                Err(ClientError::NotFound(_)) => match other {
                    Ref::Name { name, nth: None } => {
                        let (newest, _) = client.history(Ok(name.as_str()), false, Default::default(), 1).await?;
                        newest.into_iter().next().map(|execution| execution.key)
                    }
                    _ => None,
                },
                Err(error) => return Err(error.into()),
            },
        };
        let answer = match &key {
            Some(key) => client.lookup(std::slice::from_ref(key)).await?.pop(),
            None => None,
        };
        let answer = answer.unwrap_or_else(|| Answer::unknown("nothing of that name is recorded"));
        all &= answer.verdict == Verdict::Succeeded;
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
            let reason = if answer.reason.is_empty() { String::new() } else { format!(" ({})", answer.reason) };
            print::line(format!("{:<11} {reference}{execution}{reason}", answer.verdict))?;
        }
    }
    Ok(if all { ExitCode::SUCCESS } else { NO.into() })
}
