use super::*;
use proptest::prelude::*;

/// Texts that are likely to meet a rule: words of the view, escapes, controls, and long ones.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "(latest|LATEST|\\.|\\.\\.|%|%6Catest|%~|%25|/|\n|é|a){0,3}",
        "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}-[0-9]{2}-[0-9]{2}Z-[0-9a-g]{7,9}(\\.[0-9]{0,2})?",
        "(a|é|😀|%|/){60,300}",
    ]
}

proptest! {
    #[test]
    fn is_one_component_and_no_word_of_the_view(text in text()) {
        let component = encode(&text);
        prop_assert!((1..=MAX_COMPONENT).contains(&component.len()));
        prop_assert!(!component.contains('/') && !component.chars().any(char::is_control));
        prop_assert!(!matches!(&*component, "." | ".." | LATEST) && !is_folder(&component));
    }

    #[test]
    fn decodes_back(text in text()) {
        let component = encode(&text);
        match decode(&component) {
            Some(Decoded::Whole(whole)) => prop_assert_eq!(whole, text),
            Some(Decoded::Shortened { stem }) => {
                prop_assert!(text.starts_with(&stem) && text.len() > stem.len());
                prop_assert!(component.contains("%~") && component.len() > MAX_COMPONENT - 60);
            }
            None => prop_assert!(false, "{component:?} does not decode"),
        }
    }

    #[test]
    fn different_texts_have_different_components(a in text(), b in text()) {
        prop_assert_eq!(encode(&a) == encode(&b), a == b);
    }

    #[test]
    fn what_decodes_whole_has_one_component(component in text()) {
        if let Some(Decoded::Whole(whole)) = decode(&component) {
            prop_assert_eq!(encode(&whole), component);
        }
    }

    #[test]
    fn folders_read_like_folders(at: u64, id: String, n: u32) {
        prop_assert!(is_folder(&folder(Timestamp::from_millis(at), &id, n)));
    }
}

#[test]
fn writes_what_the_documentation_says() {
    let cases = [
        ("zstd_compress.o", "zstd_compress.o"),
        ("Grüße aus Köln", "Grüße aus Köln"),
        ("100%", "100%25"),
        ("latest", "%6Catest"),
        ("latest.2", "latest.2"),
        ("2026-11-21T18-02-11Z-566a13d4", "%32026-11-21T18-02-11Z-566a13d4"),
        ("2026-11-21T18-02-11Z-566a13d4.12", "%32026-11-21T18-02-11Z-566a13d4.12"),
        ("2026-11-21T18-02-11Z-566a13d", "2026-11-21T18-02-11Z-566a13d"),
        ("..", "%2E."),
        ("a/b\n", "a%2Fb%0A"),
        ("\u{85}", "%C2%85"),
        ("", "%"),
    ];
    for (text, component) in cases {
        assert_eq!(encode(text), component);
        assert_eq!(decode(component), Some(Decoded::Whole(text.into())), "{component}");
    }
    for never_written in ["%41", "%2f", "latest", "%6Catest%", "a%2", "%ff", ".", "a%~0123", "%~g123456789abcdef"] {
        assert_eq!(decode(never_written), None, "{never_written}");
    }
}

#[test]
fn shortens_between_characters_and_escapes() {
    assert_eq!(encode(&"a".repeat(255)), "a".repeat(255));
    let long = "a".repeat(256);
    assert_eq!(encode(&long), format!("{}%~{}", "a".repeat(200), &hash(&long)[..16]));
    // 199 bytes, then what does not fit into the 200th.
    for tail in ["é", "%", "😀"] {
        let text = "a".repeat(199) + &tail.repeat(100);
        assert_eq!(encode(&text), format!("{}%~{}", "a".repeat(199), &hash(&text)[..16]));
        assert_eq!(decode(&encode(&text)), Some(Decoded::Shortened { stem: "a".repeat(199) }));
    }
}

#[test]
fn names_folders_by_hex_or_hash() {
    let at = Timestamp::from_millis(1_795_284_131_042);
    assert_eq!(folder(at, "566a13d4c0ffee", 0), "2026-11-21T18-02-11Z-566a13d4");
    assert_eq!(folder(at, "566a13d4", 1), "2026-11-21T18-02-11Z-566a13d4");
    assert_eq!(folder(at, "566A13D4-1", 2), "2026-11-21T18-02-11Z-566A13D4.2");
    for id in ["566a13d", "zstd/huf.o", "ééééé", ""] {
        assert_eq!(folder(at, id, 1), format!("2026-11-21T18-02-11Z-{}", &hash(id)[..8]));
    }
}
