//! `provender ls`.

use std::process::ExitCode;

use bytes::Bytes;
use provender_client::Named;
use provender_core::execution::State;
use provender_core::json;
use serde_json::json;

use super::Session;
use crate::args::Ls;
use crate::fault::Fault;
use crate::print;

pub(crate) async fn ls(session: &Session, args: Ls) -> Result<ExitCode, Fault> {
    if !args.conditions.is_empty() {
        return search(session, args).await;
    }
    let client = session.client().await?;
    let mut after = String::new();
    loop {
        let (names, more) = client.names(&args.prefix, &after).await?;
        for named in &names {
            let state = named.last.as_ref().map(|last| last.state);
            if args.failed && !matches!(state, Some(State::Failed | State::Abandoned)) {
                continue;
            }
            row(session, named)?;
        }
        match names.last() {
            Some(last) if more && last.name > after => after = last.name.clone(),
            _ if more => return Err(Fault::ours("the daemon gives the same page of names again and again")),
            _ => return Ok(ExitCode::SUCCESS),
        }
    }
}

/// The executions of which conditions hold.
async fn search(session: &Session, args: Ls) -> Result<ExitCode, Fault> {
    let client = session.client().await?;
    let (mut cursor, mut left) = (Some(Bytes::new()), args.limit.unwrap_or(u64::MAX));
    let mut any = false;
    while let (Some(from), true) = (cursor.take(), left > 0) {
        let (size, before) = (u32::try_from(left.min(1_000)).unwrap_or(1_000), from.clone());
        let (executions, next) = client.search(&args.conditions, &args.prefix, args.failed, from, size).await?;
        for execution in &executions {
            any = true;
            match session.json {
                true => print::item(&json::execution(execution))?,
                false => print::line(print::named_row(execution))?,
            }
        }
        // Pages that found nothing yet move on all the same.
        if next.as_ref() == Some(&before) {
            return Err(Fault::ours("the daemon gives the same page of the search again and again"));
        }
        left = left.saturating_sub(executions.len() as u64);
        cursor = next;
    }
    if !any {
        session.say("nothing is found of which that holds");
    }
    Ok(ExitCode::SUCCESS)
}

fn row(session: &Session, named: &Named) -> Result<(), Fault> {
    if session.json {
        return print::item(&json!({
            "v": json::V,
            "name": named.name,
            "latest": named.latest.as_ref().map(json::execution),
            "last": named.last.as_ref().map(json::execution),
        }));
    }
    // A hit leaves no attempt, so that a name can have a success and no attempt of its own.
    let shown = named.last.as_ref().or(named.latest.as_ref());
    let verdict = shown.map_or("-", |execution| execution.state.verdict().as_str());
    let when = shown.map(|execution| execution.ended.unwrap_or(execution.began).to_string()).unwrap_or_default();
    let older = match (&named.latest, &named.last) {
        (Some(latest), Some(last)) if last.state != State::Succeeded => {
            format!("  (latest success {})", latest.ended.unwrap_or(latest.began))
        }
        _ => String::new(),
    };
    print::line(format!("{verdict:<10} {when:<24} {}{older}", named.name))
}
