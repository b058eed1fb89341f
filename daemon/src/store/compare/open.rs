//! Opening pairs: their specs are read and compared, and what made their inputs is found, many at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use provender_core::compare::{self, Difference};
use provender_core::key::TaskKey;
use provender_core::name::Name;
use provender_core::spec::Input;
use provender_core::{Digest, Execution, ExecutionId, Node, Spec, fields};

use super::{Comparing, Edge, End, Found, From, Pair, WEIGHT};
use crate::store::StoreError;
use crate::store::provenance::{SPECS, TRACED, Traced, Want};

/// About how many bytes an edge takes.
const EDGE: usize = 600;

/// An input in which the two of a pair differ, or that only one has.
struct Differing<'a> {
    pair: usize,
    name: &'a Bytes,
    old: Option<Want<'a>>,
    new: Option<Want<'a>>,
}

impl Comparing {
    /// Looks at those of the pairs that were not looked at yet; whether there was room for what was found.
    pub(super) async fn open(&mut self, pairs: &[usize]) -> Result<bool, StoreError> {
        let fresh: BTreeSet<_> = pairs.iter().copied().filter(|at| self.pairs[*at].found.is_none()).collect();
        let fresh: Vec<_> = fresh.into_iter().collect();
        for piece in fresh.chunks(SPECS / 2) {
            if self.weight >= WEIGHT {
                return Ok(false);
            }
            self.open_few(piece).await?;
        }
        Ok(true)
    }

    async fn open_few(&mut self, piece: &[usize]) -> Result<(), StoreError> {
        let mut specs = Vec::with_capacity(piece.len());
        let stored = |end: &End| match &end.spec {
            From::Stored(digest) => Some(*digest),
            _ => None,
        };
        let ends = piece.iter().flat_map(|at| [&self.pairs[*at].old, &self.pairs[*at].new]);
        let digests: Vec<_> = ends.filter_map(stored).collect::<BTreeSet<_>>().into_iter().collect();
        let read = if digests.is_empty() { BTreeMap::new() } else { self.store.specs(&self.space, &digests).await? };
        let read: BTreeMap<_, _> = read.into_iter().map(|(digest, spec)| (digest, Arc::new(spec))).collect();
        for at in piece {
            let Pair { old, new, .. } = &mut self.pairs[*at];
            specs.push((take(old, &read), take(new, &read)));
        }
        let mut found: BTreeMap<usize, Found> = BTreeMap::new();
        let mut differing = Vec::new();
        for (at, (old, new)) in piece.iter().zip(&specs) {
            let pair = &self.pairs[*at];
            let (this, inputs) = self.own(pair, old.as_deref(), new.as_deref());
            found.insert(*at, this);
            differing.extend(inputs.into_iter().map(|(name, old, new)| {
                let want = |input, end: &End| Want { input, consumer: end.execution, began: end.began };
                let (old, new) = (old.map(|input| want(input, &pair.old)), new.map(|input| want(input, &pair.new)));
                Differing { pair: *at, name, old, new }
            }));
        }
        for inputs in differing.chunks(TRACED / 2) {
            self.follow(inputs, &mut found).await?;
        }
        for (at, mut this) in found {
            let pair = &self.pairs[at];
            let specs = piece.iter().position(|one| *one == at).map(|place| &specs[place]);
            if let Some((Some(old), Some(new))) = specs
                && this.own.is_empty()
                && this.edges.is_empty()
                && !this.truncated
            {
                this.own.extend(unexplained(pair, old, new));
            }
            self.weight += this.own.iter().map(Difference::weight).sum::<usize>() + EDGE * this.edges.len();
            self.pairs[at].found = Some(this);
        }
        Ok(())
    }

