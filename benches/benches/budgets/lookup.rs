//! Lookups of one key each that has succeeded, on RocksDB; against the same call on a server that knows the answer.

use std::time::{Duration, Instant};

use futures::future::try_join_all;
use provender_client::{Begin, Begun, Client};
use provender_core::execution::{Executor, Exit, Outcome};
use provender_core::key::TaskKey;
use provender_core::name::Name;
use provender_core::{Digest, ExecutionId, Spec, Verdict};

use crate::Result;
use provender_benches::serve::Server;
use provender_benches::table::Row;

/// Callers that share one connection.
pub(crate) const CALLERS: [usize; 3] = [1, 16, 64];
/// What all records that are made here stand under.
pub(crate) const NAME: &str = "bench/lookup";
const KEYS: u64 = 256;
const ROUNDS: usize = 7;
const TIME: Duration = Duration::from_millis(800);

/// Measures the budget, with so many callers.
pub(crate) async fn measure(callers: usize) -> Result<Row> {
    let (daemon, nothing) = (Server::daemon(&format!("lookup{callers}")).await?, Server::nothing().await?);
    let keys = keys(KEYS)?;
    try_join_all(keys.iter().enumerate().map(|(n, key)| succeed(&daemon.client, key, n as u64))).await?;
    // The first round warms.
    for client in [&daemon.client, &nothing.client] {
        rate(client, &keys, callers).await?;
    }
    let (mut ours, mut limit) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(rate(&daemon.client, &keys, callers).await?);
        limit.push(rate(&nothing.client, &keys, callers).await?);
    }
    let what = format!("lookup of a key, gRPC, RocksDB, {callers} at once");
    Ok(Row { what, unit: "calls/s", ours, limits: vec![("answered without looking", limit)], budget: 0.7 })
}

/// Lookups a second.
async fn rate(client: &Client, keys: &[TaskKey], callers: usize) -> Result<f64> {
    let start = Instant::now();
    let calls = (0..callers).map(|caller| {
        let (client, keys) = (client.clone(), keys.to_vec());
        tokio::spawn(async move {
            let mut done = 0;
            while start.elapsed() < TIME {
                let key = &keys[(caller + done * callers) % keys.len()];
                let answers = client.lookup(std::slice::from_ref(key)).await?;
                assert!(matches!(&answers[..], [answer] if answer.verdict == Verdict::Succeeded));
                done += 1;
            }
            Ok::<_, provender_client::ClientError>(done)
        })
    });
    let done = try_join_all(calls).await?.into_iter().sum::<std::result::Result<usize, _>>()?;
    Ok(done as f64 / start.elapsed().as_secs_f64())
}

/// Keys such as `provender run` derives.
pub(crate) fn keys(count: u64) -> Result<Vec<TaskKey>> {
    let key = |n: u64| TaskKey::new("run", &Digest::of(&n.to_be_bytes()).hex());
    Ok((0..count).map(key).collect::<std::result::Result<_, _>>()?)
}

/// Makes a key's record.
pub(crate) async fn succeed(client: &Client, key: &TaskKey, n: u64) -> Result<()> {
    let mut id = [0; 16];
    id[8..].copy_from_slice(&n.to_be_bytes());
    let (execution, spec, executor) = (ExecutionId(id), Spec::new(Name::new(NAME)?), Executor::default());
    let begin = Begin {
        key,
        spec: &spec,
        execution,
        executor: &executor,
        ttl: Duration::ZERO,
        wait: false,
        check: false,
        remarks: Default::default(),
    };
    let begun = client.begin(begin, |_| {}).await?;
    let Begun::Lease(_) = begun else { return Err(format!("no lease: {begun:?}").into()) };
    let outcome = Outcome { exit: Some(Exit::Code(0)), ..Outcome::default() };
    match client.commit(execution, &outcome).await? {
        (_, true) => Ok(()),
        (execution, false) => Err(format!("not recorded: {execution:?}").into()),
    }
}
