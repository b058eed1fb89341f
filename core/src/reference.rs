//! REFs: how a person points at something in the store.

use std::fmt;
use std::str::FromStr;

use crate::digest::unhex;
use crate::execution::ExecutionId;
use crate::key::{self, TaskKey};
use crate::name::Name;

/// What a REF points at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ref {
    /// `exec:ID`: one execution, whatever became of it.
    Execution(ExecutionId),
    /// `blob:HEX`: bytes, by their hash.
    Blob([u8; 32]),
    /// `tree:HEX`: a directory, by the hash of its encoding.
    Tree([u8; 32]),
    /// `SCHEME:ID`: the record of a key.
    Key(TaskKey),
    /// A name's `nth` newest record, 1 being the newest.
    Name {
        /// The name.
        name: Name,
        /// Which of its records; without `@N` it is the one that `latest` is.
        nth: Option<u32>,
    },
}

/// Why a text is no REF.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a reference: {why}; it takes a NAME, NAME@N, a SCHEME:ID key, name:TEXT, exec:ID, blob:HEX or tree:HEX"
)]
pub struct RefError {
    /// The text as given, cut to its first 80 characters.
    pub text: String,
    /// What is wrong with it.
    pub why: String,
}

impl FromStr for Ref {
    type Err = RefError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).map_err(|why| RefError { text: text.chars().take(80).collect(), why })
    }
}

fn parse(text: &str) -> Result<Ref, String> {
    let hash = |hex| unhex(hex).ok_or_else(|| "it takes 64 hexadecimal digits".to_owned());
    let name = |text: &str| Name::new(text).map_err(|error| error.to_string());
    match text.split_once(':') {
        Some(("exec", id)) => {
            id.parse().map(Ref::Execution).map_err(|_| "an execution id has 32 hexadecimal digits".into())
        }
        Some(("blob", hex)) => hash(hex).map(Ref::Blob),
        Some(("tree", hex)) => hash(hex).map(Ref::Tree),
        Some(("name", text)) => Ok(Ref::Name { name: name(text)?, nth: None }),
        Some((scheme, id)) if key::is_scheme(scheme) => {
            TaskKey::new(scheme, id).map(Ref::Key).map_err(|error| error.why.to_owned())
        }
        _ => match text.rsplit_once('@') {
            Some((before, nth)) if !nth.is_empty() && nth.bytes().all(|byte| byte.is_ascii_digit()) => {
                let nth = nth.parse().ok().filter(|nth| *nth > 0).ok_or("the N of @N counts from 1 (the newest)")?;
                Ok(Ref::Name { name: name(before)?, nth: Some(nth) })
            }
            _ => Ok(Ref::Name { name: name(text)?, nth: None }),
        },
    }
}

impl fmt::Display for Ref {
    /// A form that parses back to the same.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ref::Execution(id) => write!(f, "exec:{id}"),
            Ref::Blob(hash) => write!(f, "blob:{}", crate::digest::hex(hash)),
            Ref::Tree(hash) => write!(f, "tree:{}", crate::digest::hex(hash)),
            Ref::Key(key) => write!(f, "{key}"),
            Ref::Name { name, nth: Some(nth) } => write!(f, "{name}@{nth}"),
            Ref::Name { name, nth: None } => match parse(name.as_str()) {
                Ok(Ref::Name { nth: None, .. }) => write!(f, "{name}"),
                _ => write!(f, "name:{name}"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_parses_prints_and_parses_the_same(text in "(name:|exec:|blob:|tree:|[a-z]{1,4}:)?[a-zA-Z0-9@/: %]{1,12}(@[0-9]{1,3})?") {
            if let Ok(reference) = text.parse::<Ref>() {
                // A name whose own text ends in @N cannot also carry an N; the parser never makes one with both.
                prop_assert_eq!(reference.to_string().parse(), Ok(reference));
            }
        }
    }

    #[test]
    fn tells_them_apart() {
        let name = |text: &str, nth| Ref::Name { name: Name::new(text).expect("valid"), nth };
        for (text, is) in [
            ("zstd/lib", name("zstd/lib", None)),
            ("zstd@3", name("zstd", Some(3))),
            ("a@b@2", name("a@b", Some(2))),
            ("user@host", name("user@host", None)),
            ("name:run:x", name("run:x", None)),
            ("name:zstd@3", name("zstd@3", None)),
            ("Run:x", name("Run:x", None)),
            ("a b:x", name("a b:x", None)),
            ("run:x@2", Ref::Key("run:x@2".parse().expect("valid"))),
        ] {
            assert_eq!(text.parse(), Ok(is), "{text}");
        }
        for text in ["", "zstd@0", "exec:12", "blob:xyz", "run:", "a@99999999999", "@1"] {
            assert!(text.parse::<Ref>().is_err(), "{text:?}");
        }
    }
}
