//! How long a daemon takes from its start until it serves, over 1,000,000 records.

use std::ops::Range;
use std::time::Instant;

use futures::{StreamExt, TryStreamExt, stream};
use provender_core::key::TaskKey;

use crate::Result;
use crate::lookup::{keys, succeed};
use provender_benches::serve::Server;
use provender_benches::table;

const RECORDS: usize = 1_000_000;
/// What is in the log of a daemon that is killed.
const MORE: usize = 10_000;
/// How many are made at once.
const AT_ONCE: usize = 512;
const ROUNDS: usize = 5;
const DIR: &str = "start";

/// Measures the budget: after a stop, and after a kill, when RocksDB's log has to be read again.
pub(crate) async fn measure() -> Result<()> {
    let keys = keys((RECORDS + ROUNDS * MORE) as u64)?;
    let daemon = Server::daemon(DIR).await?;
    make(&daemon, &keys, 0..RECORDS).await?;
    daemon.kill()?;
    let (mut killed, mut stopped) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        drop(timed(&mut killed).await?);
        let daemon = timed(&mut stopped).await?;
        let from = RECORDS + round * MORE;
        make(&daemon, &keys, from..from + MORE).await?;
        daemon.kill()?;
    }
    table::print_bound("start over 1,000,000 records, after a stop", &stopped, "ms", 1_000.0);
    table::print_bound("the same, after a kill", &killed, "ms", 1_000.0);
    Ok(std::fs::remove_dir_all(DIR)?)
}

/// Makes the records of some of these keys, all under one name.
pub(crate) async fn make(daemon: &Server, keys: &[TaskKey], which: Range<usize>) -> Result<()> {
    let made = which.map(|n| succeed(&daemon.client, &keys[n], n as u64));
    stream::iter(made).buffer_unordered(AT_ONCE).try_for_each(async |()| Ok(())).await
}

async fn timed(times: &mut Vec<f64>) -> Result<Server> {
    let start = Instant::now();
    let daemon = Server::daemon(DIR).await?;
    times.push(start.elapsed().as_secs_f64() * 1e3);
    Ok(daemon)
}
