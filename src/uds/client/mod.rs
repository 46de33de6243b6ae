//! A blocking HTTP/1.1 client over Unix sockets, for the Docker engine and the
//! management API's front end.
//!
//! Owns: connecting, a few kept-alive connections, request and response on
//! the wire, deadlines. Called by: `docker`, `edge` (forward). Blocks on: poll
//! of its socket, each phase with a deadline of its own; a body's reader can
//! be woken by its `Interrupter`, everything by a `Stop`. Does not: follow redirects, decode content,
//! speak TLS, know what it asks for.

mod body;
mod error;
#[cfg(test)]
mod tests;

use std::io::Read;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::event::PollFlags;
use rustix::io::Errno;

use super::net::{Inbox, Peek, dial, pause, peek, send_two};
use crate::http1::{self, BodyFraming, fields};
use crate::pool::{Stop, Woke, wait_for};

pub use body::{BodyReader, Interrupter};
pub use error::{ClientError, Phase};

/// Most bytes of a response head.
const MAX_HEAD: usize = 64 * 1024;
/// Most interim (1xx) responses before the final one.
const MAX_INTERIM: u32 = 16;
/// Room made for one receive.
const ROOM: usize = 8 * 1024;
/// Room made for one receive of a long body, and the unit a body is sent in.
const BODY_ROOM: usize = 64 * 1024;

/// A server behind a Unix socket. Cheap to share; each request uses one
/// connection, kept for the next when the response allows it.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    idle: Arc<Idle>,
    /// Ends every wait for a response.
    stop: Option<Arc<Stop>>,
}

/// Connections between requests.
#[derive(Debug)]
struct Idle {
    max: usize,
    connections: Mutex<Vec<OwnedFd>>,
}

impl Idle {
    fn put(&self, fd: OwnedFd) {
        let mut connections = self.connections.lock();
        if connections.len() < self.max {
            connections.push(fd);
        }
    }

    /// The most recently used connection that is open and silent.
    fn take(&self) -> Option<OwnedFd> {
        loop {
            let fd = self.connections.lock().pop()?;
            if peek(&fd) == Peek::Quiet {
                return Some(fd);
            }
        }
    }
}

/// A connection that carries a request.
#[derive(Debug)]
struct Conn {
    fd: OwnedFd,
    interrupted: AtomicBool,
    /// An interrupter exists.
    interruptible: AtomicBool,
}

/// One request. `Host` and the framing fields are written by the client.
#[derive(Debug)]
pub struct Request<'a> {
    pub method: &'a str,
    /// Path and query, already encoded.
    pub target: &'a str,
    pub fields: &'a [(&'a str, &'a str)],
    pub body: RequestBody<'a>,
    pub connect_within: Duration,
    /// From the end of the request to the end of the response's head. While
    /// the body is sent: the longest silence of the server.
    pub head_within: Duration,
    /// Longest silence between bytes of the response's body; `None` waits for
    /// ever (event streams: keep an `Interrupter`).
    pub idle_within: Option<Duration>,
}

/// A request's body.
pub enum RequestBody<'a> {
    Empty,
    Bytes(&'a [u8]),
    /// Streamed; sent in chunks when the length is not known.
    Reader {
        reader: &'a mut dyn Read,
        len: Option<u64>,
    },
}

impl std::fmt::Debug for RequestBody<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            RequestBody::Empty => f.write_str("Empty"),
            RequestBody::Bytes(bytes) => write!(f, "Bytes({})", bytes.len()),
            RequestBody::Reader { len, .. } => write!(f, "Reader({len:?})"),
        }
    }
}

/// A response whose head has arrived.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    head: Vec<u8>,
    fields: Vec<(Range<usize>, Range<usize>)>,
    framing: BodyFraming,
    body: BodyReader,
}

impl Client {
    /// A client of the server at `path`; connects when first asked to send.
    pub fn new(path: impl Into<PathBuf>, max_idle: usize) -> Client {
        Client { path: path.into(), idle: Arc::new(Idle { max: max_idle, connections: Mutex::new(Vec::new()) }), stop: None }
    }

    /// Once `stop` has fired, every wait for a response, of now and later,
    /// ends with `Interrupted`.
    pub fn stopped_by(self, stop: Arc<Stop>) -> Client {
        Client { stop: Some(stop), ..self }
    }

