//! A crash at every step of a collection and of a pin, and a failure of every step.
//!
//! The harness counts the steps, as elsewhere here. After each of them another daemon comes up over what is left: whatever is still an
//! answer can be read in full, the next collections come to their end, and then nothing is kept for nothing, in rows or as a file.
//! All of it is in memory and on virtual time, since whoever collects next waits for the one that died.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use provender_blobs::Blobs;
use provender_core::blob::Pinned;
use provender_core::collect::rules::{Keep, Rules};
use provender_core::{Digest, Timestamp, Verdict};
use provender_daemon::clock::{self, Simulated};
use provender_daemon::meta::Meta;
use provender_daemon::store::{Collected, Collection, Store, StoreError};
use provender_tests::faulty::{Act, Course, Once, Plan, Step, World};
use provender_tests::simulation::Random;
use provender_tests::simulation::audit::audit;
use tokio::time::Instant;

use super::life::Round;
use super::storage::{InMemory, Kept, over, within};
use super::{ATTEMPTS, End, FAILURES, STOPS};

/// How long what was used is protected, and a time after which nothing is.
const PROTECT: Duration = Duration::from_secs(20);
const LATER: Duration = Duration::from_secs(60);

/// Virtual time, from any moment on.
#[derive(Debug)]
struct Time(Instant, Random);

impl Simulated for Time {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_800_000_000_000 + self.0.elapsed().as_millis() as u64)
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }

    fn fill(&self, bytes: &mut [u8]) {
        self.1.fill(bytes);
    }
}

fn in_virtual_time<T>(seed: u64, what: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let _simulation = clock::simulate(Arc::new(Time(Instant::now(), Random::new(seed))));
        what.await
    })
}

/// What is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scenario {
    /// A collection by a rule, which takes a record and a failure, and what nothing ever referred to.
    Rules,
    /// A collection for want of room, which takes the older of two records.
    Room,
    /// The same as by a rule, after which the same bytes are stored again at once.
    Again,
    /// A collection that lets go of a pin that has ended.
    PinEnds,
    /// A tree that is pinned, and unpinned.
    Pin,
}

const ALL: [Scenario; 5] = [Scenario::Rules, Scenario::Room, Scenario::Again, Scenario::PinEnds, Scenario::Pin];

fn everything_goes() -> Vec<Keep> {
    let moment = Some(Duration::from_secs(1));
    vec![Keep { used_within: moment, failed_within: moment, ..Keep::default() }]
}

fn how(keep: Vec<Keep>, quota: Option<u64>) -> Collection {
    let rules = Rules::new(keep);
    Collection { protect: PROTECT, rules, quota, every: Duration::ZERO, tombstones: 0, ..Collection::default() }
}

impl Scenario {
    fn how(self) -> Collection {
        match self {
            Scenario::Rules | Scenario::Again => how(everything_goes(), None),
            Scenario::Room => how(Vec::new(), Some(80_000)),
            Scenario::PinEnds | Scenario::Pin => how(Vec::new(), None),
        }
    }

    async fn prepare(self, store: &Store, round: &Round) {
        let loose = Bytes::from("loose".repeat(9_000));
        match self {
            Scenario::Rules | Scenario::Again => {
                round.fail(store, 3).await.unwrap();
                round.run(store, 1).await.unwrap();
                store.put_small(&round.space, vec![loose]).await.unwrap();
            }
            Scenario::Room => {
                round.other().run(store, 3).await.unwrap();
                tokio::time::sleep(LATER).await;
                store.put_small(&round.space, vec![loose]).await.unwrap();
                round.run(store, 1).await.unwrap();
            }
            Scenario::PinEnds => {
                round.content.upload(store, &round.space).await.unwrap();
                let what = Pinned::Tree(round.content.root());
                let time = Some(Duration::from_secs(30));
                store.pin(&round.space, what, "a test".into(), "me".into(), time).await.unwrap();
                collect(store).await.unwrap();
            }
            Scenario::Pin => round.content.upload(store, &round.space).await.unwrap(),
        }
        if self != Scenario::Pin {
            tokio::time::sleep(LATER).await;
        }
    }

    async fn live(self, store: &Store, round: &Round) -> Result<(), StoreError> {
        if self != Scenario::Pin {
            return collect(store).await.map(drop);
        }
        let what = Pinned::Tree(round.content.root());
        store.pin(&round.space, what.clone(), "a test".into(), "me".into(), None).await?;
        collect(store).await?;
        store.unpin(&round.space, &what, None).await.map(drop)
    }

