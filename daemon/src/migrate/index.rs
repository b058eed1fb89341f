//! From layout 1 to 2: every execution is in the index.
//!
//! Stores that were begun before there was an index have executions that no search finds. The rows of one that has them already are
//! written again, which changes nothing. Invariant: rows are of the execution as it is when they are written.

use bytes::Bytes;
use provender_core::batch::{Batch, Expect, RowKey, Table};
use provender_core::{Execution, Space, rows};
use provender_proto::rows as values;

use super::MigrateError;
use super::claim::{Claim, Written};
use crate::clock;
use crate::meta::Scan;
use crate::store::postings;

/// How many executions are read at once.
const PAGE: usize = 100;
/// A batch ends with the execution that reaches so many rows.
const ROWS: usize = 2_000;

pub(super) async fn every_execution_is_in_the_index(claim: &mut Claim) -> Result<(), MigrateError> {
    let (mut done, mut told) = (0, clock::monotonic());
    'pages: loop {
        let after = claim.moving().after.clone().map(Bytes::from);
        let page = claim.meta().scan(&Scan { after, limit: PAGE, ..Scan::prefix(Table::Execution, "") }).await?;
        let mut found = Vec::new();
        for (key, row) in page.rows {
            let execution = values::execution_from(row.value);
            match (rows::parse_execution(&key), execution) {
                (Some((space, _)), Ok(execution)) => found.push((key, Some((space, execution)), row.version)),
                // No search could show it either.
                _ => {
                    tracing::warn!(row = %key.escape_ascii(), "an execution cannot be read, and is left out of the index");
                    found.push((key, None, row.version));
                }
            }
        }
        let Some(last) = found.last().map(|(key, ..)| key.clone()) else { return Ok(()) };
        let specs: Vec<RowKey> = found
            .iter()
            .filter_map(|(_, read, _)| read.as_ref().map(|(space, execution)| rows::spec(space, &execution.spec)))
            .collect();
        let mut specs = claim.meta().get(&specs).await?.into_iter();
        let mut batch = Batch::new(clock::batch_id());
        for (key, read, version) in found {
            let Some((space, execution)) = read else { continue };
            done += 1;
            let Some(spec) = specs.next().flatten().and_then(|row| values::spec_from(row.value).ok()) else {
                tracing::warn!(execution = %execution.id, "an execution without a spec is left out of the index");
                continue;
            };
            batch.expect(RowKey { table: Table::Execution, key: key.clone() }, Expect::At(version));
            add(claim, &mut batch, &space, &execution, &spec).await?;
            if batch.writes.len() >= ROWS {
                let next = key.to_vec();
                match claim.commit(&batch, |moving| moving.after = Some(next.clone())).await? {
                    Written::Done => batch = Batch::new(clock::batch_id()),
                    Written::Changed => continue 'pages,
                }
            }
        }
        // If something was changed meanwhile the cursor stays before it, and it is read again.
        claim.commit(&batch, |moving| moving.after = Some(last.to_vec())).await?;
        if clock::monotonic().saturating_sub(told) > std::time::Duration::from_secs(5) {
            told = clock::monotonic();
            tracing::info!(executions = done, "migrating: executions are being written to the index");
        }
    }
}

/// Adds the rows of one execution; those of a large spec in batches of their own.
async fn add(
    claim: &mut Claim,
    batch: &mut Batch,
    space: &Space,
    execution: &Execution,
    spec: &provender_core::Spec,
) -> Result<(), MigrateError> {
    let rows = postings(space, execution, spec);
    let (most, rest) = rows.split_at(rows.len() - rows.len() % ROWS);
    for piece in most.chunks(ROWS) {
        let mut alone = Batch::new(clock::batch_id());
        piece.iter().for_each(|row| _ = alone.put(row.clone(), Bytes::new()));
        claim.commit(&alone, |_| {}).await?;
    }
    rest.iter().for_each(|row| _ = batch.put(row.clone(), Bytes::new()));
    Ok(())
}
