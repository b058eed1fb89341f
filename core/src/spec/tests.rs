use super::*;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

fn text() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..6).prop_map(Bytes::from)
}

fn variable() -> impl Strategy<Value = Variable> {
    prop_oneof![
        Just(Variable::Unset),
        text().prop_map(Variable::Plain),
        text().prop_map(|value| Variable::secret(b"X", &value)),
    ]
}

fn content() -> impl Strategy<Value = Node> {
    let digest = || text().prop_map(|bytes| Digest::of(&bytes));
    prop_oneof![
        (digest(), any::<bool>()).prop_map(|(digest, executable)| Node::File { digest, executable }),
        digest().prop_map(|digest| Node::Directory { digest }),
        text().prop_map(|target| Node::Symlink { target }),
    ]
}

fn input() -> impl Strategy<Value = Input> {
    let mount = prop_oneof![Just(Mount::InPlace), Just(Mount::CheckedOut)];
    (mount, prop::option::of(content())).prop_map(|(mount, content)| Input {
        mount,
        content,
        key: None,
        execution: None,
    })
}

/// Specs that differ only in what goes into the key of a run.
fn spec() -> impl Strategy<Value = Spec> {
    let policy = (vec(-2i32..3, 0..3), btree_map(text(), 0u64..3, 0..2), any::<bool>());
    (
        vec(text(), 0..4),
        btree_map(text(), variable(), 0..3),
        btree_map(text(), input(), 0..3),
        btree_map(text(), Just(()), 0..3),
        policy,
    )
        .prop_map(|(command, env, inputs, outputs, (exit_codes, required, refuse_empty))| {
            let mut spec = Spec::new(Name::new("n").expect("valid"));
            let exit_codes = exit_codes.into_iter().collect::<std::collections::BTreeSet<_>>().into_iter().collect();
            spec.policy = Policy { exit_codes, required, refuse_empty };
            Spec { command, env, inputs, outputs: outputs.into_keys().collect(), ..spec }
        })
}

fn file(bytes: &[u8], executable: bool) -> Input {
    let content = Some(Node::File { digest: Digest::of(bytes), executable });
    Input { mount: Mount::InPlace, content, key: None, execution: None }
}

fn base() -> Spec {
    let mut spec = Spec::new(Name::new("n").expect("valid"));
    spec.command = vec!["cc".into(), "-c".into(), "a.c".into()];
    spec.inputs.insert("a.c".into(), file(b"int main;", false));
    spec.outputs = vec!["a.o".into()];
    spec
}

proptest! {
    #[test]
    fn keys_are_equal_only_for_equal_specs(a in spec(), b in spec()) {
        prop_assert_eq!(a == b, a.run_key() == b.run_key());
        prop_assert_eq!(a == b, a.digest() == b.digest());
    }

    #[test]
    fn no_argument_boundary_can_shift(words in vec(text(), 2..5), at: prop::sample::Index) {
        let at = at.index(words.len() - 1);
        let mut joined = words.clone();
        let tail = joined.remove(at + 1);
        joined[at] = [&joined[at][..], &tail].concat().into();
        let key = |command| Spec { command, ..base() }.run_key();
        prop_assert_ne!(key(words), key(joined));
    }
}

#[test]
fn each_declared_thing_changes_the_key() {
    let mut keys = vec![base().run_key()];
    let mut with = |change: &dyn Fn(&mut Spec)| {
        let mut spec = base();
        change(&mut spec);
        keys.push(spec.run_key());
    };
    with(&|spec| drop(spec.env.insert("X".into(), Variable::Unset)));
    with(&|spec| drop(spec.env.insert("X".into(), Variable::Plain("".into()))));
    with(&|spec| drop(spec.env.insert("X".into(), Variable::Plain("1".into()))));
    with(&|spec| drop(spec.env.insert("X".into(), Variable::secret(b"X", b"1"))));
    with(&|spec| drop(spec.env.insert("X".into(), Variable::secret(b"X", b"2"))));
    with(&|spec| drop(spec.inputs.insert("a.c".into(), file(b"int main;", true))));
    with(&|spec| drop(spec.inputs.insert("a.c".into(), file(b"int mein;", false))));
    with(&|spec| drop(spec.inputs.insert("b.c".into(), file(b"int main;", false))));
    with(&|spec| spec.inputs.get_mut(&b"a.c"[..]).expect("there").mount = Mount::CheckedOut);
    with(&|spec| spec.inputs.get_mut(&b"a.c"[..]).expect("there").content = None);
    with(&|spec| spec.outputs = vec!["b.o".into()]);
    with(&|spec| spec.outputs.push("b.o".into()));
    with(&|spec| spec.command = vec!["cc".into(), "-c a.c".into()]);
    with(&|spec| spec.command.push("".into()));
    with(&|spec| spec.policy.exit_codes.push(1));
    with(&|spec| _ = spec.policy.required.insert("a.o".into(), 1));
    with(&|spec| spec.policy.refuse_empty = true);
    let count = keys.len();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), count);
}

#[test]
fn who_asks_does_not_change_the_key() {
    let mut other = base();
    other.name = Name::new("other").expect("valid");
    other.inputs.get_mut(&b"a.c"[..]).expect("there").execution = Some(ExecutionId([7; 16]));
    assert_eq!(other.run_key(), base().run_key());
    assert_ne!(other.digest(), base().digest());
}

/// A change of the encoding would make every recorded run miss: it needs a new context string, on purpose.
#[test]
fn the_key_of_a_known_spec_stays() {
    assert_eq!(base().run_key().as_str(), "run:064ce5203c44445862bf1be080cf6707db632915ee53cde8da9cc2a91dc8203d");
}

#[test]
fn a_secret_does_not_show_that_two_variables_are_equal() {
    assert_ne!(Variable::secret(b"A", b"hunter2"), Variable::secret(b"B", b"hunter2"));
    assert_eq!(Variable::secret(b"A", b"hunter2"), Variable::secret(b"A", b"hunter2"));
}
