//! `edge-poll`: the one thread that accepts, and waits for every client that
//! nobody serves.
//!
//! A connection is either **parked** here (idle, or with an incomplete head)
//! or in a worker's hands; its place in `Table` is its state. A worker that
//! serves one may leave a **watch** here: "tell me when this client is gone".
//!
//! INVARIANT: every registration is one-shot, so an event is taken by exactly
//! one hand-off; arming again sees data that came in between (level, not edge).

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};
use rustix::thread::nanosleep;

use super::body::{DRAIN_FOR, DRAIN_MAX};
use super::conn::{Conn, Pulled};
use super::sock::Sock;
use crate::call::WatchGuard;
use crate::metrics::EDGE;

const LISTENER: u64 = 0;
const BELL: u64 = 1;
const FIRST_CONNECTION: u64 = 2;

/// Connections accepted before other events get their turn.
const ACCEPT_BATCH: usize = 64;
/// After running out of descriptors: how long until accept is tried again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Without a deadline of its own the thread sleeps for no less.
const LOOK_AT_LEAST: Duration = Duration::from_secs(1);
/// A client that is half-closed for this long while its call runs is probed.
const PROBE_AFTER: Duration = Duration::from_millis(250);
/// Bytes of incomplete heads kept for all parked connections together.
const CARRIED_MAX: usize = 64 << 20;

const TOO_MANY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: 73\r\nRetry-After: 15\r\nConnection: close\r\n\r\n{\"message\":\"Timed out - server too busy: too many connections are open\"}\n";
const HEAD_TOO_SLOW: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: 70\r\nConnection: close\r\n\r\n{\"message\":\"the request's head did not arrive within the time limit\"}\n";

/// Calls that go into a line are in no hurry to get there: read together, they
/// cost one waking of this thread. Longer than a wake-up takes, shorter than
/// any line worth the name.
const GATHER: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000 };

/// For so long after a call has gone into a line nobody lingers.
const CROWD_US: u64 = 5_000;
/// Taken at a time: what this thread has taken waits with it when it must wait
/// for the CPU.
const EVENTS: usize = 4;
/// Connections that a worker looks at before it is done with helping.
const HELP_BATCH: usize = 64;

fn gather() {
    // Cut short, it is as good.
    let _ = nanosleep(&GATHER);
}

/// Why a connection is parked: decides what its deadline means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parking {
    /// Between requests: closed silently.
    Idle,
    /// With an incomplete head: 408 and closed.
    Head,
    /// After its last answer: see [`Poller::see_off`]. So many bytes more are taken.
    Leaving { left: usize },
}

#[derive(Debug)]
struct Parked {
    conn: Conn,
    deadline: Instant,
    why: Parking,
}

/// Somebody wants to know when this client is gone.
struct Watch {
    gone: Arc<dyn Fn() + Send + Sync>,
    sock: Arc<Sock>,
    /// Whether the client understands an interim response.
    may_probe: bool,
    /// Half-closed: probed when this has come.
    probe_at: Option<Instant>,
}

#[derive(Default)]
struct Table {
    parked: HashMap<u64, Parked>,
    watches: HashMap<u64, Watch>,
    /// When which connection needs a look; `parked` and `watches` are the truth.
    timers: BTreeSet<(Instant, u64)>,
    /// When the thread wakes by itself; `None` while it is awake.
    sleeps_until: Option<Option<Instant>>,
    closing: bool,
}

/// What the poller obeys.
#[derive(Debug, Clone, Copy)]
pub(super) struct PollLimits {
    pub(super) max_connections: usize,
    /// How long a new client may say nothing.
    pub(super) silence: Duration,
    /// Largest head.
    pub(super) head_bytes: usize,
    /// Longest time from a head's first byte to its last.
    pub(super) head_time: Duration,
}

