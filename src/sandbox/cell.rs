//! One cell: the process that waits, set up as far as can be, until it is told
//! what to become. It is process 1 of its namespaces; the function is its child.
//!
//! It was forked by the spawner, which has one thread, so ordinary code may run
//! here between fork and exec. It acts as the spawner's user until `become_user`
//! and has no way back after that.

use std::ffi::CString;
use std::fmt::Write as _;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen, move_mount,
    open_tree, unmount,
};
use rustix::process::{DumpableBehavior, Resource, Rlimit, Signal};
use rustix::thread::{CapabilitySet, CapabilitySets, LinkNameSpaceType, UnshareFlags};
use rustix::thread::{Gid, Uid};
use seccompiler::BpfProgram;

use super::sys::{self, Alone, Forked, Spaces};
use super::wire::{self, Go, Limit, Trouble};

/// Identities inside a cell, from 0; each has one outside, from the base.
pub(super) const IDS: u32 = 65_536;
/// Size of /dev/shm, as engines have it.
const SHM_BYTES: u64 = 64 << 20;
/// Said when the program could not be executed, as shells do.
const NOT_EXECUTED: i32 = 127;

/// Made once by the spawner, the same for every cell.
#[derive(Debug)]
pub(super) struct Common {
    /// Outside identity of inside identity 0.
    pub(super) base: u32,
    pub(super) filters: Vec<BpfProgram>,
    /// Its other end closes with the spawner.
    pub(super) leash: OwnedFd,
}

/// What one cell is given.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) line: OwnedFd,
    /// `cgroup.procs` files.
    pub(super) groups: Vec<OwnedFd>,
}

const ATTRS: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV).union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// Of /proc: seen, not written.
const READ_ONLY: &[&str] = &["bus", "fs", "irq", "sys", "sysrq-trigger"];
/// Of /proc: not seen. They tell of the host, or of the kernel's insides.
const MASKED_FILES: &[&str] = &[
    "interrupts",
    "kcore",
    "keys",
    "key-users",
    "kmsg",
    "kallsyms",
    "kpagecount",
    "kpageflags",
    "kpagecgroup",
    "latency_stats",
    "timer_list",
    "timer_stats",
    "sched_debug",
    "softirqs",
    "slabinfo",
    "vmallocinfo",
    "pagetypeinfo",
    "iomem",
    "ioports",
    "modules",
    "config.gz",
    "cmdline",
    "mdstat",
];
const MASKED_FOLDERS: &[&str] = &["acpi", "asound", "scsi", "driver", "pressure"];

/// A step that failed, with its name.
struct Failed(&'static str, Errno);

trait Step<T> {
    fn step(self, name: &'static str) -> Result<T, Failed>;
}

impl<T> Step<T> for Result<T, Errno> {
    fn step(self, name: &'static str) -> Result<T, Failed> {
        self.map_err(|errno| Failed(name, errno))
    }
}

impl<T> Step<T> for std::io::Result<T> {
    fn step(self, name: &'static str) -> Result<T, Failed> {
        self.map_err(|error| Failed(name, Errno::from_io_error(&error).unwrap_or(Errno::IO)))
    }
}

/// The whole life of a cell's first process.
pub(super) fn live(alone: &Alone, common: &Common, parts: Parts) -> ! {
    // Standard output is /dev/null here, standard error the server's log.
    let mut keep = vec![parts.line.as_raw_fd(), common.leash.as_raw_fd(), 1, 2];
    keep.extend(parts.groups.iter().map(AsRawFd::as_raw_fd));
    sys::close_all_but(alone, &mut keep);
    // Nothing that is opened below may get a standard stream's number.
    let _ = rustix::stdio::dup2_stdin(rustix::stdio::stdout());
    let line = parts.line.as_raw_fd();
    match park(alone, common, parts) {
        Ok((line, users, go)) => match go {
            Some((go, fds)) => match become_function(alone, common, &line, &users, &go, fds) {
                Ok(child) => reap(alone, child),
                Err(failed) => give_up(line.as_fd(), &failed),
            },
            None => sys::exit(0),
        },
        Err((held, failed)) => {
            debug_assert_eq!(held.as_raw_fd(), line);
            give_up(held.as_fd(), &failed)
        }
    }
}

fn give_up(line: BorrowedFd<'_>, failed: &Failed) -> ! {
    tell(line, failed);
    sys::exit(NOT_EXECUTED)
}

fn tell(line: BorrowedFd<'_>, failed: &Failed) {
    let trouble = Trouble { step: failed.0.to_owned(), errno: failed.1.raw_os_error() };
    // Whoever is gone need not be told.
    if let Ok(text) = serde_json::to_vec(&trouble) {
        let _ = rustix::net::send(line, &text, rustix::net::SendFlags::NOSIGNAL);
    }
}

type Ordered = (OwnedFd, OwnedFd, Option<(Go, Vec<OwnedFd>)>);

/// Everything that needs no function: groups, namespaces, /proc, /dev. Then
/// waits for the order.
fn park(alone: &Alone, common: &Common, parts: Parts) -> Result<Ordered, (OwnedFd, Failed)> {
    let Parts { line, groups } = parts;
    match prepare(alone, common, groups) {
        Ok(users) => match wire::receive_go(line.as_fd()).step("receive the order") {
            Ok(go) => Ok((line, users, go)),
            Err(failed) => Err((line, failed)),
        },
        Err(failed) => Err((line, failed)),
    }
}

fn prepare(alone: &Alone, common: &Common, groups: Vec<OwnedFd>) -> Result<OwnedFd, Failed> {
    leash(common)?;
    let _ = rustix::thread::set_name(c"hob-parked");
    for group in groups {
        rustix::io::write(&group, b"0").step("join the cgroup")?;
    }
    sys::unshare(alone, UnshareFlags::NEWCGROUP).step("cgroup namespace")?;
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None).step("socket")?;
    // In the host's own network it is up already, and not ours to change.
    let _ = sys::loopback_up(socket.as_fd());
    drop(socket);
    mount_proc()?;
    let users = user_namespace(alone, common.base).step("user namespace")?;
    mask_proc()?;
    let shm = tmpfs(SHM_BYTES, 0, "1777", ATTRS).step("make /dev/shm")?;
    attach(shm.as_fd(), CWD, "/dev/shm").step("mount /dev/shm")?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).step("not dumpable")?;
    Ok(users)
}

