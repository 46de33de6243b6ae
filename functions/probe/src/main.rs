//! Tries to break out. Each probe does one thing that a contained program must
//! not be able to do and says `yes …` when it could, `no …` when it was refused.
//!
//! As a function it runs the probe that the header `X-Do` names, with `X-Arg`
//! as its argument, in a process of its own. As a program, `probe NAME [ARG]`
//! runs it where it stands: hob's tests do that as root without a sandbox, to
//! see that a probe can succeed at all. `probe --list` names them.

use std::ffi::{CString, c_long, c_void};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::process::Command;

/// What a probe found: done, or refused and why.
type Found = Result<String, String>;
type Probe = (&'static str, fn(&str) -> Found);

const PROBES: &[Probe] = &[
    // Who it is.
    ("root-user", |_| found(unsafe { libc::geteuid() } == 0, "uid 0")),
    ("capabilities", |_| status("CapEff:", |v| !v.trim_start_matches('0').is_empty())),
    ("capability-bounds", |_| status("CapBnd:", |v| !v.trim_start_matches('0').is_empty())),
    ("new-privileges", |_| status("NoNewPrivs:", |v| v == "0")),
    ("no-filter", |_| status("Seccomp:", |v| v == "0")),
    ("become-root", |_| call(|| unsafe { libc::syscall(libc::SYS_setresuid, 0, 0, 0) })),
    ("join-group-0", |_| call(|| unsafe { libc::syscall(libc::SYS_setgroups, 1, &raw const ZERO) })),
    ("map-users", |_| write_to("/proc/self/uid_map", "0 0 1")),
    // Mounts and the root.
    ("mount", |_| call(|| unsafe { libc::syscall(libc::SYS_mount, c"x".as_ptr(), c"/tmp".as_ptr(), c"tmpfs".as_ptr(), 0, 0) })),
    ("unmount", |_| call(|| unsafe { libc::syscall(libc::SYS_umount2, c"/proc".as_ptr(), libc::MNT_DETACH) })),
    ("remount-root", |_| {
        let flags = libc::MS_REMOUNT | libc::MS_BIND;
        call(|| unsafe { libc::syscall(libc::SYS_mount, 0, c"/".as_ptr(), 0, flags, 0) })
    }),
    ("mount-by-descriptor", |_| call(|| unsafe { libc::syscall(libc::SYS_fsopen, c"tmpfs".as_ptr(), 0) })),
    ("copy-a-mount", |_| call(|| unsafe { libc::syscall(libc::SYS_open_tree, -100, c"/".as_ptr(), 1) })),
    ("mount-cgroups", |_| call(|| unsafe { libc::syscall(libc::SYS_mount, c"x".as_ptr(), c"/tmp".as_ptr(), c"cgroup2".as_ptr(), 0, 0) })),
    ("chroot", |_| call(|| unsafe { libc::syscall(libc::SYS_chroot, c"/tmp".as_ptr()) })),
    ("pivot-root", |_| {
        let done = unsafe { libc::syscall(libc::SYS_pivot_root, c"/nowhere".as_ptr(), c"/nowhere".as_ptr()) };
        permitted(done)
    }),
    ("write-root", |_| {
        let path = format!("/probe-{}", std::process::id());
        let made = File::create(&path);
        let _ = fs::remove_file(&path);
        made.map(|_| path).map_err(said)
    }),
    ("setuid-honoured", |_| flags("/").map_err(said).and_then(|f| found(f & libc::ST_NOSUID == 0, "/ honours setuid"))),
    ("devices-honoured", |_| flags("/").map_err(said).and_then(|f| found(f & libc::ST_NODEV == 0, "/ honours devices"))),
    ("execute-from-tmp", |_| execute_from("/tmp")),
    ("execute-from-folder", |arg| execute_from(or(arg, "/tmp/iofs"))),
    ("file-handles", |_| file_handles()),
    // /proc, /sys, devices.
    ("write-proc-sys", |_| write_only("/proc/sys/kernel/domainname")),
    ("core-pattern", |_| write_only("/proc/sys/kernel/core_pattern")),
    ("sysrq", |_| write_only("/proc/sysrq-trigger")),
    ("write-irq", |_| write_only("/proc/irq/default_smp_affinity")),
    ("kernel-core", |_| read_some("/proc/kcore")),
    ("kernel-log-file", |_| {
        // Opened, not read: reading takes the lines away from who waits for them.
        let kind = File::open("/proc/kmsg").and_then(|f| f.metadata()).map_err(said)?;
        found(kind.is_file(), "opened")
    }),
    ("kernel-timers", |_| read_some("/proc/timer_list")),
    ("kernel-symbols", |_| read_some("/proc/kallsyms")),
    ("kernel-keys", |_| read_some("/proc/keys")),
    ("interrupt-counts", |_| read_some("/proc/interrupts")),
    ("kernel-arguments", |_| read_some("/proc/cmdline")),
    ("spare-me-memory", |_| write_to("/proc/self/oom_score_adj", "-1000")),
    ("sysfs", |_| fs::read_dir("/sys/kernel").map(|_| String::new()).map_err(said)),
    ("block-devices", |_| any_entry("/dev", |m| m.file_type().is_block_device() || (m.file_type().is_char_device() && m.rdev() == libc::makedev(1, 1)))),
    ("make-device", |_| call(|| unsafe { libc::syscall(libc::SYS_mknodat, -100, scratch("mem").as_ptr(), libc::S_IFCHR | 0o666, libc::makedev(1, 1)) })),
    ("kernel-log-device", |_| File::open("/dev/kmsg").map(|_| String::new()).map_err(said)),
    ("ports", |_| ports()),
    // Other processes.
    ("host-processes", |_| processes(12)),
    ("first-process-memory", |_| File::open("/proc/1/mem").map(|_| String::new()).map_err(said)),
    ("first-process-environment", |_| read_some("/proc/1/environ")),
    ("ptrace", |_| with_child(|pid| call(|| unsafe { libc::syscall(libc::SYS_ptrace, libc::PTRACE_ATTACH, pid, 0, 0) }))),
    ("other-memory", |_| with_child(other_memory)),
    ("steal-descriptor", |_| {
        with_child(|pid| {
            let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
            call(|| unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd, 1, 0) })
        })
    }),
    ("inherited-descriptors", |_| inherited()),
    // New namespaces, by every way.
    ("unshare-user", |_| call(|| unsafe { libc::syscall(libc::SYS_unshare, libc::CLONE_NEWUSER) })),
    ("unshare-mounts", |_| call(|| unsafe { libc::syscall(libc::SYS_unshare, libc::CLONE_NEWNS) })),
    ("clone-user", |_| forked(|| unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_NEWUSER | libc::SIGCHLD, 0, 0, 0, 0) })),
    ("clone3-user", |_| {
        let args: [u64; 8] = [libc::CLONE_NEWUSER as u64, 0, 0, 0, libc::SIGCHLD as u64, 0, 0, 0];
        forked(|| unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of_val(&args)) })
    }),
    ("enter-namespace", |_| {
        let file = File::open("/proc/1/ns/uts").map_err(said)?;
        call(|| unsafe { libc::syscall(libc::SYS_setns, std::os::fd::AsRawFd::as_raw_fd(&file), 0) })
    }),
    // Calls that reach into the kernel.
    ("bpf", |_| {
        let attr: [u32; 18] = {
            let mut a = [0u32; 18];
            a[0] = 2;
            a[1] = 4;
            a[2] = 4;
            a[3] = 1;
            a
        };
        call(|| unsafe { libc::syscall(libc::SYS_bpf, 0, &raw const attr, size_of_val(&attr)) })
    }),
    ("perf-events", |_| perf()),
    ("userfaultfd", |_| call(|| unsafe { libc::syscall(libc::SYS_userfaultfd, 0) })),
    ("io-uring", |_| {
        let mut params = [0u8; 120];
        call(|| unsafe { libc::syscall(libc::SYS_io_uring_setup, 4, params.as_mut_ptr()) })
    }),
    ("keys", |_| call(|| unsafe { libc::syscall(libc::SYS_keyctl, 0, -3, 1) })),
    ("kexec", |_| permitted(unsafe { libc::syscall(libc::SYS_kexec_load, 0, 1000, 0, 0) })),
    ("load-module", |_| permitted(unsafe { libc::syscall(libc::SYS_init_module, 0, 0, c"".as_ptr()) })),
    ("reboot", |_| permitted(unsafe { libc::syscall(libc::SYS_reboot, 0, 0, 0, 0) })),
    ("swap", |_| permitted(unsafe { libc::syscall(libc::SYS_swapon, c"/nowhere".as_ptr(), 0) })),
    ("set-clock", |_| {
        let time = [0 as c_long, 10_000_000];
        permitted(unsafe { libc::syscall(libc::SYS_settimeofday, &raw const time, 0) })
    }),
    ("accounting", |_| permitted(unsafe { libc::syscall(libc::SYS_acct, c"/nowhere".as_ptr()) })),
    ("quotas", |_| permitted(unsafe { libc::syscall(libc::SYS_quotactl, 0x8000_0100_u32, 0, 0, 0) })),
    ("host-name", |_| call(|| unsafe { libc::syscall(libc::SYS_sethostname, c"probe".as_ptr(), 5) })),
    ("kernel-log", |_| call(|| unsafe { libc::syscall(libc::SYS_syslog, 10, 0, 0) })),
    ("no-address-randomness", |_| call(|| unsafe { libc::syscall(libc::SYS_personality, 0x004_0000) })),
    ("terminal-input", |_| terminal()),
    // The network.
    ("host-port", |arg| std::net::TcpStream::connect(arg).map(|_| arg.to_owned()).map_err(said)),
    ("host-abstract-socket", abstract_socket),
    ("engine-socket", |arg| std::os::unix::net::UnixStream::connect(or(arg, "/var/run/docker.sock")).map(|_| String::new()).map_err(said)),
    ("interfaces", |_| {
        let text = fs::read_to_string("/proc/net/dev").map_err(said)?;
        let others: Vec<_> = text.lines().skip(2).filter_map(|l| l.split(':').next()).map(str::trim).filter(|n| *n != "lo").collect();
        found(!others.is_empty(), &others.join(" "))
    }),
    ("raw-socket", |_| call(|| unsafe { libc::syscall(libc::SYS_socket, libc::AF_INET, libc::SOCK_RAW, 1) })),
    ("packet-socket", |_| call(|| unsafe { libc::syscall(libc::SYS_socket, libc::AF_PACKET, libc::SOCK_RAW, 0) })),
    ("crypto-socket", |_| call(|| unsafe { libc::syscall(libc::SYS_socket, libc::AF_ALG, libc::SOCK_SEQPACKET, 0) })),
    ("machine-socket", |_| call(|| unsafe { libc::syscall(libc::SYS_socket, libc::AF_VSOCK, libc::SOCK_STREAM, 0) })),
    // Files of the host, control groups.
    ("host-passwords", |_| read_some("/etc/shadow")),
    ("host-folders", |_| any_entry("/", |m| m.is_dir() && m.ino() > 0 && fs::metadata("/etc/passwd").is_ok())),
    ("cgroup-path", |_| {
        let text = fs::read_to_string("/proc/self/cgroup").map_err(said)?;
        found(text.lines().any(|l| !l.ends_with(":/")), &text)
    }),
    ("leave-cgroup", |_| {
        let places = ["/sys/fs/cgroup/pids/cgroup.procs", "/sys/fs/cgroup/cgroup.procs", "/sys/fs/cgroup/unified/cgroup.procs"];
        places.iter().find_map(|p| write_only(p).ok()).ok_or_else(|| "no cgroup files".to_owned())
    }),
    // Taking all there is.
    ("fork-bomb", |_| fork_bomb(120)),
    ("memory", |_| memory(256)),
    ("descriptors", |_| descriptors(2000)),
    ("raise-limits", |_| {
        let limit = libc::rlimit { rlim_cur: 5000, rlim_max: 5000 };
        call(|| unsafe { c_long::from(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit)) })
    }),
    ("locked-memory", |_| {
        let block = vec![1u8; 4 << 20];
        call(|| unsafe { libc::syscall(libc::SYS_mlock, block.as_ptr(), block.len()) })
    }),
    ("priority", |_| call(|| unsafe { libc::syscall(libc::SYS_setpriority, 0, 0, -20) })),
    ("real-time", |_| {
        let priority = 1i32;
        call(|| unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, libc::SCHED_FIFO, &raw const priority) })
    }),
    ("fill-socket-folder", |arg| fill(or(arg, "/tmp/iofs"), 8)),
    ("files-in-socket-folder", |arg| many_files(or(arg, "/tmp/iofs"), 5000)),
    ("fill-tmp", |arg| fill(or(arg, "/tmp"), 128)),
    ("fill-shared-memory", |arg| fill(or(arg, "/dev/shm"), 128)),
];

