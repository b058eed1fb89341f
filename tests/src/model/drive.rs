//! A case on a real store, beside the model: each step's answer is compared, and after it all that can be seen.
//!
//! Lanes run at once between two steps that are everybody's; within a lane steps are one after the other.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{join_all, try_join_all};
use provender_core::transition::{Cause, Refused};
use provender_core::{Digest, Space, Timestamp};
use provender_daemon::store::{Begin, Content as Opened, Invalidate, Store, StoreError, lost};

use super::choose::Case;
use super::count::Counts;
use super::rules::Model;
use super::step::{Blob, Collect, Content, Id, KEYS, Key, NAMES, Name, Said, Step, Void, What};
use super::things::Things;
use super::world::World;

/// How many lanes were ever made in this process, on any storage.
static LANES: AtomicU64 = AtomicU64::new(1);

/// How often what can be seen is compared as a whole: a lookup of every key comes after each step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// After each step of a lane.
    Always,
    /// At every n-th step that is everybody's, and in the end.
    Every(usize),
}

/// Carries out a case; what was counted, or what was not as the model says.
pub async fn run(case: &Case, world: &mut World<'_>, look: Look) -> Result<Counts, String> {
    let lanes = case.steps.iter().filter_map(|(lane, _)| *lane).max().map_or(1, |last| last + 1);
    let mut lanes: Vec<_> = (0..lanes).map(|n| Lane::new(n, case.daemons)).collect();
    // In the end nobody is heard of any more.
    let end = [0, 3_600_000].map(|millis| Step::Tick { daemon: 0, millis });
    let end = end.map(|step| (None, step));
    let mut waiting: Vec<Vec<&Step>> = vec![Vec::new(); lanes.len()];
    let (mut met, meets) = (0, case.steps.iter().filter(|(lane, _)| lane.is_none()).count() + end.len());
    for (lane, step) in case.steps.iter().chain(&end) {
        if let Some(lane) = lane {
            waiting[*lane].push(step);
            continue;
        }
        let work = lanes.iter_mut().zip(&mut waiting).map(|(lane, steps)| lane.run(world, std::mem::take(steps), look));
        join_all(work).await.into_iter().collect::<Result<Vec<_>, _>>()?;
        match step {
            Step::Tick { daemon, millis } => world.tick(*daemon, Duration::from_millis(*millis)).await?,
            Step::Restart { daemons } => world.restart(daemons).await,
            Step::Restore => world.restore().await,
            Step::Collect { daemon, how } => collect(world, &mut lanes, *daemon, *how).await?,
            other => return Err(format!("{other} is no step of everybody's")),
        }
        met += 1;
        let all = met == meets || matches!(look, Look::Every(n) if met % n == 0);
        // What is old by now and is read would be touched behind our back.
        let all = all || matches!(step, Step::Collect { .. });
        let seen = lanes.iter_mut().map(|lane| async {
            lane.expect(step, Said::Done, Timestamp::default())?;
            lane.look(&world.store(lane.number), all || look == Look::Always).await
        });
        try_join_all(seen).await?;
    }
    world.audit().await?;
    let mut counts = Counts::default();
    lanes.into_iter().for_each(|lane| counts.merge(lane.counts));
    Ok(counts)
}

/// Lets a night pass, if one is to pass, and something be used, and collects.
async fn collect(world: &World<'_>, lanes: &mut [Lane], daemon: usize, how: Collect) -> Result<(), String> {
    world.note().await;
    if how.night {
        world.sleep();
    }
    if let Some(key) = how.used {
        for lane in lanes.iter() {
            let looked = world.store(lane.number).lookup(&lane.things.space, &[lane.things.key(key)]).await;
            looked.map_err(|error| lane.broken("lookup", error))?;
        }
        world.note().await;
    }
    super::collect::meet(lanes.iter_mut().map(|lane| &mut lane.model));
    world.collect(daemon, how).await
}

struct Lane {
    number: usize,
    things: Things,
    model: Model,
    counts: Counts,
    log: String,
}

impl Lane {
    fn new(number: usize, daemons: usize) -> Lane {
        let things = Things::new(LANES.fetch_add(1, Ordering::Relaxed));
        Lane { number, things, model: Model::new(daemons), counts: Counts::default(), log: String::new() }
    }