/// The kernel kills this process, and with it all of its namespace, when the
/// spawner ends. Asked for anew after each change of identity, which undoes it.
fn leash(common: &Common) -> Result<(), Failed> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).step("parent death signal")?;
    // The spawner may have ended before that.
    let mut poll = [rustix::event::PollFd::new(&common.leash, rustix::event::PollFlags::IN)];
    let zero = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    match rustix::event::poll(&mut poll, Some(&zero)) {
        Ok(0) => Ok(()),
        _ => Err(Failed("spawner is gone", Errno::SRCH)),
    }
}

fn mount_proc() -> Result<(), Failed> {
    let context = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC).step("open proc")?;
    fsconfig_create(context.as_fd()).step("make proc")?;
    let proc = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, ATTRS).step("mount proc")?;
    attach(proc.as_fd(), CWD, "/proc").step("mount /proc")
}

fn mask_proc() -> Result<(), Failed> {
    let covers = [(READ_ONLY, None), (MASKED_FILES, Some("/dev/null")), (MASKED_FOLDERS, Some("/empty"))];
    let mut path = String::new();
    for (names, cover) in covers {
        for name in names {
            path.clear();
            let _ = write!(path, "/proc/{name}");
            match cover_one(cover.unwrap_or(&path), &path) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(Failed("mask /proc", errno)),
            }
        }
    }
    Ok(())
}

