//! The slot table of one queue, without locks: idle containers as a LIFO
//! stack, waiting callers as a FIFO line, counters of the rest. A caller waits
//! in a thread of its own, on a ticket, or asleep: then what is needed to go
//! on stands in the line itself.
//!
//! INVARIANT: never an idle container and a waiting caller at once. Every
//! method takes `now` and returns what happened; nothing here blocks but a
//! ticket's own `wait`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::sync::{Condvar, Mutex};

/// One caller's place in the line. Served once, by whoever offers.
#[derive(Debug)]
pub(super) struct Ticket<C, E> {
    pub(super) since: Instant,
    outcome: Mutex<Outcome<C, E>>,
    ready: Condvar,
}

#[derive(Debug)]
enum Outcome<C, E> {
    Waiting,
    Served(C),
    Failed(E),
    Taken,
}

/// How a wait ended.
#[derive(Debug)]
pub(super) enum Waited<C, E> {
    Served(C),
    Failed(E),
    /// The deadline passed; the ticket is still in line.
    Deadline,
}

impl<C, E> Ticket<C, E> {
    fn new(since: Instant) -> Arc<Ticket<C, E>> {
        Arc::new(Ticket { since, outcome: Mutex::new(Outcome::Waiting), ready: Condvar::new() })
    }

    /// Puts the outcome in; the caller notifies after the queue's lock is free.
    fn settle(&self, outcome: Outcome<C, E>) {
        let mut slot = self.outcome.lock();
        debug_assert!(matches!(*slot, Outcome::Waiting), "a ticket is settled once");
        *slot = outcome;
    }

    pub(super) fn notify(&self) {
        self.ready.notify_one();
    }

    /// Wakes a wait whose ticket was abandoned by somebody else.
    pub(super) fn wake_abandoned(&self) {
        let mut slot = self.outcome.lock();
        if matches!(*slot, Outcome::Waiting) {
            *slot = Outcome::Taken;
        }
        drop(slot);
        self.ready.notify_one();
    }

    /// Out of the line without an outcome.
    pub(super) fn is_abandoned(&self) -> bool {
        matches!(*self.outcome.lock(), Outcome::Taken)
    }

    /// Takes the outcome if there is one.
    #[cfg(test)]
    pub(super) fn take(&self) -> Option<Waited<C, E>> {
        let mut slot = self.outcome.lock();
        if matches!(*slot, Outcome::Waiting) {
            return None;
        }
        match std::mem::replace(&mut *slot, Outcome::Taken) {
            Outcome::Served(c) => Some(Waited::Served(c)),
            Outcome::Failed(e) => Some(Waited::Failed(e)),
            Outcome::Waiting | Outcome::Taken => None,
        }
    }

    /// Blocks until settled or the deadline.
    pub(super) fn wait(&self, deadline: Option<Instant>) -> Waited<C, E> {
        let mut slot = self.outcome.lock();
        loop {
            match std::mem::replace(&mut *slot, Outcome::Taken) {
                Outcome::Served(c) => return Waited::Served(c),
                Outcome::Failed(e) => return Waited::Failed(e),
                Outcome::Waiting => *slot = Outcome::Waiting,
                Outcome::Taken => return Waited::Deadline,
            }
            let late;
            (slot, late) = self.ready.wait_until(slot, deadline);
            if late && matches!(*slot, Outcome::Waiting) {
                return Waited::Deadline;
            }
        }
    }
}

/// An idle container in the stack.
#[derive(Debug)]
pub(super) struct Idle<C> {
    pub(super) item: C,
    pub(super) since: Instant,
    pub(super) frozen: bool,
}

/// What `acquire` gave.
#[derive(Debug)]
pub(super) enum Acquired<C, E> {
    Got { item: C, frozen: bool },
    Wait(Arc<Ticket<C, E>>),
}

/// What `offer` did.
#[derive(Debug)]
pub(super) enum Offered<C, E, S> {
    /// Given to this ticket: notify it once the lock is free.
    Handed(Arc<Ticket<C, E>>),
    /// This one slept: it goes on with the container in the giver's hands.
    Woken(S, C),
    Kept,
}

/// One who waits without a thread.
#[derive(Debug)]
pub(super) struct Asleep<S> {
    /// Its name in the line.
    key: u64,
    since: Instant,
    /// It waits no longer than this.
    until: Option<Instant>,
    /// Its client is looked after, see [`Slots::unwatched`].
    watched: bool,
    sleeper: S,
}

