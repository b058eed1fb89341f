//! `Catalog.Explain`: why keys are not SUCCEEDED.

use prost::Message;
use provender_core::Spec;
use provender_core::explain::Explanation;
use provender_core::key::TaskKey;
use provender_core::name::Name;
use provender_proto::convert;
use provender_proto::v1::explain_request::Entry;
use provender_proto::{MAX_BATCH_BYTES, MAX_EXPLAINED, v1};

use super::Client;
use crate::error::ClientError;

impl Client {
    /// Explains keys, in their order; with each what it stands for, if the store need not know that yet.
    pub async fn explain(&self, keys: &[(TaskKey, Option<Spec>)]) -> Result<Vec<Explanation>, ClientError> {
        let mut explained = Vec::with_capacity(keys.len());
        let (mut entries, mut size) = (Vec::new(), 0);
        for (key, spec) in keys {
            let entry = Entry { key: key.to_string(), spec: spec.as_ref().map(convert::spec_to) };
            let more = entry.encoded_len() + 16;
            if !entries.is_empty() && (entries.len() == MAX_EXPLAINED || size + more > MAX_BATCH_BYTES) {
                explained.extend(self.explained(std::mem::take(&mut entries), String::new()).await?);
                size = 0;
            }
            size += more;
            entries.push(entry);
        }
        if !entries.is_empty() {
            explained.extend(self.explained(entries, String::new()).await?);
        }
        Ok(explained)
    }

    /// Explains what a name stands for.
    pub async fn explain_name(&self, name: &Name) -> Result<Vec<Explanation>, ClientError> {
        self.explained(Vec::new(), name.to_string()).await
    }

    async fn explained(&self, entries: Vec<Entry>, name: String) -> Result<Vec<Explanation>, ClientError> {
        let request = v1::ExplainRequest { space: self.space(), entries, name };
        let mut replies = self.catalog.clone().explain(request).await.map_err(self.failed())?.into_inner();
        let mut explained = Vec::new();
        while let Some(reply) = replies.message().await.map_err(self.failed())? {
            for reason in reply.reasons {
                explained.push(convert::explanation_from(reason)?);
            }
        }
        Ok(explained)
    }
}
