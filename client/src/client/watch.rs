//! `provender.v1.Tasks/Watch`: what becomes of keys and names, across restarts of the daemon.
//!
//! Invariant: after each break it goes on from the last cursor that it has, so nothing that happened in between is left out; what
//! was told in the last moment before a break may come again.

use std::time::Duration;

use provender_core::event::Event;
use provender_core::key::TaskKey;
use provender_proto::convert::{self, Invalid};
use provender_proto::v1;
use provender_proto::v1::watch_reply::Reply;
use tonic::Streaming;

use super::Client;
use crate::error::ClientError;

/// How long it waits before it asks again for the first time.
const SOONEST: Duration = Duration::from_millis(100);
/// And at most.
const LATEST: Duration = Duration::from_secs(5);

/// What to watch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Watch {
    /// These keys; at most 10,000.
    pub keys: Vec<TaskKey>,
    /// What runs under names that begin so; at most 100. An empty one means all names.
    pub prefixes: Vec<String>,
    /// From where to go on, as another watch gave it; none: from now, with the verdicts that the keys have first.
    pub cursor: Option<String>,
}

/// What is heard.
#[derive(Debug)]
pub enum Heard {
    /// A verdict, and the cursor after it, if there is one already.
    Event(Event, Option<String>),
    /// All that there was so far has been told; from here another watch would go on.
    Reached(String),
    /// The daemon cannot be heard; it is asked again and again. Told once, until it is heard again.
    Away(ClientError),
}

/// One who watches, for as long as it is kept.
#[derive(Debug)]
pub struct Watching {
    client: Client,
    watch: Watch,
    replies: Option<Streaming<v1::WatchReply>>,
    /// How long to wait before the next attempt.
    pause: Duration,
    away: bool,
}

impl Client {
    /// Watches what becomes of keys, and of what runs under names. The daemon is first asked by [`Watching::next`].
    pub fn watch(&self, watch: Watch) -> Watching {
        Watching { client: self.clone(), watch, replies: None, pause: Duration::ZERO, away: false }
    }
}

impl Watching {
    /// The next thing that happens, waited for as long as it takes; an error means that it cannot be watched, and that asking again will
    /// not help: as for a cursor that reaches too far back ([`ClientError::Refused`]).
    pub async fn next(&mut self) -> Result<Heard, ClientError> {
        loop {
            let error = match self.hear().await {
                Ok(heard) => {
                    (self.pause, self.away) = (Duration::ZERO, false);
                    return Ok(heard);
                }
                Err(error) if error.is_passing() => error,
                Err(error) => return Err(error),
            };
            self.replies = None;
            // Many may have been cut off at once: they do not come back at once.
            self.pause = (self.pause * 2).clamp(SOONEST, LATEST);
            if !std::mem::replace(&mut self.away, true) {
                return Ok(Heard::Away(error));
            }
        }
    }

    /// The same as a stream, which ends after an error.
    pub fn into_stream(self) -> impl futures::Stream<Item = Result<Heard, ClientError>> {
        futures::stream::unfold(Some(self), async |watching| {
            let mut watching = watching?;
            let heard = watching.next().await;
            let go_on = heard.is_ok().then_some(watching);
            Some((heard, go_on))
        })
    }

    async fn hear(&mut self) -> Result<Heard, ClientError> {
        let replies = match &mut self.replies {
            Some(replies) => replies,
            none => {
                tokio::time::sleep(jittered(self.pause)).await;
                let request = v1::WatchRequest {
                    space: self.client.space(),
                    keys: self.watch.keys.iter().map(TaskKey::to_string).collect(),
                    prefixes: self.watch.prefixes.clone(),
                    cursor: self.watch.cursor.clone().unwrap_or_default(),
                };
                let replies = self.client.tasks.clone().watch(request).await.map_err(self.client.failed())?;
                none.insert(replies.into_inner())
            }
        };
        let reply = replies.message().await.map_err(self.client.failed())?;
        let ended = || ClientError::Unreachable {
            address: self.client.address.to_string(),
            why: "it has ended the stream".into(),
        };
        let v1::WatchReply { reply, cursor } = reply.ok_or_else(ended)?;
        let cursor = Some(cursor).filter(|cursor| !cursor.is_empty());
        let heard = match reply {
            Some(Reply::Event(event)) => Heard::Event(convert::event_from(&event)?, cursor.clone()),
            Some(Reply::Reached(_)) => Heard::Reached(cursor.clone().unwrap_or_default()),
            None => return Err(Invalid::new("reply", "is of a kind that this version does not know").into()),
        };
        if cursor.is_some() {
            self.watch.cursor = cursor;
        }
        Ok(heard)
    }
}

/// Between half of a time and the whole of it.
fn jittered(pause: Duration) -> Duration {
    let mut random = [0; 1];
    // Without randomness they come back at once, which is no fault.
    _ = getrandom::fill(&mut random);
    pause / 2 + pause / 2 * u32::from(random[0]) / 255
}
