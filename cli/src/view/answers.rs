//! What the view asked and was answered, as bytes that are kept.
//!
//! Invariant: two questions have one key only if they are the same question to the same store; what decodes is what was encoded. Nothing here
//! is read by anybody else, so a change of it makes what is kept unknown, and no more: [`VERSION`] is part of each key.

use bytes::Bytes;
use provender_core::provenance::{Branch, Origin, Place};
use provender_core::{Digest, ExecutionId, Name, TaskKey, Timestamp, tree};
use provender_fuse::{Consumers, Entry, Input, Page};

/// Of the encoding.
const VERSION: &str = "provender 2026-11 what a view was answered, 1";

/// A question under way to its key.
#[derive(Clone)]
pub(super) struct Question {
    kind: &'static str,
    hasher: blake3::Hasher,
}

impl Question {
    /// A kind of question to a store.
    pub(super) fn new(scope: &str, kind: &'static str) -> Question {
        Question { kind, hasher: blake3::Hasher::new_derive_key(VERSION) }.text(scope).text(kind)
    }

    pub(super) fn kind(&self) -> &'static str {
        self.kind
    }

    pub(super) fn key(self) -> [u8; 32] {
        *self.hasher.finalize().as_bytes()
    }

    pub(super) fn bytes(mut self, bytes: &[u8]) -> Question {
        self.hasher.update(&(bytes.len() as u64).to_be_bytes()).update(bytes);
        self
    }

    pub(super) fn text(self, text: &str) -> Question {
        self.bytes(text.as_bytes())
    }

    pub(super) fn number(self, number: u64) -> Question {
        self.bytes(&number.to_be_bytes())
    }

    pub(super) fn branch(self, branch: Branch) -> Question {
        match branch {
            Branch::Tasks => self.text("tasks"),
            Branch::Failed => self.text("failed"),
        }
    }

    /// A page of a list.
    pub(super) fn page(self, after: Option<&str>, limit: usize) -> Question {
        let question = match after {
            None => self.text("from the first"),
            Some(after) => self.text("after").text(after),
        };
        question.number(limit as u64)
    }
}

/// The bytes of an answer.
pub(super) fn encode<T: Answer>(answer: &T) -> Vec<u8> {
    let mut out = Vec::new();
    answer.write(&mut out);
    out
}

/// The answer that these are the bytes of.
pub(super) fn decode<T: Answer>(mut bytes: &[u8]) -> Option<T> {
    let answer = T::read(&mut bytes)?;
    bytes.is_empty().then_some(answer)
}

/// Something that can be kept.
pub(super) trait Answer: Sized {
    fn write(&self, out: &mut Vec<u8>);
    fn read(from: &mut &[u8]) -> Option<Self>;
}

fn take<'a>(from: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (head, rest) = from.split_at_checked(count)?;
    *from = rest;
    Some(head)
}

impl Answer for u64 {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_be_bytes());
    }

    fn read(from: &mut &[u8]) -> Option<u64> {
        take(from, 8)?.try_into().ok().map(u64::from_be_bytes)
    }
}

impl Answer for Bytes {
    fn write(&self, out: &mut Vec<u8>) {
        (self.len() as u64).write(out);
        out.extend_from_slice(self);
    }

    fn read(from: &mut &[u8]) -> Option<Bytes> {
        let len = usize::try_from(u64::read(from)?).ok()?;
        take(from, len).map(Bytes::copy_from_slice)
    }
}

impl<T: Answer> Answer for Vec<T> {
    fn write(&self, out: &mut Vec<u8>) {
        (self.len() as u64).write(out);
        self.iter().for_each(|item| item.write(out));
    }

    fn read(from: &mut &[u8]) -> Option<Vec<T>> {
        // Grows as they come: the count alone takes no memory.
        (0..u64::read(from)?).map(|_| T::read(from)).collect()
    }
}

impl<T: Answer> Answer for Option<T> {
    fn write(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.is_some()));
        self.iter().for_each(|item| item.write(out));
    }

    fn read(from: &mut &[u8]) -> Option<Option<T>> {
        match take(from, 1)? {
            [0] => Some(None),
            [1] => T::read(from).map(Some),
            _ => None,
        }
    }
}

/// What is kept as the bytes of something else.
macro_rules! kept_as {
    ($($type:ty as $other:ty: $to:expr, $from:expr;)*) => {$(
        impl Answer for $type {
            fn write(&self, out: &mut Vec<u8>) {
                let to: fn(&$type) -> $other = $to;
                to(self).write(out);
            }

            fn read(from: &mut &[u8]) -> Option<$type> {
                let make: fn($other) -> Option<$type> = $from;
                make(<$other>::read(from)?)
            }
        }
    )*};
}

