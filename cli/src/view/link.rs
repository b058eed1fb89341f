//! The connection that the view asks through.
//!
//! Owns [`Link`]. Invariants: an answer, or an error, comes before the request's time is over; once somebody had to wait for an error, nobody else does: all get
//! one at once, while one task tries new connections until the daemon answers. A daemon that refuses at once, as one that is being restarted, costs no
//! time and is asked each time.

use std::cell::Cell;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use provender_client::{Client, ClientError, Remote};
use provender_core::name::Space;
use provender_fuse::{ANSWER, SourceError, time_left};
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};

/// An error that took longer than this is one that nobody else shall wait for.
const SLOW: Duration = Duration::from_secs(1);
/// How long after a new connection failed the next one is tried.
const AGAIN: Duration = Duration::from_millis(250);

/// A connection that is made again by itself. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Link(Arc<Inner>);

struct Inner {
    remote: Remote,
    client: RwLock<Client>,
    /// Nobody has answered for a while, and somebody is at it.
    is_cut: AtomicBool,
    runtime: Handle,
}

impl Link {
    /// Goes on with a connection to `remote`, which lives on `runtime`.
    pub(crate) fn new(remote: Remote, client: Client, runtime: Handle) -> Link {
        Link(Arc::new(Inner { remote, client: RwLock::new(client), is_cut: AtomicBool::new(false), runtime }))
    }

    /// Asks, and waits for the answer.
    pub(crate) fn ask<T>(
        &self,
        question: impl AsyncFnOnce(&Client) -> Result<T, ClientError>,
    ) -> Result<T, SourceError> {
        self.ask_for_much(&Cell::new(false), question)
    }

    /// The same for an answer that comes in pieces: if the first `has_come`, and the last not in time, that is no reason for others not to ask.
    pub(crate) fn ask_for_much<T>(
        &self,
        has_come: &Cell<bool>,
        question: impl AsyncFnOnce(&Client) -> Result<T, ClientError>,
    ) -> Result<T, SourceError> {
        let Inner { client, is_cut, runtime, .. } = &*self.0;
        if is_cut.load(Ordering::Relaxed) {
            return Err(SourceError::Unavailable { source: "the daemon did not answer a short while ago".into() });
        }
        let client = client.read().unwrap_or_else(PoisonError::into_inner).clone();
        let (began, given) = (Instant::now(), time_left());
        match runtime.block_on(async { timeout(given, question(&client)).await }) {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                if error.is_passing() && began.elapsed() > SLOW {
                    self.cut();
                }
                Err(refused(error))
            }
            Err(_) => {
                // Who came with less time than others have says nothing of the line.
                if !has_come.get() && given + SLOW > ANSWER {
                    self.cut();
                }
                Err(SourceError::TimedOut)
            }
        }
    }

    /// The connection, unless nobody answers at the moment.
    pub(super) fn client(&self) -> Option<Client> {
        let client = || self.0.client.read().unwrap_or_else(PoisonError::into_inner).clone();
        (!self.0.is_cut.load(Ordering::Relaxed)).then(client)
    }

    /// What it lives on.
    pub(super) fn runtime(&self) -> &Handle {
        &self.0.runtime
    }

    /// From now on nobody waits, until there is an answer again.
    fn cut(&self) {
        if !self.0.is_cut.swap(true, Ordering::Relaxed) {
            tracing::warn!("the daemon does not answer; what needs it fails until it does");
            self.0.runtime.spawn(mend(Arc::downgrade(&self.0)));
        }
    }
}

/// Tries until the daemon answers, or the view is gone.
async fn mend(link: Weak<Inner>) {
    loop {
        let Some(remote) = link.upgrade().map(|link| link.remote.clone()) else { return };
        // A new one: the old one may take long to see that its other end is gone, or to be heard again.
        let probe = async {
            let client = Client::connect(&remote, Space::default()).await?;
            client.find_missing(&[]).await.map(|_| client)
        };
        let answer = timeout(ANSWER, probe).await;
        let Some(link) = link.upgrade() else { return };
        match answer {
            Ok(Ok(client)) => *link.client.write().unwrap_or_else(PoisonError::into_inner) = client,
            // An answer, too.
            Ok(Err(error)) if !error.is_passing() => {}
            _ => {
                drop(link);
                sleep(AGAIN).await;
                continue;
            }
        }
        link.is_cut.store(false, Ordering::Relaxed);
        tracing::warn!("the daemon answers again");
        return;
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({})", self.0.remote.address)
    }
}

fn refused(error: ClientError) -> SourceError {
    match error {
        ClientError::NotFound(_) => SourceError::NotFound,
        ClientError::Corrupt { .. } => SourceError::Damaged { what: error.to_string() },
        other => SourceError::Unavailable { source: Box::new(other) },
    }
}
