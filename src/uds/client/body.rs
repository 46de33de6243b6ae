//! Reading a response's body to its end, and being called off from it.

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use rustix::net::{Shutdown, shutdown};

use super::{BODY_ROOM, ClientError, Conn, Idle, Inbox, Phase, fill};
use crate::http1::{BodyFraming, ChunkedDecoder};
use crate::pool::Stop;

/// A response's body. Read to its end, the connection is kept for the next
/// request where that is possible; dropped earlier, it is closed.
#[derive(Debug)]
pub struct BodyReader {
    /// `None` once the body was read to its end and the connection given away.
    conn: Option<Arc<Conn>>,
    inbox: Inbox,
    /// Bytes of body at the front of the inbox.
    ready: usize,
    left: Left,
    idle_within: Option<Duration>,
    /// Where the connection goes afterwards, if it may live on.
    home: Option<Arc<Idle>>,
    stop: Option<Arc<Stop>>,
}

/// What is still to come after the `ready` bytes.
#[derive(Debug)]
enum Left {
    Length(u64),
    Chunks(ChunkedDecoder),
    UntilClose,
}

/// Ends the reading of one body from another thread.
#[derive(Debug, Clone)]
pub struct Interrupter {
    conn: Weak<Conn>,
}

impl Interrupter {
    /// Wakes a blocked reader; it and later reads fail with
    /// `ConnectionAborted`. Harmless when the body is already dropped.
    pub fn interrupt(&self) {
        if let Some(conn) = self.conn.upgrade() {
            conn.interrupted.store(true, Ordering::SeqCst);
            // Fails only when the peer closed first, which wakes the reader too.
            let _ = shutdown(&conn.fd, Shutdown::Both);
        }
    }
}

impl BodyReader {
    pub(super) fn new(
        conn: Conn,
        inbox: Inbox,
        framing: BodyFraming,
        idle_within: Option<Duration>,
        home: Option<Arc<Idle>>,
        stop: Option<Arc<Stop>>,
    ) -> BodyReader {
        let left = match framing {
            BodyFraming::None => Left::Length(0),
            BodyFraming::Length(n) => Left::Length(n),
            BodyFraming::Chunked => Left::Chunks(ChunkedDecoder::new()),
            BodyFraming::UntilClose => Left::UntilClose,
        };
        BodyReader { conn: Some(Arc::new(conn)), inbox, ready: 0, left, idle_within, home, stop }
    }

    /// A handle for other threads to end the reading. A connection that
    /// someone may shut down at any time is never reused.
    pub fn interrupter(&self) -> Interrupter {
        if let Some(conn) = &self.conn {
            conn.interruptible.store(true, Ordering::SeqCst);
        }
        Interrupter { conn: self.conn.as_ref().map(Arc::downgrade).unwrap_or_default() }
    }

    /// `None` where the body has an end or somebody may interrupt it.
    pub(super) fn into_stream(mut self) -> Option<(OwnedFd, Vec<u8>)> {
        if !matches!(self.left, Left::UntilClose) {
            return None;
        }
        let conn = Arc::into_inner(self.conn.take()?)?;
        Some((conn.fd, self.inbox.unread().to_vec()))
    }

    pub(super) fn all(&mut self, limit: usize) -> Result<Vec<u8>, ClientError> {
        let mut out = Vec::new();
        if let Left::Length(n) = self.left {
            match usize::try_from(n) {
                Ok(n) if n <= limit => out.reserve_exact(n.min(1 << 20)),
                _ => return Err(ClientError::TooLarge { limit }),
            }
        }
        while self.await_some()? {
            if out.len() + self.ready > limit {
                return Err(ClientError::TooLarge { limit });
            }
            out.extend_from_slice(&self.inbox.unread()[..self.ready]);
            self.inbox.consume(self.ready);
            self.ready = 0;
        }
        Ok(out)
    }

    /// Waits until body bytes are ready; false at the end of the body.
    fn await_some(&mut self) -> Result<bool, ClientError> {
        while self.ready == 0 {
            match &mut self.left {
                Left::Length(0) => {
                    self.go_home();
                    return Ok(false);
                }
                Left::Length(left) if !self.inbox.is_empty() => {
                    self.ready = usize::try_from(*left).map_or(self.inbox.unread().len(), |left| left.min(self.inbox.unread().len()));
                    *left -= self.ready as u64;
                }
                Left::UntilClose if !self.inbox.is_empty() => self.ready = self.inbox.unread().len(),
                Left::Chunks(decoder) if !self.inbox.is_empty() => {
                    let step = decoder.decode(self.inbox.unread()).map_err(|source| ClientError::Chunks { source })?;
                    let (framing, data, done) = (step.consumed - step.data.len(), step.data.len(), step.done);
                    self.inbox.consume(framing);
                    self.ready = data;
                    if done {
                        self.left = Left::Length(0);
                    }
                }
                Left::Length(_) | Left::UntilClose | Left::Chunks(_) => self.receive()?,
            }
        }
        Ok(true)
    }

    fn receive(&mut self) -> Result<(), ClientError> {
        let Some(conn) = &self.conn else { return Err(ClientError::Closed { phase: Phase::Body }) };
        let until = self.idle_within.map(|within| (Instant::now() + within, within));
        let got = fill(&conn.fd, &mut self.inbox, BODY_ROOM, Phase::Body, until, self.stop.as_deref());
        if conn.interrupted.load(Ordering::SeqCst) {
            return Err(ClientError::Interrupted { phase: Phase::Body });
        }
        match (got?, &self.left) {
            (0, Left::UntilClose) => self.left = Left::Length(0),
            (0, _) => return Err(ClientError::Closed { phase: Phase::Body }),
            _ => {}
        }
        Ok(())
    }

    /// The body ended: the connection goes back if nothing else arrived on it.
    fn go_home(&mut self) {
        let (Some(home), Some(conn)) = (self.home.take(), self.conn.take()) else { return };
        let ours_alone = !conn.interruptible.load(Ordering::SeqCst);
        if ours_alone
            && self.inbox.is_empty()
            && let Some(conn) = Arc::into_inner(conn)
        {
            home.put(conn.fd);
        }
    }
}

impl Read for BodyReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() || !self.await_some().map_err(ClientError::into_io)? {
            return Ok(0);
        }
        let n = self.ready.min(out.len());
        out[..n].copy_from_slice(&self.inbox.unread()[..n]);
        self.inbox.consume(n);
        self.ready -= n;
        Ok(n)
    }
}