    async fn run(&mut self, world: &World<'_>, steps: Vec<&Step>, look: Look) -> Result<(), String> {
        for step in steps {
            let store = world.store(step.client().unwrap_or_default().into());
            let (said, at) = match step {
                Step::Begin { id, .. } if self.model.gone.contains(id) => continue,
                // Nor whether what a pin was seen to keep goes today.
                Step::Unpin { what, .. } if self.model.was_kept_by(*what) => continue,
                // Whether it is touched or found to be lost first, nobody can say.
                Step::Read { blob, .. } if self.model.is_old(*blob) => continue,
                // What is not whole is not harmed once more.
                Step::Harm { blob, how } => {
                    if self.model.blobs.get(blob) == Some(&super::rules::Bytes::Whole) {
                        world.harm(&self.things.digest(*blob), *how).await;
                    }
                    (Said::Done, Timestamp::default())
                }
                step => ask(&store, &self.things, step).await,
            };
            self.expect(step, said, at)?;
            self.look(&store, look == Look::Always).await?;
        }
        Ok(())
    }

    /// Has the model take the step, and compares the answers.
    fn expect(&mut self, step: &Step, said: Said, at: Timestamp) -> Result<(), String> {
        let should = self.model.apply(step, at);
        self.counts.add(self.model.kinds.drain(..));
        let _ = writeln!(self.log, "  {step} -> {said:?}");
        self.same("the answer", should, said)
    }

    /// Compares all that can be seen; without `all`, what lookups say.
    async fn look(&mut self, store: &Store, all: bool) -> Result<(), String> {
        let (things, model) = (&self.things, &self.model);
        let keys: Vec<_> = (0..KEYS).map(Key).collect();
        let asked: Vec<_> = keys.iter().map(|key| things.key(*key)).collect();
        let answers = store.lookup(&things.space, &asked).await.map_err(|error| self.broken("lookup", error))?;
        let mut verdicts = Vec::new();
        for (key, answer) in keys.iter().zip(answers) {
            let outputs = answer.outputs.map(|root| things.content_of(&root));
            let seen = (answer.verdict, answer.execution.map(|id| things.id_of(id)), outputs.flatten());
            self.same(&format!("a lookup of {key}"), model.lookup(*key), seen)?;
            verdicts.push(answer.verdict.as_str());
        }
        keys.iter().for_each(|key| self.model.use_record(*key));
        self.counts.add(verdicts);
        if !all {
            return Ok(());
        }
        let (things, model) = (&self.things, &self.model);
        for key in keys {
            let history = store.history(&things.space, Err(&things.key(key)), false, None, 1_000).await;
            let (history, _) = history.map_err(|error| self.broken("history", error))?;
            let told = |id: Id, it: &super::rules::Attempt| (id, it.state, it.diverges);
            let should: Vec<_> = model.history(key).into_iter().map(|(id, it)| told(id, it)).collect();
            let diverges = |it: Option<_>| it.map(|id| things.id_of(id));
            let seen = history.iter().map(|it| (things.id_of(it.id), it.state, diverges(it.diverges_from)));
            self.same(&format!("the history of {key}"), should, seen.collect::<Vec<_>>())?;
        }
        for name in (0..NAMES).map(Name) {
            let latest = store.latest(&things.space, &things.name(name)).await;
            let latest = latest.map_err(|error| self.broken("latest", error))?;
            let seen = latest.map(|latest| things.id_of(latest.id));
            self.same(&format!("latest of {name}"), model.latest(name), seen)?;
        }
        let blobs = Content::ALL.into_iter().flat_map(Content::blobs);
        let blobs: Vec<_> = blobs.filter(|blob| model.may_be_asked(*blob)).collect();
        let digests: Vec<_> = blobs.iter().map(|blob| things.digest(*blob)).collect();
        let missing = store.find_missing(&things.space, &digests).await;
        let missing = missing.map_err(|error| self.broken("find_missing", error))?;
        let mut there = Vec::new();
        for (blob, digest) in blobs.into_iter().zip(digests) {
            let (should, seen) = (model.is_missing(blob), missing.contains(&digest));
            self.same(&format!("whether {blob} is missing"), should, seen)?;
            there.extend((!seen).then_some(blob));
        }
        there.into_iter().for_each(|blob| self.model.touch(blob));
        Ok(())
    }

