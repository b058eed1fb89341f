//! Signals that ask a process to stop, for as long as a command depends on us.
//!
//! Invariant: they act as usual again once nobody catches them any more; those that were ignored when this process began
//! (`nohup`) stay ignored, for the command too.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::exfiltrator::WithOrigin;
use signal_hook::iterator::{Handle, SignalsInfo};
use signal_hook::low_level::siginfo::Cause;

use super::system;

/// One signal that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Its number.
    pub signal: i32,
    /// Whether the kernel sent it, as a terminal's Ctrl-C, to the whole foreground process group.
    pub from_terminal: bool,
}

/// Catches SIGINT, SIGTERM, SIGHUP and SIGQUIT until it is dropped.
#[derive(Debug)]
pub struct Signals {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

/// How many catch, and whether the default action applies since none does. A handler once installed stays, so the
/// default has to be acted out.
struct Held {
    count: usize,
    default_applies: Option<Arc<AtomicBool>>,
}

static HELD: Mutex<Held> = Mutex::new(Held { count: 0, default_applies: None });

impl Signals {
    /// Calls `each` for every signal, on a thread of its own.
    pub fn catch(each: impl Fn(Received) + Send + 'static) -> io::Result<Signals> {
        let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
        let default_applies = match &held.default_applies {
            Some(flag) => flag.clone(),
            None => {
                let flag = Arc::new(AtomicBool::new(false));
                for signal in caught() {
                    signal_hook::flag::register_conditional_default(signal, flag.clone())?;
                }
                held.default_applies.insert(flag).clone()
            }
        };
        let mut signals = SignalsInfo::<WithOrigin>::new(caught())?;
        let handle = signals.handle();
        let thread = std::thread::Builder::new().name("signals".into()).spawn(move || {
            for origin in signals.forever() {
                each(Received { signal: origin.signal, from_terminal: matches!(origin.cause, Cause::Kernel) });
            }
        })?;
        held.count += 1;
        default_applies.store(false, Ordering::SeqCst);
        Ok(Signals { handle, thread: Some(thread) })
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
        held.count -= 1;
        if held.count == 0
            && let Some(flag) = &held.default_applies
        {
            flag.store(true, Ordering::SeqCst);
        }
        drop(held);
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The signals that are caught: those not ignored from the start.
pub(super) fn caught() -> Vec<i32> {
    [SIGINT, SIGTERM, SIGHUP, SIGQUIT].into_iter().filter(|signal| !system::is_ignored(*signal)).collect()
}
