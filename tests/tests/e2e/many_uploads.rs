//! Many uploads of mixed sizes by 64 clients that are cut off and go on, or do not, at random, also with their daemon: everything that was
//! acknowledged is there, nothing else is, and memory, descriptors and staging are at the end as they were early on.
//!
//! 3,000 of them; with `PROVENDER_SOAK` set, 100,000.

#[path = "many_uploads/client.rs"]
mod client;
#[path = "many_uploads/usage.rs"]
mod usage;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use provender_core::Digest;
use provender_core::encode::Encoder;
use provender_core::name::Space;
use provender_tests::child::{eventually, soak};
use provender_tests::conformance::blobs::bytes;

use self::client::{Connection, Cut, upload};
use self::usage::Usage;
use crate::world::World;

const CLIENTS: usize = 64;
/// How often the daemon is killed, in the first fifth.
const KILLS: usize = 3;
/// Small caches, so that they are full early on; and what is abandoned goes soon.
const CONFIG: &str = "keep_uploads_seconds = 4\n\
    [meta]\nengine = \"rocksdb\"\ncache_bytes = 8388608\nwrite_buffer_bytes = 8388608\n\
    [scrub]\nevery_seconds = 0\n";
/// Up to so many bytes a blob is a row.
const ROW: usize = 16 << 10;

/// SplitMix64, so that a number alone decides about each upload.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }

    fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }
}

/// One upload: what, and what becomes of it.
struct Plan {
    n: usize,
    size: usize,
    cuts: Vec<Cut>,
    /// Whether nobody goes on with it after the last cut.
    abandoned: bool,
}

impl Plan {
    fn of(n: usize) -> Plan {
        let mut random = Random(n as u64);
        let size = match random.below(1_000) {
            0..20 => 0,
            20..40 => 1,
            40..500 => 2 + random.index(5_000),
            500..560 => ROW - 1,
            560..620 => ROW,
            620..680 => ROW + 1,
            680..900 => ROW + 2 + random.index(80 << 10),
            900..970 => 100_000 + random.index(300_000),
            // From 1 MiB on they can be gone on with.
            970..975 => (1 << 20) - 1 + random.index(3),
            975..990 => (1 << 20) + random.index(1 << 20),
            _ => (4 << 20) + random.index(4 << 20),
        };
        let cut = |random: &mut Random| Cut { at: random.below(u64::MAX), disconnects: random.below(2) == 0 };
        let cuts: Vec<_> = match random.below(10) {
            _ if size < 2 => Vec::new(),
            0..6 => Vec::new(),
            6..9 => (0..1 + random.index(3)).map(|_| cut(&mut random)).collect(),
            _ => vec![cut(&mut random)],
        };
        let abandoned = cuts.len() == 1 && random.below(2) == 0;
        Plan { n, size, cuts, abandoned }
    }

    fn content(&self) -> bytes::Bytes {
        bytes(self.n as u64, self.size)
    }
}

/// What came of all uploads so far.
#[derive(Default)]
struct Outcome {
    /// With the seeds of their bytes.
    acknowledged: Vec<(usize, Digest)>,
    abandoned: Vec<Digest>,
    cut: usize,
    went_on: usize,
}

