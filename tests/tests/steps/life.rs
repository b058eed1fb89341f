//! Lives: what is done to a store step by step, and what must hold of it if it is cut off anywhere.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use provender_blobs::Blobs;
use provender_core::execution::{Executor, State};
use provender_core::transition::{Cause, Request};
use provender_core::{Answer, Digest, Execution, ExecutionId, Name, Space, Spec, TaskKey, Verdict};
use provender_daemon::store::{Begin, Compression, Invalidate, Store, StoreError};

use super::content::Content;

/// One space with one key, touched by one life.
pub(crate) struct Round {
    number: u64,
    pub(crate) space: Space,
    pub(crate) key: TaskKey,
    pub(crate) name: Name,
    pub(crate) content: Content,
}

impl Round {
    pub(crate) fn new(number: u64) -> Round {
        Round {
            number,
            space: Space::new(format!("round-{number}")).unwrap(),
            key: "test:key".parse().unwrap(),
            name: Name::new("a/name").unwrap(),
            content: Content::new(number),
        }
    }

    fn id(&self, n: u8) -> ExecutionId {
        ExecutionId([n; 16])
    }

    pub(crate) async fn begin(&self, store: &Store, n: u8) -> Result<Begin, StoreError> {
        let spec = Spec { outputs: vec!["sub/deep/large".into()], ..Spec::new(self.name.clone()) };
        let (executor, ttl) = (Executor::default(), Duration::from_secs(10));
        let request = Request {
            id: self.id(n),
            key: self.key.clone(),
            spec,
            executor,
            ttl,
            check: false,
            remarks: Default::default(),
        };
        store.begin(&self.space, &request, None).await
    }

    /// A whole run by the executor `n`, unless it is a hit.
    pub(crate) async fn run(&self, store: &Store, n: u8) -> Result<(), StoreError> {
        match self.begin(store, n).await? {
            Begin::Hit(_) => return Ok(()),
            Begin::Lease(execution, ..) => assert_eq!(execution.id, self.id(n)),
            other => panic!("nobody else is at it: {other:?}"),
        }
        self.content.upload(store, &self.space).await?;
        let (execution, _) = self.commit(store, n).await?;
        assert_eq!(execution.state, State::Succeeded);
        Ok(())
    }

    /// Another key of the same space and name, with outputs of its own.
    pub(crate) fn other(&self) -> Round {
        let number = self.number + 1;
        Round {
            number,
            space: self.space.clone(),
            key: "test:other".parse().unwrap(),
            name: self.name.clone(),
            content: Content::new(number),
        }
    }

    /// The success of the executor `n`, which has stored everything.
    pub(crate) async fn commit(&self, store: &Store, n: u8) -> Result<(Execution, bool), StoreError> {
        store.commit(&self.space, self.id(n), &self.content.outcome(0)).await
    }

    /// A run by the executor `n` that fails with a log.
    pub(crate) async fn fail(&self, store: &Store, n: u8) -> Result<(), StoreError> {
        self.begin(store, n).await?;
        self.content.upload(store, &self.space).await?;
        store.fail(&self.space, self.id(n), "it broke", &self.content.outcome(1)).await.map(drop)
    }

    async fn answer(&self, store: &Store) -> Answer {
        store.lookup(&self.space, std::slice::from_ref(&self.key)).await.unwrap().swap_remove(0)
    }

    pub(crate) async fn verdict(&self, store: &Store) -> Verdict {
        self.answer(store).await.verdict
    }

    /// A daemon sees the leases there are, and then for a TTL nothing new.
    async fn expire(&self, store: &Store) -> Result<(), StoreError> {
        let mut follower = store.follow(|| Duration::ZERO).await?;
        follower.step(|| Duration::from_secs(10)).await
    }

