//! The server's side of the spawner: the cells that wait, the cells that run,
//! and the one thread that hears of their ends.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::event::PollFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Signal, pidfd_send_signal};

use super::cgroup::{Cgroups, Limits, Slot};
use super::images::Rootfs;
use super::mounts;
use super::process::{Running, SpawnerError, start_spawner};
use super::spare::Spare;
use super::wire::{self, Ask, Tell, Tmp};
use crate::call::Exit;
use crate::driver::{ExitSink, Freezer};
use crate::pool::{Stop, Thread, spawn, wait_for};

/// A killed cell is gone within this, or something is very wrong.
const GONE_WITHIN: Duration = Duration::from_secs(10);
/// A spawner that ends sooner than this is not started again.
const SPAWNER_LIVES: Duration = Duration::from_secs(1);
/// Told for a cell whose end was not told.
const KILLED: i32 = 137;

/// What the keeper is made with.
#[derive(Debug, Clone)]
pub(super) struct Options {
    /// The program that becomes the spawner.
    pub(super) program: PathBuf,
    pub(super) base: u32,
    /// Each cell has a network of its own (with nothing in it).
    pub(super) own_net: bool,
    /// Cells that wait, ready, at least.
    pub(super) parked: usize,
    /// What the first functions will probably be like.
    pub(super) guess: Guess,
}

/// What the next function will probably need: what the last one did. Cells are
/// parked with it, and changed when it turns out otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Guess {
    pub(super) limits: Limits,
    pub(super) tmp: Tmp,
}

/// A cell that waits for its order.
#[derive(Debug)]
pub(super) struct Cell {
    pub(super) slot: Slot,
    /// The server's end of its line.
    pub(super) line: OwnedFd,
    pub(super) pid: u32,
    pub(super) freezer: Option<Freezer>,
    pidfd: OwnedFd,
}

struct Live {
    slot: Slot,
    pidfd: OwnedFd,
    sink: Arc<dyn ExitSink>,
    ended: bool,
    /// Nobody will ask for it again.
    released: bool,
    _root: Rootfs,
}

struct State {
    spawner: Option<Running>,
    /// The last one used lies on top.
    parked: Vec<Cell>,
    /// Asked for by somebody who is about to send the order.
    asking: usize,
    coming: HashMap<u32, (Slot, OwnedFd)>,
    /// Socket folders nobody uses yet.
    folders: Vec<OwnedFd>,
    /// By container id.
    live: HashMap<String, Live>,
    ids: HashMap<u32, String>,
    waiting: usize,
    spare: Spare,
    guess: Guess,
    failure: Option<String>,
    closed: bool,
}

/// See the module.
pub(super) struct Keeper {
    shared: Arc<Shared>,
    users: OwnedFd,
    reaper: Mutex<Option<Thread>>,
}

struct Shared {
    options: Options,
    groups: Cgroups,
    state: Mutex<State>,
    changed: Condvar,
    /// Ends the reaper.
    stop: Stop,
    /// Rung when the pool may be due to be filled.
    bell: OwnedFd,
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.shared.state.lock();
        write!(f, "Keeper(parked {}, live {})", state.parked.len(), state.live.len())
    }
}

