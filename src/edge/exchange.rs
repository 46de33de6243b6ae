//! One request from its head to its answer: checks that need the body, the
//! call, or what is said instead of one.

use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::answer::{ClientSide, Door, Outcome};
use super::asleep::{Asked, Manner, Waiting, lie_down, may_sleep};
use super::body::{BodyError, BodyLimits, Source};
use super::conn::{After, Conn, Done, Scratch, Shared, close_unread};
use super::follow;
use super::receipt::Receipt;
use super::reply::{DateCache, Reply};
use super::request::{Action, Refusal, Request};
use super::sock::Sock;
use crate::call::{Body, Call, CallError, ClientGone, DetachError, Detached, Woken};
use crate::calls::Turn;
use crate::http1::{BodyFraming, HeadError};
use crate::metrics::{self, EDGE, Labels, REQUESTS};
use crate::model::{FnSpec, Id};
use crate::respond::{Answer, call_answer, detach_answer};

/// What is taken of what a client sent beyond its request, before a close that waits
/// for nothing.
const READ_BEFORE_CLOSE: usize = 64 * 1024;

/// Answers one request, or lays its call into a line.
pub(super) fn exchange(shared: &Arc<Shared>, conn: Conn, mut request: Request, scratch: &mut Scratch) -> Done {
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
        Action::Call { door, method, spec, fields, detached, trigger, timed } => {
            match take_body(shared, if detached.is_some() { &shared.detached_body } else { &shared.body }, &mut reply, &mut source, framing, expects) {
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
            }
        }
        Action::Follow(asked) => match take_body(shared, &shared.body, &mut reply, &mut source, framing, expects) {
            Ok(_) => follow::answer(shared, &mut reply, asked),
            Err(after) => after,
        },
        Action::Forward(head) => match take_body(shared, &shared.body, &mut reply, &mut source, framing, expects) {
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

/// Says why there is no answer where no thread is left to wait for the client:
/// what it does not take at once is lost.
pub(super) fn say_now(shared: &Shared, conn: &Conn, asked: &Asked, error: &CallError) {
    // What was sent beyond it is read first: closing over unread bytes would send a
    // reset that overtakes the answer.
    conn.sock.recv_now(&mut Vec::with_capacity(READ_BEFORE_CLOSE));
    let (mut out, mut date) = (Vec::new(), DateCache::default());
    let manner = Manner { keep: false, ..asked.manner.clone() };
    let mut reply = Reply { patience: Duration::ZERO, ..reply(shared, &conn.sock, &mut out, &mut date, manner) };
    // Whether it arrives is not known to anyone who closes next.
    let _ = reply.message(&call_answer(error), Some(&asked.call.id));
    conn.sock.finish_sending();
}

/// Where callers of the function stand in line the call joins them and leaves
/// this thread; else it runs.
fn call_or_sleep(shared: &Arc<Shared>, mut conn: Conn, asked: Asked, scratch: &mut Scratch) -> Done {
    if !may_sleep(&asked.call, scratch.inbuf.len()) || !shared.calls.has_line(&asked.call.spec) {
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

/// The complete body; an error when the request was answered or its client left.
/// INVARIANT: a call exists only once its body is complete, so no client's
/// slowness or lie ever holds a container.
fn take_body(shared: &Shared, limits: &BodyLimits, reply: &mut Reply<'_>, source: &mut Source<'_>, framing: BodyFraming, expects: bool) -> Result<Body, After> {
    let too_long = matches!(framing, BodyFraming::Length(len) if limits.max != 0 && len > limits.max);
    let wanted = !matches!(framing, BodyFraming::None | BodyFraming::Length(0));
    if expects && wanted && !too_long && source.inbuf.is_empty() {
        source.sock.send_all([b"HTTP/1.1 100 Continue\r\n\r\n", &[], &[]], &shared.stop, shared.limits.patience).map_err(|ClientGone| After::Gone)?;
    }
    let error = match source.read(framing, limits) {
        Ok(body) => return Ok(body),
        Err(error) => error,
    };
    let answer = match error {
        BodyError::Cut => return Err(After::Gone),
        BodyError::TooLarge { len, max } => {
            EDGE.refused_too_large.add(1);
            Answer::new(413, format!("Content-Length too large for this server, {len} > max {max}{}", limits.of))
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
    let (accepted, id) = (call.accepted, call.id);
    let (status, sent) = match shared.calls.detach(call, how) {
        Ok(id) => {
            reply.status(202);
            reply.call_id(&id);
            reply.own_fields(false, false);
            (202, reply.finish(202, b""))
        }
        Err(error) => {
            if let DetachError::NotKept { cause } | DetachError::NotKnown { cause } = &error {
                log::error!("a detached call is not accepted: {cause}");
            }
            let answer = detach_answer(&error);
            // By its id can be seen what became of it.
            let id = Some(&id).filter(|_| matches!(error, DetachError::NotKnown { .. }));
            (answer.status, reply.message(&answer, id))
        }
    };
    REQUESTS.count(Labels { method, route: route_of(door), status, blame: metrics::SERVICE }, accepted.elapsed());
    After::answered(sent, reply.keep)
}

/// Runs a call, or goes on with one that waited for `turn`. INVARIANT: its
/// client gets exactly one answer, or sees the connection cut.
pub(super) fn run(shared: &Shared, conn: Conn, asked: Asked, turn: Option<Turn>, scratch: &mut Scratch) -> Done {
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
    if client.owes() {
        // Nobody waits for its client but this thread.
        if let Some(next) = client.take_next() {
            next.go_on();
        }
        let _inside = shared.owed.enter();
        client.pay();
    }
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
            // Its client may be slow to take even that: another has the container.
            if let Some(next) = client.take_next() {
                next.go_on();
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
pub(super) fn refuse(shared: &Shared, conn: Conn, scratch: &mut Scratch, refusal: &Refusal) {
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
        close_unread(shared, conn, scratch);
    }
}
