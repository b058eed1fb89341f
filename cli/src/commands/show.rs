//! `provender show`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use provender_client::{Described, Task};
use provender_core::fields::quoted;
use provender_core::spec::Variable;
use provender_core::tree::Node;
use provender_core::{Spec, Verdict, json};
use serde_json::json;

use super::Session;
use crate::args::Show;
use crate::fault::Fault;
use crate::print;

pub(crate) async fn show(session: &Session, args: Show) -> Result<ExitCode, Fault> {
    let client = session.client().await?;
    let (described, attempt) = super::newest(&client, &args.reference).await?;
    if let Some(attempt) = attempt {
        session.say(format!("{} has no success; this is its newest attempt, exec:{attempt}", args.reference));
    }
    if session.json {
        print::document(&match described {
            Described::Blob(digest) => json!({ "v": json::V, "blob": json::digest(&digest) }),
            Described::Tree(digest) => json!({ "v": json::V, "tree": json::digest(&digest) }),
            Described::Registered(registered) => json!({
                "v": json::V,
                "key": registered.key.as_str(),
                "verdict": registered.verdict.as_str(),
                "reason": registered.reason,
                "record": null,
                "spec": json::spec(&registered.spec),
            }),
            Described::Task(task) => json!({
                "v": json::V,
                "verdict": task.verdict.as_str(),
                "reason": Some(task.reason).filter(|reason| !reason.is_empty()),
                "record": json::record(&task.execution),
                "labels": task.execution.remarks.labels.iter().collect::<BTreeMap<_, _>>(),
                "note": Some(&task.execution.remarks.note).filter(|note| !note.is_empty()),
                "spec": json::spec(&task.spec),
            }),
        })?;
        return Ok(ExitCode::SUCCESS);
    }
    match described {
        Described::Blob(digest) => print::line(format!("blob:{} of {}", digest.hex(), print::size(digest.size)))?,
        Described::Tree(digest) => {
            print::line(format!("tree:{}", digest.hex()))?;
            for (name, node) in super::tree(&client, &digest).await?.iter() {
                print::line(format!("  {}", entry(name, node)))?;
            }
        }
        Described::Registered(registered) => {
            field("name", registered.spec.name.as_str())?;
            field("key", registered.key.as_str())?;
            field("verdict", registered.verdict.as_str())?;
            field("reason", &registered.reason)?;
            specified(&registered.spec)?;
        }
        Described::Task(task) => {
            text(&task)?;
            if let Some(outputs) = task.execution.outcome.outputs {
                print::line(format!("outputs    tree:{}", outputs.hex()))?;
                for (name, node) in super::tree(&client, &outputs).await?.iter() {
                    print::line(format!("           {}", entry(name, node)))?;
                }
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn text(task: &Task) -> Result<(), Fault> {
    let (execution, spec) = (&task.execution, &task.spec);
    field("name", execution.name.as_str())?;
    field("key", execution.key.as_str())?;
    field("execution", format!("exec:{}", execution.id))?;
    field("verdict", execution.state.verdict().as_str())?;
    if let Some(reason) = &execution.reason {
        field("reason", print::clean(reason))?;
    }
    if task.verdict != execution.state.verdict() || task.verdict == Verdict::Running {
        field("key is", format!("{} {}", task.verdict, print::clean(&task.reason)))?;
    }
    if let Some(record) = execution.diverges_from {
        field("diverges", format!("from exec:{record}, which was the record"))?;
    }
    field("began", execution.began.to_string())?;
    if let Some(ended) = execution.ended {
        field("ended", ended.to_string())?;
    }
    let executor = &execution.executor;
    field("by", format!("{} of {} on {} (pid {})", executor.program, executor.user, executor.host, executor.pid))?;
    if let Some(exit) = execution.outcome.exit {
        let usage = execution.outcome.usage;
        let cpu = print::time(usage.user_ms.saturating_add(usage.system_ms));
        field(
            "outcome",
            format!("{exit} after {} ({cpu} CPU, {} peak)", print::time(usage.wall_ms), print::size(usage.peak_rss)),
        )?;
    }
    for (name, value) in &execution.outcome.metrics {
        field("metric", format!("{} {value}", print::clean(name)))?;
    }
    for (name, value) in execution.remarks.labels.iter() {
        field("label", format!("{name}={value}"))?;
    }
    for line in execution.remarks.note.lines() {
        field("note", line)?;
    }
    specified(spec)
}

fn field(name: &str, value: impl AsRef<str>) -> Result<(), Fault> {
    print::line(format!("{name:<10} {}", value.as_ref()))
}

/// What a key stands for.
fn specified(spec: &Spec) -> Result<(), Fault> {
    if !spec.command.is_empty() {
        let words: Vec<_> = spec.command.iter().map(|word| quoted(word)).collect();
        field("command", words.join(" "))?;
    }
    for (name, value) in &spec.env {
        let value = match value {
            Variable::Unset => " is unset".to_owned(),
            Variable::Plain(value) => format!("={}", quoted(value)),
            Variable::Secret(_) => " (secret)".to_owned(),
        };
        field("env", format!("{}{value}", String::from_utf8_lossy(name)))?;
    }
    for (name, input) in &spec.inputs {
        let content = input.content.as_ref().map(|node| entry(b"", node)).unwrap_or_default();
        let from = input.key.as_ref().map(|key| format!(" from {key}")).unwrap_or_default();
        field("input", format!("{} {}{from}", String::from_utf8_lossy(name), content.trim()))?;
    }
    Ok(())
}

fn entry(name: &[u8], node: &Node) -> String {
    let name = String::from_utf8_lossy(name);
    match node {
        Node::File { digest, executable } => {
            let mark = if *executable { "*" } else { "" };
            format!("{name}{mark}  {}  blob:{}", print::size(digest.size), digest.hex())
        }
        Node::Directory { digest } => format!("{name}/  tree:{}", digest.hex()),
        Node::Symlink { target } => format!("{name} -> {}", String::from_utf8_lossy(target)),
    }
}
