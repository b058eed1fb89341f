//! `provender`: the command line.
//!
//! Owns arguments, printing and exit codes. Invariant: 0 is yes, 1 no or invalid input, 2 usage, 125 a fault of provender's;
//! `run` gives the command's own code. It must not know rules: those are the daemon's and `core`'s.

mod args;
mod commands;
mod fault;
mod print;
mod view;

use std::process::ExitCode;

use clap::Parser;
use provender_client::process;

use args::{Args, Command};
use fault::Fault;

fn main() -> ExitCode {
    let mut words = std::env::args_os();
    match words.nth(1) {
        Some(word) if word == process::GUARD_ARG => return process::guard_main(words),
        Some(word) if word == provender_fuse::WATCHDOG_ARG => return provender_fuse::watchdog_main(words),
        _ => {}
    }
    let args = Args::parse();
    print::warnings();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Fault::ours(format!("cannot start threads: {error}")).report(),
    };
    let result = runtime.block_on(carry_out(args));
    // A read of standard input or a slow disk shall not hold the exit.
    runtime.shutdown_background();
    match result {
        Ok(code) => code,
        Err(fault) => fault.report(),
    }
}

async fn carry_out(args: Args) -> Result<ExitCode, Fault> {
    // Set to nothing is not set.
    let remote = args.remote.filter(|remote| !remote.is_empty());
    let session = commands::Session { remote, json: args.json, quiet: args.quiet };
    match args.command {
        Command::Run(run) => commands::run::run(&session, run).await,
        Command::Dag(dag) => commands::dag::dag(&session, dag).await,
        Command::Status(status) => commands::status::status(&session, status).await,
        Command::Show(show) => commands::show::show(&session, show).await,
        Command::Lineage(lineage) => commands::lineage::lineage(&session, lineage).await,
        Command::Diff(diff) => commands::diff::diff(&session, diff).await,
        Command::Logs(logs) => commands::logs::logs(&session, logs).await,
        Command::History(history) => commands::history::history(&session, history).await,
        Command::Ls(ls) => commands::ls::ls(&session, ls).await,
        Command::Invalidate(what) => commands::invalidate::invalidate(&session, what).await,
        Command::Evict(what) => commands::invalidate::evict(&session, what).await,
        Command::Watch(what) => commands::watch::watch(&session, what).await,
        Command::Why(why) => commands::why::why(&session, why).await,
        Command::Annotate(what) => commands::annotate::annotate(&session, what).await,
        Command::Put(put) => commands::put::put(&session, put).await,
        Command::Get(get) => commands::get::get(&session, get).await,
        Command::Cat(cat) => commands::cat::cat(&session, cat).await,
        Command::Mount(mount) => commands::mount::mount(&session, mount).await,
        Command::Umount(umount) => commands::mount::umount(&umount),
        Command::Verify(what) => commands::verify::verify(&session, what).await,
        Command::Pin(what) => commands::pins::pin(&session, what).await,
        Command::Unpin(what) => commands::pins::unpin(&session, what).await,
        Command::Pins => commands::pins::pins(&session).await,
        Command::Gc(what) => commands::gc::gc(&session, what).await,
        Command::Du(what) => commands::du::du(&session, what).await,
        Command::Admin(what) => commands::admin::admin(&session, what).await,
        Command::Completions { shell } => commands::pages::completions(shell),
        Command::Man { dir } => commands::pages::man(&dir),
    }
}