    /// What two specs by themselves differ in, and the inputs in which they differ.
    #[expect(clippy::type_complexity, reason = "an input by its name, on either side")]
    fn own<'a>(
        &self,
        pair: &Pair,
        old: Option<&'a Spec>,
        new: Option<&'a Spec>,
    ) -> (Found, Vec<(&'a Bytes, Option<&'a Input>, Option<&'a Input>)>) {
        let name = pair.new.name.clone().or_else(|| new.or(old).map(|spec| spec.name.clone()));
        let called = || Name::new(pair.new.key.as_str()).ok();
        let mut found = Found { name: name.or_else(|| pair.old.name.clone()).or_else(called), ..Found::default() };
        let (Some(old), Some(new)) = (old, new) else {
            // A spec that is gone says nothing.
            found.own.push(Difference::Unknown { old: pair.old.key.clone(), new: pair.new.key.clone() });
            found.blank = true;
            return (found, Vec::new());
        };
        let sides = ((&pair.old.key, old), (&pair.new.key, new));
        let mut changes = compare::changes(sides.0, sides.1);
        found.strangers = !compare::is_same_task(sides.0, sides.1);
        found.truncated = changes.len() > self.limit;
        changes.truncate(self.limit.saturating_add(1));
        found.own = changes.into_iter().map(Difference::Field).collect();
        found.blank = says_nothing(old) && says_nothing(new);
        let scheme = pair.new.key.scheme();
        let differs = |old: Option<&Input>, new: Option<&Input>| match (old, new) {
            (Some(old), Some(new)) => compare::input_differs(scheme, old, new),
            _ => true,
        };
        let inputs = compare::paired(&old.inputs, &new.inputs).filter(|(_, old, new)| differs(*old, *new));
        (found, inputs.collect())
    }

    /// Finds what made inputs that differ, and what to say of those that nobody made on both sides.
    async fn follow(&mut self, inputs: &[Differing<'_>], found: &mut BTreeMap<usize, Found>) -> Result<(), StoreError> {
        let wants: Vec<_> = inputs.iter().flat_map(|input| [input.old, input.new]).flatten().collect();
        let traced = self.store.trace(&self.space, &wants).await?;
        let attempts = self.attempts(&traced).await?;
        let mut traced = traced.iter();
        for input in inputs {
            // One for each want, in their order.
            let mut side = |want: Option<Want<'_>>| {
                let producer = self.producer(want?.input, traced.next()?, &attempts);
                Some((want?.input.clone(), producer))
            };
            let (old, new) = (side(input.old), side(input.new));
            let Some(this) = found.get_mut(&input.pair) else { continue };
            if this.own.len() > self.limit {
                this.truncated = true;
                continue;
            }
            self.judge(input.name, old, new, this).await?;
        }
        Ok(())
    }

    async fn judge(
        &mut self,
        name: &Bytes,
        old: Option<(Input, Option<End>)>,
        new: Option<(Input, Option<End>)>,
        this: &mut Found,
    ) -> Result<(), StoreError> {
        let input = name.clone();
        let from = |side: &Option<(Input, Option<End>)>| {
            side.as_ref().map(|(input, producer)| origin(input, producer.as_ref()))
        };
        let origins = (from(&old), from(&new));
        let (Some((was, old)), Some((is, new))) = (old, new) else {
            this.own.push(Difference::Input { input, old: origins.0, new: origins.1 });
            return Ok(());
        };
        match (old, new) {
            (Some(old), Some(new)) if old.id() != new.id() => match self.enter(old, new) {
                Some(pair) => {
                    let origins = (origins.0.unwrap_or_default(), origins.1.unwrap_or_default());
                    this.edges.push(Edge { input, pair, old: was.content, new: is.content, origins });
                }
                None => this.truncated = true,
            },
            // Who made the same bytes as one of them, by chance, says nothing of the other.
            (old, new) if old.is_some() == new.is_some() || !(says(&was) || says(&is)) => {
                match (&was.content, &is.content) {
                    (Some(was), Some(is)) if was != is => {
                        let (differences, more) = self.contents(&input, was, is).await?;
                        this.own.extend(differences);
                        this.truncated |= more;
                    }
                    // One thing under two keys.
                    _ if old.is_some() && new.is_some() => {}
                    _ => this.own.push(Difference::Input { input, old: origins.0, new: origins.1 }),
                }
            }
            _ => this.own.push(Difference::Input { input, old: origins.0, new: origins.1 }),
        }
        Ok(())
    }

    /// The attempts that keys without a success rest on.
    async fn attempts(&self, traced: &[Traced]) -> Result<BTreeMap<ExecutionId, Execution>, StoreError> {
        let open = traced.iter().filter_map(|traced| traced.key.as_ref()).filter(|known| known.answer().is_none());
        let ids: Vec<_> = open.filter_map(|known| known.evidence()).collect();
        self.store.executions(&self.space, &ids).await
    }

    /// What made an input: the success that it names, else its key's; what its key stands for; else who made the same bytes.
    fn producer(&self, input: &Input, traced: &Traced, attempts: &BTreeMap<ExecutionId, Execution>) -> Option<End> {
        let made = || traced.made.as_deref().map(End::of);
        let Some((known, key)) = traced.key.as_ref().zip(input.key.as_ref()) else { return made() };
        if known.answer().is_some() {
            return made();
        }
        if let Some(spec) = self.overlay.get(key) {
            return Some(End::registered(key.clone(), Some(spec.name.clone()), From::Here(spec.clone())));
        }
        if let Some(attempt) = known.evidence().and_then(|id| attempts.get(&id)) {
            return Some(End::of(attempt));
        }
        let registered = known.row.spec.map(|spec| End::registered(key.clone(), None, From::Stored(spec)));
        registered.or_else(made)
    }
}

