//! Checking out: something of the store in a folder of our own, read-only, and whether a path is still what it was.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use provender_core::tree::Node;
use tokio::runtime::Handle;

use super::{RunError, blocking};
use crate::client::Client;
use crate::files::{self, HashCache, Purpose, RestoreOptions};
use crate::process::Control;
use crate::transfer::ClientFetch;

/// Puts `content` at `place`, whose parent is a folder of our own, and takes the right to write away.
pub(crate) async fn check_out(
    client: &Client,
    control: &Control,
    content: Node,
    place: PathBuf,
) -> Result<(), RunError> {
    // A signal ends this from within, so that nothing is written to the folder after its removal.
    let fetch = ClientFetch::new(client.clone(), Handle::current(), control.clone());
    blocking(move || {
        files::restore(&fetch, &content, &place, RestoreOptions::default())?;
        set_writable(&place, false);
        Ok(())
    })
    .await?
}

/// Whether what stands at `whole` is what stood there before.
pub(crate) async fn same(whole: PathBuf, shown: &Path, before: &Node, cache: &Arc<HashCache>) -> Result<(), String> {
    let cache = cache.clone();
    let changed = || format!("the input {:?} changed while the command ran", shown.display().to_string());
    match blocking(move || files::signature(&whole, Purpose::Input, &cache)).await {
        Ok(Ok(now)) if now == *before => Ok(()),
        Ok(Ok(_)) => Err(changed()),
        Ok(Err(error)) => Err(format!("{}: {error}", changed())),
        Err(error) => Err(error.to_string()),
    }
}

/// Makes all below a folder of our own writable or not, following no link. What fails shows when it matters.
pub(crate) fn set_writable(path: &Path, writable: bool) {
    let Ok(metadata) = path.symlink_metadata() else { return };
    if metadata.is_symlink() {
        return;
    }
    let mode = metadata.permissions().mode();
    let mode = match (writable, metadata.is_dir()) {
        (true, true) => mode | 0o700,
        (true, false) => mode | 0o200,
        (false, _) => mode & !0o222,
    };
    let set = || _ = std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode));
    if writable {
        set();
    }
    if metadata.is_dir() {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        entries.for_each(|entry| set_writable(&entry.path(), writable));
    }
    if !writable {
        set();
    }
}
