//! One cell: the process that waits, set up as far as can be, until it is told
//! what to become. It is process 1 of its namespaces; the function is its child.
//!
//! It was forked by the spawner, which has one thread, so ordinary code may run
//! here between fork and exec. It acts as the spawner's user until `become_user`
//! and has no way back after that.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Resource, Rlimit, Signal};
use rustix::thread::{CapabilitySet, CapabilitySets, LinkNameSpaceType, UnshareFlags};
use rustix::thread::{Gid, Uid};

use super::mounts;
use super::seccomp::Filters;
use super::sys::{self, Alone, Spaces};
use super::wire::{self, Go, Limit, Tmp, Trouble};

/// Identities inside a cell, from 0; each has one outside, from the base.
pub(super) const IDS: u32 = 65_536;
/// Said when the program could not be executed, as shells do.
const NOT_EXECUTED: i32 = 127;

/// What cells may do on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// All. Identity 0 inside is this one outside, and so on.
    Root { base: u32 },
    /// What a plain user may: there is one identity outside, the server's, and
    /// inside it is the function's.
    Own,
}

/// Inside identity of a function that has but one.
pub(super) const ONLY: u32 = 1000;

/// Made once by the spawner, the same for every cell.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) reach: Reach,
    pub(super) filters: Filters,
    /// Its other end closes with the spawner.
    pub(super) leash: OwnedFd,
}

/// What one cell is given.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) line: OwnedFd,
    /// `cgroup.procs` files.
    pub(super) groups: Vec<OwnedFd>,
    /// What the next function's /tmp will probably be like.
    pub(super) tmp: Tmp,
}

/// A cell that waits.
struct Parked {
    /// Its user namespace, entered last.
    users: OwnedFd,
    tmp: (Tmp, OwnedFd),
}

/// A step that failed, with its name.
pub(super) struct Failed(pub(super) &'static str, pub(super) Errno);

pub(super) trait Step<T> {
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
    let Parts { line, groups, tmp } = parts;
    let begun = prepare(alone, common, groups, tmp).and_then(|(users, tmp)| {
        let go = wire::receive_go(line.as_fd()).step("receive the order")?;
        Ok((Parked { users, tmp }, go))
    });
    match begun {
        // Not wanted any more.
        Ok((_, None)) => sys::exit(0),
        Ok((parked, Some((go, fds)))) => match become_function(alone, common, parked, &go, fds) {
            Ok(child) => reap(alone, child),
            Err(failed) => give_up(line.as_fd(), &failed),
        },
        Err(failed) => give_up(line.as_fd(), &failed),
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

/// Everything that needs no function: groups, namespaces, /proc, /dev, and the
/// large filter.
fn prepare(alone: &Alone, common: &Common, groups: Vec<OwnedFd>, tmp: Tmp) -> Result<(OwnedFd, (Tmp, OwnedFd)), Failed> {
    leash(common)?;
    let _ = rustix::thread::set_name(c"hob-parked");
    for group in groups {
        rustix::io::write(&group, b"0").step("join the cgroup")?;
    }
    sys::unshare(alone, UnshareFlags::NEWCGROUP).step("cgroup namespace")?;
    loopback()?;
    mounts::mount_proc()?;
    let users = user_namespace(alone, common.reach).step("user namespace")?;
    mounts::mask_proc()?;
    mounts::mount_shm()?;
    let made = (tmp, mounts::tmp(tmp)?);
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).step("not dumpable")?;
    rustix::thread::set_no_new_privs(true).step("no new privileges")?;
    put_on(&common.filters.early)?;
    Ok((users, made))
}

fn loopback() -> Result<(), Failed> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None).step("socket")?;
    // In the host's own network it is up already, and not ours to change.
    let _ = sys::loopback_up(socket.as_fd());
    Ok(())
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

/// A user namespace whose identities 0 to 65535 are the unprivileged ones from
/// the base; it is entered last.
pub(super) fn user_namespace(alone: &Alone, reach: Reach) -> std::io::Result<OwnedFd> {
    let idler = sys::idle(alone, Spaces::USER)?;
    map(idler.pid(), reach)
}

fn map(pid: i32, reach: Reach) -> std::io::Result<OwnedFd> {
    let map = match reach {
        Reach::Root { base } => format!("0 {base} {IDS}"),
        // The spawner's namespace has the server's user as 0.
        Reach::Own => format!("{ONLY} 0 1"),
    };
    for file in ["uid_map", "gid_map"] {
        std::fs::write(format!("/proc/{pid}/{file}"), &map)?;
    }
    Ok(rustix::fs::open(format!("/proc/{pid}/ns/user"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// From the order to the function's first instruction. Returns the function's
/// process; in that process it does not return.
fn become_function(alone: &Alone, common: &Common, parked: Parked, go: &Go, fds: Vec<OwnedFd>) -> Result<i32, Failed> {
    let mut fds = fds.into_iter();
    let (root, iofs) = match &go.places {
        Some(places) => mounts::named(places)?,
        None => match (fds.next(), fds.next()) {
            (Some(root), Some(iofs)) => (root, iofs),
            _ => return Err(Failed("order without root", Errno::INVAL)),
        },
    };
    let (out, err) = (fds.next(), fds.next());
    let Parked { users, tmp: (size, mut tmp) } = parked;
    if go.no_network {
        sys::unshare(alone, UnshareFlags::NEWNET).step("a network of its own")?;
        loopback()?;
    }
    if size != go.tmp {
        tmp = mounts::tmp(go.tmp)?;
    }
    mounts::enter_root(go, root.as_fd(), iofs.as_fd(), tmp.as_fd())?;
    drop((root, iofs, tmp));
    rustix::system::sethostname(go.hostname.as_bytes()).step("host name")?;
    for limit in &go.limits {
        set_limit(*limit).step("resource limit")?;
    }
    standard_streams(out, err)?;
    become_user(common, &users, go)?;
    let program = Program::new(go);
    // From here on only the listed system calls, for ever; process 1 as well.
    put_on(&common.filters.last)?;
    program.run(alone)
}

fn put_on(filter: &seccompiler::BpfProgram) -> Result<(), Failed> {
    seccompiler::apply_filter(filter).map_err(|_| Failed("system call filter", Errno::INVAL))
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
    match rustix::process::setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) }) {
        // Not above what this user may have: less it is then.
        Err(Errno::PERM) => {
            let most = rustix::process::getrlimit(resource).maximum;
            rustix::process::setrlimit(resource, Rlimit { current: most, maximum: most })
        }
        done => done,
    }
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
    // A plain user can't change the groups it has: in here they are nobody's.
    if common.reach != Reach::Own {
        rustix::thread::set_thread_groups(&groups).step("set groups")?;
    }
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

    /// The process that executes it.
    fn run(&self, alone: &Alone) -> Result<i32, Failed> {
        let dir = (!self.working_dir.is_empty()).then_some(&self.working_dir);
        sys::run(alone, &self.paths, &self.argv, &self.env, dir).map_err(|failed| match failed {
            sys::NotRun::Fork(errno) => Failed("fork", errno),
            sys::NotRun::Folder(errno) => Failed("enter the working folder", errno),
            sys::NotRun::Program(errno) => Failed("execute the program", errno),
        })
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
