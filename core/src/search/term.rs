//! Terms: values as the index orders them.
//!
//! A number is its tag and eight bytes; a text its tag, its first [`CUT`] bytes with each zero byte followed by 0xff, and an end that sorts before
//! them. Invariants: terms sort as their values do, where they are not cut equal; no term is the beginning of another one.

use std::cmp::Ordering;

use serde_json::Value;

use super::facts;

/// How many bytes of a text are in its term.
pub const CUT: usize = 200;
/// The longest text that can read as a number, so that no hash of digits does.
const LONGEST_NUMBER: usize = 32;

const NUMBER: u8 = 1;
const TEXT: u8 = 2;
const END: [u8; 2] = [0, 1];

/// A finite number. Whole ones are compared exactly.
#[derive(Debug, Clone, Copy)]
pub enum Number {
    /// A whole one.
    Whole(i128),
    /// Another one, or one with a point or exponent.
    Real(f64),
}

impl Number {
    /// What a text reads as, if it is a number as JSON writes them, of at most 32 bytes.
    pub fn of_text(text: &str) -> Option<Number> {
        let edges =
            text.starts_with(|c: char| c == '-' || c.is_ascii_digit()) && text.ends_with(|c: char| c.is_ascii_digit());
        if text.len() > LONGEST_NUMBER || !edges {
            return None;
        }
        let number: serde_json::Number = serde_json::from_str(text).ok()?;
        text.parse()
            .ok()
            .map(Number::Whole)
            .or_else(|| number.as_f64().filter(|real| real.is_finite()).map(Number::Real))
    }

    /// The same of a value; a text may read as a number.
    pub fn of_value(value: &Value) -> Option<Number> {
        match value {
            Value::Number(number) => {
                let whole = number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
                whole.map(Number::Whole).or_else(|| number.as_f64().filter(|real| real.is_finite()).map(Number::Real))
            }
            Value::String(text) => Number::of_text(text),
            _ => None,
        }
    }

    fn real(self) -> f64 {
        match self {
            // The nearest: order is kept, if not strictly.
            Number::Whole(whole) => whole as f64,
            Number::Real(real) => real,
        }
    }

    /// Whether no other number has the same term.
    pub(super) fn is_exact(self) -> bool {
        self.real().abs() < 9e15
    }

    /// Its term.
    pub fn term(self) -> Vec<u8> {
        // No negative zero.
        let bits = (self.real() + 0.0).to_bits();
        let sortable = if bits >> 63 == 1 { !bits } else { bits | 1 << 63 };
        [&[NUMBER][..], &sortable.to_be_bytes()].concat()
    }
}

impl PartialEq for Number {
    fn eq(&self, other: &Number) -> bool {
        self.partial_cmp(other) == Some(Ordering::Equal)
    }
}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Number) -> Option<Ordering> {
        match (self, other) {
            (Number::Whole(a), Number::Whole(b)) => Some(a.cmp(b)),
            (a, b) => a.real().partial_cmp(&b.real()),
        }
    }
}

/// What the terms of all texts that begin so begin with, and whether the text is in them as a whole.
pub(super) fn text_prefix(text: &str) -> (Vec<u8>, bool) {
    let cut = &text.as_bytes()[..text.len().min(CUT)];
    let mut term = vec![TEXT];
    for byte in cut {
        term.push(*byte);
        if *byte == 0 {
            term.push(0xff);
        }
    }
    (term, cut.len() == text.len())
}

/// The term of a text.
pub fn of_text(text: &str) -> Vec<u8> {
    let (mut term, _) = text_prefix(text);
    term.extend(END);
    term
}

/// The terms that a value is found by: a number by one, a text that reads as a number as both.
pub fn of(value: &Value) -> Vec<Vec<u8>> {
    let number = Number::of_value(value).map(Number::term);
    let text = (!value.is_number()).then(|| of_text(&facts::word(value)));
    number.into_iter().chain(text).collect()
}

/// What all terms of numbers, or of texts, begin with.
pub(super) fn all(numbers: bool) -> Vec<u8> {
    vec![if numbers { NUMBER } else { TEXT }]
}
