//! `provender.v1.Catalog` over the store.

use provender_core::Ref;
use provender_core::name::MAX_NAME;
use provender_core::search::Query;
use provender_proto::convert::{self, Invalid};
use provender_proto::v1::catalog_server::Catalog;
use provender_proto::v1::describe_reply::{Is, Registered, Task};
use provender_proto::v1::history_request::Of;
use provender_proto::{DEFAULT_LINEAGE, MAX_LINEAGE, MAX_LINEAGE_SKIP, v1};
use tonic::{Request, Response, Status};

use super::Front;
use super::pieces::{Outbox, Pieces, pieces};
use super::status::counted;
use crate::store::{Asked, Described, StoreError, Walk};

/// The most entries of one page.
const PAGE: u32 = 1_000;

#[tonic::async_trait]
impl Catalog for Front {
    async fn list_names(&self, request: Request<v1::ListNamesRequest>) -> Result<Response<v1::ListNamesReply>, Status> {
        let request = request.into_inner();
        counted(self.store.metrics(), "ListNames", async {
            let after = if request.after.is_empty() { None } else { Some(convert::name(&request.after)?) };
            let space = convert::space(&request.space)?;
            let limit = limit(request.limit, PAGE);
            let (names, more) = self.store.names(&space, &request.prefix, after.as_ref(), limit).await?;
            let names = names.into_iter().map(|named| v1::list_names_reply::Entry {
                name: named.name.to_string(),
                latest: named.latest.as_ref().map(convert::execution_to),
                last: named.last.as_ref().map(convert::execution_to),
            });
            Ok(v1::ListNamesReply { names: names.collect(), more })
        })
        .await
    }

    async fn history(&self, request: Request<v1::HistoryRequest>) -> Result<Response<v1::HistoryReply>, Status> {
        let request = request.into_inner();
        counted(self.store.metrics(), "History", async {
            let space = convert::space(&request.space)?;
            let cursor = Some(request.cursor).filter(|cursor| !cursor.is_empty());
            let limit = limit(request.limit, 100);
            let (name, key);
            let of = match &request.of {
                Some(Of::Name(text)) => {
                    name = convert::name(text)?;
                    Ok(&name)
                }
                Some(Of::Key(text)) => {
                    key = convert::key(text)?;
                    Err(&key)
                }
                None => return Err(Invalid::new("of", "is missing: a name or a key").into()),
            };
            let (executions, cursor) = self.store.history(&space, of, request.failed_only, cursor, limit).await?;
            let executions = executions.iter().map(convert::execution_to).collect();
            Ok(v1::HistoryReply { executions, cursor: cursor.unwrap_or_default() })
        })
        .await
    }

    async fn describe(&self, request: Request<v1::DescribeRequest>) -> Result<Response<v1::DescribeReply>, Status> {
        let request = request.into_inner();
        counted(self.store.metrics(), "Describe", async {
            let reference: Ref = request.r#ref.parse().map_err(|error| Invalid::new("ref", error))?;
            let is = match self.store.describe(&convert::space(&request.space)?, &reference).await? {
                Described::Blob(digest) => Is::Blob(convert::digest_to(&digest)),
                Described::Tree(digest) => Is::Tree(convert::digest_to(&digest)),
                Described::Registered(registered) => Is::Registered(Registered {
                    key: registered.key.to_string(),
                    spec: Some(convert::spec_to(&registered.spec)),
                    verdict: convert::verdict_to(registered.answer.verdict).into(),
                    reason: registered.answer.reason.clone(),
                }),
                Described::Task(task) => {
                    let (execution, spec, answer) = &*task;
                    Is::Task(Task {
                        execution: Some(convert::execution_to(execution)),
                        spec: Some(convert::spec_to(spec)),
                        verdict: convert::verdict_to(answer.verdict).into(),
                        reason: answer.reason.clone(),
                    })
                }
            };
            Ok(v1::DescribeReply { is: Some(is) })
        })
        .await
    }

    type LineageStream = Pieces<v1::LineageReply>;

    async fn lineage(&self, request: Request<v1::LineageRequest>) -> Result<Response<Self::LineageStream>, Status> {
        let request = request.into_inner();
        counted(self.store.metrics(), "Lineage", async {
            let reference: Ref = request.r#ref.parse().map_err(|error| Invalid::new("ref", error))?;
            let limit = match request.limit as usize {
                0 => DEFAULT_LINEAGE,
                limit => limit.min(MAX_LINEAGE),
            };
            let skip = request.skip as usize;
            if skip > MAX_LINEAGE_SKIP {
                return Err(Invalid::new("skip", format!("no walk comes to more than {MAX_LINEAGE_SKIP}")).into());
            }
            let asked = Asked { down: request.down, depth: request.depth, skip, limit };
            let walk = self.store.lineage(&convert::space(&request.space)?, &reference, asked).await?;
            Ok(pieces(move |out| walked(walk, request.skip, out)))
        })
        .await
    }

    async fn search(&self, request: Request<v1::SearchRequest>) -> Result<Response<v1::SearchReply>, Status> {
        let request = request.into_inner();
        counted(self.store.metrics(), "Search", async {
            let space = convert::space(&request.space)?;
            let query = Query::parse(&request.r#where).map_err(|error| Invalid::new("where", error))?;
            if request.prefix.len() > MAX_NAME {
                return Err(Invalid::new("prefix", format!("no name is longer than {MAX_NAME} bytes")).into());
            }
            let query = query.named(&request.prefix);
            let query = if request.failed_only { query.failed() } else { query };
            let cursor = Some(request.cursor).filter(|cursor| !cursor.is_empty());
            let (found, cursor) = self.store.search(&space, &query, cursor, limit(request.limit, 100)).await?;
            let executions = found.iter().map(convert::execution_to).collect();
            Ok(v1::SearchReply { executions, cursor: cursor.unwrap_or_default() })
        })
        .await
    }

    type DiffStream = Pieces<v1::DiffReply>;

    async fn diff(&self, request: Request<v1::DiffRequest>) -> Result<Response<Self::DiffStream>, Status> {
        counted(self.store.metrics(), "Diff", self.compare(request.into_inner())).await
    }

    type ExplainStream = Pieces<v1::ExplainReply>;

    async fn explain(&self, request: Request<v1::ExplainRequest>) -> Result<Response<Self::ExplainStream>, Status> {
        let request = request.into_inner();
        counted(self.store.metrics(), "Explain", self.begin_explaining(request)).await
    }
}

/// Tells of a walk.
async fn walked(mut walk: Walk, skip: u32, mut out: Outbox<v1::LineageReply>) -> Result<(), StoreError> {
    out.reply().skipped = skip;
    while let Some(piece) = walk.next().await? {
        for node in &piece.nodes {
            out.add(convert::lineage_node_to(node), |reply, node| reply.nodes.push(node)).await;
        }
        for edge in &piece.edges {
            out.add(convert::lineage_edge_to(edge), |reply, edge| reply.edges.push(edge)).await;
        }
        out.reply().truncated = piece.truncated;
        // No walk comes to as many as do not fit.
        out.reply().next = piece.next.and_then(|next| u32::try_from(next).ok()).unwrap_or_default();
        out.send().await;
    }
    // Behind its end there is nothing, which is an answer too.
    out.send().await;
    Ok(())
}

fn limit(asked: u32, default: u32) -> usize {
    (if asked == 0 { default } else { asked.min(PAGE) }) as usize
}
