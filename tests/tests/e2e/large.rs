//! Large and many: in bounded memory, on both sides.
//!
//! With `PROVENDER_SOAK` set, in the sizes of the acceptance list: a file of 5 GiB, and 100,000 files as one output.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::Path;

use provender_tests::child::soak;

use crate::world::World;

const MOST: u64 = 256 << 20;

#[test]
fn large_blob_in_and_out() {
    let world = World::new();
    // Larger than the bound, so that whoever keeps it whole in memory is found out.
    let size: u64 = if soak() { 5 << 30 } else { 320 << 20 };
    write_noise(&world.path("large"), size);
    let put = world.cli(&["put", "large", "--name", "large"]).ok();
    let got = world.cli(&["get", "large", "got"]).ok();
    assert!(same(&world.path("large"), &world.path("got/large")));
    let peaks = [put.peak, got.peak, world.daemon.peak()];
    assert!(peaks.iter().all(|peak| (1 << 20..MOST).contains(peak)), "resident: {peaks:?}");
}

#[test]
fn large_tree_in_and_out() {
    let world = World::new();
    let files: usize = if soak() { 100_000 } else { 20_000 };
    let folders = files / 100;
    let script = format!(
        "mkdir out; cd out; pad=$(printf %01000d 0); f=0; \
         while [ $f -lt {folders} ]; do mkdir $f; n=0; \
         while [ $n -lt 100 ]; do printf %s%010d%014d $pad $f $n >$f/$n; n=$((n+1)); done; f=$((f+1)); done"
    );
    let run = || world.run(&["--name", "many", "--out", "out"], &script).ok();
    let ran = run();
    assert_eq!(ran.result(), "ran");
    std::fs::remove_dir_all(world.path("out")).unwrap();
    let hit = run();
    assert_eq!(hit.result(), "hit");
    for f in 0..folders {
        assert_eq!(world.path(&format!("out/{f}")).read_dir().unwrap().count(), 100);
        let n = f % 100;
        let expected = format!("{:01000}{f:010}{n:014}", 0);
        assert_eq!(world.read(&format!("out/{f}/{n}")), expected);
    }
    let peaks = [ran.peak, hit.peak, world.daemon.peak()];
    assert!(peaks.iter().all(|peak| (1 << 20..MOST).contains(peak)), "resident: {peaks:?}");
}

/// Bytes that neither repeat nor compress.
fn write_noise(path: &Path, size: u64) {
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path).unwrap());
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..size / 8 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.write_all(&state.to_ne_bytes()).unwrap();
    }
    out.flush().unwrap();
}

fn same(a: &Path, b: &Path) -> bool {
    let open = |path: &Path| BufReader::with_capacity(1 << 20, File::open(path).unwrap());
    let (mut a, mut b) = (open(a), open(b));
    let (mut of_a, mut of_b) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let count = a.read(&mut of_a).unwrap();
        if count == 0 {
            return b.read(&mut of_b).unwrap() == 0;
        }
        if b.read_exact(&mut of_b[..count]).is_err() || of_a[..count] != of_b[..count] {
            return false;
        }
    }
}
