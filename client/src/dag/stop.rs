//! Signals, passed on to all that is under way.
//!
//! Invariant: what joins after a signal hears of it too.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::process::{Control, Received};

/// Who is told of signals; clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Stop {
    all: Control,
    each: Arc<Mutex<Each>>,
}

#[derive(Debug, Default)]
struct Each {
    next: u64,
    controls: HashMap<u64, Control>,
    last: Option<Received>,
}

/// The control of one attempt, which hears of signals until this is dropped.
#[derive(Debug)]
pub(super) struct Joined {
    control: Control,
    number: u64,
    each: Arc<Mutex<Each>>,
}

impl Stop {
    /// Tells all that are under way, and those to come.
    pub(super) fn signal(&self, received: Received) {
        let mut each = lock(&self.each);
        each.last = Some(received);
        self.all.signal(received);
        each.controls.values().for_each(|control| control.signal(received));
    }

    /// The last signal.
    pub(super) fn interrupted(&self) -> Option<i32> {
        self.all.interrupted()
    }

    /// The control of the whole, which has no command.
    pub(super) fn all(&self) -> &Control {
        &self.all
    }

    /// The control of one more attempt.
    pub(super) fn join(&self) -> Joined {
        let (control, mut each) = (Control::new(), lock(&self.each));
        if let Some(received) = each.last {
            control.signal(received);
        }
        each.next += 1;
        let number = each.next;
        each.controls.insert(number, control.clone());
        Joined { control, number, each: self.each.clone() }
    }
}

impl Deref for Joined {
    type Target = Control;

    fn deref(&self) -> &Control {
        &self.control
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        lock(&self.each).controls.remove(&self.number);
    }
}

fn lock(each: &Mutex<Each>) -> MutexGuard<'_, Each> {
    each.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_hear_of_a_signal_whenever_they_joined() {
        let stop = Stop::default();
        let (before, gone) = (stop.join(), stop.join());
        let left = gone.control.clone();
        drop(gone);
        stop.signal(Received { signal: 2, from_terminal: true });
        let after = stop.join();
        assert_eq!([before.interrupted(), after.interrupted(), stop.interrupted()], [Some(2); 3]);
        assert_eq!((left.interrupted(), before.signals()), (None, 1));
    }
}
