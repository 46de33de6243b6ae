//! One answer: waiting for it, judging it, passing it on.

use std::fs::File;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::fs::sendfile;
use rustix::io::Errno;

use super::filter::{bears_id, for_client};
use super::{Fate, FnRequest, Limits};
use crate::call::{AnswerHead, Body, CallError, Caller, ClientGone, WatchGuard};
use crate::http1::{self, BodyFraming, ChunkedDecoder, HeadError, ResponseHead};
use crate::pool::{Stop, Woke, wait_for};
use crate::uds::net::{Inbox, send_two};

/// Most interim (1xx) answers, and most foreign answers, before the real one.
const MAX_SKIPPED: u32 = 16;
/// How long a function may go on after its client left before it is given up.
const GRACE: Duration = Duration::from_secs(1);
/// A wait longer than this has the client watched: one that closed its end
/// looks as if it still reads until it is asked.
const WATCH_AFTER: Duration = Duration::from_millis(100);
/// Most bytes of a 502's or 504's body that are read to save the connection.
const MAX_DRAIN: u64 = 1024 * 1024;
/// Room made for one receive of a head, and of a long body.
const ROOM: usize = 4 * 1024;
const BODY_ROOM: usize = 64 * 1024;
/// Most bytes of a file given to the socket at once.
const FILE_STEP: usize = 1024 * 1024;
/// Receives after which the stop is looked at even while data is always ready.
const BUSY_RECEIVES: u32 = 64;

const CLOSED_EARLY: &str = "the function closed the connection before it answered";
const CUT_SHORT: &str = "the answer was cut short";

type Outcome = (Result<(), CallError>, Fate);

/// The part of the request that did not fit into the socket at once.
pub(super) struct Upload<'a> {
    head: &'a [u8],
    body: &'a [u8],
    file: Option<(&'a File, u64, u64)>,
}

impl<'a> Upload<'a> {
    pub(super) fn after(written: usize, head: &'a [u8], body: &'a Body) -> Upload<'a> {
        let of_head = written.min(head.len());
        let (bytes, file) = match body {
            Body::Memory(bytes) => (&bytes[written - of_head..], None),
            Body::File { file, len } => (&[][..], Some((file, 0, *len))),
        };
        Upload { head: &head[of_head..], body: bytes, file }
    }

    fn is_done(&self) -> bool {
        self.head.is_empty() && self.body.is_empty() && self.file.is_none_or(|(_, at, len)| at >= len)
    }

    /// One write of what fits. `Ok(false)`: the socket is full.
    fn step(&mut self, fd: BorrowedFd<'_>) -> Result<bool, Errno> {
        let result = if !self.head.is_empty() || !self.body.is_empty() {
            send_two(fd, self.head, self.body).map(|sent| {
                let of_head = sent.min(self.head.len());
                self.head = &self.head[of_head..];
                self.body = &self.body[sent - of_head..];
            })
        } else if let Some((file, at, len)) = &mut self.file {
            let want = usize::try_from(*len - *at).map_or(FILE_STEP, |left| left.min(FILE_STEP));
            match sendfile(fd, *file, Some(at), want) {
                Ok(0) => Err(Errno::IO), // the file is shorter than it was
                Ok(_) => Ok(()),
                Err(e) => Err(e),
            }
        } else {
            Ok(())
        };
        match result {
            Ok(()) => Ok(true),
            Err(Errno::AGAIN) => Ok(false),
            Err(Errno::INTR) => Ok(true),
            Err(e) => Err(e),
        }
    }
}

pub(super) struct Exchange<'a> {
    fd: BorrowedFd<'a>,
    /// The connection carried calls before: only an answer with the id counts.
    kept: bool,
    /// `None` once the request is whole, or nobody reads it any more.
    upload: Option<Upload<'a>>,
    request: &'a FnRequest<'a>,
    caller: &'a mut dyn Caller,
    limits: &'a Limits,
    stop: &'a Stop,
    inbox: &'a mut Inbox,
    held: &'a mut Vec<u8>,
    until: Instant,
    /// The client left: what comes is dropped, for a short while.
    gone: bool,
    /// Whether it was asked to be watched, and the watch.
    watched: bool,
    watch: Option<Box<dyn WatchGuard>>,
    /// Body bytes given to the caller, once `begin` was called.
    sent: Option<u64>,
    /// The connection may carry another call after this one.
    keep: bool,
    /// More is probably there: receive before polling.
    eager: bool,
    receives: u32,
}

