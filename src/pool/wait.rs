//! Blocking on descriptors with a deadline and a way to be called off.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

/// A flag every blocked thread can see: an eventfd that stays readable.
#[derive(Debug)]
pub struct Stop {
    fired: AtomicBool,
    fd: OwnedFd,
}

impl Stop {
    /// # Errors
    /// When no descriptor is to be had.
    pub fn new() -> io::Result<Stop> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Stop { fired: AtomicBool::new(false), fd })
    }

    /// Wakes every waiter, now and later. Cannot be undone.
    pub fn fire(&self) {
        self.fired.store(true, Ordering::SeqCst);
        // The counter can only overflow after 2^64 - 2 fires; readable either way.
        let _ = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
    }

    pub fn fired(&self) -> bool {
        self.fired.load(Ordering::SeqCst)
    }
}

impl AsFd for Stop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Why `wait_for` returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woke {
    /// The descriptor is ready (or has an error or hang-up to be read).
    Ready,
    /// `peer` hung up for good (HUP or ERR; a half-close is not that).
    PeerGone,
    /// The stop fired.
    Stop,
    /// The deadline passed.
    Deadline,
}

/// Waits until `fd` has one of `interest`, `peer` is gone, `stop` fires or the
/// deadline passes: one poll(2) for all four. Readiness wins over the others,
/// so an answer that arrived together with the end is still an answer.
///
/// # Errors
/// Only what poll itself reports (out of memory); interrupts are retried.
pub fn wait_for(fd: BorrowedFd<'_>, interest: PollFlags, peer: Option<BorrowedFd<'_>>, stop: Option<&Stop>, deadline: Option<Instant>) -> io::Result<Woke> {
    loop {
        let timeout = match deadline {
            None => None,
            Some(at) => {
                let left = at.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Ok(Woke::Deadline);
                }
                Some(timespec(left))
            }
        };
        let mut fds =
            [PollFd::from_borrowed_fd(fd, interest), PollFd::from_borrowed_fd(fd, PollFlags::empty()), PollFd::from_borrowed_fd(fd, PollFlags::empty())];
        let mut used = 1;
        let peer_at = peer.map(|peer| {
            fds[used] = PollFd::from_borrowed_fd(peer, PollFlags::empty());
            used += 1;
            used - 1
        });
        let stop_at = stop.map(|stop| {
            fds[used] = PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN);
            used += 1;
            used - 1
        });
        match poll(&mut fds[..used], timeout.as_ref()) {
            Ok(0) => continue, // the deadline check above decides
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(e) => return Err(e.into()),
        }
        if !fds[0].revents().is_empty() {
            return Ok(Woke::Ready);
        }
        if peer_at.is_some_and(|i| fds[i].revents().intersects(PollFlags::HUP | PollFlags::ERR)) {
            return Ok(Woke::PeerGone);
        }
        if stop_at.is_some_and(|i| !fds[i].revents().is_empty()) {
            return Ok(Woke::Stop);
        }
    }
}

fn timespec(left: Duration) -> Timespec {
    Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: i64::from(left.subsec_nanos()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    #[test]
    fn deadline_stop_peer_and_data() {
        let (a, mut b) = UnixStream::pair().expect("pair");
        let (c, d) = UnixStream::pair().expect("pair");
        let stop = Stop::new().expect("eventfd");
        let soon = || Some(Instant::now() + Duration::from_millis(5));
        let wait = |deadline| wait_for(a.as_fd(), PollFlags::IN, Some(c.as_fd()), Some(&stop), deadline).expect("poll");
        assert_eq!(wait(soon()), Woke::Deadline);
        stop.fire();
        assert_eq!(wait(None), Woke::Stop);
        drop(d);
        assert_eq!(wait(None), Woke::PeerGone);
        b.write_all(b"x").expect("write");
        assert_eq!(wait(None), Woke::Ready);
    }
}
