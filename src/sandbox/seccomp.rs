//! Which system calls a function may make: an allow-list, derived from the
//! default profile of Docker (moby) without what that profile ties to a
//! capability, and narrower in five places, each said where it stands:
//! no ptrace or access to another process's memory, no new namespaces by any
//! way, only Unix, IPv4, IPv6 and netlink sockets, no io_uring, no kernel keys.
//! docs/SECURITY.md explains it to a reader.
//!
//! Two programs, and a call must pass both. The large one is put on while a
//! cell waits, for that takes as long as the rest of a start (`bpf` translates
//! it); it lets through the few calls that make a root (`STAGE`). The small one
//! is put on last and takes those away. The large one is a search tree over
//! ranges of numbers: ten steps for a call, not one for each entry of the list.

use std::collections::BTreeMap;

use seccompiler::{BpfProgram, sock_filter};

/// What becomes of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    Allow,
    /// "Not permitted".
    Refuse,
    /// "There is no such call": the C library then takes the older one, whose
    /// arguments can be looked at.
    Absent,
    /// By one argument's lower half, masked: `hit` if it is one of the values,
    /// else `miss`.
    When {
        argument: u8,
        mask: u32,
        values: Vec<u32>,
        hit: Box<Verdict>,
        miss: Box<Verdict>,
    },
}

/// The filters, compiled once for all cells.
#[derive(Debug)]
pub(super) struct Filters {
    /// Put on while the cell waits.
    pub(super) early: BpfProgram,
    /// Put on before the function is executed.
    pub(super) last: BpfProgram,
}

pub(super) fn compile() -> Filters {
    let mut early = verdicts();
    early.extend(STAGE.iter().map(|nr| (*nr, Verdict::Allow)));
    let last = STAGE.iter().map(|nr| (*nr, Verdict::Refuse)).collect();
    Filters { early: program(&early, &Verdict::Refuse), last: program(&last, &Verdict::Allow) }
}

/// Every call of the list, and those that need a closer look.
fn verdicts() -> BTreeMap<u32, Verdict> {
    let mut all: BTreeMap<u32, Verdict> = ALWAYS.iter().chain(ARCH).map(|nr| (*nr, Verdict::Allow)).collect();
    let when = |argument, mask, values: &[u32], hit, miss| Verdict::When { argument, mask, values: values.to_vec(), hit: Box::new(hit), miss: Box::new(miss) };
    let only = |argument, values| when(argument, u32::MAX, values, Verdict::Allow, Verdict::Refuse);
    // No CLONE_NEW… flag.
    let spaces =
        libc::CLONE_NEWNS | libc::CLONE_NEWCGROUP | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC | libc::CLONE_NEWUSER | libc::CLONE_NEWPID | libc::CLONE_NEWNET;
    all.insert(number(libc::SYS_clone), when(0, spaces.cast_unsigned(), &[0], Verdict::Allow, Verdict::Refuse));
    // Linux and its 32-bit likeness, and the question "which?".
    all.insert(number(libc::SYS_personality), only(0, &[0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff]));
    let families = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK].map(i32::cast_unsigned);
    all.insert(number(libc::SYS_socket), only(0, &families));
    all.insert(number(libc::SYS_socketpair), only(0, &families));
    // No pushing of input into a terminal (TIOCSTI, TIOCLINUX); everything else
    // by the driver's own rules.
    all.insert(number(libc::SYS_ioctl), when(1, u32::MAX, &[0x5412, 0x541c], Verdict::Refuse, Verdict::Allow));
    all.insert(number(libc::SYS_clone3), Verdict::Absent);
    all.insert(number(libc::SYS_io_uring_setup), Verdict::Absent);
    all
}

/// System call numbers are small and not negative.
const fn number(nr: libc::c_long) -> u32 {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a system call's number")]
    {
        nr as u32
    }
}

// Classic BPF over `struct seccomp_data`: nr, arch, instruction pointer, args.
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_NOT_LESS: u16 = 0x35;
const RETURN: u16 = 0x06;
const NR_AT: u32 = 0;
const ARCH_AT: u32 = 4;
const ARGS_AT: u32 = 16;
/// The lower half of an argument in the machine's byte order.
const LOWER: u32 = if cfg!(target_endian = "little") { 0 } else { 4 };

