//! Keeping the lease while the command runs and its outputs are stored.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use provender_core::ExecutionId;
use tokio::task::JoinHandle;

use super::{Event, Events};
use crate::client::Client;
use crate::error::ClientError;
use crate::process::Control;

/// However short the daemon says that a lease is.
const SOONEST: Duration = Duration::from_millis(100);

/// A lease that is kept until this is dropped.
#[derive(Debug)]
pub(super) struct Held {
    lost: Arc<Mutex<Option<String>>>,
    beating: JoinHandle<()>,
}

impl Held {
    /// Beats three times a TTL. When the lease is somebody else's, the command is killed: its work is for nothing. When the
    /// daemon cannot be reached, the command goes on, for it may be back in time.
    pub(super) fn new(client: Client, id: ExecutionId, ttl: Duration, control: Control, events: Events) -> Held {
        let lost = Arc::new(Mutex::new(None));
        let tell = lost.clone();
        let beating = tokio::spawn(async move {
            let mut ttl = ttl;
            let mut told = false;
            loop {
                tokio::time::sleep((ttl / 3).max(SOONEST)).await;
                match client.heartbeat(id).await {
                    Ok(next) => (ttl, told) = (next, false),
                    Err(ClientError::Fenced(why)) => {
                        *tell.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
                        control.kill();
                        return;
                    }
                    Err(error) if !told => {
                        events(Event::NoHeartbeat(&error));
                        told = true;
                    }
                    Err(_) => {}
                }
            }
        });
        Held { lost, beating }
    }

    /// Why the lease is somebody else's, if it is.
    pub(super) fn lost(&self) -> Option<String> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.beating.abort();
    }
}
