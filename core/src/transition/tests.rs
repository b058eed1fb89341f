use super::*;
use crate::name::Name;
use proptest::prelude::*;

fn request(id: u8) -> Request {
    Request {
        id: ExecutionId([id; 16]),
        key: "run:x".parse().expect("valid"),
        spec: Spec { outputs: vec!["out".into()], ..Spec::new(Name::new("n").expect("valid")) },
        executor: Executor::default(),
        ttl: Duration::ZERO,
        check: false,
        remarks: Default::default(),
    }
}

fn evidence(content: u8, complete: bool) -> Evidence {
    let mut found = Found::default();
    found.paths.insert("out".into(), complete.then_some(1));
    Evidence { outputs: Digest::of(&[content]), closure: Digest::of(b""), found, stamp: 0 }
}

fn outcome(code: i32) -> Outcome {
    Outcome { exit: Some(crate::execution::Exit::Code(code)), ..Outcome::default() }
}

/// One key's rows, changed as a store would.
#[derive(Default)]
struct World {
    known: Known,
    executions: std::collections::BTreeMap<u8, Execution>,
    incarnation: u64,
    now: u64,
}

impl World {
    fn now(&mut self) -> Timestamp {
        self.now += 1;
        Timestamp::from_millis(self.now)
    }

    fn begin(&mut self, id: u8) -> Begun {
        self.ask(&request(id))
    }

    fn ask(&mut self, request: &Request) -> Begun {
        let (now, id) = (self.now(), request.id.0[0]);
        let begun = begin(&self.known, request, self.incarnation, now);
        if let Begun::Granted { lease, execution, fresh: true, .. } = &begun {
            self.known.lease = Some(lease.clone());
            self.executions.insert(id, (**execution).clone());
        }
        begun
    }

    fn end(
        &mut self,
        id: u8,
        end: impl FnOnce(&Known, &Execution, u64, Timestamp) -> Result<Ended, Refused>,
    ) -> Option<Ended> {
        let now = self.now();
        let ended = end(&self.known, self.executions.get(&id)?, self.incarnation, now).ok()?;
        self.known = Known { row: ended.row.clone(), lease: None };
        self.executions.insert(id, ended.execution.clone());
        Some(ended)
    }

    fn commit(&mut self, id: u8, code: i32, complete: bool, content: u8) -> Option<Ended> {
        let evidence = evidence(content, complete);
        self.end(id, |known, execution, incarnation, now| {
            commit(known, execution, &request(id).spec, outcome(code), &evidence, incarnation, now)
        })
    }

    fn invalidate(&mut self) -> Invalidated {
        let now = self.now();
        let holder = invalidate::holder(&self.known).map(|id| id.0[0]);
        let holder = holder.and_then(|id| self.executions.get(&id));
        let done = invalidate(&self.known, holder, &Cause::default(), now);
        if done.changes() {
            self.known = done.after.clone();
        }
        if let Some(withdrawn) = &done.withdrawn {
            self.executions.insert(withdrawn.id.0[0], withdrawn.clone());
        }
        done
    }

    fn expire(&mut self) {
        if let Some(holder) = self.known.lease.as_ref().map(|lease| lease.execution.0[0]) {
            self.end(holder, |known, execution, _, now| expire(known, execution, now));
        }
    }
}

#[derive(Debug, Clone)]
enum Event {
    Begin(u8),
    Check(u8),
    Beat(u8),
    Commit { id: u8, code: i32, complete: bool, content: u8 },
    Fail(u8),
    Expire,
    Restore,
    Invalidate,
    Register(u8),
}

fn event() -> impl Strategy<Value = Event> {
    let id = 0u8..4;
    prop_oneof![
        4 => id.clone().prop_map(Event::Begin),
        2 => id.clone().prop_map(Event::Check),
        1 => id.clone().prop_map(Event::Beat),
        4 => (id.clone(), 0..2, any::<bool>(), 0u8..2)
            .prop_map(|(id, code, complete, content)| Event::Commit { id, code, complete, content }),
        1 => id.prop_map(Event::Fail),
        1 => Just(Event::Expire),
        1 => Just(Event::Restore),
        1 => Just(Event::Invalidate),
        1 => (0u8..2).prop_map(Event::Register),
    ]
}

