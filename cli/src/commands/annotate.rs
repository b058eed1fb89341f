//! `provender annotate`, and what `run --label` and `--note` say.

use std::process::ExitCode;

use provender_client::Described;
use provender_core::json;
use provender_core::remarks::{self, Remark, Remarks};

use super::Session;
use crate::args;
use crate::fault::Fault;
use crate::print;

pub(crate) async fn annotate(session: &Session, args: args::Annotate) -> Result<ExitCode, Fault> {
    let labels = args.labels.into_iter().collect();
    let remark = Remark { labels, remove: args.remove, note: args.note };
    if remark == Remark::default() {
        return Err(Fault::usage("there is nothing to say: give --label, --remove or --note"));
    }
    let client = session.client().await?;
    let (described, attempt) = super::newest(&client, &args.reference).await?;
    let Described::Task(task) = described else {
        return Err(Fault::no(format!("{} is no execution: only these have labels and notes", args.reference)));
    };
    if let Some(attempt) = attempt {
        session.say(format!("{} has no success; this is its newest attempt, exec:{attempt}", args.reference));
    }
    let execution = client.annotate(task.execution.id, &remark).await?;
    match session.json {
        true => print::document(&json::execution(&execution))?,
        false => print::line(print::remarks(&execution.remarks, &format!("exec:{}", execution.id)))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// What is said of an execution that begins.
pub(super) fn first(args: args::Remarks) -> Result<Remarks, Fault> {
    let remark = Remark { labels: args.labels.into_iter().collect(), remove: Vec::new(), note: args.note };
    Remarks::default().with(&remark).map_err(|error: remarks::RemarkError| Fault::usage(error))
}
