//! Calls that wait for a container without a thread.
//!
//! Where a line stands, a caller's thread would sleep, be woken for its turn,
//! and sleep again until the function answers. Instead the call lies in the
//! line, and who ends a call takes the next one along with the container. Its
//! client is watched, and its time kept, by the queue's launcher.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::Shared;
use super::container::Container;
use super::lease::Lease;
use super::queue::{SlotQueue, WATCH_AFTER};
use crate::call::{Call, CallError, WatchGuard, Woken};
use crate::metrics::CALLS;
use crate::pool::Session;

/// A call that can wait without a thread.
pub trait Sleeper: Any + Send {
    fn call(&self) -> &Call;
    /// Its wait is over. Does not wait.
    fn wake(self: Box<Self>, turn: Turn) -> Box<dyn Woken>;
    /// Asks that `gone` be called once, from another thread and not from in
    /// here, when the client has left. Does not wait.
    fn watch(&self, gone: Arc<dyn Fn() + Send + Sync>) -> Option<Box<dyn WatchGuard>>;
}

/// What ends a wait without a thread: a container, or why there is none. And
/// the right to run, taken when the wait began.
#[derive(Debug)]
pub struct Turn {
    pub(crate) session: Session,
    pub(crate) lease: Result<Lease, CallError>,
}

impl Turn {
    /// Whether a container waits for the call to go on.
    pub fn holds_container(&self) -> bool {
        self.lease.is_ok()
    }
}

/// One in a queue's line.
pub(super) struct Dreamer {
    sleeper: Box<dyn Sleeper>,
    session: Session,
    counted: Counted,
    guard: Option<Box<dyn WatchGuard>>,
}

/// Counted among those who wait, in the node and in the metrics.
struct Counted(Arc<Shared>);

impl Counted {
    fn new(shared: &Arc<Shared>) -> Counted {
        shared.waiting.fetch_add(1, Ordering::Relaxed);
        CALLS.queued.add(1);
        Counted(shared.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
        CALLS.queued.add(-1);
    }
}

impl Dreamer {
    pub(super) fn new(shared: &Arc<Shared>, sleeper: Box<dyn Sleeper>, session: Session) -> Dreamer {
        Dreamer { sleeper, session, counted: Counted::new(shared), guard: None }
    }

    /// The sleeper again: there is no place for it.
    pub(super) fn give_up(self) -> Box<dyn Sleeper> {
        self.sleeper
    }

    /// Its turn: it goes on with `container`.
    pub(super) fn serve(self, queue: &Arc<SlotQueue>, container: Box<Container>) -> Box<dyn Woken> {
        let lease = Lease::new(&self.counted.0, queue.clone(), container, false, true);
        self.end(Ok(lease))
    }

    /// There is none for it: it goes on with that, in a thread of its own.
    pub(super) fn fail(self, error: CallError) {
        self.end(Err(error)).go_on();
    }

    fn end(self, lease: Result<Lease, CallError>) -> Box<dyn Woken> {
        let Dreamer { sleeper, session, counted, guard } = self;
        drop(counted);
        drop(guard);
        sleeper.wake(Turn { session, lease })
    }
}

impl std::fmt::Debug for Dreamer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dreamer").field("call", &self.sleeper.call().id).finish_non_exhaustive()
    }
}

/// Clients that one look has watched: the queue's lock is held meanwhile.
const WATCH_BATCH: usize = 128;

/// The launcher's look after those who sleep: who has slept for long has its
/// client watched, whose time is over is told. Returns when to look again.
pub(super) fn attend(queue: &Arc<SlotQueue>, now: Instant) -> Option<Instant> {
    let (late, last_failure, next) = queue.with(|inner| {
        let late = inner.slots.overdue(now);
        if let Some(before) = now.checked_sub(WATCH_AFTER) {
            for (key, dreamer) in inner.slots.unwatched(before).take(WATCH_BATCH) {
                let bell = Arc::downgrade(queue);
                let gone = move || {
                    if let Some(left) = bell.upgrade().and_then(|queue| queue.leave(key)) {
                        left.fail(CallError::ClientGone);
                    }
                };
                dreamer.guard = dreamer.sleeper.watch(Arc::new(gone));
            }
        }
        if inner.slots.waiting() == 0 {
            inner.waiting_since = None;
        }
        (late, inner.last_failure.clone(), inner.slots.next_attention(WATCH_AFTER))
    });
    for (dreamer, waited) in late {
        let last_launch = last_failure.as_ref().filter(|(at, _)| *at + waited >= now).map(|(_, error)| error.clone());
        dreamer.fail(CallError::WaitTimeout { waited, last_launch });
    }
    next
}
