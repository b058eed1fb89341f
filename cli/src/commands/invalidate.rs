//! `provender invalidate`, and `provender evict`, which asks the same way.

use std::process::ExitCode;

use provender_client::{Client, Described, Invalidate};
use provender_core::key::TaskKey;
use provender_core::transition::invalidate::Voided;
use provender_core::{Ref, Verdict, json};
use serde_json::json;

use super::{Session, executor};
use crate::args;
use crate::fault::{Fault, NO};
use crate::print;

pub(crate) async fn invalidate(session: &Session, args: args::Invalidate) -> Result<ExitCode, Fault> {
    let what = Invalidate {
        conditions: args.conditions,
        downstream: args.downstream,
        dry_run: args.dry_run,
        reason: args.reason.unwrap_or_default(),
        by: executor("provender invalidate"),
        ..Invalidate::default()
    };
    void(session, args.references, what).await
}

pub(crate) async fn evict(session: &Session, args: args::Evict) -> Result<ExitCode, Fault> {
    let what = Invalidate {
        conditions: args.conditions,
        evict: true,
        dry_run: args.dry_run,
        reason: args.reason.unwrap_or_default(),
        by: executor("provender evict"),
        ..Invalidate::default()
    };
    void(session, args.references, what).await
}

async fn void(session: &Session, references: Vec<Ref>, mut what: Invalidate) -> Result<ExitCode, Fault> {
    let client = session.client().await?;
    for reference in references {
        match reference {
            Ref::Key(key) => what.keys.push(key),
            Ref::Name { name, nth: None } => what.names.push(name),
            other => what.keys.push(key_of(&client, &other).await?),
        }
    }
    let (does, dry_run) = (if what.evict { Verdict::Evicted } else { Verdict::Invalidated }, what.dry_run);
    let (mut any, searched) = (false, !what.conditions.is_empty());
    let truncated = client
        .invalidate(what, |voided| {
            // What was void before is as it was asked to be.
            any |= changed(&voided) || voided.verdict == does;
            show(session, &voided, does, dry_run)
        })
        .await?;
    if truncated {
        return Err(Fault::no("there is more than is walked to at once; invalidate some of it by itself"));
    }
    if !any && searched {
        session.say("no record was made by an execution of which that holds");
    }
    Ok(if any { ExitCode::SUCCESS } else { NO.into() })
}

/// The key of which this execution is the record, or is at it.
async fn key_of(client: &Client, reference: &Ref) -> Result<TaskKey, Fault> {
    let Described::Task(task) = client.describe(reference).await? else {
        return Err(Fault::usage(format!("{reference} is no task: give a key, a name or an execution")));
    };
    let key = task.execution.key;
    let answer = client.lookup(std::slice::from_ref(&key)).await?.pop();
    match answer.filter(|answer| answer.execution == Some(task.execution.id)) {
        Some(_) => Ok(key),
        None => Err(Fault::no(format!("{reference} is not what stands for {key}; to mean that, give the key"))),
    }
}

fn changed(voided: &Voided) -> bool {
    voided.record.is_some() || voided.withdrawn.is_some()
}

fn show(session: &Session, voided: &Voided, does: Verdict, dry_run: bool) -> Result<(), Fault> {
    let (key, name) = (voided.key.as_ref().map(|key| key.as_str()), voided.name.as_ref().map(|name| name.as_str()));
    if session.json {
        return print::item(&json!({
            "v": json::V,
            "key": key,
            "name": name,
            "changed": changed(voided),
            "dry_run": dry_run,
            "record": voided.record.map(|id| id.to_string()),
            "withdrawn": voided.withdrawn.map(|id| id.to_string()),
            "verdict": voided.verdict.as_str(),
            "reason": Some(&voided.reason).filter(|reason| !reason.is_empty()),
            "downstream": voided.downstream,
        }));
    }
    if !changed(voided) {
        let reason =
            if voided.reason.is_empty() { String::new() } else { format!(" ({})", print::clean(&voided.reason)) };
        session.say(match voided.verdict {
            Verdict::Invalidated | Verdict::Evicted => {
                format!("{} is void already{reason}", key.or(name).unwrap_or_default())
            }
            verdict if key.is_some() => format!("{} has no record: it is {verdict}{reason}", key.unwrap_or_default()),
            _ => format!("{}: nothing to be done{reason}", name.unwrap_or_default()),
        });
        return Ok(());
    }
    let would = if dry_run { "would be " } else { "" };
    let name = name.map(|name| format!("  {name}")).unwrap_or_default();
    for (id, what) in [(voided.record, does.as_str()), (voided.withdrawn, "WITHDRAWN")] {
        if let Some(id) = id {
            print::line(format!("{would}{what:<11} {}{name}  exec:{id}", key.unwrap_or_default()))?;
        }
    }
    Ok(())
}
