//! `provender get`.

use std::fs::File;
use std::io::Write;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use indicatif::ProgressBar;
use provender_client::files::{Fetch, FetchError, RestoreError, RestoreOptions, restore};
use provender_client::process::{Control, Signals};
use provender_client::transfer::ClientFetch;
use provender_core::{Digest, Ref, json};
use serde_json::json;

use super::{Session, descend, node_of};
use crate::args::Get;
use crate::fault::Fault;
use crate::print;

pub(crate) async fn get(session: &Session, args: Get) -> Result<ExitCode, Fault> {
    let client = session.client().await?;
    let mut node = node_of(&client, &args.reference).await?;
    if let Some(path) = &args.path {
        node = descend(&client, node, path.as_bytes()).await?;
    }
    let dest = args.dest.clone().unwrap_or_else(|| default_dest(&args));
    let bar = print::bytes_bar("restoring", session.quiet);
    // A signal ends it from within, so that what it has begun is removed.
    let control = Control::new();
    let told = control.clone();
    let _signals = Signals::catch(move |received| told.signal(received))
        .map_err(|error| Fault::ours(format!("cannot catch signals: {error}")))?;
    let runtime = tokio::runtime::Handle::current();
    let fetch = Counted { inner: ClientFetch::new(client, runtime, control.clone()), bar: bar.clone() };
    let options = RestoreOptions { force: args.force, ..RestoreOptions::default() };
    let place = dest.clone();
    let restored = tokio::task::spawn_blocking(move || restore(&fetch, &node, &place, options)).await;
    bar.finish_and_clear();
    let counts = restored.map_err(Fault::ours)?.map_err(|error| match error {
        _ if control.signals() > 0 => Fault::interrupted(control.interrupted().unwrap_or_default()),
        RestoreError::Exists { path } => Fault::no(format!("{} exists; --force replaces it", path.display())),
        RestoreError::NoName { .. } | RestoreError::NoParent { .. } => Fault::no(error),
        RestoreError::TooDeep | RestoreError::TooMany { .. } => {
            Fault::no(format!("{error}; take a part of it, with --path"))
        }
        other => Fault::ours(other),
    })?;
    if session.json {
        let dest = json::bytes(dest.as_os_str().as_bytes());
        print::document(&json!({ "v": json::V, "dest": dest, "files": counts.files, "bytes": counts.bytes }))?;
    } else {
        let what = format!("{}, {}", print::count(counts.files, "file"), print::size(counts.bytes));
        session.say(format!("restored to {} ({what})", dest.display()));
    }
    Ok(ExitCode::SUCCESS)
}

/// The last part of the path, or of the reference.
fn default_dest(args: &Get) -> PathBuf {
    if let Some(name) = args.path.as_ref().and_then(|path| Path::new(path).file_name()) {
        return name.into();
    }
    match &args.reference {
        Ref::Name { name, .. } => name.parts().next_back().unwrap_or("out").into(),
        Ref::Execution(id) => id.to_string().into(),
        Ref::Blob(hash) | Ref::Tree(hash) => provender_core::digest::hex(hash).into(),
        Ref::Key(key) => key.as_str().replace('/', "_").into(),
    }
}

/// Counts what is fetched.
struct Counted {
    inner: ClientFetch,
    bar: ProgressBar,
}

impl Fetch for Counted {
    fn small(&self, wants: &[Digest], sink: &mut dyn FnMut(usize, &[u8]) -> ControlFlow<()>) -> Result<(), FetchError> {
        self.inner.small(wants, sink)?;
        self.bar.inc(wants.iter().map(|want| want.size).sum());
        Ok(())
    }

    fn lent(&self, want: &Digest) -> Result<Option<File>, FetchError> {
        let lent = self.inner.lent(want)?;
        self.bar.inc(lent.as_ref().map_or(0, |_| want.size));
        Ok(lent)
    }

    fn is_wanted(&self) -> Result<(), FetchError> {
        self.inner.is_wanted()
    }

    fn large(&self, want: &Digest, out: &mut dyn Write) -> Result<(), FetchError> {
        self.inner.large(want, &mut self.bar.wrap_write(out))
    }
}