/// What the head says about the rest.
#[derive(Clone, Copy)]
struct Plan {
    status: u16,
    head_len: usize,
    framing: BodyFraming,
    /// The answer is this call's: by its id, or because nothing else was ever
    /// asked on this connection.
    ours: bool,
    /// The connection may carry another call.
    keep: bool,
}

impl<'a> Exchange<'a> {
    #[allow(clippy::too_many_arguments, reason = "all of them are one call's, and named at the only call site")]
    pub(super) fn new(
        fd: BorrowedFd<'a>,
        kept: bool,
        upload: Upload<'a>,
        request: &'a FnRequest<'a>,
        caller: &'a mut dyn Caller,
        limits: &'a Limits,
        stop: &'a Stop,
        inbox: &'a mut Inbox,
        held: &'a mut Vec<u8>,
    ) -> Exchange<'a> {
        let upload = Some(upload).filter(|u| !u.is_done());
        Exchange {
            fd,
            kept,
            upload,
            request,
            caller,
            limits,
            stop,
            inbox,
            held,
            until: request.deadline,
            gone: false,
            watched: false,
            watch: None,
            sent: None,
            keep: true,
            eager: false,
            receives: 0,
        }
    }

    /// The whole exchange. Everything that ends it early is an error below and
    /// a `Discard` here.
    pub(super) fn run(&mut self) -> Outcome {
        match self.answer() {
            // Complete in time for the container; the client knows already.
            Ok((_, fate)) if self.gone => (Err(CallError::ClientGone), fate),
            Ok(outcome) => outcome,
            Err(_) if self.gone => (Err(CallError::ClientGone), Fate::Discard),
            Err(error) => (Err(self.after_begin(error)), Fate::Discard),
        }
    }

    /// Valid after `run`: whether the connection may carry another call.
    pub(super) fn may_keep(&self) -> bool {
        self.keep && self.upload.is_none() && self.inbox.is_empty()
    }

    /// Once part of an answer is with the client, an error can only break it.
    fn after_begin(&self, error: CallError) -> CallError {
        match (self.sent, error) {
            (None, error) => error,
            (Some(sent), CallError::NoAnswer { cause, .. } | CallError::BadAnswer { cause }) => CallError::Broken { sent, cause },
            (Some(sent), error) => CallError::Broken { sent, cause: error.to_string() },
        }
    }

    fn answer(&mut self) -> Result<Outcome, CallError> {
        let mut skipped = 0;
        let plan = loop {
            let plan = match self.next_head()? {
                Next::Delivered(outcome) => return Ok(outcome),
                Next::Head(plan) => plan,
            };
            if plan.status >= 200 && plan.ours {
                break plan;
            }
            if plan.status == 101 {
                return Err(CallError::InvalidAnswer { status: 101 });
            }
            skipped += 1;
            if skipped > MAX_SKIPPED {
                return Err(bad("too many interim answers"));
            }
            self.inbox.consume(plan.head_len);
            if plan.status >= 200 {
                // Somebody else's answer, late or doubled. This call's may still come.
                log::debug!("call {}: skipped an answer that is not its own", self.request.call_id);
                self.keep = false;
                self.read_body(plan.framing, &mut Nowhere)?;
            }
        };
        self.keep &= plan.keep;
        match plan.status {
            200 => self.deliver(plan),
            502 => Ok(self.refused(plan, CallError::FunctionFailed)),
            504 => Ok(self.refused(plan, CallError::FunctionTimeout)),
            status => Err(CallError::InvalidAnswer { status }),
        }
    }

    /// Waits for a complete head. A whole small answer that came with it is
    /// delivered at once, while its fields are at hand.
    fn next_head(&mut self) -> Result<Next, CallError> {
        let mut seen = 0;
        loop {
            let text = self.inbox.unread();
            // A head gets complete only with a line end; a dripping one is not
            // read again for each byte. The first bytes show garbage at once.
            if (seen == 0 && !text.is_empty()) || text[seen..].contains(&b'\n') {
                let parsed = http1::parse_response(text, self.limits.max_head).map_err(|e| self.head_error(e))?;
                if let Some(head) = parsed {
                    let plan = self.plan(&head)?;
                    let end = self.small_length(plan).map(|n| plan.head_len + n);
                    if let Some(end) = end.filter(|end| *end <= text.len()) {
                        self.keep &= plan.keep;
                        let told = if self.gone { Ok(()) } else { whole(self.caller, &head, &text[plan.head_len..end]) };
                        self.inbox.consume(end);
                        return Ok(Next::Delivered((told.map_err(|ClientGone| CallError::ClientGone), Fate::Reuse)));
                    }
                    return Ok(Next::Head(plan));
                }
            } else if text.len() >= self.limits.max_head {
                return Err(CallError::AnswerHeadTooBig { limit: self.limits.max_head });
            }
            seen = text.len();
            let begun = seen > 0;
            if self.fill(ROOM)? == 0 {
                return Err(no_answer(if begun { CUT_SHORT } else { CLOSED_EARLY }));
            }
        }
    }

    fn plan(&self, head: &ResponseHead<'_>) -> Result<Plan, CallError> {
        let framing = http1::response_framing(head, false).map_err(|e| self.head_error(e))?;
        let framed = matches!(framing, BodyFraming::Length(_) | BodyFraming::Chunked);
        let bears_id = bears_id(head, self.request.call_id);
        let keep = bears_id && framed && head.minor == 1 && http1::keep_alive(head.minor, &head.fields);
        Ok(Plan { status: head.status, head_len: head.len, framing, ours: bears_id || !self.kept, keep })
    }

    /// The length of a 200's body that is to be held until whole and is ours to
    /// deliver.
    fn small_length(&self, plan: Plan) -> Option<usize> {
        let BodyFraming::Length(n) = plan.framing else { return None };
        let within = self.limits.max_body == 0 || n <= self.limits.max_body;
        let n = usize::try_from(n).ok()?;
        (plan.status == 200 && within && n <= self.limits.hold && plan.ours).then_some(n)
    }

    fn head_error(&self, error: HeadError) -> CallError {
        match error {
            HeadError::TooLarge { limit } => CallError::AnswerHeadTooBig { limit },
            other => CallError::BadAnswer { cause: other.to_string() },
        }
    }

    /// A 200 whose body is not all there yet, or not small, or not counted.
    fn deliver(&mut self, plan: Plan) -> Result<Outcome, CallError> {
        if let Some(n) = self.small_length(plan) {
            return self.deliver_small(plan, n);
        }
        let max = self.limits.max_body;
        if let BodyFraming::Length(n) = plan.framing
            && max != 0
            && n > max
        {
            self.keep = false;
            return Ok((Err(CallError::AnswerTooBig { limit: max }), Fate::Reuse));
        }
        let head = self.inbox.unread()[..plan.head_len].to_vec();
        self.inbox.consume(plan.head_len);
        let mut passing = Passing { head, len: None, total: 0 };
        if let BodyFraming::Length(n) = plan.framing {
            passing.len = Some(n);
            self.begin(&passing)?;
        }
        self.held.clear();
        match self.read_body(plan.framing, &mut passing) {
            Ok(()) => {}
            Err(CallError::AnswerTooBig { limit }) => {
                // The function is well, only talkative.
                self.keep = false;
                return Ok((Err(self.after_begin(CallError::AnswerTooBig { limit })), Fate::Reuse));
            }
            Err(e) => return Err(e),
        }
        if self.gone {
            return Ok((Ok(()), Fate::Reuse));
        }
        let told = if self.sent.is_some() {
            self.caller.end()
        } else {
            let head = parse_again(&passing.head, self.limits.max_head)?;
            whole(self.caller, &head, self.held)
        };
        Ok((told.map_err(|ClientGone| CallError::ClientGone), Fate::Reuse))
    }

    fn deliver_small(&mut self, plan: Plan, n: usize) -> Result<Outcome, CallError> {
        let end = plan.head_len + n;
        while self.inbox.unread().len() < end {
            let missing = end - self.inbox.unread().len();
            if self.fill(missing)? == 0 {
                return Err(no_answer(CUT_SHORT));
            }
        }
        let mut told = Ok(());
        if !self.gone {
            let text = self.inbox.unread();
            let head = parse_again(&text[..plan.head_len], self.limits.max_head)?;
            told = whole(self.caller, &head, &text[plan.head_len..end]);
        }
        self.inbox.consume(end);
        Ok((told.map_err(|ClientGone| CallError::ClientGone), Fate::Reuse))
    }

    /// A 502 or 504: its body is read, within bounds, and dropped.
    fn refused(&mut self, plan: Plan, verdict: CallError) -> Outcome {
        self.inbox.consume(plan.head_len);
        self.until = self.until.min(Instant::now() + GRACE);
        let mut sink = Counted { left: MAX_DRAIN };
        match self.read_body(plan.framing, &mut sink) {
            Ok(()) => (Err(verdict), Fate::Reuse),
            Err(CallError::AnswerTooBig { .. }) => {
                self.keep = false;
                (Err(verdict), Fate::Reuse)
            }
            Err(_) => (Err(verdict), Fate::Discard),
        }
    }

    /// Takes the body off the connection piece by piece, to its end.
    fn read_body(&mut self, framing: BodyFraming, sink: &mut dyn Sink) -> Result<(), CallError> {
        let mut left = match framing {
            BodyFraming::None => 0,
            BodyFraming::Length(n) => n,
            BodyFraming::Chunked => return self.read_chunks(sink),
            BodyFraming::UntilClose => u64::MAX,
        };
        let counted = framing != BodyFraming::UntilClose;
        while left > 0 {
            let here = self.inbox.unread().len();
            if here == 0 {
                match self.fill(BODY_ROOM)? {
                    0 if counted => return Err(no_answer(CUT_SHORT)),
                    0 => return Ok(()),
                    _ => continue,
                }
            }
            let n = usize::try_from(left).map_or(here, |left| left.min(here));
            sink.take(self, 0, n)?;
            self.inbox.consume(n);
            if counted {
                left -= n as u64;
            }
        }
        Ok(())
    }

    fn read_chunks(&mut self, sink: &mut dyn Sink) -> Result<(), CallError> {
        let mut decoder = ChunkedDecoder::new();
        loop {
            if self.inbox.is_empty() && self.fill(BODY_ROOM)? == 0 {
                return Err(no_answer(CUT_SHORT));
            }
            let step = decoder.decode(self.inbox.unread()).map_err(|e| CallError::BadAnswer { cause: e.to_string() })?;
            let (consumed, data, done) = (step.consumed, step.data.len(), step.done);
            if data > 0 {
                sink.take(self, consumed - data, data)?;
            }
            self.inbox.consume(consumed);
            if done {
                return Ok(());
            }
        }
    }

    fn begin(&mut self, passing: &Passing) -> Result<(), CallError> {
        if !self.gone {
            let head = parse_again(&passing.head, self.limits.max_head)?;
            let fields = for_client(&head);
            self.sent = Some(0);
            if self.caller.begin(&AnswerHead { fields: &fields }, passing.len).is_err() {
                self.client_left();
            }
        }
        Ok(())
    }

    fn client_left(&mut self) {
        if !self.gone {
            self.gone = true;
            self.watch = None;
            self.until = self.until.min(Instant::now() + GRACE);
        }
    }

    /// Receives something, pushing the rest of the request meanwhile; 0 is the
    /// end of the connection.
    fn fill(&mut self, room: usize) -> Result<usize, CallError> {
        let mut poll_first = !self.eager;
        self.receives += 1;
        loop {
            let mut stuffed = true;
            if let Some(upload) = &mut self.upload {
                match upload.step(self.fd) {
                    Ok(more) => {
                        stuffed = !more;
                        if upload.is_done() {
                            self.upload = None;
                        }
                    }
                    Err(Errno::IO) => return Err(CallError::Internal("the stored request body is shorter than its length".into())),
                    // Nobody reads on; an answer may be there all the same.
                    Err(_) => {
                        self.upload = None;
                        self.keep = false;
                    }
                }
            }
            if poll_first && (stuffed || self.upload.is_none()) {
                self.wait()?;
            } else if Instant::now() >= self.until {
                return Err(self.timed_out());
            }
            if self.receives > BUSY_RECEIVES && self.stop.fired() {
                return Err(CallError::Draining);
            }
            match self.inbox.fill(self.fd, room) {
                Ok(n) => {
                    self.eager = self.inbox.is_full();
                    return Ok(n);
                }
                Err(Errno::AGAIN) => poll_first = true,
                Err(Errno::CONNRESET | Errno::PIPE) => return Err(no_answer("the function reset the connection")),
                Err(e) => return Err(no_answer_with(format!("the answer could not be read ({e})"))),
            }
        }
    }

    fn wait(&mut self) -> Result<(), CallError> {
        loop {
            let interest = if self.upload.is_some() { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
            let peer = if self.gone { None } else { self.caller.socket() };
            // Once an answer begins, writing it tells whether the client is there.
            let watch_at =
                if self.watched || self.gone || self.sent.is_some() { None } else { Some(Instant::now() + WATCH_AFTER).filter(|at| *at < self.until) };
            match wait_for(self.fd, interest, peer, Some(self.stop), Some(watch_at.unwrap_or(self.until))) {
                // A client that is gone for good shows on its socket, so there
                // is nothing to be told.
                Ok(Woke::Deadline) if watch_at.is_some() => {
                    self.watched = true;
                    self.watch = self.caller.watch(Arc::new(|| {}));
                }
                Ok(Woke::Ready) => return Ok(()),
                Ok(Woke::PeerGone) => self.client_left(),
                Ok(Woke::Stop) => return Err(CallError::Draining),
                Ok(Woke::Deadline) => return Err(self.timed_out()),
                Err(e) => return Err(CallError::Internal(format!("poll failed: {e}"))),
            }
        }
    }

    fn timed_out(&self) -> CallError {
        CallError::Timeout { limit: self.request.timeout }
    }
}