    /// What must hold at once, before anybody collects again.
    async fn recover(self, store: &Store, round: &Round, acknowledged: bool, place: &str) {
        let verdict = round.verdict(store).await;
        match (self, verdict) {
            (_, Verdict::Succeeded) => round.is_whole(store, place).await,
            (Scenario::Rules | Scenario::Again, Verdict::Evicted | Verdict::Unknown) => {}
            (Scenario::PinEnds | Scenario::Pin, Verdict::Unknown) => {}
            other => panic!("{place}: {other:?}"),
        }
        if acknowledged {
            let gone = matches!(self, Scenario::Rules | Scenario::Again);
            assert!(!gone || verdict != Verdict::Succeeded, "{place}: it was collected, and is {verdict}");
        }
        if self == Scenario::Pin {
            store.unpin(&round.space, &Pinned::Tree(round.content.root()), None).await.unwrap();
        }
        if self == Scenario::Again && verdict != Verdict::Succeeded {
            round.run(store, 4).await.unwrap_or_else(|error| panic!("{place}: {error}"));
            round.is_whole(store, place).await;
        }
    }

    /// Of all that there was, what is left in the end.
    async fn check(self, store: &Store, round: &Round, place: &str) {
        let used = store.usage().await.unwrap();
        match self {
            Scenario::Room => {
                round.is_whole(store, place).await;
                assert_ne!(round.other().verdict(store).await, Verdict::Succeeded, "{place}");
            }
            Scenario::Again => round.is_whole(store, place).await,
            Scenario::Rules | Scenario::PinEnds | Scenario::Pin => assert_eq!(used, 0, "{place}"),
        }
    }
}

async fn collect(store: &Store) -> Result<Collected, StoreError> {
    store.collect(false, &mut |_| {}).await
}

/// All rows are whole; says how many files nothing refers to, and how many are to be removed.
async fn whole(meta: &dyn Meta, blobs: &dyn Blobs, place: &str) -> (usize, usize) {
    let found = audit(meta, blobs, &Default::default()).await;
    assert!(found.faults.is_empty(), "{place}: {:#?}", found.faults);
    (found.orphans, found.doomed)
}

/// A scenario with a fault at one step, and what comes after it.
async fn cut_off(scenario: Scenario, number: u64, act: Act) -> End {
    let place = &format!("{scenario:?} at step {number} ({act:?})");
    let (meta, blobs) = InMemory::default().open().await;
    let round = Round::new(0);
    let plain = over(meta.clone(), blobs.clone()).await.unwrap();
    plain.configure(how(Vec::new(), None));
    scenario.prepare(&plain, &round).await;
    let once = Arc::new(Once::new(number, act));
    let world = World::new(once.clone());
    let attempts = async {
        for attempts in 1..=ATTEMPTS {
            let attempt = async {
                let store = within(&world, meta.clone(), blobs.clone()).await?;
                store.configure(scenario.how());
                scenario.live(&store, &round).await
            };
            match attempt.await {
                Ok(()) => return attempts,
                Err(error) => assert!(attempts < ATTEMPTS, "{place}: {error}"),
            }
        }
        unreachable!()
    };
    let end = tokio::select! {
        biased;
        () = world.stopped() => End::Stopped,
        attempts = attempts => match once.counted() <= number {
            true => End::Over { steps: once.counted() },
            false => End::Done { attempts },
        },
    };
    let store = over(meta.clone(), blobs.clone()).await.unwrap();
    let how = scenario.how();
    // What is stored again is kept.
    store.configure(if scenario == Scenario::Again { Collection { rules: Rules::default(), ..how } } else { how });
    assert_eq!(whole(&*meta, &*blobs, place).await.0, 0, "{place}: there are files of nobody");
    scenario.recover(&store, &round, !matches!(end, End::Stopped), place).await;
    for _ in 0..3 {
        tokio::time::sleep(LATER).await;
        collect(&store).await.unwrap_or_else(|error| panic!("{place}: {error}"));
    }
    assert_eq!(store.audit().await.unwrap(), Vec::<String>::new(), "{place}");
    assert_eq!(whole(&*meta, &*blobs, place).await, (0, 0), "{place}: there are files of nobody");
    scenario.check(&store, &round, place).await;
    // Whatever is left, the key comes to a success from there.
    round.finish(&store, 1, place).await;
    whole(&*meta, &*blobs, place).await;
    end
}

