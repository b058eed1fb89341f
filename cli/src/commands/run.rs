//! `provender run`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use indicatif::ProgressBar;
use provender_client::files::Outputs;
use provender_client::process::{self, Control, Signals};
use provender_client::remote;
use provender_client::run::{self, Ended, Event, Events, Input, RunError, Task};
use provender_core::Execution;
use provender_core::execution::Exit;
use serde_json::json;

use super::{Session, executor, hash_cache};
use crate::args::Run;
use crate::fault::{Fault, OURS};
use crate::print;

pub(crate) async fn run(session: &Session, args: Run) -> Result<ExitCode, Fault> {
    let task = Task {
        name: args.name,
        key: args.key,
        argv: args.command,
        cwd: std::env::current_dir().map_err(|error| Fault::ours(format!("there is no working folder: {error}")))?,
        inputs: args.inputs.into_iter().map(input).collect::<Result<_, _>>()?,
        outputs: Outputs::parse(&args.outputs).map_err(Fault::usage)?,
        env: args.env,
        secret_env: args.secret_env,
        quiet: session.quiet,
        ttl: args.ttl,
        check: args.check,
        why: args.why,
        executor: executor("provender run"),
        remarks: super::annotate::first(args.remarks)?,
        locks: remote::cache_dir().map(|folder| folder.join("locks")),
    };
    let client = match session.client().await {
        Ok(client) => client,
        Err(fault) if args.best_effort => return unrecorded(session, task, fault).await,
        Err(fault) => return Err(fault),
    };
    let bar = Arc::new(OnceLock::new());
    let (shown, told) = (bar.clone(), session.clone());
    let events: Events = Arc::new(move |event| tell(&told, &shown, event));
    let ended = run::run(&client, &task, hash_cache(), &events).await;
    if let Some(bar) = bar.get() {
        bar.finish_and_clear();
    }
    match ended {
        Ok(ended) => Ok(report(session, ended, args.best_effort)),
        // Nothing was made, for a reason that is provender's.
        Err(error) if args.best_effort && error.is_ours() => unrecorded(session, task, fault(error)).await,
        Err(error) => Err(fault(error)),
    }
}

fn fault(error: RunError) -> Fault {
    match error {
        RunError::Interrupted { signal } => Fault::interrupted(signal),
        RunError::Client(error) => Fault::from(error).of_run(),
        error if error.is_usage() => Fault::usage(error),
        error => Fault::ours(error),
    }
}

/// `LABEL=REF` or a path; `./` before a path with `=` in it tells them apart.
fn input(text: OsString) -> Result<Input, Fault> {
    let bytes = text.as_bytes();
    let label = bytes.iter().position(|byte| *byte == b'=').map(|at| &bytes[..at]);
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    match label {
        Some(label) if !label.is_empty() && label.iter().all(is_word) && !label[0].is_ascii_digit() => {
            let reference = text
                .to_str()
                .and_then(|text| text.split_once('='))
                .ok_or_else(|| Fault::usage(format!("--in {}: a reference is UTF-8", text.to_string_lossy())))?;
            let (label, reference) = reference;
            let reference = reference.parse().map_err(|error| Fault::usage(format!("--in {label}: {error}")))?;
            Ok(Input::Reference { label: label.into(), reference })
        }
        _ if bytes.is_empty() => Err(Fault::usage("--in takes a path or LABEL=REF")),
        _ => Ok(Input::path(text)),
    }
}

fn tell(session: &Session, bar: &OnceLock<ProgressBar>, event: Event<'_>) {
    match event {
        // It was asked for.
        Event::Why(Ok(of)) => super::why::note(session, of),
        Event::Why(Err(error)) => print::note(format_args!("provender: why it has to run cannot be told: {error}")),
        _ if session.quiet => {}
        Event::Stored(bytes) => bar.get_or_init(|| print::bytes_bar("storing", false)).inc(bytes),
        Event::Claimed(path) => {
            print::note(format_args!("provender: waiting for another provender run that makes {}", path.display()));
        }
        Event::NoDaemon(error) => print::note(format_args!("provender: {error}; it is asked again for a while")),
        Event::Waiting(holder) => {
            let (host, user) = (&holder.executor.host, &holder.executor.user);
            let holder = holder.id;
            print::note(format_args!("provender: waiting for exec:{holder} of {user} on {host}, who runs this now"));
        }
        Event::NoHeartbeat(error) => print::note(format_args!("provender: {error}; the command goes on")),
        Event::NoMetrics(why) => print::note(format_args!("provender: $PROVENDER_METRICS is not kept: {why}")),
        _ => {}
    }
}