kept_as! {
    String as Bytes: |text| Bytes::copy_from_slice(text.as_bytes()), |bytes| String::from_utf8(bytes.into()).ok();
    Timestamp as u64: |at| at.millis(), |millis| Some(Timestamp::from_millis(millis));
    Name as String: |name| name.as_str().to_owned(), |text| Name::new(text).ok();
    TaskKey as String: |key| key.as_str().to_owned(), |text| text.parse().ok();
    ExecutionId as Bytes: |id| Bytes::copy_from_slice(&id.0), |bytes| Some(ExecutionId(bytes[..].try_into().ok()?));
    Digest as Bytes: |digest| Bytes::copy_from_slice(&digest.to_bytes()), |bytes| Digest::from_bytes(&bytes);
}

/// What is kept field by field.
macro_rules! kept_whole {
    ($($type:ident { $($field:ident),* })*) => {$(
        impl Answer for $type {
            fn write(&self, out: &mut Vec<u8>) {
                $(self.$field.write(out);)*
            }

            fn read(from: &mut &[u8]) -> Option<$type> {
                $(let $field = Answer::read(from)?;)*
                Some($type { $($field),* })
            }
        }
    )*};
}

kept_whole! {
    Place { name, folder, at }
    Consumers { items, next }
    Entry { id, key, name, folder, at, outputs, stdout, stderr }
    Input { name, origin, document }
}

impl Answer for Page<String> {
    fn write(&self, out: &mut Vec<u8>) {
        self.items.write(out);
        u64::from(self.more).write(out);
    }

    fn read(from: &mut &[u8]) -> Option<Page<String>> {
        Some(Page { items: Answer::read(from)?, more: u64::read(from)? != 0 })
    }
}

impl Answer for Origin<Place> {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Origin::Unheld => out.push(0),
            Origin::Made(place) => {
                out.push(1);
                place.write(out);
            }
            Origin::Held(tree::Node::File { digest, executable }) => {
                out.push(2 + u8::from(*executable));
                digest.write(out);
            }
            Origin::Held(tree::Node::Directory { digest }) => {
                out.push(4);
                digest.write(out);
            }
            Origin::Held(tree::Node::Symlink { target }) => {
                out.push(5);
                target.write(out);
            }
        }
    }

    fn read(from: &mut &[u8]) -> Option<Origin<Place>> {
        Some(match take(from, 1)? {
            [0] => Origin::Unheld,
            [1] => Origin::Made(Place::read(from)?),
            [is_file @ (2 | 3)] => {
                Origin::Held(tree::Node::File { digest: Digest::read(from)?, executable: *is_file == 3 })
            }
            [4] => Origin::Held(tree::Node::Directory { digest: Digest::read(from)? }),
            [5] => Origin::Held(tree::Node::Symlink { target: Bytes::read(from)? }),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use super::*;

    fn comes_back<T: Answer + PartialEq + Debug>(answer: T) {
        let bytes = encode(&answer);
        assert_eq!(decode::<T>(&bytes).as_ref(), Some(&answer));
        for cut in 0..bytes.len() {
            assert_eq!(decode::<T>(&bytes[..cut]), None, "cut at {cut}");
        }
        assert_eq!(decode::<T>(&[&bytes[..], &[0]].concat()), None, "more than there was");
    }

    #[test]
    fn answers_come_back_as_they_were() {
        let digest = Digest::of(b"x");
        let place = Place { name: Name::new("a/ü").unwrap(), folder: "f".into(), at: Timestamp::from_millis(7) };
        let entry = Entry {
            id: ExecutionId([3; 16]),
            key: "run:1:2".parse().unwrap(),
            name: place.name.clone(),
            folder: "g".into(),
            at: place.at,
            outputs: Some(digest),
            stdout: None,
            stderr: Some(digest),
        };
        comes_back(Some(entry));
        comes_back(None::<Entry>);
        comes_back(Page { items: vec![String::new(), "b".into()], more: true });
        comes_back(Consumers { items: vec![place.clone()], next: Some(Bytes::new()) });
        let origins = [
            Origin::Unheld,
            Origin::Made(place),
            Origin::Held(tree::Node::File { digest, executable: false }),
            Origin::Held(tree::Node::File { digest, executable: true }),
            Origin::Held(tree::Node::Directory { digest }),
            Origin::Held(tree::Node::Symlink { target: "t".into() }),
        ];
        let input = |origin| Input { name: Bytes::from_static(b"\xff"), origin, document: "{}".into() };
        comes_back(origins.into_iter().map(input).collect::<Vec<_>>());
    }

    #[test]
    fn each_question_has_a_key_of_its_own() {
        let ask = |scope, kind| Question::new(scope, kind);
        let all = [
            ask("a", "x").text("b").key(),
            ask("ab", "x").key(),
            ask("a", "y").text("b").key(),
            ask("a", "x").text("b").text("").key(),
            ask("a", "x").text("").text("b").key(),
            ask("a", "x").text("b").page(None, 1).key(),
            ask("a", "x").text("b").page(Some(""), 1).key(),
            ask("a", "x").text("b").page(Some(""), 2).key(),
            ask("a", "x").text("b").branch(Branch::Tasks).key(),
            ask("a", "x").text("b").branch(Branch::Failed).key(),
        ];
        for (at, key) in all.iter().enumerate() {
            assert_eq!(all.iter().position(|other| other == key), Some(at));
        }
    }
}