    async fn invalidate(&self, store: &Store) -> Result<(), StoreError> {
        let cause = Cause { text: "a test".into(), ..Cause::default() };
        let asked = Invalidate { keys: vec![self.key.clone()], cause, ..Invalidate::default() };
        let mut invalidation = store.invalidate(&self.space, asked, 10);
        while invalidation.next().await?.is_some() {}
        Ok(())
    }

    /// Reads what is lost, so that a daemon notices.
    async fn notice(&self, store: &Store) -> Result<(), StoreError> {
        let large = Digest::of(self.content.large());
        match store.read_whole(&self.space, &large, large.size).await {
            Err(StoreError::Lost { .. }) => {}
            other => return Err(other.err().unwrap_or(StoreError::Draining)),
        }
        match store.lookup(&self.space, std::slice::from_ref(&self.key)).await?[0].verdict {
            Verdict::Lost => Ok(()),
            // That it could not be noted is told to the log, and the next reader notices.
            _ => Err(StoreError::Draining),
        }
    }

    /// Takes the large file away from under the store.
    async fn lose(&self, blobs: &dyn Blobs) {
        let large = Digest::of(self.content.large());
        let page = blobs.list(None, 100_000).await.unwrap();
        let copies: Vec<_> = page.locations.iter().filter(|location| location.digest == large).collect();
        assert_eq!(copies.len(), 1);
        blobs.remove(copies[0]).await.unwrap();
    }

    /// From whatever is left to a success: by the executor that was at it, or, every other time, by another one after expiry.
    pub(crate) async fn finish(&self, store: &Store, was: u8, place: &str) {
        let there = self.answer(store).await;
        if there.verdict == Verdict::Running && self.number.is_multiple_of(2) {
            self.run(store, was).await.unwrap_or_else(|error| panic!("{place}: {error}"));
        } else if there.verdict == Verdict::Running {
            self.expire(store).await.unwrap();
            assert_eq!(self.verdict(store).await, Verdict::Abandoned, "{place}");
            self.run(store, 9).await.unwrap_or_else(|error| panic!("{place}: {error}"));
            let late = store.commit(&self.space, self.id(was), &self.content.outcome(0)).await;
            assert!(matches!(late, Err(StoreError::Refused(_))), "{place}: it is fenced: {late:?}");
        } else {
            self.run(store, 9).await.unwrap_or_else(|error| panic!("{place}: {error}"));
        }
        self.is_whole(store, place).await;
    }

    pub(crate) async fn is_whole(&self, store: &Store, place: &str) {
        let answer = self.answer(store).await;
        assert_eq!(answer.verdict, Verdict::Succeeded, "{place}: {}", answer.reason);
        self.content.is_whole(store, &self.space, &self.name, answer.outputs, place).await;
    }
}

/// Something that is done to a store, and can be done again after an error.
#[async_trait]
pub(crate) trait Life {
    fn name(&self) -> &'static str;

    /// What comes before, with no fault.
    async fn prepare(&self, store: &Store, blobs: &dyn Blobs, round: &Round);

    async fn live(&self, store: &Store, round: &Round) -> Result<(), StoreError>;

    /// What must hold afterwards, and that the key comes to a success from there; a daemon that has just come up finds it.
    async fn recover(&self, store: &Store, round: &Round, acknowledged: bool, place: &str);

    /// What may be wrong without a trace before it recovers.
    fn decayed(&self, _round: &Round) -> BTreeSet<Digest> {
        BTreeSet::new()
    }
}

/// All of them.
pub(crate) fn lives() -> Vec<Box<dyn Life>> {
    vec![
        Box::new(Run { over_lost: false }),
        Box::new(Run { over_lost: true }),
        Box::new(Fail),
        Box::new(Expire),
        Box::new(Invalidating { running: false }),
        Box::new(Invalidating { running: true }),
        Box::new(Notice),
        Box::new(Heal),
        Box::new(Compress),
    ]
}

/// Begin, upload, commit; over nothing, or over a record that is lost.
struct Run {
    over_lost: bool,
}

