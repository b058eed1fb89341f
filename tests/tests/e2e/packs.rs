//! Small blobs in the packs of a bucket: what they cost in requests, and that they come and go with what is in them, also if the daemon is
//! killed at any request that changes the bucket.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt};
use provender_tests::bucket::proxy::{Asked, Fault, Proxy};
use provender_tests::bucket::{self, Server, client};
use provender_tests::child::{eventually, soak};
use provender_tests::conformance::blobs::bytes;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio::runtime::Runtime;

use crate::world::{World, folder};

/// One of each name stays; nothing goes by itself.
const GC: &str = "[gc]\nprotect_seconds = 1\nevery_seconds = 0\n[[gc.keep]]\nlatest = 1\nfailed_within_seconds = 0\n";
const SIZE: usize = 2_000;
/// How many files of a version no other has, and how many all have.
const OWN: usize = 60;
const SHARED: usize = 20;

/// A daemon whose blobs are in a bucket behind a layer that can be told to fail.
struct Site {
    world: World,
    proxy: Proxy,
    server: Server,
    runtime: Runtime,
}

impl Site {
    fn new() -> Site {
        let server = Server::start();
        let runtime = Runtime::new().unwrap();
        let proxy = runtime.block_on(Proxy::start(server.address()));
        let config = format!("{GC}{}", bucket::toml(&proxy.address(), "site"));
        Site { world: World::inside(folder(), &config, &[]), proxy, server, runtime }
    }

    /// The packs in the bucket, by name.
    fn packs(&self) -> BTreeSet<String> {
        let found = async {
            let (client, folder) = (client(&self.server.address()), "site/packs".into());
            client.list(Some(&folder)).map_ok(|it| it.location.filename().unwrap().to_owned()).try_collect().await
        };
        self.runtime.block_on(found).unwrap()
    }

    fn remove_pack(&self, name: &str) {
        let gone = async { client(&self.server.address()).delete(&format!("site/packs/{name}").into()).await };
        self.runtime.block_on(gone).unwrap();
    }

    /// Counts requests from now on.
    fn count(&self) -> Arc<Mutex<Vec<Asked>>> {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let counted = asked.clone();
        self.proxy.judge(move |it| {
            counted.lock().unwrap().push(it.clone());
            None
        });
        asked
    }

    /// Writes a version of the folder `out`.
    fn write(&self, version: u64) {
        _ = fs::remove_dir_all(self.world.path("out"));
        let all = (0..OWN).map(|n| (format!("own-{n}"), 1_000 * (version + 1) + n as u64));
        for (name, seed) in all.chain((0..SHARED).map(|n| (format!("shared-{n}"), n as u64))) {
            self.world.write(&format!("out/{name}"), bytes(seed, SIZE));
        }
    }

    /// What was put last comes back as it was.
    fn is_whole(&self, version: u64) {
        _ = fs::remove_dir_all(self.world.path("back"));
        self.world.cli(&["get", "n", "back"]).ok();
        self.write(version);
        assert_eq!(contents(&self.world.path("back")), contents(&self.world.path("out")));
    }
}

fn contents(dir: &Path) -> Vec<(String, Bytes)> {
    let mut all: Vec<_> = dir
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap().into()))
        .collect();
    all.sort();
    all
}

/// A little longer than what was used is protected, from the second on in which that is written down.
fn outlive_protection() {
    sleep(Duration::from_millis(2_400));
}

#[test]
fn ten_thousand_small_files_take_few_requests() {
    let site = Site::new();
    let all = bytes(7, 10_000 * 4_096);
    for (n, file) in all.chunks(4_096).enumerate() {
        let name = site.world.path(&format!("made/{}/{n}", n / 500));
        if n % 500 == 0 {
            fs::create_dir_all(name.parent().unwrap()).unwrap();
        }
        fs::write(name, file).unwrap();
    }
    let of = |asked: &Arc<Mutex<Vec<Asked>>>, method: &str| {
        asked.lock().unwrap().iter().filter(|it| it.method == method).count()
    };
    let asked = site.count();
    site.world.run(&["--name", "many", "--out", "out"], "mv made out").ok();
    let (puts, posts, gets) = (of(&asked, "PUT"), of(&asked, "POST"), of(&asked, "GET"));
    println!(
        "a commit of 10,000 files of 4 KiB: {puts} PUTs, {posts} POSTs, {gets} GETs, {} in all",
        asked.lock().unwrap().len()
    );
    assert!(puts + posts <= 20, "{:#?}", asked.lock().unwrap());
    // Of a daemon that has read nothing yet.
    let mut site = site;
    site.world.daemon.stop();
    site.world.daemon.restart();
    let asked = site.count();
    site.world.cli(&["get", "many", "back"]).ok();
    let gets = of(&asked, "GET");
    println!("restoring it: {gets} GETs, {} in all", asked.lock().unwrap().len());
    assert!(gets <= 20, "{:#?}", asked.lock().unwrap());
    let again: Vec<_> = (0..20).flat_map(|n| contents(&site.world.path(&format!("back/out/{n}")))).collect();
    assert_eq!(again.len(), 10_000);
    assert!(again.iter().all(|(name, bytes)| bytes == &all[name.parse::<usize>().unwrap() * 4_096..][..4_096]));
}

