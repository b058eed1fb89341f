//! A disk that is full at a commit, and while leases are held: nothing false succeeds, and all goes on once there is space.

use provender_proto::v1::{State, Verdict};
use provender_tests::child::string;

use super::*;
use crate::raw::{Raw, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_without_room_is_no_success_until_there_is_space() {
    let small = Small::new(EXT4, SMALL_BUFFERS);
    let raw = Raw::to(&small.world.daemon.remote()).await;
    let done = raw.lease("test:done", 600_000, &["out"]).await;
    let outputs = raw.upload(bytes(1, 100_000).to_vec()).await;
    raw.commit(&done, Some(outputs)).await.unwrap();
    // The bytes of all of them are there.
    let mut held = Vec::new();
    for n in 0..3 {
        held.push(raw.lease(&format!("test:{n}"), 600_000, &["out"]).await);
    }
    small.fill_up().await;
    for (n, execution) in held.iter().enumerate() {
        for _ in 0..2 {
            refused(&raw.commit(execution, Some(outputs)).await.unwrap_err());
            refused(&raw.heartbeat(execution).await.unwrap_err());
            refused(&raw.fail(execution, "no room").await.unwrap_err());
        }
        assert_eq!(raw.verdict(&format!("test:{n}")).await, Verdict::Running);
    }
    refused(&raw.begin("test:new", 600_000, &[]).await.unwrap().next().await.unwrap_err());
    assert_eq!(raw.verdict("test:new").await, Verdict::Unknown);
    assert_eq!(raw.verdict("test:done").await, Verdict::Succeeded);

    small.free();
    small.heals().await;
    // Each can still do what it likes: nobody took its lease.
    raw.heartbeat(&held[0]).await.unwrap();
    assert_eq!(raw.commit(&held[0], Some(outputs)).await.unwrap().state(), State::Succeeded);
    assert_eq!(raw.commit(&held[1], Some(outputs)).await.unwrap().state(), State::Succeeded);
    assert_eq!(raw.fail(&held[2], "no room").await.unwrap().state(), State::Failed);
    for (n, verdict) in [Verdict::Succeeded, Verdict::Succeeded, Verdict::Failed].into_iter().enumerate() {
        let history = raw.history(&format!("test:{n}")).await;
        assert_eq!((raw.verdict(&format!("test:{n}")).await, history.len()), (verdict, 1));
    }
}

/// A whole `provender run`, whose command ends while there is no room for its record.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_record_finds_no_room_says_so_and_the_next_one_works() {
    let small = Small::new(EXT4, SMALL_BUFFERS);
    let world = &small.world;
    let script = "while [ ! -e go ]; do sleep 0.05; done; head -c 100000 /dev/zero >out; echo ran >>ran; echo made";
    let args = |key: &'static str| ["--name", "n", "--key", key, "--out", "out", "--ttl", "2"];
    world.write("go", "");
    world.run(&args("test:before"), script).ok();
    std::fs::remove_file(world.path("go")).unwrap();
    let running = world.start(&args("test:a"), script);
    eventually("it has begun", || world.verdict("test:a") == "RUNNING");
    small.fill_up().await;
    world.write("go", "");
    let ran = running.wait().code(125).says(&["is full", "No space left on device", "free some space"]);
    assert_eq!(ran.result(), "unrecorded");
    assert_ne!(world.verdict("test:a"), "SUCCEEDED");
    // What succeeded before does so still, for who looks and for who runs.
    assert_eq!(world.verdict("test:before"), "SUCCEEDED");
    assert_eq!(world.run(&args("test:before"), script).ok().result(), "hit");
    // What has to be begun is not.
    let began = world.run(&args("test:b"), script);
    assert_eq!(began.code(125).says(&["is full", "free some space"]).out(), "");
    assert_eq!(world.count("ran"), 2);

    small.free();
    small.heals().await;
    let ran = world.run(&args("test:a"), script).ok();
    assert_eq!((ran.result().as_str(), world.count("ran")), ("ran", 3));
    assert_eq!(world.verdict("test:a"), "SUCCEEDED");
    let states: Vec<_> =
        world.cli(&["--json", "history", "n"]).ok().lines().iter().map(|line| string(&line["verdict"])).collect();
    eprintln!("full: {states:?}");
}

/// Leases of executors that are alive and of some that are not, over a time without room.
#[tokio::test(flavor = "multi_thread")]
async fn leases_outlive_a_full_disk_and_end_soon_after() {
    let mut small = Small::new(EXT4, SMALL_BUFFERS);
    let raw = Raw::to(&small.world.daemon.remote()).await;
    let mut alive = Vec::new();
    for n in 0..4 {
        alive.push((format!("test:alive-{n}"), raw.lease(&format!("test:alive-{n}"), 60_000, &[]).await));
        raw.lease(&format!("test:dead-{n}"), 1_000, &[]).await;
    }
    small.fill_up().await;
    let before = Spent::of(&small);
    let mut beats = 0;
    let began = std::time::Instant::now();
    // Several times as long as the dead ones have.
    while began.elapsed() < Duration::from_secs(5) {
        for (_, execution) in &alive {
            refused(&raw.heartbeat(execution).await.unwrap_err());
            beats += 1;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let after = Spent::of(&small);
    let (cpu, grown) = (after.cpu - before.cpu, after.memory.saturating_sub(before.memory));
    let share = cpu.as_secs_f64() / began.elapsed().as_secs_f64();
    eprintln!("full: {beats} beats refused; {cpu:.0?} of CPU time ({:.0} %), {grown} bytes more", share * 100.0);
    assert!(share < 0.5, "the daemon spins: {cpu:?} in {:?}", began.elapsed());
    assert!(grown < 32 << 20, "the daemon grew by {grown} bytes");
    for n in 0..4 {
        assert_eq!(raw.verdict(&format!("test:alive-{n}")).await, Verdict::Running);
        assert_ne!(raw.verdict(&format!("test:dead-{n}")).await, Verdict::Succeeded);
    }
    small.free();
    small.heals().await;
    for (key, execution) in &alive {
        raw.heartbeat(execution).await.unwrap();
        raw.commit(execution, None).await.unwrap();
        assert_eq!(raw.verdict(key).await, Verdict::Succeeded);
    }
    for n in 0..4 {
        until(&raw, &format!("test:dead-{n}"), |verdict| verdict == Verdict::Abandoned).await;
        let again = raw.lease(&format!("test:dead-{n}"), 60_000, &[]).await;
        raw.commit(&again, None).await.unwrap();
    }
    // And it ends in peace.
    small.world.daemon.stop();
}

/// What the daemon has used.
struct Spent {
    cpu: Duration,
    memory: u64,
}

impl Spent {
    fn of(small: &Small) -> Spent {
        let pid = small.world.daemon.pid().as_raw_nonzero();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        // The name, in brackets, may hold anything; user and system time are the 12th and 13th fields behind it.
        let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        // What user space is shown has 100 ticks a second, whatever the kernel's own.
        let cpu = Duration::from_millis(ticks * 10);
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let kib: u64 = line.split_whitespace().next().unwrap().parse().unwrap();
        Spent { cpu, memory: kib << 10 }
    }
}
