//! `provender gc`.

use std::process::ExitCode;

use provender_client::{GcSummary, Going};
use provender_core::json;
use serde_json::json;

use super::Session;
use crate::args;
use crate::fault::Fault;
use crate::print;

pub(crate) async fn gc(session: &Session, args: args::Gc) -> Result<ExitCode, Fault> {
    let client = session.client().await?;
    let (dry_run, most) = (args.dry_run, args.list.unwrap_or(u64::MAX));
    let (mut heard, mut listed) = (0, 0);
    let tell = |going: Going| {
        heard += 1;
        if listed == most {
            return Ok(());
        }
        listed += 1;
        show(session, &going, dry_run)
    };
    let summary = match dry_run {
        true => client.plan_gc(tell).await,
        false => client.run_gc(tell).await,
    }?;
    if heard < summary.executions {
        let missed = print::count(summary.executions - heard, "execution");
        session.say(format!("{missed} are not in the list, since it was not read in time; the sums have them"));
    }
    match session.json {
        true => print::item(&json!({ "v": json::V, "dry_run": dry_run, "summary": document(&summary) }))?,
        false => print::lines(sums(&summary, dry_run).into_iter())?,
    }
    Ok(ExitCode::SUCCESS)
}

fn show(session: &Session, going: &Going, dry_run: bool) -> Result<(), Fault> {
    let Going { space, execution, key, name, is_record, used, rule, reason, frees } = going;
    if session.json {
        return print::item(&json!({
            "v": json::V,
            "space": space.as_str(),
            "execution": execution.to_string(),
            "key": key.as_str(),
            "name": name.as_str(),
            "record": is_record,
            "used": used.to_string(),
            "rule": rule,
            "reason": reason,
            "frees": frees,
            "dry_run": dry_run,
        }));
    }
    let (rule, frees) = (print::clean(rule), print::size(*frees));
    print::line(format!("{rule:<7} {frees:>11}  {key}  {name}  exec:{execution}"))
}

fn document(summary: &GcSummary) -> serde_json::Value {
    let GcSummary { executions, records, frees, spared, blobs, bytes, used, quota, kept, rows } = *summary;
    json!({
        "executions": executions, "records": records, "frees": frees, "spared": spared, "blobs": blobs, "bytes": bytes,
        "used": used, "quota": quota, "kept": kept, "rows": rows,
    })
}

/// What it came to, for people.
fn sums(summary: &GcSummary, dry_run: bool) -> Vec<String> {
    let GcSummary { executions, records, frees, spared, blobs, bytes, used, quota, kept, rows: _ } = *summary;
    let (would, spared) = match (dry_run, spared) {
        (true, _) => (" would go", String::new()),
        (false, 0) => ("", String::new()),
        (false, spared) => ("", format!("; {spared} of them stayed, since they were used or pinned meanwhile")),
    };
    let (executions, records) = (print::count(executions, "execution"), print::count(records, "record"));
    let mut lines =
        vec![format!("{executions}{would}, of these {records}, which frees {}{spared}", print::size(frees))];
    if !dry_run {
        lines.push(format!("{} removed now ({})", print::count(blobs, "blob"), print::size(bytes)));
    }
    let of = quota.map(|quota| format!(" of the {} that may be", print::size(quota))).unwrap_or_default();
    lines.push(format!("{} stored{of}", print::size(used)));
    if kept > 0 {
        lines
            .push(format!("{} more should go for want of room, but were used lately or are pinned", print::size(kept)));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sums_say_what_went_and_what_stays() {
        let all = GcSummary {
            executions: 2,
            records: 1,
            frees: 2048,
            spared: 1,
            blobs: 3,
            bytes: 1024,
            used: 4096,
            quota: Some(8192),
            kept: 512,
            rows: 9,
        };
        let expected = [
            "2 executions, of these 1 record, which frees 2.00 KiB; 1 of them stayed, since they were used or pinned meanwhile",
            "3 blobs removed now (1.00 KiB)",
            "4.00 KiB stored of the 8.00 KiB that may be",
            "512 B more should go for want of room, but were used lately or are pinned",
        ];
        assert_eq!(sums(&all, false), expected);
        let none = GcSummary { quota: None, ..GcSummary::default() };
        let expected = ["0 executions would go, of these 0 records, which frees 0 B", "0 B stored"];
        assert_eq!(sums(&none, true), expected);
    }
}
