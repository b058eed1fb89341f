//! The ways in which files are read, each as a rate. They know no more than a path.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use super::nothing::{FOLDER, LARGE_SIZE, MANY_FOLDERS, MILLION_COUNT, SMALL_SIZE};
use crate::Result;

/// Bytes a second, as `dd bs=1M` reads them.
pub(super) fn in_sequence(path: &Path) -> Result<f64> {
    let mut piece = vec![0; 1 << 20];
    let start = Instant::now();
    let (mut file, mut done) = (File::open(path)?, 0);
    loop {
        match file.read(&mut piece)? {
            0 => break,
            count => done += count as u64,
        }
    }
    let took = start.elapsed().as_secs_f64();
    if done != LARGE_SIZE {
        return Err(format!("{} ends after {done} bytes", path.display()).into());
    }
    Ok(done as f64 / took)
}

/// Bytes a second, copied from a mapping from its beginning to its end.
pub(super) fn as_memory(path: &Path) -> Result<f64> {
    let size = format!("--size={LARGE_SIZE}");
    let fields = fio(path, &["--ioengine=mmap", "--rw=read", "--bs=128k", &size])?;
    Ok(fields[BANDWIDTH] * 1024.0)
}

/// Reads of 4 KiB a second for a second, by so many threads.
pub(super) fn anywhere(path: &Path, threads: usize) -> Result<f64> {
    let (size, jobs) = (format!("--size={LARGE_SIZE}"), format!("--numjobs={threads}"));
    let how = ["--ioengine=psync", "--rw=randread", "--bs=4k", "--time_based", "--runtime=1", "--norandommap"];
    let fields = fio(path, &[&how[..], &[&size, &jobs, "--thread", "--group_reporting"]].concat())?;
    Ok(fields[RATE])
}

/// Fields of fio's terse output, version 3: KiB a second, and reads a second.
const BANDWIDTH: usize = 6;
const RATE: usize = 7;

fn fio(path: &Path, words: &[&str]) -> Result<Vec<f64>> {
    let mut command = Command::new("fio");
    command.args(["--minimal", "--readonly", "--name=read", "--invalidate=0"]).args(words);
    let out = command.arg(format!("--filename={}", path.display())).stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&out.stdout);
    let line = said.lines().find(|line| line.starts_with("3;"));
    match line.filter(|_| out.status.success()) {
        Some(line) => Ok(line.split(';').map(|field| field.parse().unwrap_or_default()).collect()),
        None => Err(format!("fio: {} {said}{}", out.status, String::from_utf8_lossy(&out.stderr)).into()),
    }
}

/// Files a second, one after the other: opened, read and closed.
pub(super) fn each(path: &Path, folders: u64, each: u64) -> Result<f64> {
    let paths: Vec<_> =
        (0..folders * each).map(|n| path.join((n / each).to_string()).join((n % each).to_string())).collect();
    let mut bytes = [0; 4096];
    let start = Instant::now();
    for path in &paths {
        let mut file = File::open(path)?;
        let mut done = 0;
        loop {
            match file.read(&mut bytes)? {
                0 => break,
                count => done += count,
            }
        }
        if done != SMALL_SIZE {
            return Err(format!("{} ends after {done} bytes", path.display()).into());
        }
    }
    Ok(paths.len() as f64 / start.elapsed().as_secs_f64())
}

/// Entries a second that `find` finds.
pub(super) fn found(path: &Path) -> Result<f64> {
    told("find", &[], path, MANY_FOLDERS * (FOLDER + 1) + 1)
}

/// Entries a second that `ls -f` lists.
pub(super) fn listed(path: &Path) -> Result<f64> {
    told("ls", &["-f"], path, MILLION_COUNT + 2)
}

fn told(program: &str, words: &[&str], path: &Path, lines: u64) -> Result<f64> {
    let start = Instant::now();
    let out = Command::new(program).args(words).arg(path).stdin(Stdio::null()).output()?;
    let took = start.elapsed().as_secs_f64();
    let count = out.stdout.iter().filter(|byte| **byte == b'\n').count() as u64;
    if !out.status.success() || count != lines {
        return Err(format!("{program} {}: {}, {count} entries of {lines}", path.display(), out.status).into());
    }
    Ok(count as f64 / took)
}