/// What the thread and the workers share.
pub(super) struct Poller {
    epoll: OwnedFd,
    bell: OwnedFd,
    table: Mutex<Table>,
    next: AtomicU64,
    draining: AtomicBool,
    ending: AtomicBool,
    /// The start of this poller's time, and when a call last went into a line, in
    /// microseconds of it.
    begun: Instant,
    lined_up_us: AtomicU64,
    /// Open connections of this listener.
    pub(super) open: Arc<AtomicUsize>,
    carried: AtomicUsize,
    limits: PollLimits,
    /// Test hook: the next so many accepts fail as if descriptors had run out.
    #[cfg(test)]
    pub(super) starve: AtomicUsize,
}

/// What the thread does with a connection that has something to read; says
/// no (by giving its socket back) when no thread is to be had.
pub(super) trait Serve: Send {
    fn serve(&self, conn: Conn) -> Result<Served, Arc<Sock>>;
}

/// What came of a connection that had something to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Served {
    /// A thread has it, or it is closed, or it waits here for more.
    Taken,
    /// Its call waits in line for a container.
    LinedUp,
}

/// 503 to a client whom nobody can serve now.
pub(super) fn refuse(sock: &Sock) {
    // What was asked is read first: closing over unread bytes would send a
    // reset that overtakes the answer.
    sock.recv_now(&mut Vec::with_capacity(4096));
    sock.send_now(TOO_MANY);
    sock.finish_sending();
}

impl Poller {
    pub(super) fn new(limits: PollLimits) -> Result<Poller, Errno> {
        let poller = Poller {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            table: Mutex::default(),
            next: AtomicU64::new(FIRST_CONNECTION),
            draining: AtomicBool::new(false),
            ending: AtomicBool::new(false),
            begun: Instant::now(),
            lined_up_us: AtomicU64::new(0),
            open: Arc::default(),
            carried: AtomicUsize::new(0),
            limits,
            #[cfg(test)]
            starve: AtomicUsize::new(0),
        };
        epoll::add(&poller.epoll, &poller.bell, EventData::new_u64(BELL), EventFlags::IN)?;
        Ok(poller)
    }

    pub(super) fn draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// A call has gone into a line.
    pub(super) fn note_line(&self) {
        self.lined_up_us.store(self.now_us(), Ordering::Relaxed);
    }