static ZERO: libc::gid_t = 0;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        None => fdk::serve(|request| {
            let (name, arg) = (request.header("X-Do").unwrap_or_default(), request.header("X-Arg").unwrap_or_default());
            fdk::Response::new("text/plain", apart(name, arg).into_bytes())
        }),
        Some("--list") => PROBES.iter().for_each(|(name, _)| println!("{name}")),
        Some(name) => println!("{}", run(name, arguments.get(1).map_or("", String::as_str))),
    }
}

fn run(name: &str, arg: &str) -> String {
    match PROBES.iter().find(|(n, _)| *n == name) {
        Some((_, probe)) => match probe(arg) {
            Ok(text) => format!("yes {}", text.replace('\n', " ")),
            Err(text) => format!("no {}", text.replace('\n', " ")),
        },
        None => format!("unknown probe {name}"),
    }
}

/// In a process of its own: what it changes or takes goes with it.
fn apart(name: &str, arg: &str) -> String {
    let Ok(program) = std::env::current_exe() else { return "unknown: where am I".to_owned() };
    match Command::new(program).args([name, arg]).output() {
        Ok(output) if output.stdout.is_empty() => format!("no {}", output.status),
        Ok(output) => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        Err(e) => format!("unknown: {e}"),
    }
}

fn or<'a>(arg: &'a str, usual: &'a str) -> &'a str {
    if arg.is_empty() { usual } else { arg }
}

