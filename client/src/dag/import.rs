//! `provender dag import`: what a file's keys stand for, without a success.

use provender_core::Spec;
use provender_core::key::TaskKey;

use super::file::File;
use super::spec::spec;
use crate::client::Client;
use crate::error::ClientError;

/// How many specs are held at once.
const AT_ONCE: usize = 1_000;

/// Registers each task of a file, dependencies first; for each task of [`File::tasks`], whether its key was not known.
pub async fn import(client: &Client, file: &File) -> Result<Vec<bool>, ClientError> {
    let mut fresh = vec![false; file.tasks.len()];
    let order: Vec<_> = file.plan.order.iter().flat_map(|node| &file.plan.nodes[*node].tasks).copied().collect();
    for tasks in order.chunks(AT_ONCE) {
        let specs = tasks.iter().map(|task| &file.tasks[*task]);
        let specs: Vec<(TaskKey, Spec)> = specs.map(|task| (task.key.clone(), spec(task, |_| None))).collect();
        for (task, is_fresh) in tasks.iter().zip(client.register(&specs).await?) {
            fresh[*task] = is_fresh;
        }
    }
    Ok(fresh)
}
