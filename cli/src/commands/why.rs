//! `provender why`, and what `run --why` and `dag run --why` say.

use std::process::ExitCode;

use provender_client::Described;
use provender_core::Ref;
use provender_core::explain::{self, Explanation, document};

use super::Session;
use crate::args::Why;
use crate::fault::Fault;
use crate::print;

pub(crate) async fn why(session: &Session, args: Why) -> Result<ExitCode, Fault> {
    let client = session.client().await?;
    let explained = match args.reference {
        Ref::Key(key) => client.explain(&[(key, None)]).await?,
        Ref::Name { name, nth: None } => client.explain_name(&name).await?,
        other => match client.describe(&other).await? {
            Described::Task(task) => client.explain(&[(task.execution.key, None)]).await?,
            _ => {
                return Err(Fault::no(format!("{other} is no task: only a key, a name or an execution has a verdict")));
            }
        },
    };
    for of in &explained {
        match session.json {
            true => print::document(&document::explanation(of))?,
            false => print::lines(explain::lines(of, print::size).into_iter())?,
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What `run --why` says before it runs.
pub(super) fn note(session: &Session, of: &Explanation) {
    match session.json {
        true => print::note(document::explanation(of)),
        false => explain::lines(of, print::size).iter().for_each(|line| print::note(format_args!("provender: {line}"))),
    }
}
