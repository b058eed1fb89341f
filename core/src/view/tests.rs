use super::*;
use crate::name::Name;
use proptest::prelude::*;

/// Texts that are likely to meet a rule: words of the view, escapes, controls, and long ones.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "(latest|out|inputs|used-by|record\\.json|stdout|LATEST|\\.|\\.\\.|%|%6Catest|%~|%25|/|\n|é|a){0,3}",
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
        prop_assert!(!matches!(&*component, "." | "..") && !WORDS.contains(&&*component) && !is_folder(&component));
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
        ("out", "%6Fut"),
        ("inputs", "%69nputs"),
        ("used-by", "%75sed-by"),
        ("record.json", "%72ecord.json"),
        ("spec.json", "%73pec.json"),
        ("stdout", "%73tdout"),
        ("stderr", "%73tderr"),
        ("Out", "Out"),
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
    for never_written in
        ["%41", "%2f", "latest", "out", "%6Catest%", "a%2", "%ff", ".", "a%~0123", "%~g123456789abcdef"]
    {
        assert_eq!(decode(never_written), None, "{never_written}");
    }
}

#[test]
fn shortens_between_characters_and_escapes() {
    assert_eq!(encode(&"a".repeat(255)), "a".repeat(255));
    let long = "a".repeat(256);
    assert_eq!(encode(&long), format!("{}%~{}", "a".repeat(200), &hash(long.as_bytes())[..16]));
    // 199 bytes, then what does not fit into the 200th.
    for tail in ["é", "%", "😀"] {
        let text = "a".repeat(199) + &tail.repeat(100);
        assert_eq!(encode(&text), format!("{}%~{}", "a".repeat(199), &hash(text.as_bytes())[..16]));
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
        assert_eq!(folder(at, id, 1), format!("2026-11-21T18-02-11Z-{}", &hash(id.as_bytes())[..8]));
    }
}

/// Names of inputs: any bytes, such as meet each other's endings, and long ones around both limits.
fn input_name() -> impl Strategy<Value = Vec<u8>> {
    let text = |pattern: &'static str| pattern.prop_map(String::into_bytes);
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..6),
        text("(\\.|\\.\\.|a|%|%2E|%~|/|\n|é|out|latest){0,3}(\\.json|%2Ejson|json|\\.){0,3}"),
        (240usize..258, text("(\\.json){0,2}")).prop_map(|(len, end)| [vec![b'a'; len], end].concat()),
        prop::collection::vec(prop_oneof![Just(b'a'), Just(b'%'), Just(0xFF)], 70..260),
    ]
}

proptest! {
    /// Whichever of them the store holds.
    #[test]
    fn the_inputs_of_one_execution_have_different_components(
        inputs in prop::collection::btree_map(input_name(), any::<bool>(), 1..12),
        twins in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
    ) {
        let mut inputs = inputs;
        for twin in twins {
            let name = [twin.get(&inputs.keys().cloned().collect::<Vec<_>>()), &b".json"[..]].concat();
            inputs.insert(name, true);
        }
        let mut seen = std::collections::BTreeMap::new();
        for (name, is_held) in &inputs {
            let taken = inputs.contains_key(&[name, &b".json"[..]].concat());
            let component = if *is_held { input(name) } else { unheld(name, taken) };
            prop_assert!((1..=MAX_COMPONENT).contains(&component.len()));
            prop_assert!(!component.contains(['/', '\0']) && !matches!(&*component, "." | ".."));
            let finds = |decoded: Decoded<Vec<u8>>| match decoded {
                Decoded::Whole(whole) => whole == *name,
                Decoded::Shortened { stem } => name.starts_with(&stem),
            };
            prop_assert!(decode_input(&component).any(finds), "{component} does not lead to {name:?}");
            prop_assert_eq!(seen.insert(component, name), None);
        }
    }

    #[test]
    fn consumers_have_different_components(names in prop::collection::btree_set(text(), 1..9), n: [u32; 2], id: String) {
        let mut seen = std::collections::BTreeSet::new();
        let names = names.into_iter().filter_map(|name| Name::new(name).ok());
        for (name, n) in names.flat_map(|name| n.map(|n| (name.clone(), n))) {
            let folder = folder(Timestamp::from_millis(u64::from(n)), &id, n);
            let component = consumer(&name, &folder);
            prop_assert!(component.len() <= MAX_COMPONENT && !component.contains(['/', '\0']));
            match decode_consumer(&component) {
                Some((Some(whole), of)) => prop_assert_eq!((&whole, of), (&name, &*folder)),
                Some((None, of)) => prop_assert!(of == folder && component.contains("%~") && component.len() > 200),
                None => prop_assert!(false, "{component:?} does not decode"),
            }
            prop_assert!(seen.insert((component, name, folder)) );
        }
        let components: std::collections::BTreeSet<_> = seen.iter().map(|(component, ..)| component).collect();
        prop_assert_eq!(components.len(), seen.len());
    }

    #[test]
    fn no_component_panics(component: String) {
        let _ = (decode(&component), decode_input(&component).count(), decode_consumer(&component));
    }
}

#[test]
fn names_the_edges_as_the_documentation_says() {
    assert_eq!(input(b"src/main.c"), "src%2Fmain.c");
    assert_eq!(input(b"out"), "out");
    assert_eq!(input(b"\xFFa\xE2\x82"), "%FFa%E2%82");
    assert_eq!(unheld(b"a", false), "a.json");
    assert_eq!(unheld(b"a", true), "a%2Ejson");
    let long = [b'a'; 251];
    let short = format!("{}%~{}.json", "a".repeat(200), &hash(&long)[..16]);
    assert_eq!((unheld(&long, false), unheld(&long[..250], false).len()), (short, 255));
    assert_eq!(unheld(&long[..249], true).len(), 223);

    let folder = "2026-11-21T18-02-11Z-566a13d4";
    let name = |text: &str| Name::new(text).expect("valid");
    assert_eq!(consumer(&name("a/latest@1"), folder), format!("a%2Flatest@1@{folder}"));
    assert_eq!(decode_consumer(&format!("a@{folder}")), Some((Some(name("a")), folder)));
    assert_eq!(consumer(&name(&"a".repeat(225)), folder).len(), 255);
    let long = "a".repeat(226);
    let short = format!("{}%~{}@{folder}", "a".repeat(200), &hash(long.as_bytes())[..16]);
    assert_eq!(consumer(&name(&long), folder), short);
    assert_eq!(decode_consumer(&short), Some((None, folder)));
    for never_written in ["a", "a@", "a@b", &format!("@{folder}"), &format!("%61@{folder}"), &format!("a//b@{folder}")]
    {
        assert_eq!(decode_consumer(never_written), None, "{never_written}");
    }
}
