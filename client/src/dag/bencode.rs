//! Bencode, canonical or not at all: dictionaries with sorted, unique keys, integers without leading zeros.
//!
//! Owns [`Value`], its decoding with bounds and its encoding. Invariant: what decodes encodes to the very same bytes. A decoded
//! value borrows from its bytes, so it takes memory for its shape alone, which [`MAX_VALUES`] bounds. The grammar itself is
//! `bendy`'s; what is bencode is told in BEP 3 of BitTorrent.

use bendy::decoding::Decoder;
use bendy::encoding::{SingleItemEncoder, ToBencode};
use bendy::state_tracker::Token;

/// The deepest nesting of lists and dictionaries.
pub(crate) const MAX_DEPTH: usize = 64;
/// The most values in one message, dictionary keys not counted.
pub(crate) const MAX_VALUES: usize = 4_000_000;

/// One value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    /// `i…e`.
    Integer(i64),
    /// A byte string; text is UTF-8.
    Bytes(&'a [u8]),
    /// `l…e`.
    List(Box<[Value<'a>]>),
    /// `d…e`, sorted by key.
    Dict(Dict<'a>),
}

/// A dictionary, sorted by key.
pub(crate) type Dict<'a> = Box<[(&'a [u8], Value<'a>)]>;

/// Why bytes are no canonical bencode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at byte {at}: {why}")]
pub struct BencodeError {
    /// Where, counted from 0.
    pub at: usize,
    /// What is wrong there.
    pub why: String,
}

/// Decodes bytes that are one value and nothing else.
pub(crate) fn decode(bytes: &[u8]) -> Result<Value<'_>, BencodeError> {
    let mut tokens = Decoder::new(bytes).with_max_depth(MAX_DEPTH).tokens();
    let (mut open, mut at, mut count) = (Vec::<Open<'_>>::new(), 0, 0);
    loop {
        let error = |why: String| BencodeError { at, why };
        let token = match tokens.next() {
            Some(Ok(token)) => token,
            Some(Err(refused)) => return Err(refusal(bytes, at, open.last(), &refused)),
            None => return Err(refusal(bytes, at, open.last(), &"nothing is there")),
        };
        let size = encoded_len(&token);
        let whole = match token {
            Token::List => {
                open.push(Open::List(Vec::new()));
                None
            }
            Token::Dict => {
                open.push(Open::Dict(Vec::new(), None));
                None
            }
            Token::String(key) if matches!(open.last(), Some(Open::Dict(_, None))) => {
                if let Some(Open::Dict(_, next)) = open.last_mut() {
                    *next = Some(key);
                }
                at += size;
                continue;
            }
            Token::String(text) => Some(Value::Bytes(text)),
            Token::Num(digits) => {
                let number =
                    digits.parse().map_err(|_| error(format!("the integer {} is beyond 64 bits", cut(digits))))?;
                Some(Value::Integer(number))
            }
            Token::End => match open.pop() {
                Some(Open::List(items)) => Some(Value::List(items.into())),
                Some(Open::Dict(entries, _)) => Some(Value::Dict(entries.into())),
                None => return Err(error("an end without a beginning".into())),
            },
        };
        // A container counts where it begins, so that the open ones are bounded too.
        if !matches!(token, Token::End) {
            count += 1;
            if count > MAX_VALUES {
                return Err(error(format!("there are more than {MAX_VALUES} values")));
            }
        }
        at += size;
        let Some(whole) = whole else { continue };
        match open.last_mut() {
            Some(Open::List(items)) => items.push(whole),
            Some(Open::Dict(entries, key)) => entries.extend(key.take().map(|key| (key, whole))),
            None if at < bytes.len() => {
                return Err(BencodeError { at, why: "something follows the end of the value".into() });
            }
            None => return Ok(whole),
        }
    }
}

/// A container whose end has not come yet.
enum Open<'a> {
    List(Vec<Value<'a>>),
    /// With the key whose value comes next.
    Dict(Vec<(&'a [u8], Value<'a>)>, Option<&'a [u8]>),
}

/// The decoder's refusal in words of ours: it does not always say where, and never which key.
fn refusal(bytes: &[u8], at: usize, open: Option<&Open<'_>>, refused: &dyn std::fmt::Display) -> BencodeError {
    let rest = &bytes[at.min(bytes.len())..];
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let in_key = matches!(open, Some(Open::Dict(_, None)));
    let key_before = match open {
        Some(Open::Dict(entries, None)) => entries.last().map(|(key, _)| *key),
        _ => None,
    };
    let text = refused.to_string();
    let why = if rest.is_empty() {
        "the file ends here, in the middle of a value".to_owned()
    } else if text.contains("nesting depth") {
        format!("lists and dictionaries are nested deeper than {MAX_DEPTH}")
    } else if text.contains("not sorted") {
        let before =
            key_before.map(|key| format!(" after {:?}", String::from_utf8_lossy(cut_bytes(key)))).unwrap_or_default();
        format!("a dictionary's keys are not sorted and unique: this one{before}")
    } else if digits > 1 && rest[0] == b'0' {
        "a length begins with a zero".into()
    } else if digits > 0 && rest.get(digits) == Some(&b':') {
        format!(
            "a text of {} bytes, where {} are left",
            cut(&String::from_utf8_lossy(&rest[..digits])),
            rest.len() - digits - 1
        )
    } else if in_key && digits == 0 && rest[0] != b'e' {
        "a dictionary's key that is no text".into()
    } else if rest[0] == b'e' {
        "an end where a value is expected".into()
    } else if rest[0] == b'i' {
        "an integer that is none: its form is i, digits without a leading zero, e".into()
    } else {
        format!("no value begins or goes on like {:?}", String::from_utf8_lossy(cut_bytes(rest)))
    };
    BencodeError { at, why }
}

fn encoded_len(token: &Token<'_>) -> usize {
    match token {
        Token::List | Token::Dict | Token::End => 1,
        Token::Num(digits) => digits.len() + 2,
        Token::String(text) => text.len().checked_ilog10().unwrap_or(0) as usize + 2 + text.len(),
    }
}

/// The first characters, for messages.
fn cut(text: &str) -> String {
    if text.len() > 24 { format!("{}…", text.chars().take(24).collect::<String>()) } else { text.to_owned() }
}

fn cut_bytes(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.len().min(24)]
}

impl ToBencode for Value<'_> {
    const MAX_DEPTH: usize = MAX_DEPTH;

    fn encode(&self, encoder: SingleItemEncoder<'_>) -> Result<(), bendy::encoding::Error> {
        match self {
            Value::Integer(number) => encoder.emit(number),
            Value::Bytes(bytes) => encoder.emit_bytes(bytes),
            Value::List(items) => encoder.emit_list(|list| items.iter().try_for_each(|item| list.emit(item))),
            Value::Dict(entries) => {
                encoder.emit_dict(|mut dict| entries.iter().try_for_each(|(key, value)| dict.emit_pair(key, value)))
            }
        }
    }
}

impl<'a> Value<'a> {
    /// The canonical bytes. Fails for what [`decode`] would not have given: unsorted keys, deeper nesting.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, BencodeError> {
        self.to_bencode().map_err(|error| BencodeError { at: 0, why: error.to_string() })
    }

    /// The text, if it is one.
    pub(crate) fn as_text(&self) -> Option<&'a str> {
        match self {
            Value::Bytes(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// What it is, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Value::Integer(_) => "an integer",
            Value::Bytes(bytes) if std::str::from_utf8(bytes).is_err() => "bytes that are no UTF-8",
            Value::Bytes(_) => "a text",
            Value::List(_) => "a list",
            Value::Dict(_) => "a dictionary",
        }
    }
}

/// The value of a key.
pub(crate) fn get<'v, 'a>(dict: &'v [(&'a [u8], Value<'a>)], key: &[u8]) -> Option<&'v Value<'a>> {
    dict.binary_search_by_key(&key, |(key, _)| *key).ok().map(|at| &dict[at].1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn values() -> impl Strategy<Value = Value<'static>> {
        let text = prop::sample::select(vec![&b""[..], b"a", b"ab", b"b", b"\xff\x00", b"spam and eggs"]);
        let leaf = prop_oneof![
            any::<i64>().prop_map(Value::Integer),
            text.clone().prop_map(Value::Bytes),
            Just(Value::List(Box::new([]))),
        ];
        leaf.prop_recursive(6, 60, 5, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(|items| Value::List(items.into())),
                prop::collection::btree_map(text.clone(), inner, 0..5)
                    .prop_map(|entries| Value::Dict(entries.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes(value in values()) {
            let bytes = value.encode().expect("canonical");
            prop_assert_eq!(decode(&bytes), Ok(value));
        }

        #[test]
        fn what_decodes_was_canonical(bytes in prop::collection::vec(prop::sample::select(b"dlei0123459:-ab".to_vec()), 0..40)) {
            if let Ok(value) = decode(&bytes) {
                prop_assert_eq!(value.encode().expect("canonical"), bytes);
            }
        }

        #[test]
        fn a_cut_or_changed_message_is_refused_or_canonical(value in values(), at in any::<prop::sample::Index>(), byte: u8) {
            let mut bytes = value.encode().expect("canonical");
            let at = at.index(bytes.len());
            let cut = decode(&bytes[..at]);
            prop_assert!(cut.is_err(), "{:?}", cut);
            bytes[at] = byte;
            if let Ok(value) = decode(&bytes) {
                prop_assert_eq!(value.encode().expect("canonical"), bytes);
            }
        }
    }

    #[test]
    fn each_way_to_be_wrong_is_told_with_its_place() {
        let deep = "l".repeat(MAX_DEPTH + 1);
        for (bytes, at, why) in [
            ("", 0, "ends here"),
            ("d1:a", 4, "ends here"),
            ("i12", 0, "an integer that is none"),
            ("3:ab", 0, "a text of 3 bytes, where 2 are left"),
            ("l99999999999999999999999999999:e", 1, "a text of 999999999999999999999999… bytes, where 1 are left"),
            ("d1:bi1e1:ai2ee", 7, "not sorted and unique: this one after \"b\""),
            ("d1:ai1e1:ai2ee", 7, "not sorted and unique: this one after \"a\""),
            ("di1ei2ee", 1, "key that is no text"),
            ("d1:ae", 4, "an end where a value"),
            ("e", 0, "an end where a value"),
            ("i9223372036854775808e", 0, "beyond 64 bits"),
            ("i-9223372036854775809e", 0, "beyond 64 bits"),
            ("i01e", 0, "an integer that is none"),
            ("i-0e", 0, "an integer that is none"),
            ("ie", 0, "an integer that is none"),
            ("03:abc", 0, "begins with a zero"),
            ("-1:a", 0, "no value begins"),
            ("x", 0, "no value begins"),
            ("i1ei2e", 3, "something follows"),
            ("le ", 2, "something follows"),
            (&deep, MAX_DEPTH, "nested deeper than 64"),
        ] {
            let error = decode(bytes.as_bytes()).expect_err(bytes);
            assert!(error.at == at && error.why.contains(why), "{bytes}: {error}");
        }
        assert_eq!(decode(b"i-9223372036854775808e"), Ok(Value::Integer(i64::MIN)));
        assert!(decode(format!("{}{}", &deep[1..], "e".repeat(MAX_DEPTH)).as_bytes()).is_ok());
    }

    #[test]
    fn many_small_values_are_bounded() {
        let many = format!("l{}e", "le".repeat(MAX_VALUES));
        assert!(decode(many.as_bytes()).expect_err("too many").why.contains("more than 4000000 values"));
    }
}
