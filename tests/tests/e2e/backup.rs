//! Backups by the real programs: taken while the daemon serves, restored on another engine, cut off, damaged; and a data folder of
//! an older version.

use std::path::Path;

use provender_core::batch::{Batch, BatchId};
use provender_core::{Table, rows};
use provender_daemon::meta::{self, MetaConfig, Scan};
use provender_tests::child::{Ran, eventually, string};
use provender_tests::daemon::Daemon;
use provender_tests::postgres;
use provender_tests::provender::Provender;
use rustix::process::Signal;

use crate::world::{World, folder};

/// `provender --json admin backup DIR`; its number.
#[track_caller]
fn backup(provender: &Provender, dir: &Path) -> u64 {
    let ran = provender.run(["--json", "admin", "backup", dir.to_str().unwrap()]).ok();
    ran.json()["number"].as_u64().unwrap()
}

/// `provenderd restore DIR FLAGS`.
fn restore(data: &Path, dir: &Path, flags: &[&str]) -> Ran {
    Daemon::once(data, &[&["restore", dir.to_str().unwrap()], flags].concat())
}

fn config(folder: &Path, postgres: &postgres::Server) -> String {
    let file = folder.join("postgres.toml");
    let blobs = folder.join("shared");
    let text = format!(
        "[meta]\nengine = \"postgres\"\nurl = \"{}\"\n[blobs]\nbackend = \"disk\"\ndir = \"{}\"\n",
        postgres.url(),
        blobs.display()
    );
    std::fs::write(&file, text).unwrap();
    file.display().to_string()
}

/// What people see of a store.
fn seen(provender: &Provender) -> String {
    let mut seen = String::new();
    for args in [
        &["--json", "ls"][..],
        &["--json", "history", "made"],
        &["--json", "history", "made", "--failed"],
        &["--json", "ls", "--where", "labels.kept=yes"],
        &["cat", "made", "out"],
        &["cat", "large", "large"],
        &["logs", "made"],
    ] {
        seen += &provender.run(args).ok().out();
    }
    seen
}

#[test]
fn a_store_is_backed_up_while_it_serves_and_restored_on_another_engine_and_back() {
    let world = World::new();
    let dir = world.root().join("backups");
    world.write("in", "some input");
    let script = "echo said; tr a-z A-Z < in > out";
    let made = &["--name", "made", "--in", "in", "--out", "out", "--label", "kept=yes"];
    world.run(made, script).ok();
    world.run(&["--name", "made", "--in", "in", "--out", "out"], "exit 3").code(3);
    world.write("large", vec![7; 5 << 20]);
    world.cli(&["put", "large", "--name", "large"]).ok();
    assert_eq!(backup(&world.provender, &dir), 1);
    let before = seen(&world.provender);
    // Somebody is at it while the second one is taken.
    let running = world.start(
        &["--name", "slow", "--in", "in", "--out", "slow", "--ttl", "2"],
        "touch began; while [ ! -e go ]; do sleep 0.05; done; cp in slow",
    );
    eventually("it runs", || world.path("began").exists());
    assert_eq!(backup(&world.provender, &dir), 2);
    world.write("go", "");
    running.wait().ok();
    let text = world.cli(&["admin", "backup", dir.to_str().unwrap()]).ok().out();
    assert!(text.starts_with("backup 3 of 20") && text.contains(" rows, "), "{text}");

    let listed = restore(&world.data(), &dir, &["--list"]).ok().out();
    assert_eq!(listed.lines().count(), 3, "{listed}");
    assert!(restore(&world.data(), &dir, &["--check"]).ok().out().starts_with("whole: backup 3"));
    restore(&world.data(), &dir, &[]).code(1).says(&["holds a store already", "--data"]);

    let (postgres, place) = (postgres::Server::start(), folder());
    let shared = config(place.path(), &postgres);
    let flags = ["--config", &shared];
    let (first, second) = (place.path().join("a"), place.path().join("b"));
    restore(&first, &dir, &[&flags[..], &["--at", "1"]].concat()).ok();
    restore(&second, &dir, &flags).code(1).says(&["not empty"]);
    let mut daemons = [Daemon::start(&first, &flags), Daemon::start(&place.path().join("c"), &flags)];
    let users = [0, 1].map(|n: usize| {
        let work = place.path().join(format!("w{n}"));
        std::fs::create_dir(&work).unwrap();
        std::fs::copy(world.path("in"), work.join("in")).unwrap();
        Provender::new(&place.path().join("h"), &work, &daemons[n].remote())
    });
    for user in &users {
        assert_eq!(seen(user), before);
        assert_eq!(crate::world::verdict(user, "slow"), "UNKNOWN");
    }
    let again = crate::world::start(&users[1], made, script).wait().ok();
    assert_eq!(again.result(), "hit");
    users[0].run(["put", "in", "--name", "new"]).ok();
    // It goes on in the same folder, whichever engine it is on.
    assert_eq!(backup(&users[1], &dir), 4);
    daemons.iter_mut().for_each(Daemon::stop);

    let back = place.path().join("d");
    restore(&back, &dir, &[]).ok();
    let daemon = Daemon::start(&back, &[]);
    let user = Provender::new(&place.path().join("h"), &place.path().join("w0"), &daemon.remote());
    assert_eq!(user.run(["cat", "new", "in"]).ok().out(), "some input");
    assert_eq!(user.run(["cat", "made", "out"]).ok().out(), "SOME INPUT");
    // Whoever was at it at the moment of a backup is nobody's any more.
    let third = place.path().join("e");
    restore(&third, &dir, &["--at", "2"]).ok();
    let daemon = Daemon::start(&third, &[]);
    let user = Provender::new(&place.path().join("h"), &place.path().join("w0"), &daemon.remote());
    eventually("its lease runs out", || crate::world::verdict(&user, "slow") == "ABANDONED");
}

