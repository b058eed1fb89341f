//! What `provender dag run` attempts: a shell command in a scratch folder.
//!
//! Such a folder has `inputs/<dependency>/` (what that one made, read-only), an empty `output/`, and a link to each entry of the source
//! folder. Invariants: the task's tree is the content of `output/`; whatever comes of it, the folder is removed. A `kill -9` of
//! provender leaves it behind, below the system's folder for temporary files, and nothing ever looks at it again.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use provender_core::key::TaskKey;
use provender_core::tree::Node;
use tempfile::TempDir;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::files::{self, Captured, HashCache, Purpose};
use crate::process::Command;
use crate::run::{
    InputsError, RunError, Site, Work, blocking, check_out, same, set_writable, start, unless_interrupted,
};

/// Where dependencies are found.
const INPUTS: &str = "inputs";
/// Where the command writes.
const OUTPUT: &str = "output";

/// Why a folder is no source.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// It cannot be listed.
    #[error("cannot list the source folder {}: {source}", path.display())]
    List {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It has an entry that scratch folders have already.
    #[error(
        "the source folder {} has an entry {name:?}, which each task's own folder has already: rename it, or choose another --source",
        path.display()
    )]
    Taken {
        /// The folder.
        path: PathBuf,
        /// `inputs` or `output`.
        name: &'static str,
    },
}

/// The folder whose entries, hidden ones too, each command finds beside it.
#[derive(Debug)]
pub(super) struct Source {
    /// Absolute.
    entries: Vec<PathBuf>,
}

impl Source {
    /// Lists a folder.
    pub(super) fn list(path: &Path) -> Result<Source, SourceError> {
        let failed = |source| SourceError::List { path: path.into(), source };
        let whole = path.canonicalize().map_err(failed)?;
        let entries = std::fs::read_dir(&whole).map_err(failed)?.map(|entry| Ok(entry?.path()));
        let entries = entries.collect::<std::io::Result<Vec<_>>>().map_err(failed)?;
        for name in [INPUTS, OUTPUT] {
            if entries.iter().any(|entry| entry.file_name() == Some(OsStr::new(name))) {
                return Err(SourceError::Taken { path: path.into(), name });
            }
        }
        Ok(Source { entries })
    }
}

/// What a task takes from one dependency.
#[derive(Debug, Clone)]
pub(super) struct Taken {
    pub(super) label: Bytes,
    pub(super) key: TaskKey,
    /// The tree of its outputs, if it has one.
    pub(super) content: Option<Node>,
}

impl Taken {
    fn place(&self, folder: &Path) -> PathBuf {
        folder.join(INPUTS).join(OsStr::from_bytes(&self.label))
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(&self.label).into_owned()
    }
}

/// A command on its way through a scratch folder.
pub(super) struct Scratch {
    /// In a shell's words.
    pub(super) command: Option<String>,
    pub(super) inputs: Vec<Taken>,
    pub(super) source: Arc<Source>,
    pub(super) cache: Arc<HashCache>,
    /// Among so many at once; taken when it is time, if it is not held yet.
    pub(super) slots: Arc<Semaphore>,
    pub(super) slot: Option<OwnedSemaphorePermit>,
    pub(super) folder: Option<TempDir>,
}

impl Scratch {
    fn folder(&self) -> &Path {
        self.folder.as_ref().map_or(Path::new(""), TempDir::path)
    }
}

impl Work for Scratch {
    async fn prepare(&mut self, site: Site<'_>) -> Result<Command, RunError> {
        let line = self.command.clone().ok_or(InputsError::NoCommand)?;
        if self.slot.is_none() {
            let slot = async {
                self.slots.clone().acquire_owned().await.map_err(|error| RunError::Internal(error.to_string()))
            };
            self.slot = Some(unless_interrupted(site.control, 0, slot).await?);
        }
        let source = self.source.clone();
        let folder = blocking(move || make(&source)).await?.map_err(start("make a scratch folder"))?;
        let path = self.folder.insert(folder).path().to_owned();
        for input in &self.inputs {
            let content = input
                .content
                .clone()
                .ok_or_else(|| InputsError::NoTree { label: input.shown(), reference: input.key.to_string() })?;
            check_out(site.client, site.control, content, input.place(&path)).await?;
        }
        let read_only = std::fs::Permissions::from_mode(0o555);
        std::fs::set_permissions(path.join(INPUTS), read_only).map_err(start("close the folder of inputs"))?;
        let mut command = Command::new(vec!["sh".into(), "-c".into(), line.into()], path);
        (command.quiet, command.terminal) = (true, false);
        Ok(command)
    }

    async fn look_again(&self) -> Result<(), String> {
        for input in &self.inputs {
            let Some(content) = &input.content else { continue };
            same(input.place(self.folder()), Path::new(&input.shown()), content, &self.cache).await?;
        }
        Ok(())
    }

    async fn capture(&self) -> Result<Captured, String> {
        let (output, cache) = (self.folder().join(OUTPUT), self.cache.clone());
        match blocking(move || files::capture(&output, Purpose::Output, &cache)).await {
            Ok(Ok(captured)) if matches!(captured.root, Node::Directory { .. }) => Ok(captured),
            Ok(Ok(_)) => Err("output/ is no folder any more".into()),
            Ok(Err(error)) => Err(format!("output/ cannot be stored: {error}")),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn settle(mut self, _: bool) {
        // If the thread dies, so does the folder, a little later.
        _ = blocking(move || self.remove()).await;
    }
}

impl Scratch {
    fn remove(&mut self) {
        let Some(folder) = self.folder.take() else { return };
        // A folder that cannot be written to cannot be emptied either.
        set_writable(folder.path(), true);
        let path = folder.path().to_owned();
        if let Err(error) = folder.close() {
            tracing::warn!("the scratch folder {} was not removed: {error}", path.display());
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.remove();
    }
}

/// A scratch folder without inputs yet.
fn make(source: &Source) -> std::io::Result<TempDir> {
    let folder = tempfile::Builder::new().prefix("provender-dag-").tempdir()?;
    for name in [INPUTS, OUTPUT] {
        std::fs::create_dir(folder.path().join(name))?;
    }
    for entry in &source.entries {
        if let Some(name) = entry.file_name() {
            std::os::unix::fs::symlink(entry, folder.path().join(name))?;
        }
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_entries_are_linked_and_two_names_are_taken() {
        let source = tempfile::tempdir().unwrap();
        for name in ["a", ".hidden", "new\nline"] {
            std::fs::write(source.path().join(name), name).unwrap();
        }
        let folder = make(&Source::list(source.path()).unwrap()).unwrap();
        let mut names: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, [".hidden", "a", "inputs", "new\nline", "output"]);
        assert_eq!(std::fs::read_to_string(folder.path().join(".hidden")).unwrap(), ".hidden");
        for name in [INPUTS, OUTPUT] {
            std::fs::write(source.path().join(name), "").unwrap();
            let error = Source::list(source.path()).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("rename it"), "{error}");
            std::fs::remove_file(source.path().join(name)).unwrap();
        }
        assert!(matches!(Source::list(&source.path().join("none")), Err(SourceError::List { .. })));
        assert!(matches!(Source::list(&source.path().join("a")), Err(SourceError::List { .. })));
    }
}
