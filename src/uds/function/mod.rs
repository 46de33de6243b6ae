//! The FDK contract on one container's socket: `POST /call`, answers 200, 502
//! or 504, one call at a time.
//!
//! Owns: the connection to a function, the request's head, the reading and
//! judging of its answer, the rule which connection may carry a second call.
//! Called by: `hot` (a lease). Blocks on: one poll of {function's socket,
//! client's socket, stop} with the call's deadline. Does not: know slots,
//! containers' lives, HTTP statuses for clients.
//!
//! Connections: a fresh one for each call, dialled ahead when the call before
//! it ended. INVARIANT: no byte of one call's answer can reach the next. A connection is kept only for a function whose answer carried
//! the call's own `Fn-Call-Id`; on a kept one every answer must, or it is
//! skipped and the connection retired.

mod deadline;
mod exchange;
mod filter;
mod place;
#[cfg(test)]
mod tests;

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::iofs::Folder;
use super::net::{Inbox, Peek, peek, send_two};
use crate::call::{Body, CallError, Caller};
use crate::model::{Id, Timestamp};
use crate::pool::Stop;

pub use place::{SOCKET_NAME, SocketError};

use exchange::{Exchange, Upload};
use place::Place;

/// Memory a socket keeps between calls for receiving.
const KEEP: usize = 8 * 1024;

/// The socket of one container's function.
#[derive(Debug)]
pub struct FunctionSocket {
    place: Place,
    connection: Connection,
    /// Head of the request, kept for its memory.
    head: Vec<u8>,
    inbox: Inbox,
    /// A body of unknown length until it is complete, kept for its memory.
    held: Vec<u8>,
}

#[derive(Debug)]
enum Connection {
    None,
    /// Dialled ahead; nothing was ever asked on it.
    Fresh(OwnedFd),
    /// Carried calls whose answers bore their ids.
    Kept(OwnedFd),
    /// Carried a call and must not carry another; closed off the hot path.
    Spent(#[allow(dead_code, reason = "held until ready_next closes it")] OwnedFd),
}

/// What is asked of the function.
#[derive(Debug)]
pub struct FnRequest<'a> {
    pub call_id: &'a Id,
    /// Header lines, each ended by CR LF, filtered already.
    pub fields: &'a [u8],
    pub body: &'a Body,
    /// When the function must have answered.
    pub deadline: Instant,
    /// The same as the function is told it.
    pub deadline_wall: Timestamp,
    /// The function's time-out, for the error's text.
    pub timeout: Duration,
}

/// Limits on an answer.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of body; 0 = no limit.
    pub max_body: u64,
    /// Bytes of head, status line included; never 0.
    pub max_head: usize,
    /// An answer of at most so many bytes is held until it is whole.
    pub hold: usize,
}

/// What becomes of the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It may serve the next call (after `ready_next`).
    Reuse,
    /// Nobody knows what it is doing: remove it.
    Discard,
}

/// Proof that the request was written, or that its head and the start of a
/// big body were and `receive` writes the rest.
#[derive(Debug)]
pub struct Sent {
    written: usize,
    kept: bool,
}

impl FunctionSocket {
    /// Finds the socket in its folder and makes the first connection; while
    /// nobody listens yet, tries until `until`.
    ///
    /// # Errors
    /// At once for a link or file that is not the contract's; `Refused` in the end.
    pub fn open(folder: &Folder, until: Instant, stop: &Stop) -> Result<FunctionSocket, SocketError> {
        let mut place = Place::find(folder.fd())?;
        let first = place.dial_until(until, stop, true)?;
        Ok(FunctionSocket { place, connection: Connection::Fresh(first), head: Vec::new(), inbox: Inbox::default(), held: Vec::new() })
    }

