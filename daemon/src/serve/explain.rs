//! `Catalog.Explain` over the store: questions in, explanations out as they are found.

use provender_proto::convert::{self, Invalid};
use provender_proto::{MAX_EXPLAINED, v1};

use super::Front;
use super::pieces::{Outbox, Pieces, pieces};
use crate::store::{Explaining, Question, StoreError};

impl Front {
    /// Begins to explain; who stops reading stops it.
    pub(super) async fn begin_explaining(
        &self,
        request: v1::ExplainRequest,
    ) -> Result<Pieces<v1::ExplainReply>, StoreError> {
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
        Ok(pieces(move |out| explained(explaining, out)))
    }
}

async fn explained(mut explaining: Explaining, mut out: Outbox<v1::ExplainReply>) -> Result<(), StoreError> {
    while let Some(piece) = explaining.next().await? {
        for reason in piece {
            out.add(convert::explanation_to(reason), |reply, reason| reply.reasons.push(reason)).await;
        }
        out.send().await;
    }
    Ok(())
}
