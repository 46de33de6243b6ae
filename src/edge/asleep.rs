//! Calls that wait for their turn without a thread: read, complete, and laid
//! into the line with their connection.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use parking_lot::Mutex;

use super::Job;
use super::answer::Door;
use super::conn::{Conn, Shared, after_panic};
use super::exchange::say_now;
use super::poll::{Poller, Serve, Served};
use super::request::{Action, Request};
use super::sock::Sock;
use crate::call::{Body, Call, CallError, WatchGuard, Woken};
use crate::calls::{Sleeper, Turn};
use crate::http1::{BodyFraming, parse_request};
use crate::metrics::EDGE;
use crate::pool::Full;

/// The largest call that waits without a thread, with what its client has sent
/// beyond it: what waits is then bounded by the length of the lines, what is
/// larger by the number of threads.
const CALL_MAX: u64 = 16 * 1024;

/// What a buffer of one that waits may have in spare room.
const SPARE_MAX: usize = 4 * 1024;
/// So many threads beyond the cap tell those whose wait has failed.
const TELLERS: usize = 4;

/// Whether `call` is small enough, when so many bytes more came with it.
pub(super) fn may_sleep(call: &Call, more: usize) -> bool {
    let beside = u64::try_from(call.fields.len() + more).unwrap_or(u64::MAX);
    matches!(call.body, Body::Memory(_)) && call.body.len().saturating_add(beside) <= CALL_MAX
}

/// A call and everything its answer needs.
pub(super) struct Waiting {
    pub(super) conn: Conn,
    pub(super) asked: Asked,
    pub(super) turn: Option<Turn>,
    /// Its client takes nothing just now: who tells it that there is no container
    /// may have to wait for it, so that is a thread of the cap.
    slow: bool,
    shared: Arc<Shared>,
}

/// What was asked, and how it is to be answered.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) call: Call,
    pub(super) manner: Manner,
    pub(super) door: Door,
    pub(super) method: &'static str,
    pub(super) timed: bool,
    /// When the body was complete.
    pub(super) read: std::time::Instant,
}

/// What the request says about the form of its answer.
#[derive(Debug, Default, Clone)]
pub(super) struct Manner {
    pub(super) minor: u8,
    pub(super) head_only: bool,
    pub(super) keep: bool,
    pub(super) origin: Option<String>,
}

/// Has the call wait in the line of its function, if one stands. `Err`: it is
/// to be run by the thread that has it.
pub(super) fn lie_down(shared: &Arc<Shared>, mut conn: Conn, mut asked: Asked) -> Result<(), Box<Waiting>> {
    // What a long head has left behind.
    for buffer in [&mut conn.carry, &mut asked.call.fields] {
        if buffer.capacity() - buffer.len() > SPARE_MAX {
            buffer.shrink_to_fit();
        }
    }
    let waiting = Box::new(Waiting { conn, asked, turn: None, slow: false, shared: Arc::clone(shared) });
    if shared.poller.draining() {
        return Err(waiting);
    }
    let Err(back) = shared.calls.line_up(waiting) else {
        shared.poller.note_line();
        return Ok(());
    };
    let back: Box<dyn std::any::Any> = back;
    // What was given comes back.
    Err(back.downcast().unwrap_or_else(|_| unreachable!("the line gives back what it was given")))
}

/// What came of a connection that has something to read, while callers stand in
/// line somewhere.
pub(super) enum Tried {
    Served(Served),
    ForWorker(Conn),
}

/// For the poller's thread: takes what `conn` has sent, and if that is a whole call
/// for a line that stands, lays it there. A bug in there may cost this connection,
/// and nothing else.
pub(super) fn try_lie_down(shared: &Arc<Shared>, conn: Conn) -> Tried {
    let sock = Arc::clone(&conn.sock);
    catch_unwind(AssertUnwindSafe(|| take_and_lie_down(shared, conn))).unwrap_or_else(|_| {
        log::error!("a request panicked; its connection is closed");
        after_panic(&sock);
        Tried::Served(Served::Taken)
    })
}

