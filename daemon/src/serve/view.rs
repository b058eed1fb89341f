//! `provender.v1.View` over the store.

use std::pin::Pin;

use futures::Stream;
use prost::Message;
use provender_proto::convert;
use provender_proto::v1;
use provender_proto::v1::view_server::View;
use tonic::{Request, Response, Status};

use super::Front;
use super::status::counted;

/// The most entries of one page.
const PAGE: u32 = 1_000;
/// A message of a stream ends with the entry that reaches this many bytes.
const MESSAGE: usize = 1 << 20;

#[tonic::async_trait]
impl View for Front {
    async fn changed(&self, request: Request<v1::ChangedRequest>) -> Result<Response<v1::ChangedReply>, Status> {
        let request = request.into_inner();
        counted(self.store.metrics(), "Changed", async {
            let (space, branch) = (convert::space(&request.space)?, convert::branch_from(request.branch)?);
            let at = self.store.changed(&space, branch, &convert::name(&request.name)?).await?;
            Ok(v1::ChangedReply { at_ms: at.map(|at| at.millis()) })
        })
        .await
    }

    async fn children(&self, request: Request<v1::ChildrenRequest>) -> Result<Response<v1::PartsReply>, Status> {
        let request = request.into_inner();
        counted(self.store.metrics(), "Children", async {
            let (space, branch) = (convert::space(&request.space)?, convert::branch_from(request.branch)?);
            let prefix = some(&request.prefix).map(convert::name).transpose()?;
            let (after, limit) = (some(&request.after), limit(request.limit));
            let (parts, more) = self.store.children(&space, branch, prefix.as_ref(), after, limit).await?;
            Ok(v1::PartsReply { parts, more })
        })
        .await
    }

    async fn folders(&self, request: Request<v1::FoldersRequest>) -> Result<Response<v1::PartsReply>, Status> {
        let request = request.into_inner();
        counted(self.store.metrics(), "Folders", async {
            let (space, branch) = (convert::space(&request.space)?, convert::branch_from(request.branch)?);
            let (name, after) = (convert::name(&request.name)?, some(&request.after));
            let (parts, more) = self.store.folders(&space, branch, &name, after, limit(request.limit)).await?;
            Ok(v1::PartsReply { parts, more })
        })
        .await
    }

    async fn in_folder(&self, request: Request<v1::InFolderRequest>) -> Result<Response<v1::StandsReply>, Status> {
        let request = request.into_inner();
        counted(self.store.metrics(), "InFolder", async {
            let (space, branch) = (convert::space(&request.space)?, convert::branch_from(request.branch)?);
            let found = self.store.in_folder(&space, branch, &convert::name(&request.name)?, &request.folder).await?;
            Ok(v1::StandsReply { execution: found.as_ref().map(convert::execution_to), folder: request.folder })
        })
        .await
    }

    async fn latest_folder(
        &self,
        request: Request<v1::LatestFolderRequest>,
    ) -> Result<Response<v1::StandsReply>, Status> {
        let request = request.into_inner();
        counted(self.store.metrics(), "LatestFolder", async {
            let name = convert::name(&request.name)?;
            let (execution, folder) = self.store.latest_folder(&convert::space(&request.space)?, &name).await?.unzip();
            let execution = execution.as_ref().map(convert::execution_to);
            Ok(v1::StandsReply { execution, folder: folder.unwrap_or_default() })
        })
        .await
    }

    type InputsStream = Pin<Box<dyn Stream<Item = Result<v1::InputsReply, Status>> + Send>>;

    async fn inputs(&self, request: Request<v1::InputsRequest>) -> Result<Response<Self::InputsStream>, Status> {
        let request = request.into_inner();
        counted(self.store.metrics(), "Inputs", async {
            let id = convert::execution_id("execution", &request.execution)?;
            let inputs = self.store.inputs(&convert::space(&request.space)?, id).await?;
            let (mut replies, mut size) = (vec![v1::InputsReply::default()], 0);
            for (name, origin, input) in inputs {
                let entry = convert::origin_to(&name, &input, &origin);
                if size >= MESSAGE {
                    replies.push(v1::InputsReply::default());
                    size = 0;
                }
                size += entry.encoded_len();
                if let Some(reply) = replies.last_mut() {
                    reply.inputs.push(entry);
                }
            }
            let stream: Self::InputsStream = Box::pin(futures::stream::iter(replies.into_iter().map(Ok)));
            Ok(stream)
        })
        .await
    }

    async fn consumers(&self, request: Request<v1::ConsumersRequest>) -> Result<Response<v1::ConsumersReply>, Status> {
        let request = request.into_inner();
        counted(self.store.metrics(), "Consumers", async {
            let space = convert::space(&request.space)?;
            let id = convert::execution_id("execution", &request.execution)?;
            let cursor = Some(request.cursor).filter(|cursor| !cursor.is_empty());
            let (places, next) = self.store.consumers(&space, id, cursor, limit(request.limit)).await?;
            let consumers = places.iter().map(convert::place_to).collect();
            Ok(v1::ConsumersReply { consumers, cursor: next.unwrap_or_default() })
        })
        .await
    }

    async fn is_consumer(&self, request: Request<v1::IsConsumerRequest>) -> Result<Response<v1::PlaceReply>, Status> {
        let request = request.into_inner();
        counted(self.store.metrics(), "IsConsumer", async {
            let (space, name) = (convert::space(&request.space)?, convert::name(&request.name)?);
            let id = convert::execution_id("execution", &request.execution)?;
            let place = self.store.is_consumer(&space, id, &name, &request.folder).await?;
            Ok(v1::PlaceReply { place: place.as_ref().map(convert::place_to) })
        })
        .await
    }

    async fn schemes(&self, request: Request<v1::SchemesRequest>) -> Result<Response<v1::PartsReply>, Status> {
        let request = request.into_inner();
        counted(self.store.metrics(), "Schemes", async {
            let parts = self.store.schemes(&convert::space(&request.space)?).await?;
            Ok(v1::PartsReply { parts, more: false })
        })
        .await
    }

    async fn keys(&self, request: Request<v1::KeysRequest>) -> Result<Response<v1::PartsReply>, Status> {
        let request = request.into_inner();
        counted(self.store.metrics(), "Keys", async {
            let (space, after) = (convert::space(&request.space)?, some(&request.after));
            let (parts, more) = self.store.keys(&space, &request.scheme, after, limit(request.limit)).await?;
            Ok(v1::PartsReply { parts, more })
        })
        .await
    }

    async fn record(&self, request: Request<v1::RecordRequest>) -> Result<Response<v1::PlaceReply>, Status> {
        let request = request.into_inner();
        counted(self.store.metrics(), "Record", async {
            let key = convert::key(&request.key)?;
            let place = self.store.record(&convert::space(&request.space)?, &key).await?;
            Ok(v1::PlaceReply { place: place.as_ref().map(convert::place_to) })
        })
        .await
    }
}

fn limit(asked: u32) -> usize {
    (if asked == 0 { PAGE } else { asked.min(PAGE) }) as usize
}

fn some(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}
