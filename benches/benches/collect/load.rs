//! Lookups in open loop: they come at their own times, however long the answers take, so that a pause counts for all that fall into it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use provender_benches::{Random, Result};
use provender_client::Client;
use provender_core::Verdict;
use tokio::sync::mpsc;

use crate::fill;

/// Callers that find out how many lookups there can be.
const CALLERS: u64 = 16;
const TIME: Duration = Duration::from_secs(3);
/// How late the one who calls may be at the 99th of 100 times, or nothing is told of answers that are faster.
const LATE: Duration = Duration::from_millis(1);

/// The records that are asked for: those from the first number up to the second.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked(pub(crate) u64, pub(crate) u64);

impl Asked {
    async fn ask(self, client: &Client, random: u64) -> Result<()> {
        let n = self.0 + random % (self.1 - self.0);
        let answers = client.lookup(&[fill::key(n)?]).await?;
        match answers.first().map(|answer| answer.verdict) {
            Some(Verdict::Succeeded) => Ok(()),
            other => Err(format!("record {n} is {other:?}").into()),
        }
    }
}

/// Lookups a second, as many as can be.
pub(crate) async fn capacity(client: &Client, asked: Asked) -> Result<f64> {
    let began = Instant::now();
    let calls = (0..CALLERS).map(|caller| {
        let (client, mut random) = (client.clone(), Random::new(caller));
        tokio::spawn(async move {
            let mut done = 0_u64;
            while began.elapsed() < TIME {
                asked.ask(&client, random.draw()).await?;
                done += 1;
            }
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(done)
        })
    });
    let done = try_join_all(calls).await?.into_iter().sum::<Result<u64>>()?;
    Ok(done as f64 / began.elapsed().as_secs_f64())
}

/// How long answers took, counted from when they should have been asked for.
#[derive(Debug)]
pub(crate) struct Latencies(Vec<Duration>);

impl Latencies {
    /// What so many of 1,000 were not slower than.
    pub(crate) fn part(&self, thousandths: usize) -> Duration {
        self.0[(self.0.len() - 1) * thousandths / 1_000]
    }

    pub(crate) fn many(&self) -> usize {
        self.0.len()
    }
}

/// Asks at a rate until `during` is over.
pub(crate) async fn open_loop<T>(
    client: &Client,
    asked: Asked,
    rate: f64,
    during: impl Future<Output = Result<T>>,
) -> Result<(Latencies, T)> {
    let (stop, (answered, mut answers)) = (Arc::new(AtomicBool::new(false)), mpsc::unbounded_channel());
    let (runtime, stopped, client) = (tokio::runtime::Handle::current(), stop.clone(), client.clone());
    // A thread, since the runtime's timers go in milliseconds.
    let calling = std::thread::spawn(move || {
        let (began, mut random, mut late) = (Instant::now(), Random::new(7), Vec::new());
        for n in 0.. {
            let due = began + Duration::from_secs_f64(f64::from(n) / rate);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if stopped.load(Ordering::Relaxed) {
                break;
            }
            late.push(due.elapsed());
            let (client, answered, random) = (client.clone(), answered.clone(), random.draw());
            runtime.spawn(async move {
                let asked = asked.ask(&client, random).await;
                _ = answered.send(asked.map(|()| due.elapsed()));
            });
        }
        Latencies::of(late)
    });
    let result = during.await;
    stop.store(true, Ordering::Relaxed);
    let late = tokio::task::spawn_blocking(|| calling.join()).await?.map_err(|_| "the caller has died")?;
    let mut all = Vec::new();
    while let Some(answer) = answers.recv().await {
        all.push(answer?);
    }
    if late.part(990) > LATE {
        eprintln!(
            "the machine is busy: of 100 calls one was made {:.1?} late or more, which counts as theirs",
            late.part(990)
        );
    }
    Ok((Latencies::of(all), result?))
}

impl Latencies {
    fn of(mut all: Vec<Duration>) -> Latencies {
        all.sort_unstable();
        all.is_empty().then(|| all.push(Duration::ZERO));
        Latencies(all)
    }
}