fn report(session: &Session, ended: Ended, best_effort: bool) -> ExitCode {
    let say = |word: &str, execution: &Execution, detail: String| {
        if session.json {
            let mut value = provender_core::json::execution(execution);
            value["result"] = word.into();
            print::note(value);
        } else if word == "failed" || !session.quiet {
            print::note(format_args!("provender: {word} {} exec:{} {detail}", execution.name, execution.id));
        }
    };
    let reason = |execution: &Execution| execution.reason.clone().unwrap_or_default();
    match ended {
        Ended::Hit(execution) => {
            let when = execution.ended.map(|at| at.to_string()).unwrap_or_default();
            say("hit", &execution, format!("(made {when} in {})", print::time(execution.outcome.usage.wall_ms)));
            exit(&execution).shell_code().into()
        }
        Ended::Ran(execution) => {
            say("ran", &execution, format!("({})", print::time(execution.outcome.usage.wall_ms)));
            exit(&execution).shell_code().into()
        }
        Ended::Checked(checked) => super::check::report(session, &checked),
        Ended::Failed { execution, exit } => {
            say("failed", &execution, format!("({})", reason(&execution)));
            exit.failure_code().into()
        }
        Ended::OtherFailed(execution) => {
            say("failed", &execution, format!("(run by another: {})", reason(&execution)));
            exit(&execution).failure_code().into()
        }
        Ended::Unrecorded { exit, error } => {
            if session.json {
                let error = error.to_string();
                print::note(json!({ "v": provender_core::json::V, "result": "unrecorded", "error": error }));
            } else {
                print::note(format_args!("provender: the command {exit}, but that could not be recorded: {error}"));
            }
            if best_effort { exit.shell_code().into() } else { OURS.into() }
        }
    }
}

/// How the command ended; a front without commands has none, and all went well.
fn exit(execution: &Execution) -> Exit {
    execution.outcome.exit.unwrap_or(Exit::Code(0))
}

/// Runs the command as if there were no provender, which has failed.
async fn unrecorded(session: &Session, task: Task, fault: Fault) -> Result<ExitCode, Fault> {
    fault.report();
    if let Some(Input::Reference { label, .. }) = task.inputs.iter().find(|input| !matches!(input, Input::Path(_))) {
        let why = "so the command cannot run without provender";
        return Err(Fault::ours(format!("the input {label} cannot be checked out, {why}")));
    }
    session.say("running the command without provender");
    let control = Control::new();
    let signals = control.clone();
    let _signals = Signals::catch(move |received| signals.signal(received))
        .map_err(|error| Fault::ours(format!("cannot catch signals: {error}")))?;
    let mut command = process::Command::new(task.argv, task.cwd);
    command.quiet = task.quiet;
    let finished = tokio::task::spawn_blocking(move || process::run(&command, &control)).await;
    let finished = finished.map_err(Fault::ours)?.map_err(Fault::ours)?;
    Ok(finished.exit.shell_code().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    #[test]
    fn labels_and_paths_are_told_apart() {
        let path = |text: &str| Input::path(text.into());
        for text in ["a.c", "./a=b", "a.b=c", "1a=b", "=x", "src/a=b"] {
            assert_eq!(input(OsStr::new(text).to_owned()).expect("a path"), path(text), "{text}");
        }
        let labelled = input("_lib2=zstd@2".into()).expect("a reference");
        let reference = "zstd@2".parse().expect("valid");
        assert_eq!(labelled, Input::Reference { label: "_lib2".into(), reference });
        assert!(input("lib=exec:12".into()).is_err());
        assert!(input("".into()).is_err());
    }
}
