//! One slot queue: the containers and the waiting callers of one exact
//! function configuration, under one short lock.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::asleep::Dreamer;
use super::container::{Container, Pulse};
use super::evictor::Contender;
use super::plan::{IdleView, View};
use super::slots::{Acquired, Failed, Idle, Offered, Slots, Ticket};
use super::state::State;
use super::sync::Mutex;
use crate::call::{CallError, LaunchError};
use crate::metrics::Counter;
use crate::model::{FnSpec, Id};
use crate::pool::Need;

pub(super) type Failure = CallError;
pub(super) type CallTicket = Ticket<Box<Container>, Failure>;

/// A queue and its bell.
#[derive(Debug)]
pub(super) struct SlotQueue {
    pub(super) spec: Arc<FnSpec>,
    /// Names the queue towards the tokens.
    pub(super) owner: u64,
    pub(super) need: Need,
    /// CPU time of all containers of the function, nanoseconds.
    pub(super) cpu: Arc<Counter>,
    inner: Mutex<Inner>,
    /// Capacity 1: "look again". A lost or doubled ring is harmless.
    bell: Sender<()>,
    pub(super) rung: Receiver<()>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) slots: Slots<Box<Container>, Failure, Dreamer>,
    /// Places in the token line, kept by the launcher.
    pub(super) reserved: usize,
    /// The launcher will look by itself at this time.
    pub(super) wakes: Option<Instant>,
    /// It need not be rung for fewer waiting callers than this.
    pub(super) ring_above: usize,
    pub(super) waiting_since: Option<Instant>,
    /// When a caller in the line was last given a container.
    handed_over: Option<Instant>,
    /// Mean service time, exponentially weighted.
    pub(super) service: Option<Duration>,
    pub(super) start_cost: Duration,
    pub(super) last_failure: Option<(Instant, Arc<LaunchError>)>,
    pub(super) failures: u32,
    /// Containers to give up at their next finish.
    pub(super) retire: usize,
    pub(super) last_grant: Option<Instant>,
    pub(super) calls: u64,
    pub(super) closing: bool,
    /// The function was changed or deleted.
    pub(super) retired: bool,
    /// The launcher has left: use another queue.
    pub(super) ended: bool,
    pub(super) last_used: Instant,
    /// Every container from its start to its end, for eyes and for calling off
    /// a boot; whoever owns one is not found here.
    pub(super) pulses: Vec<Arc<Pulse>>,
}

/// What a caller gets from a queue.
#[derive(Debug)]
pub(super) enum Entry {
    Got {
        container: Box<Container>,
        frozen: bool,
    },
    Wait(Arc<CallTicket>),
    Refused(CallError),
    /// The queue has ended: look it up again.
    Ended,
}

/// What became of a container that was given.
#[derive(Debug)]
pub(super) enum Given {
    /// It stands idle, or the thread of the oldest caller has it.
    Taken,
    /// The oldest caller waits without a thread: it goes on with this.
    Woken(Dreamer, Box<Container>),
    /// It is to be stopped.
    Refused(Box<Container>),
}

/// A boot younger than this is let come up: it may serve the next call.
const CALL_OFF_AGE: Duration = Duration::from_secs(1);

/// A wait longer than this watches its client: most are shorter.
pub(super) const WATCH_AFTER: Duration = Duration::from_millis(100);

/// A first guess at what a start costs, until one was measured.
const FIRST_START_COST: Duration = Duration::from_millis(300);

impl SlotQueue {
    pub(super) fn new(spec: Arc<FnSpec>, owner: u64, cpu: Arc<Counter>, now: Instant) -> SlotQueue {
        let (bell, rung) = bounded(1);
        let need = Need { mib: spec.memory_mib.saturating_add(spec.tmpfs_mib), mcpu: spec.cpu_milli };
        let inner = Inner {
            slots: Slots::default(),
            reserved: 0,
            wakes: None,
            ring_above: 0,
            waiting_since: None,
            handed_over: None,
            service: None,
            start_cost: FIRST_START_COST,
            last_failure: None,
            failures: 0,
            retire: 0,
            last_grant: None,
            calls: 0,
            closing: false,
            retired: false,
            ended: false,
            last_used: now,
            pulses: Vec::new(),
        };
        SlotQueue { spec, owner, need, cpu, inner: Mutex::new(inner), bell, rung }
    }

    pub(super) fn ring(&self) {
        // Full: it will look anyway.
        let _ = self.bell.try_send(());
    }

    pub(super) fn with<R>(&self, f: impl FnOnce(&mut Inner) -> R) -> R {
        f(&mut self.inner.lock())
    }