/// A worker looks after connections that nobody serves; the first that is for a
/// worker is its own.
pub(super) fn help(shared: &Arc<Shared>) -> Option<Conn> {
    let helper = Helper { shared, found: Mutex::new(None) };
    shared.poller.help(&helper, || helper.found.lock().is_some());
    helper.found.into_inner()
}

struct Helper<'a> {
    shared: &'a Arc<Shared>,
    found: Mutex<Option<Conn>>,
}

impl Serve for Helper<'_> {
    fn serve(&self, conn: Conn) -> Result<Served, Arc<Sock>> {
        let conn = match try_lie_down(self.shared, conn) {
            Tried::Served(served) => return Ok(served),
            Tried::ForWorker(conn) => conn,
        };
        // One at a time is asked for.
        if let Some(second) = self.found.lock().replace(conn)
            && let Some(workers) = self.shared.workers()
        {
            workers.give(Job::Conn(second)).map_err(|Full(job)| Arc::clone(job.sock()))?;
        }
        Ok(Served::Taken)
    }
}

fn take_and_lie_down(shared: &Arc<Shared>, mut conn: Conn) -> Tried {
    if !conn.take_whole() {
        return Tried::ForWorker(conn);
    }
    let Some((asked, used)) = read_call(shared, &conn.carry) else { return Tried::ForWorker(conn) };
    conn.carry.drain(..used);
    conn.begin_call();
    EDGE.requests.add(1);
    match lie_down(shared, conn, asked) {
        Ok(()) => Tried::Served(Served::LinedUp),
        Err(waiting) => {
            // The line has just ended: a thread runs it.
            waiting.go_on();
            Tried::Served(Served::Taken)
        }
    }
}

/// The call in `bytes`, if it is whole and would have to wait, and its length.
fn read_call(shared: &Shared, bytes: &[u8]) -> Option<(Asked, usize)> {
    let head = parse_request(bytes, shared.limits.head_bytes).ok().flatten()?;
    let request = Request::read(&head, shared.directory.as_ref(), shared.api_token.as_deref(), shared.cors.as_ref()).ok()?;
    let Request { minor, keep, head_only, framing, accepted, origin, action, .. } = request;
    let Action::Call { door, method, spec, fields, detached: None, trigger, timed } = action else { return None };
    let len = match framing {
        BodyFraming::None => 0,
        BodyFraming::Length(len) if shared.body.max == 0 || len <= shared.body.max => usize::try_from(len).ok()?,
        _ => return None,
    };
    let body = bytes[head.len..].get(..len)?;
    if !shared.calls.has_line(&spec) {
        return None;
    }
    // A panic here is one in a handler; nothing else can come of it.
    let _ = crate::fault::at("edge.request");
    let call = Call { id: crate::model::Id::new(), spec, fields, body: Body::Memory(body.to_vec()), accepted, trigger };
    if !may_sleep(&call, bytes.len() - head.len - len) {
        return None;
    }
    let manner = Manner { minor, head_only, keep, origin };
    Some((Asked { call, manner, door, method, timed, read: accepted }, head.len + len))
}

impl Sleeper for Waiting {
    fn call(&self) -> &Call {
        &self.asked.call
    }

    fn wake(mut self: Box<Self>, turn: Turn) -> Box<dyn Woken> {
        self.turn = Some(turn);
        self
    }

    fn watch(&self, gone: Arc<dyn Fn() + Send + Sync>) -> Option<Box<dyn WatchGuard>> {
        let guard = Poller::watch(&self.shared.poller, self.conn.id, &self.conn.sock, self.asked.manner.minor >= 1, gone)?;
        Some(Box::new(guard))
    }
}