proptest! {
    /// Whatever happens in whatever order: SUCCEEDED is said only of a genuine success, one executor works at a time, and who
    /// is fenced out changes nothing.
    #[test]
    fn only_a_genuine_success_is_a_hit(events in prop::collection::vec(event(), 1..60)) {
        let mut world = World::default();
        for event in events {
            let before = world.known.clone();
            let holder = before.lease.as_ref().filter(|lease| lease.incarnation == world.incarnation).map(|lease| lease.execution.0[0]);
            match event {
                // An executor asks with a fresh id each time; these few stand for those that do.
                Event::Begin(id) if !world.executions.contains_key(&id) || holder == Some(id) => match world.begin(id) {
                    Begun::Hit(record) => {
                        prop_assert_eq!(before.verdict(), Verdict::Succeeded);
                        let made = &world.executions[&record.execution.0[0]];
                        prop_assert_eq!(made.state, State::Succeeded);
                        prop_assert_eq!(made.outcome.exit, Some(crate::execution::Exit::Code(0)));
                    }
                    Begun::Granted { fresh, .. } => prop_assert_eq!(fresh, before.lease.is_none()),
                    Begun::Busy(lease) => prop_assert_ne!(lease.execution, ExecutionId([id; 16])),
                },
                Event::Check(id) if !world.executions.contains_key(&id) || holder == Some(id) => {
                    match world.ask(&Request { check: true, ..request(id) }) {
                        Begun::Hit(_) => prop_assert!(false, "a check is no hit"),
                        Begun::Granted { fresh, checks, .. } => {
                            prop_assert_eq!(fresh, before.lease.is_none());
                            prop_assert_eq!(checks, before.answer().map(|record| record.execution));
                        }
                        Begun::Busy(lease) => prop_assert_ne!(lease.execution, ExecutionId([id; 16])),
                    }
                    prop_assert_eq!(&world.known.row, &before.row);
                }
                Event::Begin(_) | Event::Check(_) => {}
                Event::Beat(id) => {
                    let beat = world.executions.get(&id).map(|execution| heartbeat(&world.known, execution, world.incarnation));
                    prop_assert_eq!(beat.is_some_and(|beat| beat.is_ok()), holder == Some(id));
                }
                Event::Commit { id, code, complete, content } => {
                    let ended = world.commit(id, code, complete, content);
                    prop_assert_eq!(ended.is_some(), holder == Some(id));
                    if let Some(ended) = ended {
                        prop_assert_eq!(ended.execution.state == State::Succeeded, code == 0 && complete);
                        prop_assert_eq!(ended.recorded, ended.execution.state == State::Succeeded && before.answer().is_none());
                    }
                }
                Event::Fail(id) => {
                    let ended = world.end(id, |known, execution, incarnation, now| {
                        fail(known, execution, &request(id).spec.policy, "why".into(), Outcome::default(), incarnation, now)
                    });
                    prop_assert_eq!(ended.is_some(), holder == Some(id));
                }
                Event::Expire => world.expire(),
                Event::Restore => world.incarnation += 1,
                Event::Register(spec) => {
                    let spec = Digest::of(&[spec]);
                    match register(&before.row, spec) {
                        Some(row) => world.known.row = row,
                        None => prop_assert!(before.row.spec.is_some()),
                    }
                    let same = KeyRow { spec: before.row.spec, ..world.known.row.clone() };
                    prop_assert_eq!(&Known { row: same, lease: world.known.lease.clone() }, &before);
                }
                Event::Invalidate => {
                    let done = world.invalidate();
                    prop_assert!(world.known.lease.is_none() && world.known.answer().is_none());
                    prop_assert_eq!(done.record.is_some(), before.verdict() == Verdict::Succeeded);
                    prop_assert_eq!(done.withdrawn.map(|execution| execution.id), invalidate::holder(&before));
                }
            }
            if before.row.spec.is_some() {
                prop_assert_eq!(world.known.row.spec, before.row.spec, "what was registered first stays");
            }
            if holder.is_none() && !matches!(event, Event::Begin(_) | Event::Check(_) | Event::Expire | Event::Invalidate | Event::Register(_)) {
                prop_assert_eq!(&world.known, &before, "nobody holds the lease, so nothing moves");
            }
            if let Some(answer) = before.answer() && !matches!(event, Event::Invalidate) {
                prop_assert_eq!(world.known.answer(), Some(answer), "the first record stays the answer");
            }
        }
    }
}