/// A task's spec, if there is one; it is not needed again.
fn take(end: &mut End, read: &BTreeMap<Digest, Arc<Spec>>) -> Option<Arc<Spec>> {
    match std::mem::replace(&mut end.spec, From::Done) {
        From::Here(spec) => Some(spec),
        From::Stored(digest) => read.get(&digest).cloned(),
        From::Done => None,
    }
}

/// What can be said of two in which nothing differs.
fn unexplained(pair: &Pair, old: &Spec, new: &Spec) -> Option<Difference> {
    let (was, is) = (&pair.old, &pair.new);
    let unknown = || Difference::Unknown { old: was.key.clone(), new: is.key.clone() };
    match (was.made, is.made) {
        (Some(was), Some(is)) if was == is => None,
        (Some(_), Some(_)) if was.key != is.key && says_nothing(old) && says_nothing(new) => Some(unknown()),
        _ if old.raw != new.raw => compare::wording(old, new).map(Difference::Field),
        (Some(_), Some(_)) => Some(Difference::Unstable),
        _ => (was.key != is.key).then(unknown),
    }
}

/// Whether a spec is no more than a name.
fn says_nothing(spec: &Spec) -> bool {
    spec.inputs.is_empty() && spec.raw.is_none() && fields::of_spec("", spec).is_empty()
}

/// Whether an input says where it is from.
fn says(input: &Input) -> bool {
    input.key.is_some() || input.execution.is_some()
}

/// Where an input comes from, as people call it.
fn origin(input: &Input, producer: Option<&End>) -> String {
    let named = producer.and_then(|producer| producer.name.as_ref()).map(ToString::to_string);
    let content = || match input.content.as_ref()? {
        Node::File { digest, .. } => Some(format!("blob:{}", digest.hex())),
        Node::Directory { digest } => Some(format!("tree:{}", digest.hex())),
        Node::Symlink { target } => Some(format!("a link to {}", target.escape_ascii())),
    };
    let key = || input.key.as_ref().map(TaskKey::to_string);
    let execution = || input.execution.map(|id| format!("exec:{id}"));
    named.or_else(key).or_else(content).or_else(execution).unwrap_or_else(|| "of unknown origin".into())
}
