//! Shuttle's mutex and condvar under the names the hand-off code uses. A wait
//! with a deadline may end at once: that is the late case.

use std::time::Instant;

use shuttle::rand::Rng;

pub(crate) use shuttle::sync::MutexGuard;

#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Mutex<T> {
        Mutex(shuttle::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().expect("no thread of a schedule panics")
    }
}

#[derive(Debug)]
pub(crate) struct Condvar(shuttle::sync::Condvar);

impl Condvar {
    pub(crate) fn new() -> Condvar {
        Condvar(shuttle::sync::Condvar::new())
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }

    pub(crate) fn wait_until<'m, T>(&self, guard: MutexGuard<'m, T>, deadline: Option<Instant>) -> (MutexGuard<'m, T>, bool) {
        if deadline.is_some_and(|_| shuttle::rand::thread_rng().gen_bool(0.3)) {
            return (guard, true);
        }
        (self.0.wait(guard).expect("no thread of a schedule panics"), false)
    }
}