fn said(e: io::Error) -> String {
    e.to_string()
}

fn found(yes: bool, text: &str) -> Found {
    if yes { Ok(text.to_owned()) } else { Err(text.to_owned()) }
}

fn call(act: impl FnOnce() -> c_long) -> Found {
    if act() >= 0 { Ok(String::new()) } else { Err(said(io::Error::last_os_error())) }
}

/// Of calls that were made so that they fail in any case: was it permission?
fn permitted(done: c_long) -> Found {
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EPERM | libc::ENOSYS | libc::EACCES) if done < 0 => Err(said(error)),
        _ => Ok(said(error)),
    }
}

/// A fork by other means: the child ends at once.
fn forked(act: impl FnOnce() -> c_long) -> Found {
    match act() {
        0 => unsafe { libc::_exit(0) },
        pid if pid > 0 => Ok(String::new()),
        _ => Err(said(io::Error::last_os_error())),
    }
}

fn status(name: &str, bad: impl Fn(&str) -> bool) -> Found {
    let text = fs::read_to_string("/proc/self/status").map_err(said)?;
    let value = text.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default().trim();
    found(bad(value), value)
}

fn flags(path: &str) -> io::Result<u64> {
    let path = CString::new(path)?;
    let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
    if unsafe { libc::statvfs(path.as_ptr(), &raw mut stat) } == 0 { Ok(stat.f_flag) } else { Err(io::Error::last_os_error()) }
}

