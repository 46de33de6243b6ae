//! Removal in our own care: what a failed start left, what could not be
//! removed at once, and, looked for now and then, what nobody knows of. One
//! thread, which tries again until it is gone.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};

use super::containers::{Listed, passing};
use super::engine::{Engine, EngineError};
use super::exits::Exits;
use crate::driver::{Freezer, Health};
use crate::pool::{SpawnError, Thread, spawn};

/// Leftovers are looked for this often.
const SWEEP_EVERY: Duration = Duration::from_secs(120);
/// A container of this process that nobody knows of is left alone so long,
/// seconds: it may be on its way from or to its owner.
const YOUNG_S: i64 = 120;
/// Containers waiting for it at the same time; what does not fit is left to
/// the next sweep.
const ROOM: usize = 1024;
/// Tries grow apart up to this.
const MAX_DELAY: Duration = Duration::from_secs(30);
/// After so many tries it is left to the next sweep.
const MAX_TRIES: u32 = 20;
/// A container whose creation was never answered may appear later: looked for
/// this many times before it is believed not to be.
const LOOKS: u32 = 5;
/// One removal.
const WITHIN: Duration = Duration::from_secs(60);
/// At close: one more try for each, all together within this.
const LAST: Duration = Duration::from_secs(10);

/// What an engine was making for a server that was killed appears after the
/// next one has looked: it looks again this long after its first look.
const AFTER_A_KILL: [Duration; 4] = [Duration::from_secs(1), Duration::from_secs(3), Duration::from_secs(8), Duration::from_secs(30)];

/// A container to be removed.
#[derive(Debug)]
pub(super) struct Discard {
    /// Its name or the engine's id.
    pub(super) container: String,
    /// Whether it is known to exist.
    pub(super) exists: bool,
}

#[derive(Debug)]
struct Waiting {
    what: Discard,
    tries: u32,
    due: Instant,
}

#[derive(Debug)]
enum Job {
    Remove(Discard),
    /// More often in the next half minute.
    LookAgain,
}

/// The handle; the sender above the thread, so that dropping it in order ends
/// the thread before it is joined.
#[derive(Debug)]
pub(super) struct Discarder {
    sender: Sender<Job>,
    thread: Thread,
}

impl Discarder {
    pub(super) fn start(leftovers: Leftovers) -> Result<Discarder, SpawnError> {
        let (sender, receiver) = bounded(ROOM);
        let thread = spawn("docker-discard", move || run(&leftovers, &receiver))?;
        Ok(Discarder { sender, thread })
    }

    /// Takes a container over. Returns at once.
    pub(super) fn take(&self, what: Discard) {
        match self.sender.try_send(Job::Remove(what)) {
            Ok(()) | Err(TrySendError::Full(Job::LookAgain) | TrySendError::Disconnected(Job::LookAgain)) => {}
            Err(TrySendError::Full(Job::Remove(what)) | TrySendError::Disconnected(Job::Remove(what))) => {
                log::error!("container {} is left behind: too many removals wait; the next look for leftovers removes it", what.container);
            }
        }
    }

    /// After the removal of what a killed server left.
    pub(super) fn look_again(&self) {
        // Full of removals at the start of a server: not with what it has made.
        let _ = self.sender.try_send(Job::LookAgain);
    }

    /// Lets it finish (bounded) and joins it.
    pub(super) fn join(self) {
        drop(self.sender);
        self.thread.join();
    }
}

/// Finds and removes containers of this store that have no owner.
#[derive(Debug)]
pub(super) struct Leftovers {
    pub(super) engine: Arc<Engine>,
    /// Who is in here has one.
    pub(super) exits: Arc<Exits>,
    pub(super) store: String,
    pub(super) instance: String,
}

impl Leftovers {
    /// Containers of other processes, which have ended: only one serves a store.
    pub(super) fn of_others(&self) -> Result<Vec<Listed>, EngineError> {
        let mut all = self.engine.list_store(&self.store)?;
        all.retain(|c| c.instance() != Some(&self.instance));
        Ok(all)
    }