#[test]
fn what_is_left_of_packs_is_packed_anew_and_what_is_lost_heals() {
    let site = Site::new();
    for version in 0..2 {
        site.write(version);
        site.world.cli(&["put", "out", "--name", "n"]).ok();
    }
    let before = site.packs();
    outlive_protection();
    let gc = || site.world.cli(&["--json", "gc"]).ok().lines().pop().unwrap()["summary"].clone();
    // What is wanted of the first one's packs is less than half.
    assert_eq!(gc()["records"], 1);
    outlive_protection();
    eventually("what is dead goes, and what is not moves", || {
        gc();
        site.packs().difference(&before).count() > 0 && before.difference(&site.packs()).count() > 0
    });
    site.is_whole(1);
    assert_eq!(site.world.cli(&["--json", "verify", "--deep"]).ok().json()["lost"], json!(0));
    let settled = site.packs();
    gc();
    assert_eq!(site.packs(), settled, "what is wanted stays where it is");

    // Who removes a pack loses what is in it, which is LOST and nothing else; another success heals it.
    let made =
        site.world.run(&["--name", "made", "--out", "out"], "mkdir -p out; for n in 1 2 3; do echo $n >out/$n; done");
    let key = crate::world::key(&made.ok());
    let new: Vec<_> = site.packs().difference(&settled).cloned().collect();
    assert!(!new.is_empty());
    // What it read last it still has in memory.
    let mut site = site;
    site.world.daemon.stop();
    new.iter().for_each(|pack| site.remove_pack(pack));
    site.world.daemon.restart();
    site.world.cli(&["--json", "verify"]).code(1);
    assert_eq!(site.world.verdict(&key), "LOST");
    assert_eq!(site.world.verdict("n"), "SUCCEEDED");
    site.world.run(&["--name", "made", "--out", "out"], "mkdir -p out; for n in 1 2 3; do echo $n >out/$n; done").ok();
    assert_eq!(site.world.verdict(&key), "SUCCEEDED");
    site.is_whole(1);
    site.world.cli(&["verify", "--deep"]).ok();
}

/// Kills a daemon at a request that changes the bucket.
struct Tripwire {
    /// At which one, before or after it is carried out.
    at: usize,
    carried_out: bool,
    victim: Pid,
    counted: usize,
}

impl Tripwire {
    fn meets(&mut self, asked: &Asked) -> Option<Fault> {
        if asked.method == "GET" || asked.method == "HEAD" {
            return None;
        }
        self.counted += 1;
        if self.counted != self.at + 1 {
            return None;
        }
        let victim = self.victim;
        let kill = move || _ = kill_process(victim, Signal::KILL);
        if self.carried_out {
            // The answer comes to nobody.
            std::thread::spawn(move || {
                sleep(Duration::from_millis(30));
                kill();
            });
            return Some(Fault::Unheard);
        }
        kill();
        Some(Fault::Hangup)
    }
}

#[test]
fn a_daemon_that_is_killed_at_any_change_of_the_bucket_loses_nothing_of_packs() {
    let mut site = Site::new();
    let mut version = 0;
    site.write(version);
    site.world.cli(&["put", "out", "--name", "n"]).ok();
    for (at, carried_out) in (0..).flat_map(|at| [(at, false), (at, true)]) {
        if !soak() && at % 2 == 1 {
            continue;
        }
        let wire = Tripwire { at, carried_out, victim: site.world.daemon.pid(), counted: 0 };
        let wire = Arc::new(Mutex::new(wire));
        let judge = wire.clone();
        site.proxy.judge(move |asked| judge.lock().unwrap().meets(asked));
        // A life: it comes, most of what was there before goes, and the rest is packed anew.
        version += 1;
        site.write(version);
        let put = site.world.cli(&["put", "out", "--name", "n"]);
        if put.status.success() {
            outlive_protection();
            site.world.cli(&["gc"]);
            outlive_protection();
            for _ in 0..2 {
                site.world.cli(&["gc"]);
            }
        }
        site.proxy.heal();
        let died = wire.lock().unwrap().counted > at;
        if died {
            site.world.daemon.kill();
            site.world.daemon.restart();
            if !put.status.success() {
                site.world.cli(&["put", "out", "--name", "n"]).ok();
            }
        }
        site.is_whole(version);
        let verified = site.world.cli(&["--json", "verify", "--deep"]).ok().json();
        assert_eq!(verified["lost"], json!(0), "killed at change {at}: {verified}");
        if !died {
            assert!(at > 5, "{at} changes of the bucket");
            return;
        }
    }
}
