//! Files of a mounted view that are open and come part by part: whoever has the bytes is asked to keep them, again and again as long as they are.
//!
//! Owns [`Open`]. Invariants: nobody who opens, reads or closes waits for it; what was closed is asked for no more. One that nobody reads for
//! long would be collected otherwise, once its record is.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use provender_core::Digest;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

/// How long one is open before anybody is asked: most are closed by then.
const FIRST: Duration = Duration::from_millis(100);
/// How long an answer of a daemon is good for that does not say; and at most, since another may come up with another configuration.
const DEFAULT: Duration = Duration::from_secs(600);
const MOST: Duration = Duration::from_secs(3600);
/// How soon it is tried again after an error.
const AGAIN: Duration = Duration::from_secs(1);
/// How many are asked for at once.
const BATCH: usize = 10_000;

/// What is open. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Open(Arc<All>);

#[derive(Debug, Default)]
struct All {
    files: Mutex<HashMap<Digest, File>>,
    opened: Notify,
}

#[derive(Debug, Default)]
struct File {
    /// How often it is open.
    times: usize,
    /// When it was asked for last.
    asked: Option<Instant>,
}

/// One that is open.
pub struct Held {
    open: Open,
    digest: Digest,
}

/// The task that has what is open kept; it ends with this.
#[derive(Debug)]
pub struct Keeping(AbortHandle);

impl Drop for Keeping {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Open {
    /// Keeps it until what is returned is dropped.
    pub fn hold(&self, digest: Digest) -> Held {
        self.files().entry(digest).or_default().times += 1;
        self.0.opened.notify_one();
        Held { open: self.clone(), digest }
    }

    /// Has all that are open kept by a task on `runtime`, until what is returned is dropped. `protect` says for how long at least the blobs that it is given stay from then on, as
    /// far as they are there; `Some(None)` if it is not said, `None` after an error.
    pub fn keep<F: Future<Output = Option<Option<Duration>>> + Send + 'static>(
        &self,
        runtime: &Handle,
        protect: impl Fn(Vec<Digest>) -> F + Send + Sync + 'static,
    ) -> Keeping {
        Keeping(runtime.spawn(self.clone().ask(protect)).abort_handle())
    }

    async fn ask<F: Future<Output = Option<Option<Duration>>> + Send>(
        self,
        protect: impl Fn(Vec<Digest>) -> F + Send + Sync,
    ) {
        let mut every = DEFAULT;
        loop {
            let (due, next) = self.due(every);
            for digests in due.chunks(BATCH) {
                let began = Instant::now();
                let Some(said) = protect(digests.to_vec()).await else {
                    sleep(AGAIN).await;
                    break;
                };
                // Twice in that time, so that one may be late.
                every = said.map_or(DEFAULT, |said| said / 2).min(MOST);
                let mut files = self.files();
                for digest in digests {
                    files.entry(*digest).and_modify(|file| file.asked = Some(began));
                }
            }
            let opened = async {
                self.0.opened.notified().await;
                sleep(FIRST).await;
            };
            match next {
                _ if !due.is_empty() => sleep(FIRST).await,
                Some(at) => _ = timeout(at.saturating_duration_since(Instant::now()), opened).await,
                None => opened.await,
            }
        }
    }

    fn files(&self) -> MutexGuard<'_, HashMap<Digest, File>> {
        self.0.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those that were not asked for within `every`, and when the next one is due.
    fn due(&self, every: Duration) -> (Vec<Digest>, Option<Instant>) {
        let (now, mut due, mut next) = (Instant::now(), Vec::new(), None);
        for (digest, file) in self.files().iter() {
            match file.asked.map(|asked| asked + every).filter(|at| *at > now) {
                Some(at) => next = Some(next.map_or(at, |next: Instant| next.min(at))),
                None => due.push(*digest),
            }
        }
        (due, next)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut files = self.open.files();
        if let Some(file) = files.get_mut(&self.digest) {
            file.times -= 1;
            if file.times == 0 {
                files.remove(&self.digest);
            }
        }
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Held({})", self.digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_open_is_asked_for_in_time_and_what_is_closed_is_not() {
        let (open, asked) = (Open::default(), Arc::new(Mutex::new(Vec::new())));
        let told = asked.clone();
        let began = Instant::now();
        let keeping = open.keep(&Handle::current(), move |digests| {
            told.lock().unwrap().push((began.elapsed(), digests));
            // The first time it cannot be asked.
            let said = (told.lock().unwrap().len() > 1).then_some(Some(Duration::from_secs(60)));
            async move { said }
        });
        let seconds = |n| sleep(Duration::from_secs(n));
        let [one, other] = [b"one", b"two"].map(|bytes| Digest::of(bytes));
        seconds(1).await;
        // Closed before anybody is asked.
        drop(open.hold(other));
        let (first, second) = (open.hold(one), open.hold(one));
        seconds(10).await;
        drop(first);
        let third = open.hold(other);
        seconds(100).await;
        drop((second, third));
        seconds(100).await;
        drop(keeping);
        let asked = asked.lock().unwrap();
        let of = |digest: Digest| {
            let times = asked.iter().filter(|(_, digests)| digests.contains(&digest)).map(|(at, _)| at.as_secs());
            times.collect::<Vec<_>>()
        };
        assert_eq!(of(one), [1, 2, 32, 62, 92], "{asked:?}");
        assert_eq!(of(other), [11, 41, 71, 101], "{asked:?}");
        assert!(open.files().is_empty());
    }
}