    /// Whether calls have gone into lines a moment ago. A worker then leaves its
    /// client, however brisk it is: one whose worker waits for it alone would
    /// always be served before those who wait here.
    pub(super) fn lately_crowded(&self) -> bool {
        let at = self.lined_up_us.load(Ordering::Relaxed);
        at > 0 && self.now_us().saturating_sub(at) < CROWD_US
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// For a worker that has nothing to do: takes what has come meanwhile for
    /// connections that nobody serves, as this thread does, until there is no
    /// more or `server` says it has enough. One thread alone would get no more
    /// than its share of the CPU, and the rest would wait for it.
    pub(super) fn help(&self, server: &impl Serve, mut enough: impl FnMut() -> bool) {
        let mut events: Vec<Event> = Vec::with_capacity(1);
        for _ in 0..HELP_BATCH {
            events.clear();
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            if epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&now)).is_err() {
                return;
            }
            match events.first().map(|event| (event.data.u64(), event.flags)) {
                // Those stay with the poller's own thread.
                None | Some((LISTENER | BELL, _)) => return,
                Some((id, flags)) => self.happened(id, flags, server),
            };
            if enough() {
                return;
            }
        }
    }

    /// No more connections; idle ones are closed.
    pub(super) fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
        self.ring();
    }

    /// Ends the thread; parked connections are closed.
    pub(super) fn end(&self) {
        self.draining.store(true, Ordering::SeqCst);
        self.ending.store(true, Ordering::SeqCst);
        self.ring();
    }

    fn ring(&self) {
        // Full only after 2^64 rings; then it is readable anyway.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }

    /// Keeps `conn` until something arrives or `deadline` passes. A connection
    /// that can't be kept is closed.
    pub(super) fn park(&self, mut conn: Conn, why: Parking, deadline: Instant) {
        if conn.carry.is_empty() {
            conn.carry = Vec::new();
        }
        if self.carried.load(Ordering::Relaxed) + conn.carry.len() > CARRIED_MAX {
            conn.sock.send_now(TOO_MANY);
            return;
        }
        let id = conn.id;
        let sock = Arc::clone(&conn.sock);
        let registered = std::mem::replace(&mut conn.registered, true);
        let mut table = self.table.lock();
        let leaving = matches!(why, Parking::Leaving { .. });
        // At the end only who has asked is kept: for the answer.
        if (table.closing && !leaving) || (why == Parking::Idle && self.draining() && !sock.has_bytes()) {
            return;
        }
        self.carried.fetch_add(conn.carry.len(), Ordering::Relaxed);
        table.timers.insert((deadline, id));
        table.parked.insert(id, Parked { conn, deadline, why });
        let ring = table.must_ring(deadline);
        drop(table);
        // After it is in the table, where an event looks for it, and without the
        // lock, for which the others wait. Whoever takes it from the table before
        // that gets an event too many, which finds nothing.
        if let Err(error) = self.arm(id, &sock, registered, EventFlags::IN | EventFlags::RDHUP) {
            log::warn!("a connection cannot be waited for: {error}");
            drop(self.table.lock().unpark(id, &self.carried));
            return;
        }
        if ring {
            self.ring();
        }
    }

    /// Closes after the last answer: when its client has closed too, or a moment
    /// later. What it has sent beyond that, or still sends, is taken and dropped:
    /// a close over bytes that nobody read resets the connection, and the answer
    /// may be lost on its way.
    ///
    /// # Errors
    /// Back again: the thread is about to end.
    pub(super) fn see_off(&self, mut conn: Conn) -> Result<(), Conn> {
        conn.sock.finish_sending();
        if self.table.lock().closing {
            return Err(conn);
        }
        conn.carry = Vec::new();
        self.park(conn, Parking::Leaving { left: DRAIN_MAX }, Instant::now() + DRAIN_FOR);
        Ok(())
    }

    /// Tells `gone` once when the client of connection `id` is gone for good.
    /// The watch ends with the guard. `may_probe`: the client understands an
    /// interim response.
    pub(super) fn watch(poller: &Arc<Poller>, id: u64, sock: &Arc<Sock>, may_probe: bool, gone: Arc<dyn Fn() + Send + Sync>) -> Option<Guard> {
        let watch = Watch { gone, sock: Arc::clone(sock), may_probe, probe_at: None };
        poller.table.lock().watches.insert(id, watch);
        let guard = Guard { poller: Arc::clone(poller), id };
        // A connection in a worker's hands was parked before: it is registered.
        if let Err(error) = poller.arm(id, sock, true, EventFlags::RDHUP) {
            log::warn!("a client cannot be watched: {error}");
            return None;
        }
        Some(guard)
    }

    /// Asks for one event of connection `id`.
    fn arm(&self, id: u64, sock: &Sock, registered: bool, flags: EventFlags) -> Result<(), Errno> {
        let (data, flags) = (EventData::new_u64(id), flags | EventFlags::ONESHOT);
        if registered { epoll::modify(&self.epoll, sock.as_fd(), data, flags) } else { epoll::add(&self.epoll, sock.as_fd(), data, flags) }
    }

    fn unwatch(&self, id: u64) {
        let mut table = self.table.lock();
        if let Some(watch) = table.watches.remove(&id)
            && let Some(at) = watch.probe_at
        {
            table.timers.remove(&(at, id));
        }
    }

    #[cfg(test)]
    pub(super) fn parked(&self) -> usize {
        self.table.lock().parked.len()
    }
}

impl Table {
    /// Whether the thread would sleep past `at`.
    fn must_ring(&mut self, at: Instant) -> bool {
        match self.sleeps_until {
            Some(until) if until.is_none_or(|until| at < until) => {
                self.sleeps_until = None; // one ring is enough
                true
            }
            _ => false,
        }
    }

