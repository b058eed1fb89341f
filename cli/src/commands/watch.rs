//! `provender watch`.

use std::process::ExitCode;

use provender_client::{Heard, Watch};
use provender_core::event::Event;
use provender_core::{Ref, json};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::Session;
use crate::args;
use crate::fault::Fault;
use crate::print;

pub(crate) async fn watch(session: &Session, args: args::Watch) -> Result<ExitCode, Fault> {
    let mut watch = Watch { cursor: args.from, ..Watch::default() };
    for what in args.what {
        match what.parse() {
            Ok(Ref::Key(key)) => watch.keys.push(key),
            // Only the beginning of a name: what stands there need not be one by itself.
            _ => watch.prefixes.push(what.strip_prefix("name:").unwrap_or(&what).to_owned()),
        }
    }
    if watch.keys.is_empty() && watch.prefixes.is_empty() {
        watch.prefixes.push(String::new());
    }
    let caught = |kind| signal(kind).map_err(|error| Fault::ours(format!("cannot catch signals: {error}")));
    let (mut interrupt, mut terminate) = (caught(SignalKind::interrupt())?, caught(SignalKind::terminate())?);
    let told = async {
        let mut watching = session.client().await?.watch(watch);
        loop {
            match watching.next().await? {
                Heard::Event(event, cursor) => show(session, &event, cursor.as_deref())?,
                Heard::Reached(_) => {}
                Heard::Away(error) => session.say(format!("{error}; asking again until it is back")),
            }
        }
    };
    tokio::select! {
        ended = told => ended,
        _ = interrupt.recv() => Ok(ExitCode::SUCCESS),
        _ = terminate.recv() => Ok(ExitCode::SUCCESS),
    }
}

fn show(session: &Session, event: &Event, cursor: Option<&str>) -> Result<(), Fault> {
    let name = event.name.as_ref().map(|name| name.as_str());
    if session.json {
        return print::item(&json!({
            "v": json::V,
            "key": event.key.as_str(),
            "name": name,
            "verdict": event.verdict.as_str(),
            "execution": event.execution.map(|id| id.to_string()),
            "reason": Some(&event.reason).filter(|reason| !reason.is_empty()),
            "at": event.at.to_string(),
            "cursor": cursor,
        }));
    }
    let reason = if event.reason.is_empty() { String::new() } else { format!("  {}", print::clean(&event.reason)) };
    let name = name.map(|name| format!("  {name}")).unwrap_or_default();
    print::line(format!("{} {:<11} {}{name}{reason}", event.at, event.verdict, event.key))
}