#[derive(Debug)]
enum Waiter<C, E, S> {
    Thread(Arc<Ticket<C, E>>),
    Asleep(Asleep<S>),
}

impl<C, E, S> Waiter<C, E, S> {
    fn since(&self) -> Instant {
        match self {
            Waiter::Thread(ticket) => ticket.since,
            Waiter::Asleep(asleep) => asleep.since,
        }
    }

    fn asleep(&self) -> Option<&Asleep<S>> {
        match self {
            Waiter::Thread(_) => None,
            Waiter::Asleep(asleep) => Some(asleep),
        }
    }
}

impl<S> Asleep<S> {
    fn is_late(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| until <= now)
    }
}

/// Whose wait has failed.
#[derive(Debug)]
pub(super) enum Failed<C, E, S> {
    /// Settled: notify it once the lock is free.
    Thread(Arc<Ticket<C, E>>),
    /// It is for the caller of this to tell.
    Asleep(S, E),
}

/// The table. `C` is the container, `E` what a failed wait is told, `S` who
/// waits without a thread.
#[derive(Debug)]
pub(super) struct Slots<C, E, S> {
    idle: Vec<Idle<C>>,
    waiting: VecDeque<Waiter<C, E, S>>,
    next_key: u64,
    /// Dispatched to a start lane, not begun.
    pub(super) queued: usize,
    /// Being created or booting.
    pub(super) starting: usize,
    pub(super) busy: usize,
    pub(super) freezing: usize,
    pub(super) stopping: usize,
}

impl<C, E, S> Default for Slots<C, E, S> {
    fn default() -> Slots<C, E, S> {
        Slots { idle: Vec::new(), waiting: VecDeque::new(), next_key: 0, queued: 0, starting: 0, busy: 0, freezing: 0, stopping: 0 }
    }
}

impl<C, E, S> Slots<C, E, S> {
    /// An idle container (the most recently used), or a place in the line.
    pub(super) fn acquire(&mut self, now: Instant) -> Acquired<C, E> {
        if let Some(got) = self.idle_top() {
            return got;
        }
        let ticket = Ticket::new(now);
        self.waiting.push_back(Waiter::Thread(ticket.clone()));
        Acquired::Wait(ticket)
    }

    /// The same for one who has had its turn in vain: its place is before all
    /// that came after it.
    pub(super) fn acquire_again(&mut self, since: Instant) -> Acquired<C, E> {
        if let Some(got) = self.idle_top() {
            return got;
        }
        let ticket = Ticket::new(since);
        let later = self.waiting.iter().position(|waiter| waiter.since() > since);
        self.waiting.insert(later.unwrap_or(self.waiting.len()), Waiter::Thread(ticket.clone()));
        Acquired::Wait(ticket)
    }

    fn idle_top(&mut self) -> Option<Acquired<C, E>> {
        let top = self.idle.pop()?;
        self.busy += 1;
        Some(Acquired::Got { item: top.item, frozen: top.frozen })
    }

    /// A place at the end of the line for one who waits without a thread.
    ///
    /// # Errors
    /// Back again: a container stands idle.
    pub(super) fn line_up(&mut self, sleeper: S, now: Instant, until: Option<Instant>) -> Result<(), S> {
        if !self.idle.is_empty() {
            return Err(sleeper);
        }
        let key = self.next_key;
        self.next_key += 1;
        self.waiting.push_back(Waiter::Asleep(Asleep { key, since: now, until, watched: false, sleeper }));
        Ok(())
    }

    /// A container is free (not counted anywhere at this moment): to the
    /// oldest ticket, else on top of the stack.
    pub(super) fn offer(&mut self, item: C, now: Instant) -> Offered<C, E, S> {
        match self.waiting.pop_front() {
            Some(Waiter::Thread(ticket)) => {
                self.busy += 1;
                ticket.settle(Outcome::Served(item));
                Offered::Handed(ticket)
            }
            Some(Waiter::Asleep(asleep)) => {
                self.busy += 1;
                Offered::Woken(asleep.sleeper, item)
            }
            None => {
                self.idle.push(Idle { item, since: now, frozen: false });
                Offered::Kept
            }
        }
    }

