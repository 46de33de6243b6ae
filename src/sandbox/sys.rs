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

/// A child that shares this process's memory, on a stack of its own.
const STACK_BYTES: usize = 64 * 1024;

/// A process that does nothing, until dropped. Its namespaces outlive it for
/// whoever holds them open.
#[derive(Debug)]
pub(super) struct Idler {
    pid: i32,
    /// In use until the process was waited for.
    _stack: Vec<u8>,
}

impl Idler {
    pub(super) fn pid(&self) -> i32 {
        self.pid
    }
}

impl Drop for Idler {
    fn drop(&mut self) {
        // SAFETY: this process's own child, not waited for yet, so the number
        // is still its.
        unsafe {
            libc::kill(self.pid, libc::SIGKILL);
            libc::waitpid(self.pid, std::ptr::null_mut(), 0);
        }
    }
}

/// Starts an idle process in new namespaces: the cheapest way to have some
/// that this process is not in itself.
pub(super) fn idle(_alone: &Alone, spaces: Spaces) -> Result<Idler, Errno> {
    extern "C" fn wait(_: *mut libc::c_void) -> libc::c_int {
        loop {
            // SAFETY: both touch nothing but the kernel (and this thread's
            // errno, which the parent reads after its own failed calls only,
            // and these do not fail before the end).
            unsafe {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                libc::pause();
            }
        }
    }
    let mut stack = vec![0u8; STACK_BYTES];
    let flags = libc::CLONE_VM | libc::SIGCHLD | libc::c_int::try_from(spaces.0).unwrap_or_default();
    // SAFETY: the child runs `wait` on the given stack, which lives until
    // `Idler::drop` has waited for the child, and uses nothing else of the
    // memory it shares.
    let pid = unsafe { libc::clone(wait, top(&mut stack), flags, std::ptr::null_mut()) };
    if pid < 0 { Err(last()) } else { Ok(Idler { pid, _stack: stack }) }
}

/// The highest address of a stack, aligned as every architecture wants it.
fn top(stack: &mut [u8]) -> *mut libc::c_void {
    let end = stack.as_mut_ptr_range().end;
    end.wrapping_sub(end.addr() % 16).cast()
}

/// Why a program was not executed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotRun {
    Fork(Errno),
    Folder(Errno),
    Program(Errno),
}

/// What a child that shares memory reads, and writes when it fails.
struct Order {
    paths: Vec<*const libc::c_char>,
    argv: Vec<*const libc::c_char>,
    env: Vec<*const libc::c_char>,
    dir: *const libc::c_char,
    failed: Option<NotRun>,
}