enum Next {
    Head(Plan),
    Delivered(Outcome),
}

/// Where the pieces of a body go; each is at `at..at + n` of the unread bytes.
trait Sink {
    fn take(&mut self, exchange: &mut Exchange<'_>, at: usize, n: usize) -> Result<(), CallError>;
}

/// Nowhere.
struct Nowhere;

impl Sink for Nowhere {
    fn take(&mut self, _: &mut Exchange<'_>, _: usize, _: usize) -> Result<(), CallError> {
        Ok(())
    }
}

/// Nowhere, up to so many bytes.
struct Counted {
    left: u64,
}

impl Sink for Counted {
    fn take(&mut self, _: &mut Exchange<'_>, _: usize, n: usize) -> Result<(), CallError> {
        self.left = self.left.checked_sub(n as u64).ok_or(CallError::AnswerTooBig { limit: MAX_DRAIN })?;
        Ok(())
    }
}

/// To the client: held while it is small and its length not known, then
/// streamed.
struct Passing {
    head: Vec<u8>,
    len: Option<u64>,
    total: u64,
}

impl Sink for Passing {
    fn take(&mut self, exchange: &mut Exchange<'_>, at: usize, n: usize) -> Result<(), CallError> {
        self.total += n as u64;
        let max = exchange.limits.max_body;
        if max != 0 && self.total > max {
            return Err(CallError::AnswerTooBig { limit: max });
        }
        if exchange.gone {
            return Ok(());
        }
        if exchange.sent.is_none() {
            if exchange.held.len() + n <= exchange.limits.hold {
                exchange.held.extend_from_slice(&exchange.inbox.unread()[at..at + n]);
                return Ok(());
            }
            exchange.begin(self)?;
            if !exchange.gone && !exchange.held.is_empty() {
                let told = exchange.caller.data(exchange.held);
                exchange.count(told, exchange.held.len());
            }
            exchange.held.clear();
        }
        if !exchange.gone {
            let told = exchange.caller.data(&exchange.inbox.unread()[at..at + n]);
            exchange.count(told, n);
        }
        Ok(())
    }
}

impl Exchange<'_> {
    fn count(&mut self, told: Result<(), ClientGone>, n: usize) {
        match told {
            Ok(()) => self.sent = Some(self.sent.unwrap_or(0) + n as u64),
            Err(ClientGone) => self.client_left(),
        }
    }
}

fn whole(caller: &mut dyn Caller, head: &ResponseHead<'_>, body: &[u8]) -> Result<(), ClientGone> {
    let fields = for_client(head);
    caller.whole(&AnswerHead { fields: &fields }, body)
}

/// The same bytes were parsed before, so this cannot fail.
fn parse_again(bytes: &[u8], max_head: usize) -> Result<ResponseHead<'_>, CallError> {
    match http1::parse_response(bytes, max_head) {
        Ok(Some(head)) => Ok(head),
        Ok(None) | Err(_) => Err(CallError::Internal("an answer's head changed while it was read".into())),
    }
}

fn no_answer(cause: &'static str) -> CallError {
    no_answer_with(cause.to_owned())
}

fn no_answer_with(cause: String) -> CallError {
    CallError::NoAnswer { cause, exit: None }
}

fn bad(cause: &'static str) -> CallError {
    CallError::BadAnswer { cause: cause.to_owned() }
}
