//! The thread that hears the spawner: cells that are ready, cells that ended,
//! the end of the spawner itself; and fills the pool when it is due.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;

use super::cgroup::Slot;
use super::keeper::{Cell, Shared, State, last_word};
use super::process::start_spawner;
use super::wire::{self, Tell};
use crate::call::Exit;
use crate::driver::ExitSink;
use crate::pool::{Woke, wait_for};

/// A spawner that ends sooner than this is started again only after so long, then
/// after twice as long, and so on.
const SPAWNER_LIVES: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Told for a cell whose end was not told.
const KILLED: i32 = 137;

enum Heard {
    Word,
    Bell,
    Time,
    Stop,
}

impl Shared {
    /// The reaper thread: hears the spawner until the stop.
    pub(super) fn reap(&self, mut control: Arc<OwnedFd>) {
        self.fill();
        let mut pause = Duration::ZERO;
        loop {
            let due = self.state.lock().spare.due();
            match self.wait(&control, due) {
                Heard::Word => {}
                Heard::Bell => {
                    let mut counter = [0u8; 8];
                    let _ = rustix::io::read(&self.bell, &mut counter);
                    continue;
                }
                Heard::Time => {
                    self.fill();
                    continue;
                }
                Heard::Stop => return,
            }
            match wire::receive_packet::<Tell>(control.as_fd()) {
                Ok(Some((tell, fds))) => self.heard(tell, fds),
                Ok(None) | Err(_) => {
                    let lived = self.spawner_died();
                    pause = if lived > SPAWNER_LIVES { Duration::ZERO } else { longer(pause) };
                    match self.spawner_again(&mut pause) {
                        Some(new) => control = new,
                        None => return,
                    }
                }
            }
        }
    }

    fn wait(&self, control: &OwnedFd, until: Option<Instant>) -> Heard {
        use rustix::event::{PollFd, Timespec, poll};
        let mut fds = [PollFd::new(control, PollFlags::IN), PollFd::new(&self.bell, PollFlags::IN), PollFd::from_borrowed_fd(self.stop.as_fd(), PollFlags::IN)];
        let left = until.map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = left.map(|left| Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: i64::from(left.subsec_nanos()) });
        match poll(&mut fds, timeout.as_ref()) {
            Ok(0) => Heard::Time,
            Ok(_) if !fds[0].revents().is_empty() => Heard::Word,
            Ok(_) if !fds[2].revents().is_empty() => Heard::Stop,
            _ => Heard::Bell,
        }
    }

    fn heard(&self, tell: Tell, fds: Vec<OwnedFd>) {
        let mut state = self.state.lock();
        match tell {
            Tell::Parked { slot, pid } => {
                let Some(((slot, line), pidfd)) = state.coming.remove(&slot).zip(fds.into_iter().next()) else { return };
                state.parked.push(Cell { slot, line, pid, pidfd });
            }
            Tell::Failed { slot, text } => {
                if let Some((slot, _)) = state.coming.remove(&slot) {
                    self.groups.give(slot);
                }
                state.failure = Some(text);
            }
            Tell::Exited { slot, code } => {
                if let Some(told) = self.exited(&mut state, slot, code) {
                    drop(state);
                    told.0.exited(told.1);
                }
            }
            Tell::Ready { .. } | Tell::Unable { .. } => {}
        }
        self.changed.notify_all();
    }

    /// Who is to be told what, once the lock is free.
    fn exited(&self, state: &mut State, slot: u32, code: i32) -> Option<(Arc<dyn ExitSink>, Exit)> {
        if let Some((slot, _)) = state.coming.remove(&slot) {
            self.groups.give(slot);
            return None;
        }
        if let Some(at) = state.parked.iter().position(|c| c.slot.number == slot) {
            let cell = state.parked.swap_remove(at);
            let why = last_word(&cell.line).unwrap_or_else(|| format!("exit code {code}"));
            log::warn!("sandbox: a parked cell ended: {why}");
            state.failure = Some(why);
            self.groups.give(cell.slot);
            return None;
        }
        let id = state.ids.remove(&slot)?;
        let live = state.live.get_mut(&id)?;
        live.ended = true;
        let exit = Exit { code: i64::from(code), oom_killed: live.slot.oom_killed() && code == KILLED };
        let sink = live.sink.clone();
        if live.released {
            self.bury(state, &id);
        }
        Some((sink, exit))
    }

    /// An ended container that nobody will name again.
    pub(super) fn bury(&self, state: &mut State, id: &str) {
        if let Some(live) = state.live.remove(id) {
            self.groups.give(live.slot);
        }
    }

    /// Its cells died with it. How long it lived.
    fn spawner_died(&self) -> Duration {
        let (told, lived) = {
            let mut state = self.state.lock();
            let lived = match state.spawner.take() {
                Some(mut running) => {
                    let _ = running.child.kill();
                    let _ = running.child.wait();
                    running.since.elapsed()
                }
                None => Duration::ZERO,
            };
            let lost: Vec<Slot> =
                std::mem::take(&mut state.parked).into_iter().map(|c| c.slot).chain(std::mem::take(&mut state.coming).into_values().map(|(s, _)| s)).collect();
            lost.into_iter().for_each(|slot| self.groups.give(slot));
            let slots: Vec<u32> = state.ids.keys().copied().collect();
            let told: Vec<_> = slots.into_iter().filter_map(|slot| self.exited(&mut state, slot, KILLED)).collect();
            (told, lived)
        };
        told.into_iter().for_each(|(sink, exit)| sink.exited(exit));
        self.changed.notify_all();
        lived
    }

    /// Starts another spawner, after `pause`, until one is there. Starts of containers
    /// fail meanwhile. `None`: the stop.
    fn spawner_again(&self, pause: &mut Duration) -> Option<Arc<OwnedFd>> {
        loop {
            let closed = self.state.lock().closed;
            if !closed {
                let when = if pause.is_zero() { String::new() } else { format!(" in {pause:?}") };
                log::error!("sandbox: the spawner ended, and all containers with it; it is started again{when}");
            }
            let until = (!closed).then(|| Instant::now() + *pause);
            if !matches!(wait_for(self.stop.as_fd(), PollFlags::IN, None, None, until), Ok(Woke::Deadline)) {
                return None;
            }
            match start_spawner(&self.options) {
                Ok((running, _)) => {
                    let control = running.control.clone();
                    let mut state = self.state.lock();
                    if !state.closed {
                        state.spawner = Some(running);
                        drop(state);
                        self.fill();
                        return Some(control);
                    }
                    drop(state);
                    running.end();
                }
                Err(e) => log::error!("sandbox: {e}"),
            }
            *pause = longer(*pause);
        }
    }
}

fn longer(pause: Duration) -> Duration {
    (pause * 2).clamp(SPAWNER_LIVES, LONGEST_PAUSE)
}