    /// The server's socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Sends a request and waits for the head of its response. A kept
    /// connection that turns out closed before any byte of a response is
    /// replaced once, unless the body was a reader.
    ///
    /// # Errors
    /// See [`ClientError`]. An HTTP error status is a response, not an error.
    pub fn send(&self, request: &mut Request<'_>) -> Result<Response, ClientError> {
        self.send_unless(request, None)
    }

    /// The same; `stop` ends the wait for this response (the client's own is
    /// not looked at then).
    ///
    /// # Errors
    /// As `send`.
    pub fn send_unless(&self, request: &mut Request<'_>, stop: Option<&Arc<Stop>>) -> Result<Response, ClientError> {
        let stop = stop.or(self.stop.as_ref());
        let head = request_head(request)?;
        let may_resend = !matches!(request.body, RequestBody::Reader { .. });
        if let Some(fd) = self.idle.take() {
            match exchange(fd, &head, request, Some(&self.idle), stop) {
                Err(ClientError::Closed { phase: Phase::Send | Phase::Head }) if may_resend => {}
                done => return done,
            }
        }
        let fd = self.connect(request.connect_within)?;
        exchange(fd, &head, request, Some(&self.idle), stop)
    }

    /// The same on a connection of its own, never a kept one.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn send_alone(&self, request: &mut Request<'_>, stop: Option<&Arc<Stop>>) -> Result<Response, ClientError> {
        let head = request_head(request)?;
        exchange(self.connect(request.connect_within)?, &head, request, Some(&self.idle), stop.or(self.stop.as_ref()))
    }

    fn connect(&self, within: Duration) -> Result<OwnedFd, ClientError> {
        let until = Instant::now() + within;
        let mut delay = Duration::from_millis(1);
        loop {
            let passed = crate::fault::at("dial").map_err(|_| Errno::MFILE);
            match passed.and_then(|()| dial(&self.path)) {
                Ok(fd) => return Ok(fd),
                // A full backlog: the server is there and busy.
                Err(Errno::AGAIN) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(ClientError::Timeout { phase: Phase::Connect, limit: within });
                    }
                    pause(None, delay.min(left));
                    delay = (delay * 2).min(Duration::from_millis(20));
                }
                Err(e) => return Err(ClientError::Connect { path: self.path.clone(), source: e.into() }),
            }
        }
    }
}

/// Sends over a connection of the caller's making (a non-blocking stream
/// socket), which is not used again afterwards.
///
/// # Errors
/// See [`ClientError`].
pub fn send_over(fd: OwnedFd, request: &mut Request<'_>) -> Result<Response, ClientError> {
    let head = request_head(request)?;
    exchange(fd, &head, request, None, None)
}

fn exchange(fd: OwnedFd, head: &[u8], request: &mut Request<'_>, home: Option<&Arc<Idle>>, stop: Option<&Arc<Stop>>) -> Result<Response, ClientError> {
    let limit = request.head_within;
    let whole = match send_request(&fd, head, &mut request.body, limit) {
        Ok(whole) => whole,
        // The server may have answered before it closed; that answer counts.
        Err(ClientError::Closed { .. }) => false,
        Err(e) => return Err(e),
    };
    let mut inbox = Inbox::default();
    let until = Instant::now() + limit;
    let mut interim = 0;
    loop {
        if let Some(head) = parse_head(&inbox, request.method == "HEAD")? {
            inbox.consume(head.len);
            if (100..200).contains(&head.status) && head.status != 101 {
                interim += 1;
                if interim > MAX_INTERIM {
                    return Err(ClientError::Malformed { what: "too many interim responses" });
                }
                continue;
            }
            let home = home.filter(|_| whole && head.keep_alive).cloned();
            let conn = Conn { fd, interrupted: AtomicBool::new(false), interruptible: AtomicBool::new(false) };
            return Ok(Response {
                status: head.status,
                head: head.bytes,
                fields: head.fields,
                framing: head.framing,
                body: BodyReader::new(conn, inbox, head.framing, request.idle_within, home, stop.cloned()),
            });
        }
        let begun = !inbox.is_empty() || interim > 0;
        match fill(&fd, &mut inbox, ROOM, Phase::Head, Some((until, limit)), stop.map(|s| &**s)) {
            Ok(1..) => {}
            Ok(0) | Err(ClientError::Closed { .. }) if begun => return Err(ClientError::Malformed { what: "the response's head is cut short" }),
            Ok(0) => return Err(ClientError::Closed { phase: Phase::Head }),
            Err(e) => return Err(e),
        }
    }
}

