//! Where a function listens: found beneath its own folder, held by descriptor.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::{FileType, Mode, OFlags, fstat, openat, readlinkat};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::net::SocketAddrUnix;

use crate::pool::Stop;
use crate::uds::net::{dial_addr, pause};

/// The name a function's socket must have (the FDK's `FN_LISTENER`).
pub const SOCKET_NAME: &str = "lsnr.sock";

/// A function's socket could not be used.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("no {SOCKET_NAME} in the socket folder")]
    Missing,
    #[error("{SOCKET_NAME} is a link out of its folder; it must name a socket beside it")]
    LinkLeavesFolder,
    #[error("{SOCKET_NAME} is a link to nothing")]
    Dangling,
    #[error("{SOCKET_NAME} is a link to another link")]
    LinkToLink,
    #[error("{SOCKET_NAME} is not a socket but a {kind}")]
    NotASocket { kind: &'static str },
    #[error("the socket {SOCKET_NAME} is there but nobody accepted a connection in time")]
    Refused,
    #[error("the server is shutting down")]
    Stopped,
    #[error("cannot {verb} {SOCKET_NAME}: {source}")]
    Io { verb: &'static str, source: io::Error },
}

/// The socket file itself (`O_PATH`) and the way to connect to it. INVARIANT:
/// it was opened without following a link, from a plain name in the folder.
#[derive(Debug)]
pub(super) struct Place {
    folder: OwnedFd,
    socket: OwnedFd,
    addr: SocketAddrUnix,
}

impl Place {
    /// Finds the socket. The folder's descriptor is kept to find it again.
    pub(super) fn find(folder: BorrowedFd<'_>) -> Result<Place, SocketError> {
        let folder = fcntl_dupfd_cloexec(folder, 3).map_err(|e| failed("hold the folder of", e))?;
        let socket = resolve(folder.as_fd())?;
        let addr = address(&socket)?;
        Ok(Place { folder, socket, addr })
    }

    /// Finds the socket anew: the function may have bound it again.
    pub(super) fn find_again(&mut self) -> Result<(), SocketError> {
        self.socket = resolve(self.folder.as_fd())?;
        self.addr = address(&self.socket)?;
        Ok(())
    }

    /// One attempt; when the socket went away it is looked for once more.
    pub(super) fn dial(&mut self) -> Result<OwnedFd, Errno> {
        crate::fault::at("function.dial").map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::MFILE))?;
        match dial_addr(&self.addr) {
            Err(Errno::CONNREFUSED | Errno::NOENT) if self.find_again().is_ok() => dial_addr(&self.addr),
            done => done,
        }
    }

    /// Dials until a full backlog empties and, while `booting`, until somebody
    /// listens: the file appears at bind(), before that.
    pub(super) fn dial_until(&mut self, until: Instant, stop: &Stop, booting: bool) -> Result<OwnedFd, SocketError> {
        let mut delay = Duration::from_millis(1);
        loop {
            match self.dial() {
                Ok(fd) => return Ok(fd),
                Err(Errno::AGAIN) => {}
                Err(Errno::CONNREFUSED) if booting => {}
                Err(e) => return Err(failed("connect to", e)),
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(SocketError::Refused);
            }
            if !pause(Some(stop), delay.min(left)) {
                return Err(SocketError::Stopped);
            }
            delay = (delay * 2).min(Duration::from_millis(20));
        }
    }
}

fn failed(verb: &'static str, e: Errno) -> SocketError {
    SocketError::Io { verb, source: e.into() }
}

/// The kernel resolves /proc/self/fd/N to the held file itself: no name the
/// function could have changed since is looked at.
fn address(socket: &OwnedFd) -> Result<SocketAddrUnix, SocketError> {
    SocketAddrUnix::new(format!("/proc/self/fd/{}", socket.as_raw_fd())).map_err(|e| failed("address", e))
}

fn resolve(folder: BorrowedFd<'_>) -> Result<OwnedFd, SocketError> {
    let target = match readlinkat(folder, SOCKET_NAME, Vec::new()) {
        Ok(target) => Some(target),
        Err(Errno::INVAL) => None, // not a link
        Err(Errno::NOENT) => return Err(SocketError::Missing),
        Err(e) => return Err(failed("read", e)),
    };
    let name = match &target {
        Some(target) => plain_name(target.as_bytes()).ok_or(SocketError::LinkLeavesFolder)?,
        None => SOCKET_NAME.as_bytes(),
    };
    let socket = match openat(folder, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
        Ok(socket) => socket,
        Err(Errno::NOENT) if target.is_some() => return Err(SocketError::Dangling),
        Err(Errno::NOENT) => return Err(SocketError::Missing),
        Err(e) => return Err(failed("open", e)),
    };
    let kind = match FileType::from_raw_mode(fstat(&socket).map_err(|e| failed("examine", e))?.st_mode) {
        FileType::Socket => return Ok(socket),
        FileType::Symlink => return Err(SocketError::LinkToLink),
        FileType::RegularFile => "regular file",
        FileType::Directory => "folder",
        FileType::Fifo => "pipe",
        FileType::CharacterDevice | FileType::BlockDevice | FileType::Unknown => "device",
    };
    Err(SocketError::NotASocket { kind })
}

/// `x` and `./x` name something in the same folder; everything else may not.
fn plain_name(target: &[u8]) -> Option<&[u8]> {
    let name = target.strip_prefix(b"./").unwrap_or(target);
    if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') { None } else { Some(name) }
}
