//! Printing: text for people, JSON for programs, bars on a terminal.

use std::io::{self, IsTerminal, Write};

use indicatif::{ProgressBar, ProgressStyle};
use provender_core::Execution;
use provender_core::execution::State;
use provender_core::remarks::Remarks;
use serde_json::Value;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::fault::Fault;

/// Says something on standard error. That it cannot be heard, as on a closed pipe or a full disk, changes nothing.
pub(crate) fn note(text: impl std::fmt::Display) {
    _ = writeln!(io::stderr(), "{text}");
}

/// From now on the warnings of our own crates are lines on standard error.
pub(crate) fn warnings() {
    struct Line;
    impl<S, N> tracing_subscriber::fmt::FormatEvent<S, N> for Line
    where
        S: tracing::Subscriber + for<'a> LookupSpan<'a>,
        N: for<'a> FormatFields<'a> + 'static,
    {
        fn format_event(
            &self,
            context: &FmtContext<'_, S, N>,
            mut out: Writer<'_>,
            event: &tracing::Event<'_>,
        ) -> std::fmt::Result {
            write!(out, "provender: ")?;
            context.format_fields(out.by_ref(), event)?;
            writeln!(out)
        }
    }
    let ours = EnvFilter::new("provender=warn,provender_client=warn");
    let lines = tracing_subscriber::fmt().with_env_filter(ours).with_ansi(false).with_writer(io::stderr);
    lines.log_internal_errors(false).event_format(Line).init();
}

/// Text of others for a line on a terminal: what would move the cursor or begin another line is escaped.
pub(crate) fn clean(text: &str) -> String {
    let each = |c: char| if c.is_control() { c.escape_default().collect() } else { String::from(c) };
    text.chars().map(each).collect()
}

/// Prints a line; that nobody reads any more ends the program in peace.
pub(crate) fn line(text: impl AsRef<str>) -> Result<(), Fault> {
    let mut out = io::stdout().lock();
    finished(writeln!(out, "{}", text.as_ref()).and_then(|()| out.flush()))
}

/// Prints many lines.
pub(crate) fn lines(mut lines: impl Iterator<Item = String>) -> Result<(), Fault> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    finished(lines.try_for_each(|line| writeln!(out, "{line}")).and_then(|()| out.flush()))
}

fn finished(written: io::Result<()>) -> Result<(), Fault> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        written => written.map_err(|error| Fault::ours(format!("cannot write to standard output: {error}"))),
    }
}

/// Prints one JSON document, as it is made.
pub(crate) fn document(value: &impl serde::Serialize) -> Result<(), Fault> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let written = serde_json::to_writer_pretty(&mut out, value).map_err(io::Error::from);
    finished(written.and_then(|()| writeln!(out)).and_then(|()| out.flush()))
}

/// Prints one JSON object as a line of a list.
pub(crate) fn item(value: &Value) -> Result<(), Fault> {
    line(value.to_string())
}

/// A moving count of bytes on a terminal; nothing elsewhere or under `--quiet`.
pub(crate) fn bytes_bar(doing: &str, quiet: bool) -> ProgressBar {
    if quiet || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{spinner} {msg} {bytes} ({bytes_per_sec})");
    let bar = ProgressBar::new_spinner().with_message(doing.to_owned());
    let bar = style.map(|style| bar.clone().with_style(style)).unwrap_or(bar);
    bar.enable_steady_tick(std::time::Duration::from_millis(100));
    bar
}

/// A moving sign of what is being looked at, on a terminal; nothing elsewhere or under `--quiet`.
pub(crate) fn looking_bar(doing: &str, quiet: bool) -> ProgressBar {
    if quiet || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner().with_message(doing.to_owned());
    bar.enable_steady_tick(std::time::Duration::from_millis(100));
    bar
}

/// A moving count of tasks on a terminal; nothing elsewhere or under `--quiet`.
pub(crate) fn tasks_bar(quiet: bool) -> ProgressBar {
    if quiet || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(0);
    let style = ProgressStyle::with_template("{spinner} [{bar:30}] {pos} of {len} {wide_msg}");
    let bar = style.map(|style| bar.clone().with_style(style.progress_chars("=> "))).unwrap_or(bar);
    bar.enable_steady_tick(std::time::Duration::from_millis(100));
    bar
}

/// Bytes for people.
pub(crate) fn size(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

/// One thing or several.
pub(crate) fn count(number: u64, one: &str) -> String {
    format!("{number} {one}{}", if number == 1 { "" } else { "s" })
}

/// How long something took, for people.
pub(crate) fn time(millis: u64) -> String {
    match millis {
        0..1_000 => format!("{millis} ms"),
        1_000..60_000 => format!("{:.1} s", millis as f64 / 1e3),
        _ => format!("{} min {} s", millis / 60_000, millis / 1_000 % 60),
    }
}

/// What is said of an execution, on one line.
pub(crate) fn remarks(remarks: &Remarks, of: &str) -> String {
    let labels = remarks.labels.iter().map(|(name, value)| format!("{name}={value}"));
    let note = Some(clean(&remarks.note)).filter(|note| !note.is_empty()).map(|note| format!("({note})"));
    [of.to_owned()].into_iter().chain(labels).chain(note).collect::<Vec<_>>().join("  ")
}

/// An execution as a row of a list of one name.
pub(crate) fn execution_row(execution: &Execution) -> String {
    row(execution, "")
}

/// An execution as a row of a list of several names.
pub(crate) fn named_row(execution: &Execution) -> String {
    row(execution, &format!("  {}", execution.name))
}

fn row(execution: &Execution, name: &str) -> String {
    let mut row = format!("{:<10} {} exec:{}{name}", execution.state.verdict(), execution.began, execution.id);
    match (&execution.state, &execution.reason) {
        (State::Succeeded, _) => {
            row += &format!("  {}", time(execution.outcome.usage.wall_ms));
            if let Some(record) = execution.diverges_from {
                row += &format!("  diverges from exec:{record}");
            }
        }
        (_, Some(reason)) => row += &format!("  {}", clean(reason)),
        _ => {}
    }
    row
}