/// A read-only view of `with` over `path`.
fn cover_one(with: &str, path: &str) -> Result<(), Errno> {
    // Of what is not there nothing need be hidden.
    rustix::fs::access(path, rustix::fs::Access::EXISTS)?;
    let tree = open_tree(CWD, with, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
    let device = if with.starts_with("/dev") { MountAttrFlags::MOUNT_ATTR_NOSUID } else { ATTRS };
    sys::mount_setattr(tree.as_fd(), MountAttrFlags::MOUNT_ATTR_RDONLY | device, None)?;
    attach(tree.as_fd(), CWD, path)
}

/// A user namespace whose identities 0 to 65535 are the unprivileged ones from
/// the base; it is entered last.
pub(super) fn user_namespace(alone: &Alone, base: u32) -> std::io::Result<OwnedFd> {
    match sys::fork(alone, Spaces::USER)? {
        Forked::Child => {
            let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
            loop {
                rustix::event::pause();
            }
        }
        Forked::Parent { pid, pidfd } => {
            let made = map(pid, base);
            let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
            let _ = rustix::process::waitid(rustix::process::WaitId::PidFd(pidfd.as_fd()), rustix::process::WaitIdOptions::EXITED);
            made
        }
    }
}

fn map(pid: i32, base: u32) -> std::io::Result<OwnedFd> {
    for file in ["uid_map", "gid_map"] {
        std::fs::write(format!("/proc/{pid}/{file}"), format!("0 {base} {IDS}"))?;
    }
    Ok(rustix::fs::open(format!("/proc/{pid}/ns/user"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

fn tmpfs(bytes: u64, inodes: u64, mode: &str, attrs: MountAttrFlags) -> Result<OwnedFd, Errno> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), "size", bytes.to_string())?;
    fsconfig_set_string(context.as_fd(), "mode", mode)?;
    if inodes != 0 {
        fsconfig_set_string(context.as_fd(), "nr_inodes", inodes.to_string())?;
    }
    fsconfig_create(context.as_fd())?;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attrs)
}

/// A socket folder: 1 MiB of memory, 64 names, nothing in it can be executed
/// or has any power. Belongs to no mount namespace until a cell attaches it,
/// and is gone with its last user.
pub(super) fn socket_folder() -> Result<OwnedFd, Errno> {
    tmpfs(1 << 20, 64, "0777", ATTRS)
}

fn attach(tree: BorrowedFd<'_>, at: BorrowedFd<'_>, path: &str) -> Result<(), Errno> {
    let mut flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    if path.is_empty() {
        flags |= MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    }
    move_mount(tree, "", at, path, flags)
}

/// From the order to the function's first instruction. Returns the function's
/// process; in that process it does not return.
fn become_function(alone: &Alone, common: &Common, line: &OwnedFd, users: &OwnedFd, go: &Go, fds: Vec<OwnedFd>) -> Result<i32, Failed> {
    let mut fds = fds.into_iter();
    let (Some(root), Some(iofs)) = (fds.next(), fds.next()) else { return Err(Failed("order without root", Errno::INVAL)) };
    let (out, err) = (fds.next(), fds.next());
    enter_root(go, root.as_fd(), iofs.as_fd())?;
    drop((root, iofs));
    rustix::system::sethostname(go.hostname.as_bytes()).step("host name")?;
    for limit in &go.limits {
        set_limit(*limit).step("resource limit")?;
    }
    standard_streams(out, err)?;
    become_user(common, users, go)?;
    let program = Program::new(go);
    // Once for both: to put it on costs more than the fork.
    filter(common)?;
    match sys::fork_filtered(alone).step("fork")? {
        Some(pid) => Ok(pid),
        None => {
            let _ = rustix::process::setsid();
            tell(line.as_fd(), &program.run());
            sys::exit(NOT_EXECUTED)
        }
    }
}

/// From here on only the listed system calls, for ever.
fn filter(common: &Common) -> Result<(), Failed> {
    common.filters.iter().try_for_each(|filter| seccompiler::apply_filter(filter).map_err(|_| Failed("system call filter", Errno::INVAL)))
}

/// Mounts what the function sees and makes it all that there is.
fn enter_root(go: &Go, root: BorrowedFd<'_>, iofs: BorrowedFd<'_>) -> Result<(), Failed> {
    attach(root, CWD, "/new").step("mount the root")?;
    let writable = if go.writable_root { Some(writable_root(root)?) } else { None };
    let root = writable.as_ref().map_or(root, AsFd::as_fd);
    for (name, what) in [("proc", "mount /proc in the root"), ("dev", "mount /dev in the root")] {
        // These two are looked at by every program: never through a link.
        let at = openat2(root, name, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::NO_SYMLINKS).step(what)?;
        move_mount(CWD, format!("/{name}"), at, "", MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH).step(what)?;
    }
    let tmp = tmpfs(go.tmp_bytes, go.tmp_inodes, "1777", ATTRS).step("make /tmp")?;
    mkdirat(&tmp, "iofs", Mode::from_raw_mode(0o755)).step("make /tmp/iofs")?;
    let at = openat2(root, "tmp", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT).step("find /tmp in the root")?;
    attach(tmp.as_fd(), at.as_fd(), "").step("mount /tmp")?;
    attach(iofs, tmp.as_fd(), "iofs").step("mount /tmp/iofs")?;
    rustix::process::fchdir(root).step("enter the root")?;
    // The old root is stacked upon the new one, and then taken away.
    rustix::process::pivot_root(".", ".").step("pivot_root")?;
    unmount(".", UnmountFlags::DETACH).step("leave the old root")?;
    rustix::process::chdir("/").step("enter the root")
}

/// An overlay in memory over the read-only root.
fn writable_root(lower: BorrowedFd<'_>) -> Result<OwnedFd, Failed> {
    const WHAT: &str = "writable root";
    let store = tmpfs(SHM_BYTES, 0, "0755", MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV).step(WHAT)?;
    attach(store.as_fd(), CWD, "/empty").step(WHAT)?;
    for name in ["upper", "work"] {
        mkdirat(&store, name, Mode::from_raw_mode(0o755)).step(WHAT)?;
    }
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).step(WHAT)?;
    for (key, value) in [("lowerdir", "/new"), ("upperdir", "/empty/upper"), ("workdir", "/empty/work")] {
        fsconfig_set_string(context.as_fd(), key, value).step(WHAT)?;
    }
    let _ = lower;
    fsconfig_create(context.as_fd()).step(WHAT)?;
    let root = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV).step(WHAT)?;
    attach(root.as_fd(), CWD, "/new").step(WHAT)?;
    Ok(root)
}

