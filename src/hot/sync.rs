//! The lock and condvar of the slot table: parking_lot's, or shuttle's when
//! the schedules are explored (`RUSTFLAGS='--cfg shuttle'`).

#[cfg(not(shuttle))]
mod real {
    use std::time::Instant;

    pub(in crate::hot) use parking_lot::Mutex;

    #[derive(Debug, Default)]
    pub(in crate::hot) struct Condvar(parking_lot::Condvar);

    impl Condvar {
        pub(in crate::hot) fn new() -> Condvar {
            Condvar::default()
        }

        pub(in crate::hot) fn notify_one(&self) {
            self.0.notify_one();
        }

        /// True when the deadline passed.
        pub(in crate::hot) fn wait_until<T>(&self, guard: &mut parking_lot::MutexGuard<'_, T>, deadline: Option<Instant>) -> bool {
            match deadline {
                None => {
                    self.0.wait(guard);
                    false
                }
                Some(deadline) => self.0.wait_until(guard, deadline).timed_out(),
            }
        }
    }
}

#[cfg(not(shuttle))]
pub(super) use real::{Condvar, Mutex};
