//! Concurrent histories: who asked what, when it was sent and when it was answered.
//!
//! Owns [`Call`] and the recording of one history by executors that run at once, on one or two daemons, while the daemons' clocks
//! run and leases expire. Order is counted by one counter: a call lies before another if it was answered before the other was sent.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proptest::prelude::Rng;
use proptest::test_runner::TestRng;
use provender_core::Timestamp;
use provender_daemon::store::Store;
use tokio::runtime::Handle;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use super::drive;
use super::step::{Blob, Content, Id, Key, Name, Said, Step, What};
use super::things::Things;
use super::world::World;

/// Something that was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Done {
    /// A step of an executor, on one key.
    Step(Step),
    /// A lookup.
    Lookup(Key),
    /// A daemon took in the feed at this second of its clock.
    Sees(Key, u64),
    /// At this second of its clock it took the lease of a key from its holder, if that was due.
    Expires(Key, u64),
}

/// One call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// By whom.
    pub client: u8,
    /// What.
    pub done: Done,
    /// What it was answered; nothing, if nobody knows whether it happened.
    pub said: Option<Said>,
    /// When it was sent.
    pub sent: u64,
    /// When it was answered.
    pub answered: u64,
}

impl Call {
    /// The key that it is about.
    pub fn key(&self, of: impl Fn(Id) -> Key) -> Key {
        match &self.done {
            Done::Lookup(key) | Done::Sees(key, _) | Done::Expires(key, _) => *key,
            Done::Step(Step::Begin { key, .. } | Step::Invalidate { what: What::Key(key), .. }) => *key,
            Done::Step(Step::Beat { id, .. } | Step::Commit { id, .. } | Step::Fail { id, .. }) => of(*id),
            Done::Step(other) => panic!("{other} is about no key"),
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match &self.done {
            Done::Step(step) => step.to_string(),
            Done::Lookup(key) => format!("executor {} looks {key} up", self.client),
            Done::Sees(key, second) => format!("at {second} s the lease of {key} is looked at"),
            Done::Expires(key, second) => format!("at {second} s the lease of {key} is taken away, if it is due"),
        };
        let said = self.said.as_ref().map_or("no answer".into(), |said| format!("{said:?}"));
        write!(f, "{:>4} to {:>4}: {what} -> {said}", self.sent, self.answered)
    }
}

/// How large a history is.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Executors.
    pub clients: u8,
    /// Calls of each.
    pub calls: u8,
    /// Keys that they are about.
    pub keys: u8,
}

/// Which key an execution is of: each executor numbers its own, and the number says it.
pub fn key_of(id: Id, size: Size) -> Key {
    Key((id.0 % u16::from(size.keys)) as u8)
}

/// What the executors of a history share.
struct Room {
    things: Things,
    size: Size,
    order: AtomicU64,
    start: Barrier,
}

/// One at it: what it was told goes into what it does next.
struct Client {
    number: u8,
    room: Arc<Room>,
    store: Store,
    rng: TestRng,
    begun: Vec<Id>,
    /// Who was at it, as it was last told.
    busy: Vec<Id>,
    next: u16,
}

/// Lets executors run at once and records what they saw. All contents are stored before.
pub async fn record(world: &mut World<'_>, things: Things, size: Size, rngs: Vec<TestRng>) -> Vec<Call> {
    for content in Content::ALL {
        let blobs = content.blobs().into_iter().map(|blob| things.bytes(blob)).collect();
        world.store(0).put_small(&things.space, blobs).await.unwrap();
    }
    let room = Arc::new(Room { things, size, order: AtomicU64::new(0), start: Barrier::new(size.clients.into()) });
    let mut running = JoinSet::new();
    for (n, rng) in rngs.into_iter().take(size.clients.into()).enumerate() {
        let (room, store) = (Arc::clone(&room), world.store(n));
        let client = Client { number: n as u8, room, store, rng, begun: Vec::new(), busy: Vec::new(), next: 0 };
        // On a thread of its own.
        running.spawn_blocking(move || Handle::current().block_on(client.run()));
    }
    let passed = pass(world, size, &room.order).await;
    let mut calls: Vec<_> = running.join_all().await.into_iter().flatten().chain(passed).collect();
    calls.sort_by_key(|call| call.sent);
    calls
}

/// Lets time pass while they run, a second at a time: leases of 1 s are due at the next, if they have not changed.
async fn pass(world: &mut World<'_>, size: Size, order: &AtomicU64) -> Vec<Call> {
    const SECONDS: u64 = 5;
    let mut calls = Vec::new();
    let all = 2 * u64::from(size.clients) * u64::from(size.calls);
    for second in 1..=SECONDS {
        // Spread over the history, whose calls alone count so far.
        while order.load(Ordering::SeqCst) < all * (second - 1) / SECONDS {
            tokio::task::yield_now().await;
        }
        let sent = order.fetch_add(1, Ordering::SeqCst);
        world.tick(0, Duration::from_secs(1)).await.unwrap();
        let answered = order.fetch_add(1, Ordering::SeqCst);
        for key in (0..size.keys).map(Key) {
            for done in [Done::Sees(key, second), Done::Expires(key, second)] {
                calls.push(Call { client: u8::MAX, done, said: Some(Said::Done), sent, answered });
            }
        }
    }
    calls
}