fn every_step(acts: &[Act]) {
    for scenario in ALL {
        let (mut stopped, mut failed, mut number) = (0, 0, 0);
        let steps = 'steps: loop {
            for act in acts {
                match in_virtual_time(number, cut_off(scenario, number, *act)) {
                    End::Over { steps } => break 'steps steps,
                    End::Done { attempts } => failed += usize::from(attempts > 1),
                    End::Stopped => stopped += 1,
                }
            }
            number += 1;
        };
        println!("{scenario:?} has {steps} steps; stopped {stopped} times, told of an error {failed} times");
        assert_eq!(steps, number, "each step was there to fail");
        assert!(steps > 20 && stopped + failed > 0);
    }
}

#[test]
fn a_crash_at_every_step_of_a_collection() {
    every_step(&STOPS);
}

#[test]
fn a_failure_at_every_step_of_a_collection() {
    every_step(&FAILURES);
}

/// The bytes that a digest names are those that were stored: what is swept is no copy of something else.
#[test]
fn what_is_swept_and_stored_again_is_elsewhere() {
    in_virtual_time(0, async {
        let (meta, blobs) = InMemory::default().open().await;
        let (store, round) = (over(meta, blobs.clone()).await.unwrap(), Round::new(0));
        store.configure(how(everything_goes(), None));
        let large = Digest::of(round.content.large());
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..3 {
            round.content.upload_large(&store, &round.space).await.unwrap();
            let listed = blobs.list(None, 10).await.unwrap().locations;
            assert!(listed.len() == 1 && listed[0].digest == large, "{listed:?}");
            assert!(seen.insert(listed[0]), "it was stored there before: {listed:?}");
            tokio::time::sleep(LATER).await;
            assert_eq!(collect(&store).await.unwrap().blobs, 1);
            assert!(blobs.list(None, 10).await.unwrap().locations.is_empty());
        }
    });
}

/// What somebody was told is there stays as long as that is protected, however long ago it came: whether nothing refers to it since it
/// came, or since what did has gone; and for whoever runs as long as that goes on.
#[test]
fn what_was_said_to_be_there_stays() {
    for left in [false, true] {
        in_virtual_time(0, async {
            let (meta, blobs) = InMemory::default().open().await;
            let (store, round) = (over(meta, blobs).await.unwrap(), Round::new(0));
            store.configure(how(everything_goes(), None));
            let (large, other) = (Digest::of(round.content.large()), Digest::of(round.other().content.large()));
            round.content.upload(&store, &round.space).await.unwrap();
            round.other().content.upload_large(&store, &round.space).await.unwrap();
            if left {
                round.run(&store, 1).await.unwrap();
            }
            tokio::time::sleep(LATER).await;
            assert!(store.find_missing(&round.space, &[large]).await.unwrap().is_empty());
            let done = collect(&store).await.unwrap();
            assert_eq!(done.records, u64::from(left));
            assert!(store.find_missing(&round.space, &[large]).await.unwrap().is_empty(), "{left}: it is protected");
            assert_eq!(
                store.find_missing(&round.space, &[other]).await.unwrap(),
                [other],
                "{left}: nobody asked for it"
            );
            // From here on somebody runs.
            round.begin(&store, 2).await.unwrap();
            round.content.upload(&store, &round.space).await.unwrap();
            for _ in 0..3 {
                tokio::time::sleep(LATER).await;
                collect(&store).await.unwrap();
            }
            let (_, recorded) = round.commit(&store, 2).await.unwrap();
            assert!(recorded, "{left}: what it has stored is there");
            round.is_whole(&store, "after it ran").await;
            assert_eq!(store.audit().await.unwrap(), Vec::<String>::new());
        });
    }
}

/// What happens while a record leaves, in the seconds before it goes: the batch that takes it looks at each of these again.
#[derive(Debug, Clone, Copy)]
enum Meanwhile {
    /// It was answered with before that was said, which is written down only now.
    WrittenDown,
    /// It was said that it stays, so long ago that nothing protects it; who was answered since then had no reason to say so again.
    AnsweredAgain,
    /// Somebody pins it, by its key or name.
    Pinned(bool),
}

