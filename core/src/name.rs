//! Names that people give: of tasks, and of spaces.

use std::fmt;
use std::sync::Arc;

use crate::execution::ExecutionId;
use crate::key::TaskKey;

/// The longest name, in bytes.
pub const MAX_NAME: usize = 1024;

/// What a task is called: UTF-8, at most 1,024 bytes; `/` parts it, and no part is empty, `.` or `..`; no control characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} cannot be a name: it {why}")]
pub struct NameError {
    /// The text as given, cut to its first 80 characters.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl NameError {
    fn new(text: &str, why: &'static str) -> NameError {
        NameError { text: text.chars().take(80).collect(), why }
    }
}

impl Name {
    /// Checks a text and takes it as a name.
    pub fn new(text: impl Into<String>) -> Result<Name, NameError> {
        let text = text.into();
        let why = if text.is_empty() {
            "is empty"
        } else if text.len() > MAX_NAME {
            "is longer than 1,024 bytes"
        } else if text.chars().any(char::is_control) {
            "has a control character"
        } else if text.split('/').any(|part| matches!(part, "." | "..")) {
            "has a part that is `.` or `..`"
        } else if text.split('/').any(str::is_empty) {
            "has an empty part (a slash at its begin or end, or two in a row)"
        } else {
            return Ok(Name(text.into()));
        };
        Err(NameError::new(&text, why))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands between the slashes; at least one part.
    pub fn parts(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/')
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The row of a name: what it stands for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NameRow {
    /// The execution that `latest` is.
    pub latest: Option<ExecutionId>,
    /// The key that was last registered under it, as long as it has no `latest`.
    pub registered: Option<TaskKey>,
}

/// An isolated set of records and holdings: at most 254 bytes, no control characters. The default one is the empty text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Space(String);

impl Space {
    /// Checks a text and takes it as a space.
    pub fn new(text: impl Into<String>) -> Result<Space, NameError> {
        let text = text.into();
        if text.len() > 254 {
            Err(NameError::new(&text, "is longer than 254 bytes"))
        } else if text.chars().any(char::is_control) {
            Err(NameError::new(&text, "has a control character"))
        } else {
            Ok(Space(text))
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_people_write() {
        for name in
            ["a", "zstd/huf_compress.o", "Grüße aus Köln", "a b", "%", "latest", "x@2", "...", &"x".repeat(1024)]
        {
            assert!(Name::new(name).is_ok(), "{name:?}");
        }
    }

    #[test]
    fn refuses_what_could_not_be_a_path() {
        for name in ["", "/", "a//b", "/a", "a/", ".", "a/../b", "./a", "a\nb", "a\0", "\u{85}", &"x".repeat(1025)] {
            assert!(Name::new(name).is_err(), "{name:?}");
        }
    }
}
