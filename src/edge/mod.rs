//! The public listener: HTTP/1.1 from anyone, into calls and management
//! requests.
//!
//! Owns: the listening socket, client connections from accept to close, every
//! limit and deadline on them, the translation between HTTP and a `Call`.
//! Called by: `server` (start, drain, stop). Blocks on: `edge-poll` on its
//! epoll; `edge-N` on its client's socket, always with a deadline and the
//! stop, inside `Calls::submit`, and on a live tail. Does not: know containers or
//! slots, read the store but through `Directory`, answer management requests
//! itself but for live tails of logs.
//!
//! ```text
//!            accept             readable              request
//!  (client) ───────► parked ───────────────► worker ───────────► call │ forward
//!                      ▲      edge-poll        │ edge-N                │
//!                      └───────────────────────┴───── answered, quiet ◄┘
//! ```
//!
//! A silent client costs a descriptor and some hundred bytes, never a thread.
//! Beyond `HOB_MAX_CONNECTIONS` a client gets 503; when `HOB_MAX_ACTIVE`
//! threads are busy, a connection with something to read waits in a FIFO.
//!
//! A call with `Fn-Invoke-Type: detached`, or through a trigger that says so, is
//! answered 202 once it is kept (`calls`); it runs later.

mod answer;
mod asleep;
mod body;
mod conn;
mod cors;
mod exchange;
mod fields;
mod follow;
mod forward;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod poll;
mod receipt;
mod reply;
mod request;
mod route;
mod sock;
#[cfg(test)]
mod tests;
mod token;
mod triggers;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, listen, socket_with, sockopt};

use crate::call::{Call, CallError, Caller, DetachError, Detached};
use crate::calls::{Follow, FollowError, Front, Sleeper, Turn};
use crate::config::Config;
use crate::model::{FnSpec, Id};
use crate::pool::{Full, SpawnError, Stop, Thread, Workers, WorkersConfig, spawn};
use crate::store::Store;

use asleep::{Told, Tried, Waiting, try_lie_down, turn_away};
use body::BodyLimits;
use conn::{Conn, Limits, Scratch, Shared};
use cors::Cors;
use forward::Forwarder;
use poll::{Loop, PollLimits, Poller, Serve, Served};
use sock::Sock;

/// What the tighter limit of bodies is called.
const DETACHED_BODY: &str = " of a detached call (HOB_DETACHED_MAX_BODY)";
/// After an answer a worker waits this long for the next request of the same
/// connection, before it is parked.
const LINGER: Duration = Duration::from_millis(5);
/// Connections the kernel keeps ready for accept.
const BACKLOG: i32 = 4096;
/// Idle workers end after this.
const WORKER_IDLE: Duration = Duration::from_secs(10);
/// At the stop: answers under way may take this long, then they are cut.
const STOP_GRACE: Duration = Duration::from_secs(1);
/// After the cut: the threads must have ended within this.
const STOP_LIMIT: Duration = Duration::from_secs(4);

/// Runs calls; `Front` in the server.
pub trait Calls: Send + Sync {
    /// See [`Front::prepare`].
    ///
    /// # Errors
    /// The call is not to run.
    fn prepare(&self, _call: &mut Call) -> Result<(), CallError> {
        Ok(())
    }

    /// See [`Front::submit`].
    ///
    /// # Errors
    /// See [`CallError`].
    fn submit(&self, call: &Call, caller: &mut dyn Caller, turn: Option<Turn>) -> Result<(), CallError>;

    /// Whether callers wait for a container, of any function.
    fn is_crowded(&self) -> bool {
        false
    }

    /// See [`Front::has_line`].
    fn has_line(&self, _spec: &FnSpec) -> bool {
        false
    }

    /// See [`Front::line_up`].
    ///
    /// # Errors
    /// Back again: there is no line to join.
    fn line_up(&self, sleeper: Box<dyn Sleeper>) -> Result<(), Box<dyn Sleeper>> {
        Err(sleeper)
    }

    /// See [`Front::detach`].
    ///
    /// # Errors
    /// See [`DetachError`].
    fn detach(&self, call: Call, how: &Detached) -> Result<Id, DetachError>;

    /// See [`Front::follow`].
    ///
    /// # Errors
    /// See [`FollowError`].
    fn follow(&self, fn_id: Id, call: Option<Id>, last: Option<usize>) -> Result<Follow, FollowError>;
}