    fn same<T: PartialEq + std::fmt::Debug>(&self, what: &str, should: T, seen: T) -> Result<(), String> {
        if should == seen {
            return Ok(());
        }
        Err(format!("lane {}:\n{}{what}: expected {should:?}, saw {seen:?}", self.number, self.log))
    }

    fn broken(&self, what: &str, error: StoreError) -> String {
        format!("lane {}:\n{}{what} failed: {error}", self.number, self.log)
    }
}

/// Asks the store; what it answered, and the time that it told.
pub async fn ask(store: &Store, things: &Things, step: &Step) -> (Said, Timestamp) {
    match answer(store, things, step).await {
        Ok((said, at)) => (said, at),
        Err(error) => (refusal(things, error), Timestamp::default()),
    }
}

async fn answer(store: &Store, things: &Things, step: &Step) -> Result<(Said, Timestamp), StoreError> {
    let space = &things.space;
    let word = |id| things.id_of(id);
    let done = |said| Ok((said, Timestamp::default()));
    match step {
        Step::Begin { id, key, name, check, seconds, waited, twice, .. } => {
            let request = things.request(*id, *key, *name, *check, *seconds);
            let waited = waited.map(|id| things.id(id));
            let begin = || store.begin(space, &request, waited);
            let said = |begun| match begun {
                Begin::Lease(_, _, checks) => Said::Lease(checks.map(word)),
                Begin::Hit(hit) => Said::Hit(word(hit.id)),
                Begin::Busy(busy) => Said::Busy(word(busy.id)),
                Begin::Failed(failed) => Said::Failed(word(failed.id)),
            };
            let said = both(things, *twice, async || begin().await.map(said)).await?;
            match said {
                Said::Lease(_) => Ok((said, store.execution(space, request.id).await?.began)),
                said => done(said),
            }
        }
        Step::Beat { id, .. } => {
            store.heartbeat(space, things.id(*id)).await.map(|_| (Said::Kept, Timestamp::default()))
        }
        Step::Commit { id, exit, content, twice, .. } => {
            let (id, outcome) = (things.id(*id), things.outcome(*exit, *content));
            let commit = async || {
                let (execution, recorded) = store.commit(space, id, &outcome).await?;
                let diverges = execution.diverges_from.map(word);
                Ok(Said::Committed { state: execution.state, recorded, diverges })
            };
            let said = both(things, *twice, commit).await?;
            match said {
                Said::Committed { .. } => Ok((said, store.execution(space, id).await?.ended.unwrap_or_default())),
                said => done(said),
            }
        }
        Step::Fail { id, .. } => {
            let outcome = things.outcome(Step::FAILS_WITH, None);
            let failed = store.fail(space, things.id(*id), "on purpose", &outcome).await?;
            done(Said::Committed { state: failed.state, recorded: false, diverges: failed.diverges_from.map(word) })
        }
        Step::Upload { client, content, whole } => {
            store.put_small(space, vec![things.bytes(Blob::Folder(*content))]).await?;
            if *whole {
                put(store, space, things.bytes(Blob::File(*content)), *client == 0).await?;
            }
            done(Said::Done)
        }
        Step::Invalidate { what, .. } => done(Said::Voided(invalidate(store, things, what, None).await?)),
        Step::Evict { key, .. } => {
            let rule = Some("evicted".to_owned());
            done(Said::Voided(invalidate(store, things, &What::Key(*key), rule).await?))
        }
        Step::Pin { what, .. } => {
            let (reason, owner) = ("on purpose".to_owned(), "somebody".to_owned());
            store.pin(space, things.pinned(*what), reason, owner, None).await?;
            done(Said::Done)
        }
        Step::Unpin { what, .. } => {
            store.unpin(space, &things.pinned(*what), None).await?;
            done(Said::Done)
        }
        Step::Read { blob, way, .. } => read(store, things, *blob, *way).await.and_then(done),
        _ => done(Said::Done),
    }
}

