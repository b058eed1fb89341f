//! `provender du`.

use std::process::ExitCode;

use provender_client::{Usage, UsageBy, UsageGroup};
use provender_core::json;
use serde_json::json;

use super::Session;
use crate::args;
use crate::fault::Fault;
use crate::print;

pub(crate) async fn du(session: &Session, args: args::Du) -> Result<ExitCode, Fault> {
    let client = session.client().await?;
    let by = match args.by {
        args::By::Name => UsageBy::Name,
        args::By::Executor => UsageBy::Executor,
        args::By::Age => UsageBy::Age,
    };
    let bar = print::looking_bar("looking", session.quiet || session.json);
    let found = client.usage(&args.prefix, by, |looked_at| bar.set_message(print::count(looked_at, "execution"))).await;
    bar.finish_and_clear();
    let Usage { all, groups, stored } = found?;
    if session.json {
        for group in &groups {
            let mut line = document(group);
            (line["v"], line["label"]) = (json::V.into(), group.label.as_str().into());
            print::item(&line)?;
        }
        print::item(&json!({ "v": json::V, "all": document(&all), "stored": stored }))?;
        return Ok(ExitCode::SUCCESS);
    }
    print::lines(table(&groups, &all, stored).into_iter())?;
    Ok(ExitCode::SUCCESS)
}

fn document(group: &UsageGroup) -> serde_json::Value {
    let UsageGroup { label: _, executions, records, bytes, own } = group;
    json!({ "executions": executions, "records": records, "bytes": bytes, "own": own })
}

fn table(groups: &[UsageGroup], all: &UsageGroup, stored: u64) -> Vec<String> {
    let row = |bytes: &str, own: &str, executions: &str, records: &str, label: &str| {
        format!("{bytes:>11}  {own:>11}  {executions:>10}  {records:>8}  {label}").trim_end().to_owned()
    };
    let of = |group: &UsageGroup, label: &str| {
        let (bytes, own) = (print::size(group.bytes), print::size(group.own));
        row(&bytes, &own, &group.executions.to_string(), &group.records.to_string(), label)
    };
    let mut lines = vec![row("bytes", "own", "executions", "records", "")];
    lines.extend(groups.iter().map(|group| of(group, &print::clean(&group.label))));
    lines.push(of(all, "in all"));
    lines.push(row(&print::size(stored), "", "", "", "stored"));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_columns_stand_below_each_other() {
        let group = |label: &str, bytes| UsageGroup { label: label.into(), executions: 12, records: 3, bytes, own: 1 };
        let lines = table(&[group("ci\n", 5 << 30), group("app", 0)], &group("", 7), 1 << 20);
        let expected = [
            "      bytes          own  executions   records",
            "   5.00 GiB          1 B          12         3  ci\\n",
            "        0 B          1 B          12         3  app",
            "        7 B          1 B          12         3  in all",
            "   1.00 MiB                                     stored",
        ];
        assert_eq!(lines, expected);
    }
}
