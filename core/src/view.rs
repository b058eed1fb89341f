//! The names that the mounted view uses.
//!
//! Owns how a part of a task's name (or any other text) is written as one path component, and what an execution's folder is
//! called; `edges` has the components of what it read and who read it. Invariant: different texts get different components
//! (shortened ones up to a 64-bit hash), each of which any file system carries and none of which is one of the view's own
//! words. It must not know where a component stands in the view.

mod edges;

use crate::digest::{Digest, hex};
use crate::time::Timestamp;

pub use self::edges::{consumer, decode_consumer, decode_input, input, unheld};

/// The name of the link to a task's newest success.
pub const LATEST: &str = "latest";
/// An execution's outputs.
pub const OUT: &str = "out";
/// What it read.
pub const INPUTS: &str = "inputs";
/// Who read what it made.
pub const USED_BY: &str = "used-by";
/// What happened.
pub const RECORD: &str = "record.json";
/// What its key stands for.
pub const SPEC: &str = "spec.json";
/// Its standard output.
pub const STDOUT: &str = "stdout";
/// Its standard error.
pub const STDERR: &str = "stderr";
/// The longest component, in bytes.
pub const MAX_COMPONENT: usize = 255;

/// The words that no part of a name may read like: so whatever is called `out` below `/tasks` is a folder of outputs.
const WORDS: [&str; 8] = [LATEST, OUT, INPUTS, USED_BY, RECORD, SPEC, STDOUT, STDERR];
/// How much of a too long component is kept, in bytes.
const STEM: usize = 200;
/// What follows the stem; no other component holds it, since `%` is followed by two digits everywhere else.
const CUT: &str = "%~";
/// How many hexadecimal digits of the text's BLAKE3 end a shortened component.
const HASH_DIGITS: usize = 16;

/// A text as a path component.
///
/// Control characters, `/`, `%` and a `.` or `..` that stands alone are percent-encoded (each byte as `%XX`), and so is the
/// first byte of what reads like one of the view's own words. What is then longer than 255 bytes becomes its first 200, cut
/// between characters, `%~` and 16 hexadecimal digits of the whole text's BLAKE3. The empty text is a bare `%`.
pub fn encode(text: &str) -> String {
    component(text.as_bytes(), WORDS.contains(&text) || is_folder(text), MAX_COMPONENT)
}

/// Bytes as a component of at most `max` bytes; what is no UTF-8 is percent-encoded, and of a word the first byte.
fn component(bytes: &[u8], is_word: bool, max: usize) -> String {
    if bytes.is_empty() {
        return "%".into();
    }
    let mut out = String::with_capacity(bytes.len());
    // Where `out` may be cut: the last boundary that leaves room for what follows.
    let (mut stem, room) = (0, STEM.min(max.saturating_sub(CUT.len() + HASH_DIGITS)));
    let is_word = is_word || matches!(bytes, b"." | b"..");
    let mut keep = |out: &String| stem = if out.len() <= room { out.len() } else { stem };
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() || matches!(character, '/' | '%') || (is_word && out.is_empty()) {
                character.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| escape(&mut out, byte));
            } else {
                out.push(character);
            }
            keep(&out);
        }
        for byte in chunk.invalid() {
            escape(&mut out, *byte);
            keep(&out);
        }
    }
    if out.len() > max {
        out.truncate(stem);
        out.push_str(CUT);
        out.push_str(&hash(bytes)[..HASH_DIGITS]);
    }
    out
}

fn escape(out: &mut String, byte: u8) {
    out.push('%');
    out.extend([byte >> 4, byte & 15].map(|nibble| char::from(b"0123456789ABCDEF"[usize::from(nibble)])));
}

/// What a component stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decoded<T = String> {
    /// Exactly this text.
    Whole(T),
    /// The one text that begins with this stem and that [`encode`] makes the component of.
    Shortened {
        /// How the text begins.
        stem: T,
    },
}

/// The reverse of [`encode`]; `None` for what it never writes, so that each text has one component.
pub fn decode(component: &str) -> Option<Decoded> {
    match text(parse(component)?)? {
        Decoded::Whole(text) if encode(&text) != component => None,
        decoded => Some(decoded),
    }
}

/// What a component would stand for, if it were written by [`component`]: to be told by writing it again.
fn parse(component: &str) -> Option<Decoded<Vec<u8>>> {
    if let Some((stem, hash)) = component.split_once(CUT) {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let stem = unescape(stem)?;
        return (hash.len() == HASH_DIGITS && hash.bytes().all(is_digit)).then_some(Decoded::Shortened { stem });
    }
    Some(Decoded::Whole(if component == "%" { Vec::new() } else { unescape(component)? }))
}

fn text(decoded: Decoded<Vec<u8>>) -> Option<Decoded> {
    Some(match decoded {
        Decoded::Whole(bytes) => Decoded::Whole(String::from_utf8(bytes).ok()?),
        Decoded::Shortened { stem } => Decoded::Shortened { stem: String::from_utf8(stem).ok()? },
    })
}

fn unescape(component: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(component.len());
    let mut rest = component.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        if byte == b'%' {
            let (digits, tail) = tail.split_at_checked(2)?;
            let nibble = |digit: u8| char::from(digit).to_digit(16);
            out.push((nibble(digits[0])? << 4 | nibble(digits[1])?) as u8);
            rest = tail;
        } else {
            out.push(byte);
            rest = tail;
        }
    }
    Some(out)
}

/// The folder of an execution: `<when>-<id8>`, for example `2026-11-21T18-02-11Z-566a13d4`, and `.<n>` behind it for the
/// `n`-th of one name that would have the same (`n` from 2; 0 and 1 mean the first).
///
/// `when` is the moment of commit or failure; `key_id` is what stands after the colon of the key: its first 8 characters if
/// those are hexadecimal digits, else those of its BLAKE3.
pub fn folder(when: Timestamp, key_id: &str, n: u32) -> String {
    let id8 = match key_id.get(..8) {
        Some(first) if first.bytes().all(|byte| byte.is_ascii_hexdigit()) => first.to_owned(),
        _ => hash(key_id.as_bytes())[..8].to_owned(),
    };
    let folder = format!("{}-{id8}", when.folder());
    if n < 2 { folder } else { format!("{folder}.{n}") }
}

/// Whether a component reads like what [`folder`] writes.
pub fn is_folder(component: &str) -> bool {
    // `d` stands for a decimal digit, `x` for a hexadecimal one.
    const SHAPE: &[u8] = b"dddd-dd-ddTdd-dd-ddZ-xxxxxxxx";
    let Some((first, rest)) = component.as_bytes().split_at_checked(SHAPE.len()) else { return false };
    let fits = first.iter().zip(SHAPE).all(|(byte, shape)| match shape {
        b'd' => byte.is_ascii_digit(),
        b'x' => byte.is_ascii_hexdigit(),
        other => byte == other,
    });
    // No `u32` has more than 10 digits.
    let number = |digits: &[u8]| (1..=10).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    fits && (rest.is_empty() || rest.strip_prefix(b".").is_some_and(number))
}

fn hash(bytes: &[u8]) -> String {
    hex(&Digest::of(bytes).hash)
}

#[cfg(test)]
mod tests;