#[test]
fn backups_that_are_killed_go_on_and_damaged_ones_are_not_restored() {
    let mut world = World::new();
    let dir = world.root().join("backups");
    for n in 0..6_u8 {
        world.write("file", vec![n; 4 << 20]);
        world.cli(&["put", "file", "--name", &format!("file{n}")]).ok();
    }
    // Each round is cut off once there is more of the backup than before, which the next one goes on with.
    let blobs = || walk(&dir.join("blobs/objects")).len();
    let reached: [&dyn Fn() -> bool; 5] = [
        &|| dir.exists(),
        &|| dir.join("provender-backup").exists(),
        &|| !walk(&dir.join("rows")).is_empty(),
        &|| blobs() > 0,
        &|| blobs() > 2,
    ];
    for reached in reached {
        let running = world.provender.start(["--json", "admin", "backup", dir.to_str().unwrap()]);
        eventually("the backup has come so far", reached);
        world.daemon.kill();
        running.wait();
        world.daemon.restart();
        if dir.join("provender-backup").exists() {
            let checked = restore(&world.data(), &dir, &["--check"]);
            let nothing_yet = checked.err().contains("no whole backup");
            assert!(nothing_yet || checked.status.success(), "{} {}", checked.out(), checked.err());
        }
    }
    backup(&world.provender, &dir);
    restore(&world.data(), &dir, &["--check"]).ok();
    // Killed in the middle, a restore is not served, and goes on.
    let place = folder();
    let data = place.path().join("d");
    for blobs in [0, 1, 3] {
        let restoring = Daemon::begin(&data, &["restore", dir.to_str().unwrap()]);
        // It says so before anything else, and may be through at once.
        let begun = || data.join("restoring").exists() || data.join("layout").exists();
        eventually("the restore has come so far", || begun() && walk(&data.join("blobs/objects")).len() >= blobs);
        restoring.signal(Signal::KILL);
        restoring.wait();
        if data.join("restoring").exists() {
            Daemon::refused(&data, &[]).code(1).says(&["restore", "again"]);
        }
        if data.join("layout").exists() {
            break;
        }
    }
    if !data.join("layout").exists() {
        restore(&data, &dir, &[]).ok();
    }
    let daemon = Daemon::start(&data, &[]);
    let user = Provender::new(&place.path().join("h"), &world.path(""), &daemon.remote());
    for n in 0..6_u8 {
        assert!(user.run(["cat", &format!("file{n}"), "file"]).ok().stdout == vec![n; 4 << 20]);
    }
    // One byte in the middle of a large blob.
    let found = walk(&dir.join("blobs/objects"));
    let (file, name) = (&found[0], found[0].file_name().unwrap().to_str().unwrap());
    let mut bytes = std::fs::read(file).unwrap();
    bytes[1_000_000] ^= 1;
    std::fs::remove_file(file).unwrap();
    std::fs::write(file, bytes).unwrap();
    let checked = restore(&data, &dir, &["--check"]).code(1);
    assert!(checked.out().contains(name), "{}", checked.out());
    let fresh = place.path().join("e");
    restore(&fresh, &dir, &[]).code(1).says(&["damaged", name]);
    Daemon::refused(&fresh, &[]).code(1).says(&["restore"]);
}

