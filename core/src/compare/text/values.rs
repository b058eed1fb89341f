//! Values for people: short, whatever they are, and never the same text for two that differ.

use serde_json::Value;

use super::readable;
use crate::compare::Told;
use crate::json;

/// Values longer than this are cut to where they differ, in characters.
const LONG: usize = 80;
/// How much of what is the same stands around that.
const AROUND: usize = 20;

/// By how much a number is larger than another, with its sign.
pub(super) fn by_how_much(old: &Value, new: &Value) -> Option<String> {
    if let (Some(old), Some(new)) = (old.as_i64(), new.as_i64()) {
        return Some(match new.checked_sub(old)? {
            0 => "same".to_owned(),
            by => format!("{by:+}"),
        });
    }
    let (old, new) = (old.as_f64()?, new.as_f64()?);
    let by = new - old;
    if by == 0.0 {
        return Some("same".to_owned());
    }
    // As many digits as say something: beyond them is what binary fractions add.
    let scale = old.abs().max(new.abs()).log10().floor();
    let digits = (11.0 - scale).clamp(0.0, 17.0);
    let text = match digits.to_string().parse() {
        Ok(digits) if scale > -5.0 && scale < 15.0 => format!("{by:+.digits$}"),
        _ => format!("{by:+e}"),
    };
    Some(match text.contains('.') && !text.contains('e') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    })
}

/// Two values, as short as shows where they differ.
pub(super) fn values(old: &Option<Told>, new: &Option<Told>, variable: bool) -> (String, String) {
    let text = |told: &Option<Told>| match told {
        Some(Told::Value(Value::String(text))) => Some(text.clone()),
        _ => None,
    };
    let other = |told: &Option<Told>| match told {
        Some(Told::Value(value)) => !(value.is_string() || (variable && value.is_null())),
        _ => false,
    };
    let alone = !other(old) && !other(new);
    let (was, is) = match (text(old), text(new)) {
        (Some(old), Some(new)) => {
            let (old, new) = around(&old, &new, LONG);
            (Some(old), Some(new))
        }
        (old, new) => (old.map(|text| around(&text, "", LONG).0), new.map(|text| around(&text, "", LONG).0)),
    };
    let show = |told: &Option<Told>, text: Option<String>| match (told, text) {
        (None, _) => "(none)".to_owned(),
        (Some(Told::Secret), _) => "(secret)".to_owned(),
        (Some(Told::Value(Value::Null)), _) if variable => "(unset)".to_owned(),
        (Some(Told::Value(_)), Some(text)) => worded(&text, alone),
        (Some(Told::Value(value)), None) => readable(&around(&written(value), "", LONG).0),
    };
    if let (Some(Told::Value(old)), Some(Told::Value(new))) = (old, new)
        && !old.is_string()
        && !new.is_string()
        && !(variable && (old.is_null() || new.is_null()))
    {
        let (old, new) = around(&written(old), &written(new), LONG);
        return (readable(&old), readable(&new));
    }
    (show(old, was), show(new, is))
}

/// A value as JSON has it, but for bytes that are no text (see [`json::bytes`]), which are escaped.
fn written(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("[{}]", items.iter().map(written).collect::<Vec<_>>().join(",")),
        value => match json::no_text(value) {
            Some(bytes) => format!("b\"{}\"", bytes.escape_ascii()),
            None => value.to_string(),
        },
    }
}

/// A text as it is if that is plain, else as a JSON string. Unless it is `alone` with other texts, `5` would be taken for a number.
fn worded(text: &str, alone: bool) -> String {
    let plain = |c: char| !c.is_whitespace() && !c.is_control() && c != '"' && c != '\\';
    let is_plain = !text.is_empty() && text.chars().all(plain) && !text.starts_with('(');
    let is_other = || !alone && serde_json::from_str::<Value>(text).is_ok();
    match is_plain && !is_other() {
        true => readable(text),
        false => readable(&Value::from(text).to_string()),
    }
}

/// Two texts, cut to where they differ if either is longer than `long` bytes or characters; `…` stands for what is left out.
pub(in crate::compare) fn around(old: &str, new: &str, long: usize) -> (String, String) {
    let (old, new): (Vec<char>, Vec<char>) = (old.chars().collect(), new.chars().collect());
    if old.len().max(new.len()) <= long {
        return (old.into_iter().collect(), new.into_iter().collect());
    }
    let same = old.iter().zip(&new).take_while(|(old, new)| old == new).count();
    let from = same.saturating_sub(AROUND);
    let cut = |text: &[char]| {
        let from = from.min(text.len().saturating_sub(long / 2));
        let rest = &text[from..];
        let begin = if from > 0 { "…" } else { "" };
        match rest.len() {
            all if all <= long => format!("{begin}{}", rest.iter().collect::<String>()),
            all => {
                let (head, tail) = (&rest[..long * 2 / 3], &rest[all - long / 4..]);
                format!("{begin}{}…{}", head.iter().collect::<String>(), tail.iter().collect::<String>())
            }
        }
    };
    let (was, is) = (cut(&old), cut(&new));
    match was == is && old != new {
        // One is the other, gone on.
        true => (format!("{was} ({} characters)", old.len()), format!("{is} ({} characters)", new.len())),
        false => (was, is),
    }
}
