//! Task keys: what a lookup asks for.

use std::fmt;
use std::str::FromStr;

/// The longest id, in bytes.
pub const MAX_ID: usize = 256;

/// `scheme:id`. The scheme says who made the key (`run`, `alamode`, `put`, …); the id is opaque.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskKey {
    text: Box<str>,
    colon: u8,
}

/// Why a text is no task key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a task key: {why}; it takes SCHEME:ID, for example run:4f2a…")]
pub struct KeyError {
    /// The text as given, cut to its first 80 characters.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

/// Whether a text can be a scheme: `[a-z][a-z0-9-]{0,31}`.
pub fn is_scheme(text: &str) -> bool {
    let rest = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=32).contains(&text.len()) && text.as_bytes()[0].is_ascii_lowercase() && text.bytes().all(rest)
}

/// What is wrong with these parts of a key.
fn flaw(scheme: &str, id: &str) -> Option<&'static str> {
    let is_plain = |byte: u8| (b' '..=b'~').contains(&byte);
    if !is_scheme(scheme) {
        Some("the scheme is not [a-z][a-z0-9-]{0,31}")
    } else if id.is_empty() {
        Some("the id is empty")
    } else if id.len() > MAX_ID {
        Some("the id is longer than 256 bytes")
    } else if !id.bytes().all(is_plain) && id.chars().any(char::is_control) {
        Some("the id has a control character")
    } else {
        None
    }
}

impl TaskKey {
    /// A key out of its two parts. The id is 1 to 256 bytes of UTF-8 without control characters.
    pub fn new(scheme: &str, id: &str) -> Result<TaskKey, KeyError> {
        TaskKey::of(format!("{scheme}:{id}"), flaw(scheme, id), scheme.len())
    }

    /// The key of this text, unless it has a flaw.
    fn of(text: String, flaw: Option<&'static str>, colon: usize) -> Result<TaskKey, KeyError> {
        match flaw {
            None => Ok(TaskKey { text: text.into(), colon: colon as u8 }),
            Some(why) => Err(KeyError { text: text.chars().take(80).collect(), why }),
        }
    }

    /// What stands before the colon.
    pub fn scheme(&self) -> &str {
        &self.text[..usize::from(self.colon)]
    }

    /// What stands after the first colon.
    pub fn id(&self) -> &str {
        &self.text[usize::from(self.colon) + 1..]
    }

    /// The whole, as it is printed.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for TaskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Takes the text as it is, without copying it.
impl TryFrom<String> for TaskKey {
    type Error = KeyError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let (flaw, colon) = match text.split_once(':') {
            Some((scheme, id)) => (flaw(scheme, id), scheme.len()),
            None => (Some("it has no colon"), 0),
        };
        TaskKey::of(text, flaw, colon)
    }
}

impl FromStr for TaskKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.to_owned().try_into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_parses_prints_the_same(text: String) {
            if let Ok(key) = text.parse::<TaskKey>() {
                prop_assert_eq!(key.to_string(), text);
            }
        }

        #[test]
        fn parts_round_trip(scheme in "[a-z][a-z0-9-]{0,31}", id in "[^\\x00-\\x1f\\x7f-\\u{9f}]{1,60}") {
            let key = TaskKey::new(&scheme, &id).expect("valid");
            prop_assert_eq!((key.scheme(), key.id()), (&*scheme, &*id));
            prop_assert_eq!(key.to_string().parse(), Ok(key));
        }
    }

    #[test]
    fn refuses_what_is_no_key() {
        for text in
            ["", "run", "run:", ":x", "Run:x", "1run:x", "ru n:x", "run:a\nb", &format!("run:{}", "x".repeat(257))]
        {
            assert!(text.parse::<TaskKey>().is_err(), "{text:?}");
        }
        assert!(format!("{}:{}", "a".repeat(32), "x".repeat(256)).parse::<TaskKey>().is_ok());
        assert!(TaskKey::new(&"a".repeat(33), "x").is_err());
    }
}
