//! What the mount takes where a folder is very wide: 1,000,000 executions under one name, and 1,000,000 files in one output.
//!
//! Each round has a daemon of its own for each of them, with nothing cached: so what it grows by is what this one folder made it hold. What the store
//! itself takes for the same answers shows in a daemon that is asked over gRPC, page by page.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use provender_client::files::HashCache;
use provender_client::put;
use provender_core::execution::Executor;
use provender_core::name::Name;
use provender_core::provenance::Branch;

use super::nothing::{MILLION, MILLION_COUNT};
use super::{Mounted, drop_caches, make_million};
use crate::lookup::{NAME, keys};
use crate::{Result, start, table};
use provender_benches::serve::Server;

const ROUNDS: usize = 3;
const DIR: &str = "wide";
/// How many executions are told in one answer.
const PAGE: usize = 1000;
const MEBIBYTE: f64 = (1 << 20) as f64;

/// What one round measured of one folder.
#[derive(Default)]
struct Walk {
    ready: Vec<f64>,
    first: Vec<f64>,
    all: Vec<f64>,
    one: Vec<f64>,
    grown: Vec<f64>,
}

/// Measures the budgets: the store is made first, which takes some minutes.
pub(crate) async fn measure() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        println!("the mount of wide folders: not measured, for it takes root to drop what the kernel caches");
        return Ok(());
    }
    fill().await?;
    let (mut executions, mut files, mut asked) = (Walk::default(), Walk::default(), Vec::new());
    for _ in 0..ROUNDS {
        let executions_at = |point: &Path| Ok(point.join("tasks").join(NAME));
        walk(&mut executions, executions_at).await?;
        let files_at = |point: &Path| Ok(std::fs::canonicalize(point.join("tasks").join(MILLION).join("latest/out"))?);
        walk(&mut files, files_at).await?;
        asked.push(ask().await?);
    }
    for (what, walk) in [("executions", &executions), ("files", &files)] {
        table::print_bound(&format!("1,000,000 {what}: mounted, and a first stat"), &walk.ready, "ms", 1_000.0);
        table::print_alone("  the first of `ls -f`", &walk.first, "ms");
        table::print_alone("  all of it", &walk.all, "ms");
        table::print_alone("  one by its name", &walk.one, "ms");
        table::print_bound("  what the daemon grows by at most", &walk.grown, "MiB", 64.0);
    }
    table::print_alone("  the same of executions, over gRPC", &asked, "MiB");
    Ok(std::fs::remove_dir_all(DIR)?)
}

/// Makes the store.
async fn fill() -> Result<()> {
    let count = MILLION_COUNT as usize;
    let daemon = Server::daemon(DIR).await?;
    start::make(&daemon, &keys(MILLION_COUNT)?, 0..count).await?;
    let host = std::env::current_dir()?.join("wide-files");
    make_million(&host)?;
    let (executor, cache) = (Executor::default(), Arc::new(HashCache::disabled()));
    put::put(&daemon.client, &host, Some(&Name::new(MILLION)?), &executor, cache, &|_| {}).await?;
    Ok(std::fs::remove_dir_all(&host)?)
}

/// Has a daemon mount the store, and lists and looks into one folder of it.
async fn walk(walk: &mut Walk, folder: impl Fn(&Path) -> Result<PathBuf>) -> Result<()> {
    let point = std::env::current_dir()?.join("wide-view");
    drop_caches()?;
    let start = Instant::now();
    let server = Server::configured(DIR, &format!("mount = {:?}\n", point.display().to_string())).await?;
    let _mounted = Mounted(None, Some(point.clone()));
    std::fs::metadata(point.join("tasks"))?;
    walk.ready.push(millis(start));
    let before = server.settled()?;
    let folder = folder(&point)?;
    let start = Instant::now();
    let mut entries = std::fs::read_dir(&folder)?;
    entries.next().ok_or("an empty folder")??;
    walk.first.push(millis(start));
    let (mut listed, mut one) = (1, None);
    for entry in entries {
        let entry = entry?;
        listed += 1;
        if listed == MILLION_COUNT / 2 {
            one = Some(entry.file_name());
        }
    }
    walk.all.push(millis(start));
    // `latest`, if it has one.
    if ![MILLION_COUNT, MILLION_COUNT + 1].contains(&listed) {
        return Err(format!("{}: {listed} entries", folder.display()).into());
    }
    let one = one.ok_or("fewer than half of them")?;
    let start = Instant::now();
    std::fs::symlink_metadata(folder.join(one))?;
    walk.one.push(millis(start));
    walk.grown.push((server.peak() - before) as f64 / MEBIBYTE);
    Ok(())
}

/// By how much a daemon grows that tells all executions over gRPC.
async fn ask() -> Result<f64> {
    drop_caches()?;
    let server = Server::daemon(DIR).await?;
    let (name, mut after, mut told) = (Name::new(NAME)?, None::<String>, 0);
    let before = server.settled()?;
    loop {
        let (page, more) = server.client.folders(Branch::Tasks, &name, after.as_deref(), PAGE).await?;
        told += page.len() as u64;
        after = page.into_iter().next_back();
        if !more {
            break;
        }
    }
    if told != MILLION_COUNT {
        return Err(format!("{told} executions were told").into());
    }
    Ok((server.peak() - before) as f64 / MEBIBYTE)
}

fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
