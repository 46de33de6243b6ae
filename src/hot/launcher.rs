//! The thread that decides for one queue. Level-triggered: on every wake it
//! recomputes everything from the queue's state; a lost or doubled ring is
//! harmless.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Shared;
use super::asleep::attend;
use super::container::Container;
use super::evictor::{self, Candidate};
use super::lifecycle;
use super::plan::plan;
use super::queue::SlotQueue;
use crate::call::{CallError, LaunchError};
use crate::driver::Health;
use crate::pool::{Need, Place, Token};

/// When there is no room for a function's minimum, it is tried again after this.
const PREWARM_RETRY: Duration = Duration::from_secs(5);

/// While the engine fails, what was put off is looked at again after this.
const HEALTH_RETRY: Duration = Duration::from_secs(1);

/// After a panic the launcher looks again after this.
const PANIC_RETRY: Duration = Duration::from_millis(100);

/// At most this many places in the token line for one queue: each is a
/// container to be.
const MAX_PLACES: usize = 64;

pub(super) fn run(shared: &Arc<Shared>, queue: &Arc<SlotQueue>) {
    let mut places: Vec<Place> = Vec::new();
    loop {
        // A bug must not leave this queue's callers without anybody who looks after
        // them: those who sleep have no clock of their own.
        let next = catch_unwind(AssertUnwindSafe(|| round(shared, queue, &mut places))).unwrap_or_else(|_| after_panic(queue));
        match next {
            Next::End => return,
            Next::Pause(at) => drop(crossbeam_channel::at(at).recv()),
            Next::Sleep(None) => drop(queue.rung.recv()),
            Next::Sleep(Some(at)) => {
                crossbeam_channel::select! {
                    recv(queue.rung) -> _ => {}
                    recv(crossbeam_channel::at(at)) -> _ => {}
                }
            }
        }
    }
}

enum Next {
    /// Until the bell rings, or this time.
    Sleep(Option<Instant>),
    /// Until this time, whoever rings.
    Pause(Instant),
    End,
}

/// A round has panicked: time limits are kept nevertheless, and the next round
/// comes soon.
fn after_panic(queue: &Arc<SlotQueue>) -> Next {
    log::error!("a bug in hob: looking after the callers of {} ({}) panicked; it goes on", queue.spec.fn_name, queue.spec.fn_id);
    let now = Instant::now();
    let attention = catch_unwind(AssertUnwindSafe(|| attend(queue, now))).unwrap_or_default();
    let again = now + PANIC_RETRY;
    let again = attention.map_or(again, |at| at.min(again));
    queue.with(|inner| inner.wakes = Some(again));
    Next::Pause(again)
}

fn round(shared: &Arc<Shared>, queue: &Arc<SlotQueue>, places: &mut Vec<Place>) -> Next {
    let now = Instant::now();
    // A panic; nothing else can come of it.
    let _ = crate::fault::at("launcher.round");
    let health = shared.driver.health();
    // Decide and take out, under the queue's lock.
    let (decided, expired, freezing) = queue.with(|inner| {
        inner.reserved = places.len();
        let view = inner.view(&queue.spec, shared.config.freeze_idle, now);
        let decided = plan(&view, now);
        let mut at = 0..;
        let expired = inner.slots.take_idle(|_| at.next().is_some_and(|i| decided.expire.contains(&i)));
        let freezing: Vec<_> = {
            // Indices of the plan were before the expired ones left.
            let kept: Vec<usize> = (0..view.idle.len()).filter(|i| !decided.expire.contains(i)).collect();
            let mut at = 0..;
            // What only the engine can freeze, it cannot thaw either while it fails.
            let can = |container: &Container| health == Health::Good || container.instance.freezer.is_some();
            inner.slots.take_idle(|idle| at.next().and_then(|i| kept.get(i)).is_some_and(|i| decided.freeze.contains(i)) && can(&idle.item))
        };
        inner.slots.stopping += expired.len();
        inner.slots.freezing += freezing.len();
        inner.wakes = decided.wake;
        inner.ring_above = decided.ring_above;
        (decided, expired, freezing)
    });
    for idle in expired {
        lifecycle::stop(shared, queue, idle.item, "idle");
    }
    for idle in freezing {
        if idle.item.instance.freezer.is_some() {
            lifecycle::freeze(shared, queue, idle);
        } else {
            let (job_shared, job_queue) = (shared.clone(), queue.clone());
            shared.stops.push(move || lifecycle::freeze(&job_shared, &job_queue, idle));
        }
    }
    for _ in 0..decided.surplus.min(places.len()) {
        places.pop();
    }
    let mut wake = decided.wake;
    if health == Health::Away {
        without_engine(queue, places, now);
    } else {
        reserve(shared, queue, places, decided.start, now);
        prewarm(shared, queue, decided.prewarm, now, &mut wake);
        dispatch(shared, queue, places);
        // A container that may not come is worth none that is there.
        if !places.is_empty() && health == Health::Good {
            make_room(shared, queue, places, now, &mut wake);
        }
    }
    if health != Health::Good && queue.with(|inner| !inner.slots.is_vacant()) {
        let again = now + HEALTH_RETRY;
        wake = Some(wake.map_or(again, |w| w.min(again)));
    }
    let attention = attend(queue, now);
    wake = match (wake, attention) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, other) => one.or(other),
    };
    queue.with(|inner| {
        inner.reserved = places.len();
        inner.wakes = wake;
    });
    sleep_or_end(shared, queue, places, wake, now)
}

