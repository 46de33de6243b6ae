//! Slot queues: which container serves which call, when one is started,
//! frozen, parted with.
//!
//! Owns: one queue per exact function configuration with its launcher thread,
//! the start and stop lanes, every container from its reservation to its
//! removal. Called by: `agent`. Blocks on: a ticket's condvar (callers), bell
//! and time (launchers), driver verbs and sockets (lanes). Does not: know
//! Docker, routes or HTTP; hold a lock across any of those.

mod asleep;
mod container;
mod debug;
mod evictor;
mod launcher;
mod lease;
mod lifecycle;
mod logs;
mod plan;
mod queue;
#[cfg(test)]
mod schedules;
mod slots;
#[cfg(test)]
mod slots_tests;
mod state;
mod sync;
#[cfg(test)]
mod tests;
mod usage;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLock};

use crate::call::{CallError, Caller};
use crate::driver::Driver;
use crate::model::{FnSpec, Id, SlotKey};
use crate::pool::{Lane, Need, Session, SpawnError, Stop, Thread, Tokens, spawn};
use crate::uds::iofs::Iofs;
use crate::uds::listener::Watcher;

pub use asleep::{Sleeper, Turn};
pub use lease::Lease;
pub use logs::{Line, Log, LogOptions, LogSink, Logs, LogsError, Tail, Word};
pub use state::State;

use asleep::Dreamer;
use queue::{Entry, SlotQueue, WATCH_AFTER};
use slots::Waited;

/// The room's settings.
#[derive(Debug, Clone)]
pub struct HotConfig {
    pub freeze_idle: Option<Duration>,
    pub launcher_timeout: Option<Duration>,
    pub pull_timeout: Option<Duration>,
    pub start_timeout: Option<Duration>,
    pub max_queued: usize,
    pub max_queued_node: usize,
    pub non_blocking: bool,
    pub start_lanes: usize,
    pub stop_lanes: usize,
    pub logs: LogOptions,
}

/// All slot queues of this process.
#[derive(Debug)]
pub struct Hot {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    config: HotConfig,
    driver: Arc<dyn Driver>,
    tokens: Arc<Tokens>,
    iofs: Iofs,
    watcher: Watcher,
    queues: RwLock<HashMap<SlotKey, Arc<SlotQueue>>>,
    launchers: Mutex<Vec<Thread>>,
    ended: Mutex<()>,
    launcher_ended: Condvar,
    next_owner: AtomicU64,
    spent: usage::Totals,
    starts: Lane,
    stops: Lane,
    logs: Arc<Logs>,
    closing: AtomicBool,
    /// Callers waiting in all queues.
    waiting: AtomicUsize,
    /// Fired when starts under way must give up.
    boot_stop: Stop,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("driver", &self.driver).field("tokens", &self.tokens).finish_non_exhaustive()
    }
}

