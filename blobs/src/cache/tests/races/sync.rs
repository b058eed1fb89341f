//! `parking_lot`'s locks over shuttle's, which let others go first.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use shuttle::sync;
pub(super) use shuttle::sync::atomic::{AtomicBool, AtomicU64};

#[derive(Debug, Default)]
pub(super) struct Mutex<T>(sync::Mutex<T>);

/// `None` while it waits.
pub(super) struct Guard<'a, T>(Option<sync::MutexGuard<'a, T>>);

#[derive(Debug, Default)]
pub(super) struct Condvar(sync::Condvar);

impl<T> Mutex<T> {
    pub(super) fn new(value: T) -> Mutex<T> {
        Mutex(sync::Mutex::new(value))
    }

    pub(super) fn lock(&self) -> Guard<'_, T> {
        Guard(Some(self.0.lock().expect("no panic")))
    }

    pub(super) fn try_lock(&self) -> Option<Guard<'_, T>> {
        self.0.try_lock().ok().map(|guard| Guard(Some(guard)))
    }
}

impl Condvar {
    /// Time does not pass here: who waits does so for ever, or, without any patience, not at all.
    pub(super) fn wait_while_for<T>(
        &self,
        guard: &mut Guard<'_, T>,
        mut is_early: impl FnMut(&mut T) -> bool,
        patience: Duration,
    ) {
        while !patience.is_zero() && is_early(guard) {
            let held = guard.0.take().expect("held");
            guard.0 = Some(self.0.wait(held).expect("no panic"));
        }
    }

    pub(super) fn notify_all(&self) {
        self.0.notify_all();
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("held")
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().expect("held")
    }
}