#[cfg(target_arch = "x86_64")]
const AUDIT_ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const AUDIT_ARCH: u32 = 0xc000_00b7;
#[cfg(target_arch = "riscv64")]
const AUDIT_ARCH: u32 = 0xc000_00f3;

const fn op(code: u16, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

/// Numbers that are not named get `other`; so do the x32 calls, whose numbers
/// are above all others. Another architecture's call ends the process.
fn program(verdicts: &BTreeMap<u32, Verdict>, other: &Verdict) -> BpfProgram {
    // Ranges of the same verdict, each with its first number.
    let mut ranges: Vec<(u32, &Verdict)> = vec![(0, other)];
    let mut begin = |at: u32, verdict| {
        if ranges.last().is_some_and(|(start, _)| *start == at) {
            ranges.pop();
        }
        if ranges.last().is_none_or(|(_, last)| *last != verdict) {
            ranges.push((at, verdict));
        }
    };
    for (nr, verdict) in verdicts {
        begin(*nr, verdict);
        begin(nr + 1, other);
    }
    let mut program =
        vec![op(LOAD, 0, 0, ARCH_AT), op(JUMP_IF_EQUAL, 1, 0, AUDIT_ARCH), op(RETURN, 0, 0, libc::SECCOMP_RET_KILL_PROCESS), op(LOAD, 0, 0, NR_AT)];
    program.extend(tree(&ranges));
    program
}

fn tree(ranges: &[(u32, &Verdict)]) -> BpfProgram {
    if let [(_, verdict)] = ranges {
        return leaf(verdict);
    }
    let (left, right) = ranges.split_at(ranges.len() / 2);
    let first = right.first().map_or(0, |(start, _)| *start);
    let (left, right) = (tree(left), tree(right));
    let mut code = match u8::try_from(left.len()) {
        Ok(over) => vec![op(JUMP_IF_NOT_LESS, over, 0, first)],
        // Too far for a conditional jump: over a long one.
        Err(_) => vec![op(JUMP_IF_NOT_LESS, 0, 1, first), op(JUMP, 0, 0, u32::try_from(left.len()).unwrap_or(u32::MAX))],
    };
    code.extend(left);
    code.extend(right);
    code
}

fn leaf(verdict: &Verdict) -> BpfProgram {
    let end = |action: u32| vec![op(RETURN, 0, 0, action)];
    match verdict {
        Verdict::Allow => end(libc::SECCOMP_RET_ALLOW),
        Verdict::Refuse => end(libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned()),
        Verdict::Absent => end(libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned()),
        Verdict::When { argument, mask, values, hit, miss } => {
            let mut code = vec![op(LOAD, 0, 0, ARGS_AT + 8 * u32::from(*argument) + LOWER), op(AND, 0, 0, *mask)];
            let miss = leaf(miss);
            for (at, value) in values.iter().enumerate() {
                // Over the comparisons that are left and the miss.
                let over = u8::try_from(values.len() - 1 - at + miss.len()).unwrap_or(u8::MAX);
                code.push(op(JUMP_IF_EQUAL, over, 0, *value));
            }
            code.extend(miss);
            code.extend(leaf(hit));
            code
        }
    }
}

macro_rules! calls {
    ($($name:ident)*) => { &[$(number(libc::$name)),*] };
}

/// What a cell does between the two filters and a function never.
#[rustfmt::skip]
const STAGE: &[u32] = calls! { 
    SYS_unshare SYS_move_mount SYS_open_tree SYS_mount_setattr SYS_umount2 SYS_fsopen SYS_fsconfig SYS_fsmount SYS_chroot SYS_setns SYS_sethostname
};

#[rustfmt::skip]
const ALWAYS: &[u32] = calls! {
    SYS_accept SYS_accept4 SYS_adjtimex SYS_bind SYS_brk SYS_capget SYS_capset SYS_chdir SYS_clock_adjtime SYS_clock_getres SYS_clock_gettime
    SYS_clock_nanosleep SYS_close SYS_close_range SYS_connect SYS_copy_file_range SYS_dup SYS_dup3 SYS_epoll_create1 SYS_epoll_ctl
    SYS_epoll_pwait SYS_epoll_pwait2 SYS_eventfd2 SYS_execve SYS_execveat SYS_exit SYS_exit_group SYS_faccessat SYS_faccessat2 SYS_fadvise64
    SYS_fallocate SYS_fchdir SYS_fchmod SYS_fchmodat SYS_fchown SYS_fchownat SYS_fcntl SYS_fdatasync SYS_fgetxattr SYS_flistxattr SYS_flock
    SYS_fremovexattr SYS_fsetxattr SYS_fstat SYS_fstatfs SYS_fsync SYS_ftruncate SYS_futex SYS_futex_waitv SYS_get_robust_list SYS_getcpu
    SYS_getcwd SYS_getdents64 SYS_getegid SYS_geteuid SYS_getgid SYS_getgroups SYS_getitimer SYS_getpeername SYS_getpgid SYS_getpid SYS_getppid
    SYS_getpriority SYS_getrandom SYS_getresgid SYS_getresuid SYS_getrlimit SYS_getrusage SYS_getsid SYS_getsockname SYS_getsockopt SYS_gettid
    SYS_gettimeofday SYS_getuid SYS_getxattr SYS_inotify_add_watch SYS_inotify_init1 SYS_inotify_rm_watch SYS_io_cancel SYS_io_destroy
    SYS_io_getevents SYS_io_setup SYS_io_submit SYS_ioprio_get SYS_ioprio_set SYS_kill SYS_landlock_add_rule SYS_landlock_create_ruleset
    SYS_landlock_restrict_self SYS_lgetxattr SYS_linkat SYS_listen SYS_listxattr SYS_llistxattr SYS_lremovexattr SYS_lseek SYS_lsetxattr
    SYS_madvise SYS_membarrier SYS_memfd_create SYS_mincore SYS_mkdirat SYS_mknodat SYS_mlock SYS_mlock2 SYS_mlockall SYS_mmap SYS_mprotect
    SYS_mq_getsetattr SYS_mq_notify SYS_mq_open SYS_mq_timedreceive SYS_mq_timedsend SYS_mq_unlink SYS_mremap SYS_msgctl SYS_msgget SYS_msgrcv
    SYS_msgsnd SYS_msync SYS_munlock SYS_munlockall SYS_munmap SYS_name_to_handle_at SYS_nanosleep SYS_newfstatat SYS_openat SYS_openat2
    SYS_pidfd_open SYS_pidfd_send_signal SYS_pipe2 SYS_pkey_alloc SYS_pkey_free SYS_pkey_mprotect SYS_ppoll SYS_prctl SYS_pread64 SYS_preadv
    SYS_preadv2 SYS_prlimit64 SYS_process_mrelease SYS_pselect6 SYS_pwrite64 SYS_pwritev SYS_pwritev2 SYS_read SYS_readahead SYS_readlinkat
    SYS_readv SYS_recvfrom SYS_recvmmsg SYS_recvmsg SYS_remap_file_pages SYS_removexattr SYS_renameat2 SYS_restart_syscall SYS_rseq
    SYS_rt_sigaction SYS_rt_sigpending SYS_rt_sigprocmask SYS_rt_sigqueueinfo SYS_rt_sigreturn SYS_rt_sigsuspend SYS_rt_sigtimedwait
    SYS_rt_tgsigqueueinfo SYS_sched_get_priority_max SYS_sched_get_priority_min SYS_sched_getaffinity SYS_sched_getattr SYS_sched_getparam
    SYS_sched_getscheduler SYS_sched_rr_get_interval SYS_sched_setaffinity SYS_sched_setattr SYS_sched_setparam SYS_sched_setscheduler
    SYS_sched_yield SYS_seccomp SYS_semctl SYS_semget SYS_semop SYS_semtimedop SYS_sendfile SYS_sendmmsg SYS_sendmsg SYS_sendto
    SYS_set_robust_list SYS_set_tid_address SYS_setfsgid SYS_setfsuid SYS_setgid SYS_setgroups SYS_setitimer SYS_setpgid SYS_setpriority
    SYS_setregid SYS_setresgid SYS_setresuid SYS_setreuid SYS_setrlimit SYS_setsid SYS_setsockopt SYS_setuid SYS_setxattr SYS_shmat SYS_shmctl
    SYS_shmdt SYS_shmget SYS_shutdown SYS_sigaltstack SYS_signalfd4 SYS_splice SYS_statfs SYS_statx SYS_symlinkat SYS_sync SYS_sync_file_range
    SYS_syncfs SYS_sysinfo SYS_tee SYS_tgkill SYS_timer_create SYS_timer_delete SYS_timer_getoverrun SYS_timer_gettime SYS_timer_settime
    SYS_timerfd_create SYS_timerfd_gettime SYS_timerfd_settime SYS_times SYS_tkill SYS_truncate SYS_umask SYS_uname SYS_unlinkat SYS_utimensat
    SYS_vmsplice SYS_wait4 SYS_waitid SYS_write SYS_writev
};

/// Calls that only older architectures have.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const ARCH: &[u32] = calls! {
    SYS_access SYS_alarm SYS_arch_prctl SYS_chmod SYS_chown SYS_creat SYS_dup2 SYS_epoll_create SYS_epoll_ctl_old SYS_epoll_wait
    SYS_epoll_wait_old SYS_eventfd SYS_fork SYS_futimesat SYS_getdents SYS_getpgrp SYS_inotify_init SYS_lchown SYS_link SYS_lstat SYS_mkdir
    SYS_mknod SYS_modify_ldt SYS_open SYS_pause SYS_pipe SYS_poll SYS_readlink SYS_rename SYS_renameat SYS_rmdir SYS_select SYS_set_thread_area
    SYS_get_thread_area SYS_signalfd SYS_stat SYS_symlink SYS_time SYS_unlink SYS_utime SYS_utimes SYS_vfork
};
#[cfg(not(target_arch = "x86_64"))]
const ARCH: &[u32] = calls! { SYS_renameat };

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would do: one program on one call.
    fn run(program: &[sock_filter], nr: u32, arch: u32, args: [u64; 6]) -> u32 {
        let mut data = [0u8; 64];
        data[..4].copy_from_slice(&nr.to_ne_bytes());
        data[4..8].copy_from_slice(&arch.to_ne_bytes());
        for (at, arg) in args.iter().enumerate() {
            data[16 + 8 * at..24 + 8 * at].copy_from_slice(&arg.to_ne_bytes());
        }
        let (mut at, mut accumulator) = (0, 0u32);
        loop {
            let i = &program[at];
            at += 1;
            match i.code {
                LOAD => accumulator = u32::from_ne_bytes(data[i.k as usize..i.k as usize + 4].try_into().expect("four bytes")),
                AND => accumulator &= i.k,
                JUMP => at += i.k as usize,
                JUMP_IF_EQUAL => at += usize::from(if accumulator == i.k { i.jt } else { i.jf }),
                JUMP_IF_NOT_LESS => at += usize::from(if accumulator >= i.k { i.jt } else { i.jf }),
                RETURN => return i.k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;

    /// The same, read from the lists.
    fn said(verdict: &Verdict, args: [u64; 6]) -> u32 {
        match verdict {
            Verdict::Allow => ALLOW,
            Verdict::Refuse => libc::SECCOMP_RET_ERRNO | 1,
            Verdict::Absent => libc::SECCOMP_RET_ERRNO | 38,
            Verdict::When { argument, mask, values, hit, miss } => {
                let value = u32::try_from(args[usize::from(*argument)] & u64::from(u32::MAX)).expect("a lower half") & mask;
                said(if values.contains(&value) { hit } else { miss }, args)
            }
        }
    }

    /// Both programs, as a function meets them.
    fn both(filters: &Filters, nr: u32, args: [u64; 6]) -> u32 {
        let (early, last) = (run(&filters.early, nr, AUDIT_ARCH, args), run(&filters.last, nr, AUDIT_ARCH, args));
        if last == ALLOW { early } else { last }
    }

    #[test]
    fn the_programs_say_what_the_lists_say() {
        let (filters, verdicts) = (compile(), verdicts());
        // The kernel's limit for one program; and the tree is as small as hoped.
        assert!(filters.early.len() < 400 && filters.last.len() < 40, "{} {}", filters.early.len(), filters.last.len());
        let interesting = [0, 1, 2, 8, 10, 16, 17, 0x5412, 0x541c, 0x2_0000, 0x2_0008, 0xffff_ffff, 0x1000_0000, 0x7c02_0000, 0x1_0000_0001, 0x0100_4011];
        let numbers = (0..1024).chain([0x4000_0000, 0x4000_0001, 0x4000_0209, u32::MAX - 1, u32::MAX]);
        for nr in numbers {
            for value in interesting {
                for args in [[value, 0, 0, 0, 0, 0], [3, value, 0, 0, 0, 0]] {
                    let wanted = verdicts.get(&nr).map_or(libc::SECCOMP_RET_ERRNO | 1, |v| said(v, args));
                    assert_eq!(both(&filters, nr, args), wanted, "call {nr} with {args:x?}");
                }
            }
        }
    }

    #[test]
    fn what_makes_a_root_is_allowed_only_before_the_last_filter() {
        let filters = compile();
        for nr in STAGE {
            assert_eq!(run(&filters.early, *nr, AUDIT_ARCH, [0; 6]), ALLOW, "call {nr}");
            assert_eq!(both(&filters, *nr, [0; 6]), libc::SECCOMP_RET_ERRNO | 1, "call {nr}");
        }
    }

    #[test]
    fn another_architectures_calls_end_the_process() {
        for program in [&compile().early, &compile().last] {
            for arch in [0x4000_0003, 0, u32::MAX] {
                assert_eq!(run(program, number(libc::SYS_read), arch, [0; 6]), libc::SECCOMP_RET_KILL_PROCESS);
            }
        }
    }

    #[test]
    fn a_call_takes_few_steps() {
        // Depth of the tree, by the longest way to an end without an argument.
        fn depth(program: &[sock_filter], at: usize) -> usize {
            let i = &program[at];
            match i.code {
                RETURN => 1,
                JUMP => 1 + depth(program, at + 1 + i.k as usize),
                JUMP_IF_EQUAL | JUMP_IF_NOT_LESS => 1 + depth(program, at + 1 + usize::from(i.jt)).max(depth(program, at + 1 + usize::from(i.jf))),
                _ => 1 + depth(program, at + 1),
            }
        }
        let depth = depth(&compile().early, 0);
        assert!(depth <= 24, "{depth} steps");
    }

    #[test]
    fn what_an_escape_would_need_is_not_in_the_lists() {
        let filters = compile();
        #[rustfmt::skip]
        let forbidden: &[u32] = calls! {
            SYS_ptrace SYS_process_vm_readv SYS_process_vm_writev SYS_kcmp SYS_pidfd_getfd
            SYS_mount SYS_umount2 SYS_pivot_root SYS_chroot SYS_move_mount SYS_open_tree SYS_fsopen SYS_fsmount SYS_fsconfig SYS_fspick SYS_mount_setattr
            SYS_unshare SYS_setns SYS_clone3 SYS_bpf SYS_perf_event_open SYS_userfaultfd SYS_keyctl SYS_add_key SYS_request_key
            SYS_io_uring_setup SYS_io_uring_enter SYS_io_uring_register SYS_kexec_load SYS_init_module SYS_finit_module SYS_delete_module
            SYS_open_by_handle_at SYS_reboot SYS_swapon SYS_swapoff SYS_settimeofday SYS_clock_settime SYS_sethostname SYS_setdomainname
            SYS_quotactl SYS_acct SYS_syslog SYS_vhangup SYS_fanotify_init SYS_lookup_dcookie SYS_move_pages SYS_migrate_pages SYS_mbind SYS_set_mempolicy
        };
        for nr in forbidden {
            assert_ne!(both(&filters, *nr, [0; 6]), ALLOW, "call {nr} is allowed");
        }
    }
}
