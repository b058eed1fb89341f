//! `provender diff`.

use std::process::ExitCode;

use provender_core::compare::{document, text};

use super::Session;
use crate::args::Diff;
use crate::fault::Fault;
use crate::print;

pub(crate) async fn diff(session: &Session, args: Diff) -> Result<ExitCode, Fault> {
    let client = session.client().await?;
    let comparison = client.diff(&args.old, &args.new, args.limit).await?;
    if session.json {
        print::document(&document::comparison(&comparison))?;
        return Ok(ExitCode::SUCCESS);
    }
    let both = args.causes == args.outputs;
    let layout = text::Layout { causes: both || args.causes, outputs: both || args.outputs, size: print::size };
    print::lines(text::lines(&comparison, layout).into_iter())?;
    if comparison.truncated_causes || comparison.truncated_outputs {
        session.say(format!("these are the first {} causes and outputs; --limit shows more", args.limit));
    }
    Ok(ExitCode::SUCCESS)
}
