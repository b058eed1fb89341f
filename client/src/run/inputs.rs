//! What the command reads: looked at before and after, and checked out where it comes from the store.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use provender_core::spec::{self, Mount};
use provender_core::tree::Node;
use tempfile::TempDir;

use super::checkout::{check_out, same, set_writable};
use super::wait::unless_interrupted;
use super::{Input, RunError, Task, blocking, succeeded};
use crate::client::{Client, Described};
use crate::error::ClientError;
use crate::files::{self, CaptureError, Captured, HashCache, Purpose};
use crate::process::Control;

/// Why the inputs cannot be taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InputsError {
    /// One cannot be read.
    #[error("the input {} cannot be used: {source}", path.display())]
    Capture {
        /// As given.
        path: PathBuf,
        /// Why.
        source: CaptureError,
    },
    /// An input and an output are one, or one lies in the other.
    #[error("the input {} and the output {output} overlap: what is made cannot also be read; choose another folder for outputs", input.display())]
    Overlap {
        /// The input.
        input: PathBuf,
        /// The output.
        output: String,
    },
    /// One is named twice.
    #[error("the input {name:?} is given twice")]
    Twice {
        /// Its name.
        name: String,
    },
    /// A label is the name of a path.
    #[error("the label {name:?} and the path of that name collide: call the label something else")]
    Collision {
        /// Both's name.
        name: String,
    },
    /// They change again and again.
    #[error("the inputs keep changing while another run is waited for")]
    Moving,
    /// A reference does not lead to outputs.
    #[error("the input {label} cannot be used: {reference} is {verdict}, and only a success has outputs")]
    NoOutputs {
        /// Its label.
        label: String,
        /// As given.
        reference: String,
        /// What it is.
        verdict: String,
    },
    /// There is nothing to run.
    #[error("the task has no command")]
    NoCommand,
    /// A success has no outputs.
    #[error("the input {label} cannot be used: {reference} has succeeded without outputs")]
    NoTree {
        /// Its label.
        label: String,
        /// What it refers to.
        reference: String,
    },
    /// A reference cannot be looked up.
    #[error("the input {label} cannot be used: {source}")]
    Describe {
        /// Its label.
        label: String,
        /// Why.
        source: ClientError,
    },
    /// There is no room for what is checked out.
    #[error("no folder can be made for the inputs from the store: {0}")]
    Folder(std::io::Error),
}

impl InputsError {
    /// Whether what was asked for makes no sense, whatever is on disk.
    pub(super) fn is_usage(&self) -> bool {
        matches!(self, InputsError::Overlap { .. } | InputsError::Twice { .. } | InputsError::Collision { .. })
    }
}

/// The inputs as they were looked at.
#[derive(Debug)]
pub(super) struct Looked {
    paths: Vec<(PathBuf, Captured)>,
    references: Vec<(String, spec::Input)>,
    /// Where references are checked out; none if there are none.
    folder: Option<TempDir>,
}

/// Looks at all inputs of a task.
pub(super) async fn look(client: &Client, task: &Task, cache: &Arc<HashCache>) -> Result<Looked, RunError> {
    check_names(task)?;
    let mut looked = Looked { paths: Vec::new(), references: Vec::new(), folder: None };
    for input in &task.inputs {
        match input {
            Input::Path(path) => {
                check_overlap(task, path)?;
                let (whole, cache) = (task.cwd.join(path), cache.clone());
                let captured = blocking(move || files::capture(&whole, Purpose::Input, &cache)).await?;
                let captured = captured.map_err(|source| InputsError::Capture { path: path.clone(), source })?;
                looked.paths.push((path.clone(), captured));
            }
            Input::Reference { label, reference } => {
                let found = client.describe(reference).await;
                let found = found.map_err(|source| InputsError::Describe { label: label.clone(), source })?;
                let input = |content, key, execution| spec::Input {
                    mount: Mount::CheckedOut,
                    content: Some(content),
                    key,
                    execution,
                };
                let input = match found {
                    Described::Blob(digest) => input(Node::File { digest, executable: false }, None, None),
                    Described::Tree(digest) => input(Node::Directory { digest }, None, None),
                    Described::Registered(registered) => {
                        return Err(InputsError::NoOutputs {
                            label: label.clone(),
                            reference: reference.to_string(),
                            verdict: registered.verdict.to_string(),
                        }
                        .into());
                    }
                    Described::Task(found) => {
                        let made = &found.execution;
                        let stands = found.counts_for(reference);
                        let verdict = if stands { made.state.verdict() } else { found.verdict };
                        let outputs = succeeded(made).filter(|_| stands);
                        let outputs = outputs.ok_or_else(|| InputsError::NoOutputs {
                            label: label.clone(),
                            reference: reference.to_string(),
                            verdict: verdict.to_string(),
                        })?;
                        input(Node::Directory { digest: outputs }, Some(made.key.clone()), Some(made.id))
                    }
                };
                looked.references.push((label.clone(), input));
            }
        }
    }
    if !looked.references.is_empty() {
        let folder = tempfile::Builder::new().prefix("provender-in-").tempdir().map_err(InputsError::Folder)?;
        looked.folder = Some(folder);
    }
    Ok(looked)
}

