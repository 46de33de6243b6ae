//! The slot table of one queue, without locks: idle containers as a LIFO
//! stack, waiting callers as a FIFO line of tickets, counters of the rest.
//!
//! INVARIANT: never an idle container and a waiting ticket at once. Every
//! method takes `now` and returns what happened; nothing here blocks but a
//! ticket's own `wait`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

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
pub(super) enum Offered<C, E> {
    /// Given to this ticket: notify it once the lock is free.
    Handed(Arc<Ticket<C, E>>),
    Kept,
}

/// The table. `C` is the container, `E` what a failed wait is told.
#[derive(Debug)]
pub(super) struct Slots<C, E> {
    idle: Vec<Idle<C>>,
    waiting: VecDeque<Arc<Ticket<C, E>>>,
    /// Dispatched to a start lane, not begun.
    pub(super) queued: usize,
    /// Being created or booting.
    pub(super) starting: usize,
    pub(super) busy: usize,
    pub(super) freezing: usize,
    pub(super) stopping: usize,
}

impl<C, E> Default for Slots<C, E> {
    fn default() -> Slots<C, E> {
        Slots { idle: Vec::new(), waiting: VecDeque::new(), queued: 0, starting: 0, busy: 0, freezing: 0, stopping: 0 }
    }
}

impl<C, E> Slots<C, E> {
    /// An idle container (the most recently used), or a place in the line.
    pub(super) fn acquire(&mut self, now: Instant) -> Acquired<C, E> {
        if let Some(top) = self.idle.pop() {
            self.busy += 1;
            return Acquired::Got { item: top.item, frozen: top.frozen };
        }
        let ticket = Ticket::new(now);
        self.waiting.push_back(ticket.clone());
        Acquired::Wait(ticket)
    }

    /// A container is free (not counted anywhere at this moment): to the
    /// oldest ticket, else on top of the stack.
    pub(super) fn offer(&mut self, item: C, now: Instant) -> Offered<C, E> {
        match self.waiting.pop_front() {
            Some(ticket) => {
                self.busy += 1;
                ticket.settle(Outcome::Served(item));
                Offered::Handed(ticket)
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
        match self.waiting.iter().position(|t| Arc::ptr_eq(t, ticket)) {
            Some(at) => {
                self.waiting.remove(at);
                true
            }
            None => false,
        }
    }

    /// Fails the `count` newest tickets. Notify them once the lock is free.
    pub(super) fn fail_newest(&mut self, count: usize, mut error: impl FnMut() -> E) -> Vec<Arc<Ticket<C, E>>> {
        let keep = self.waiting.len().saturating_sub(count);
        let failed: Vec<_> = self.waiting.drain(keep..).collect();
        for ticket in &failed {
            ticket.settle(Outcome::Failed(error()));
        }
        failed
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
        self.waiting.front().map(|t| t.since)
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
