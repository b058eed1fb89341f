//! `Usage`: what is stored, part by part.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use provender_core::name::Space;
use provender_proto::convert::{self, Invalid};
use provender_proto::v1;

use super::super::pieces::{Outbox, Pieces, pieces};
use crate::store::{By, Du, Group, Store, StoreError};

/// How often progress is told.
const TELL: Duration = Duration::from_millis(200);

/// Begins, and has it go on as long as somebody reads and the daemon is not stopping.
pub(super) fn usage(
    store: &Store,
    draining: &tokio_util::sync::CancellationToken,
    request: &v1::UsageRequest,
) -> Result<Pieces<v1::UsageReply>, StoreError> {
    let space = convert::space(&request.space)?;
    let prefix = convert::whole_parts(&request.prefix)?;
    let by = match v1::UsageBy::try_from(request.by) {
        Ok(v1::UsageBy::Unspecified | v1::UsageBy::Name) => By::Name,
        Ok(v1::UsageBy::Executor) => By::Executor,
        Ok(v1::UsageBy::Age) => By::Age,
        Err(_) => return Err(Invalid::new("by", "this version has only name, executor and age").into()),
    };
    let (store, draining) = (store.clone(), draining.clone());
    Ok(pieces(move |out| async move {
        tokio::select! {
            () = draining.cancelled() => Err(StoreError::Draining),
            told = tell(&store, &space, &prefix, by, out) => told,
        }
    }))
}

async fn tell(
    store: &Store,
    space: &Space,
    prefix: &str,
    by: By,
    mut out: Outbox<v1::UsageReply>,
) -> Result<(), StoreError> {
    let looked_at = AtomicU64::new(0);
    let mut note = |so_far| looked_at.store(so_far, Ordering::Relaxed);
    let found = {
        let mut looking = std::pin::pin!(store.du(space, prefix, by, &mut note));
        loop {
            match tokio::time::timeout(TELL, &mut looking).await {
                Ok(found) => break found?,
                Err(_) => {
                    out.reply().looked_at = looked_at.load(Ordering::Relaxed);
                    out.send().await;
                }
            }
        }
    };
    let Du { all, groups, stored } = found;
    for group in groups {
        out.add(group_to(group), |reply, group| reply.groups.push(group)).await;
    }
    out.reply().looked_at = looked_at.into_inner();
    out.reply().total = Some(v1::UsageTotal { all: Some(group_to(all)), stored });
    out.send().await;
    Ok(())
}

fn group_to(group: Group) -> v1::UsageGroup {
    let Group { label, executions, records, bytes, own } = group;
    v1::UsageGroup { label, executions, records, bytes, own }
}
