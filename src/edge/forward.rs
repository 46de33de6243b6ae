//! Everything that is not a call goes to the management API's front end on
//! its Unix socket: validated, with a known length, a few at a time.

use std::io::{Read, Seek};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::fields::Outbound;
use super::reply::Reply;
use super::route::Target;
use crate::call::{Body, ClientGone};
use crate::http1::{RequestHead, is_hop_by_hop};
use crate::respond::Answer;
use crate::uds::client::{BodyReader, Client, ClientError, Request, RequestBody, Response};

/// Requests at the API at the same time.
const AT_ONCE: usize = 4;
/// A request waits at most this long for its turn.
const TURN_WITHIN: Duration = Duration::from_secs(10);
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// An answer up to this is read whole before the client is sent any of it, so
/// that a slow client does not keep others from the API.
const HELD_MAX: usize = 1 << 20;
const PIECE: usize = 64 * 1024;

/// The way to the API.
#[derive(Debug)]
pub(super) struct Forwarder {
    client: Client,
    free: Mutex<usize>,
    freed: Condvar,
}

/// What of a request's head goes to the API.
#[derive(Debug)]
pub(super) struct ForwardHead {
    method: String,
    target: String,
    fields: Vec<(String, String)>,
}

impl ForwardHead {
    pub(super) fn new(head: &RequestHead<'_>, target: Target<'_>, host: &str) -> ForwardHead {
        let outbound = Outbound::new(&head.fields);
        let mut fields = vec![("Host".to_owned(), target.authority.unwrap_or(host).to_owned())];
        for field in &head.fields {
            // Framing is written anew, the token has done its work, and the
            // front end takes ASCII only.
            let ours = ["host", "content-length", "expect", "authorization"].iter().any(|n| field.name.eq_ignore_ascii_case(n));
            if ours || !outbound.passes(field.name) || !field.value.is_ascii() {
                continue;
            }
            if let Ok(value) = std::str::from_utf8(field.value) {
                fields.push((field.name.to_owned(), value.to_owned()));
            }
        }
        ForwardHead { method: head.method.to_owned(), target: target.path_and_query.to_owned(), fields }
    }
}

/// One of the few places at the API.
struct Turn<'f>(&'f Forwarder);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.free.lock() += 1;
        self.0.freed.notify_one();
    }
}

impl Forwarder {
    pub(super) fn new(socket: PathBuf) -> Forwarder {
        Forwarder { client: Client::new(socket, AT_ONCE), free: Mutex::new(AT_ONCE), freed: Condvar::new() }
    }

    /// Asks the API and answers the client.
    pub(super) fn forward(&self, head: &ForwardHead, body: &mut Body, reply: &mut Reply<'_>) -> Result<(), ClientGone> {
        let Some(turn) = self.turn() else {
            let busy = Answer { status: 503, message: "Timed out - server too busy: too many management requests at once".into(), retry_after_s: Some(5) };
            return reply.message(&busy, None);
        };
        match self.ask(head, body) {
            Ok(response) => pass_on(response, turn, reply),
            Err(error) => {
                drop(turn);
                // Without the query: what clients put there is theirs.
                let path = head.target.split('?').next().unwrap_or_default();
                log::warn!("management request {} {path}: {error}", head.method);
                reply.message(&no_answer(&error), None)
            }
        }
    }

    fn turn(&self) -> Option<Turn<'_>> {
        let until = Instant::now() + TURN_WITHIN;
        let mut free = self.free.lock();
        while *free == 0 {
            if self.freed.wait_until(&mut free, until).timed_out() && *free == 0 {
                return None;
            }
        }
        *free -= 1;
        Some(Turn(self))
    }

    fn ask(&self, head: &ForwardHead, body: &mut Body) -> Result<Response, ClientError> {
        let fields: Vec<(&str, &str)> = head.fields.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let body = match body {
            Body::Memory(bytes) if bytes.is_empty() => RequestBody::Empty,
            Body::Memory(bytes) => RequestBody::Bytes(bytes),
            Body::File { file, len } => {
                file.rewind().map_err(|source| ClientError::RequestBody { source })?;
                RequestBody::Reader { reader: file, len: Some(*len) }
            }
        };
        self.client.send(&mut Request {
            method: &head.method,
            target: &head.target,
            fields: &fields,
            body,
            connect_within: CONNECT_WITHIN,
            head_within: ANSWER_WITHIN,
            idle_within: Some(ANSWER_WITHIN),
        })
    }
}

fn no_answer(error: &ClientError) -> Answer {
    match error {
        ClientError::Timeout { .. } => Answer::new(504, "the management API does not answer in time"),
        _ => Answer::new(502, "the management API does not answer"),
    }
}

fn pass_on(response: Response, turn: Turn<'_>, reply: &mut Reply<'_>) -> Result<(), ClientGone> {
    let status = response.status;
    if !(200..=599).contains(&status) {
        return reply.message(&Answer::new(502, "the management API gave an answer that is not valid"), None);
    }
    let fields: Vec<(String, Vec<u8>)> = response.fields().filter(|(name, _)| passes_back(name)).map(|(n, v)| (n.to_owned(), v.to_vec())).collect();
    let announced = match reply.head_only {
        true => response.field("content-length").and_then(|v| v.parse().ok()),
        false => response.content_length(),
    };
    let mut reader = response.reader();
    let mut held = Vec::new();
    match (&mut reader).take(HELD_MAX as u64).read_to_end(&mut held) {
        Ok(n) if n < HELD_MAX || announced == Some(n as u64) => {
            drop((reader, turn));
            start(status, &fields, reply);
            if reply.head_only {
                let long = reply.start(status, announced);
                return reply.end(long);
            }
            reply.finish(status, &held)
        }
        Ok(_) => {
            start(status, &fields, reply);
            stream(status, announced, &held, reader, reply)
        }
        Err(error) => {
            log::warn!("the management API's answer broke: {error}");
            reply.message(&Answer::new(502, "the management API's answer broke half way"), None)
        }
    }
}

fn start(status: u16, fields: &[(String, Vec<u8>)], reply: &mut Reply<'_>) {
    reply.status(status);
    for (name, value) in fields {
        reply.field(name, value);
    }
    reply.own_fields(false, false);
}

/// An answer too large to be held. A break is passed on as one.
fn stream(status: u16, len: Option<u64>, held: &[u8], mut reader: BodyReader, reply: &mut Reply<'_>) -> Result<(), ClientGone> {
    let mut long = reply.start(status, len);
    reply.data(&mut long, held)?;
    let mut piece = vec![0; PIECE];
    loop {
        match reader.read(&mut piece) {
            Ok(0) => return reply.end(long),
            Ok(n) => reply.data(&mut long, &piece[..n])?,
            Err(error) => {
                log::warn!("the management API's answer broke: {error}");
                reply.cut();
                return Err(ClientGone);
            }
        }
    }
}

fn passes_back(name: &str) -> bool {
    !is_hop_by_hop(name) && !["content-length", "date", "server"].iter().any(|n| name.eq_ignore_ascii_case(n))
}
