//! One client connection in a worker's hands: read a request, answer it, again
//! until there is nothing more to read; then it is parked.

use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::answer::{ClientSide, Door, Outcome};
use super::asleep::{Asked, Manner, Waiting, lie_down};
use super::body::{BodyError, BodyLimits, Source, consume};
use super::cors::Cors;
use super::follow;
use super::forward::Forwarder;
use super::poll::{Parking, Poller};
use super::receipt::Receipt;
use super::reply::{DateCache, Reply};
use super::request::{Action, Refusal, Request};
use super::sock::{Got, Sock};
use super::{Calls, Directory, Job, LINGER};
use crate::call::{Body, Call, CallError, ClientGone, DetachError, Detached, Woken};
use crate::calls::Turn;
use crate::http1::fields::is_token_byte;
use crate::http1::{BodyFraming, HeadError, parse_request};
use crate::metrics::{self, EDGE, Labels, REQUESTS};
use crate::model::{FnSpec, Id};
use crate::pool::{Full, Pressure, Stop, Workers};
use crate::respond::{Answer, call_answer, detach_answer};

/// Room for one receive of more of a head while parked.
const PULL: usize = 2 * 1024;
/// Room for one receive of a head, and what a worker keeps between requests.
const ROOM: usize = 16 * 1024;
/// A larger buffer is given back after the request that needed it.
const KEPT_MAX: usize = 64 * 1024;

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
        self.carry.reserve(PULL);
        let room = self.carry.capacity() - self.carry.len();
        let whole = matches!(self.sock.recv_now(&mut self.carry), Got::Bytes(n) if n < room);
        self.try_now = true;
        whole
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
    inbuf: Vec<u8>,
    out: Vec<u8>,
    date: DateCache,
}