/// Finds functions; `Store` in the server.
pub trait Directory: Send + Sync {
    /// # Errors
    /// What is not there.
    fn function(&self, id: &Id) -> Result<Arc<FnSpec>, Miss>;
    /// `source` starts with `/`.
    ///
    /// # Errors
    /// What is not there.
    fn trigger(&self, app: &str, source: &str) -> Result<Route, Miss>;
}

/// What a trigger leads to.
#[derive(Debug, Clone)]
pub struct Route {
    pub spec: Arc<FnSpec>,
    pub trigger: Id,
    /// Its calls are detached (annotation `hob/invoke-type`).
    pub detached: bool,
}

/// What a look-up did not find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Miss {
    Function,
    App,
    Trigger,
}

impl Calls for Front {
    fn prepare(&self, call: &mut Call) -> Result<(), CallError> {
        Front::prepare(self, call)
    }

    fn submit(&self, call: &Call, caller: &mut dyn Caller, turn: Option<Turn>) -> Result<(), CallError> {
        Front::submit(self, call, caller, turn)
    }

    fn is_crowded(&self) -> bool {
        Front::is_crowded(self)
    }

    fn has_line(&self, spec: &FnSpec) -> bool {
        Front::has_line(self, spec)
    }

    fn line_up(&self, sleeper: Box<dyn Sleeper>) -> Result<(), Box<dyn Sleeper>> {
        Front::line_up(self, sleeper)
    }

    fn detach(&self, call: Call, how: &Detached) -> Result<Id, DetachError> {
        Front::detach(self, call, how)
    }

    fn follow(&self, fn_id: Id, call: Option<Id>, last: Option<usize>) -> Result<Follow, FollowError> {
        Front::follow(self, fn_id, call, last)
    }
}

impl Directory for Store {
    fn function(&self, id: &Id) -> Result<Arc<FnSpec>, Miss> {
        let snapshot = self.snapshot();
        snapshot.target(id).map(|target| Arc::clone(&target.spec)).ok_or(Miss::Function)
    }

    fn trigger(&self, app: &str, source: &str) -> Result<Route, Miss> {
        let snapshot = self.snapshot();
        match snapshot.trigger(app, source) {
            Some((trigger, target)) => Ok(Route { spec: Arc::clone(&target.spec), trigger: trigger.id, detached: trigger.is_detached() }),
            None if snapshot.app_by_name(app).is_none() => Err(Miss::App),
            None => Err(Miss::Trigger),
        }
    }
}