    fn unpark(&mut self, id: u64, carried: &AtomicUsize) -> Option<Parked> {
        let parked = self.parked.remove(&id)?;
        self.timers.remove(&(parked.deadline, id));
        carried.fetch_sub(parked.conn.carry.len(), Ordering::Relaxed);
        Some(parked)
    }
}

/// Ends a watch when dropped.
pub(super) struct Guard {
    poller: Arc<Poller>,
    id: u64,
}

impl WatchGuard for Guard {}

impl Drop for Guard {
    fn drop(&mut self) {
        self.poller.unwatch(self.id);
    }
}

/// The thread's own things.
pub(super) struct Loop<S: Serve> {
    pub(super) poller: Arc<Poller>,
    pub(super) listener: OwnedFd,
    pub(super) local: SocketAddr,
    pub(super) server: S,
}

impl<S: Serve> Loop<S> {
    /// The thread's whole life.
    pub(super) fn run(self) {
        let Loop { poller, listener, local, server } = self;
        let mut listener = Some(listener);
        let mut retry_at = None;
        if let Some(listener) = &listener
            && let Err(error) = poller.listen(listener)
        {
            log::error!("the listener {local} cannot be waited for: {error}");
            return;
        }
        let mut events: Vec<Event> = Vec::with_capacity(EVENTS);
        while !poller.ending.load(Ordering::SeqCst) {
            if let Err(error) = poller.wait(&mut events, retry_at) {
                log::error!("epoll failed: {error}");
                return;
            }
            if poller.draining()
                && let Some(listener) = listener.take()
            {
                // Closed: new clients are refused by the kernel. Those it has
                // taken already may have asked; they are answered.
                retry_at = None;
                poller.accept_rest(&listener);
                drop(listener);
                poller.close_idle();
            }
            if let Some(listener) = &listener {
                retry_at = poller.accept_if_due(listener, &events, retry_at);
            }
            let mut all_lined_up = !events.is_empty();
            for event in events.drain(..) {
                all_lined_up &= poller.take(event, &server) == Served::LinedUp;
            }
            poller.expire(Instant::now());
            if all_lined_up {
                gather();
            }
        }
        if let Some(listener) = listener {
            poller.accept_rest(&listener);
        }
        poller.last_look(&server);
        poller.close_all();
        // Those who are leaving: a second, at most.
        while poller.keeps_some() && poller.wait(&mut events, None).is_ok() {
            for event in events.drain(..) {
                poller.take(event, &server);
            }
            poller.expire(Instant::now());
        }
    }
}

impl Poller {
    fn listen(&self, listener: &OwnedFd) -> Result<(), Errno> {
        epoll::add(&self.epoll, listener, EventData::new_u64(LISTENER), EventFlags::IN)
    }

