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
use super::wire::{self, Ask, Tmp};
use crate::driver::ExitSink;
use crate::pool::{Stop, Thread, Woke, spawn, wait_for};

/// A killed cell is gone within this, or something is very wrong.
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// What the keeper is made with.
#[derive(Debug, Clone)]
pub(super) struct Options {
    /// The program that becomes the spawner.
    pub(super) program: PathBuf,
    pub(super) base: u32,
    /// The server is a plain user: what cells take from these folders.
    pub(super) own: Option<Own>,
    /// Each cell has a network of its own (with nothing in it).
    pub(super) own_net: bool,
    /// Cells that wait, ready, at least.
    pub(super) parked: usize,
    /// What the first functions will probably be like.
    pub(super) guess: Guess,
}

/// Where a plain user's cells find what the server can't hand them.
#[derive(Debug, Clone)]
pub(super) struct Own {
    /// Unpacked images.
    pub(super) images: PathBuf,
    /// Parent of socket folders.
    pub(super) folders: PathBuf,
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
    pub(super) pidfd: OwnedFd,
}

pub(super) struct Live {
    pub(super) slot: Slot,
    pub(super) pidfd: OwnedFd,
    pub(super) sink: Arc<dyn ExitSink>,
    pub(super) ended: bool,
    /// Nobody will ask for it again.
    pub(super) released: bool,
    pub(super) _root: Rootfs,
}

pub(super) struct State {
    pub(super) spawner: Option<Running>,
    /// The last one used lies on top.
    pub(super) parked: Vec<Cell>,
    /// Asked for by somebody who is about to send the order.
    pub(super) asking: usize,
    pub(super) coming: HashMap<u32, (Slot, OwnedFd)>,
    /// Socket folders nobody uses yet.
    pub(super) folders: Vec<OwnedFd>,
    /// By container id.
    pub(super) live: HashMap<String, Live>,
    pub(super) ids: HashMap<u32, String>,
    pub(super) waiting: usize,
    pub(super) spare: Spare,
    pub(super) guess: Guess,
    pub(super) failure: Option<String>,
    pub(super) closed: bool,
}

/// See the module.
pub(super) struct Keeper {
    shared: Arc<Shared>,
    users: OwnedFd,
    reaper: Mutex<Option<Thread>>,
}

pub(super) struct Shared {
    pub(super) options: Options,
    pub(super) groups: Cgroups,
    pub(super) state: Mutex<State>,
    pub(super) changed: Condvar,
    /// Ends the reaper.
    pub(super) stop: Stop,
    /// Rung when the pool may be due to be filled.
    pub(super) bell: OwnedFd,
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

    /// Makes sure that a cell comes up: one is taken, and told that nothing is
    /// wanted of it.
    ///
    /// # Errors
    /// In words: what this host did not let it do.
    pub(super) fn trial(&self, guess: Guess, until: Instant) -> Result<(), String> {
        let cell = self.take(guess, until)?;
        let line = cell.line.try_clone().map_err(|e| e.to_string())?;
        let pidfd = self.part_with(cell);
        let ended = rustix::net::shutdown(&line, rustix::net::Shutdown::Write)
            .map_err(|e| e.to_string())
            .and_then(|()| wait_for(line.as_fd(), PollFlags::IN, None, None, Some(until)).map_err(|e| e.to_string()))
            .and_then(|woke| if woke == Woke::Ready { last_word(&line).map_or(Ok(()), Err) } else { Err("the first cell was not ready in time".to_owned()) });
        let _ = pidfd_send_signal(&pidfd, Signal::KILL);
        self.started();
        ended
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
        let _ = pidfd_send_signal(self.part_with(cell), Signal::KILL);
    }

    /// Its end will find the cell's slot: said before anything can end it.
    fn part_with(&self, cell: Cell) -> OwnedFd {
        self.shared.state.lock().coming.insert(cell.slot.number, (cell.slot, cell.line));
        cell.pidfd
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
        if let Some(running) = running {
            running.end();
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
    pub(super) fn fill(&self) {
        loop {
            let mut state = self.state.lock();
            let target = state.spare.target(Instant::now());
            // A plain user's are on disk, made by the scheduler.
            if state.closed || self.options.own.is_some() || state.folders.len() >= target {
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
}

/// What a cell said before it gave up.
pub(super) fn last_word(line: &OwnedFd) -> Option<String> {
    let mut text = [0u8; 512];
    match rustix::net::recv(line, &mut text[..], rustix::net::RecvFlags::DONTWAIT) {
        Ok((n, _)) if n > 0 => Some(serde_json::from_slice::<wire::Trouble>(&text[..n]).map_or_else(|_| "unreadable last word".to_owned(), |t| t.to_string())),
        _ => None,
    }
}
