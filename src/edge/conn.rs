//! One client connection in a worker's hands: read a request, answer it, again
//! until there is nothing more to read; then it is parked.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use super::asleep::{Telling, Told, Waiting, help};
use super::body::{BodyLimits, Source, consume};
use super::cors::Cors;
use super::exchange::{exchange, refuse, run};
use super::forward::Forwarder;
use super::poll::{Parking, Poller};
use super::reply::DateCache;
use super::request::{Refusal, Request};
use super::sock::{Got, Sock};
use super::{Calls, Directory, Job, LINGER};
use crate::call::{ClientGone, Woken};
use crate::http1::fields::is_token_byte;
use crate::http1::parse_request;
use crate::metrics::EDGE;
use crate::pool::{Full, Gate, Pressure, Stop, Workers};

/// Room for one receive of more of a head while parked.
const PULL: usize = 2 * 1024;
/// Room for one receive of a head, and what a worker keeps between requests.
const ROOM: usize = 16 * 1024;
/// A larger buffer is given back after the request that needed it.
const KEPT_MAX: usize = 64 * 1024;

/// Receives at a time of what is dropped.
const LEAVE_BATCH: usize = 4;

/// A thread takes so many calls along one after another, then another thread goes
/// on: one that never sleeps uses up its share of the CPU, and the call in its
/// hands waits until the kernel lets it run again (at 128 callers 33 ms instead
/// of 10 at the 99th percentile).
const IN_A_ROW: usize = 4;

/// The answer to a request whose handler panicked.
const BUG: &[u8] = b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json; charset=utf-8\r\nConnection: close\r\nContent-Length: 36\r\n\r\n{\"message\":\"internal server error\"}\n";

/// A client's connection between requests.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) id: u64,
    pub(super) sock: Arc<Sock>,
    /// Known to the poller's epoll.
    pub(super) registered: bool,
    /// Bytes received and not used, while parked.
    pub(super) carry: Vec<u8>,
    scan: HeadScan,
    /// The poller saw that the head is worth parsing.
    try_now: bool,
    /// When the last answer was given, to learn how fast the client is.
    answered: Option<Instant>,
    /// The last request came within one linger after the answer before it.
    brisk: bool,
    /// When the first byte of an incomplete head arrived.
    head_since: Option<Instant>,
}

impl Conn {
    pub(super) fn new(id: u64, sock: Arc<Sock>) -> Conn {
        Conn { id, sock, registered: false, carry: Vec::new(), scan: HeadScan::default(), try_now: false, answered: None, brisk: false, head_since: None }
    }

    /// For the poller: takes bytes of a head that is not complete. A head that
    /// trickles in, or never ends, costs no worker.
    pub(super) fn pull(&mut self, max: usize) -> Pulled {
        self.carry.reserve(PULL);
        match self.sock.recv_now(&mut self.carry) {
            Got::Bytes(_) => {
                let since = *self.head_since.get_or_insert_with(Instant::now);
                // What begins like no method (TLS, for one) is refused at once.
                let strange = self.carry.first().is_some_and(|b| *b != b'\r' && !is_token_byte(*b));
                self.try_now = strange || self.carry.len() >= max || self.scan.may_have_ended(&self.carry);
                if self.try_now { Pulled::Serve } else { Pulled::Wait { since } }
            }
            Got::Nothing => Pulled::Nothing,
            Got::End | Got::Gone | Got::Late => Pulled::Close,
        }
    }

    /// No request of this client was answered yet.
    pub(super) fn is_fresh(&self) -> bool {
        self.answered.is_none()
    }

    /// For the poller: takes what is there. Whether that may be a whole request;
    /// if not, it is for a worker to find out what it is.
    pub(super) fn take_whole(&mut self) -> bool {
        if !self.carry.is_empty() {
            return true; // gathered already
        }
        self.carry.reserve(PULL);
        let room = self.carry.capacity() - self.carry.len();
        let whole = matches!(self.sock.recv_now(&mut self.carry), Got::Bytes(n) if n < room);
        self.try_now = true;
        whole
    }