#[async_trait]
impl Life for Run {
    fn name(&self) -> &'static str {
        if self.over_lost { "a run over a lost record" } else { "a run" }
    }

    async fn prepare(&self, store: &Store, blobs: &dyn Blobs, round: &Round) {
        if self.over_lost {
            Heal.prepare(store, blobs, round).await;
        }
    }

    async fn live(&self, store: &Store, round: &Round) -> Result<(), StoreError> {
        round.run(store, 2).await
    }

    async fn recover(&self, store: &Store, round: &Round, acknowledged: bool, place: &str) {
        let verdict = round.verdict(store).await;
        assert!(!acknowledged || verdict == Verdict::Succeeded, "{place}: it was acknowledged, and is {verdict}");
        match verdict {
            Verdict::Succeeded => {
                round.is_whole(store, place).await;
                let execution = store.execution(&round.space, round.id(2)).await;
                if execution.as_ref().is_ok_and(|execution| execution.state == State::Succeeded) {
                    // Who was not answered asks again.
                    let again = store.commit(&round.space, round.id(2), &round.content.outcome(0)).await.unwrap();
                    assert_eq!(again.0, execution.unwrap(), "{place}");
                }
            }
            Verdict::Running => {}
            Verdict::Unknown => assert!(!self.over_lost, "{place}"),
            Verdict::Lost => assert!(self.over_lost, "{place}"),
            other => panic!("{place}: {other}"),
        }
        round.finish(store, 2, place).await;
    }
}

/// An executor that reports a failure.
struct Fail;

#[async_trait]
impl Life for Fail {
    fn name(&self) -> &'static str {
        "a failure"
    }

    async fn prepare(&self, store: &Store, _blobs: &dyn Blobs, round: &Round) {
        round.begin(store, 2).await.unwrap();
    }

    async fn live(&self, store: &Store, round: &Round) -> Result<(), StoreError> {
        round.fail(store, 2).await
    }

    async fn recover(&self, store: &Store, round: &Round, acknowledged: bool, place: &str) {
        let answer = round.answer(store).await;
        match answer.verdict {
            Verdict::Failed => assert_eq!(answer.reason, "it broke", "{place}"),
            Verdict::Running if !acknowledged => {}
            other => panic!("{place}: {other}"),
        }
        assert!(store.latest(&round.space, &round.name).await.unwrap().is_none(), "{place}: a failure is no latest");
        round.finish(store, 2, place).await;
    }
}

/// A daemon that takes a lease that ran out.
struct Expire;

#[async_trait]
impl Life for Expire {
    fn name(&self) -> &'static str {
        "an expiry"
    }

    async fn prepare(&self, store: &Store, _blobs: &dyn Blobs, round: &Round) {
        round.begin(store, 2).await.unwrap();
    }

    async fn live(&self, store: &Store, round: &Round) -> Result<(), StoreError> {
        round.expire(store).await
    }

    async fn recover(&self, store: &Store, round: &Round, acknowledged: bool, place: &str) {
        let verdict = round.verdict(store).await;
        let right = verdict == Verdict::Abandoned || (verdict == Verdict::Running && !acknowledged);
        assert!(right, "{place}: {verdict}");
        round.finish(store, 2, place).await;
    }
}

/// Invalidating a record, or who is at it.
struct Invalidating {
    running: bool,
}

#[async_trait]
impl Life for Invalidating {
    fn name(&self) -> &'static str {
        if self.running { "an invalidation of who runs" } else { "an invalidation" }
    }

    async fn prepare(&self, store: &Store, _blobs: &dyn Blobs, round: &Round) {
        match self.running {
            true => _ = round.begin(store, 2).await.unwrap(),
            false => round.run(store, 2).await.unwrap(),
        }
    }

    async fn live(&self, store: &Store, round: &Round) -> Result<(), StoreError> {
        round.invalidate(store).await
    }

    async fn recover(&self, store: &Store, round: &Round, acknowledged: bool, place: &str) {
        let (before, after) = match self.running {
            true => (Verdict::Running, Verdict::Abandoned),
            false => (Verdict::Succeeded, Verdict::Invalidated),
        };
        let answer = round.answer(store).await;
        assert!(answer.verdict == after || (answer.verdict == before && !acknowledged), "{place}: {}", answer.verdict);
        if answer.verdict == after {
            assert!(answer.reason.ends_with("a test"), "{place}: {}", answer.reason);
            assert!(store.latest(&round.space, &round.name).await.unwrap().is_none(), "{place}");
        }
        round.finish(store, 2, place).await;
    }
}

