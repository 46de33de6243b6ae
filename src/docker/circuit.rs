//! Whether the engine answers at all. One that does not is found out by pings
//! and from then on asked nothing but whether it is back: starts fail at once,
//! requests under way are ended.
//!
//! ```text
//!          unreachable, or a ping failed             failing for PATIENCE
//!   Good ───────────────────────────────► Failing ─────────────────────► Away
//!    ▲                                        │ any answer                 │
//!    └────────────────────────────────────────┴────────────────────────────┘
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

use super::engine::{Ask, Engine, Fault, Op};
use crate::driver::Health;
use crate::pool::{SpawnError, Stop, Thread, spawn};

/// Failing for so long, it is away. A restart takes less.
const PATIENCE: Duration = Duration::from_secs(8);
/// A request that waits for so long makes us ask whether anybody is there.
const SLOW: Duration = Duration::from_secs(2);
/// An answer to a ping takes microseconds of the engine's time.
pub(super) const PING_WITHIN: Duration = Duration::from_secs(4);
/// Between two pings of an engine that fails.
const PING_EVERY: Duration = Duration::from_secs(1);

/// The decision: pure.
#[derive(Debug, Default)]
struct Judge {
    failing_since: Option<Instant>,
    away: bool,
    /// When each watched request began.
    waiting: BTreeMap<u64, Instant>,
    last_ping: Option<Instant>,
}

/// What the pulse does next.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    Ping,
    Wait(Option<Instant>),
}

impl Judge {
    /// True when it was away.
    fn answered(&mut self) -> bool {
        self.failing_since = None;
        std::mem::take(&mut self.away)
    }

    /// Nothing was heard from `since` to `now`. True when that makes it away.
    fn failed(&mut self, since: Instant, now: Instant) -> bool {
        let since = *self.failing_since.get_or_insert(since);
        let newly = !self.away && now.saturating_duration_since(since) >= PATIENCE;
        self.away |= newly;
        newly
    }

    fn health(&self) -> Health {
        match self.failing_since {
            _ if self.away => Health::Away,
            Some(_) => Health::Failing,
            None => Health::Good,
        }
    }

    fn look(&self, now: Instant) -> Look {
        let slow = self.waiting.values().min().map(|begun| *begun + SLOW);
        let (from, every) = match (self.failing_since, slow) {
            (Some(since), _) => (since, PING_EVERY),
            (None, Some(slow)) => (slow, SLOW),
            (None, None) => return Look::Wait(None),
        };
        let due = self.last_ping.map_or(from, |at| from.max(at + every));
        if due <= now { Look::Ping } else { Look::Wait(Some(due)) }
    }
}

#[derive(Debug, Default)]
struct Inner {
    judge: Judge,
    next: u64,
    /// Ends the requests under way. `None`: none since the last change.
    cut: Option<Arc<Stop>>,
}

/// Shared by everybody who asks the engine.
#[derive(Debug)]
pub(super) struct Circuit {
    inner: Mutex<Inner>,
    bell: Sender<()>,
    rung: Receiver<()>,
}

/// A request under way.
#[derive(Debug)]
pub(super) struct Waiting<'c> {
    circuit: &'c Circuit,
    id: u64,
    /// Fires when the engine turns out to be away.
    pub(super) cut: Option<Arc<Stop>>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.circuit.inner.lock().judge.waiting.remove(&self.id);
    }
}

impl Circuit {
    pub(super) fn new() -> Circuit {
        let (bell, rung) = bounded(1);
        Circuit { inner: Mutex::default(), bell, rung }
    }

    /// Before a request; the error says why it is not worth asking.
    pub(super) fn enter(&self, now: Instant) -> Result<Waiting<'_>, Fault> {
        let mut inner = self.inner.lock();
        if let (Health::Away, Some(since)) = (inner.judge.health(), inner.judge.failing_since) {
            let text = format!("it has not answered for {} s", now.saturating_duration_since(since).as_secs());
            return Err(Fault::Away { text });
        }
        if inner.cut.is_none() {
            // Without one the request ends by its own limit.
            inner.cut = Stop::new().ok().map(Arc::new);
        }
        let (id, cut) = (inner.next, inner.cut.clone());
        inner.next += 1;
        let first = inner.judge.waiting.is_empty();
        inner.judge.waiting.insert(id, now);
        drop(inner);
        if first {
            self.ring();
        }
        Ok(Waiting { circuit: self, id, cut })
    }

    /// It said something, whatever it was.
    pub(super) fn answered(&self) {
        if self.inner.lock().judge.answered() {
            log::info!("the engine answers again");
        }
    }

    /// Nobody was there, or a ping that began at `since` got no answer.
    pub(super) fn failed(&self, since: Instant, now: Instant) {
        let cut = {
            let mut inner = self.inner.lock();
            if !inner.judge.failed(since, now) {
                drop(inner);
                return self.ring();
            }
            inner.cut.take()
        };
        log::error!("the engine does not answer: containers are neither started nor removed until it does");
        if let Some(cut) = cut {
            cut.fire();
        }
    }

    pub(super) fn health(&self) -> Health {
        self.inner.lock().judge.health()
    }

    fn ring(&self) {
        // Full: it rings already.
        let _ = self.bell.try_send(());
    }
}

