//! `Catalog.Explain` over the store: questions in, explanations out as they are found.

use std::pin::Pin;

use futures::Stream;
use prost::Message;
use provender_proto::convert::{self, Invalid};
use provender_proto::{MAX_EXPLAINED, MAX_PIECE, v1};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::Front;
use super::status::status;
use crate::store::{Explaining, Question, StoreError};

/// What a call is answered with.
pub(super) type Replies = Pin<Box<dyn Stream<Item = Result<v1::ExplainReply, Status>> + Send>>;

impl Front {
    /// Begins to explain; who stops reading stops it.
    pub(super) async fn begin_explaining(&self, request: v1::ExplainRequest) -> Result<Replies, StoreError> {
        let space = convert::space(&request.space)?;
        if request.entries.len() > MAX_EXPLAINED {
            let why = format!("{} are more than {MAX_EXPLAINED} in one call", request.entries.len());
            return Err(Invalid::new("entries", why).into());
        }
        let question = |entry: &v1::explain_request::Entry| {
            let spec = entry.spec.as_ref().map(convert::spec_from).transpose()?;
            Ok::<_, Invalid>(Question { key: convert::key(&entry.key)?, spec })
        };
        let mut questions = request.entries.iter().map(question).collect::<Result<Vec<_>, _>>()?;
        if !request.name.is_empty() {
            let key = self.store.key_of_name(&space, &convert::name(&request.name)?).await?;
            questions.push(Question { key, spec: None });
        }
        let explaining = self.store.explain(&space, questions);
        let (replies, stream) = mpsc::channel(2);
        tokio::spawn(async move {
            tokio::select! {
                () = replies.closed() => {}
                () = explained(explaining, &replies) => {}
            }
        });
        Ok(Box::pin(ReceiverStream::new(stream)))
    }
}

/// Sends explanations, in messages that are not too large.
async fn explained(mut explaining: Explaining, replies: &mpsc::Sender<Result<v1::ExplainReply, Status>>) {
    loop {
        let piece = match explaining.next().await {
            Ok(Some(piece)) => piece,
            Ok(None) => return,
            Err(error) => {
                _ = replies.send(Err(status(&error))).await;
                return;
            }
        };
        let (mut reply, mut size) = (v1::ExplainReply::default(), 0);
        for reason in piece.into_iter().map(convert::explanation_to) {
            let more = reason.encoded_len();
            if size + more > MAX_PIECE && !reply.reasons.is_empty() {
                size = 0;
                // An error means that who asked has gone, which ends this elsewhere.
                _ = replies.send(Ok(std::mem::take(&mut reply))).await;
            }
            size += more;
            reply.reasons.push(reason);
        }
        _ = replies.send(Ok(reply)).await;
    }
}