/// What all workers use.
pub(super) struct Shared {
    pub(super) limits: Limits,
    pub(super) body: BodyLimits,
    pub(super) api_token: Option<String>,
    pub(super) cors: Option<Cors>,
    pub(super) poller: Arc<Poller>,
    pub(super) stop: Stop,
    pub(super) calls: Arc<dyn Calls>,
    pub(super) directory: Arc<dyn Directory>,
    pub(super) forwarder: Forwarder,
    /// Set once they are there.
    pub(super) workers: OnceLock<Weak<Workers<Job, Scratch>>>,
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
    fn answered_early(sent: Result<(), ClientGone>, keep: bool, skipped: bool) -> After {
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
enum Done {
    /// The connection is here again; with it the call that waited for this
    /// one's container, if one did.
    Answered(Conn, After, Option<Box<Waiting>>),
    /// It waits for its turn without this thread.
    Asleep,
}

/// Serves a connection until it is quiet or closed, then the call that waited
/// for the container of its last one, and so on. A panic costs one connection:
/// its client is told, if no answer was begun, and the worker goes on.
pub(super) fn serve(shared: &Arc<Shared>, job: Job, scratch: &mut Scratch, pressure: Pressure<'_>) {
    let mut job = Some(job);
    while let Some(one) = job.take() {
        let sock = Arc::clone(one.sock());
        match catch_unwind(AssertUnwindSafe(|| serve_one(shared, one, scratch, pressure))) {
            Ok(next) => job = next.map(Job::Woken),
            Err(panic) => {
                if !sock.is_answering() {
                    sock.send_now(BUG);
                    sock.finish_sending();
                } else {
                    sock.make_close_abrupt();
                }
                drop(sock);
                resume_unwind(panic);
            }
        }
    }
}

fn serve_one(shared: &Arc<Shared>, job: Job, scratch: &mut Scratch, pressure: Pressure<'_>) -> Option<Box<Waiting>> {
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
                    refuse(shared, &conn, scratch, &refusal);
                    return None;
                }
                Step::Park(why) => {
                    park(shared, conn, scratch, why);
                    return None;
                }
                Step::Close => return None,
            },
        };
        let Done::Answered(back, after, next) = done else { return None };
        conn = back;
        match after {
            After::Next => {}
            After::Gone => return next,
            After::Close if scratch.inbuf.is_empty() && !conn.sock.has_bytes() => return next,
            After::Close | After::CloseUnread => {
                if let Some(next) = next {
                    next.go_on();
                }
                linger_and_close(shared, &conn, scratch);
                return None;
            }
        }
        conn.sock.end_answer();
        if scratch.inbuf.capacity() > KEPT_MAX && scratch.inbuf.is_empty() {
            scratch.inbuf = Vec::new();
        }
        if next.is_some() {
            set_aside(shared, conn, scratch);
            return next;
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

/// Answers one request, or lays its call into a line.
fn exchange(shared: &Arc<Shared>, conn: Conn, mut request: Request, scratch: &mut Scratch) -> Done {
    // A panic here is one in a handler; nothing else can come of it.
    let _ = crate::fault::at("edge.request");
    let mut manner = Manner { minor: request.minor, head_only: request.head_only, keep: request.keep, origin: request.origin.take() };
    let Scratch { inbuf, out, date } = scratch;
    let mut source = Source { sock: &conn.sock, inbuf, stop: &shared.stop };
    let mut reply = reply(shared, &conn.sock, out, date, manner.clone());
    if shared.poller.draining() {
        EDGE.refused_draining.add(1);
        reply.keep = false;
        let after = answer_early(&mut reply, &mut source, request.framing, &call_answer(&CallError::Draining));
        return Done::Answered(conn, after, None);
    }
    let Request { framing, action, accepted, expects, .. } = request;
    let after = match action {
        Action::Answer(answer) => answer_early(&mut reply, &mut source, framing, &answer),
        Action::Unauthorized => {
            EDGE.refused_token.add(1);
            answer_early(&mut reply, &mut source, framing, &Answer::new(401, "the management API needs Authorization: Bearer <HOB_API_TOKEN>"))
        }
        Action::Preflight => bare(shared, &mut reply, &mut source, framing, 200),
        Action::ForeignOrigin => bare(shared, &mut reply, &mut source, framing, 403),
        Action::Call { door, method, spec, fields, detached, trigger, timed } => match take_body(shared, &mut reply, &mut source, framing, expects) {
            Ok(body) => {
                let call = Call { id: Id::new(), spec, fields, body, accepted, trigger };
                match detached {
                    Some(how) => detach(shared, &mut reply, &how, (door, method), call),
                    None => {
                        manner.keep = reply.keep;
                        let asked = Asked { call, manner, door, method, timed, read: Instant::now() };
                        return call_or_sleep(shared, conn, asked, scratch);
                    }
                }
            }
            Err(after) => after,
        },
        Action::Follow(asked) => match take_body(shared, &mut reply, &mut source, framing, expects) {
            Ok(_) => follow::answer(shared, &mut reply, asked),
            Err(after) => after,
        },
        Action::Forward(head) => match take_body(shared, &mut reply, &mut source, framing, expects) {
            Ok(mut body) => {
                let sent = shared.forwarder.forward(&head, &mut body, &mut reply);
                After::answered(sent, reply.keep)
            }
            Err(after) => after,
        },
    };
    Done::Answered(conn, after, None)
}

fn reply<'a>(shared: &'a Shared, sock: &'a Sock, out: &'a mut Vec<u8>, date: &'a mut DateCache, manner: Manner) -> Reply<'a> {
    let Manner { minor, head_only, keep, origin } = manner;
    Reply { sock, stop: &shared.stop, out, date, patience: shared.limits.patience, minor, head_only, keep, origin }
}

/// Where callers of the function stand in line the call joins them and leaves
/// this thread; else it runs.
fn call_or_sleep(shared: &Arc<Shared>, mut conn: Conn, asked: Asked, scratch: &mut Scratch) -> Done {
    if !shared.calls.has_line(&asked.call.spec) {
        return run(shared, conn, asked, None, scratch);
    }
    conn.carry.append(&mut scratch.inbuf);
    match lie_down(shared, conn, asked) {
        Ok(()) => Done::Asleep,
        Err(waiting) => {
            let Waiting { mut conn, asked, .. } = *waiting;
            scratch.inbuf.append(&mut conn.carry);
            run(shared, conn, asked, None, scratch)
        }
    }
}

/// An answer that does not depend on the body. Without all of the body here,
/// the connection can't go on.
fn answer_early(reply: &mut Reply<'_>, source: &mut Source<'_>, framing: BodyFraming, answer: &Answer) -> After {
    let skipped = source.skip(framing);
    reply.keep &= skipped;
    let sent = reply.message(answer, None);
    After::answered_early(sent, reply.keep, skipped)
}

/// An empty answer to a page of another origin.
fn bare(shared: &Shared, reply: &mut Reply<'_>, source: &mut Source<'_>, framing: BodyFraming, status: u16) -> After {
    let skipped = source.skip(framing);
    reply.keep &= skipped;
    reply.status(status);
    if let (200, Some(cors)) = (status, &shared.cors) {
        for (name, value) in cors.preflight() {
            reply.field(name, value.as_bytes());
        }
        reply.field("Vary", b"Access-Control-Request-Method, Access-Control-Request-Headers");
    }
    reply.own_fields(false, false);
    let sent = reply.finish(status, b"");
    After::answered_early(sent, reply.keep, skipped)
}

/// Closes after the last answer. What the client has sent beyond it, or still
/// sends, is taken for a moment: a close over bytes that nobody read resets
/// the connection, and the answer may be lost on its way.
fn linger_and_close(shared: &Shared, conn: &Conn, scratch: &mut Scratch) {
    conn.sock.finish_sending();
    Source { sock: &conn.sock, inbuf: &mut scratch.inbuf, stop: &shared.stop }.drain();
}

/// The complete body; an error when the request was answered or its client left.
/// INVARIANT: a call exists only once its body is complete, so no client's
/// slowness or lie ever holds a container.
fn take_body(shared: &Shared, reply: &mut Reply<'_>, source: &mut Source<'_>, framing: BodyFraming, expects: bool) -> Result<Body, After> {
    let too_long = matches!(framing, BodyFraming::Length(len) if shared.body.max != 0 && len > shared.body.max);
    let wanted = !matches!(framing, BodyFraming::None | BodyFraming::Length(0));
    if expects && wanted && !too_long && source.inbuf.is_empty() {
        source.sock.send_all([b"HTTP/1.1 100 Continue\r\n\r\n", &[], &[]], &shared.stop, shared.limits.patience).map_err(|ClientGone| After::Gone)?;
    }
    let error = match source.read(framing, &shared.body) {
        Ok(body) => return Ok(body),
        Err(error) => error,
    };
    let answer = match error {
        BodyError::Cut => return Err(After::Gone),
        BodyError::TooLarge { len, max } => {
            EDGE.refused_too_large.add(1);
            Answer::new(413, format!("Content-Length too large for this server, {len} > max {max}"))
        }
        BodyError::Silent(limit) => {
            EDGE.refused_too_slow.add(1);
            Answer::new(408, format!("the request's body did not arrive: nothing came for {} s", limit.as_secs()))
        }
        BodyError::Chunks(error) => {
            EDGE.refused_malformed.add(1);
            Answer::new(400, format!("Bad request: {error}"))
        }
        BodyError::Store(error) => {
            log::error!("a request body cannot be kept in {}: {error}", shared.body.folder.display());
            match error.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Answer::new(507, "the server has no room to keep the request's body: its disk is full"),
                _ if shortage(&error) => Answer { status: 503, message: "Timed out - server too busy: no descriptor is left".into(), retry_after_s: Some(1) },
                _ => Answer::new(500, "internal server error"),
            }
        }
    };
    reply.keep = false;
    Err(After::answered_early(reply.message(&answer, None), false, false))
}

