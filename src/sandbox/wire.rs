//! What the server, the spawner and a cell say to each other: JSON over Unix
//! sockets of their own, descriptors beside it.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recvmsg, sendmsg};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Descriptors that go with one message, at most.
const MAX_FDS: usize = 8;
/// Longest message between server and spawner.
const MAX_WORD: usize = 8 * 1024;
/// Longest `Go`: arguments and environment of one program.
const MAX_GO: usize = 4 << 20;

/// From the server to the spawner, one packet each.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Ask {
    /// Make a cell. With it: the cell's end of its line, its freezer's file if
    /// `freezer` says so, then the `cgroup.procs` files it must join.
    Park { slot: u32, own_net: bool, freezer: bool, tmp: Tmp },
}

/// From the spawner to the server, one packet each.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Tell {
    /// Set up. With it, as root: a user namespace with the cells' mapping.
    Ready {
        missing: Vec<String>,
    },
    /// It can't work here.
    Unable {
        text: String,
    },
    /// The cell is there. With it: its pidfd.
    Parked {
        slot: u32,
        pid: u32,
    },
    Failed {
        slot: u32,
        text: String,
    },
    /// All processes of the cell are gone.
    Exited {
        slot: u32,
        code: i32,
    },
}

/// From the server to a parked cell: what to become. With it: the image's root
/// and the socket folder (unless `places` names them), and, if its output is
/// wanted, where it goes (two).
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Go {
    pub(super) hostname: String,
    pub(super) argv: Vec<String>,
    pub(super) env: Vec<String>,
    pub(super) working_dir: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
    /// Capabilities it may keep inside its own user namespace, as a bit mask.
    pub(super) capabilities: u64,
    pub(super) tmp: Tmp,
    pub(super) limits: Vec<Limit>,
    /// The root may be written to (in memory, gone with the cell).
    pub(super) writable_root: bool,
    /// It leaves the host's network for one with nothing in it.
    pub(super) no_network: bool,
    /// Without root the server cannot make mounts: root and socket folder are
    /// named, not sent.
    pub(super) places: Option<Places>,
}

/// Names below what the spawner has mounted: images, socket folders.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Places {
    pub(super) root: PathBuf,
    pub(super) iofs: PathBuf,
}

/// Size of /tmp; inodes 0 = no limit of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tmp {
    pub(super) bytes: u64,
    pub(super) inodes: u64,
}

/// A resource limit, soft and hard alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Limit {
    OpenFiles(u64),
    LockedMemory(u64),
    PendingSignals(u64),
    MessageQueues(u64),
    Processes(u64),
    Core(u64),
}

/// A cell's last word when a step failed; success is the end of the line.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Trouble {
    pub(super) step: String,
    pub(super) errno: i32,
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.step, io::Error::from_raw_os_error(self.errno))
    }
}

/// Sends one packet with descriptors. Never waits: a peer that does not read
/// is an error.
pub(super) fn send_packet(socket: BorrowedFd<'_>, word: &impl Serialize, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = serde_json::to_vec(word)?;
    send_some(socket, &bytes, fds, SendFlags::NOSIGNAL | SendFlags::DONTWAIT).map(drop)
}

fn send_some(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>], flags: SendFlags) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    loop {
        match sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags) {
            Err(Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

/// Receives one packet; `None` when the other side is gone.
pub(super) fn receive_packet<T: DeserializeOwned>(socket: BorrowedFd<'_>) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut buffer = [0u8; MAX_WORD];
    let (n, fds) = receive_some(socket, &mut buffer)?;
    if n == 0 {
        return Ok(None);
    }
    Ok(Some((serde_json::from_slice(&buffer[..n])?, fds)))
}

fn receive_some(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let n = loop {
        match recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            other => break other?.bytes,
        }
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    Ok((n, fds))
}

/// Sends a `Go` over a cell's line: its length, its text, the descriptors with
/// the first byte. Waits for a cell that is still being set up.
pub(super) fn send_go(line: BorrowedFd<'_>, go: &Go, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let text = serde_json::to_vec(go)?;
    if text.len() > MAX_GO {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "arguments and environment are too long"));
    }
    let mut bytes = u32::try_from(text.len()).unwrap_or_default().to_le_bytes().to_vec();
    bytes.extend_from_slice(&text);
    let mut sent = send_some(line, &bytes, fds, SendFlags::NOSIGNAL)?;
    while sent < bytes.len() {
        sent += send_some(line, &bytes[sent..], &[], SendFlags::NOSIGNAL)?;
    }
    Ok(())
}

/// The cell's side of [`send_go`]; `None` when the server is gone.
pub(super) fn receive_go(line: BorrowedFd<'_>) -> io::Result<Option<(Go, Vec<OwnedFd>)>> {
    let mut length = [0u8; 4];
    let (n, fds) = receive_some(line, &mut length)?;
    if n == 0 {
        return Ok(None);
    }
    read_exactly(line, &mut length[n..])?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_GO {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut text = vec![0u8; length];
    read_exactly(line, &mut text)?;
    Ok(Some((serde_json::from_slice(&text)?, fds)))
}

fn read_exactly(line: BorrowedFd<'_>, mut rest: &mut [u8]) -> io::Result<()> {
    while !rest.is_empty() {
        match rustix::io::read(line, &mut *rest) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => rest = &mut rest[n..],
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use std::os::fd::AsFd;

    #[test]
    fn words_and_descriptors_arrive_together() {
        let (a, b) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("pair");
        let (reader, writer) = rustix::pipe::pipe().expect("pipe");
        send_packet(a.as_fd(), &Ask::Park { slot: 7, own_net: true, freezer: false, tmp: Tmp { bytes: 1, inodes: 0 } }, &[writer.as_fd()]).expect("sent");
        drop(writer);
        let (ask, fds) = receive_packet::<Ask>(b.as_fd()).expect("received").expect("a packet");
        let Ask::Park { slot, own_net, .. } = ask;
        assert_eq!((slot, own_net, fds.len()), (7, true, 1));
        rustix::io::write(&fds[0], b"x").expect("the pipe's other end");
        let mut byte = [0u8; 1];
        assert_eq!(rustix::io::read(&reader, &mut byte).expect("read"), 1);
        drop(a);
        assert!(receive_packet::<Ask>(b.as_fd()).expect("end").is_none());
    }

    #[test]
    fn a_long_go_arrives_whole() {
        let (a, b) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).expect("pair");
        let go = Go {
            hostname: "h".to_owned(),
            argv: vec!["/f".to_owned()],
            env: vec![format!("LONG={}", "x".repeat(1 << 20))],
            working_dir: String::new(),
            uid: 1000,
            gid: 1000,
            groups: vec![],
            capabilities: 0,
            tmp: Tmp { bytes: 1, inodes: 0 },
            limits: vec![Limit::OpenFiles(5)],
            writable_root: false,
            no_network: false,
            places: None,
        };
        std::thread::scope(|scope| {
            scope.spawn(|| send_go(a.as_fd(), &go, &[b.as_fd()]).expect("sent"));
            let (came, fds) = receive_go(b.as_fd()).expect("received").expect("a go");
            assert_eq!((came.env[0].len(), came.limits, fds.len()), (5 + (1 << 20), vec![Limit::OpenFiles(5)], 1));
        });
    }
}
