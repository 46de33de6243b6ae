//! The drain gate: counts what is inside, refuses newcomers once closed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

const CLOSED: u64 = 1 << 63;

/// Two atomic adds a call; the lock is only touched while draining.
#[derive(Debug, Default)]
pub struct Gate {
    count: AtomicU64,
    lock: Mutex<()>,
    empty: Condvar,
}

/// One who is inside. Dropping it is leaving.
#[derive(Debug)]
pub struct Session(Arc<Gate>);

impl Gate {
    /// Goes inside; `None` once the gate is closed.
    pub fn enter(self: &Arc<Gate>) -> Option<Session> {
        let session = Session(self.clone());
        let before = self.count.fetch_add(1, Ordering::SeqCst);
        if before & CLOSED != 0 { None } else { Some(session) }
    }

    /// Refuses everybody from now on.
    pub fn close(&self) {
        self.count.fetch_or(CLOSED, Ordering::SeqCst);
    }

    pub fn is_closed(&self) -> bool {
        self.count.load(Ordering::SeqCst) & CLOSED != 0
    }

    /// How many are inside.
    pub fn inside(&self) -> u64 {
        self.count.load(Ordering::SeqCst) & !CLOSED
    }

    /// Waits until nobody is inside; false when the deadline came first.
    pub fn wait_empty(&self, deadline: Instant) -> bool {
        let mut guard = self.lock.lock();
        while self.inside() != 0 {
            if self.empty.wait_until(&mut guard, deadline).timed_out() {
                return self.inside() == 0;
            }
        }
        true
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::SeqCst) == CLOSED | 1 {
            // Under the lock, or a waiter between its check and its sleep would miss it.
            let _guard = self.0.lock.lock();
            self.0.empty.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn closed_refuses_and_empties() {
        let gate = Arc::new(Gate::default());
        let inside = gate.enter().expect("open");
        gate.close();
        assert!(gate.enter().is_none());
        assert_eq!(gate.inside(), 1);
        assert!(!gate.wait_empty(Instant::now()));
        let leaver = crate::pool::spawn("test-leaver", move || drop(inside)).expect("thread");
        assert!(gate.wait_empty(Instant::now() + Duration::from_secs(120)));
        leaver.join();
    }
}
