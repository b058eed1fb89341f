//! Answers that come in pieces: of bounded size, made while others are on their way, and no further than somebody reads.

use std::pin::Pin;

use futures::Stream;
use prost::Message;
use provender_proto::MAX_PIECE;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::status::status;
use crate::store::StoreError;

/// What a call is answered with.
pub(super) type Pieces<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// One piece, to which things are added until it is large enough to be sent.
pub(super) struct Outbox<T> {
    replies: mpsc::Sender<Result<T, Status>>,
    reply: T,
    size: usize,
}

/// Answers with what `work` puts into its outbox, and with its error. Who stops reading stops it.
pub(super) fn pieces<T, W>(work: impl FnOnce(Outbox<T>) -> W) -> Pieces<T>
where
    T: Message + Default + 'static,
    W: Future<Output = Result<(), StoreError>> + Send + 'static,
{
    let (replies, stream) = mpsc::channel(2);
    let work = work(Outbox { replies: replies.clone(), reply: T::default(), size: 0 });
    tokio::spawn(async move {
        tokio::select! {
            () = replies.closed() => {}
            done = work => if let Err(error) = done {
                _ = replies.send(Err(status(&error))).await;
            }
        }
    });
    Box::pin(ReceiverStream::new(stream))
}

impl<T: Message + Default> Outbox<T> {
    /// Adds a thing, after sending what would be too large with it.
    pub(super) async fn add<M: Message>(&mut self, thing: M, put: impl FnOnce(&mut T, M)) {
        let more = thing.encoded_len();
        if self.size > 0 && self.size + more > MAX_PIECE {
            self.send().await;
        }
        self.size += more;
        put(&mut self.reply, thing);
    }

    /// The piece that is not sent yet, for what is said once.
    pub(super) fn reply(&mut self) -> &mut T {
        &mut self.reply
    }

    /// Sends what there is.
    pub(super) async fn send(&mut self) {
        self.size = 0;
        if self.replies.send(Ok(std::mem::take(&mut self.reply))).await.is_err() {
            // Who asked has gone, so this is dropped where it stands.
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures::StreamExt;
    use provender_proto::v1;

    use super::*;

    fn edge(size: usize) -> v1::lineage_reply::Edge {
        v1::lineage_reply::Edge { input: Bytes::from(vec![b'x'; size]), ..Default::default() }
    }

    #[tokio::test]
    async fn pieces_are_bounded_and_whole_and_end_with_the_error() {
        let mut answer = pieces(|mut out: Outbox<v1::LineageReply>| async move {
            for size in [MAX_PIECE / 2, MAX_PIECE / 3, MAX_PIECE / 2, 2 * MAX_PIECE, 1] {
                out.add(edge(size), |reply, edge| reply.edges.push(edge)).await;
            }
            out.reply().truncated = true;
            out.send().await;
            Err(StoreError::Draining)
        });
        let mut told = Vec::new();
        while let Some(Ok(reply)) = answer.next().await {
            told.push((reply.edges.len(), reply.truncated));
        }
        // What is larger by itself comes alone.
        assert_eq!(told, [(2, false), (1, false), (1, false), (1, true)]);
    }

    #[tokio::test]
    async fn who_stops_reading_stops_the_work() {
        let (dropped, gone) = tokio::sync::oneshot::channel::<()>();
        let answer = pieces(|mut out: Outbox<v1::LineageReply>| async move {
            let _dropped = dropped;
            loop {
                out.send().await;
            }
        });
        drop(answer);
        assert!(gone.await.is_err());
    }
}