    /// An idle container, a ticket, or a refusal. `again`: it has had its turn in
    /// vain, and its place in the line is that of one who came then.
    pub(super) fn enter(&self, now: Instant, again: Option<Instant>, max_queued: usize) -> Entry {
        let mut inner = self.inner.lock();
        if inner.ended {
            return Entry::Ended;
        }
        if inner.closing {
            return Entry::Refused(CallError::Draining);
        }
        inner.last_used = now;
        if inner.slots.idle().is_empty() {
            if again.is_none() && inner.slots.waiting() >= max_queued {
                let retry_after_s = inner.retry_after_s();
                return Entry::Refused(CallError::QueueFull { limit: max_queued, retry_after_s });
            }
            if let Some(failure) = inner.cached_failure(now) {
                return Entry::Refused(CallError::Launch(failure));
            }
        }
        let acquired = match again {
            None => inner.slots.acquire(now),
            Some(since) => inner.slots.acquire_again(since),
        };
        match acquired {
            Acquired::Got { item, frozen } => Entry::Got { container: item, frozen },
            Acquired::Wait(ticket) => {
                inner.waiting_since.get_or_insert(now);
                let asleep = inner.wakes.is_none_or(|at| at > now + inner.start_cost);
                let ring = inner.slots.waiting() > inner.ring_above || asleep;
                drop(inner);
                if ring {
                    self.ring();
                }
                Entry::Wait(ticket)
            }
        }
    }

    /// A place in the line for one who waits without a thread. Only where a
    /// line stands already: a first caller is sooner served in its own thread.
    ///
    /// # Errors
    /// Back again: there is no line, or there is none for it to join.
    pub(super) fn line_up(&self, dreamer: Dreamer, now: Instant, until: Option<Instant>, max_queued: usize) -> Result<(), Dreamer> {
        let mut inner = self.inner.lock();
        let waiting = inner.slots.waiting();
        if inner.ended || inner.closing || waiting == 0 || waiting >= max_queued || inner.cached_failure(now).is_some() {
            return Err(dreamer);
        }
        inner.last_used = now;
        inner.slots.line_up(dreamer, now, until)?;
        let attention = until.map_or(now + WATCH_AFTER, |until| until.min(now + WATCH_AFTER)).min(now + inner.start_cost);
        let ring = waiting + 1 > inner.ring_above || inner.wakes.is_none_or(|at| at > attention);
        drop(inner);
        if ring {
            self.ring();
        }
        Ok(())
    }

    /// One who slept leaves the line; `None`: it was woken meanwhile.
    pub(super) fn leave(&self, key: u64) -> Option<Dreamer> {
        let mut inner = self.inner.lock();
        let left = inner.slots.leave(key)?;
        if inner.slots.waiting() == 0 {
            inner.waiting_since = None;
        }
        drop(inner);
        self.ring();
        Some(left)
    }

    /// A free container comes (back): to the oldest caller, the stack, or out.
    pub(super) fn give(&self, container: Box<Container>, now: Instant, quick_due: Option<Duration>) -> Given {
        let mut inner = self.inner.lock();
        let retiring = inner.retire > 0;
        let stale = inner.retired && inner.slots.waiting() == 0;
        if inner.closing || inner.ended || retiring || stale || container.is_worn(&self.spec.limits, now) {
            inner.retire -= usize::from(retiring);
            inner.slots.stopping += 1;
            drop(inner);
            self.ring();
            return Given::Refused(container);
        }
        let offered = inner.slots.offer(container, now);
        if inner.slots.waiting() == 0 {
            inner.waiting_since = None;
        }
        if !matches!(offered, Offered::Kept) {
            inner.handed_over = Some(now);
        }
        match offered {
            Offered::Handed(ticket) => {
                drop(inner);
                ticket.notify();
            }
            Offered::Woken(dreamer, container) => return Given::Woken(dreamer, container),
            Offered::Kept => {
                let due = quick_due.map(|d| now + d);
                let late = match (inner.wakes, due) {
                    (Some(wakes), Some(due)) => wakes > due,
                    (None, _) => true,
                    (Some(_), None) => false,
                };
                drop(inner);
                if late {
                    self.ring();
                }
            }
        }
        Given::Taken
    }

    /// The caller no longer wants its ticket. `false`: it was served meanwhile.
    pub(super) fn abandon(&self, ticket: &Arc<CallTicket>) -> bool {
        let mut inner = self.inner.lock();
        let removed = inner.slots.abandon(ticket);
        if inner.slots.waiting() == 0 {
            inner.waiting_since = None;
        }
        drop(inner);
        if removed {
            self.ring();
        }
        removed
    }

