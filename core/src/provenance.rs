//! Provenance: how one artifact was made, as far as the store can tell.
//!
//! Owns the nouns of the walk over it, and the rule by which an input counts as consuming what somebody made ([`Made`]). Edges are
//! written by commits (see [`crate::rows`]); what they lead to is found when it is asked for, since an input may name a key that
//! the store learns of only later.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::digest::Digest;
use crate::execution::{Execution, ExecutionId, State};
use crate::key::TaskKey;
use crate::name::Name;
use crate::rows;
use crate::spec::{Input, Spec};
use crate::time::Timestamp;
use crate::tree::{self, Node};

/// Which executions a part of the mounted view shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Branch {
    /// Successes.
    Tasks,
    /// Those that failed or were abandoned.
    Failed,
}

/// Where an ended execution stands in the mounted view.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The name that it stands under.
    pub name: Name,
    /// Its folder there.
    pub folder: String,
    /// When it ended.
    pub at: Timestamp,
}

impl Place {
    /// Where an execution stands under the name that it was made under; `None` unless it has ended and has a folder.
    pub fn of(execution: &Execution) -> Option<Place> {
        let (name, folder) = (execution.name.clone(), execution.folder.clone()?);
        Some(Place { name, folder, at: execution.ended? })
    }
}

/// Where an input came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin<Made> {
    /// A success made it.
    Made(Made),
    /// Nobody is known to have made it; the store holds its bytes.
    Held(Node),
    /// Nobody is known to have made it, and the store does not hold it.
    Unheld,
}

/// Whether bytes say anything of where they came from: no bytes and the directory with nothing in it are made everywhere.
pub fn is_telling(digest: &Digest) -> bool {
    digest.size > 0 && *digest != Digest::of(tree::MAGIC)
}

/// What can be consumed: a key's success, an execution's outputs, or bytes alone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Made {
    /// The execution that made it.
    pub execution: Option<ExecutionId>,
    /// The key that it was made for.
    pub key: Option<TaskKey>,
    /// The root of what was made and what stands at declared paths, sorted.
    pub digests: Vec<Digest>,
}

impl Made {
    /// What a success made, of which these digests are known.
    pub fn by(execution: &Execution, digests: impl IntoIterator<Item = Digest>) -> Made {
        if execution.state != State::Succeeded {
            return Made::default();
        }
        let mut digests: Vec<_> = digests.into_iter().filter(is_telling).collect();
        digests.sort_unstable();
        digests.dedup();
        Made { execution: Some(execution.id), key: Some(execution.key.clone()), digests }
    }

    /// By which kind of edge an input consumed it: 0 for the one from its key (not if the input names another execution), `n` for
    /// the one from the `n`-th digest; `None` if it did not. One that could be both counts as the first.
    pub fn edge(&self, input: &Input) -> Option<usize> {
        let other = input.execution.is_some() && input.execution != self.execution;
        if self.key.is_some() && self.key == input.key && !other {
            return Some(0);
        }
        // An input that says where it is from is from there, whoever else made the same bytes.
        let elsewhere = other || (input.execution.is_none() && input.key.is_some());
        if self.key.is_some() && elsewhere {
            return None;
        }
        let digest = input.content.as_ref()?.digest()?;
        self.digests.binary_search(&digest).ok().map(|at| at + 1)
    }

    /// Every edge to a consumer with this spec, in the order in which they are stored, and the input's name.
    pub fn edges<'a>(&self, spec: &'a Spec) -> BTreeMap<(usize, Vec<u8>), &'a Bytes> {
        let inputs = spec.inputs.iter();
        inputs.filter_map(|(name, input)| Some(((self.edge(input)?, rows::input_mark(name)), name))).collect()
    }
}

/// Of the successes that made one digest, each with when it was committed, the one that a consumer took it from: the newest
/// committed before the consumer began, else the first after; never the consumer itself.
pub fn maker(
    makers: &[(Timestamp, ExecutionId)],
    consumer: Option<ExecutionId>,
    began: Timestamp,
) -> Option<ExecutionId> {
    let others = || makers.iter().filter(|(_, id)| Some(*id) != consumer);
    let before = others().filter(|(at, _)| *at <= began).max();
    before.or_else(|| others().min()).map(|(_, id)| *id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Mount;

    fn input(key: Option<&str>, execution: Option<u8>, content: Option<&[u8]>) -> Input {
        Input {
            mount: Mount::InPlace,
            content: content.map(|bytes| Node::File { digest: Digest::of(bytes), executable: false }),
            key: key.map(|key| key.parse().expect("valid")),
            execution: execution.map(|id| ExecutionId([id; 16])),
        }
    }

    #[test]
    fn an_input_consumes_by_its_key_else_by_its_bytes() {
        let mut digests = vec![Digest::of(b"a"), Digest::of(b"b")];
        digests.sort();
        let a = digests.iter().position(|digest| *digest == Digest::of(b"a")).expect("it is there") + 1;
        let made = Made { execution: Some(ExecutionId([1; 16])), key: "t:1".parse().ok(), digests };
        for (input, edge) in [
            (input(Some("t:1"), None, None), Some(0)),
            (input(Some("t:1"), Some(1), Some(b"a")), Some(0)),
            (input(Some("t:1"), Some(2), None), None),
            (input(Some("t:1"), Some(2), Some(b"a")), None),
            (input(Some("t:2"), None, Some(b"a")), None),
            (input(None, Some(2), Some(b"a")), None),
            (input(None, Some(1), Some(b"a")), Some(a)),
            (input(None, None, Some(b"a")), Some(a)),
            (input(None, None, Some(b"c")), None),
            (input(None, None, None), None),
        ] {
            assert_eq!(made.edge(&input), edge, "{input:?}");
        }
        assert_eq!(Made::default().edge(&input(None, None, None)), None);
        let bytes = Made { digests: vec![Digest::of(b"a")], ..Made::default() };
        assert_eq!(
            bytes.edge(&input(Some("t:2"), Some(2), Some(b"a"))),
            Some(1),
            "who asks for bytes means all of them"
        );
    }

    #[test]
    fn what_is_made_everywhere_tells_nothing() {
        assert!(!is_telling(&Digest::of(b"")) && is_telling(&Digest::of(b"x")));
        assert!(!is_telling(&Digest::of(&tree::Tree::new().encode().expect("small"))));
    }

    #[test]
    fn the_newest_maker_before_the_consumer_is_taken() {
        let id = |n| ExecutionId([n; 16]);
        let makers = [(1, 1), (3, 2), (7, 3), (9, 4)].map(|(at, n)| (Timestamp::from_millis(at), id(n)));
        for (consumer, began, is) in [(9, 5, Some(2)), (2, 5, Some(1)), (9, 0, Some(1)), (1, 0, Some(2))] {
            assert_eq!(maker(&makers, Some(id(consumer)), Timestamp::from_millis(began)), is.map(id));
        }
        assert_eq!(maker(&makers[..1], Some(id(1)), Timestamp::MAX), None);
    }
}
