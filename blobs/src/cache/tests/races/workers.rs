//! A thread for each job, which begins whenever it likes; some jobs are dropped, as where too many wait.

use std::ops::Range;
use std::sync::{Arc, Weak};

use shuttle::rand::{Rng, thread_rng};
use shuttle::thread;

use super::Stream;

pub(super) enum Job {
    Ahead(Weak<Stream>, Range<u64>),
    Finish(Arc<Stream>),
}

#[derive(Default)]
pub(super) struct Workers(parking_lot::Mutex<Vec<thread::JoinHandle<()>>>);

impl Workers {
    pub(super) fn send(&self, job: Job) {
        if thread_rng().gen_bool(0.25) {
            return;
        }
        let work = move || match job {
            Job::Ahead(stream, groups) => {
                if let Some(stream) = stream.upgrade() {
                    stream.prefetch(groups);
                }
            }
            Job::Finish(stream) => stream.finish(),
        };
        let worker = thread::spawn(work);
        self.0.lock().push(worker);
    }

    /// Waits until there is nothing to do any more.
    pub(super) fn done(&self) {
        loop {
            let Some(worker) = self.0.lock().pop() else { return };
            worker.join().expect("no panic");
        }
    }
}