    /// Fails waiting callers, newest first.
    pub(super) fn fail(&self, count: usize, error: impl FnMut() -> CallError) {
        let failed = {
            let mut inner = self.inner.lock();
            let failed = inner.slots.fail_newest(count, error);
            if inner.slots.waiting() == 0 {
                inner.waiting_since = None;
            }
            failed
        };
        for one in failed {
            match one {
                Failed::Thread(ticket) => ticket.notify(),
                Failed::Asleep(dreamer, error) => dreamer.fail(error),
            }
        }
    }

    /// Takes one idle container out, for eviction. It counts as stopping.
    pub(super) fn evict(&self, id: Id) -> Option<Box<Container>> {
        let mut inner = self.inner.lock();
        let taken = inner.slots.take_idle(|idle| idle.item.id == id).pop()?;
        inner.slots.stopping += 1;
        Some(taken.item)
    }

    /// Calls off the boots of callers who have all left, if they have had time
    /// enough (spec agent §7.3, bounded). Returns how many were told.
    pub(super) fn call_off_boots(&self, now: Instant) -> usize {
        self.with(|inner| {
            if inner.slots.waiting() > 0 || inner.slots.live() + inner.slots.starting <= self.spec.limits.min_instances {
                return 0;
            }
            let old = |p: &&Arc<Pulse>| p.state() == State::Booting && now.saturating_duration_since(p.born) >= CALL_OFF_AGE;
            inner.pulses.iter().filter(old).map(|p| p.call_off()).count()
        })
    }

    /// Puts a container back after freezing; `Err` when a caller waits for it.
    pub(super) fn put_back(&self, idle: Idle<Box<Container>>) -> Result<(), Box<Container>> {
        let mut inner = self.inner.lock();
        inner.slots.freezing -= 1;
        if inner.closing {
            return Err(idle.item);
        }
        inner.slots.put_back(idle).map_err(|idle| idle.item)
    }
}

impl Inner {
    pub(super) fn view(&self, spec: &FnSpec, freeze_after: Option<Duration>, now: Instant) -> View {
        View {
            waiting: self.slots.waiting(),
            waiting_since: self.waiting_since,
            handed_over: self.handed_over,
            starting: self.reserved + self.slots.queued + self.slots.starting,
            busy: self.slots.busy,
            freezing: self.slots.freezing,
            idle: self.slots.idle().iter().map(|i| IdleView { since: i.since, frozen: i.frozen, dead: i.item.is_worn(&spec.limits, now) }).collect(),
            service: self.service,
            start_cost: self.start_cost,
            hold_off_until: self.hold_off_until(),
            freeze_after,
            idle_timeout: Duration::from_secs(u64::from(spec.idle_timeout_s)),
            closing: self.closing,
            retired: self.retired,
            min: spec.limits.min_instances,
            max: spec.limits.max_instances,
        }
    }

    /// Failed starts are not repeated at once: 0.1 s, doubled up to 2 s.
    fn hold_off_until(&self) -> Option<Instant> {
        let (at, _) = self.last_failure.as_ref()?;
        let delay = Duration::from_millis(50u64 << self.failures.min(5)).min(Duration::from_secs(2));
        (self.failures > 0).then(|| *at + delay)
    }

    /// Why a new caller need not wait: nothing runs, and the start has just failed.
    fn cached_failure(&self, now: Instant) -> Option<Arc<LaunchError>> {
        let hold = self.hold_off_until()?;
        let (_, failure) = self.last_failure.as_ref()?;
        let coming = self.slots.live() + self.slots.queued + self.slots.starting + self.reserved;
        (hold > now && coming == 0).then(|| failure.clone())
    }

    pub(super) fn retry_after_s(&self) -> u32 {
        let live = self.slots.live().max(1) as f64;
        let service = self.service.unwrap_or(self.start_cost).as_secs_f64();
        let estimate = self.slots.waiting() as f64 * service / live;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 1..=60")]
        {
            estimate.ceil().clamp(1.0, 60.0) as u32
        }
    }

    pub(super) fn served(&mut self, took: Duration) {
        self.calls += 1;
        self.service = Some(match self.service {
            None => took,
            // The plain mean of the first 64, then weighted: one stalled call
            // of a quick function must not look like a slow function.
            Some(mean) => {
                let weight = u32::try_from(self.calls.min(64)).unwrap_or(64);
                (mean * (weight - 1) + took) / weight
            }
        });
    }

    pub(super) fn contender(&self, held_mib: u64, unit_mib: u64) -> Contender {
        let retiring = self.retire as u64 * unit_mib + self.slots.stopping as u64 * unit_mib;
        Contender { held_mib: held_mib.saturating_sub(retiring), unit_mib, can_retire: self.slots.busy > self.retire, last_grant: self.last_grant }
    }
}
