//! Pins, both ways.

use provender_core::blob::{Pin, Pinned};
use provender_core::{Name, Timestamp};

use super::{Invalid, cut, digest_from, digest_to, key, name, needed};
use crate::v1;
use crate::v1::pinned::What;

/// What is pinned, to wire.
pub fn pinned_to(pinned: &Pinned) -> v1::Pinned {
    let what = match pinned {
        Pinned::Blob(digest) => What::Blob(digest_to(digest)),
        Pinned::Tree(digest) => What::Tree(digest_to(digest)),
        Pinned::Key(key) => What::Key(key.to_string()),
        Pinned::Name(name) => What::Name(name.to_string()),
        Pinned::Prefix(prefix) => What::Prefix(prefix.clone()),
    };
    v1::Pinned { what: Some(what) }
}

/// What is pinned, from wire.
pub fn pinned_from(pinned: Option<&v1::Pinned>) -> Result<Pinned, Invalid> {
    Ok(match needed("what", pinned.and_then(|pinned| pinned.what.as_ref()))? {
        What::Blob(digest) => Pinned::Blob(digest_from("blob", digest)?),
        What::Tree(digest) => Pinned::Tree(digest_from("tree", digest)?),
        What::Key(text) => Pinned::Key(key(text)?),
        What::Name(text) => Pinned::Name(name(text)?),
        What::Prefix(text) => Pinned::Prefix(whole_parts(text)?),
    })
}

/// A prefix of names in whole parts, from wire: empty for all, else it could be a name, with a slash behind it or not. Said either way, it is the same.
pub fn whole_parts(text: &str) -> Result<String, Invalid> {
    if text.is_empty() {
        return Ok(String::new());
    }
    let refused = |why: String| Invalid::new("prefix", why);
    let parts = text.strip_suffix('/').unwrap_or(text);
    match Name::new(parts) {
        Ok(_) => Ok(parts.to_owned()),
        Err(error) => Err(refused(format!("{:?}: as a name, it {}", cut(text.to_owned(), 80), error.why))),
    }
}

/// A pin and its id, to wire. What a tree refers to stays out of it.
pub fn pin_to(id: &[u8; 16], pin: &Pin) -> v1::PinInfo {
    v1::PinInfo {
        id: id.to_vec().into(),
        what: Some(pinned_to(&pin.what)),
        reason: pin.reason.clone(),
        owner: pin.owner.clone(),
        made_ms: pin.made.millis(),
        expires_ms: pin.expires.map_or(0, Timestamp::millis),
    }
}

/// A pin and its id, from wire.
pub fn pin_from(info: &v1::PinInfo) -> Result<([u8; 16], Pin), Invalid> {
    let id = info.id[..].try_into().map_err(|_| Invalid::new("id", "a pin's id has 16 bytes"))?;
    let pin = Pin {
        what: pinned_from(info.what.as_ref())?,
        reason: info.reason.clone(),
        owner: info.owner.clone(),
        made: Timestamp::from_millis(info.made_ms),
        expires: Some(info.expires_ms).filter(|at| *at > 0).map(Timestamp::from_millis),
        closure: None,
    };
    Ok((id, pin))
}

#[cfg(test)]
mod tests {
    use provender_core::Digest;

    use super::*;

    #[test]
    fn pins_round_trip_whatever_they_keep() {
        let digest = Digest { hash: [7; 32], size: 9 };
        let all = [
            Pinned::Blob(digest),
            Pinned::Tree(digest),
            Pinned::Key("t:k".parse().expect("valid")),
            Pinned::Name(Name::new("a/b").expect("valid")),
            Pinned::Prefix("a/b".into()),
            Pinned::Prefix(String::new()),
        ];
        for (n, what) in all.into_iter().enumerate() {
            let expires = (n % 2 == 0).then(|| Timestamp::from_millis(5));
            let made = Timestamp::from_millis(3);
            let pin = Pin { what, reason: "why".into(), owner: "who".into(), made, expires, closure: None };
            assert_eq!(pin_from(&pin_to(&[n as u8; 16], &pin)), Ok(([n as u8; 16], pin)));
        }
    }

    #[test]
    fn what_is_no_pin_is_refused_by_its_field() {
        let of = |what| pinned_from(Some(&v1::Pinned { what }));
        let prefix = |text: &str| of(Some(What::Prefix(text.into())));
        let field = |refused: Result<Pinned, Invalid>| refused.expect_err("refused").field;
        assert_eq!(pinned_from(None).expect_err("refused").field, "what");
        assert_eq!(field(of(None)), "what");
        assert_eq!(field(of(Some(What::Key("no key".into())))), "key");
        assert_eq!(field(of(Some(What::Name("a//b".into())))), "name");
        assert_eq!(field(of(Some(What::Blob(v1::Digest { hash: vec![1; 31].into(), size: 1 })))), "blob");
        for bad in ["/", "a//", "/a", "a/../b", &"x".repeat(1025)] {
            assert_eq!(field(prefix(bad)), "prefix", "{bad}");
        }
        assert_eq!(prefix("a/b/"), prefix("a/b"));
    }
}