impl Keeper {
    /// Starts the spawner and the reaper; parks the first cells.
    ///
    /// # Errors
    /// When this host does not allow it; the text says what.
    pub(super) fn open(options: Options, groups: Cgroups) -> Result<Keeper, SpawnerError> {
        let (running, users) = start_spawner(&options)?;
        let control = running.control.clone();
        let talk = |source: io::Error| SpawnerError::Talk { source };
        let bell = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK).map_err(|e| talk(e.into()))?;
        let stop = Stop::new().map_err(talk)?;
        let state = State {
            spawner: Some(running),
            parked: Vec::new(),
            asking: 0,
            coming: HashMap::new(),
            folders: Vec::new(),
            live: HashMap::new(),
            ids: HashMap::new(),
            waiting: 0,
            spare: Spare::new(options.parked),
            guess: options.guess,
            failure: None,
            closed: false,
        };
        let shared = Arc::new(Shared { options, groups, state: Mutex::new(state), changed: Condvar::new(), stop, bell });
        let reaper = spawn("sandbox-reaper", {
            let shared = shared.clone();
            move || shared.reap(control)
        })?;
        Ok(Keeper { shared, users, reaper: Mutex::new(Some(reaper)) })
    }

    /// The user namespace whose mapping all cells have, for mounts that show
    /// files as theirs.
    pub(super) fn users(&self) -> BorrowedFd<'_> {
        self.users.as_fd()
    }

    pub(super) fn groups(&self) -> &Cgroups {
        &self.shared.groups
    }

    /// A parked cell, or a new one; waits until the deadline. `started` must be
    /// called once the start is over.
    ///
    /// # Errors
    /// In words: why there is none.
    pub(super) fn take(&self, guess: Guess, until: Instant) -> Result<Cell, String> {
        let shared = &*self.shared;
        let mut state = shared.state.lock();
        state.guess = guess;
        state.spare.note_start(Instant::now());
        loop {
            if state.closed {
                return Err("the server is shutting down".to_owned());
            }
            if let Some(cell) = state.parked.pop() {
                return Ok(cell);
            }
            if let Some(text) = state.failure.take() {
                return Err(text);
            }
            if state.coming.len() + state.asking <= state.waiting {
                state.asking += 1;
                drop(state);
                let asked = shared.park(guess);
                state = shared.state.lock();
                asked?;
                continue;
            }
            state.waiting += 1;
            let late = shared.changed.wait_until(&mut state, until).timed_out();
            state.waiting -= 1;
            if late {
                return Err("no cell came up in time".to_owned());
            }
        }
    }

    /// A start is over, well or not: the pool may be filled up.
    pub(super) fn started(&self) {
        self.shared.state.lock().spare.note_end(Instant::now());
        self.shared.ring();
    }

    /// An empty socket folder.
    ///
    /// # Errors
    /// When the kernel refuses the file system.
    pub(super) fn folder(&self) -> io::Result<OwnedFd> {
        let ready = self.shared.state.lock().folders.pop();
        ready.map_or_else(|| mounts::socket_folder().map_err(Into::into), Ok)
    }

    /// The cell is a container's from now on: its end is told to `sink`.
    /// Returns its line.
    pub(super) fn adopt(&self, id: &str, cell: Cell, root: Rootfs, sink: Arc<dyn ExitSink>) -> OwnedFd {
        let mut state = self.shared.state.lock();
        state.ids.insert(cell.slot.number, id.to_owned());
        let live = Live { slot: cell.slot, pidfd: cell.pidfd, sink, ended: false, released: false, _root: root };
        state.live.insert(id.to_owned(), live);
        cell.line
    }

    /// Kills a cell that was never adopted.
    pub(super) fn discard(&self, cell: Cell) {
        let _ = pidfd_send_signal(&cell.pidfd, Signal::KILL);
        // Its end finds it here.
        let mut state = self.shared.state.lock();
        state.coming.insert(cell.slot.number, (cell.slot, cell.line));
    }

    /// Kills all of a container and waits until it is gone.
    ///
    /// # Errors
    /// When it is still there after the limit.
    pub(super) fn remove(&self, id: &str) -> Result<(), String> {
        let mut state = self.shared.state.lock();
        let Some(live) = state.live.get_mut(id) else { return Ok(()) };
        live.released = true;
        if !live.ended {
            let _ = pidfd_send_signal(&live.pidfd, Signal::KILL);
            if let Some(freezer) = &live.slot.files.freezer {
                // What is frozen does not die before it is thawed.
                let _ = rustix::io::write(freezer, b"THAWED");
            }
        }
        let until = Instant::now() + GONE_WITHIN;
        loop {
            match state.live.get(id) {
                None => return Ok(()),
                Some(live) if live.ended => {
                    self.shared.bury(&mut state, id);
                    return Ok(());
                }
                Some(_) => {}
            }
            if self.shared.changed.wait_until(&mut state, until).timed_out() {
                return Err(format!("its processes are still there after {GONE_WITHIN:?}"));
            }
        }
    }

    /// Ends the spawner and with it every cell, then the reaper; removes the
    /// groups.
    pub(super) fn close(&self) {
        let running = {
            let mut state = self.shared.state.lock();
            if state.closed {
                return;
            }
            state.closed = true;
            state.parked.clear();
            state.folders.clear();
            state.spawner.take()
        };
        self.shared.changed.notify_all();
        if let Some(mut running) = running {
            // It sees the end of its socket, kills the cells, waits for them.
            let _ = rustix::net::shutdown(&*running.control, rustix::net::Shutdown::Both);
            let _ = running.child.wait();
        }
        self.shared.stop.fire();
        let reaper = self.reaper.lock().take();
        if let Some(reaper) = reaper {
            reaper.join();
        }
        let mut state = self.shared.state.lock();
        state.coming.clear();
        state.live.clear();
        drop(state);
        self.shared.groups.close();
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn ring(&self) {
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }

    /// Asks for one more cell, which `asking` counts.
    fn park(&self, guess: Guess) -> Result<(), String> {
        let asked = self.ask(guess);
        let mut state = self.state.lock();
        state.asking -= 1;
        if let Err((slot, _)) = &asked {
            // Not coming, unless its word was quicker than this.
            if let Some((slot, _)) = slot.and_then(|number| state.coming.remove(&number)) {
                self.groups.give(slot);
            }
        }
        drop(state);
        asked.map_err(|(_, text)| text)
    }

    fn ask(&self, guess: Guess) -> Result<(), (Option<u32>, String)> {
        let none = |text: String| (None, text);
        let mut slot = self.groups.take().map_err(|e| none(e.to_string()))?;
        if let Err(e) = slot.set(guess.limits) {
            self.groups.give(slot);
            return Err(none(e.to_string()));
        }
        let (number, files) = (slot.number, slot.files.clone());
        let pair = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
        let (control, theirs) = {
            let mut state = self.state.lock();
            let control = state.spawner.as_ref().filter(|_| !state.closed).map(|running| running.control.clone());
            match (control, pair) {
                (Some(control), Ok((ours, theirs))) => {
                    state.coming.insert(number, (slot, ours));
                    (control, theirs)
                }
                (control, pair) => {
                    self.groups.give(slot);
                    return Err(none(
                        pair.err().filter(|_| control.is_some()).map_or_else(|| "the spawner is not running".to_owned(), |e| format!("socket: {e}")),
                    ));
                }
            }
        };
        let ask = Ask::Park { slot: number, own_net: self.options.own_net, freezer: files.freezer.is_some(), tmp: guess.tmp };
        let mut fds = vec![theirs.as_fd()];
        fds.extend(files.freezer.iter().chain(&files.procs).map(AsFd::as_fd));
        wire::send_packet(control.as_fd(), &ask, &fds).map_err(|e| (Some(number), format!("spawner: {e}")))
    }

    /// Makes what is missing of the pool, and lets go what is too much.
    fn fill(&self) {
        loop {
            let mut state = self.state.lock();
            let target = state.spare.target(Instant::now());
            if state.closed || state.folders.len() >= target {
                break;
            }
            drop(state);
            match mounts::socket_folder() {
                Ok(folder) => self.state.lock().folders.push(folder),
                Err(e) => {
                    log::warn!("sandbox: cannot make a socket folder: {e}");
                    break;
                }
            }
        }
        loop {
            let mut state = self.state.lock();
            let target = state.spare.target(Instant::now());
            let there = state.parked.len() + state.coming.len() + state.asking;
            state.folders.truncate(target);
            if state.closed || there >= target + state.waiting {
                let surplus = state.parked.len().min(there.saturating_sub(target + state.waiting));
                let surplus: Vec<Cell> = state.parked.drain(..surplus).collect();
                // Each ends when its line does; its slot comes back then.
                state.coming.extend(surplus.into_iter().map(|cell| (cell.slot.number, (cell.slot, cell.pidfd))));
                state.spare.note_full();
                return;
            }
            state.asking += 1;
            let guess = state.guess;
            drop(state);
            if let Err(text) = self.park(guess) {
                log::warn!("sandbox: cannot park a cell: {text}");
                self.state.lock().spare.note_full();
                return;
            }
        }
    }

    /// The reaper thread: hears the spawner until the stop.
    fn reap(&self, mut control: Arc<OwnedFd>) {
        self.fill();
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
                Ok(None) | Err(_) => match self.spawner_died() {
                    Some(new) => control = new,
                    None => {
                        // Nothing more will be heard; starts fail with a word.
                        let _ = wait_for(self.stop.as_fd(), PollFlags::IN, None, None, None);
                        return;
                    }
                },
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
        let freezer = match &tell {
            Tell::Parked { slot, pid } => {
                Freezer::find(*pid, &self.groups.path_of(*slot)).inspect_err(|e| log::debug!("cell {slot}: cannot be frozen: {e}")).ok()
            }
            _ => None,
        };
        let mut state = self.state.lock();
        match tell {
            Tell::Parked { slot, pid } => {
                let Some(((slot, line), pidfd)) = state.coming.remove(&slot).zip(fds.into_iter().next()) else { return };
                state.parked.push(Cell { slot, line, pid, freezer, pidfd });
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
    fn bury(&self, state: &mut State, id: &str) {
        if let Some(live) = state.live.remove(id) {
            self.groups.give(live.slot);
        }
    }

    /// Its cells died with it. Starts another one, unless that makes no sense.
    fn spawner_died(&self) -> Option<Arc<OwnedFd>> {
        let (told, again) = {
            let mut state = self.state.lock();
            let again = match state.spawner.take() {
                Some(mut running) => {
                    let _ = running.child.kill();
                    let _ = running.child.wait();
                    running.since.elapsed() > SPAWNER_LIVES
                }
                None => false,
            };
            let lost: Vec<Slot> =
                std::mem::take(&mut state.parked).into_iter().map(|c| c.slot).chain(std::mem::take(&mut state.coming).into_values().map(|(s, _)| s)).collect();
            lost.into_iter().for_each(|slot| self.groups.give(slot));
            let slots: Vec<u32> = state.ids.keys().copied().collect();
            let told: Vec<_> = slots.into_iter().filter_map(|slot| self.exited(&mut state, slot, KILLED)).collect();
            (told, again && !state.closed)
        };
        told.into_iter().for_each(|(sink, exit)| sink.exited(exit));
        self.changed.notify_all();
        if !again {
            return None;
        }
        log::error!("sandbox: the spawner ended, and all containers with it; it is started again");
        match start_spawner(&self.options) {
            Ok((running, _)) => {
                let control = running.control.clone();
                self.state.lock().spawner = Some(running);
                self.fill();
                Some(control)
            }
            Err(e) => {
                log::error!("sandbox: {e}");
                None
            }
        }
    }
}

enum Heard {
    Word,
    Bell,
    Time,
    Stop,
}

/// What a cell said before it gave up.
pub(super) fn last_word(line: &OwnedFd) -> Option<String> {
    let mut text = [0u8; 512];
    match rustix::net::recv(line, &mut text[..], rustix::net::RecvFlags::DONTWAIT) {
        Ok((n, _)) if n > 0 => Some(serde_json::from_slice::<wire::Trouble>(&text[..n]).map_or_else(|_| "unreadable last word".to_owned(), |t| t.to_string())),
        _ => None,
    }
}