/// Nothing can be started: nobody is evicted for a container that cannot come,
/// and callers who have none to wait for are told.
fn without_engine(queue: &Arc<SlotQueue>, places: &mut Vec<Place>, now: Instant) {
    places.clear();
    let error = Arc::new(LaunchError::EngineAway { step: "start", text: "for some time now".to_owned() });
    let hopeless = queue.with(|inner| {
        inner.reserved = 0;
        let hopeless = inner.slots.waiting() > 0 && inner.slots.live() + inner.slots.queued + inner.slots.starting == 0;
        if hopeless {
            inner.failures += 1;
            inner.last_failure = Some((now, error.clone()));
        }
        hopeless
    });
    if hopeless {
        queue.fail(usize::MAX, || CallError::Launch(error.clone()));
    }
}

/// Joins the token line for each container to be started.
fn reserve(shared: &Arc<Shared>, queue: &Arc<SlotQueue>, places: &mut Vec<Place>, start: usize, now: Instant) {
    let since = queue.with(|inner| inner.slots.oldest_wait()).unwrap_or(now);
    for _ in 0..start {
        if places.len() >= MAX_PLACES {
            return;
        }
        // Two strong references would keep the queue alive in its own place.
        let bell = Arc::downgrade(queue);
        let notify = Arc::new(move || {
            if let Some(queue) = bell.upgrade() {
                queue.ring();
            }
        });
        places.push(shared.tokens.line_up(queue.owner, queue.need, since, notify));
    }
}

/// Starts for the minimum take only what is free: nobody is evicted for them
/// and they stand in nobody's way.
fn prewarm(shared: &Arc<Shared>, queue: &Arc<SlotQueue>, count: usize, now: Instant, wake: &mut Option<Instant>) {
    for _ in 0..count {
        let Some(token) = shared.tokens.try_take(queue.owner, queue.need) else {
            let again = now + PREWARM_RETRY;
            *wake = Some(wake.map_or(again, |w| w.min(again)));
            return;
        };
        hand_to_lane(shared, queue, token);
    }
}

fn hand_to_lane(shared: &Arc<Shared>, queue: &Arc<SlotQueue>, token: Token) {
    queue.with(|inner| inner.slots.queued += 1);
    let (job_shared, job_queue) = (shared.clone(), queue.clone());
    shared.starts.push(move || lifecycle::start(&job_shared, &job_queue, token));
}

/// Hands every granted place to a start lane.
fn dispatch(shared: &Arc<Shared>, queue: &Arc<SlotQueue>, places: &mut Vec<Place>) {
    let mut still = Vec::with_capacity(places.len());
    for mut place in places.drain(..) {
        match place.take() {
            Some(token) => hand_to_lane(shared, queue, token),
            None => still.push(place),
        }
    }
    *places = still;
}

/// Nothing is free for this queue: evict idle ones of others, or ask a queue
/// above its share to retire one, or refuse.
fn make_room(shared: &Arc<Shared>, queue: &Arc<SlotQueue>, places: &mut Vec<Place>, now: Instant, wake: &mut Option<Instant>) {
    let missing = places.iter().find_map(Place::missing);
    if let Some(missing) = missing
        && !missing.is_zero()
        && !evict(shared, queue, missing, now)
    {
        if shared.config.non_blocking {
            return refuse(queue, places);
        }
        if call_off(shared, queue, now) == 0 {
            retire(shared, queue, now, wake);
        }
    } else if missing.is_none() && shared.config.non_blocking {
        refuse(queue, places);
    }
}

