//! The system calls that no safe wrapper offers, and nothing else. Each
//! function is safe to call; why is said where it is unsafe inside.
#![allow(unsafe_code, reason = "the only file with raw system calls")]

use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;

/// Proof that this process has a single thread: only then may it fork and go
/// on as an ordinary program (no lock can be held by a thread that is gone).
#[derive(Debug)]
pub(super) struct Alone(());

impl Alone {
    /// `None` when there are more threads, or when it cannot be told.
    pub(super) fn check() -> Option<Alone> {
        let threads = std::fs::read_dir("/proc/self/task").ok()?.count();
        (threads == 1).then_some(Alone(()))
    }
}

/// Which of the two a [`fork`] returned in.
#[derive(Debug)]
pub(super) enum Forked {
    Child,
    Parent { pid: i32, pidfd: OwnedFd },
}

/// `CLONE_NEW…` flags for [`fork`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Spaces(u64);

impl Spaces {
    pub(super) const USER: Spaces = Spaces(libc::CLONE_NEWUSER as u64);
    pub(super) const NET: Spaces = Spaces(libc::CLONE_NEWNET as u64);
    /// Processes, mounts, host name, System V and POSIX queues.
    pub(super) const INNER: Spaces = Spaces((libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC) as u64);

    pub(super) fn and(self, other: Spaces) -> Spaces {
        Spaces(self.0 | other.0)
    }
}

/// `struct clone_args`, version 0.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
}

/// fork(2) with new namespaces and a pidfd.
pub(super) fn fork(_alone: &Alone, spaces: Spaces) -> Result<Forked, Errno> {
    let mut pidfd: RawFd = -1;
    let args =
        CloneArgs { flags: spaces.0 | libc::CLONE_PIDFD as u64, pidfd: &raw mut pidfd as u64, exit_signal: libc::SIGCHLD as u64, ..CloneArgs::default() };
    // SAFETY: like fork(2): no CLONE_VM, no stack given, so the child goes on
    // in a copy of this address space. There is no other thread (`Alone`), so
    // no lock, the allocator's included, can be held for ever in the copy.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
    match i32::try_from(pid) {
        Ok(0) => Ok(Forked::Child),
        // SAFETY: the kernel wrote a new descriptor that nobody else knows of.
        Ok(pid) if pid > 0 => Ok(Forked::Parent { pid, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } }),
        _ => Err(last()),
    }
}

/// fork(2) by the old call, which the filter lets pass: the child's number, or
/// `None` in the child.
pub(super) fn fork_filtered(_alone: &Alone) -> Result<Option<i32>, Errno> {
    // SAFETY: as `fork`: no shared memory, no stack, no other thread.
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) };
    match i32::try_from(pid) {
        Ok(0) => Ok(None),
        Ok(pid) if pid > 0 => Ok(Some(pid)),
        _ => Err(last()),
    }
}

/// Leaves the cgroup namespace (and, if asked, the network) of the parent.
pub(super) fn unshare(_alone: &Alone, flags: rustix::thread::UnshareFlags) -> Result<(), Errno> {
    // SAFETY: no thread shares anything with this one (`Alone`).
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

/// `struct mount_attr`.
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Sets attributes (and the id mapping of `users`) of a mount that the
/// descriptor holds.
pub(super) fn mount_setattr(tree: BorrowedFd<'_>, set: rustix::mount::MountAttrFlags, users: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
    let mut attr = MountAttr { attr_set: u64::from(set.bits()), attr_clr: 0, propagation: 0, userns_fd: 0 };
    if let Some(users) = users {
        attr.attr_set |= u64::from(rustix::mount::MountAttrFlags::MOUNT_ATTR_IDMAP.bits());
        attr.userns_fd = u64::try_from(users.as_raw_fd()).unwrap_or_default();
    }
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    // SAFETY: the path is empty and terminated, `attr` outlives the call and
    // its true size is told.
    let done = unsafe { libc::syscall(libc::SYS_mount_setattr, tree.as_raw_fd(), c"".as_ptr(), flags, &raw const attr, size_of::<MountAttr>()) };
    if done == 0 { Ok(()) } else { Err(last()) }
}

/// Brings the loopback device of this network namespace up.
pub(super) fn loopback_up(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: an all-zero ifreq is a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_UP | libc::IFF_RUNNING).unwrap_or_default();
    // SAFETY: SIOCSIFFLAGS reads an ifreq, which outlives the call.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if done == 0 { Ok(()) } else { Err(last()) }
}

/// Closes every descriptor but those in `keep`. What owns the closed ones in
/// this process must never be used or dropped again: the caller goes on to
/// exec or `_exit` and returns to nobody.
pub(super) fn close_all_but(_alone: &Alone, keep: &mut [RawFd]) {
    keep.sort_unstable();
    let mut from: libc::c_uint = 0;
    for kept in keep.iter().filter_map(|fd| libc::c_uint::try_from(*fd).ok()) {
        if kept > from {
            close_range(from, kept - 1);
        }
        from = kept + 1;
    }
    close_range(from, libc::c_uint::MAX);
}

fn close_range(first: libc::c_uint, last: libc::c_uint) {
    // SAFETY: closing is all this does; the caller's promise above.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
}

/// Becomes another program; returns only on failure.
pub(super) fn exec(path: &CString, argv: &[CString], env: &[CString]) -> Errno {
    let pointers = |list: &[CString]| list.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>();
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: both arrays end with a null pointer, their strings are
    // terminated, and all of it outlives the call.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    last()
}

/// Ends the process at once: no destructor, no exit handler of the parent's.
pub(super) fn exit(code: i32) -> ! {
    // SAFETY: always allowed.
    unsafe { libc::_exit(code) }
}

fn last() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_threads_is_not_alone() {
        // The test harness has at least this thread and its own.
        assert!(Alone::check().is_none());
    }

    #[test]
    fn attributes_of_what_is_no_mount_are_refused() {
        let (reader, _writer) = rustix::pipe::pipe().expect("pipe");
        let refused = mount_setattr(std::os::fd::AsFd::as_fd(&reader), rustix::mount::MountAttrFlags::MOUNT_ATTR_RDONLY, None);
        assert!(refused.is_err());
    }

    #[test]
    fn exec_of_nothing_returns_its_errno() {
        let path = CString::new("/nowhere/program").expect("plain");
        assert_eq!(exec(&path, std::slice::from_ref(&path), &[]), Errno::NOENT);
    }

    #[test]
    fn loopback_needs_a_socket() {
        let (reader, _writer) = rustix::pipe::pipe().expect("pipe");
        assert!(loopback_up(std::os::fd::AsFd::as_fd(&reader)).is_err());
    }
}
