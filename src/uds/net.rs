//! Non-blocking stream sockets: dial, send, receive into a growing buffer.

use std::io::IoSlice;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::PollFlags;
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv, sendmsg, socket_with};

use crate::pool::{Stop, wait_for};

/// One non-blocking attempt to connect. `EAGAIN` means that the listener's
/// backlog is full: a Unix socket is connected at once or not at all.
pub(super) fn dial(path: &Path) -> Result<OwnedFd, Errno> {
    dial_addr(&SocketAddrUnix::new(path)?)
}

/// [`dial`] with an address made before: three system calls with the close
/// of the connection it replaces.
pub(super) fn dial_addr(addr: &SocketAddrUnix) -> Result<OwnedFd, Errno> {
    let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)?;
    retry_on_intr(|| connect(&fd, addr))?;
    Ok(fd)
}

/// What a look at an idle connection showed, without taking a byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peek {
    /// Open, nothing to read: fit for a request.
    Quiet,
    /// Something arrived that nobody asked for.
    Readable,
    Closed,
}

/// One system call: is the idle connection still fit for a request?
pub(super) fn peek(fd: impl AsFd) -> Peek {
    let mut byte = [0u8; 1];
    match retry_on_intr(|| recv(&fd, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT)) {
        Err(Errno::AGAIN) => Peek::Quiet,
        Ok((_, 1..)) => Peek::Readable,
        Ok((_, 0)) | Err(_) => Peek::Closed,
    }
}

/// Sends what fits of `first`, then `second`, in one system call.
pub(super) fn send_two(fd: impl AsFd, first: &[u8], second: &[u8]) -> Result<usize, Errno> {
    let slices = [IoSlice::new(first), IoSlice::new(second)];
    let used = if second.is_empty() { 1 } else { 2 };
    retry_on_intr(|| sendmsg(&fd, &slices[..used], &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL))
}

/// Received and not yet used bytes.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    buf: Vec<u8>,
    at: usize,
}

impl Inbox {
    pub(super) fn unread(&self) -> &[u8] {
        &self.buf[self.at..]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.at == self.buf.len()
    }

    /// The last receive took all there was room for: more may wait.
    pub(super) fn is_full(&self) -> bool {
        self.buf.len() == self.buf.capacity()
    }

    /// Drops `n` bytes from the front.
    pub(super) fn consume(&mut self, n: usize) {
        self.at = (self.at + n).min(self.buf.len());
    }

    pub(super) fn clear(&mut self) {
        self.buf.clear();
        self.at = 0;
    }

    /// Receives once, at least `room` bytes if there are so many; 0 is the end.
    pub(super) fn fill(&mut self, fd: impl AsFd, room: usize) -> Result<usize, Errno> {
        if self.is_empty() {
            self.clear();
        } else if self.at > 0 && self.buf.capacity() - self.buf.len() < room {
            self.buf.drain(..self.at);
            self.at = 0;
        }
        self.buf.reserve(room);
        let before = self.buf.len();
        loop {
            match recv(&fd, spare_capacity(&mut self.buf), RecvFlags::empty()) {
                Ok(_) => return Ok(self.buf.len() - before),
                Err(Errno::INTR) => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Gives memory above `keep` bytes back. Only when nothing is unread.
    pub(super) fn shrink(&mut self, keep: usize) {
        if self.is_empty() && self.buf.capacity() > keep {
            self.buf = Vec::with_capacity(keep);
            self.at = 0;
        }
    }
}

/// Passes `time` without holding the processor; false when `stop` fired.
/// Only for what the kernel offers no event for: a listener that is not
/// listening yet, a full backlog.
pub(super) fn pause(stop: Option<&Stop>, time: Duration) -> bool {
    let until = Instant::now() + time;
    match stop {
        Some(stop) => {
            let _ = wait_for(stop.as_fd(), PollFlags::IN, None, None, Some(until));
            !stop.fired()
        }
        None => {
            let timeout = rustix::event::Timespec { tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX), tv_nsec: i64::from(time.subsec_nanos()) };
            let _ = rustix::event::poll(&mut [], Some(&timeout));
            true
        }
    }
}