    /// For the poller: drops what has come of the `left` bytes that are taken of
    /// a client after its last answer. How many are left; `None`: it can be closed.
    pub(super) fn take_leave(&mut self, mut left: usize) -> Option<usize> {
        let mut bytes = Vec::with_capacity(ROOM);
        for _ in 0..LEAVE_BATCH {
            bytes.clear();
            match self.sock.recv_now(&mut bytes) {
                Got::Bytes(n) => left = left.checked_sub(n)?,
                Got::Nothing => break,
                Got::End | Got::Gone | Got::Late => return None,
            }
        }
        Some(left)
    }

    /// A call was read from it, and the next request has not begun.
    pub(super) fn begin_call(&mut self) {
        self.brisk = self.answered.is_some_and(|at| at.elapsed() < LINGER);
        self.scan = HeadScan::default();
        self.head_since = None;
        self.try_now = !self.carry.is_empty();
    }
}

/// What an incomplete head needs next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pulled {
    /// More of it; its first byte came then.
    Wait {
        since: Instant,
    },
    Nothing,
    Serve,
    Close,
}

/// When an incomplete head is worth parsing again: when it may have ended, or
/// has doubled. A head that arrives byte by byte is not parsed for each.
#[derive(Debug, Default)]
struct HeadScan {
    seen: usize,
    next_try: usize,
}

impl HeadScan {
    fn due(&mut self, buf: &[u8], max: usize) -> bool {
        let due = buf.len() >= self.next_try || buf.len() >= max || self.may_have_ended(buf);
        if due {
            self.seen = buf.len();
            self.next_try = buf.len() * 2;
        }
        due
    }

    /// Whether an empty line has come since the last look.
    fn may_have_ended(&mut self, buf: &[u8]) -> bool {
        let tail = &buf[self.seen.saturating_sub(3).min(buf.len())..];
        self.seen = buf.len();
        tail.windows(2).any(|w| w == b"\n\n") || tail.windows(3).any(|w| w == b"\n\r\n")
    }
}

/// What a worker keeps from one connection to the next.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pub(super) inbuf: Vec<u8>,
    pub(super) out: Vec<u8>,
    pub(super) date: DateCache,
}

/// What all workers use.
pub(super) struct Shared {
    pub(super) limits: Limits,
    pub(super) body: BodyLimits,
    /// Of detached calls' bodies.
    pub(super) detached_body: BodyLimits,
    pub(super) api_token: Option<String>,
    pub(super) cors: Option<Cors>,
    pub(super) poller: Arc<Poller>,
    pub(super) stop: Stop,
    pub(super) calls: Arc<dyn Calls>,
    pub(super) directory: Arc<dyn Directory>,
    pub(super) forwarder: Forwarder,
    /// Set once they are there.
    pub(super) workers: OnceLock<Weak<Workers<Job, Scratch>>>,
    /// Who waits to be told that there is no container.
    pub(super) told: Told,
    /// Inside are answers of which the client has not taken all yet.
    pub(super) owed: Arc<Gate>,
}

impl Shared {
    pub(super) fn workers(&self) -> Option<Arc<Workers<Job, Scratch>>> {
        self.workers.get().and_then(Weak::upgrade)
    }
}

#[derive(Debug, Clone)]
pub(super) struct Limits {
    pub(super) head_bytes: usize,
    pub(super) head_time: Duration,
    pub(super) keep_alive: Duration,
    pub(super) patience: Duration,
    /// Every call's answer says where its time went.
    pub(super) timed: bool,
}

/// What becomes of a connection after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// The next request.
    Next,
    /// The answer was sent and is the last one.
    Close,
    /// The same, and the client may still be sending the request's body.
    CloseUnread,
    /// The client has left, or must see that the answer broke.
    Gone,
}

impl After {
    pub(super) fn answered(sent: Result<(), ClientGone>, keep: bool) -> After {
        match sent {
            Ok(()) if keep => After::Next,
            Ok(()) => After::Close,
            Err(ClientGone) => After::Gone,
        }
    }

    /// `skipped`: no byte of the body is still to come.
    pub(super) fn answered_early(sent: Result<(), ClientGone>, keep: bool, skipped: bool) -> After {
        if sent.is_ok() && !skipped { After::CloseUnread } else { After::answered(sent, keep) }
    }
}

enum Step {
    Request(Request),
    Refuse(Refusal),
    Park(Parking),
    Close,
}