    fn wait(&self, events: &mut Vec<Event>, retry_at: Option<Instant>) -> Result<(), Errno> {
        let until = {
            let mut table = self.table.lock();
            let mut first = table.timers.first().map(|(at, _)| *at);
            if first.is_none() && self.open.load(Ordering::Relaxed) > 0 {
                // All are with workers, and what one of them comes back with is due
                // later, mostly: it need not ring.
                first = Some(Instant::now() + self.limits.head_time.min(self.limits.silence).max(LOOK_AT_LEAST));
            }
            let until = match (first, retry_at) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (one, other) => one.or(other),
            };
            table.sleeps_until = Some(until);
            until
        };
        let timeout = until.map(|until| {
            let left = until.saturating_duration_since(Instant::now());
            // Rounded up to the kernel's millisecond: not too early, in circles.
            Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: i64::from(left.subsec_nanos()) }
        });
        let waited = epoll::wait(&self.epoll, spare_capacity(events), timeout.as_ref());
        self.table.lock().sleeps_until = None;
        match waited {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn silence(&self) {
        let mut count = [0u8; 8];
        let _ = rustix::io::read(&self.bell, &mut count);
    }

    /// Accepts when the listener is ready, or when the pause after a failure
    /// is over. Returns until when accepting pauses now.
    fn accept_if_due(&self, listener: &OwnedFd, events: &[Event], retry_at: Option<Instant>) -> Option<Instant> {
        match retry_at {
            Some(at) if Instant::now() < at => return retry_at,
            None if !events.iter().any(|e| e.data.u64() == LISTENER) => return None,
            _ => {}
        }
        let Err(error) = self.accept_batch(listener) else {
            if retry_at.is_some() {
                let _ = self.listen(listener);
            }
            return None;
        };
        EDGE.accept_starved.add(1);
        if retry_at.is_none() {
            log::warn!("cannot accept connections ({error}): trying again every {ACCEPT_PAUSE:?}");
            // Out of the epoll, else it would report the listener all the time.
            let _ = epoll::delete(&self.epoll, listener);
        }
        Some(Instant::now() + ACCEPT_PAUSE)
    }

    fn accept_batch(&self, listener: &OwnedFd) -> Result<(), Errno> {
        for _ in 0..ACCEPT_BATCH {
            match self.accept_one(listener) {
                Ok(fd) => self.welcome(fd),
                Err(Errno::AGAIN) => return Ok(()),
                // The client gave up in the queue, or a signal came.
                Err(Errno::CONNABORTED | Errno::INTR | Errno::PROTO | Errno::PERM | Errno::NETDOWN | Errno::HOSTUNREACH | Errno::NETUNREACH) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes all whom the kernel has accepted for us.
    fn accept_rest(&self, listener: &OwnedFd) {
        for _ in 0..=super::BACKLOG {
            match self.accept_one(listener) {
                Ok(fd) => self.welcome(fd),
                Err(Errno::CONNABORTED | Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }

    fn accept_one(&self, listener: &OwnedFd) -> Result<OwnedFd, Errno> {
        if crate::fault::at("accept").is_err() {
            return Err(Errno::MFILE);
        }
        #[cfg(test)]
        if self.starve.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok() {
            return Err(Errno::MFILE);
        }
        accept_with(listener, SocketFlags::CLOEXEC)
    }

    fn welcome(&self, fd: OwnedFd) {
        EDGE.accepted.add(1);
        let full = self.open.load(Ordering::SeqCst) >= self.limits.max_connections;
        let sock = Arc::new(Sock::new(fd, Arc::clone(&self.open)));
        if full {
            EDGE.refused_connections.add(1);
            return refuse(&sock);
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let conn = Conn::new(id, sock);
        let deadline = Instant::now() + self.limits.silence;
        self.park(conn, Parking::Idle, deadline);
    }

    fn take(&self, event: Event, server: &impl Serve) -> Served {
        match event.data.u64() {
            LISTENER => {}
            BELL => self.silence(),
            id => return self.happened(id, event.flags, server),
        }
        Served::Taken
    }

    fn happened(&self, id: u64, flags: EventFlags, server: &impl Serve) -> Served {
        let mut table = self.table.lock();
        if let Some(parked) = table.unpark(id, &self.carried) {
            drop(table);
            // A thousand clients that leave must not wake a thousand threads.
            if flags.intersects(EventFlags::HUP | EventFlags::ERR) || (flags.contains(EventFlags::RDHUP) && parked.conn.sock.ended()) {
                return Served::Taken;
            }
            return self.readable(parked, server);
        }
        let Some(watch) = table.watches.get_mut(&id) else { return Served::Taken };
        if flags.intersects(EventFlags::HUP | EventFlags::ERR) {
            let watch = table.watches.remove(&id);
            if let Some(at) = watch.as_ref().and_then(|w| w.probe_at) {
                table.timers.remove(&(at, id));
            }
            drop(table);
            if let Some(watch) = watch {
                EDGE.clients_gone.add(1);
                (watch.gone)();
            }
        } else if flags.contains(EventFlags::RDHUP) {
            // Closed looks the same as half-closed until something is sent.
            let _ = epoll::modify(&self.epoll, watch.sock.as_fd(), EventData::new_u64(id), EventFlags::ONESHOT);
            if watch.may_probe && watch.probe_at.is_none() {
                let at = Instant::now() + PROBE_AFTER;
                watch.probe_at = Some(at);
                table.timers.insert((at, id));
            }
        } else {
            // Asked for before the watch was.
            let _ = self.arm(id, &watch.sock, true, EventFlags::RDHUP);
        }
        Served::Taken
    }

    /// A parked connection has something to read.
    fn readable(&self, mut parked: Parked, server: &impl Serve) -> Served {
        // A client that was answered before is taken to send whole heads.
        let pulled = match parked.why {
            Parking::Leaving { left } => match parked.conn.take_leave(left) {
                Some(left) => {
                    parked.why = Parking::Leaving { left };
                    Pulled::Nothing
                }
                None => Pulled::Close,
            },
            Parking::Idle if !parked.conn.is_fresh() => Pulled::Serve,
            Parking::Idle | Parking::Head => parked.conn.pull(self.limits.head_bytes),
        };
        match pulled {
            Pulled::Wait { since } => self.park(parked.conn, Parking::Head, since + self.limits.head_time),
            Pulled::Nothing => self.park(parked.conn, parked.why, parked.deadline),
            Pulled::Close => {}
            Pulled::Serve => match server.serve(parked.conn) {
                Ok(served) => return served,
                Err(sock) => {
                    EDGE.refused_connections.add(1);
                    refuse(&sock);
                }
            },
        }
        Served::Taken
    }

    /// Does what is due by `now`.
    fn expire(&self, now: Instant) {
        loop {
            let mut table = self.table.lock();
            let Some(&(at, id)) = table.timers.first() else { return };
            if at > now {
                return;
            }
            table.timers.remove(&(at, id));
            if let Some(parked) = table.unpark(id, &self.carried) {
                drop(table);
                if parked.why == Parking::Head {
                    EDGE.refused_too_slow.add(1);
                    parked.conn.sock.send_now(HEAD_TOO_SLOW);
                }
            } else if let Some(watch) = table.watches.get(&id) {
                let sock = Arc::clone(&watch.sock);
                drop(table);
                sock.probe();
            }
        }
    }

    fn close_idle(&self) {
        let mut table = self.table.lock();
        let idle: Vec<u64> = table.parked.iter().filter(|(_, p)| p.why == Parking::Idle && !p.conn.sock.has_bytes()).map(|(id, _)| *id).collect();
        let closed: Vec<_> = idle.into_iter().filter_map(|id| table.unpark(id, &self.carried)).collect();
        drop(table);
        drop(closed);
    }

    /// Who has sent something we have not looked at gets an answer.
    fn last_look(&self, server: &impl Serve) {
        let mut table = self.table.lock();
        let asks = |p: &Parked| !matches!(p.why, Parking::Leaving { .. }) && p.conn.sock.has_bytes();
        let ids: Vec<u64> = table.parked.iter().filter(|(_, p)| asks(p)).map(|(id, _)| *id).collect();
        let asked: Vec<_> = ids.into_iter().filter_map(|id| table.unpark(id, &self.carried)).collect();
        drop(table);
        for parked in asked {
            self.readable(parked, server);
        }
    }

    fn close_all(&self) {
        let mut table = self.table.lock();
        table.closing = true;
        let ids: Vec<u64> = table.parked.iter().filter(|(_, p)| !matches!(p.why, Parking::Leaving { .. })).map(|(id, _)| *id).collect();
        let closed: Vec<_> = ids.into_iter().filter_map(|id| table.unpark(id, &self.carried)).collect();
        drop(table);
        drop(closed);
    }

    fn keeps_some(&self) -> bool {
        !self.table.lock().parked.is_empty()
    }
}

impl fmt::Debug for Poller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poller").field("open", &self.open).field("draining", &self.draining).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prepared_answers_announce_their_length() {
        for text in [TOO_MANY, HEAD_TOO_SLOW] {
            let text = std::str::from_utf8(text).expect("ASCII");
            let (head, body) = text.split_once("\r\n\r\n").expect("a head");
            assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{} bytes: {head}", body.len());
        }
    }
}
