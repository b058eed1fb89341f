//! `provender.v1.Tasks/Watch`: the question, and the stream of its answers.

use std::pin::Pin;

use futures::Stream;
use provender_core::event::{Cursor, Watched};
use provender_proto::convert::{self, Invalid};
use provender_proto::v1::watch_reply::{Reached, Reply as Wire};
use provender_proto::{MAX_KEYS, MAX_PREFIXES, v1};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::Front;
use super::status::status;
use crate::store::{Heard, StoreError, Watching};

/// How many replies wait for a reader. Who is slower than this is served from the change feed.
const WAITING: usize = 64;
/// The longest prefix, in bytes: no name is longer.
const MAX_PREFIX: usize = 1_024;

type Reply = Result<v1::WatchReply, Status>;
/// What is told, until the reader goes.
pub(super) type Replies = Pin<Box<dyn Stream<Item = Reply> + Send>>;

impl Front {
    /// Begins, and has it go on as long as somebody reads.
    pub(super) async fn begin_watch(&self, request: v1::WatchRequest) -> Result<Replies, StoreError> {
        let space = convert::space(&request.space)?;
        let (watched, cursor) = asked(request)?;
        let mut watching = self.store.watching(&space, watched, cursor).await?;
        let (replies, stream) = mpsc::channel(WAITING);
        let draining = self.draining.clone();
        tokio::spawn(async move {
            let ended = tokio::select! {
                // Who asked has gone.
                () = replies.closed() => return,
                () = draining.cancelled() => StoreError::Draining,
                error = tell(&mut watching, &replies) => error,
            };
            // Not waited for: a reader that takes nothing must not hold up the end, and finds its stream ended anyway.
            _ = replies.try_send(Err(status(&ended)));
        });
        Ok(Box::pin(ReceiverStream::new(stream)))
    }
}

fn asked(request: v1::WatchRequest) -> Result<(Watched, Option<Cursor>), Invalid> {
    for (field, asked, most) in
        [("keys", request.keys.len(), MAX_KEYS), ("prefixes", request.prefixes.len(), MAX_PREFIXES)]
    {
        if asked > most {
            return Err(Invalid::new(field, format!("{asked} are more than {most} in one call")));
        }
    }
    if request.keys.is_empty() && request.prefixes.is_empty() {
        return Err(Invalid::new("keys", "there are neither keys nor prefixes; an empty prefix means all names"));
    }
    if let Some(long) = request.prefixes.iter().find(|prefix| prefix.len() > MAX_PREFIX) {
        return Err(Invalid::new(
            "prefixes",
            format!("one has {} bytes, and no name more than {MAX_PREFIX}", long.len()),
        ));
    }
    let cursor = Some(&request.cursor).filter(|cursor| !cursor.is_empty());
    let cursor = cursor.map(|cursor| cursor.parse()).transpose().map_err(|error| Invalid::new("cursor", error))?;
    let keys = request.keys.iter().map(convert::key).collect::<Result<_, _>>()?;
    Ok((Watched { keys, prefixes: request.prefixes }, cursor))
}

/// Tells until that fails. When nobody reads any more, this waits until it is dropped.
async fn tell(watching: &mut Watching, replies: &mpsc::Sender<Reply>) -> StoreError {
    loop {
        let heard = match watching.next().await {
            Ok(heard) => heard,
            Err(error) => return error,
        };
        let (reply, cursor) = match heard {
            Heard::Event(event, cursor) => (Wire::Event(convert::event_to(&event)), cursor),
            Heard::Reached(cursor) => (Wire::Reached(Reached {}), Some(cursor)),
        };
        let cursor = cursor.map(|cursor| cursor.to_string()).unwrap_or_default();
        _ = replies.send(Ok(v1::WatchReply { reply: Some(reply), cursor })).await;
    }
}
