//! `provender lineage`.

use std::process::ExitCode;

use provender_client::ClientError;
use provender_core::lineage::{dot, text};
use provender_core::{Ref, json};

use super::Session;
use crate::args::Lineage;
use crate::fault::Fault;
use crate::print;

pub(crate) async fn lineage(session: &Session, args: Lineage) -> Result<ExitCode, Fault> {
    let client = session.client().await?;
    let walk = async |reference: &Ref| client.lineage(reference, args.down, args.depth.unwrap_or(0), args.limit).await;
    let graph = match (walk(&args.reference).await, &args.reference) {
        // Without a success a name stands for what was last attempted under it.
        (Err(error @ ClientError::NotFound(_)), Ref::Name { name, nth: None }) => {
            let (attempts, _) = client.history(Ok(name.as_str()), false, Default::default(), 1).await?;
            let Some(attempt) = attempts.first() else { return Err(error.into()) };
            session.say(format!("{name} has no success; this is its newest attempt, exec:{}", attempt.id));
            walk(&Ref::Execution(attempt.id)).await?
        }
        (graph, _) => graph?,
    };
    if session.json {
        print::document(&json::lineage(&graph))?;
    } else if args.dot {
        print::lines(dot::lines(&graph))?;
    } else {
        print::lines(text::lines(&graph, text::Layout { down: args.down, all: args.all, size: print::size }))?;
        if graph.nodes.len() == 1 {
            session.say(match args.down {
                true => "nothing that was made from it is recorded",
                false => "nothing that it was made from is recorded",
            });
        }
    }
    if graph.truncated {
        session.say(format!("there is more than {} tasks and sources; --limit shows more", args.limit));
    }
    Ok(ExitCode::SUCCESS)
}
