//! `provender mount` and `provender umount`: the view on any machine that reaches the daemon.
//!
//! Invariant: when `mount` returns with 0, the view is there; it is served by a process of its own until it is unmounted or ended
//! by a signal.

use std::io::{Read, Write};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use provender_blobs::cache::Cache;
use provender_client::remote::{self, Address};
use provender_client::{Client, Remote};
use provender_core::Timestamp;
use provender_core::name::Space;
use provender_fuse::{Mount, MountError, Options};
use tokio::signal::unix::{SignalKind, signal};

use super::Session;
use crate::args;
use crate::fault::Fault;
use crate::view::{self, Link};

/// What the serving process says once the view is there.
const READY: &[u8] = b"mounted\n";
/// How often it is looked whether somebody else has unmounted it.
const LOOK: Duration = Duration::from_millis(200);
/// How many requests are answered at once: most wait for the daemon, not for a processor.
const THREADS: usize = 16;
/// How long readers may keep files open when a signal ends the view.
const GRACE: Duration = Duration::from_secs(2);

pub(crate) async fn mount(session: &Session, args: args::Mount) -> Result<ExitCode, Fault> {
    if args.foreground { serve(session, &args).await } else { start(session, &args) }
}

pub(crate) fn umount(args: &args::Umount) -> Result<ExitCode, Fault> {
    provender_fuse::unmount(&args.dir).map_err(refused)?;
    Ok(ExitCode::SUCCESS)
}

/// Starts a process that serves the view, and waits until it does.
fn start(session: &Session, args: &args::Mount) -> Result<ExitCode, Fault> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |error: std::io::Error| Fault::ours(format!("cannot {what}: {error}"))
    };
    let mut command = Command::new(std::env::current_exe().map_err(failed("find this program"))?);
    command.args(["mount", "--foreground", "--ready"]).args(args.allow_other.then_some("--allow-other"));
    command.args(args.offline.then_some("--offline")).args(["--cache-size", &args.cache_size.to_string()]);
    if let Some(cache) = &args.cache {
        command.arg("--cache").arg(cache);
    }
    if let Some(remote) = &session.remote {
        command.args(["--remote", remote]);
    }
    command.arg("--").arg(&args.dir).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut server = command.spawn().map_err(failed("start the process that serves the view"))?;
    let mut said = Vec::new();
    if let Some(out) = server.stdout.take() {
        out.take(READY.len() as u64).read_to_end(&mut said).map_err(failed("hear from that process"))?;
    }
    if said == READY {
        return Ok(ExitCode::SUCCESS);
    }
    // It has said why on the standard error that we share.
    let ended = server.wait().map_err(failed("wait for that process"))?;
    match ended.code().and_then(|code| u8::try_from(code).ok()) {
        Some(code) if code != 0 => Ok(code.into()),
        _ => Err(Fault::ours(format!("the process that serves the view ended with {ended}"))),
    }
}

/// Serves the view until it is unmounted, or a signal comes.
async fn serve(session: &Session, args: &args::Mount) -> Result<ExitCode, Fault> {
    if args.ready {
        // A signal to the caller's terminal is not meant for what stays. It fails only where this is so already.
        let _ = rustix::process::setsid();
    }
    let remote = Remote::find(session.remote.as_deref())?;
    let address = address(&remote);
    let link = match args.offline {
        true => None,
        false => {
            let client = Client::connect(&remote, Space::default()).await?;
            Some(Link::new(remote, client, tokio::runtime::Handle::current()))
        }
    };
    let cache = cache(args)?;
    // Asked before, so that a signal that comes while it is being mounted is not lost.
    let caught = |kind| signal(kind).map_err(|error| Fault::ours(format!("cannot catch signals: {error}")));
    let (mut interrupt, mut terminate) = (caught(SignalKind::interrupt())?, caught(SignalKind::terminate())?);
    let mut options = Options {
        allow_other: args.allow_other,
        threads: THREADS,
        backing: cache.folder().map(Into::into).into_iter().collect(),
        // This very program: `main` knows its first argument.
        watchdog: std::env::current_exe().ok(),
        ..Options::default()
    };
    options.settings.since = now();
    let source = Arc::new(view::Remote::new(&address, link, cache));
    if let Err(error) = provender_fuse::allow_many_files() {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
    let dir = args.dir.clone();
    let mounted = tokio::task::spawn_blocking(move || Mount::new(source, &dir, &options)).await;
    let mount = mounted.map_err(Fault::ours)?.map_err(refused)?;
    if args.ready {
        leave_the_caller()?;
    } else {
        session.say(format!("mounted at {}; Ctrl-C unmounts", mount.point().display()));
    }
    loop {
        tokio::select! {
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            () = tokio::time::sleep(LOOK) => if mount.is_over() {
                return Ok(ExitCode::SUCCESS);
            },
        }
    }
    let unmounted = tokio::task::spawn_blocking(move || mount.unmount(GRACE)).await;
    unmounted.map_err(Fault::ours)?.map_err(refused)?;
    Ok(ExitCode::SUCCESS)
}

/// Where what is read is kept. Without such a place it is not kept, unless it was asked for.
fn cache(args: &args::Mount) -> Result<Cache, Fault> {
    let usual = || remote::cache_dir().map(|folder| folder.join("mount"));
    let Some(folder) = args.cache.clone().or_else(usual).filter(|_| args.cache_size > 0) else {
        return Ok(Cache::none());
    };
    match Cache::open(&folder, args.cache_size) {
        Ok(cache) => Ok(cache),
        Err(error) if args.cache.is_some() || args.offline => Err(Fault::no(error)),
        Err(error) => {
            tracing::warn!("{error}; nothing is cached");
            Ok(Cache::none())
        }
    }
}

/// The daemon's address, the same wherever it is named from.
fn address(remote: &Remote) -> String {
    match &remote.address {
        Address::Unix(path) => Address::Unix(std::path::absolute(path).unwrap_or_else(|_| path.clone())).to_string(),
        address => address.to_string(),
    }
}

/// Tells who waits, and lets go of its terminal and pipes, which it would else wait for.
fn leave_the_caller() -> Result<(), Fault> {
    let failed = |error: std::io::Error| Fault::ours(format!("cannot go into the background: {error}"));
    let mut out = std::io::stdout();
    out.write_all(READY).and_then(|()| out.flush()).map_err(failed)?;
    let null = std::fs::File::options().read(true).write(true).open("/dev/null").map_err(failed)?;
    rustix::stdio::dup2_stdout(&null).map_err(|errno| failed(errno.into()))?;
    rustix::stdio::dup2_stderr(&null).map_err(|errno| failed(errno.into()))?;
    Ok(())
}

/// Folders that have no time of their own, such as the root, show when they were mounted.
#[expect(clippy::disallowed_methods, reason = "the one place of the command line that asks for the time of day")]
fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(u64::try_from(since.as_millis()).unwrap_or_default())
}

fn refused(error: MountError) -> Fault {
    match error {
        MountError::NotDirectory { .. }
        | MountError::NotEmpty { .. }
        | MountError::NotOurs { .. }
        | MountError::Occupied { .. } => Fault::no(error),
        error => Fault::ours(crate::fault::chain(&error)),
    }
}