/// Carries out the uploads of a range, each once, by all clients.
async fn run(remote: &str, range: std::ops::Range<usize>, outcome: &Arc<Mutex<Outcome>>, done: &Arc<AtomicUsize>) {
    let next = Arc::new(AtomicUsize::new(range.start));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (remote, next, outcome, done) = (remote.to_owned(), next.clone(), outcome.clone(), done.clone());
            tokio::spawn(async move {
                let mut connection = Connection::new(&remote);
                loop {
                    let n = next.fetch_add(1, Ordering::SeqCst);
                    if n >= range.end {
                        return;
                    }
                    let plan = Plan::of(n);
                    let (content, cuts) = (plan.content(), plan.cuts.len());
                    let digest = Digest::of(&content);
                    let went_on = upload(&mut connection, &content, &digest, &plan.cuts, plan.abandoned).await;
                    let mut outcome = outcome.lock().unwrap();
                    outcome.cut += cuts;
                    outcome.went_on += went_on;
                    match plan.abandoned {
                        true => outcome.abandoned.push(digest),
                        false => outcome.acknowledged.push((n, digest)),
                    }
                    done.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
}

/// The names in staging.
fn staged(world: &World) -> BTreeSet<String> {
    let entries = world.data().join("blobs/staging").read_dir().unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// The name under which what is cut off of a blob is staged.
fn token(digest: &Digest) -> String {
    let mut token = Encoder::new("provender upload 1");
    token.bytes(Space::default().as_str()).digest(digest);
    provender_core::digest::hex(&token.digest_of_all().hash[..16])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_uploads_that_are_cut_off_leave_all_that_was_acknowledged_and_nothing_else() {
    let mut world = World::with(CONFIG, &[]);
    let count = if soak() { 100_000 } else { 3_000 };
    let (outcome, done) = (Arc::<Mutex<Outcome>>::default(), Arc::<AtomicUsize>::default());
    let (remote, began) = (world.daemon.remote(), Instant::now());

    // The daemon is killed as well, before anything is measured.
    let early = count / 5;
    let first = tokio::spawn({
        let (remote, outcome, done) = (remote.clone(), outcome.clone(), done.clone());
        async move { run(&remote, 0..early, &outcome, &done).await }
    });
    let mut under_way = BTreeSet::new();
    for kill in 1..=KILLS {
        let until = early * kill / (KILLS + 1);
        while done.load(Ordering::SeqCst) < until {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::task::block_in_place(|| {
            world.daemon.kill();
            under_way.extend(staged(&world));
            world.daemon.restart();
        });
    }
    first.await.unwrap();
    // As much again by the daemon that stays, so that it has what it needs.
    run(&remote, early..early * 2, &outcome, &done).await;
    let plateau = Usage::at_rest(&world);
    run(&remote, early * 2..count, &outcome, &done).await;
    let uploaded = began.elapsed();

    // What stands in staging is of those that were abandoned, or of a daemon that was killed.
    let abandoned: BTreeSet<_> = outcome.lock().unwrap().abandoned.iter().map(token).collect();
    let left = staged(&world);
    eventually("what is in staging is known", || {
        staged(&world).iter().all(|name| abandoned.contains(name) || under_way.contains(name))
    });
    let end = Usage::at_rest(&world);
    let outcome = std::mem::take(&mut *outcome.lock().unwrap());
    let (there, gone, cut, on) = (outcome.acknowledged.len(), outcome.abandoned.len(), outcome.cut, outcome.went_on);
    eprintln!(
        "many uploads: {there} acknowledged and {gone} abandoned in {uploaded:.1?}, {cut} times cut off, {on} went on from within; \
         {} in staging at the end; early on {plateau}, at the end {end}, at most {} MiB",
        left.len(),
        world.daemon.peak() >> 20
    );
    assert_eq!(there + gone, count);
    assert!(cut > count / 4 && on > 0 && gone > count / 50);
    // What memory is left to allocators and caches is a matter of chance, but not of how much was done.
    assert!(end.memory < plateau.memory + plateau.memory / 4 + (24 << 20), "memory: {plateau}, then {end}");
    assert!(end.descriptors <= plateau.descriptors + 4, "descriptors: {plateau}, then {end}");
    eventually("what was abandoned is swept", || staged(&world).is_empty());

    // All of it is there; nothing is that nobody finished.
    let every = if soak() { 7 } else { 1 };
    client::read_all(&remote, outcome.acknowledged.into_iter().step_by(every).collect()).await;
    let connection = Connection::new(&remote);
    for some in outcome.abandoned.chunks(5_000) {
        let some: BTreeSet<_> = some.iter().copied().collect();
        let missing = connection.client().await.find_missing(&Vec::from_iter(some.clone())).await.unwrap();
        assert_eq!(BTreeSet::from_iter(missing), some);
    }
    eprintln!("many uploads: all read back, {:.1?} in all", began.elapsed());
    world.daemon.stop();
}