fn walk(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    // What is not there yet, or is being made and removed, is nothing.
    for entry in std::fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(walk(&path)) } else { found.push(path) }
    }
    found
}

#[test]
fn upkeep_is_for_the_owner_and_never_over_a_bare_port() {
    let world = World::with("", &["--listen", "127.0.0.1:0", "--insecure"]);
    let address = string(&world.daemon.logged("listening on TCP")["fields"]["address"]);
    let dir = world.root().join("backups");
    let remote = format!("http://{address}");
    let refused = world.cli(&["--remote", &remote, "admin", "backup", dir.to_str().unwrap()]);
    assert!(!refused.status.success() && !dir.exists(), "{}", refused.err());
    world.cli(&["admin", "backup", world.data().join("b").to_str().unwrap()]).code(1).says(&["within the data folder"]);
    world.write("foreign/thesis.tex", "");
    world.cli(&["admin", "backup", "foreign"]).code(1).says(&["thesis.tex", "empty or new"]);
    world.cli(&["admin", "backup", "here"]).ok();
    assert!(world.path("here/provender-backup").exists(), "a relative path is the asker's");
}

#[test]
fn a_data_folder_of_an_older_layout_is_migrated_and_kept_as_it_was() {
    let mut world = World::new();
    for n in 0..3 {
        world.run(&["--name", &format!("n{n}"), "--label", "kept=yes"], &format!("echo {n}")).ok();
    }
    let found = |world: &World| world.cli(&["--json", "ls", "--where", "labels.kept=yes"]).ok().lines().len();
    assert_eq!(found(&world), 3);
    world.daemon.stop();
    // As a version left it that knew no index.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let meta = meta::open(&MetaConfig::default(), &world.data()).await.unwrap();
        let mut batch = Batch::new(BatchId([255; 16]));
        for (key, _) in meta.scan(&Scan::prefix(Table::Index, "")).await.unwrap().rows {
            batch.delete(provender_core::RowKey { table: Table::Index, key });
        }
        batch.put(rows::store("layout"), "1");
        meta.commit(batch).await.unwrap();
    });
    drop(runtime);
    std::fs::write(world.data().join("layout"), "provender data 1\n").unwrap();
    world.daemon.restart();
    assert_eq!(found(&world), 3);
    assert_eq!(std::fs::read_to_string(world.data().join("layout")).unwrap(), "provender data 3\n");
    let snapshots: Vec<_> = std::fs::read_dir(world.data().join("snapshots")).unwrap().flatten().collect();
    assert_eq!(snapshots.len(), 1);
    let listed = restore(&world.data(), &snapshots[0].path(), &["--list"]).ok().out();
    assert!(listed.contains("metadata alone"), "{listed}");
    restore(&world.data(), &snapshots[0].path(), &["--check"]).ok();
    // The way back: the metadata as it was, beside the same blobs.
    world.daemon.signal(Signal::TERM);
    world.daemon.wait();
    std::fs::rename(world.data().join("meta"), world.root().join("meta")).unwrap();
    std::fs::remove_file(world.data().join("layout")).unwrap();
    restore(&world.data(), &snapshots[0].path(), &[]).ok();
    assert_eq!(std::fs::read_to_string(world.data().join("layout")).unwrap(), "provender data 1\n");
    world.daemon.restart();
    assert_eq!(found(&world), 3);
}