impl Looked {
    /// The inputs as the spec has them.
    pub(super) fn spec(&self) -> BTreeMap<Bytes, spec::Input> {
        let paths = self.paths.iter().map(|(path, captured)| {
            let content = Some(captured.root.clone());
            let input = spec::Input { mount: Mount::InPlace, content, key: None, execution: None };
            (Bytes::from(path.clone().into_os_string().into_vec()), input)
        });
        let references = self.references.iter().map(|(label, input)| (Bytes::from(label.clone()), input.clone()));
        paths.chain(references).collect()
    }

    /// What the command is told of where references are.
    pub(super) fn env(&self) -> Vec<(OsString, Option<OsString>)> {
        let at = |label: &String| self.place(label).map(PathBuf::into_os_string);
        self.references.iter().map(|(label, _)| (format!("PROVENDER_IN_{label}").into(), at(label))).collect()
    }

    fn place(&self, label: &str) -> Option<PathBuf> {
        self.folder.as_ref().map(|folder| folder.path().join(label))
    }

    /// Keeps the manifests of input folders in the store, and checks references out, read-only.
    pub(super) async fn check_out(&self, client: &Client, control: &Control) -> Result<(), RunError> {
        for (_, captured) in &self.paths {
            let upload = async { Ok(client.upload_bytes(&captured.trees).await?) };
            unless_interrupted(control, 0, upload).await?;
        }
        for (label, input) in &self.references {
            let (Some(place), Some(content)) = (self.place(label), input.content.clone()) else { continue };
            check_out(client, control, content, place).await?;
        }
        Ok(())
    }

    /// Whether all inputs are as they were before the command ran; if not, which is not.
    pub(super) async fn look_again(&self, task: &Task, cache: &Arc<HashCache>) -> Result<(), String> {
        self.unmoved(task, cache).await?;
        for (label, input) in &self.references {
            let (Some(place), Some(content)) = (self.place(label), &input.content) else { continue };
            same(place, Path::new(label), content, cache).await?;
        }
        Ok(())
    }

    /// The same of those that are not of the store.
    pub(super) async fn unmoved(&self, task: &Task, cache: &Arc<HashCache>) -> Result<(), String> {
        for (path, captured) in &self.paths {
            same(task.cwd.join(path), path, &captured.root, cache).await?;
        }
        Ok(())
    }
}

impl Drop for Looked {
    fn drop(&mut self) {
        // A folder that cannot be written to cannot be emptied either.
        if let Some(folder) = &self.folder {
            set_writable(folder.path(), true);
        }
    }
}

/// The spec has one name for each input.
fn check_names(task: &Task) -> Result<(), InputsError> {
    let mut names = BTreeMap::new();
    for input in &task.inputs {
        let (name, is_path) = match input {
            Input::Path(path) => (path.as_os_str(), true),
            Input::Reference { label, .. } => (OsStr::new(label), false),
        };
        let shown = name.to_string_lossy().into_owned();
        match names.insert(name, is_path) {
            Some(other) if other == is_path => return Err(InputsError::Twice { name: shown }),
            Some(_) => return Err(InputsError::Collision { name: shown }),
            None => {}
        }
    }
    Ok(())
}

/// An input that holds an output would change by the very run; an output that holds an input would be moved away from it.
fn check_overlap(task: &Task, input: &Path) -> Result<(), InputsError> {
    let whole = task.cwd.join(input);
    let input_parts = parts(&whole);
    for output in task.outputs.iter() {
        let whole = task.cwd.join(OsString::from_vec(output.to_bytes().to_vec()));
        let output_parts = parts(&whole);
        let shared = input_parts.iter().zip(&output_parts).take_while(|(a, b)| a == b).count();
        if shared == input_parts.len() || shared == output_parts.len() {
            return Err(InputsError::Overlap { input: input.into(), output: output.to_string() });
        }
    }
    Ok(())
}

fn parts(path: &Path) -> Vec<&OsStr> {
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => _ = parts.pop(),
            other => parts.push(other.as_os_str()),
        }
    }
    parts
}
