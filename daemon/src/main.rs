//! `provenderd`: parse, log, run, and stop on SIGTERM or SIGINT.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use provender_daemon::config::{Command, Config, Flags, LogFormat};
use provender_daemon::store::chain;
use provender_daemon::{restore, run};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Gives freed memory back, whichever thread of many took it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let mut words = std::env::args_os();
    if words.nth(1).is_some_and(|word| word == provender_fuse::WATCHDOG_ARG) {
        return provender_fuse::watchdog_main(words);
    }
    let mut flags = Flags::parse();
    let command = flags.command.take();
    let config = match Config::load(flags) {
        Ok(config) => config,
        Err(error) => return fail(&error),
    };
    let filter = match EnvFilter::try_new(&config.log) {
        Ok(filter) => filter,
        Err(error) => return fail(&error),
    };
    // What cannot be logged, as on a full disk, is not worth a panic, which reporting it on the same stream would be.
    let logs =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false);
    match config.log_format {
        LogFormat::Json => logs.json().init(),
        LogFormat::Text => logs.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
    }
    if let Err(error) = provender_fuse::allow_many_files() {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    if let Some(Command::Restore(asked)) = command {
        let restored = runtime.block_on(restore::restore(&config, &asked));
        runtime.shutdown_background();
        return restored.map_or_else(|error| fail(&error), |()| ExitCode::SUCCESS);
    }
    let result = runtime.block_on(async {
        let stop = CancellationToken::new();
        let on_signal = |kind| signal(kind).map_err(|error| run::RunError::Server(error.to_string()));
        let (mut term, mut interrupt) = (on_signal(SignalKind::terminate())?, on_signal(SignalKind::interrupt())?);
        let stopping = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = term.recv() => {}
                _ = interrupt.recv() => {}
            }
            stopping.cancel();
        });
        run::run(config, stop, || {}).await
    });
    // A blocking call that hangs (a dead disk) shall not keep the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &dyn std::error::Error) -> ExitCode {
    _ = writeln!(std::io::stderr(), "provenderd: {}", chain(error));
    ExitCode::FAILURE
}
