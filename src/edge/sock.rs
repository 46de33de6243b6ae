//! A client's socket: receiving and sending with deadlines, and the one lock
//! that keeps a probe out of an answer.

use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, recv, sendmsg, shutdown, sockopt};

use crate::call::ClientGone;
use crate::metrics::EDGE;
use crate::pool::{Stop, Woke, wait_for};

/// The answer to a probe of a half-closed client: an interim response that
/// every HTTP/1.1 client skips, and that a closed one answers with a reset.
const PROBE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A client's socket. It is in blocking mode with a short receive time-out
/// (the linger); every other use asks not to wait.
#[derive(Debug)]
pub(super) struct Sock {
    fd: OwnedFd,
    /// Whether bytes of an answer may be on their way: no probe any more.
    answering: Mutex<bool>,
    open: Arc<AtomicUsize>,
}

/// What a receive brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Got {
    /// So many bytes, at least one.
    Bytes(usize),
    /// Nothing yet.
    Nothing,
    /// The client sends no more.
    End,
    /// Reset, or otherwise useless.
    Gone,
    /// The deadline passed.
    Late,
}

impl Sock {
    /// `open` counts this connection until it is closed.
    pub(super) fn new(fd: OwnedFd, open: Arc<AtomicUsize>) -> Sock {
        open.fetch_add(1, Ordering::SeqCst);
        EDGE.open.add(1);
        Sock { fd, answering: Mutex::new(false), open }
    }

    /// Receives what is there, into the free part of `buf`.
    pub(super) fn recv_now(&self, buf: &mut Vec<u8>) -> Got {
        self.recv(buf, RecvFlags::DONTWAIT)
    }

    /// Receives, waiting up to the linger.
    pub(super) fn recv_linger(&self, buf: &mut Vec<u8>) -> Got {
        self.recv(buf, RecvFlags::empty())
    }

    fn recv(&self, buf: &mut Vec<u8>, flags: RecvFlags) -> Got {
        debug_assert!(buf.capacity() > buf.len(), "room to receive into");
        loop {
            return match recv(&self.fd, spare_capacity(buf), flags) {
                Ok((0, _)) => Got::End,
                Ok((n, _)) => Got::Bytes(n),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => Got::Nothing,
                Err(_) => Got::Gone,
            };
        }
    }

    /// Whether the client's end was reached with nothing left to read.
    pub(super) fn ended(&self) -> bool {
        matches!(recv(&self.fd, &mut [0u8; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT), Ok((_, 0)))
    }

    /// Whether something was sent that nobody has received yet.
    pub(super) fn has_bytes(&self) -> bool {
        matches!(recv(&self.fd, &mut [0u8; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT), Ok((_, 1..)))
    }

    /// Receives, waiting until `deadline`.
    pub(super) fn recv_until(&self, buf: &mut Vec<u8>, stop: &Stop, deadline: Instant) -> Got {
        loop {
            match self.recv_now(buf) {
                Got::Nothing => {}
                got => return got,
            }
            match wait_for(self.fd.as_fd(), PollFlags::IN, None, Some(stop), Some(deadline)) {
                Ok(Woke::Ready) => {}
                Ok(Woke::Deadline) => return Got::Late,
                Ok(Woke::PeerGone | Woke::Stop) | Err(_) => return Got::Gone,
            }
        }
    }

    /// Sends all of `parts`: one system call when the client keeps up. A
    /// client that takes no byte for `patience` is gone.
    pub(super) fn send_all(&self, parts: [&[u8]; 3], stop: &Stop, patience: Duration) -> Result<(), ClientGone> {
        let total: usize = parts.iter().map(|p| p.len()).sum();
        let mut sent = 0;
        while sent < total {
            match self.send_from(parts, sent) {
                Ok(n) => sent += n,
                Err(Errno::AGAIN) => {
                    let deadline = Instant::now() + patience;
                    match wait_for(self.fd.as_fd(), PollFlags::OUT, None, Some(stop), Some(deadline)) {
                        Ok(Woke::Ready) => {}
                        Ok(Woke::Deadline) => {
                            EDGE.cut_slow_reader.add(1);
                            return Err(ClientGone);
                        }
                        Ok(Woke::PeerGone | Woke::Stop) | Err(_) => return Err(ClientGone),
                    }
                }
                Err(_) => return Err(ClientGone),
            }
        }
        Ok(())
    }

    /// Sends what the client takes of `parts` without waiting for it: so many bytes.
    pub(super) fn send_some(&self, parts: [&[u8]; 3]) -> Result<usize, ClientGone> {
        let total: usize = parts.iter().map(|p| p.len()).sum();
        let mut sent = 0;
        while sent < total {
            match self.send_from(parts, sent) {
                Ok(n) => sent += n,
                Err(Errno::AGAIN) => break,
                Err(_) => return Err(ClientGone),
            }
        }
        Ok(sent)
    }

    fn send_from(&self, parts: [&[u8]; 3], mut skip: usize) -> Result<usize, Errno> {
        if crate::fault::at("client.write").is_err() {
            return Err(Errno::PIPE);
        }
        let mut slices = [IoSlice::new(&[]); 3];
        let mut used = 0;
        for part in parts {
            if skip >= part.len() {
                skip -= part.len();
                continue;
            }
            slices[used] = IoSlice::new(&part[skip..]);
            used += 1;
            skip = 0;
        }
        rustix::io::retry_on_intr(|| sendmsg(&self.fd, &slices[..used], &mut SendAncillaryBuffer::default(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL))
    }

    /// Whether the socket's buffer takes a short answer now.
    pub(super) fn takes_more(&self) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        // Gone is as good: the write says so, and does not wait either.
        poll(&mut [PollFd::new(&self.fd, PollFlags::OUT)], Some(&now)).is_ok_and(|ready| ready > 0)
    }

    /// Sends what the socket's buffer takes, for those who must not wait.
    pub(super) fn send_now(&self, bytes: &[u8]) {
        // Whether it arrives is not known to anyone who closes next.
        let _ = self.send_from([bytes, &[], &[]], 0);
    }

    /// From here on bytes of an answer are written: probes end.
    pub(super) fn begin_answer(&self) {
        *self.answering.lock() = true;
    }

    /// Whether an answer was begun and is not over.
    pub(super) fn is_answering(&self) -> bool {
        *self.answering.lock()
    }

    /// The answer is over; the next request may be probed for again.
    pub(super) fn end_answer(&self) {
        *self.answering.lock() = false;
    }

    /// Asks a half-closed client whether it still reads. Returns whether the
    /// question was sent.
    pub(super) fn probe(&self) -> bool {
        let answering = self.answering.lock();
        if *answering {
            return false;
        }
        // Does not wait. INVARIANT: under the lock, so it can't land inside an answer.
        self.send_now(PROBE);
        EDGE.probes.add(1);
        true
    }

    /// Announces the end of what we send; receiving goes on.
    pub(super) fn finish_sending(&self) {
        let _ = shutdown(&self.fd, Shutdown::Write);
    }

    /// Makes the close a reset: nobody can take what was sent for complete.
    pub(super) fn make_close_abrupt(&self) {
        let _ = sockopt::set_socket_linger(&self.fd, Some(Duration::ZERO));
    }
}

impl AsFd for Sock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Sock {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::SeqCst);
        EDGE.open.add(-1);
    }
}
