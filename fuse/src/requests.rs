//! The kernel's requests: how many came, since when the oldest that is not answered waits, and for how long each still may.
//!
//! Invariant: noting one takes no lock.

use std::cell::{Cell, OnceCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

macro_rules! requests {
    ($($(#[$doc:meta])* $kind:ident = $name:literal,)*) => {
        /// A kind of request, by the name of its FUSE operation.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Request {
            $($(#[$doc])* $kind,)*
        }

        impl Request {
            /// All kinds.
            pub const ALL: &[Request] = &[$(Request::$kind),*];

            /// Its name, as in counters and logs.
            pub fn name(self) -> &'static str {
                match self {
                    $(Request::$kind => $name,)*
                }
            }
        }
    };
}

requests! {
    /// What a name in a directory stands for.
    Lookup = "lookup",
    /// Attributes.
    Getattr = "getattr",
    /// A link's target.
    Readlink = "readlink",
    /// Opening a file.
    Open = "open",
    /// Reading from one; none where the kernel reads by itself.
    Read = "read",
    /// Closing one.
    Release = "release",
    /// Opening a directory.
    Opendir = "opendir",
    /// Listing one.
    Readdir = "readdir",
    /// Closing one.
    Releasedir = "releasedir",
    /// An extended attribute.
    Getxattr = "getxattr",
    /// The names of them.
    Listxattr = "listxattr",
    /// Giving numbers back.
    Forget = "forget",
}

/// How many requests of each kind have come.
#[derive(Debug, Default)]
pub struct Requests([AtomicU64; Request::ALL.len()]);

impl Requests {
    /// How many of a kind have come.
    pub fn count(&self, request: Request) -> u64 {
        self.0[request as usize].load(Ordering::Relaxed)
    }

    /// Counts one.
    pub(crate) fn add(&self, request: Request) {
        self.0[request as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// Since when a serving thread has been at its request, in milliseconds after [`Progress`] began, plus one; 0 if it has none.
type Slot = Arc<AtomicU64>;

/// How long a request may take, from when it comes to its answer: a process that waits for one cannot be killed meanwhile.
pub const ANSWER: Duration = Duration::from_secs(10);

thread_local! {
    /// A serving thread serves one connection all its life.
    static SLOT: OnceCell<Slot> = const { OnceCell::new() };
    /// When the request came that this thread works on.
    static CAME: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// How long there is left to answer the request that this thread works on; [`ANSWER`] if it works on none. A source that waits for
/// something waits no longer than this.
pub fn time_left() -> Duration {
    CAME.get().map_or(ANSWER, |came| ANSWER.saturating_sub(came.elapsed()))
}

/// What the threads that serve one connection are at.
#[derive(Debug)]
pub(crate) struct Progress {
    began: Instant,
    slots: Mutex<Vec<Slot>>,
}

impl Default for Progress {
    fn default() -> Progress {
        Progress { began: Instant::now(), slots: Mutex::default() }
    }
}

impl Progress {
    /// For how long the oldest request that is being worked on has been so; `None` if there is none.
    pub(crate) fn oldest(&self) -> Option<Duration> {
        let begun = |slot: &Slot| slot.load(Ordering::Relaxed).checked_sub(1);
        let oldest = self.slots.lock().iter().filter_map(begun).min()?;
        Some(self.began.elapsed().saturating_sub(Duration::from_millis(oldest)))
    }

    /// Notes that this thread works on a request, until what is returned is dropped.
    pub(crate) fn begin(&self) -> Working {
        let slot = SLOT.with(|slot| slot.get_or_init(|| self.slot()).clone());
        let came = Instant::now();
        CAME.set(Some(came));
        let after = came.saturating_duration_since(self.began).as_millis();
        slot.store(u64::try_from(after).unwrap_or(u64::MAX - 1) + 1, Ordering::Relaxed);
        Working(slot)
    }

    fn slot(&self) -> Slot {
        let slot = Slot::default();
        self.slots.lock().push(slot.clone());
        slot
    }
}

/// A request that is being worked on.
#[derive(Debug)]
pub(crate) struct Working(Slot);

impl Drop for Working {
    fn drop(&mut self) {
        CAME.set(None);
        self.0.store(0, Ordering::Relaxed);
    }
}

/// Has this thread's request have come so long ago.
#[cfg(test)]
pub(crate) fn came(ago: Duration) {
    CAME.set(Instant::now().checked_sub(ago));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_told_until_it_is_answered() {
        let progress = Arc::new(Progress::default());
        assert_eq!(progress.oldest(), None);
        let (began, begun) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn({
            let progress = progress.clone();
            move || {
                assert_eq!(time_left(), ANSWER);
                let working = progress.begin();
                began.send(()).expect("heard");
                _ = ended.recv();
                assert!(time_left() < ANSWER);
                drop(working);
                assert_eq!(time_left(), ANSWER);
            }
        });
        begun.recv().expect("begun");
        let first = progress.oldest().expect("at work");
        std::thread::sleep(Duration::from_millis(5));
        assert!(progress.oldest().expect("at work") > first);
        end.send(()).expect("heard");
        thread.join().expect("ended");
        assert_eq!(progress.oldest(), None);
    }
}
