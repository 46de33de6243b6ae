//! The spawner: this program again, with one thread and nothing in its memory.
//! It forks cells, waits for their ends and tells the server. It ends when the
//! server does, and takes all cells with it.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::fs::{CWD, FileType, Mode, mkdir, mknodat, symlink};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount_change, move_mount, open_tree, unmount};
use rustix::process::{Resource, Rlimit, Signal, WaitId, WaitIdOptions, WaitIdStatus};
use rustix::thread::UnshareFlags;

use super::cell::{self, Common, Parts};
use super::mounts;
use super::seccomp;
use super::sys::{self, Alone, Forked, Spaces};
use super::wire::{self, Ask, Tell, Tmp};

/// The argument that makes this program a spawner.
pub const ARGUMENT: &str = "sandbox-init";
/// Size of what holds a few names only, bytes.
const TINY: u64 = 64 * 1024;
/// The server's socket among the watched descriptors; others are slots.
const SERVER: u64 = u64::MAX;

struct Child {
    pidfd: OwnedFd,
    /// A cell that is frozen does not die before it is thawed (version 1).
    freezer: Option<OwnedFd>,
}

/// Runs the spawner on standard input, the server's socket.
pub fn main(base: &str) -> ExitCode {
    let server = rustix::stdio::stdin();
    let Some(alone) = Alone::check() else {
        let _ = wire::send_packet(server, &Tell::Unable { text: "the spawner has more than one thread".to_owned() }, &[]);
        return ExitCode::FAILURE;
    };
    match set_up(&alone, base) {
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

fn set_up(alone: &Alone, base: &str) -> Result<(Common, OwnedFd, OwnedFd), String> {
    let said = |what: &'static str| move |e: Errno| format!("{what}: {e}");
    let base: u32 = base.parse().map_err(|_| format!("'{base}' is no user id"))?;
    let _ = rustix::thread::set_name(c"hob-spawner");
    // Core files and debuggers have no business here.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable).map_err(said("not dumpable"))?;
    raise_limits();
    let users = cell::user_namespace(alone, base).map_err(|e| format!("user namespace: {e}"))?;
    sys::unshare(alone, UnshareFlags::NEWNS).map_err(said("mount namespace"))?;
    bare_root().map_err(|(what, e)| format!("{what}: {e}"))?;
    let (leash, held) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(said("pipe"))?;
    Ok((Common { base, filters: seccomp::compile(), leash }, held, users))
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

/// A root with nothing of the host in it: what a cell starts from, and all
/// that a copy of it costs.
fn bare_root() -> Result<(), (&'static str, Errno)> {
    let at = |what: &'static str| move |e: Errno| (what, e);
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).map_err(at("make mounts private"))?;
    let root = mounts::tmpfs(TINY, 0, "0755", MountAttrFlags::empty()).map_err(at("make a root"))?;
    move_mount(root.as_fd(), "", CWD, "/proc", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).map_err(at("mount a root"))?;
    rustix::process::fchdir(&root).map_err(at("enter the root"))?;
    for name in ["new", "proc", "dev", "empty"] {
        mkdir(name, Mode::from_raw_mode(0o755)).map_err(at("make folders"))?;
    }
    rustix::process::pivot_root(".", ".").map_err(at("pivot_root"))?;
    unmount(".", UnmountFlags::DETACH).map_err(at("leave the old root"))?;
    rustix::process::chdir("/").map_err(at("enter the root"))?;
    devices().map_err(at("make /dev"))?;
    covers().map_err(at("make what covers /proc"))
}

/// Read-only mounts of nothing, cloned by each cell.
fn covers() -> Result<(), Errno> {
    mknodat(CWD, mounts::NULL, FileType::RegularFile, Mode::from_raw_mode(0o444), 0)?;
    for (what, at, attrs) in [("/dev/null", mounts::NULL, MountAttrFlags::MOUNT_ATTR_NOSUID), (mounts::EMPTY, mounts::EMPTY, mounts::ATTRS)] {
        let tree = open_tree(CWD, what, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
        sys::mount_setattr(tree.as_fd(), MountAttrFlags::MOUNT_ATTR_RDONLY | attrs, None)?;
        mounts::attach(tree.as_fd(), CWD, at)?;
    }
    Ok(())
}

/// The few devices a program expects; read-only for all cells, who share it.
fn devices() -> Result<(), Errno> {
    let dev = mounts::tmpfs(TINY, 0, "0755", MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC)?;
    let old = rustix::process::umask(Mode::empty());
    for (name, major, minor) in [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)] {
        mknodat(&dev, name, FileType::CharacterDevice, Mode::from_raw_mode(0o666), rustix::fs::makedev(major, minor))?;
    }
    rustix::process::umask(old);
    rustix::fs::mkdirat(&dev, "shm", Mode::from_raw_mode(0o755))?;
    move_mount(dev.as_fd(), "", CWD, "/dev", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    for (name, target) in [("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1"), ("stderr", "/proc/self/fd/2")] {
        symlink(target, format!("/dev/{name}"))?;
    }
    sys::mount_setattr(dev.as_fd(), MountAttrFlags::MOUNT_ATTR_RDONLY, None)
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
