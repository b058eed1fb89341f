//! `provender lineage`.

use std::process::ExitCode;

use provender_client::{ClientError, Lineage as Asked};
use provender_core::Ref;
use provender_core::lineage::{document, dot, text};

use super::Session;
use crate::args::Lineage;
use crate::fault::Fault;
use crate::print;

pub(crate) async fn lineage(session: &Session, args: Lineage) -> Result<ExitCode, Fault> {
    let client = session.client().await?;
    let asked = Asked { down: args.down, depth: args.depth.unwrap_or(0), skip: args.skip, limit: args.limit };
    let walk = async |reference: &Ref| client.lineage(reference, asked).await;
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
        print::document(&document::Document(&graph))?;
    } else if args.dot {
        print::lines(dot::lines(&graph))?;
    } else {
        print::lines(text::lines(&graph, text::Layout { down: args.down, all: args.all, size: print::size }))?;
        if graph.nodes.len() == 1 && args.skip == 0 {
            session.say(match args.down {
                true => "nothing that was made from it is recorded",
                false => "nothing that it was made from is recorded",
            });
        }
    }
    if graph.nodes.is_empty() {
        session.say(format!("it does not go as far as --skip {}", args.skip));
    }
    if let Some(next) = graph.next {
        session.say(format!("this is not all: --skip {next} shows what comes next, a larger --limit more at once"));
    } else if graph.truncated {
        session.say("this is not all, but no walk comes to more than 1,000,000: begin at one of these to go on");
    }
    Ok(ExitCode::SUCCESS)
}