/// It will pass: the process or the system has too many files open.
fn shortage(error: &std::io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

/// Keeps a call for later: 202 once it is on disk.
fn detach(shared: &Shared, reply: &mut Reply<'_>, how: &Detached, (door, method): (Door, &'static str), call: Call) -> After {
    let accepted = call.accepted;
    let (status, sent) = match shared.calls.detach(call, how) {
        Ok(id) => {
            reply.status(202);
            reply.call_id(&id);
            reply.own_fields(false, false);
            (202, reply.finish(202, b""))
        }
        Err(error) => {
            if let DetachError::NotKept { cause } = &error {
                log::error!("a detached call is not accepted: {cause}");
            }
            let answer = detach_answer(&error);
            (answer.status, reply.message(&answer, None))
        }
    };
    REQUESTS.count(Labels { method, route: route_of(door), status, blame: metrics::SERVICE }, accepted.elapsed());
    After::answered(sent, reply.keep)
}

/// Runs a call, or goes on with one that waited for `turn`. INVARIANT: its
/// client gets exactly one answer, or sees the connection cut.
fn run(shared: &Shared, conn: Conn, asked: Asked, turn: Option<Turn>, scratch: &mut Scratch) -> Done {
    let Asked { mut call, manner, door, method, timed, read } = asked;
    let reply = reply(shared, &conn.sock, &mut scratch.out, &mut scratch.date, manner);
    let mut client = ClientSide::new(reply, &conn.sock, &shared.poller, conn.id, call.id, door);
    if timed || shared.limits.timed {
        client.receipt = Some(Receipt::new(call.accepted, read));
    }
    let result = match catch_unwind(AssertUnwindSafe(|| shared.calls.prepare(&mut call).and_then(|()| shared.calls.submit(&call, &mut client, turn)))) {
        Ok(result) => result,
        Err(_) => {
            log::error!("call {} of function {} panicked", call.id, fn_name(&call.spec));
            client.reply.keep = false;
            Err(CallError::Internal("a panic".to_owned()))
        }
    };
    let blamed = result.as_ref().is_err_and(CallError::blames_function);
    let after = match (client.outcome(), result) {
        (Outcome::Whole, Ok(())) => After::answered(Ok(()), client.reply.keep),
        // The answer is whole but what it came from is not sound.
        (Outcome::Whole, Err(_)) => After::Close,
        (Outcome::Lost, _) => After::Gone,
        (Outcome::Broken, _) => {
            EDGE.cut_answers.add(1);
            client.reply.cut();
            After::Gone
        }
        (Outcome::Unanswered, Err(CallError::ClientGone)) => After::Gone,
        (Outcome::Unanswered, result) => {
            let error = result.err().unwrap_or_else(|| CallError::Internal("no answer was given".to_owned()));
            if let CallError::Internal(text) = &error {
                log::error!("call {} of function {}: {text}", call.id, fn_name(&call.spec));
            }
            After::answered(client.fail(&error), client.reply.keep)
        }
    };
    count(&client, method, blamed, call.accepted.elapsed());
    let next = client.take_next();
    Done::Answered(conn, after, next)
}

