//! One container. INVARIANT: it has exactly one owner at any time (a lane, the
//! queue's stack, a lease), moves as a `Box` and has no lock inside. What others
//! may look at (metrics, the caller that wants to know why it ended) is in its
//! `Pulse`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::{Condvar, Mutex};

use super::logs::{Logs, Voice};
use super::state::{STATES, State};
use super::usage::Spending;
use crate::call::{Ended, Exit, Startup};
use crate::driver::{ExitSink, Instance, Output};
use crate::model::{FnLimits, Id};
use crate::pool::Token;
use crate::uds::function::FunctionSocket;
use crate::uds::iofs::Folder;

/// A container that came up. Fields are dropped in this order when it is
/// gone: connection, folder, and last the reservation.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) id: Id,
    pub(super) instance: Instance,
    pub(super) socket: FunctionSocket,
    /// Held for its drop: removes the folder.
    pub(super) _folder: Folder,
    pub(super) pulse: Arc<Pulse>,
    pub(super) token: Token,
    pub(super) calls: u64,
    pub(super) startup: Startup,
}

/// What ends the wait for a container's socket.
#[derive(Debug, Clone, Copy)]
pub(super) enum Boot {
    Exit(Exit),
    /// Nobody waits for it any more, and somebody else needs the room.
    CalledOff,
}

/// The part of a container that outlives its owners' hands: state for eyes,
/// exit for whoever asks.
pub(super) struct Pulse {
    pub(super) id: Id,
    pub(super) born: Instant,
    state: AtomicU8,
    exit: Mutex<Option<Exit>>,
    ended: Condvar,
    /// Wakes the start job while it waits for the socket.
    boot: Sender<Boot>,
    /// Rings the queue's launcher.
    ring: Box<dyn Fn() + Send + Sync>,
    /// Its output, and who reads it.
    pub(super) voice: Arc<Voice>,
    /// CPU and memory, for whoever asks.
    pub(super) spending: Spending,
    logs: Arc<Logs>,
}

impl std::fmt::Debug for Pulse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pulse").field("id", &self.id).field("state", &self.state()).field("exit", &self.exit()).finish_non_exhaustive()
    }
}

impl Container {
    /// It must not serve another call: its process has ended, or its function's
    /// limits on calls and age say so.
    pub(super) fn is_worn(&self, limits: &FnLimits, now: Instant) -> bool {
        let called_out = limits.max_calls > 0 && self.calls >= limits.max_calls;
        let old = limits.max_age.is_some_and(|age| now.saturating_duration_since(self.pulse.born) >= age);
        called_out || old || self.pulse.exit().is_some()
    }
}

impl Pulse {
    pub(super) fn new(
        id: Id,
        now: Instant,
        voice: Voice,
        spending: Spending,
        logs: &Arc<Logs>,
        ring: Box<dyn Fn() + Send + Sync>,
    ) -> (Arc<Pulse>, Receiver<Boot>) {
        let (boot, boot_exit) = bounded(1);
        let (voice, logs) = (Arc::new(voice), logs.clone());
        let state = AtomicU8::new(State::Reserved as u8);
        let pulse = Pulse { id, born: now, state, exit: Mutex::new(None), ended: Condvar::new(), boot, ring, voice, spending, logs };
        (Arc::new(pulse), boot_exit)
    }

    pub(super) fn state(&self) -> State {
        STATES[usize::from(self.state.load(Ordering::Relaxed)) % STATES.len()]
    }

    /// Records a move. An illegal one is loud, but takes nobody down.
    pub(super) fn become_(&self, next: State) {
        let before = self.state();
        debug_assert!(before.can_become(next), "container {}: {} → {}", self.id, before.name(), next.name());
        if !before.can_become(next) {
            log::error!("container {}: illegal move {} → {}", self.id, before.name(), next.name());
        }
        self.state.store(next as u8, Ordering::Relaxed);
    }

    /// Ends its boot, if it is still booting when the word arrives.
    pub(super) fn call_off(&self) {
        let _ = self.boot.try_send(Boot::CalledOff);
    }

    /// Something went wrong: said in the log, with the last lines it printed.
    pub(super) fn trouble(&self, what: String) {
        self.logs.trouble(&self.voice, what);
    }

    pub(super) fn exit(&self) -> Option<Exit> {
        *self.exit.lock()
    }

    /// The exit, waiting for the engine's word at most until `deadline`.
    pub(super) fn wait_exit(&self, within: Duration) -> Option<Ended> {
        let deadline = Instant::now() + within;
        let mut exit = self.exit.lock();
        while exit.is_none() {
            if self.ended.wait_until(&mut exit, deadline).timed_out() {
                break;
            }
        }
        exit.map(|exit| self.ended_with(exit))
    }

    pub(super) fn ended_with(&self, exit: Exit) -> Ended {
        Ended { exit, memory_mib: self.voice.memory_mib }
    }
}

impl ExitSink for Pulse {
    fn exited(&self, exit: Exit) {
        // Looked at first: whoever waits for the exit lets go of it at once.
        let unasked = !matches!(self.state(), State::Stopping | State::Gone);
        self.exit.lock().get_or_insert(exit);
        self.ended.notify_all();
        // Full means the start job was told already.
        let _ = self.boot.try_send(Boot::Exit(exit));
        (self.ring)();
        if unasked {
            self.trouble(self.ended_with(exit).to_string());
        }
    }

    fn wants_output(&self) -> bool {
        self.logs.wanted() || self.voice.syslog().is_some()
    }

    fn output(&self, output: Output) {
        self.logs.read(&self.voice, output);
    }
}