impl Woken for Waiting {
    fn go_on(mut self: Box<Self>) {
        let shared = Arc::clone(&self.shared);
        let Some(workers) = shared.workers() else { return turn_away(&shared, Job::Woken(self)) };
        self.slow = self.turn.as_ref().is_some_and(|turn| !turn.holds_container()) && !self.conn.sock.takes_more();
        // With a container in its hands it must not stand behind calls that wait for
        // one, and without hope of one not behind calls that run for long.
        let given = match &self.turn {
            None => workers.give(Job::Woken(self)),
            Some(_) if self.slow => workers.give(Job::Woken(self)),
            Some(turn) if turn.holds_container() => workers.give_at_once(Job::Woken(self)),
            Some(_) => match shared.told.add(self) {
                Some(first) => workers.give_at_once(Job::Woken(first)),
                None => return,
            },
        };
        if let Err(Full(job)) = given {
            turn_away(&shared, job);
        }
    }
}

impl Waiting {
    /// Its wait is over, with a container or without: it is not to wait for a
    /// thread as well.
    pub(super) fn is_urgent(&self) -> bool {
        self.turn.is_some() && !self.slow
    }

    /// It is one of those that are told one after another.
    fn is_told(&self) -> bool {
        !self.slow && self.turn.as_ref().is_some_and(|turn| !turn.holds_container())
    }
}

/// There is no thread for `job`: its client is told, if it takes that at once.
pub(super) fn turn_away(shared: &Arc<Shared>, job: Job) {
    let telling = Telling::if_so(shared, &job);
    say_no(shared, job);
    drop(telling);
}

fn say_no(shared: &Arc<Shared>, job: Job) {
    EDGE.refused_connections.add(1);
    match job {
        Job::Woken(waiting) => match &waiting.turn {
            Some(Turn { lease: Err(error), .. }) => say_now(shared, &waiting.conn, &waiting.asked, error),
            _ if shared.poller.draining() => say_now(shared, &waiting.conn, &waiting.asked, &CallError::Draining),
            _ => super::poll::refuse(&waiting.conn.sock),
        },
        Job::Conn(conn) => super::poll::refuse(&conn.sock),
    }
}

/// Those whose wait has failed: many at once, when a container cannot be had. A
/// few threads tell one after another.
#[derive(Debug, Default)]
pub(super) struct Told(Mutex<Untold>);

#[derive(Debug, Default)]
struct Untold {
    line: VecDeque<Box<Waiting>>,
    tellers: usize,
}

impl Told {
    /// `Some`: it is for one more thread.
    fn add(&self, waiting: Box<Waiting>) -> Option<Box<Waiting>> {
        let mut untold = self.0.lock();
        if untold.tellers < TELLERS {
            untold.tellers += 1;
            return Some(waiting);
        }
        untold.line.push_back(waiting);
        None
    }
}

/// One that tells; when it is dropped, another goes on if there is more to tell.
pub(super) struct Telling<'s>(&'s Arc<Shared>);

impl<'s> Telling<'s> {
    pub(super) fn if_so(shared: &'s Arc<Shared>, job: &Job) -> Option<Telling<'s>> {
        matches!(job, Job::Woken(waiting) if waiting.is_told()).then(|| Telling(shared))
    }

    pub(super) fn next(&self) -> Option<Job> {
        self.0.told.0.lock().line.pop_front().map(Job::Woken)
    }
}

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        let Telling(shared) = self;
        loop {
            let next = {
                let mut untold = shared.told.0.lock();
                let next = untold.line.pop_front();
                untold.tellers -= usize::from(next.is_none());
                next
            };
            let Some(next) = next else { return };
            let given = match shared.workers() {
                Some(workers) => workers.give_at_once(Job::Woken(next)),
                None => Err(Full(Job::Woken(next))),
            };
            // What comes back may be another's; then the one above stands in line.
            match given {
                Ok(()) => return,
                Err(Full(job)) => {
                    let ours = matches!(&job, Job::Woken(waiting) if waiting.is_told());
                    say_no(shared, job);
                    if !ours {
                        return;
                    }
                }
            }
        }
    }
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiting").field("conn", &self.conn).field("asked", &self.asked).field("turn", &self.turn).finish_non_exhaustive()
    }
}