/// A reader that finds bytes missing.
struct Notice;

#[async_trait]
impl Life for Notice {
    fn name(&self) -> &'static str {
        "a loss that is noticed"
    }

    async fn prepare(&self, store: &Store, blobs: &dyn Blobs, round: &Round) {
        round.run(store, 1).await.unwrap();
        round.lose(blobs).await;
    }

    async fn live(&self, store: &Store, round: &Round) -> Result<(), StoreError> {
        round.notice(store).await
    }

    async fn recover(&self, store: &Store, round: &Round, acknowledged: bool, place: &str) {
        let verdict = round.verdict(store).await;
        let right = verdict == Verdict::Lost || (verdict == Verdict::Succeeded && !acknowledged);
        assert!(right, "{place}: {verdict}");
        // Noticed or not: its bytes reach nobody, and then everybody knows.
        round.notice(store).await.unwrap_or_else(|error| panic!("{place}: {error}"));
        round.finish(store, 2, place).await;
    }

    fn decayed(&self, round: &Round) -> BTreeSet<Digest> {
        BTreeSet::from([Digest::of(round.content.large())])
    }
}

/// A cold blob that is put into frames.
struct Compress;

const AT_ONCE: Compression = Compression { after: Duration::ZERO, min_bytes: 0, level: 1, bytes_per_second: u64::MAX };

#[async_trait]
impl Life for Compress {
    fn name(&self) -> &'static str {
        "a compression"
    }

    async fn prepare(&self, store: &Store, _blobs: &dyn Blobs, round: &Round) {
        round.run(store, 1).await.unwrap();
    }

    async fn live(&self, store: &Store, round: &Round) -> Result<(), StoreError> {
        match store.compress_blob(&Digest::of(round.content.large()), &AT_ONCE).await?.left {
            0 => Ok(()),
            // For a later pass.
            _ => Err(StoreError::Draining),
        }
    }

    async fn recover(&self, store: &Store, round: &Round, acknowledged: bool, place: &str) {
        round.is_whole(store, place).await;
        let again = store.compress_blob(&Digest::of(round.content.large()), &AT_ONCE).await.unwrap();
        assert!(again.left == 0 && (again.packed == 0 || !acknowledged), "{place}: {again:?}");
        round.is_whole(store, place).await;
        // Whatever is left of the old copy, what is lost now can be healed.
        round.finish(store, 2, place).await;
    }
}

/// An upload of what was lost.
struct Heal;

#[async_trait]
impl Life for Heal {
    fn name(&self) -> &'static str {
        "a healing upload"
    }

    async fn prepare(&self, store: &Store, blobs: &dyn Blobs, round: &Round) {
        Notice.prepare(store, blobs, round).await;
        round.notice(store).await.unwrap();
    }

    async fn live(&self, store: &Store, round: &Round) -> Result<(), StoreError> {
        round.content.upload_large(store, &round.space).await
    }

    async fn recover(&self, store: &Store, round: &Round, acknowledged: bool, place: &str) {
        match round.verdict(store).await {
            Verdict::Succeeded => round.is_whole(store, place).await,
            Verdict::Lost if !acknowledged => {
                round.content.upload_large(store, &round.space).await.unwrap();
                round.is_whole(store, place).await;
            }
            other => panic!("{place}: {other}"),
        }
        round.finish(store, 2, place).await;
    }
}