/// One more answered call. A client that left before its answer counts with
/// 444, as with the original.
fn count(client: &ClientSide<'_>, method: &'static str, blamed: bool, took: Duration) {
    let (status, replaced) = client.told();
    let route = route_of(client.door());
    let blame = if blamed || replaced { metrics::USER } else { metrics::SERVICE };
    let status = status.unwrap_or(444);
    probe::probe!(hob, reply, client.id().as_str().as_ptr(), status, took.as_micros());
    REQUESTS.count(Labels { method, route, status, blame }, took);
}

/// As metrics name it.
const fn route_of(door: Door) -> &'static str {
    match door {
        Door::Invoke => metrics::INVOKE,
        Door::Trigger => metrics::TRIGGER,
    }
}

fn fn_name(spec: &FnSpec) -> &str {
    &spec.fn_name
}

/// Answers a request that can't be understood, and closes.
fn refuse(shared: &Shared, conn: &Conn, scratch: &mut Scratch, refusal: &Refusal) {
    let Scratch { out, date, .. } = scratch;
    let mut reply =
        Reply { sock: &conn.sock, stop: &shared.stop, out, date, patience: shared.limits.patience, minor: 1, head_only: false, keep: false, origin: None };
    let sent = match refusal {
        Refusal::Head(error @ (HeadError::TooLarge { .. } | HeadError::TooManyFields)) => {
            EDGE.refused_too_large.add(1);
            reply.status(error.status());
            reply.field("Content-Type", b"text/plain; charset=utf-8");
            reply.own_fields(false, false);
            reply.finish(error.status(), b"431 Request Header Fields Too Large")
        }
        Refusal::Head(error) => {
            EDGE.refused_malformed.add(1);
            reply.message(&Answer::new(error.status(), format!("Bad request: {error}")), None)
        }
        Refusal::Bad(what) => {
            EDGE.refused_malformed.add(1);
            reply.message(&Answer::new(400, format!("Bad request: {what}")), None)
        }
        Refusal::Expectation => {
            reply.status(417);
            reply.own_fields(false, false);
            reply.finish(417, b"")
        }
    };
    if sent.is_ok() {
        linger_and_close(shared, conn, scratch);
    }
}