#[test]
fn what_comes_to_be_needed_while_it_leaves_stays() {
    let moment = Duration::from_millis(100);
    for what in [Meanwhile::WrittenDown, Meanwhile::AnsweredAgain, Meanwhile::Pinned(true), Meanwhile::Pinned(false)] {
        in_virtual_time(0, async {
            let (meta, blobs) = InMemory::default().open().await;
            let (store, other) = (over(meta.clone(), blobs.clone()).await.unwrap(), over(meta, blobs).await.unwrap());
            let protect = if matches!(what, Meanwhile::AnsweredAgain) { moment / 2 } else { PROTECT };
            for store in [&store, &other] {
                store.configure(Collection { protect, tombstones: 10, ..how(everything_goes(), None) });
                store.note_uses(Path::new(""), true).await.unwrap();
            }
            let round = Round::new(0);
            round.run(&store, 1).await.unwrap();
            tokio::time::sleep(LATER).await;
            if let Meanwhile::WrittenDown = what {
                assert_eq!(round.verdict(&other).await, Verdict::Succeeded);
            }
            let meanwhile = async {
                tokio::time::sleep(moment).await;
                match what {
                    Meanwhile::WrittenDown => other.flush_used().await.unwrap(),
                    Meanwhile::AnsweredAgain => {
                        for _ in 0..2 {
                            assert_eq!(round.verdict(&other).await, Verdict::Succeeded);
                            tokio::time::sleep(moment).await;
                        }
                    }
                    Meanwhile::Pinned(by_key) => {
                        let of = if by_key { Pinned::Key(round.key.clone()) } else { Pinned::Name(round.name.clone()) };
                        other.pin(&round.space, of, "a test".into(), "me".into(), None).await.unwrap();
                    }
                }
            };
            let (done, ()) = tokio::join!(collect(&store), meanwhile);
            let done = done.unwrap();
            assert_eq!((done.executions, done.spared), (1, 1), "{what:?}");
            assert_eq!(round.verdict(&other).await, Verdict::Succeeded, "{what:?}");
            round.is_whole(&store, "after it was to go").await;
            for daemon in [&store, &other] {
                daemon.flush_used().await.unwrap();
            }
            tokio::time::sleep(LATER).await;
            collect(&store).await.unwrap();
            let stays = matches!(what, Meanwhile::Pinned(_));
            let expected = if stays { Verdict::Succeeded } else { Verdict::Evicted };
            assert_eq!(round.verdict(&store).await, expected, "{what:?}");
            assert_eq!(store.audit().await.unwrap(), Vec::<String>::new());
        });
    }
}

/// Whose every commit takes a while to arrive.
#[derive(Debug)]
struct Slow(Duration);

impl Plan for Slow {
    fn course(&self, step: &Step) -> Course {
        let before = if step.name == "meta.commit" { self.0 } else { Duration::ZERO };
        Course { before, act: Act::Go, after: Duration::ZERO }
    }
}

/// Whoever is told that a blob is there, or stores it, has it from then on, at whichever moment of its collection that is: also between the
/// reads of the batch by which it goes and the commit of that.
#[test]
fn what_was_said_to_be_there_while_it_is_swept_stays() {
    let second = Duration::from_secs(1);
    let (mut stayed, mut went) = (0, 0);
    for tenths in 0..60 {
        for uploads in [false, true] {
            in_virtual_time(0, async {
                let (meta, blobs) = InMemory::default().open().await;
                let (world, round) = (World::new(Slow(second)), Round::new(0));
                let slow = within(&world, meta.clone(), blobs.clone()).await.unwrap();
                let store = over(meta, blobs).await.unwrap();
                [&slow, &store].into_iter().for_each(|store| store.configure(how(Vec::new(), None)));
                let large = Digest::of(round.content.large());
                round.content.upload_large(&store, &round.space).await.unwrap();
                tokio::time::sleep(LATER).await;
                let meanwhile = async {
                    tokio::time::sleep(second / 10 * tenths).await;
                    if uploads {
                        round.content.upload_large(&store, &round.space).await.unwrap();
                        return true;
                    }
                    store.find_missing(&round.space, &[large]).await.unwrap().is_empty()
                };
                let (done, there) = tokio::join!(collect(&slow), meanwhile);
                let place = format!("{tenths} tenths of a second after it began, {uploads}");
                assert!(there || done.unwrap().blobs == 1, "{place}: it is missing, and has not gone");
                let read = store.read_whole(&round.space, &large, large.size).await;
                assert_eq!(read.is_ok(), there, "{place}: {:?}", read.err());
                assert_eq!(store.audit().await.unwrap(), Vec::<String>::new(), "{place}");
                *(if there { &mut stayed } else { &mut went }) += 1;
            });
        }
    }
    assert!(stayed > 60 && went > 5, "{stayed} times it stayed, {went} times it went");
}