#[test]
fn asking_twice_is_asking_once() {
    let mut world = World::default();
    let Begun::Granted { lease, fresh: true, .. } = world.begin(1) else { panic!("the first asks") };
    let again = world.begin(1);
    assert!(matches!(again, Begun::Granted { lease: same, fresh: false, .. } if same == lease));
    assert_eq!(world.begin(2), Begun::Busy(lease));
}

#[test]
fn the_verdict_follows_the_last_end() {
    let mut world = World::default();
    assert_eq!(world.known.verdict(), Verdict::Unknown);
    world.begin(1);
    assert_eq!(world.known.verdict(), Verdict::Running);
    world.commit(1, 1, true, 0);
    assert_eq!(world.known.verdict(), Verdict::Failed);
    world.begin(2);
    world.expire();
    assert_eq!(world.known.verdict(), Verdict::Abandoned);
    world.begin(3);
    let missing = world.commit(3, 0, false, 0).expect("it holds the lease");
    assert_eq!(missing.execution.reason.as_deref(), Some("the declared output \"out\" is not there"));
    world.begin(4);
    assert!(world.commit(4, 0, true, 0).expect("it holds the lease").recorded);
    assert_eq!(world.known.verdict(), Verdict::Succeeded);
    assert_eq!(world.known.evidence(), Some(ExecutionId([4; 16])));
}

#[test]
fn other_outputs_of_a_second_success_diverge() {
    let mut world = World::default();
    world.begin(1);
    world.commit(1, 0, true, 0);
    for (id, content, diverges) in [(2, 0, false), (3, 1, true)] {
        let checking = world.ask(&Request { check: true, ..request(id) });
        let record = Some(ExecutionId([1; 16]));
        assert!(matches!(checking, Begun::Granted { fresh: true, checks, .. } if checks == record), "{checking:?}");
        // Meanwhile the record is the answer, to lookups and to whoever begins; only another check has to wait.
        assert_eq!((world.known.verdict(), world.known.evidence()), (Verdict::Succeeded, record));
        assert!(matches!(world.begin(9), Begun::Hit(hit) if Some(hit.execution) == record));
        assert!(matches!(world.ask(&Request { check: true, ..request(9) }), Begun::Busy(_)));
        let ended = world.commit(id, 0, true, content).expect("it holds the lease");
        assert!(!ended.recorded);
        assert_eq!(ended.execution.diverges_from, diverges.then_some(ExecutionId([1; 16])));
        assert_eq!(world.known.answer().map(|record| record.execution), Some(ExecutionId([1; 16])));
    }
}

#[test]
fn a_check_that_fails_or_dies_leaves_the_record_and_one_whose_record_is_void_becomes_it() {
    let mut world = World::default();
    world.begin(1);
    world.commit(1, 0, true, 0);
    let record = world.known.row.record.clone();
    let check = |id| Request { check: true, ..request(id) };
    world.ask(&check(2));
    world.commit(2, 1, true, 0);
    world.ask(&check(3));
    world.expire();
    assert_eq!((world.executions[&2].state, world.executions[&3].state), (State::Failed, State::Abandoned));
    assert_eq!((world.known.verdict(), &world.known.row.record), (Verdict::Succeeded, &record));
    world.ask(&check(4));
    let void = Void { verdict: Verdict::Lost, reason: "test".into(), at: Timestamp::default(), blob: None, rule: None };
    world.known.row.record.as_mut().expect("there is one").void = Some(void);
    assert!(matches!(world.begin(5), Begun::Busy(_)), "it is an attempt like any other now");
    assert!(world.commit(4, 0, true, 1).expect("it holds the lease").recorded);
    assert_eq!(world.known.evidence(), Some(ExecutionId([4; 16])));
}

#[test]
fn a_check_of_nothing_is_an_ordinary_attempt() {
    let mut world = World::default();
    let check = Request { check: true, ..request(1) };
    assert!(matches!(world.ask(&check), Begun::Granted { checks: None, fresh: true, .. }));
    assert!(world.commit(1, 0, true, 0).expect("it holds the lease").recorded);
}
