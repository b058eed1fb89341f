//! `provender.v1.View`: what a mounted view asks, for one on another machine than the daemon's.

use bytes::Bytes;
use provender_core::key::TaskKey;
use provender_core::name::Name;
use provender_core::provenance::{Branch, Origin, Place};
use provender_core::spec::Input;
use provender_core::{Execution, ExecutionId, Timestamp};
use provender_proto::convert;
use provender_proto::v1;

use super::Client;
use crate::error::ClientError;

impl Client {
    /// When the newest folder of a name was made, or, where only names below it have any, that of the first of those.
    pub async fn changed(&self, branch: Branch, name: &Name) -> Result<Option<Timestamp>, ClientError> {
        let request = v1::ChangedRequest {
            space: self.space(),
            branch: convert::branch_to(branch).into(),
            name: name.to_string(),
        };
        let reply = self.view.clone().changed(request).await.map_err(self.failed())?;
        Ok(reply.into_inner().at_ms.map(Timestamp::from_millis))
    }

    /// The parts that follow `prefix` in names with folders, sorted, after one of them, at most `limit` (and 1,000); whether there
    /// may be more.
    pub async fn children(
        &self,
        branch: Branch,
        prefix: Option<&Name>,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<String>, bool), ClientError> {
        let request = v1::ChildrenRequest {
            space: self.space(),
            branch: convert::branch_to(branch).into(),
            prefix: prefix.map(Name::to_string).unwrap_or_default(),
            after: after.unwrap_or_default().into(),
            limit: bounded(limit),
        };
        let reply = self.view.clone().children(request).await.map_err(self.failed())?.into_inner();
        Ok((reply.parts, reply.more))
    }

    /// The folders of exactly this name, sorted, after one of them, at most `limit` (and 1,000); whether there may be more.
    pub async fn folders(
        &self,
        branch: Branch,
        name: &Name,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<String>, bool), ClientError> {
        let request = v1::FoldersRequest {
            space: self.space(),
            branch: convert::branch_to(branch).into(),
            name: name.to_string(),
            after: after.unwrap_or_default().into(),
            limit: bounded(limit),
        };
        let reply = self.view.clone().folders(request).await.map_err(self.failed())?.into_inner();
        Ok((reply.parts, reply.more))
    }

    /// The execution that stands in a folder of a name. It may have been made under another name.
    pub async fn in_folder(&self, branch: Branch, name: &Name, folder: &str) -> Result<Option<Execution>, ClientError> {
        let request = v1::InFolderRequest {
            space: self.space(),
            branch: convert::branch_to(branch).into(),
            name: name.to_string(),
            folder: folder.into(),
        };
        let reply = self.view.clone().in_folder(request).await.map_err(self.failed())?.into_inner();
        Ok(reply.execution.as_ref().map(convert::execution_from).transpose()?)
    }

    /// The execution that `latest` of a name means, and its folder there.
    pub async fn latest_folder(&self, name: &Name) -> Result<Option<(Execution, String)>, ClientError> {
        let request = v1::LatestFolderRequest { space: self.space(), name: name.to_string() };
        let reply = self.view.clone().latest_folder(request).await.map_err(self.failed())?.into_inner();
        let execution = reply.execution.as_ref().map(convert::execution_from).transpose()?;
        Ok(execution.map(|execution| (execution, reply.folder)))
    }

    /// An execution's inputs, sorted by name, each with its origin.
    pub async fn inputs(&self, id: ExecutionId) -> Result<Vec<(Bytes, Origin<Place>, Input)>, ClientError> {
        let request = v1::InputsRequest { space: self.space(), execution: convert::id_to(id) };
        let mut replies = self.view.clone().inputs(request).await.map_err(self.failed())?.into_inner();
        let mut inputs = Vec::new();
        while let Some(reply) = replies.message().await.map_err(self.failed())? {
            for entry in &reply.inputs {
                inputs.push(convert::origin_from(entry)?);
            }
        }
        Ok(inputs)
    }

    /// The successes that consumed what an execution made, each once, after a cursor, at most `limit` (and 1,000); and the cursor of
    /// the next page, which may come with nobody.
    pub async fn consumers(
        &self,
        id: ExecutionId,
        after: Option<Bytes>,
        limit: usize,
    ) -> Result<(Vec<Place>, Option<Bytes>), ClientError> {
        let request = v1::ConsumersRequest {
            space: self.space(),
            execution: convert::id_to(id),
            cursor: after.unwrap_or_default(),
            limit: bounded(limit),
        };
        let reply = self.view.clone().consumers(request).await.map_err(self.failed())?.into_inner();
        let places = reply.consumers.iter().map(convert::place_from).collect::<Result<_, _>>()?;
        Ok((places, Some(reply.cursor).filter(|cursor| !cursor.is_empty())))
    }

    /// Whether the success that stands in this folder under its own name is a consumer of what an execution made.
    pub async fn is_consumer(&self, id: ExecutionId, name: &Name, folder: &str) -> Result<Option<Place>, ClientError> {
        let request = v1::IsConsumerRequest {
            space: self.space(),
            execution: convert::id_to(id),
            name: name.to_string(),
            folder: folder.into(),
        };
        let reply = self.view.clone().is_consumer(request).await.map_err(self.failed())?.into_inner();
        Ok(reply.place.as_ref().map(convert::place_from).transpose()?)
    }

    /// The schemes of keys, sorted; at most 10,000.
    pub async fn schemes(&self) -> Result<Vec<String>, ClientError> {
        let request = v1::SchemesRequest { space: self.space() };
        Ok(self.view.clone().schemes(request).await.map_err(self.failed())?.into_inner().parts)
    }

    /// The ids of a scheme's SUCCEEDED keys, sorted, after one of them, at most `limit` (and 1,000); whether there may be more.
    pub async fn keys(
        &self,
        scheme: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<String>, bool), ClientError> {
        let request = v1::KeysRequest {
            space: self.space(),
            scheme: scheme.into(),
            after: after.unwrap_or_default().into(),
            limit: bounded(limit),
        };
        let reply = self.view.clone().keys(request).await.map_err(self.failed())?.into_inner();
        Ok((reply.parts, reply.more))
    }

    /// Where the record of a SUCCEEDED key stands.
    pub async fn record(&self, key: &TaskKey) -> Result<Option<Place>, ClientError> {
        let request = v1::RecordRequest { space: self.space(), key: key.to_string() };
        let reply = self.view.clone().record(request).await.map_err(self.failed())?.into_inner();
        Ok(reply.place.as_ref().map(convert::place_from).transpose()?)
    }
}

/// A limit as it travels, where 0 would mean the most.
fn bounded(limit: usize) -> u32 {
    u32::try_from(limit.max(1)).unwrap_or(u32::MAX)
}