/// What has come of a request.
pub(super) enum Done {
    /// The connection is here again; with it the call that waited for this
    /// one's container, if one did.
    Answered(Conn, After, Option<Box<Waiting>>),
    /// It waits for its turn without this thread.
    Asleep,
}

/// What a worker does when it is done with a connection.
enum Then {
    /// Goes on with the call that waited for its container.
    Woken(Box<Waiting>),
    /// Looks what else has come: clients crowd.
    Help,
    Nothing,
}

impl Then {
    fn go_on_with(next: Option<Box<Waiting>>) -> Then {
        next.map_or(Then::Nothing, Then::Woken)
    }
}

/// Serves a connection until it is quiet or closed, then the call that waited
/// for the container of its last one, and so on: for ever if the line never
/// ends, so where others wait for a thread of the cap it goes on in one beyond
/// it. A panic costs one connection: its client is told, if no answer was begun,
/// and the worker goes on.
pub(super) fn serve(shared: &Arc<Shared>, job: Job, scratch: &mut Scratch, pressure: Pressure<'_>) {
    let beyond_cap = matches!(&job, Job::Woken(waiting) if waiting.is_urgent());
    let telling = Telling::if_so(shared, &job);
    let mut job = Some(job);
    let mut served = 0;
    while let Some(one) = job.take().or_else(|| telling.as_ref().and_then(Telling::next)) {
        served += 1;
        let sock = Arc::clone(one.sock());
        match catch_unwind(AssertUnwindSafe(|| serve_one(shared, one, scratch, (pressure, beyond_cap)))) {
            Ok(Then::Woken(next)) if served >= IN_A_ROW || (!beyond_cap && pressure.is_high()) => next.go_on(),
            Ok(Then::Woken(next)) => job = Some(Job::Woken(next)),
            // Who is beyond the cap, or whom others wait for, has no time for that.
            Ok(Then::Help) if !beyond_cap && !pressure.is_high() => job = help(shared).map(Job::Conn),
            Ok(Then::Help | Then::Nothing) => {}
            Err(panic) => {
                after_panic(&sock);
                drop(sock);
                resume_unwind(panic);
            }
        }
    }
}

/// What the client of a request gets whose handler panicked.
pub(super) fn after_panic(sock: &Sock) {
    if sock.is_answering() {
        return sock.make_close_abrupt();
    }
    sock.send_now(BUG);
    sock.finish_sending();
}