/// The thread that pings when there is reason to.
#[derive(Debug)]
pub(super) struct Pulse {
    thread: Thread,
}

impl Pulse {
    pub(super) fn start(engine: Arc<Engine>) -> Result<Pulse, SpawnError> {
        Ok(Pulse { thread: spawn("docker-pulse", move || run(&engine))? })
    }

    /// The engine's stop must have fired: then this ends the thread.
    pub(super) fn join(self, engine: &Engine) {
        engine.circuit.ring();
        self.thread.join();
    }
}

fn run(engine: &Engine) {
    let circuit = &engine.circuit;
    while !engine.stop.fired() {
        let now = Instant::now();
        let look = {
            let mut inner = circuit.inner.lock();
            let look = inner.judge.look(now);
            if look == Look::Ping {
                inner.judge.last_ping = Some(now);
            }
            look
        };
        match look {
            Look::Wait(None) => drop(circuit.rung.recv()),
            Look::Wait(Some(at)) => drop(circuit.rung.recv_deadline(at)),
            // An answer, and that nobody is there, is noted where it is met.
            Look::Ping => match engine.ask(&Ask::new(Op::Ping, engine.address(), "GET", "/_ping".to_owned())) {
                Err(e) if matches!(e.fault, Fault::Timeout { .. } | Fault::Broken { .. } | Fault::Malformed { .. }) => {
                    log::debug!("{e}");
                    circuit.failed(now, Instant::now());
                }
                Ok(_) | Err(_) => {}
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failing_for_long_is_away_and_any_answer_is_back() {
        let (mut judge, now) = (Judge::default(), Instant::now());
        assert_eq!(judge.health(), Health::Good);
        assert!(!judge.failed(now, now));
        assert_eq!(judge.health(), Health::Failing);
        assert!(!judge.answered());
        assert!(!judge.failed(now + PATIENCE, now + PATIENCE), "counted from the first failure since the last answer");
        assert!(judge.failed(now + PATIENCE, now + PATIENCE * 2));
        assert!(!judge.failed(now, now + PATIENCE * 3), "told once");
        assert_eq!(judge.health(), Health::Away);
        assert!(judge.answered());
        assert_eq!(judge.health(), Health::Good);
    }

    #[test]
    fn pings_only_with_a_reason() {
        let (mut judge, now) = (Judge::default(), Instant::now());
        assert_eq!(judge.look(now), Look::Wait(None));
        judge.waiting.insert(7, now);
        assert_eq!(judge.look(now), Look::Wait(Some(now + SLOW)));
        assert_eq!(judge.look(now + SLOW), Look::Ping);
        judge.last_ping = Some(now + SLOW);
        assert_eq!(judge.look(now + SLOW), Look::Wait(Some(now + SLOW * 2)));
        judge.failed(now + SLOW, now + SLOW + PING_WITHIN);
        assert_eq!(judge.look(now + SLOW), Look::Wait(Some(now + SLOW + PING_EVERY)));
        judge.waiting.clear();
        assert_eq!(judge.look(now + SLOW * 2), Look::Ping);
        judge.answered();
        assert_eq!(judge.look(now + SLOW * 2), Look::Wait(None));
    }

    #[test]
    fn who_waits_is_cut_and_who_comes_is_told() {
        let (circuit, now) = (Circuit::new(), Instant::now());
        let waiting = circuit.enter(now).expect("good");
        circuit.failed(now, now + PATIENCE);
        assert!(waiting.cut.as_ref().is_some_and(|cut| cut.fired()));
        assert!(matches!(circuit.enter(now + PATIENCE), Err(Fault::Away { .. })));
        circuit.answered();
        let next = circuit.enter(now).expect("good again");
        assert!(next.cut.as_ref().is_some_and(|cut| !cut.fired()));
    }
}
