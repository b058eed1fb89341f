//! The names that the mounted view uses.
//!
//! Owns how a part of a task's name (or any other text) is written as one path component, and what an execution's folder is
//! called. Invariant: different texts get different components (shortened ones up to a 64-bit hash), each of which any file
//! system carries and none of which is one of the view's own words. It must not know where a component stands in the view.

use crate::digest::{Digest, hex};
use crate::time::Timestamp;

/// The name of the link to a task's newest success.
pub const LATEST: &str = "latest";
/// The longest component, in bytes.
pub const MAX_COMPONENT: usize = 255;

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
    if text.is_empty() {
        return "%".into();
    }
    let mut out = String::with_capacity(text.len());
    // Where `out` may be cut: the last boundary that is not beyond the stem.
    let mut stem = 0;
    let is_word = matches!(text, "." | ".." | LATEST) || is_folder(text);
    for (at, character) in text.char_indices() {
        if character.is_control() || matches!(character, '/' | '%') || (at == 0 && is_word) {
            for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                out.push_str(&format!("%{byte:02X}"));
            }
        } else {
            out.push(character);
        }
        if out.len() <= STEM {
            stem = out.len();
        }
    }
    if out.len() > MAX_COMPONENT {
        out.truncate(stem);
        out.push_str(CUT);
        out.push_str(&hash(text)[..HASH_DIGITS]);
    }
    out
}

/// What a component stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decoded {
    /// Exactly this text.
    Whole(String),
    /// The one text that begins with this stem and that [`encode`] makes the component of.
    Shortened {
        /// How the text begins.
        stem: String,
    },
}

/// The reverse of [`encode`]; `None` for what it never writes, so that each text has one component.
pub fn decode(component: &str) -> Option<Decoded> {
    if let Some((stem, hash)) = component.split_once(CUT) {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let stem = unescape(stem)?;
        return (hash.len() == HASH_DIGITS && hash.bytes().all(is_digit)).then_some(Decoded::Shortened { stem });
    }
    let text = if component == "%" { String::new() } else { unescape(component)? };
    (encode(&text) == component).then_some(Decoded::Whole(text))
}

fn unescape(component: &str) -> Option<String> {
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
    String::from_utf8(out).ok()
}

/// The folder of an execution: `<when>-<id8>`, for example `2026-11-21T18-02-11Z-566a13d4`, and `.<n>` behind it for the
/// `n`-th of one name that would have the same (`n` from 2; 0 and 1 mean the first).
///
/// `when` is the moment of commit or failure; `key_id` is what stands after the colon of the key: its first 8 characters if
/// those are hexadecimal digits, else those of its BLAKE3.
pub fn folder(when: Timestamp, key_id: &str, n: u32) -> String {
    let id8 = match key_id.get(..8) {
        Some(first) if first.bytes().all(|byte| byte.is_ascii_hexdigit()) => first.to_owned(),
        _ => hash(key_id)[..8].to_owned(),
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
    let number = |digits: &[u8]| !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    fits && (rest.is_empty() || rest.strip_prefix(b".").is_some_and(number))
}

fn hash(text: &str) -> String {
    hex(&Digest::of(text.as_bytes()).hash)
}

#[cfg(test)]
mod tests;
