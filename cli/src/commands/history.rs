//! `provender history`.

use std::process::ExitCode;

use bytes::Bytes;
use provender_core::{Ref, json};

use super::Session;
use crate::args::History;
use crate::fault::Fault;
use crate::print;

pub(crate) async fn history(session: &Session, args: History) -> Result<ExitCode, Fault> {
    let client = session.client().await?;
    let of = match &args.of {
        Ref::Name { name, nth: None } => Ok(name.as_str()),
        Ref::Key(key) => Err(key),
        other => return Err(Fault::usage(format!("{other}: a history is one of a name or a key"))),
    };
    let (mut cursor, mut left) = (Some(Bytes::new()), args.limit);
    let mut any = false;
    while let (Some(from), true) = (cursor.take(), left > 0) {
        let page = u32::try_from(left.min(1_000)).unwrap_or(1_000);
        let before = from.clone();
        let (executions, next) = client.history(of, args.failed, from, page).await?;
        for execution in &executions {
            any = true;
            match session.json {
                true => print::item(&json::execution(execution))?,
                false => print::line(print::execution_row(execution))?,
            }
        }
        if next.is_some() && (executions.is_empty() || next.as_ref() == Some(&before)) {
            return Err(Fault::ours("the daemon gives the same page of the history again and again"));
        }
        left = left.saturating_sub(executions.len() as u64);
        cursor = next;
    }
    match any || args.failed {
        true => Ok(ExitCode::SUCCESS),
        false => Err(Fault::no(format!("nothing of {} is recorded", args.of))),
    }
}
