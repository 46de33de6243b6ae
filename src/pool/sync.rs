//! Mutex and condvar of the hand-off code (slot tickets, tokens): parking_lot's
//! here, shuttle's in the copies of that code whose schedules the tests explore.

use std::time::Instant;

pub(crate) use parking_lot::{Mutex, MutexGuard};

/// parking_lot's condvar with one way to wait.
#[derive(Debug, Default)]
pub(crate) struct Condvar(parking_lot::Condvar);

impl Condvar {
    pub(crate) fn new() -> Condvar {
        Condvar::default()
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }

    /// Waits for a notification or the deadline (`None` = for ever). True when
    /// the deadline passed.
    pub(crate) fn wait_until<'m, T>(&self, mut guard: MutexGuard<'m, T>, deadline: Option<Instant>) -> (MutexGuard<'m, T>, bool) {
        let late = match deadline {
            None => {
                self.0.wait(&mut guard);
                false
            }
            Some(deadline) => self.0.wait_until(&mut guard, deadline).timed_out(),
        };
        (guard, late)
    }
}