/// Asks once or twice at once: both must be told the same.
async fn both(
    things: &Things,
    twice: bool,
    ask: impl AsyncFn() -> Result<Said, StoreError>,
) -> Result<Said, StoreError> {
    if !twice {
        return ask().await;
    }
    let (one, other) = futures::join!(ask(), ask());
    let said = [one, other].map(|said| said.unwrap_or_else(|error| refusal(things, error)));
    Ok(match said {
        [one, other] if one == other => one,
        // The first one found the loss.
        [Said::Lost, Said::Missing] | [Said::Missing, Said::Lost] => Said::Lost,
        [one, other] => Said::Other(format!("sent twice at once, and told {one:?} and {other:?}")),
    })
}

async fn put(store: &Store, space: &Space, bytes: Bytes, small: bool) -> Result<(), StoreError> {
    if small {
        return store.put_small(space, vec![bytes]).await.map(drop);
    }
    let mut upload = store.upload(space, Some(Digest::of(&bytes)));
    upload.write(bytes).await?;
    upload.finish().await.map(drop)
}

/// With a rule it evicts.
async fn invalidate(
    store: &Store,
    things: &Things,
    what: &What,
    rule: Option<String>,
) -> Result<Vec<Void>, StoreError> {
    let cause = Cause { text: "on purpose".into(), rule, ..Cause::default() };
    let mut asked = Invalidate { cause, ..Invalidate::default() };
    match what {
        What::Key(key) => asked.keys.push(things.key(*key)),
        What::Name(name) => asked.names.push(things.name(*name)),
        What::Downstream(key) => {
            asked.keys.push(things.key(*key));
            asked.downstream = true;
        }
    }
    let (mut under_way, mut voided) = (store.invalidate(&things.space, asked, 1_000), Vec::new());
    while let Some(part) = under_way.next().await? {
        for entry in part.entries {
            let word = |id: Option<_>| id.map(|id| things.id_of(id));
            let Some(key) = entry.key else { continue };
            let (record, withdrawn) = (word(entry.record), word(entry.withdrawn));
            voided.push(Void { key: things.key_of(&key), record, withdrawn });
        }
    }
    voided.sort();
    Ok(voided)
}

async fn read(store: &Store, things: &Things, blob: Blob, way: u8) -> Result<Said, StoreError> {
    let (space, right, digest) = (&things.space, things.bytes(blob), things.digest(blob));
    let (from, to) = (digest.size / 3, digest.size / 2);
    let (seen, right) = match way {
        0 => (store.read_whole(space, &digest, 1 << 20).await?, right),
        1 => {
            let part = store.read(space, &digest, from..to).await?;
            let part = part.into_bytes().await.map_err(|error| lost(&digest, error))?;
            (part, right.slice(from as usize..to as usize))
        }
        2 => match store.read_small(space, &[digest]).await?.pop().flatten() {
            Some(bytes) => (bytes, right),
            None => return Ok(Said::NotFound),
        },
        _ => match store.content(space, &digest).await? {
            Opened::Bytes(bytes) => (bytes, right),
            Opened::File(mut file) => {
                let mut bytes = Vec::new();
                std::io::Read::read_to_end(&mut file, &mut bytes).unwrap();
                (bytes.into(), right)
            }
            Opened::Parts => (store.read_part(space, &digest, 0..digest.size).await?, right),
        },
    };
    Ok(if seen == right { Said::Bytes } else { Said::Other("wrong bytes were served".into()) })
}

fn refusal(things: &Things, error: StoreError) -> Said {
    match error {
        StoreError::Refused(Refused::Fenced { by, .. }) => Said::Fenced(by.map(|id| things.id_of(id))),
        StoreError::Refused(Refused::Ended { state, .. }) => Said::Ended(state),
        StoreError::Missing { .. } => Said::Missing,
        StoreError::Lost { .. } => Said::Lost,
        StoreError::NotFound { .. } => Said::NotFound,
        StoreError::Invalid(_) => Said::Invalid,
        other => Said::Other(other.to_string()),
    }
}