impl Client {
    async fn run(mut self) -> Vec<Call> {
        self.room.start.wait().await;
        let mut calls = Vec::new();
        for _ in 0..self.room.size.calls {
            for _ in 0..self.below(4) {
                tokio::task::yield_now().await;
            }
            let (done, twice) = (self.next(), self.below(5) == 0);
            // What is sent twice is two calls, since others come in between.
            let first = self.call(&done);
            if twice {
                calls.extend(<[Call; 2]>::from(futures::join!(first, self.call(&done))))
            } else {
                calls.push(first.await)
            }
            match calls.last() {
                Some(Call { said: Some(Said::Busy(id)), .. }) => self.busy.push(*id),
                Some(Call { done: Done::Step(Step::Begin { id, .. }), said: Some(Said::Lease(_)), .. }) => {
                    self.begun.push(*id)
                }
                _ => {}
            }
        }
        calls
    }

    async fn call(&self, done: &Done) -> Call {
        let Room { things, order, .. } = &*self.room;
        let sent = order.fetch_add(1, Ordering::SeqCst);
        let said = match &done {
            Done::Lookup(key) => Some(look(&self.store, things, *key).await),
            Done::Step(step) => Some(drive::ask(&self.store, things, step).await.0),
            Done::Sees(..) | Done::Expires(..) => None,
        };
        let answered = order.fetch_add(1, Ordering::SeqCst);
        // Whether that happened is not known.
        let said = said.filter(|said| !matches!(said, Said::Other(_)));
        Call { client: self.number, done: done.clone(), said, sent, answered }
    }

    fn below(&mut self, n: usize) -> usize {
        ((u64::from(self.rng.next_u32()) * n as u64) >> 32) as usize
    }

    fn next(&mut self) -> Done {
        let size = self.room.size;
        let (client, key) = (self.number, Key(self.below(size.keys.into()) as u8));
        let nth = self.below(self.begun.len().max(1));
        let begun = self.begun.get(nth).copied();
        Done::Step(match (self.below(16), begun) {
            (0..3, _) => return Done::Lookup(key),
            (3, _) => Step::Invalidate { client, what: What::Key(key) },
            (4, Some(id)) => Step::Fail { client, id },
            (5..7, Some(id)) => Step::Beat { client, id },
            (7..12, Some(id)) => {
                let content = Some([Content::Small(0), Content::Small(1), Content::Tiny][self.below(3)]);
                Step::Commit { client, id, exit: 0, content, twice: false }
            }
            _ => {
                // Ids are apart by executor, and say the key.
                self.next += 1;
                let keys = u16::from(size.keys);
                let id = Id((u16::from(client) * 100 + self.next) * keys + u16::from(key.0));
                let check = self.below(3) == 0;
                let waited = self.busy.iter().rev().find(|id| key_of(**id, size) == key).copied();
                Step::Begin { client, id, key, name: Name(0), check, seconds: 1, waited, twice: false }
            }
        })
    }
}

async fn look(store: &Store, things: &Things, key: Key) -> Said {
    match store.lookup(&things.space, &[things.key(key)]).await {
        Ok(mut answers) => {
            let answer = answers.swap_remove(0);
            let outputs = answer.outputs.and_then(|root| things.content_of(&root));
            Said::Verdict(answer.verdict, answer.execution.map(|id| things.id_of(id)), outputs)
        }
        Err(error) => Said::Other(error.to_string()),
    }
}

/// The model before a history: all contents are stored.
pub fn before() -> super::rules::Model {
    let mut model = super::rules::Model::new(1);
    for content in Content::ALL {
        model.apply(&Step::Upload { client: 0, content, whole: true }, Timestamp::default());
    }
    debug_assert!(!model.is_missing(Blob::Folder(Content::Tiny)));
    model.kinds.clear();
    model
}

/// What is counted of a step.
pub fn kind(step: &Step, said: Option<&Said>) -> &'static str {
    match (step, said) {
        (Step::Begin { .. }, Some(Said::Lease(None))) => "begin: lease",
        (Step::Begin { .. }, Some(Said::Lease(Some(_)))) => "begin: lease for a check",
        (Step::Begin { .. }, Some(Said::Hit(_))) => "begin: hit",
        (Step::Begin { .. }, Some(Said::Busy(_))) => "begin: busy",
        (Step::Commit { .. }, Some(Said::Committed { recorded: true, .. })) => "commit: recorded",
        (Step::Commit { .. }, Some(Said::Committed { diverges: Some(_), .. })) => "commit: diverges",
        (Step::Commit { .. }, Some(Said::Committed { .. })) => "commit: other",
        (Step::Beat { .. }, Some(Said::Kept)) => "heartbeat: kept",
        (Step::Fail { .. }, Some(Said::Committed { .. })) => "fail: failed",
        (Step::Invalidate { .. }, _) => "invalidate",
        (_, Some(Said::Fenced(_) | Said::Ended(_) | Said::Invalid)) => "refused",
        _ => "other",
    }
}
