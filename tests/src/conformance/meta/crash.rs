//! What a writer that is killed leaves behind.
//!
//! The writer is a process of its own (`meta-child write`), which says on standard output what was acknowledged to it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;

use provender_core::batch::{RowKey, Table, Version};
use provender_daemon::meta::Meta;

use super::{Storage, batch, fed, get, quiet};

/// Tasks of the writer that commit at the same time.
const TASKS: usize = 4;

/// The rows of one of the writer's batches: in every place where an engine may keep rows apart.
fn rows(round: usize, task: usize, n: usize) -> [RowKey; 3] {
    let key = format!("{round}/{task}/{n}");
    [fed(key.clone()), quiet(key.clone()), RowKey { table: Table::Inline, key: key.into() }]
}

/// Commits for ever, and prints `task n version` for each batch that was acknowledged.
pub async fn write(meta: Arc<dyn Meta>, round: usize) {
    let task = |task: usize| {
        let meta = Arc::clone(&meta);
        tokio::spawn(async move {
            for n in 0.. {
                let mut batch = batch();
                for row in rows(round, task, n) {
                    let size = if row.table == Table::Inline { 10_000 } else { 100 };
                    batch.put(row, vec![n as u8; size]);
                }
                let version = meta.commit(batch).await.unwrap();
                println!("{task} {n} {}", version.0);
            }
        })
    };
    futures::future::join_all((0..TASKS).map(task).collect::<Vec<_>>()).await;
}

/// Kills a writer again and again, and looks each time whether everything acknowledged is there whole, and everything else
/// whole or not at all. `child` is the command of a writer on this storage, to which the round is added.
pub async fn a_killed_writer_leaves_what_was_acknowledged(storage: &dyn Storage, child: impl Fn() -> Command) {
    let mut acknowledged = BTreeMap::new();
    for round in 0..8 {
        let mut writer = child().arg(round.to_string()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(writer.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut jitter = [0; 1];
        getrandom::fill(&mut jitter).unwrap();
        // The pipe's end still holds what was acknowledged before the kill.
        let early: Vec<_> = lines.by_ref().take(1 + usize::from(jitter[0])).collect();
        assert!(!early.is_empty(), "the writer never committed");
        writer.kill().unwrap();
        writer.wait().unwrap();
        for line in early.into_iter().chain(lines) {
            let numbers: Vec<usize> = line.split(' ').map(|number| number.parse().unwrap()).collect();
            acknowledged.insert((round, numbers[0], numbers[1]), Version(numbers[2] as u64));
        }

        let meta = storage.open().await;
        let head = meta.head().await.unwrap();
        for (&(round, task, n), &version) in &acknowledged {
            for key in rows(round, task, n) {
                let row = get(&*meta, &key).await;
                let found = row.as_ref().map(|row| row.version);
                if found != Some(version) || version > head {
                    // What a second look sees tells a lost row from one that comes late.
                    let (again, now) = (get(&*meta, &key).await.map(|row| row.version), meta.head().await);
                    panic!(
                        "{key:?} was acknowledged at {version:?}, is at {found:?}, then {again:?}; {head:?}, {now:?}"
                    );
                }
            }
        }
        for task in 0..TASKS {
            let next = acknowledged.keys().filter(|key| (key.0, key.1) == (round, task)).count();
            let open = meta.get(&rows(round, task, next)).await.unwrap();
            let versions: Vec<_> = open.iter().map(|row| row.as_ref().map(|row| row.version)).collect();
            assert!(versions.windows(2).all(|pair| pair[0] == pair[1]), "half a batch: {versions:?}");
            let beyond = meta.get(&rows(round, task, next + 1)).await.unwrap();
            assert!(beyond.iter().all(Option::is_none), "a batch that came after one never answered");
        }
    }
}
