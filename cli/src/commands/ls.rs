//! `provender ls`.

use std::process::ExitCode;

use provender_client::Named;
use provender_core::execution::State;
use provender_core::json;
use serde_json::json;

use super::Session;
use crate::args::Ls;
use crate::fault::Fault;
use crate::print;

pub(crate) async fn ls(session: &Session, args: Ls) -> Result<ExitCode, Fault> {
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