/// The listener could not be started.
#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("cannot set up waiting for clients: {0}")]
    Poll(#[source] io::Error),
    #[error(transparent)]
    Thread(#[from] SpawnError),
}

/// The running listener.
pub struct Edge {
    local: SocketAddr,
    shared: Arc<Shared>,
    workers: Arc<Workers<Job, Scratch>>,
    thread: Mutex<Option<Thread>>,
}

impl Edge {
    /// Listens on `config.listen` and serves: calls by `agent`, look-ups in
    /// `store`, the rest by the management API at `api_socket`.
    ///
    /// # Errors
    /// See [`EdgeError`]; nothing is left behind.
    pub fn start(config: &Config, front: Front, store: Arc<Store>, api_socket: PathBuf) -> Result<Edge, EdgeError> {
        Edge::start_with(config, Arc::new(front), store, api_socket)
    }

    /// [`Edge::start`] with other implementations of what it uses.
    ///
    /// # Errors
    /// See [`EdgeError`].
    pub fn start_with(config: &Config, calls: Arc<dyn Calls>, directory: Arc<dyn Directory>, api_socket: PathBuf) -> Result<Edge, EdgeError> {
        let (listener, local) = open_listener(config.listen).map_err(|source| EdgeError::Listen { address: config.listen, source })?;
        let poll_limits = PollLimits {
            max_connections: config.max_connections,
            silence: config.keep_alive_timeout,
            head_bytes: config.max_request_head_bytes,
            head_time: config.head_read_timeout,
        };
        let poller = Poller::new(poll_limits).map_err(|e| EdgeError::Poll(e.into()))?;
        let body = BodyLimits { max: config.max_request_bytes, of: "", silence: config.body_idle_timeout, folder: config.data.clone() };
        // The tighter one tells; nothing of what is more is read.
        let (detached_max, detached_of) = match config.calls.max_body {
            own if own > 0 && (body.max == 0 || own <= body.max) => (own, DETACHED_BODY),
            _ => (body.max, body.of),
        };
        let shared = Arc::new(Shared {
            limits: Limits {
                head_bytes: config.max_request_head_bytes,
                head_time: config.head_read_timeout,
                keep_alive: config.keep_alive_timeout,
                patience: config.write_timeout,
                timed: config.server_timing,
            },
            detached_body: BodyLimits { max: detached_max, of: detached_of, ..body.clone() },
            body,
            api_token: config.api_token.clone(),
            cors: Cors::new(&config.cors_origins, &config.cors_headers),
            poller: Arc::new(poller),
            stop: Stop::new().map_err(EdgeError::Poll)?,
            calls,
            directory,
            forwarder: Forwarder::new(api_socket),
            workers: OnceLock::new(),
            told: Told::default(),
            owed: Arc::default(),
        });
        let for_workers = Arc::clone(&shared);
        let plan = WorkersConfig { name: "edge", cap: config.max_active, backlog: config.max_connections, idle: WORKER_IDLE };
        let workers = Arc::new(Workers::new(plan, move |job, scratch: &mut Scratch, pressure| conn::serve(&for_workers, job, scratch, pressure)));
        // Set once, here.
        let _ = shared.workers.set(Arc::downgrade(&workers));
        let poll = Loop { poller: Arc::clone(&shared.poller), listener, local, server: ToWorkers(Arc::clone(&shared), Arc::clone(&workers)) };
        let thread = spawn("edge-poll", move || poll.run())?;
        Ok(Edge { local, shared, workers, thread: Mutex::new(Some(thread)) })
    }

    /// The address it listens on, with the port the system chose for port 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Refuses new connections and closes idle ones. Running calls are
    /// answered, with `Connection: close`; requests that still arrive on open
    /// connections get 503.
    pub fn drain(&self) {
        self.shared.poller.drain();
    }

    /// Drains, waits until `answers_until` for clients that are slow to take a whole
    /// answer, gives all else under way a second, cuts the rest and joins all
    /// threads. Calls must have been ended before: the edge can't end them.
    /// Returns what did not end, in words; nothing, one hopes.
    pub fn stop(&self, answers_until: Instant) -> Option<String> {
        self.shared.poller.end();
        if let Some(thread) = self.thread.lock().take() {
            thread.join();
        }
        self.shared.owed.close();
        self.shared.owed.wait_empty(answers_until);
        // Nobody will take them up: they are told so.
        self.workers.close().for_each(|job| turn_away(&self.shared, job));
        if self.workers.join(Instant::now() + STOP_GRACE).is_ok() {
            return None;
        }
        self.shared.stop.fire();
        self.workers.join(Instant::now() + STOP_LIMIT).err().map(|error| format!("clients' connections: {error}"))
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        if let Some(left) = self.stop(Instant::now()) {
            log::error!("the public listener did not end: {left}");
        }
    }
}

impl fmt::Debug for Edge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Edge").field("local", &self.local).field("workers", &self.workers).finish_non_exhaustive()
    }
}

/// What a worker is given.
enum Job {
    /// A connection with something to read.
    Conn(Conn),
    /// A call that waited without a thread, and need not any more.
    Woken(Box<Waiting>),
}

impl Job {
    fn sock(&self) -> &Arc<Sock> {
        match self {
            Job::Conn(conn) => &conn.sock,
            Job::Woken(waiting) => &waiting.conn.sock,
        }
    }
}

/// Connections go from the poller to the workers; while callers stand in line,
/// calls that would join them go there at once.
struct ToWorkers(Arc<Shared>, Arc<Workers<Job, Scratch>>);

impl Serve for ToWorkers {
    fn serve(&self, conn: Conn) -> Result<Served, Arc<Sock>> {
        let ToWorkers(shared, workers) = self;
        let conn = if shared.calls.is_crowded() && !shared.poller.draining() {
            match try_lie_down(shared, conn) {
                Tried::Served(served) => return Ok(served),
                Tried::ForWorker(conn) => conn,
            }
        } else {
            conn
        };
        workers.give(Job::Conn(conn)).map(|()| Served::Taken).map_err(|Full(job)| Arc::clone(job.sock()))
    }
}

/// Accepted sockets inherit the listener's options, so that they cost no
/// system call each: no delay of small segments, and a receive time-out of
/// one linger (the listener itself never waits, it is non-blocking).
fn open_listener(address: SocketAddr) -> io::Result<(OwnedFd, SocketAddr)> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let fd = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    sockopt::set_socket_reuseaddr(&fd, true)?;
    sockopt::set_tcp_nodelay(&fd, true)?;
    sockopt::set_socket_timeout(&fd, sockopt::Timeout::Recv, Some(LINGER))?;
    bind(&fd, &address)?;
    listen(&fd, BACKLOG)?;
    let local = getsockname(&fd)?.try_into().unwrap_or(address);
    Ok((fd, local))
}