/// The room could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum HotError {
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    #[error("cannot watch socket folders: {0}")]
    Watch(#[from] crate::uds::listener::WatchError),
    #[error("no descriptor for the stop signal: {0}")]
    Stop(#[from] std::io::Error),
    #[error(transparent)]
    Logs(#[from] LogsError),
}

impl Hot {
    /// Starts the lanes and the socket watcher.
    ///
    /// # Errors
    /// When the system refuses a thread or a descriptor.
    pub fn open(config: HotConfig, driver: Arc<dyn Driver>, tokens: Arc<Tokens>, iofs: Iofs) -> Result<Hot, HotError> {
        let shared = Shared {
            starts: Lane::new("hot-start", config.start_lanes),
            stops: Lane::new("hot-stop", config.stop_lanes),
            watcher: Watcher::start()?,
            logs: Arc::new(Logs::start(config.logs)?),
            boot_stop: Stop::new()?,
            config,
            driver,
            tokens,
            iofs,
            queues: RwLock::default(),
            launchers: Mutex::default(),
            ended: Mutex::default(),
            launcher_ended: Condvar::new(),
            next_owner: AtomicU64::new(1),
            spent: usage::Totals::default(),
            closing: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
        };
        Ok(Hot { shared: Arc::new(shared) })
    }

    /// A container for one call of `spec`: an idle one at once, else the
    /// oldest place in the line, until `deadline`. `again`: a call that came then
    /// and has had its turn in vain, for its container was dead, has the place of
    /// its coming. So no more calls wait for their second turn, each in a thread,
    /// than containers have died.
    ///
    /// # Errors
    /// `TooBig`, `QueueFull`, `WaitTimeout`, `Launch`, `NoCapacity`,
    /// `ClientGone`, `Draining`.
    pub fn acquire(
        &self,
        spec: &Arc<FnSpec>,
        caller: &dyn Caller,
        now: Instant,
        again: Option<Instant>,
        deadline: Option<Instant>,
    ) -> Result<Lease, CallError> {
        loop {
            let queue = self.queue(spec, now)?;
            // With the node's line full only an idle container will do.
            let config = &self.shared.config;
            let full = self.shared.waiting.load(Ordering::Relaxed) >= config.max_queued_node;
            match queue.enter(now, again, if full { 0 } else { config.max_queued }) {
                Entry::Ended => continue,
                Entry::Refused(error) => return Err(error),
                Entry::Got { container, frozen } => return Ok(Lease::new(&self.shared, queue, container, frozen, false)),
                Entry::Wait(ticket) => {
                    self.shared.waiting.fetch_add(1, Ordering::Relaxed);
                    let result = self.wait(queue, &ticket, caller, again.unwrap_or(now), deadline);
                    self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
                    return result;
                }
            }
        }
    }

    /// Whether callers of `spec` stand in line.
    pub fn has_line(&self, spec: &FnSpec) -> bool {
        self.is_crowded() && self.shared.queues.read().get(&spec.key).is_some_and(|queue| queue.with(|inner| inner.slots.waiting() > 0))
    }

    /// A place in the line for a call without a thread, until `until`. On its
    /// turn it is woken by whoever has a container for it.
    ///
    /// # Errors
    /// Back again: no line stands, or it cannot be joined. [`Hot::acquire`] says why.
    pub fn line_up(&self, sleeper: Box<dyn Sleeper>, session: Session, until: Option<Instant>) -> Result<(), Box<dyn Sleeper>> {
        let config = &self.shared.config;
        let found = self.shared.queues.read().get(&sleeper.call().spec.key).cloned();
        let Some(queue) = found.filter(|_| self.shared.waiting.load(Ordering::Relaxed) < config.max_queued_node) else { return Err(sleeper) };
        let dreamer = Dreamer::new(&self.shared, sleeper, session);
        queue.line_up(dreamer, Instant::now(), until, config.max_queued).map_err(Dreamer::give_up)
    }

    fn wait(
        &self,
        queue: Arc<SlotQueue>,
        ticket: &Arc<queue::CallTicket>,
        caller: &dyn Caller,
        since: Instant,
        deadline: Option<Instant>,
    ) -> Result<Lease, CallError> {
        // Most waits are short: only a long one pays for watching the client.
        let first = since + WATCH_AFTER;
        let mut watched = None;
        let mut until = Some(deadline.map_or(first, |d| d.min(first)));
        let gone = Arc::new(AtomicBool::new(false));
        loop {
            match ticket.wait(until) {
                Waited::Served(container) => return Ok(Lease::new(&self.shared, queue, container, false, true)),
                Waited::Failed(error) => return Err(error),
                Waited::Deadline => {}
            }
            let left = gone.load(Ordering::SeqCst);
            let late = deadline.is_some_and(|d| Instant::now() >= d);
            if (left || late) && queue.abandon(ticket) {
                if left {
                    return Err(CallError::ClientGone);
                }
                let last_launch = queue.with(|inner| inner.last_failure.as_ref().filter(|(at, _)| *at >= since).map(|(_, e)| e.clone()));
                return Err(CallError::WaitTimeout { waited: since.elapsed(), last_launch });
            }
            if watched.is_none() && !left && !late {
                let (flag, waker, bell) = (gone.clone(), ticket.clone(), queue.clone());
                watched = Some(caller.watch(Arc::new(move || {
                    flag.store(true, Ordering::SeqCst);
                    if bell.abandon(&waker) {
                        waker.wake_abandoned();
                    }
                })));
            }
            if gone.load(Ordering::SeqCst) && ticket.is_abandoned() {
                return Err(CallError::ClientGone);
            }
            until = deadline;
        }
    }

    /// The queue of `spec`, made with its launcher if there is none.
    fn queue(&self, spec: &Arc<FnSpec>, now: Instant) -> Result<Arc<SlotQueue>, CallError> {
        if let Some(queue) = self.shared.queues.read().get(&spec.key) {
            return Ok(queue.clone());
        }
        let need = Need { mib: spec.memory_mib.saturating_add(spec.tmpfs_mib), mcpu: spec.cpu_milli };
        let total = self.shared.tokens.total();
        if !need.fits(total) {
            return Err(CallError::TooBig { need_mib: need.mib, need_mcpu: need.mcpu, total_mib: total.mib, total_mcpu: total.mcpu });
        }
        let mut queues = self.shared.queues.write();
        // INVARIANT: looked at under the registry's lock: `refuse` sees every
        // queue made before, and none is made after.
        if self.shared.closing.load(Ordering::SeqCst) {
            return Err(CallError::Draining);
        }
        if let Some(queue) = queues.get(&spec.key) {
            return Ok(queue.clone());
        }
        let owner = self.shared.next_owner.fetch_add(1, Ordering::Relaxed);
        let queue = Arc::new(SlotQueue::new(spec.clone(), owner, self.shared.spent.of(&spec.fn_id), now));
        let (shared, mine) = (self.shared.clone(), queue.clone());
        let thread = spawn(format!("hot-launch {}", spec.fn_name), move || {
            launcher::run(&shared, &mine);
            shared.launcher_ended.notify_all();
        })
        .map_err(|e| {
            log::error!("{e}");
            CallError::NoCapacity { retry_after_s: 1 }
        })?;
        queues.insert(spec.key, queue.clone());
        drop(queues);
        // Those that ended by themselves are joined here, on the rare path.
        let mut launchers = self.shared.launchers.lock();
        let ended: Vec<_> = launchers.extract_if(.., |t| t.is_finished()).collect();
        launchers.push(thread);
        drop(launchers);
        drop(ended);
        Ok(queue)
    }

    /// Whether some caller waits, in any queue.
    pub fn is_crowded(&self) -> bool {
        self.shared.waiting.load(Ordering::Relaxed) > 0
    }

    /// Keeps the function's minimum of containers up from now on.
    pub fn prewarm(&self, spec: &Arc<FnSpec>) {
        match self.queue(spec, Instant::now()) {
            Ok(queue) => queue.ring(),
            Err(error) => log::warn!("no containers ahead of calls for {} ({}): {error}", spec.fn_name, spec.fn_id),
        }
    }

    /// Lets go of the containers of every configuration that `current` no
    /// longer names: idle ones now, busy ones at their finish.
    pub fn retire_stale(&self, current: impl Fn(&Id) -> Option<SlotKey>) {
        for queue in self.shared.all() {
            let stale = current(&queue.spec.fn_id) != Some(queue.spec.key);
            let changed = queue.with(|inner| std::mem::replace(&mut inner.retired, stale) != stale);
            if changed {
                queue.ring();
            }
        }
    }

    /// Fails everybody who waits and refuses new callers; running calls go on.
    pub fn refuse(&self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        for queue in self.shared.all() {
            queue.with(|inner| inner.closing = true);
            queue.fail(usize::MAX, || CallError::Draining);
            queue.ring();
        }
    }

    /// Ends everything: starts under way give up, idle containers are
    /// removed, launchers and lanes joined. Call `refuse` first; busy
    /// containers are stopped as their leases end. Returns what did not end by
    /// `deadline`, in words.
    pub fn close(&self, deadline: Instant) -> Vec<String> {
        let mut left = Vec::new();
        self.refuse();
        self.shared.boot_stop.fire();
        self.shared.driver.call_off();
        // A start that waits for a slow engine gets a moment; otherwise it is left
        // to the next start's clean-up.
        let starts_end = deadline.min(Instant::now() + START_GRACE);
        if !self.shared.starts.join_by(starts_end) {
            left.push("a container start that waits for the engine".to_owned());
        }
        for queue in self.shared.all() {
            queue.ring();
        }
        for launcher in std::mem::take(&mut *self.shared.launchers.lock()) {
            let until = if left.is_empty() { deadline } else { deadline.min(Instant::now() + START_GRACE) };
            if self.shared.await_launcher(&launcher, until) {
                launcher.join();
            } else {
                left.push(format!("thread {}", launcher.name()));
                launcher.leave();
            }
        }
        if !self.shared.stops.join_by(deadline) {
            left.push("a container removal that waits for the engine".to_owned());
        }
        self.shared.watcher.stop();
        self.shared.logs.stop();
        left
    }

    /// What the functions printed.
    pub fn logs(&self) -> &Logs {
        &self.shared.logs
    }

    /// What is left after `close`, for the last words: tokens, folders.
    pub fn leftovers(&self) -> (Need, usize) {
        (self.shared.tokens.usage().used, self.shared.iofs.count())
    }
}

/// What a start under way gets to end by itself at shutdown.
const START_GRACE: Duration = Duration::from_secs(4);

impl Shared {
    /// Waits until the launcher is at its end. Each tells so on its way out.
    fn await_launcher(&self, launcher: &Thread, deadline: Instant) -> bool {
        let mut ended = self.ended.lock();
        while !launcher.is_finished() {
            // The notice comes a moment before the thread is gone: look again soon.
            let soon = deadline.min(Instant::now() + Duration::from_millis(2));
            self.launcher_ended.wait_until(&mut ended, soon);
            if Instant::now() >= deadline {
                return launcher.is_finished();
            }
        }
        true
    }

    fn all(&self) -> Vec<Arc<SlotQueue>> {
        self.queues.read().values().cloned().collect()
    }

    /// How long after becoming idle a container is due for something.
    fn quick_due(&self, spec: &FnSpec) -> Option<Duration> {
        let idle = Duration::from_secs(u64::from(spec.idle_timeout_s));
        Some(self.config.freeze_idle.map_or(idle, |f| f.min(idle)))
    }
}
