//! What `provender run --check` says.

use std::process::ExitCode;

use provender_client::run::{Checked, Differs};
use provender_core::json;
use provender_core::tree::Node;
use serde_json::{Value, json};

use super::Session;
use crate::fault::NO;
use crate::print;

/// Says what a check came to; 0 if it is the same again, 1 if not.
pub(super) fn report(session: &Session, checked: &Checked) -> ExitCode {
    let Checked { execution, record, differences, more, unread } = checked;
    let same = checked.same();
    if session.json {
        let mut value = json::execution(execution);
        value["result"] = if same { "same" } else { "diverged" }.into();
        value["record"] = record.id.to_string().into();
        value["differences"] = differences.iter().map(document).collect::<Vec<_>>().into();
        value["more_differences"] = (*more).into();
        value["unread"] = unread.as_deref().into();
        print::note(value);
    } else if same {
        let time = print::time(execution.outcome.usage.wall_ms);
        let (name, id) = (&execution.name, execution.id);
        session.say(format!("same {name} exec:{id} (in {time}, as in the record exec:{})", record.id));
    } else {
        let (name, id) = (&execution.name, execution.id);
        print::note(format_args!(
            "provender: diverged {name} exec:{id} (from exec:{}, which stays the record)",
            record.id
        ));
        for one in differences {
            print::note(format_args!("provender:   {}", line(one)));
        }
        if *more {
            print::note("provender:   and more");
        }
        if let Some(why) = unread {
            print::note(format_args!("provender:   the rest cannot be compared: {why}"));
        }
    }
    if same { ExitCode::SUCCESS } else { NO.into() }
}

fn line(one: &Differs) -> String {
    let (old, new) = (&one.difference.old, &one.difference.new);
    let path = one.difference.path.escape_ascii();
    let what = match (old.as_ref().map(brief), new.as_ref().map(brief)) {
        (Some(old), Some(new)) if old == new && one.first.is_none() => format!("{old}, executable or not"),
        (Some(old), Some(new)) => format!("{old} -> {new}"),
        (old, new) => old.or(new).unwrap_or_default(),
    };
    let first = one.first.map(|at| format!(", first at byte {at}")).unwrap_or_default();
    format!("{} {path}  {what}{first}", one.difference.kind())
}

fn brief(node: &Node) -> String {
    match node {
        Node::File { digest, .. } => print::size(digest.size),
        Node::Symlink { target } => format!("a link to {}", target.escape_ascii()),
        Node::Directory { .. } => "a folder".into(),
    }
}

fn document(one: &Differs) -> Value {
    json!({
        "path": json::bytes(&one.difference.path),
        "change": one.difference.kind(),
        "old": one.difference.old.as_ref().map(json::node),
        "new": one.difference.new.as_ref().map(json::node),
        "first_difference": one.first,
    })
}