fn scratch(name: &str) -> CString {
    CString::new(format!("/tmp/probe-{}-{name}", std::process::id())).unwrap_or_default()
}

fn write_only(path: &str) -> Found {
    OpenOptions::new().write(true).open(path).map(|_| path.to_owned()).map_err(said)
}

fn write_to(path: &str, text: &str) -> Found {
    OpenOptions::new().write(true).open(path).and_then(|mut f| f.write_all(text.as_bytes())).map(|()| path.to_owned()).map_err(said)
}

fn read_some(path: &str) -> Found {
    let mut buffer = [0u8; 256];
    let n = File::open(path).and_then(|mut f| f.read(&mut buffer)).map_err(said)?;
    found(n > 0, &format!("{n} bytes of {path}"))
}

fn any_entry(folder: &str, bad: impl Fn(&fs::Metadata) -> bool) -> Found {
    let entries = fs::read_dir(folder).map_err(said)?;
    let bad: Vec<_> =
        entries.flatten().filter(|e| fs::symlink_metadata(e.path()).is_ok_and(|m| bad(&m))).map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    found(!bad.is_empty(), &bad.join(" "))
}

fn execute_from(folder: &str) -> Found {
    let path = format!("{folder}/probe-{}", std::process::id());
    let made = fs::copy("/proc/self/exe", &path).and_then(|_| fs::set_permissions(&path, fs::Permissions::from_mode(0o755)));
    let ran = made.and_then(|()| Command::new(&path).arg("--list").output());
    let _ = fs::remove_file(&path);
    ran.map_err(said).and_then(|o| found(o.status.success(), "ran"))
}

