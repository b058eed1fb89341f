//! fio reads blocks that carry their own checksum, with eight jobs in all its ways, while the store changes.
//!
//! What fio finds damaged, short or failing ends it with an error.

use std::time::{Duration, Instant};

use provender_tests::child::{Running, soak};

use super::{Site, latest, started, succeeds};

const FILES: usize = 8;
/// A checksum covers so many bytes, so that blocks of any multiple can be read of what was written in others.
const EACH: usize = 4096;
/// Also above what is kept in one piece or read as one.
const MEBIBYTES: usize = 5;

/// The jobs: how each reads.
const JOBS: [(&str, &str); FILES] = [
    ("--ioengine=psync", "--rw=read --bssplit=4k/20:12k/30:100k/30:1m/20"),
    ("--ioengine=psync", "--rw=randread --bssplit=4k/50:8k/30:36k/20"),
    ("--ioengine=mmap", "--rw=read --bssplit=4k/50:64k/50"),
    ("--ioengine=mmap", "--rw=randread --bssplit=4k/50:128k/50"),
    ("--ioengine=libaio", "--rw=randread --bssplit=4k/30:64k/40:256k/30 --iodepth=16"),
    ("--ioengine=libaio", "--rw=randread --bssplit=4k/50:512k/50 --iodepth=4 --direct=1"),
    ("--ioengine=posixaio", "--rw=read --bs=20k --iodepth=8"),
    ("--ioengine=pvsync2", "--rw=read --bsrange=4k-40k"),
];

/// Starts the eight over a folder; each reads all files.
fn read(folder: &std::path::Path, seed: u64) -> Running {
    let files: Vec<_> = (0..FILES).map(|n| folder.join(n.to_string()).to_str().unwrap().to_owned()).collect();
    let (files, seed) = (format!("--filename={}", files.join(":")), format!("--randseed={seed}"));
    let size = format!("--size={}m", FILES * MEBIBYTES);
    let interval = format!("--verify_interval={EACH}");
    let mut words =
        vec!["fio", "--minimal", "--readonly", "--verify=crc32c", &interval, "--verify_fatal=1", &files, &seed];
    words.extend(
        [&size, "--verify_state_load=0", "--verify_state_save=0", "--invalidate=1", "--exitall_on_error=1"]
            .map(|word| -> &str { word }),
    );
    for (engine, job) in JOBS {
        words.push("--name=job");
        words.push(engine);
        words.extend(job.split(' '));
    }
    started(&words)
}

/// How much a job has read and found right, from the line that fio says of it.
fn read_bytes(line: &str) -> Option<usize> {
    let kibibytes: usize = line.strip_prefix("3;")?.split(';').nth(4)?.parse().ok()?;
    Some(kibibytes << 10)
}

#[test]
fn fio_verifies_each_block_while_the_store_changes() {
    let site = Site::new();
    let world = &site.world;
    let laid = world.path("laid");
    std::fs::create_dir(&laid).unwrap();
    let lay = [format!("--directory={}", laid.display()), format!("--verify_interval={EACH}")];
    for n in 0..FILES {
        // Each laid in blocks of another size.
        let (name, size) = (format!("--filename={n}"), format!("--bs={}k", 4 << n));
        let all = [
            "fio",
            "--minimal",
            "--name=lay",
            "--rw=write",
            "--verify=crc32c",
            "--do_verify=0",
            "--verify_state_save=0",
            &lay[0],
            &lay[1],
        ];
        succeeds(&[&all[..], &[&name, &size, &format!("--size={MEBIBYTES}m")]].concat());
    }
    site.put("laid", "laid");
    // By the folder itself, so that `latest` may go on.
    let folders = site.both().map(|point| std::fs::canonicalize(latest(&point, "laid")).unwrap());

    let until = Instant::now() + Duration::from_secs(if soak() { 300 } else { 12 });
    let (mut passes, mut changes) = (0, 0);
    while Instant::now() < until || passes < 2 {
        let mut fio = read(&folders[passes % 2], passes as u64);
        while fio.ended().is_none() {
            change(&site, changes);
            changes += 1;
        }
        let ran = fio.wait().ok();
        let jobs: Vec<_> = ran.out().lines().filter_map(read_bytes).collect();
        // A block that would reach beyond a file's end is left out.
        let most = (FILES * MEBIBYTES) << 20;
        assert!(jobs.len() == FILES && jobs.iter().all(|read| *read > most * 3 / 4), "{jobs:?} of {most}");
        passes += 1;
    }
    assert!(changes > 10, "{changes}");
    eprintln!("{passes} passes of {FILES} jobs, {changes} changes meanwhile");
}

/// The `n`-th change of the store: new blobs, new executions of the very bytes that are read, and their ends.
fn change(site: &Site, n: usize) {
    let world = &site.world;
    world.write("laid/more", format!("{n}"));
    match n % 6 {
        0 | 3 => site.put("laid", "laid"),
        1 => {
            world.run(&["--name", "moving", "--out", "out"], &format!("echo {n} >out")).ok();
            for point in site.both() {
                let _ = std::fs::read(latest(&point, "moving").join("out"));
            }
        }
        // The newest that shares its blobs with what is read.
        2 => drop(world.cli(&["invalidate", "laid", "--reason", "a test"]).ok()),
        4 => drop(world.cli(&["evict", "laid"]).ok()),
        _ => drop(world.cli(&["evict", "moving"]).ok()),
    }
}
