//! The success policy: what an attempt must have done to count as a genuine success.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::execution::Exit;

/// What a spec demands of a success. The default allows exit code 0 only and demands no path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The exit codes that count as success; a death by signal never does.
    pub exit_codes: Vec<i32>,
    /// Paths of the output tree that must be there, each with the least size of the file in bytes (0 demands existence alone).
    pub required: BTreeMap<Bytes, u64>,
    /// Whether an output tree without entries is refused.
    pub refuse_empty: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Policy { exit_codes: vec![0], required: BTreeMap::new(), refuse_empty: false }
    }
}

/// What was found of an output tree, gathered by whoever can read it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    /// How many entries the root has.
    pub entries: usize,
    /// Of each path that the policy or the spec asks for: the size of the file in bytes (0 for a folder or a link), if it is there.
    pub paths: BTreeMap<Bytes, Option<u64>>,
}

/// Why an attempt is no success.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// The command's end is not an allowed one.
    #[error("the command {exit}, which its success policy does not allow")]
    Exit {
        /// How it ended.
        exit: Exit,
    },
    /// A declared output or required path is missing.
    #[error("the declared output {:?} is not there", String::from_utf8_lossy(path))]
    Missing {
        /// Which.
        path: Bytes,
    },
    /// A required file is too small.
    #[error(
        "the output {:?} has {size} bytes, fewer than the {least} that its success policy demands",
        String::from_utf8_lossy(path)
    )]
    Small {
        /// Which.
        path: Bytes,
        /// Its size.
        size: u64,
        /// The least allowed.
        least: u64,
    },
    /// The output tree has no entries.
    #[error("the output is empty")]
    Empty,
}

impl Violation {
    /// The rule that was broken, for programs: `exit_codes`, `outputs`, `least_size` or `not_empty`.
    pub fn rule(&self) -> &'static str {
        match self {
            Violation::Exit { .. } => "exit_codes",
            Violation::Missing { .. } => "outputs",
            Violation::Small { .. } => "least_size",
            Violation::Empty => "not_empty",
        }
    }
}

/// Judges how a command ended, by itself.
pub fn judge_exit(policy: &Policy, exit: Exit) -> Result<(), Violation> {
    match exit {
        Exit::Code(code) if policy.exit_codes.contains(&code) => Ok(()),
        _ => Err(Violation::Exit { exit }),
    }
}

/// Judges an attempt: the first thing that keeps it from being a success, if any.
pub fn judge(policy: &Policy, declared: &[Bytes], exit: Exit, found: &Found) -> Result<(), Violation> {
    judge_exit(policy, exit)?;
    let least = |path: &Bytes| policy.required.get(path).copied().unwrap_or(0);
    for path in declared.iter().chain(policy.required.keys()) {
        match found.paths.get(path).copied().flatten() {
            None => return Err(Violation::Missing { path: path.clone() }),
            Some(size) if size < least(path) => {
                return Err(Violation::Small { path: path.clone(), size, least: least(path) });
            }
            Some(_) => {}
        }
    }
    if policy.refuse_empty && found.entries == 0 {
        return Err(Violation::Empty);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(paths: &[(&'static str, Option<u64>)]) -> Found {
        Found { entries: paths.len(), paths: paths.iter().map(|(path, size)| (Bytes::from(*path), *size)).collect() }
    }

    #[test]
    fn each_rule_refuses_by_itself() {
        let declared = [Bytes::from("a")];
        let ok = Exit::Code(0);
        let mut policy = Policy::default();
        assert_eq!(judge(&policy, &declared, ok, &found(&[("a", Some(0))])), Ok(()));
        assert_eq!(judge(&policy, &declared, ok, &found(&[("a", None)])), Err(Violation::Missing { path: "a".into() }));
        assert_eq!(judge(&policy, &declared, ok, &Found::default()), Err(Violation::Missing { path: "a".into() }));
        for exit in [Exit::Code(1), Exit::Signal(9), Exit::Signal(0)] {
            assert_eq!(judge(&policy, &[], exit, &Found::default()), Err(Violation::Exit { exit }));
        }
        policy.required.insert("b".into(), 5);
        let both = |size| found(&[("a", Some(0)), ("b", Some(size))]);
        assert_eq!(judge(&policy, &declared, ok, &both(5)), Ok(()));
        assert_eq!(
            judge(&policy, &declared, ok, &both(4)),
            Err(Violation::Small { path: "b".into(), size: 4, least: 5 })
        );
        policy = Policy { refuse_empty: true, exit_codes: vec![0, 3], ..Policy::default() };
        assert_eq!(judge(&policy, &[], Exit::Code(3), &Found::default()), Err(Violation::Empty));
        assert_eq!(judge(&policy, &[], Exit::Code(3), &found(&[("x", Some(1))])), Ok(()));
    }
}
