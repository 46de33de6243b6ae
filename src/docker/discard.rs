//! Removal in our own care: what a failed start left, and what could not be
//! removed at once. One thread, which tries again until it is gone.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};

use super::engine::Engine;
use crate::pool::{SpawnError, Thread, spawn};

/// Containers waiting for it at the same time; what does not fit is left to
/// the next start's `reclaim`.
const ROOM: usize = 1024;
/// Tries grow apart up to this.
const MAX_DELAY: Duration = Duration::from_secs(30);
/// After so many tries it is left to the next start's `reclaim`.
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
    /// In the next half minute: containers of our store and not of our instance.
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
    pub(super) fn start(engine: Arc<Engine>, store: String, instance: String) -> Result<Discarder, SpawnError> {
        let (sender, receiver) = bounded(ROOM);
        let thread = spawn("docker-discard", move || run(&engine, &receiver, &store, &instance))?;
        Ok(Discarder { sender, thread })
    }

    /// Takes a container over. Returns at once.
    pub(super) fn take(&self, what: Discard) {
        match self.sender.try_send(Job::Remove(what)) {
            Ok(()) | Err(TrySendError::Full(Job::LookAgain) | TrySendError::Disconnected(Job::LookAgain)) => {}
            Err(TrySendError::Full(Job::Remove(what)) | TrySendError::Disconnected(Job::Remove(what))) => {
                log::error!("container {} is left behind: too many removals wait; the next start removes it", what.container);
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

fn run(engine: &Engine, receiver: &Receiver<Job>, store: &str, instance: &str) {
    let mut waiting: Vec<Waiting> = Vec::new();
    let mut looks: VecDeque<Instant> = VecDeque::new();
    loop {
        let due = waiting.iter().map(|w| w.due).chain(looks.front().copied()).min();
        let next = match due {
            None => receiver.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(at) => receiver.recv_deadline(at),
        };
        match next {
            Ok(Job::LookAgain) => looks = AFTER_A_KILL.iter().map(|after| Instant::now() + *after).collect(),
            Ok(Job::Remove(what)) => waiting.push(Waiting { what, tries: 0, due: Instant::now() }),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return last(engine, waiting),
        }
        let now = Instant::now();
        if looks.pop_front_if(|at| *at <= now).is_some() {
            waiting.extend(strangers(engine, store, instance).into_iter().map(|what| Waiting { what, tries: 0, due: now }));
        }
        waiting = waiting.into_iter().filter_map(|w| if w.due <= now { attempt(engine, w) } else { Some(w) }).collect();
    }
}

/// Containers of our store that no living server has: two never share a store.
fn strangers(engine: &Engine, store: &str, instance: &str) -> Vec<Discard> {
    match engine.list_store(store) {
        Ok(all) => {
            let left = all.into_iter().filter(|c| c.instance() != Some(instance));
            left.map(|c| Discard { container: c.id, exists: true }).inspect(|d| log::info!("container {} of a killed server is removed", d.container)).collect()
        }
        Err(error) => {
            log::debug!("cannot look for what a killed server left: {error}");
            Vec::new()
        }
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
            log::error!("container {name} is left behind: {e}; the next start removes it");
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