fn serve_one(shared: &Arc<Shared>, job: Job, scratch: &mut Scratch, (pressure, beyond_cap): (Pressure<'_>, bool)) -> Then {
    let (mut conn, mut woken) = match job {
        Job::Conn(mut conn) => {
            conn.brisk = conn.answered.is_some_and(|at| at.elapsed() < LINGER);
            (conn, None)
        }
        Job::Woken(waiting) => {
            let Waiting { conn, asked, turn, .. } = *waiting;
            (conn, Some((asked, turn)))
        }
    };
    scratch.inbuf.clear();
    scratch.inbuf.append(&mut conn.carry);
    let mut linger = false;
    loop {
        let done = match woken.take() {
            Some((asked, turn)) => run(shared, conn, asked, turn, scratch),
            None => match next_request(shared, &mut conn, &mut scratch.inbuf, linger) {
                Step::Request(request) => {
                    EDGE.requests.add(1);
                    exchange(shared, conn, request, scratch)
                }
                Step::Refuse(refusal) => {
                    refuse(shared, conn, scratch, &refusal);
                    return Then::Nothing;
                }
                Step::Park(why) => {
                    park(shared, conn, scratch, why);
                    return Then::Nothing;
                }
                Step::Close => return Then::Nothing,
            },
        };
        let Done::Answered(back, after, next) = done else { return Then::Nothing };
        conn = back;
        match after {
            After::Next => {}
            After::Gone => return Then::go_on_with(next),
            After::Close if scratch.inbuf.is_empty() && !conn.sock.has_bytes() => return Then::go_on_with(next),
            After::Close | After::CloseUnread => {
                if let Some(next) = next {
                    next.go_on();
                }
                close_unread(shared, conn, scratch);
                return Then::Nothing;
            }
        }
        conn.sock.end_answer();
        if scratch.inbuf.capacity() > KEPT_MAX && scratch.inbuf.is_empty() {
            scratch.inbuf = Vec::new();
        }
        if let Some(next) = next {
            set_aside(shared, conn, scratch);
            return Then::Woken(next);
        }
        if beyond_cap {
            // It had a thread for the sake of its container; the next request of
            // this client has no more right to one than anybody's.
            set_aside(shared, conn, scratch);
            return Then::Nothing;
        }
        if scratch.inbuf.is_empty() && shared.poller.lately_crowded() {
            set_aside(shared, conn, scratch);
            return Then::Help;
        }
        // A worker waits a moment for the next request of a client that
        // is known to be brisk, unless others wait for the worker.
        linger = conn.brisk && !pressure.is_high();
    }
}

/// Leaves the connection to the poller.
fn park(shared: &Shared, mut conn: Conn, scratch: &Scratch, why: Parking) {
    let deadline = match (why, conn.head_since) {
        (Parking::Head, Some(since)) => since + shared.limits.head_time,
        _ => Instant::now() + shared.limits.keep_alive,
    };
    if why == Parking::Idle {
        conn.answered = Some(Instant::now());
    }
    conn.carry.extend_from_slice(&scratch.inbuf);
    shared.poller.park(conn, why, deadline);
}

/// Leaves the connection after an answer, for a call that waits: to the poller,
/// or to another worker if its next request has begun already.
fn set_aside(shared: &Shared, mut conn: Conn, scratch: &Scratch) {
    if scratch.inbuf.is_empty() {
        return park(shared, conn, scratch, Parking::Idle);
    }
    conn.carry.extend_from_slice(&scratch.inbuf);
    conn.try_now = true;
    if let Some(workers) = shared.workers()
        && let Err(Full(job)) = workers.give(Job::Conn(conn))
    {
        EDGE.refused_connections.add(1);
        super::poll::refuse(job.sock());
    }
}

/// Reads up to the end of a head and decides what it asks for.
fn next_request(shared: &Shared, conn: &mut Conn, inbuf: &mut Vec<u8>, mut linger: bool) -> Step {
    let max = shared.limits.head_bytes;
    let mut emptied = false;
    loop {
        if inbuf == b"\r\n" {
            inbuf.clear(); // some clients end a body with one too many
        }
        if !inbuf.is_empty() && (std::mem::take(&mut conn.try_now) || conn.scan.due(inbuf, max)) {
            match parse_request(inbuf, max) {
                Ok(Some(head)) => {
                    let request = Request::read(&head, shared.directory.as_ref(), shared.api_token.as_deref(), shared.cors.as_ref());
                    let len = head.len;
                    drop(head);
                    consume(inbuf, len);
                    conn.scan = HeadScan::default();
                    conn.head_since = None;
                    return request.map_or_else(Step::Refuse, Step::Request);
                }
                Ok(None) => {}
                Err(error) => return Step::Refuse(Refusal::Head(error)),
            }
        }
        if !inbuf.is_empty() {
            conn.head_since.get_or_insert_with(Instant::now);
        }
        let quiet = if inbuf.is_empty() { Parking::Idle } else { Parking::Head };
        if emptied {
            return Step::Park(quiet);
        }
        if inbuf.capacity() - inbuf.len() < ROOM / 2 {
            inbuf.reserve(ROOM);
        }
        let room = inbuf.capacity() - inbuf.len();
        let got = if linger && inbuf.is_empty() { conn.sock.recv_linger(inbuf) } else { conn.sock.recv_now(inbuf) };
        linger = false;
        match got {
            Got::Bytes(n) => emptied = n < room,
            Got::Nothing => return Step::Park(quiet),
            Got::End | Got::Gone | Got::Late => return Step::Close,
        }
    }
}

/// Closes after the last answer, where more was sent or may still come. The
/// poller waits for that, and at its end this thread.
pub(super) fn close_unread(shared: &Shared, conn: Conn, scratch: &mut Scratch) {
    let Err(conn) = shared.poller.see_off(conn) else { return };
    Source { sock: &conn.sock, inbuf: &mut scratch.inbuf, stop: &shared.stop }.drain();
}