    /// The same, and our own that got lost; `now` in seconds since 1970.
    fn lost(&self, now: i64) -> Result<Vec<Listed>, EngineError> {
        let mut all = self.engine.list_store(&self.store)?;
        all.retain(|c| c.instance() != Some(&self.instance) || (!self.exits.contains(&c.id) && c.created < now - YOUNG_S));
        Ok(all)
    }

    /// A container of an earlier run, perhaps frozen by its cgroup, of which
    /// the engine knows nothing and which its kill would wait for in vain.
    pub(super) fn remove(&self, container: &Listed) -> Result<(), EngineError> {
        match self.engine.inspect(&container.id) {
            Ok(state) => {
                if let Some(Ok(freezer)) = state.pid().map(|pid| Freezer::find(pid, &container.id)) {
                    let _ = freezer.thaw();
                }
            }
            Err(e) if e.is_gone() => return Ok(()),
            Err(e) if passing(&e) => return Err(e),
            // Odd words about its state do not keep it.
            Err(e) => log::warn!("{e}"),
        }
        self.engine.remove(&container.id, WITHIN)
    }

    /// One look at everything; how many went.
    pub(super) fn sweep(&self, now: i64) -> Result<usize, EngineError> {
        let mut gone = 0;
        for container in self.lost(now)? {
            log::warn!("container {} has no owner and is removed", container.id);
            self.remove(&container)?;
            gone += 1;
        }
        Ok(gone)
    }
}

fn seconds_now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX))
}

fn run(leftovers: &Leftovers, receiver: &Receiver<Job>) {
    let engine = &*leftovers.engine;
    let mut waiting: Vec<Waiting> = Vec::new();
    let mut sweep_at = Instant::now() + SWEEP_EVERY;
    let mut looks: VecDeque<Instant> = VecDeque::new();
    loop {
        if Instant::now() >= sweep_at {
            sweep_at = looks.pop_front().unwrap_or_else(|| Instant::now() + SWEEP_EVERY);
            if engine.circuit.health() == Health::Good
                && let Err(e) = leftovers.sweep(seconds_now())
            {
                log::warn!("looking for containers without an owner: {e}");
            }
        }
        let due = waiting.iter().map(|w| w.due).min();
        match receiver.recv_deadline(due.map_or(sweep_at, |due| due.min(sweep_at))) {
            Ok(Job::LookAgain) => {
                looks = AFTER_A_KILL.iter().map(|after| Instant::now() + *after).collect();
                sweep_at = looks.pop_front().unwrap_or(sweep_at);
            }
            Ok(Job::Remove(what)) => waiting.push(Waiting { what, tries: 0, due: Instant::now() }),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return last(engine, waiting),
        }
        let now = Instant::now();
        waiting = waiting.into_iter().filter_map(|w| if w.due <= now { attempt(engine, w) } else { Some(w) }).collect();
    }
}

/// One try; what is to be tried again comes back.
fn attempt(engine: &Engine, mut waiting: Waiting) -> Option<Waiting> {
    waiting.tries += 1;
    let name = &waiting.what.container;
    match engine.remove_known(name, WITHIN) {
        Ok(true) => return None,
        Ok(false) if waiting.what.exists || waiting.tries >= LOOKS => return None,
        Ok(false) => {}
        Err(e) if waiting.tries >= MAX_TRIES => {
            log::error!("container {name} is left behind: {e}; the next look for leftovers removes it");
            return None;
        }
        Err(e) => log::warn!("container {name} could not be removed yet: {e}"),
    }
    waiting.due = Instant::now() + Duration::from_secs(1 << waiting.tries.min(5)).min(MAX_DELAY);
    Some(waiting)
}

fn last(engine: &Engine, waiting: Vec<Waiting>) {
    let until = Instant::now() + LAST;
    for w in waiting {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            log::error!("container {} is left behind; the next start removes it", w.what.container);
        } else if let Err(e) = engine.remove_known(&w.what.container, left) {
            log::error!("container {} is left behind: {e}; the next start removes it", w.what.container);
        }
    }
}