/// Opens a file by its handle, past every mount and root.
fn file_handles() -> Found {
    #[repr(C)]
    struct Handle {
        bytes: u32,
        kind: i32,
        data: [u8; 128],
    }
    let mut handle = Handle { bytes: 128, kind: 0, data: [0; 128] };
    let mut mount = 0i32;
    let named = unsafe { libc::syscall(libc::SYS_name_to_handle_at, -100, c"/".as_ptr(), &raw mut handle, &raw mut mount, 0) };
    if named < 0 {
        return Err(said(io::Error::last_os_error()));
    }
    let root = File::open("/").map_err(said)?;
    call(|| unsafe { libc::syscall(libc::SYS_open_by_handle_at, std::os::fd::AsRawFd::as_raw_fd(&root), &raw mut handle, 0) })
}

#[cfg(target_arch = "x86_64")]
fn ports() -> Found {
    call(|| unsafe { libc::syscall(libc::SYS_ioperm, 0x80, 1, 1) })
}

#[cfg(not(target_arch = "x86_64"))]
fn ports() -> Found {
    Err("no ports".to_owned())
}

/// More processes than a container may have show that others are seen.
fn processes(most: usize) -> Found {
    let pids = fs::read_dir("/proc").map_err(said)?.flatten().filter(|e| e.file_name().to_string_lossy().parse::<u32>().is_ok()).count();
    found(pids > most, &format!("{pids} processes"))
}

fn with_child(act: impl FnOnce(i32) -> Found) -> Found {
    match unsafe { libc::fork() } {
        0 => loop {
            unsafe { libc::pause() };
        },
        pid if pid > 0 => {
            let found = act(pid);
            unsafe {
                libc::kill(pid, libc::SIGKILL);
                libc::waitpid(pid, std::ptr::null_mut(), 0);
            }
            found
        }
        _ => Err(said(io::Error::last_os_error())),
    }
}