/// Evicts idle containers of other queues. False when that cannot be enough.
fn evict(shared: &Arc<Shared>, queue: &Arc<SlotQueue>, missing: Need, now: Instant) -> bool {
    let others: Vec<_> = shared.all().into_iter().filter(|q| q.owner != queue.owner).collect();
    let mut candidates = Vec::new();
    for (index, other) in others.iter().enumerate() {
        other.with(|inner| {
            let age = now.saturating_duration_since(inner.last_used).as_secs_f64();
            let rate = if age > 60.0 { 0.0 } else { 1.0 / age.max(0.05) };
            for idle in inner.slots.idle() {
                candidates.push(Candidate {
                    queue: index,
                    id: idle.item.id,
                    need: idle.item.token.need(),
                    idle_for: now.saturating_duration_since(idle.since),
                    start_cost: inner.start_cost,
                    rate,
                });
            }
        });
    }
    let chosen = evictor::choose(missing, candidates);
    let mut evicted = false;
    for victim in chosen {
        let other = &others[victim.queue];
        // Gone means a caller was quicker: the next round looks again.
        if let Some(container) = other.evict(victim.id) {
            lifecycle::stop(shared, other, container, "evicted");
            crate::metrics::EVICTIONS.add(1);
            evicted = true;
        }
    }
    evicted
}

/// Boots nobody waits for any more give way. Their tokens come back by themselves.
fn call_off(shared: &Arc<Shared>, queue: &Arc<SlotQueue>, now: Instant) -> usize {
    shared.all().iter().filter(|other| other.owner != queue.owner).map(|other| other.call_off_boots(now)).sum()
}

/// Fair shares: a queue that holds more than this one gives up a container at
/// its next finish.
fn retire(shared: &Arc<Shared>, queue: &Arc<SlotQueue>, now: Instant, wake: &mut Option<Instant>) {
    let held = shared.tokens.held_mib();
    let held_by = |owner: u64| held.get(&owner).copied().unwrap_or(0);
    let Some(oldest) = queue.with(|inner| inner.slots.oldest_wait()) else { return };
    let others: Vec<_> = shared.all().into_iter().filter(|q| q.owner != queue.owner).collect();
    let mut asked = false;
    let contenders: Vec<_> = others
        .iter()
        .map(|other| {
            other.with(|inner| {
                asked |= inner.retire > 0 || inner.slots.stopping > 0;
                inner.contender(held_by(other.owner), other.need.mib)
            })
        })
        .collect();
    let (me, start_cost) = queue.with(|inner| (inner.contender(held_by(queue.owner), queue.need.mib), inner.start_cost));
    let turn = (start_cost * 10).max(Duration::from_secs(1));
    let again = (oldest + turn).max(now + turn / 4);
    *wake = Some(wake.map_or(again, |w| w.min(again)));
    // One at a time: what was asked for comes first.
    if !asked && let Some(index) = evictor::retire_from(me, oldest, turn, &contenders, now) {
        others[index].with(|inner| inner.retire += 1);
    }
}

/// Non-blocking mode: those nobody is on the way to are told at once, newest first.
fn refuse(queue: &Arc<SlotQueue>, places: &mut Vec<Place>) {
    places.clear();
    let (count, retry_after_s) = queue.with(|inner| {
        inner.reserved = 0;
        let coming = inner.slots.queued + inner.slots.starting;
        (inner.slots.waiting().saturating_sub(coming), inner.retry_after_s())
    });
    queue.fail(count, || CallError::NoCapacity { retry_after_s });
}

/// A vacant queue ends when the server closes or its time is over.
fn sleep_or_end(shared: &Arc<Shared>, queue: &Arc<SlotQueue>, places: &[Place], wake: Option<Instant>, now: Instant) -> Next {
    if !places.is_empty() {
        return Next::Sleep(wake);
    }
    let idle_timeout = Duration::from_secs(u64::from(queue.spec.idle_timeout_s));
    let quiet = shared.config.launcher_timeout.map(|t| t.max(idle_timeout * 2));
    // A look without the registry's lock first: nearly always there is work.
    let vacant = queue.with(|inner| inner.slots.is_vacant());
    if !vacant {
        return Next::Sleep(wake);
    }
    // INVARIANT: a queue ends under the registry's lock and its own, so a
    // caller either finds it alive or finds it ended and looks again.
    let mut queues = shared.queues.write();
    let ended = queue.with(|inner| {
        let keeps_minimum = queue.spec.limits.min_instances > 0;
        let over = inner.closing || inner.retired || !keeps_minimum && quiet.is_some_and(|quiet| now.saturating_duration_since(inner.last_used) >= quiet);
        inner.ended = over && inner.slots.is_vacant();
        inner.ended
    });
    if ended {
        queues.remove(&queue.spec.key);
        return Next::End;
    }
    drop(queues);
    let end_due = queue.with(|inner| quiet.filter(|_| inner.slots.is_vacant()).map(|quiet| inner.last_used + quiet));
    Next::Sleep(match (wake, end_due) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    })
}