fn set_limit(limit: Limit) -> Result<(), Errno> {
    let (resource, value) = match limit {
        Limit::OpenFiles(n) => (Resource::Nofile, n),
        Limit::LockedMemory(n) => (Resource::Memlock, n),
        Limit::PendingSignals(n) => (Resource::Sigpending, n),
        Limit::MessageQueues(n) => (Resource::Msgqueue, n),
        Limit::Processes(n) => (Resource::Nproc, n),
        Limit::Core(n) => (Resource::Core, n),
    };
    rustix::process::setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) })
}

fn standard_streams(out: Option<OwnedFd>, err: Option<OwnedFd>) -> Result<(), Failed> {
    let null = openat(CWD, "/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).step("open /dev/null")?;
    rustix::stdio::dup2_stdin(&null).step("standard input")?;
    rustix::stdio::dup2_stdout(out.as_ref().unwrap_or(&null)).step("standard output")?;
    rustix::stdio::dup2_stderr(err.as_ref().unwrap_or(&null)).step("standard error")
}

/// The last step as somebody: into the user namespace, where it is nobody
/// outside, down to the function's user, without any capability it was not
/// given, and with no way to gain one.
fn become_user(common: &Common, users: &OwnedFd, go: &Go) -> Result<(), Failed> {
    rustix::thread::move_into_link_name_space(users.as_fd(), Some(LinkNameSpaceType::User)).step("enter the user namespace")?;
    let keep = CapabilitySet::from_bits_truncate(go.capabilities);
    for bit in 0..64 {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        if !keep.contains(one) {
            // The kernel knows fewer than 64.
            if rustix::thread::remove_capability_from_bounding_set(one) == Err(Errno::INVAL) {
                break;
            }
        }
    }
    let groups: Vec<Gid> = go.groups.iter().map(|g| Gid::from_raw(*g)).collect();
    rustix::thread::set_thread_groups(&groups).step("set groups")?;
    let (uid, gid) = (Uid::from_raw(go.uid), Gid::from_raw(go.gid));
    rustix::thread::set_thread_res_gid(gid, gid, gid).step("set group")?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).step("set user")?;
    let (effective, permitted) = if go.uid == 0 { (keep, keep) } else { (CapabilitySet::empty(), CapabilitySet::empty()) };
    rustix::thread::set_capabilities(None, CapabilitySets { effective, permitted, inheritable: CapabilitySet::empty() }).step("drop capabilities")?;
    leash(common)?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).step("not dumpable")?;
    rustix::thread::set_no_new_privs(true).step("no new privileges")?;
    let _ = rustix::thread::set_name(c"hob-init");
    Ok(())
}

/// What will be executed, made before the filter is on.
struct Program {
    paths: Vec<CString>,
    argv: Vec<CString>,
    env: Vec<CString>,
    working_dir: CString,
}

impl Program {
    fn new(go: &Go) -> Program {
        // A NUL cannot come from JSON's text fields unseen: such a string is left out.
        let strings = |list: &[String]| list.iter().filter_map(|s| CString::new(s.as_str()).ok()).collect::<Vec<_>>();
        let name = go.argv.first().map_or("", String::as_str);
        let paths = if name.contains('/') {
            vec![name.to_owned()]
        } else {
            let path = go.env.iter().find_map(|e| e.strip_prefix("PATH=")).unwrap_or("/usr/local/bin:/usr/bin:/bin");
            path.split(':').map(|folder| format!("{}/{name}", if folder.is_empty() { "." } else { folder })).collect()
        };
        let working_dir = CString::new(go.working_dir.as_str()).unwrap_or_default();
        Program { paths: strings(&paths), argv: strings(&go.argv), env: strings(&go.env), working_dir }
    }

    /// Returns only on failure.
    fn run(&self) -> Failed {
        if !self.working_dir.is_empty()
            && let Err(errno) = rustix::process::chdir(&self.working_dir)
        {
            return Failed("enter the working folder", errno);
        }
        let mut worst = Errno::NOENT;
        for path in &self.paths {
            match sys::exec(path, &self.argv, &self.env) {
                Errno::NOENT | Errno::NOTDIR => {}
                errno => worst = errno,
            }
        }
        Failed("execute the program", worst)
    }
}

/// Process 1: waits for the function, clearing away what it leaves; ends with
/// its code, and the kernel ends the rest.
fn reap(alone: &Alone, function: i32) -> ! {
    sys::close_all_but(alone, &mut []);
    loop {
        match rustix::process::wait(rustix::process::WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid.as_raw_nonzero().get() == function => {
                let code = status.exit_status().or_else(|| status.terminating_signal().map(|s| 128 + s));
                sys::exit(code.unwrap_or(NOT_EXECUTED))
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => sys::exit(NOT_EXECUTED),
        }
    }
}