    /// Sends the request: head and a body in memory in one system call, as far
    /// as they fit.
    ///
    /// # Errors
    /// `NoAnswer` when the function cannot be reached: nothing was asked of it.
    pub fn send(&mut self, request: &FnRequest<'_>, stop: &Stop) -> Result<Sent, CallError> {
        self.inbox.clear();
        write_head(request, &mut self.head);
        let body: &[u8] = match request.body {
            Body::Memory(bytes) => bytes,
            Body::File { .. } => &[],
        };
        let mut tried = false;
        loop {
            let (fd, kept) = self.usable(request, stop)?;
            let passed = crate::fault::at("function.write").map_err(|_| Errno::PIPE);
            match passed.and_then(|()| send_two(&fd, &self.head, body)) {
                Ok(written) => {
                    self.connection = if kept { Connection::Kept(fd) } else { Connection::Fresh(fd) };
                    return Ok(Sent { written, kept });
                }
                Err(Errno::AGAIN) => {
                    self.connection = if kept { Connection::Kept(fd) } else { Connection::Fresh(fd) };
                    return Ok(Sent { written: 0, kept });
                }
                // Not one byte was taken, so the function cannot have seen the
                // call: it is safe to ask again on a new connection.
                Err(Errno::PIPE | Errno::CONNRESET) if !tried => tried = true,
                Err(e) => return Err(CallError::NoAnswer { cause: format!("the request could not be sent ({e})"), exit: None }),
            }
        }
    }

    /// Waits for the answer, judges it and passes a good one on. The request
    /// must be the one that was sent.
    pub fn receive(&mut self, sent: Sent, request: &FnRequest<'_>, caller: &mut dyn Caller, limits: &Limits, stop: &Stop) -> (Result<(), CallError>, Fate) {
        let fd = match std::mem::replace(&mut self.connection, Connection::None) {
            Connection::Fresh(fd) | Connection::Kept(fd) => fd,
            Connection::None | Connection::Spent(_) => return (Err(CallError::Internal("receive without send".into())), Fate::Discard),
        };
        let upload = Upload::after(sent.written, &self.head, request.body);
        let mut exchange = Exchange::new(fd.as_fd(), sent.kept, upload, request, caller, limits, stop, &mut self.inbox, &mut self.held);
        let (result, fate) = exchange.run();
        let keep = exchange.may_keep();
        self.connection = match (fate, keep) {
            (Fate::Discard, _) => Connection::None,
            (Fate::Reuse, true) => Connection::Kept(fd),
            (Fate::Reuse, false) => Connection::Spent(fd),
        };
        (result, fate)
    }

    /// After a call with `Fate::Reuse`: closes the spent connection and dials
    /// the next, unless this one is kept. A failure shows at the next use.
    pub fn ready_next(&mut self) {
        self.inbox.clear();
        self.inbox.shrink(KEEP);
        if self.held.capacity() > KEEP {
            self.held = Vec::new();
        }
        if !matches!(self.connection, Connection::Kept(_)) {
            // Closed first: a function that serves one connection at a time
            // must see the end of the old one to accept the new.
            self.connection = Connection::None;
            if let Ok(fd) = self.place.dial() {
                self.connection = Connection::Fresh(fd);
            }
        }
    }

    /// A connection on which nothing has arrived or ended, and whether it
    /// carried calls before.
    fn usable(&mut self, request: &FnRequest<'_>, stop: &Stop) -> Result<(OwnedFd, bool), CallError> {
        let (fd, kept) = match std::mem::replace(&mut self.connection, Connection::None) {
            Connection::Fresh(fd) => (Some(fd), false),
            Connection::Kept(fd) => (Some(fd), true),
            Connection::None | Connection::Spent(_) => (None, false),
        };
        if let Some(fd) = fd.filter(|fd| peek(fd) == Peek::Quiet) {
            return Ok((fd, kept));
        }
        match self.place.dial_until(request.deadline, stop, false) {
            Ok(fd) => Ok((fd, false)),
            Err(SocketError::Stopped) => Err(CallError::Draining),
            Err(SocketError::Refused) => Err(CallError::Timeout { limit: request.timeout }),
            Err(e) => Err(CallError::NoAnswer { cause: format!("the function cannot be reached: {e}"), exit: None }),
        }
    }
}

/// `POST /call` with the client's fields and the two that are ours.
fn write_head(request: &FnRequest<'_>, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(b"POST /call HTTP/1.1\r\nHost: localhost\r\n");
    out.extend_from_slice(request.fields);
    out.extend_from_slice(b"Fn-Call-Id: ");
    out.extend_from_slice(request.call_id.as_str().as_bytes());
    out.extend_from_slice(b"\r\nFn-Deadline: ");
    deadline::push_rfc3339(request.deadline_wall, out);
    out.extend_from_slice(b"\r\nContent-Length: ");
    push_decimal(request.body.len(), out);
    out.extend_from_slice(b"\r\n\r\n");
}

fn push_decimal(mut number: u64, out: &mut Vec<u8>) {
    let start = out.len();
    loop {
        out.push(b"0123456789"[(number % 10) as usize]);
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out[start..].reverse();
}