fn other_memory(pid: i32) -> Found {
    let mut buffer = [0u8; 8];
    let word = [1u8; 8];
    let local = libc::iovec { iov_base: buffer.as_mut_ptr().cast::<c_void>(), iov_len: 8 };
    let remote = libc::iovec { iov_base: word.as_ptr().cast_mut().cast::<c_void>(), iov_len: 8 };
    call(|| unsafe { libc::syscall(libc::SYS_process_vm_readv, pid, &raw const local, 1, &raw const remote, 1, 0) })
}

/// The function's own: its listener is closed on exec. What is left came from
/// whoever started it.
fn inherited() -> Found {
    let own = fs::read_dir("/proc/self/fd").map_err(said)?;
    let more: Vec<_> = own
        .flatten()
        .filter_map(|e| e.file_name().to_string_lossy().parse::<i32>().ok())
        .filter(|fd| *fd > 2)
        .filter(|fd| fs::read_link(format!("/proc/self/fd/{fd}")).is_ok_and(|to| !to.to_string_lossy().starts_with("/proc/")))
        .map(|fd| fd.to_string())
        .collect();
    found(!more.is_empty(), &more.join(" "))
}

fn perf() -> Found {
    let mut attr = [0u64; 16];
    attr[0] = 1 | (128u64 << 32); // software, size
    call(|| unsafe { libc::syscall(libc::SYS_perf_event_open, attr.as_mut_ptr(), 0, -1, -1, 0) })
}

fn terminal() -> Found {
    let tty = File::open("/dev/tty").or_else(|_| File::open("/dev/ptmx")).map_err(said)?;
    call(|| c_long::from(unsafe { libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&tty), libc::TIOCSTI, c"x".as_ptr()) }))
}

fn abstract_socket(name: &str) -> Found {
    use std::os::linux::net::SocketAddrExt;
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name.as_bytes()).map_err(said)?;
    std::os::unix::net::UnixStream::connect_addr(&address).map(|_| name.to_owned()).map_err(said)
}

fn fork_bomb(count: usize) -> Found {
    let mut children = Vec::new();
    while children.len() < count {
        match unsafe { libc::fork() } {
            0 => loop {
                unsafe { libc::pause() };
            },
            pid if pid > 0 => children.push(pid),
            _ => break,
        }
    }
    for pid in &children {
        unsafe {
            libc::kill(*pid, libc::SIGKILL);
            libc::waitpid(*pid, std::ptr::null_mut(), 0);
        }
    }
    found(children.len() >= count, &format!("{} processes", children.len()))
}

fn memory(mib: usize) -> Found {
    let mut held = Vec::new();
    for n in 0..mib {
        let mut block = vec![0u8; 1 << 20];
        block.chunks_mut(4096).for_each(|page| page[0] = n as u8 | 1);
        held.push(block);
    }
    found(held.len() >= mib, &format!("{} MiB", held.len()))
}

fn descriptors(count: usize) -> Found {
    let limit = libc::rlimit { rlim_cur: 4096, rlim_max: 4096 };
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    let mut held = Vec::new();
    while held.len() < count {
        match File::open("/dev/null") {
            Ok(file) => held.push(file),
            Err(_) => break,
        }
    }
    found(held.len() >= count, &format!("{} descriptors", held.len()))
}

fn fill(folder: &str, mib: usize) -> Found {
    let path = format!("{folder}/probe-fill-{}", std::process::id());
    let block = vec![1u8; 1 << 20];
    let filled = File::create(&path).and_then(|mut file| (0..mib).try_for_each(|_| file.write_all(&block)));
    let _ = fs::remove_file(&path);
    filled.map(|()| format!("{mib} MiB")).map_err(said)
}

fn many_files(folder: &str, count: usize) -> Found {
    let name = |n: usize| format!("{folder}/probe-many-{}-{n}", std::process::id());
    let made = (0..count).take_while(|n| File::create(name(*n)).is_ok()).count();
    (0..made).for_each(|n| drop(fs::remove_file(name(n))));
    found(made >= count, &format!("{made} files"))
}
