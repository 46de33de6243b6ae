//! The spawner: this program again, with one thread and nothing in its memory.
//! It forks cells, waits for their ends and tells the server. It ends when the
//! server does, and takes all cells with it.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, Signal, WaitId, WaitIdOptions, WaitIdStatus};
use rustix::thread::UnshareFlags;

use super::bare::{self, Kept};
use super::cell::{self, Common, Parts, Reach};
use super::seccomp;
use super::sys::{self, Alone, Forked, Spaces};
use super::wire::{self, Ask, Tell, Tmp};

/// The argument that makes this program a spawner.
pub const ARGUMENT: &str = "sandbox-init";
/// In place of an identity: the server is a plain user.
pub(super) const OWN: &str = "own";
/// The server's socket among the watched descriptors; others are slots.
const SERVER: u64 = u64::MAX;

struct Child {
    pidfd: OwnedFd,
    /// A cell that is frozen does not die before it is thawed (version 1).
    freezer: Option<OwnedFd>,
}

/// Runs the spawner on standard input, the server's socket. Arguments: the
/// first outside identity of cells; or `own`, the folder of the images' roots
/// and that of the socket folders.
pub fn main(arguments: impl Iterator<Item = String>) -> ExitCode {
    let arguments: Vec<String> = arguments.collect();
    let server = rustix::stdio::stdin();
    let Some(alone) = Alone::check() else {
        let _ = wire::send_packet(server, &Tell::Unable { text: "the spawner has more than one thread".to_owned() }, &[]);
        return ExitCode::FAILURE;
    };
    match set_up(&alone, &arguments) {
        Ok((common, _leash, users)) => {
            let told = wire::send_packet(server, &Tell::Ready { missing: Vec::new() }, &[users.as_fd()]);
            drop(users);
            if told.is_ok() && serve(&alone, &common, server).is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(text) => {
            let _ = wire::send_packet(server, &Tell::Unable { text }, &[]);
            ExitCode::FAILURE
        }
    }
}

fn set_up(alone: &Alone, arguments: &[String]) -> Result<(Common, OwnedFd, OwnedFd), String> {
    let said = |what: &'static str| move |e: Errno| format!("{what}: {e}");
    let (reach, kept) = match arguments {
        [own, images, folders] if own == OWN => (Reach::Own, Some(Kept { images: images.into(), folders: folders.into() })),
        [base] => (Reach::Root { base: base.parse().map_err(|_| format!("'{base}' is no user id"))? }, None),
        _ => return Err("the spawner is for hob alone to start".to_owned()),
    };
    let _ = rustix::thread::set_name(c"hob-spawner");
    raise_limits();
    match reach {
        // Core files and debuggers have no business here.
        Reach::Root { .. } => rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable).map_err(said("not dumpable"))?,
        // A process that may not be looked at can't map its own users. It has
        // no more power than who started it.
        Reach::Own => become_root_of_nothing(alone).map_err(|e| format!("a user namespace of a plain user: {e}"))?,
    }
    let users = cell::user_namespace(alone, reach).map_err(|e| format!("user namespace: {e}"))?;
    sys::unshare(alone, UnshareFlags::NEWNS).map_err(said("mount namespace"))?;
    bare::enter(kept.as_ref()).map_err(|(what, e)| format!("{what}: {e}"))?;
    let (leash, held) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(said("pipe"))?;
    Ok((Common { reach, filters: seccomp::compile(), leash }, held, users))
}

/// Into a user namespace where the server's user is root: of what it makes, and
/// of nothing that is there.
fn become_root_of_nothing(alone: &Alone) -> io::Result<()> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    sys::unshare(alone, UnshareFlags::NEWUSER)?;
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    std::fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
}

/// Cells share these limits of the user who made their namespaces; each cell
/// has its own, lower ones.
fn raise_limits() {
    for resource in [Resource::Nproc, Resource::Sigpending, Resource::Msgqueue, Resource::Memlock] {
        let _ = rustix::process::setrlimit(resource, Rlimit { current: None, maximum: None });
    }
    let files = rustix::process::getrlimit(Resource::Nofile);
    let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: files.maximum, maximum: files.maximum });
}

fn serve(alone: &Alone, common: &Common, server: BorrowedFd<'_>) -> io::Result<()> {
    let watched = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(&watched, server, EventData::new_u64(SERVER), EventFlags::IN)?;
    let mut children: HashMap<u32, Child> = HashMap::new();
    let mut events = Vec::with_capacity(64);
    loop {
        events.clear();
        match epoll::wait(&watched, rustix::buffer::spare_capacity(&mut events), None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        for event in &events {
            if event.data.u64() == SERVER {
                match wire::receive_packet::<Ask>(server) {
                    Ok(Some((Ask::Park { slot, own_net, freezer, tmp }, fds))) => {
                        let told = match park(alone, common, own_net, freezer, tmp, fds) {
                            Ok((pid, child)) => {
                                epoll::add(&watched, &child.pidfd, EventData::new_u64(u64::from(slot)), EventFlags::IN)?;
                                let told = wire::send_packet(server, &Tell::Parked { slot, pid: pid.unsigned_abs() }, &[child.pidfd.as_fd()]);
                                children.insert(slot, child);
                                told
                            }
                            Err(e) => wire::send_packet(server, &Tell::Failed { slot, text: e.to_string() }, &[]),
                        };
                        if told.is_err() {
                            return end(children);
                        }
                    }
                    Ok(None) | Err(_) => return end(children),
                }
            } else if let Ok(slot) = u32::try_from(event.data.u64())
                && let Some(child) = children.remove(&slot)
            {
                let _ = epoll::delete(&watched, &child.pidfd);
                let code = code(&child.pidfd);
                if wire::send_packet(server, &Tell::Exited { slot, code }, &[]).is_err() {
                    return end(children);
                }
            }
        }
    }
}

fn park(alone: &Alone, common: &Common, own_net: bool, freezer: bool, tmp: Tmp, fds: Vec<OwnedFd>) -> Result<(i32, Child), Errno> {
    let mut fds = fds.into_iter();
    let Some(line) = fds.next() else { return Err(Errno::INVAL) };
    let freezer = if freezer { fds.next() } else { None };
    let parts = Parts { line, groups: fds.collect(), tmp };
    let spaces = if own_net { Spaces::INNER.and(Spaces::NET) } else { Spaces::INNER };
    match sys::fork(alone, spaces)? {
        Forked::Child => cell::live(alone, common, parts),
        Forked::Parent { pid, pidfd } => Ok((pid, Child { pidfd, freezer })),
    }
}

/// Waits for an ended cell; its exit code, or 128 and the signal's number.
fn code(pidfd: &OwnedFd) -> i32 {
    let status: Option<WaitIdStatus> = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED).ok().flatten();
    let Some(status) = status else { return -1 };
    status.exit_status().or_else(|| status.terminating_signal().map(|s| 128 + s)).unwrap_or(-1)
}

/// The server is gone: so is everything. All are killed, then all waited for.
fn end(children: HashMap<u32, Child>) -> io::Result<()> {
    for child in children.values() {
        let _ = rustix::process::pidfd_send_signal(&child.pidfd, Signal::KILL);
        if let Some(freezer) = &child.freezer {
            let _ = rustix::io::write(freezer, b"THAWED");
        }
    }
    for child in children.values() {
        let _ = code(&child.pidfd);
    }
    Ok(())
}
