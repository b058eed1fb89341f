//! Outputs: the paths that a run declares with `--out`.
//!
//! Invariant: each is relative, stays inside the working folder by its own text, and none lies in another.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;

use bytes::Bytes;
use provender_core::tree::{MAX_DEPTH, MAX_NAME};

/// One declared path, as its parts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OutputPath {
    parts: Vec<Bytes>,
}

impl OutputPath {
    /// The parts, at least one, each a name that an entry may have.
    pub fn parts(&self) -> &[Bytes] {
        &self.parts
    }

    /// The path in its normal form: parts joined by single slashes, none at the end.
    pub fn to_bytes(&self) -> Bytes {
        self.parts.join(&b'/').into()
    }

    pub(super) fn split(&self) -> (&[Bytes], &Bytes) {
        let (name, folder) = self.parts.split_last().expect("parse refuses a path without parts");
        (folder, name)
    }
}

impl fmt::Display for OutputPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.to_bytes()))
    }
}

/// Why declared paths are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OutputsError {
    /// The path itself is unfit.
    #[error("the output path {path:?} {why}")]
    Unfit {
        /// The path as given, as text.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// One path is another, or lies in it.
    #[error("the output paths {outer:?} and {inner:?} overlap: declare only one of them")]
    Overlap {
        /// The shorter one.
        outer: String,
        /// The one equal to it or in it.
        inner: String,
    },
}

/// Declared paths, sorted, free of overlaps; possibly none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outputs {
    paths: Vec<OutputPath>,
}

impl Outputs {
    /// Reads paths as a user writes them: `./a//b/` is `a/b`.
    pub fn parse<P: AsRef<OsStr>>(paths: impl IntoIterator<Item = P>) -> Result<Outputs, OutputsError> {
        let mut paths = paths.into_iter().map(|path| parse(path.as_ref())).collect::<Result<Vec<_>, _>>()?;
        // Ordered part by part, what lies in a path follows right behind it.
        paths.sort();
        if let Some(pair) = paths.windows(2).find(|pair| pair[1].parts.starts_with(&pair[0].parts)) {
            return Err(OutputsError::Overlap { outer: pair[0].to_string(), inner: pair[1].to_string() });
        }
        Ok(Outputs { paths })
    }

    /// The paths, sorted part by part.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &OutputPath> {
        self.paths.iter()
    }

    /// Whether nothing is declared.
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }
}

fn parse(path: &OsStr) -> Result<OutputPath, OutputsError> {
    let bytes = path.as_bytes();
    let unfit = |why| Err(OutputsError::Unfit { path: path.to_string_lossy().into_owned(), why });
    if bytes.starts_with(b"/") {
        return unfit("is absolute: give it relative to the working folder");
    }
    if bytes.contains(&0) {
        return unfit("has a NUL byte");
    }
    let parts: Vec<_> = bytes.split(|&byte| byte == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
    match &parts[..] {
        [] => unfit("names the working folder itself: name something in it"),
        parts if parts.contains(&&b".."[..]) => unfit("has a `..`: it must stay inside the working folder"),
        parts if parts.len() > MAX_DEPTH => unfit("is nested too deeply"),
        parts if parts.iter().any(|part| part.len() > MAX_NAME) => unfit("has a part longer than 255 bytes"),
        parts => Ok(OutputPath { parts: parts.iter().map(|part| Bytes::copy_from_slice(part)).collect() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_all(paths: &[&str]) -> Result<Vec<String>, OutputsError> {
        Ok(Outputs::parse(paths)?.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn paths_are_normalised_and_sorted() {
        assert_eq!(parse_all(&["c", "./a//b/", "a./x", "..."]).unwrap(), ["...", "a/b", "a./x", "c"]);
    }

    #[test]
    fn what_leads_outside_or_nowhere_is_refused() {
        for path in
            ["", ".", "./", "/", "/a", "..", "a/..", "a/../b", "../a", "a\0b", &"x".repeat(256), &"a/".repeat(257)]
        {
            assert!(matches!(parse_all(&[path]), Err(OutputsError::Unfit { .. })), "{path:?}");
        }
    }

    #[test]
    fn overlaps_are_refused_and_neighbours_are_not() {
        for paths in [&["a", "a"][..], &["a", "./a/"], &["a/b", "a"], &["a", "a!", "a/b/c"]] {
            assert!(matches!(parse_all(paths), Err(OutputsError::Overlap { .. })), "{paths:?}");
        }
        assert_eq!(parse_all(&["a/b", "a/bc", "ab", "a/c/b"]).unwrap().len(), 4);
    }
}