impl Response {
    /// The value of the first field of that name, if it is text.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields().find(|(n, _)| n.eq_ignore_ascii_case(name)).and_then(|(_, value)| std::str::from_utf8(value).ok())
    }

    /// All fields in the server's order.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &[u8])> {
        // Names were tokens when parsed: ASCII.
        self.fields.iter().map(|(name, value)| (std::str::from_utf8(&self.head[name.clone()]).unwrap_or_default(), &self.head[value.clone()]))
    }

    /// The body's length where the server told it (0 where there is no body).
    pub fn content_length(&self) -> Option<u64> {
        match self.framing {
            BodyFraming::None => Some(0),
            BodyFraming::Length(n) => Some(n),
            BodyFraming::Chunked | BodyFraming::UntilClose => None,
        }
    }

    /// The whole body, at most `limit` bytes of it.
    ///
    /// # Errors
    /// `TooLarge` above the limit; what reading it met.
    pub fn bytes(mut self, limit: usize) -> Result<Vec<u8>, ClientError> {
        self.body.all(limit)
    }

    /// The body as a stream.
    pub fn reader(self) -> BodyReader {
        self.body
    }

    /// The connection itself, once it speaks something else than HTTP, and
    /// what was received of that already.
    pub fn into_stream(self) -> Option<(OwnedFd, Vec<u8>)> {
        self.body.into_stream()
    }

    /// A handle for other threads to end the reading of this body.
    pub fn interrupter(&self) -> Interrupter {
        self.body.interrupter()
    }
}

/// A parsed head that no longer borrows the inbox.
struct OwnedHead {
    status: u16,
    len: usize,
    bytes: Vec<u8>,
    fields: Vec<(Range<usize>, Range<usize>)>,
    framing: BodyFraming,
    keep_alive: bool,
}

fn parse_head(inbox: &Inbox, was_head: bool) -> Result<Option<OwnedHead>, ClientError> {
    let text = inbox.unread();
    let malformed = |source| ClientError::Head { source };
    let Some(head) = http1::parse_response(text, MAX_HEAD).map_err(malformed)? else { return Ok(None) };
    // After 101 the connection belongs to another protocol until it is closed.
    let framing = if head.status == 101 { BodyFraming::UntilClose } else { http1::response_framing(&head, was_head).map_err(malformed)? };
    let range = |part: &[u8]| {
        let start = part.as_ptr() as usize - text.as_ptr() as usize;
        start..start + part.len()
    };
    let fields = head.fields.iter().map(|f| (range(f.name.as_bytes()), range(f.value))).collect();
    let keep_alive = framing != BodyFraming::UntilClose && http1::keep_alive(head.minor, &head.fields);
    Ok(Some(OwnedHead { status: head.status, len: head.len, bytes: text[..head.len].to_vec(), fields, framing, keep_alive }))
}

fn request_head(request: &Request<'_>) -> Result<Vec<u8>, ClientError> {
    let target_ok = request.target.bytes().all(|b| b.is_ascii_graphic()) && !request.target.is_empty();
    let fields_ok = request.fields.iter().all(|(name, value)| fields::is_token(name.as_bytes()) && fields::is_value(value.as_bytes()));
    if !fields::is_token(request.method.as_bytes()) || !target_ok || !fields_ok {
        return Err(ClientError::Malformed { what: "the request has characters that HTTP does not allow" });
    }
    let mut out = Vec::with_capacity(256);
    let mut line = |parts: &[&str]| {
        for part in parts {
            out.extend_from_slice(part.as_bytes());
        }
        out.extend_from_slice(b"\r\n");
    };
    line(&[request.method, " ", request.target, " HTTP/1.1"]);
    if !request.fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        line(&["Host: localhost"]);
    }
    for (name, value) in request.fields {
        line(&[name, ": ", value]);
    }
    match &request.body {
        RequestBody::Empty if matches!(request.method, "POST" | "PUT" | "PATCH") => line(&["Content-Length: 0"]),
        RequestBody::Empty => {}
        RequestBody::Bytes(bytes) => line(&["Content-Length: ", &bytes.len().to_string()]),
        RequestBody::Reader { len: Some(len), .. } => line(&["Content-Length: ", &len.to_string()]),
        RequestBody::Reader { len: None, .. } => line(&["Transfer-Encoding: chunked"]),
    }
    line(&[]);
    Ok(out)
}

