//! The threads behind the streams: they fetch ahead, and look through what has become whole.
//!
//! Invariant: a bounded number of threads, and of jobs that wait for them; a job too many is dropped, since none is needed for a right
//! answer. They begin with the first job and end with the cache.

use std::ops::Range;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock, Weak};
use std::thread;

use parking_lot::Mutex;

use super::Stream;

/// How many fetches are under way ahead of readers, at most.
const THREADS: usize = 4;
/// How many jobs wait, at most.
const WAITING: usize = 64;

/// Something to do for a stream.
#[derive(Debug)]
pub(super) enum Job {
    /// Have these groups at hand, if somebody still reads it.
    Ahead(Weak<Stream>, Range<u64>),
    /// Find out whether the file is whole and right, also if nobody does.
    Finish(Arc<Stream>),
}

#[derive(Debug, Default)]
pub(super) struct Workers(OnceLock<SyncSender<Job>>);

impl Workers {
    pub(super) fn new() -> Workers {
        Workers::default()
    }

    /// Has it done, unless there is too much to do.
    pub(super) fn send(&self, job: Job) {
        let _ = self.0.get_or_init(start).try_send(job);
    }
}

fn start() -> SyncSender<Job> {
    let (jobs, queue) = sync_channel(WAITING);
    let queue = Arc::new(Mutex::new(queue));
    for number in 0..THREADS {
        let queue = queue.clone();
        // Without threads nothing is fetched ahead, which is slower and no worse.
        let _ = thread::Builder::new().name(format!("cache-{number}")).spawn(move || work(&queue));
    }
    jobs
}

fn work(queue: &Mutex<Receiver<Job>>) {
    loop {
        let job = queue.lock().recv();
        match job {
            Ok(Job::Ahead(stream, groups)) => {
                if let Some(stream) = stream.upgrade() {
                    stream.prefetch(groups);
                }
            }
            Ok(Job::Finish(stream)) => stream.finish(),
            Err(_) => return,
        }
    }
}