    /// Puts a container back that was taken out to be frozen, where its age
    /// says: the newest stay on top. To the oldest ticket if one waits.
    pub(super) fn put_back(&mut self, idle: Idle<C>) -> Result<(), Idle<C>> {
        if !self.waiting.is_empty() {
            return Err(idle);
        }
        let at = self.idle.partition_point(|other| other.since < idle.since);
        self.idle.insert(at, idle);
        Ok(())
    }

    /// Takes the ticket out of the line. False: it was settled already, and
    /// its owner must take the outcome.
    pub(super) fn abandon(&mut self, ticket: &Arc<Ticket<C, E>>) -> bool {
        let is_it = |waiter: &Waiter<C, E, S>| matches!(waiter, Waiter::Thread(other) if Arc::ptr_eq(other, ticket));
        match self.waiting.iter().position(is_it) {
            Some(at) => {
                self.waiting.remove(at);
                true
            }
            None => false,
        }
    }

    /// Takes one who sleeps out of the line, by its name. `None`: it was woken already.
    pub(super) fn leave(&mut self, key: u64) -> Option<S> {
        let at = self.waiting.iter().position(|waiter| waiter.asleep().is_some_and(|asleep| asleep.key == key))?;
        match self.waiting.remove(at)? {
            Waiter::Asleep(asleep) => Some(asleep.sleeper),
            Waiter::Thread(_) => None,
        }
    }

    /// Takes out those who sleep and whose time is over, with how long they slept.
    pub(super) fn overdue(&mut self, now: Instant) -> Vec<(S, Duration)> {
        let mut late = Vec::new();
        if self.waiting.iter().any(|waiter| waiter.asleep().is_some_and(|asleep| asleep.is_late(now))) {
            for waiter in std::mem::take(&mut self.waiting) {
                match waiter {
                    Waiter::Asleep(asleep) if asleep.is_late(now) => late.push((asleep.sleeper, now.saturating_duration_since(asleep.since))),
                    other => self.waiting.push_back(other),
                }
            }
        }
        late
    }

    /// Those who have slept since `before` or longer and were not named here yet.
    pub(super) fn unwatched(&mut self, before: Instant) -> impl Iterator<Item = (u64, &mut S)> {
        let due = move |waiter| match waiter {
            &mut Waiter::Asleep(ref mut asleep) if !asleep.watched && asleep.since <= before => {
                asleep.watched = true;
                Some((asleep.key, &mut asleep.sleeper))
            }
            _ => None,
        };
        self.waiting.iter_mut().filter_map(due)
    }

    /// When the next of those who sleep is late, or has slept for `watch_after`.
    pub(super) fn next_attention(&self, watch_after: Duration) -> Option<Instant> {
        let asleep = self.waiting.iter().filter_map(Waiter::asleep);
        asleep.filter_map(|asleep| [asleep.until, (!asleep.watched).then(|| asleep.since + watch_after)].into_iter().flatten().min()).min()
    }

    /// Fails the `count` newest. Tell them once the lock is free.
    pub(super) fn fail_newest(&mut self, count: usize, mut error: impl FnMut() -> E) -> Vec<Failed<C, E, S>> {
        let keep = self.waiting.len().saturating_sub(count);
        let fail = |waiter| match waiter {
            Waiter::Thread(ticket) => {
                Ticket::settle(&ticket, Outcome::Failed(error()));
                Failed::Thread(ticket)
            }
            Waiter::Asleep(asleep) => Failed::Asleep(asleep.sleeper, error()),
        };
        self.waiting.drain(keep..).map(fail).collect()
    }

    /// Takes out every idle container `which` names, oldest first.
    pub(super) fn take_idle(&mut self, mut which: impl FnMut(&Idle<C>) -> bool) -> Vec<Idle<C>> {
        self.idle.extract_if(.., |idle| which(idle)).collect()
    }

    pub(super) fn idle(&self) -> &[Idle<C>] {
        &self.idle
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn oldest_wait(&self) -> Option<Instant> {
        self.waiting.front().map(Waiter::since)
    }

    /// Containers that can serve now or soon, without a start.
    pub(super) fn live(&self) -> usize {
        self.idle.len() + self.busy + self.freezing
    }

    /// Nothing here at all: the queue may end.
    pub(super) fn is_vacant(&self) -> bool {
        self.waiting.is_empty() && self.live() == 0 && self.queued + self.starting + self.stopping == 0
    }
}