/// Writes the request; false when the server answered before it was whole.
fn send_request(fd: &OwnedFd, head: &[u8], body: &mut RequestBody<'_>, silence: Duration) -> Result<bool, ClientError> {
    match body {
        RequestBody::Empty => send_all(fd, head, &[], silence),
        RequestBody::Bytes(bytes) => send_all(fd, head, bytes, silence),
        RequestBody::Reader { reader, len } => {
            if !send_all(fd, head, &[], silence)? {
                return Ok(false);
            }
            send_reader(fd, *reader, *len, silence)
        }
    }
}

fn send_reader(fd: &OwnedFd, reader: &mut dyn Read, len: Option<u64>, silence: Duration) -> Result<bool, ClientError> {
    let mut piece = vec![0; BODY_ROOM];
    let mut frame = Vec::with_capacity(32);
    let mut left = len;
    while left != Some(0) {
        let want = left.map_or(piece.len(), |left| usize::try_from(left).map_or(piece.len(), |left| left.min(piece.len())));
        let got = match reader.read(&mut piece[..want]) {
            Ok(got) => got,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(source) => return Err(ClientError::RequestBody { source }),
        };
        frame.clear();
        match (&mut left, got) {
            (Some(_), 0) => return Err(ClientError::RequestBody { source: std::io::ErrorKind::UnexpectedEof.into() }),
            (Some(left), got) => *left -= got as u64,
            (None, 0) => return send_all(fd, b"0\r\n\r\n", &[], silence),
            (None, got) => http1::chunk_head(got, &mut frame),
        }
        let tail: &[u8] = if left.is_none() { b"\r\n" } else { b"" };
        if !send_all(fd, &frame, &piece[..got], silence)? || (!tail.is_empty() && !send_all(fd, tail, &[], silence)?) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Sends both parts. When the socket is full, an early answer ends the sending
/// (false): the server does not want the rest.
fn send_all(fd: &OwnedFd, mut first: &[u8], mut second: &[u8], silence: Duration) -> Result<bool, ClientError> {
    loop {
        match send_two(fd, first, second) {
            Ok(sent) => {
                let of_first = sent.min(first.len());
                first = &first[of_first..];
                second = &second[sent - of_first..];
                if first.is_empty() && second.is_empty() {
                    return Ok(true);
                }
            }
            Err(Errno::AGAIN) => {
                let until = Some(Instant::now() + silence);
                match wait_for(fd.as_fd(), PollFlags::OUT | PollFlags::IN, None, None, until) {
                    Ok(Woke::Ready) => match peek(fd) {
                        Peek::Readable => return Ok(false),
                        Peek::Closed => return Err(ClientError::Closed { phase: Phase::Send }),
                        Peek::Quiet => {}
                    },
                    Ok(_) => return Err(ClientError::Timeout { phase: Phase::Send, limit: silence }),
                    Err(source) => return Err(ClientError::Io { phase: Phase::Send, source }),
                }
            }
            Err(Errno::PIPE | Errno::CONNRESET) => return Err(ClientError::Closed { phase: Phase::Send }),
            Err(e) => return Err(ClientError::Io { phase: Phase::Send, source: e.into() }),
        }
    }
}

/// Receives into the inbox, waiting until there is something; 0 is the end.
fn fill(fd: &OwnedFd, inbox: &mut Inbox, room: usize, phase: Phase, until: Option<(Instant, Duration)>, stop: Option<&Stop>) -> Result<usize, ClientError> {
    loop {
        match inbox.fill(fd, room) {
            Ok(n) => return Ok(n),
            Err(Errno::AGAIN) => {}
            Err(Errno::CONNRESET | Errno::PIPE) => return Err(ClientError::Closed { phase }),
            Err(e) => return Err(ClientError::Io { phase, source: e.into() }),
        }
        match wait_for(fd.as_fd(), PollFlags::IN, None, stop, until.map(|u| u.0)) {
            Ok(Woke::Ready) => {}
            Ok(Woke::Stop) => return Err(ClientError::Interrupted { phase }),
            Ok(_) => return Err(ClientError::Timeout { phase, limit: until.map_or(Duration::ZERO, |u| u.1) }),
            Err(source) => return Err(ClientError::Io { phase, source }),
        }
    }
}
