//! Remarks: what people say of an execution, and may change at any time.
//!
//! Owns [`Labels`] and [`Remarks`], and what they may be. Invariant: nothing that is said of an execution changes what it is: no verdict,
//! key or record depends on a remark.

use std::collections::BTreeMap;

/// The most labels of an execution.
pub const MAX_LABELS: usize = 64;
/// The longest name of a label, in bytes.
pub const MAX_LABEL: usize = 64;
/// The longest value of a label, in bytes.
pub const MAX_VALUE: usize = 256;
/// The longest note, in bytes.
pub const MAX_NOTE: usize = 4 << 10;

/// What people say of an execution.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Remarks {
    /// For searching.
    pub labels: Labels,
    /// For reading; empty if there is none.
    pub note: String,
}

/// Labels by name: at most 64. A name has 1 to 64 of `A-Za-z0-9_-./`, a value at most 256 bytes and no control characters.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Labels(BTreeMap<String, String>);

/// Why something cannot be said of an execution.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RemarkError {
    /// A text is not `NAME=VALUE`.
    #[error("{0:?} is no label: it takes NAME=VALUE")]
    NoValue(String),
    /// A label cannot be called so.
    #[error("{0:?} cannot be the name of a label: it takes 1 to {MAX_LABEL} of A-Z a-z 0-9 _ - . /")]
    Name(String),
    /// A label cannot have this value.
    #[error("the value of label {0} is longer than {MAX_VALUE} bytes, or has a control character")]
    Value(String),
    /// There are too many.
    #[error("an execution has at most {MAX_LABELS} labels")]
    Many,
    /// A note is too long.
    #[error("a note has at most {MAX_NOTE} bytes, and no control characters but line ends and tabs")]
    Note,
}

impl Labels {
    /// Sets a label.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<String>) -> Result<(), RemarkError> {
        let (name, value) = (name.into(), value.into());
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./".contains(&byte);
        if !(1..=MAX_LABEL).contains(&name.len()) || !name.bytes().all(is_part) {
            return Err(RemarkError::Name(name.chars().take(80).collect()));
        }
        if value.len() > MAX_VALUE || value.chars().any(char::is_control) {
            return Err(RemarkError::Value(name));
        }
        if self.0.len() >= MAX_LABELS && !self.0.contains_key(&name) {
            return Err(RemarkError::Many);
        }
        self.0.insert(name, value);
        Ok(())
    }

    /// Takes a label away; fine if there is none.
    pub fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// The value of a label.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// All, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// `NAME=VALUE`, as people write a label.
pub fn label(text: &str) -> Result<(String, String), RemarkError> {
    let (name, value) = text.split_once('=').ok_or_else(|| RemarkError::NoValue(text.chars().take(80).collect()))?;
    Labels::default().set(name, value)?;
    Ok((name.to_owned(), value.to_owned()))
}

/// A text that can be a note.
pub fn note(text: &str) -> Result<String, RemarkError> {
    let text = text.trim_end();
    let strange = |c: char| c.is_control() && c != '\n' && c != '\t';
    if text.len() > MAX_NOTE || text.chars().any(strange) { Err(RemarkError::Note) } else { Ok(text.to_owned()) }
}

/// A change of what is said of an execution.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Remark {
    /// Labels to be set.
    pub labels: BTreeMap<String, String>,
    /// Labels to be taken away.
    pub remove: Vec<String>,
    /// The note to be set; an empty one takes it away.
    pub note: Option<String>,
}

impl Remarks {
    /// These, changed: first what is taken away, then what is set.
    pub fn with(mut self, remark: &Remark) -> Result<Remarks, RemarkError> {
        remark.remove.iter().for_each(|name| self.labels.remove(name));
        remark.labels.iter().try_for_each(|(name, value)| self.labels.set(name, value))?;
        if let Some(text) = &remark.note {
            self.note = note(text)?;
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_a_name_and_a_value() {
        let pair = |name: &str, value: &str| Ok((name.to_owned(), value.to_owned()));
        assert_eq!(label("a=b=c"), pair("a", "b=c"));
        assert_eq!(label("team/stage.x-1_Z="), pair("team/stage.x-1_Z", ""));
        assert_eq!(label("a"), Err(RemarkError::NoValue("a".into())));
        for name in ["", "a b", "ä", &"x".repeat(65), "a:b"] {
            assert_eq!(label(&format!("{name}=1")), Err(RemarkError::Name(name.into())));
        }
        for value in [&"x".repeat(257), "a\nb", "\u{1b}"] {
            assert_eq!(label(&format!("a={value}")), Err(RemarkError::Value("a".into())));
        }
    }

    #[test]
    fn remarks_change_by_name() {
        let remark = |set: &[(&str, &str)], remove: &[&str], note: Option<&str>| Remark {
            labels: set.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            remove: remove.iter().map(|name| (*name).into()).collect(),
            note: note.map(str::to_owned),
        };
        let first = Remarks::default().with(&remark(&[("a", "1"), ("b", "2")], &[], Some("good\n"))).expect("valid");
        assert_eq!((first.labels.get("b"), &*first.note), (Some("2"), "good"));
        let second = first.clone().with(&remark(&[("a", "3")], &["a", "b", "c"], None)).expect("valid");
        assert_eq!((second.labels.iter().collect::<Vec<_>>(), &*second.note), (vec![("a", "3")], "good"));
        assert_eq!(second.with(&remark(&[], &[], Some(""))).expect("valid").note, "");
        assert_eq!(Remarks::default().with(&remark(&[], &[], Some("\u{7}"))), Err(RemarkError::Note));
        let many: Vec<_> = (0..65).map(|n| format!("l{n}")).collect();
        let many: Vec<_> = many.iter().map(|name| (&**name, "")).collect();
        assert_eq!(Remarks::default().with(&remark(&many, &[], None)), Err(RemarkError::Many));
        assert!(Remarks::default().with(&remark(&many[1..], &[], None)).is_ok());
    }
}
