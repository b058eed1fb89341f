//! The real programs, end to end: a `provenderd` on a data folder of its own, and `provender` as people run it.

// Also in what tests call: a failed expectation is a failed test.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "e2e/backup.rs"]
mod backup;
#[path = "e2e/bucket.rs"]
mod bucket;
#[path = "e2e/check.rs"]
mod check;
#[path = "e2e/churn.rs"]
mod churn;
#[path = "e2e/clock.rs"]
mod clock;
#[path = "e2e/cluster.rs"]
mod cluster;
#[path = "e2e/collectors.rs"]
mod collectors;
#[path = "e2e/compressed.rs"]
mod compressed;
#[path = "e2e/concurrency.rs"]
mod concurrency;
#[path = "e2e/crash.rs"]
mod crash;
#[path = "e2e/crowd.rs"]
mod crowd;
#[path = "e2e/dag.rs"]
mod dag;
#[path = "e2e/data.rs"]
mod data;
#[path = "e2e/diff.rs"]
mod diff;
#[path = "e2e/each_call.rs"]
mod each_call;
#[path = "e2e/files.rs"]
mod files;
#[path = "e2e/full.rs"]
mod full;
#[path = "e2e/gc.rs"]
mod gc;
#[path = "e2e/handover.rs"]
mod handover;
#[path = "e2e/invalidate.rs"]
mod invalidate;
#[path = "e2e/killing.rs"]
mod killing;
#[path = "e2e/large.rs"]
mod large;
#[path = "e2e/lineage.rs"]
mod lineage;
#[path = "e2e/lost.rs"]
mod lost;
#[path = "e2e/many_uploads.rs"]
mod many_uploads;
#[path = "e2e/mount.rs"]
mod mount;
#[path = "e2e/mounted.rs"]
mod mounted;
#[path = "e2e/outputs.rs"]
mod outputs;
#[path = "e2e/packs.rs"]
mod packs;
#[path = "e2e/power.rs"]
mod power;
#[path = "e2e/raw.rs"]
mod raw;
#[path = "e2e/reach.rs"]
mod reach;
#[path = "e2e/records.rs"]
mod records;
#[path = "e2e/remarks.rs"]
mod remarks;
#[path = "e2e/remote_mount.rs"]
mod remote_mount;
#[path = "e2e/resume.rs"]
mod resume;
#[path = "e2e/run.rs"]
mod run;
#[path = "e2e/run_inputs.rs"]
mod run_inputs;
#[path = "e2e/search.rs"]
mod search;
#[path = "e2e/security.rs"]
mod security;
#[path = "e2e/takeover.rs"]
mod takeover;
#[path = "e2e/unprivileged.rs"]
mod unprivileged;
#[path = "e2e/verdicts.rs"]
mod verdicts;
#[path = "e2e/verify.rs"]
mod verify;
#[path = "e2e/view.rs"]
mod view;
#[path = "e2e/watch.rs"]
mod watch;
#[path = "e2e/why.rs"]
mod why;
#[path = "e2e/wire.rs"]
mod wire;
#[path = "e2e/world.rs"]
mod world;