/// Starts the first of the paths that can be executed, in a session of its own
/// and in `dir`. As vfork(2): this process waits until the program runs, and no
/// page is copied. Uses the old clone call, which the filter lets pass.
///
/// # Errors
/// What kept it from running; no process is left then.
pub(super) fn run(_alone: &Alone, paths: &[CString], argv: &[CString], env: &[CString], dir: Option<&CString>) -> Result<i32, NotRun> {
    extern "C" fn child(order: *mut libc::c_void) -> libc::c_int {
        // SAFETY: `order` is the parent's, which stands still until this child
        // has executed a program or ended; both arrays end with a null pointer
        // and all strings are terminated. Only system calls are made: no
        // allocation, no lock.
        unsafe {
            let order = &mut *order.cast::<Order>();
            libc::setsid();
            if !order.dir.is_null() && libc::chdir(order.dir) != 0 {
                order.failed = Some(NotRun::Folder(last()));
                libc::_exit(127)
            }
            let mut worst = Errno::NOENT;
            for path in &order.paths {
                libc::execve(*path, order.argv.as_ptr(), order.env.as_ptr());
                match last() {
                    Errno::NOENT | Errno::NOTDIR => {}
                    errno => worst = errno,
                }
            }
            order.failed = Some(NotRun::Program(worst));
            libc::_exit(127)
        }
    }
    let pointers = |list: &[CString]| list.iter().map(|s| s.as_ptr()).collect::<Vec<_>>();
    let ended = |list: &[CString]| list.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>();
    let mut order = Order { paths: pointers(paths), argv: ended(argv), env: ended(env), dir: dir.map_or(std::ptr::null(), |d| d.as_ptr()), failed: None };
    let mut stack = vec![0u8; STACK_BYTES];
    // SAFETY: CLONE_VFORK: the kernel lets this process go on only when the
    // child uses its memory no more, so stack and order outlive the child.
    let pid = unsafe { libc::clone(child, top(&mut stack), libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD, (&raw mut order).cast()) };
    if pid < 0 {
        return Err(NotRun::Fork(last()));
    }
    match order.failed {
        None => Ok(pid),
        Some(failed) => {
            // SAFETY: this process's own child, which has ended.
            unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
            Err(failed)
        }
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

/// Ends the process at once: no destructor, no exit handler of the parent's.
pub(super) fn exit(code: i32) -> ! {
    // SAFETY: always allowed.
    unsafe { libc::_exit(code) }
}

/// Once, when everything has started: unmaps the pages of the program's and its
/// libraries' own files that are mapped so far. What serves is mapped again from
/// the system's page cache when it is next used; what only the start used is
/// not. Returns the length of the mappings.
pub fn let_go_of_start() -> usize {
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    let mut bytes = 0;
    for (from, to) in clean_code(&smaps) {
        // SAFETY: the range is one private mapping of a file that the loader
        // mapped, and such ones stay until the process ends. It is not writable
        // and no page of it was ever written (relocated, patched): each is read
        // again from the file, with the same bytes.
        if unsafe { libc::madvise(std::ptr::with_exposed_provenance_mut(from), to - from, libc::MADV_DONTNEED) } == 0 {
            bytes += to - from;
        }
    }
    bytes
}

/// From `/proc/PID/smaps`: where files with code are mapped, as far as nothing of
/// it can be or was written.
fn clean_code(smaps: &str) -> Vec<(usize, usize)> {
    struct Mapping<'a> {
        range: (usize, usize),
        code: bool,
        clean: bool,
        file: (&'a str, &'a str),
    }
    let mut mappings: Vec<Mapping<'_>> = Vec::new();
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        let Some(first) = words.next() else { continue };
        // A page that was written may lie in the swap.
        if matches!(first, "Anonymous:" | "Swap:") {
            if let Some(mapping) = mappings.last_mut() {
                mapping.clean &= words.next() == Some("0");
            }
        } else if let Some((from, to)) = first.split_once('-') {
            let (Ok(from), Ok(to)) = (usize::from_str_radix(from, 16), usize::from_str_radix(to, 16)) else { continue };
            let access = words.next().unwrap_or_default();
            let file = (words.nth(2).unwrap_or_default(), words.next().unwrap_or_default());
            let clean = matches!(access, "r--p" | "r-xp") && file.1.starts_with('/');
            mappings.push(Mapping { range: (from, to), code: access == "r-xp", clean, file });
        }
    }
    mappings.iter().filter(|m| m.clean && mappings.iter().any(|c| c.code && c.file == m.file)).map(|m| m.range).collect()
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

    /// A stand-in: the test harness has threads, but none of them forks here,
    /// and both children below touch nothing that a lock could guard.
    const ALONE: Alone = Alone(());

    fn strings(list: &[&str]) -> Vec<CString> {
        list.iter().map(|s| CString::new(*s).expect("plain")).collect()
    }

    fn code(pid: i32) -> i32 {
        let mut status = 0;
        // SAFETY: a child of this test.
        unsafe { libc::waitpid(pid, &raw mut status, 0) };
        libc::WEXITSTATUS(status)
    }

    #[test]
    fn a_program_runs_where_and_with_what_it_is_told() {
        let argv = strings(&["sh", "-c", "test \"$PWD:$A\" = /:1 && exit 7"]);
        let pid = run(&ALONE, &strings(&["/nowhere/sh", "/bin/sh"]), &argv, &strings(&["A=1"]), Some(&c"/".to_owned())).expect("runs");
        assert_eq!(code(pid), 7);
    }

    #[test]
    fn what_cannot_run_says_why() {
        let argv = strings(&["x"]);
        let tried = |paths: &[&str], dir: Option<&CString>| run(&ALONE, &strings(paths), &argv, &[], dir);
        assert_eq!(tried(&["/nowhere/program"], None), Err(NotRun::Program(Errno::NOENT)));
        assert_eq!(tried(&["/etc/passwd", "/nowhere"], None), Err(NotRun::Program(Errno::ACCESS)));
        assert_eq!(tried(&["/bin/sh"], Some(&c"/nowhere".to_owned())), Err(NotRun::Folder(Errno::NOENT)));
    }

    #[test]
    fn an_idle_process_goes_when_dropped() {
        let idler = idle(&ALONE, Spaces::default()).expect("started");
        let here = std::path::PathBuf::from(format!("/proc/{}", idler.pid()));
        assert!(here.exists());
        drop(idler);
        assert!(!here.exists());
    }

    const SMAPS: &str = "\
5570-5580 r--p 00000000 fe:00 77 /usr/bin/hob
Rss:   64 kB
Anonymous:             0 kB
5580-5590 r-xp 00010000 fe:00 77 /usr/bin/hob
Anonymous:             0 kB
VmFlags: rd ex mr mw me
5590-55a0 r--p 00020000 fe:00 77 /usr/bin/hob
Anonymous:           116 kB
55a0-55b0 rw-p 00030000 fe:00 77 /usr/bin/hob
Anonymous:             0 kB
6000-6010 r--p 00000000 fe:00 99 /etc/a.table
Anonymous:             0 kB
7000-7010 r-xp 00000000 fe:00 88 /lib/patched.so
Anonymous:             4 kB
7010-7020 r--p 00010000 fe:00 88 /lib/patched.so
Anonymous:             0 kB
Swap:                  8 kB
7fff-8000 r-xp 00000000 00:00 0 [vdso]
Anonymous:             0 kB
";

    #[test]
    fn only_files_with_code_that_nobody_wrote_to_are_let_go() {
        assert_eq!(clean_code(SMAPS), [(0x5570, 0x5580), (0x5580, 0x5590)]);
        assert_eq!(clean_code("nonsense\n-\nAnonymous: 0 kB\nxx-yy r-xp 0 0 1 /a\n"), []);
    }

    #[test]
    fn the_program_goes_on_without_its_mapped_pages() {
        let text = || format!("{:?} {:?}", std::env::args().count(), std::time::Duration::from_millis(1500));
        let before = text();
        assert!(let_go_of_start() > 0);
        assert_eq!(text(), before);
    }

    #[test]
    fn loopback_needs_a_socket() {
        let (reader, _writer) = rustix::pipe::pipe().expect("pipe");
        assert!(loopback_up(std::os::fd::AsFd::as_fd(&reader)).is_err());
    }
}
