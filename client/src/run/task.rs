//! What is to be run, as its user declares it, and the spec that it comes to.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use provender_core::execution::Executor;
use provender_core::key::TaskKey;
use provender_core::name::Name;
use provender_core::remarks::Remarks;
use provender_core::spec::{self, Variable};
use provender_core::{Ref, Spec};

use crate::files::Outputs;

/// What to run, and what it reads and makes.
#[derive(Debug, Clone)]
pub struct Task {
    /// What it is called.
    pub name: Name,
    /// The key, if it is not to be derived.
    pub key: Option<TaskKey>,
    /// The command and its arguments.
    pub argv: Vec<OsString>,
    /// Where it runs, and what paths are relative to.
    pub cwd: PathBuf,
    /// What it reads.
    pub inputs: Vec<Input>,
    /// What it makes.
    pub outputs: Outputs,
    /// Variables that count.
    pub env: Vec<OsString>,
    /// Variables that count, and whose values are not to be kept.
    pub secret_env: Vec<OsString>,
    /// Whether the command's output is kept only, and not shown.
    pub quiet: bool,
    /// How long the lease lasts from each beat; zero for the daemon's default.
    pub ttl: Duration,
    /// Whether to run it although there is a record, and compare.
    pub check: bool,
    /// Whether to say first why it has to run.
    pub why: bool,
    /// Who runs it.
    pub executor: Executor,
    /// What is said of the execution from the first.
    pub remarks: Remarks,
    /// The folder for locks on outputs; without one, runs that make the same path don't wait for each other.
    pub locks: Option<PathBuf>,
}

/// Something that the command reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A file or folder, relative to the working folder.
    Path(PathBuf),
    /// Something of the store, checked out at `$PROVENDER_IN_<label>`.
    Reference {
        /// `[A-Za-z_][A-Za-z0-9_]*`.
        label: String,
        /// What.
        reference: Ref,
    },
}

impl Input {
    /// A path in its normal form: `./a//b/` is `a/b`; `..` stays, since a link may stand before it.
    pub fn path(path: OsString) -> Input {
        let bytes = path.as_bytes();
        let is_part = |part: &&[u8]| !part.is_empty() && *part != b".";
        let parts: Vec<_> = bytes.split(|byte| *byte == b'/').filter(is_part).collect();
        let (root, below) = (bytes.starts_with(b"/"), parts.join(&b'/'));
        let normal = match (root, below.is_empty()) {
            (true, _) => [b"/", &below[..]].concat(),
            (false, true) => b".".to_vec(),
            (false, false) => below,
        };
        Input::Path(OsString::from_vec(normal).into())
    }
}

impl Task {
    /// The spec, with the inputs as they were found.
    pub(super) fn spec(&self, inputs: BTreeMap<Bytes, spec::Input>) -> Spec {
        let mut spec = Spec::new(self.name.clone());
        let bytes = |text: &OsString| Bytes::from(text.clone().into_vec());
        spec.command = self.argv.iter().map(bytes).collect();
        for name in &self.env {
            let plain = |value: OsString| Variable::Plain(value.into_vec().into());
            spec.env.insert(bytes(name), std::env::var_os(name).map_or(Variable::Unset, plain));
        }
        for name in &self.secret_env {
            let secret = |value: OsString| Variable::secret(name.as_bytes(), value.as_bytes());
            spec.env.insert(bytes(name), std::env::var_os(name).map_or(Variable::Unset, secret));
        }
        spec.inputs = inputs;
        spec.outputs = self.outputs.iter().map(|path| path.to_bytes()).collect();
        spec
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_path_has_one_form() {
        for (given, normal) in [
            ("a", "a"),
            ("./a", "a"),
            ("a//b/./c/", "a/b/c"),
            (".", "."),
            ("./", "."),
            ("/", "/"),
            ("//a/", "/a"),
            ("../a/../b", "../a/../b"),
            ("./a=b", "a=b"),
        ] {
            assert_eq!(Input::path(given.into()), Input::Path(normal.into()), "{given}");
        }
    }
}
