//! Who may call what, on x86_64.
//!
//! The agent's table starts from what container runtimes (moby's default profile) allow to a container
//! without capabilities; what differs is said where it does.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "constants of libc as `seccomp_data` and `SECCOMP_RET_DATA` have them: 32 bits of an argument, 16 of an errno"
)]

use std::collections::BTreeMap;

use libc::*;

use super::{Match, Options, Rule, Table, Verdict, Word};

/// The command of a session and all that it starts. What is refused outright is [notified](super::Listener) of; what
/// libraries do without is not.
pub const AGENT: Table = Table { rules: agent, denied: NOTIFY };
/// `agentd-relay`: it works on descriptors that it has.
pub const RELAY: Table = Table { rules: relay, denied: Verdict::Kill };
/// The keeper: as the relay, and it waits, signals, reads /proc, is connected to, makes pairs of sockets, and has the
/// closes of files reported.
pub const KEEPER: Table = Table { rules: keeper, denied: Verdict::Errno(EPERM as u16) };
/// The keeper of a session that egress: it dials, too.
pub const DIALLER: Table = Table { rules: dialler, denied: Verdict::Errno(EPERM as u16) };

/// What looks at how much a session has written: it opens for reading, and asks.
pub const METER: Table = Table { rules: meter, denied: Verdict::Errno(EPERM as u16) };

/// The calls of Linux 6.18. What a table does not name is denied if it is one of these.
pub(super) const KNOWN: [std::ops::RangeInclusive<u32>; 2] = [0..=335, 424..=469];
/// For all others, for x32 and for foreign architectures: libraries then do without, as on an older kernel.
pub(super) const UNKNOWN: Verdict = Verdict::Errno(ENOSYS as u16);

const PERM: Verdict = Verdict::Errno(EPERM as u16);
const NOTIFY: Verdict = Verdict::Notify(EPERM as u16);
const NOSYS: Verdict = Verdict::Errno(ENOSYS as u16);
const ALLOW: Verdict = Verdict::Allow;

// Not in libc's list.
const SYS_IO_PGETEVENTS: c_long = 333;
const SYS_URETPROBE: c_long = 335;
const SYS_CACHESTAT: c_long = 451;
const SYS_MAP_SHADOW_STACK: c_long = 453;
const SYS_FUTEX_WAKE: c_long = 454;
const SYS_FUTEX_WAIT: c_long = 455;
const SYS_FUTEX_REQUEUE: c_long = 456;
const SYS_SETXATTRAT: c_long = 463;
const SYS_GETXATTRAT: c_long = 464;
const SYS_LISTXATTRAT: c_long = 465;
const SYS_REMOVEXATTRAT: c_long = 466;
const SYS_FILE_GETATTR: c_long = 468;
const SYS_FILE_SETATTR: c_long = 469;

/// What a program may always do to its own descriptors, memory, threads and time.
#[rustfmt::skip]
const OWN: &[c_long] = &[
    SYS_read, SYS_write, SYS_readv, SYS_writev, SYS_close, SYS_fstat, SYS_poll, SYS_ppoll, SYS_splice,
    SYS_tee, SYS_epoll_create1, SYS_epoll_ctl, SYS_epoll_wait, SYS_epoll_pwait, SYS_epoll_pwait2,
    SYS_eventfd2, SYS_timerfd_create, SYS_timerfd_settime, SYS_timerfd_gettime, SYS_sendmsg, SYS_recvmsg,
    SYS_sendto, SYS_recvfrom, SYS_shutdown, SYS_brk, SYS_munmap, SYS_madvise, SYS_mremap, SYS_futex,
    SYS_membarrier, SYS_rseq, SYS_set_robust_list, SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn,
    SYS_sigaltstack, SYS_restart_syscall, SYS_clock_gettime, SYS_clock_nanosleep, SYS_nanosleep,
    SYS_gettimeofday, SYS_time, SYS_getrandom, SYS_getpid, SYS_gettid, SYS_sched_yield,
    SYS_sched_getaffinity, SYS_exit, SYS_exit_group,
];

/// What libraries try on the side, at a panic or an abort, and do without.
#[rustfmt::skip]
const TRIED: &[c_long] = &[
    SYS_open, SYS_openat, SYS_openat2, SYS_creat, SYS_access, SYS_faccessat, SYS_faccessat2, SYS_readlink,
    SYS_readlinkat, SYS_stat, SYS_lstat, SYS_newfstatat, SYS_statx, SYS_getcwd, SYS_uname, SYS_sysinfo,
    SYS_getrlimit, SYS_prlimit64, SYS_getuid, SYS_geteuid, SYS_getgid, SYS_getegid, SYS_kill, SYS_tkill,
];

/// What the keeper does besides.
#[rustfmt::skip]
const KEEPING: &[c_long] = &[
    SYS_wait4, SYS_waitid, SYS_kill, SYS_pidfd_open, SYS_pidfd_send_signal, SYS_process_vm_readv,
    SYS_newfstatat, SYS_statx, SYS_fstatfs, SYS_readlink, SYS_readlinkat, SYS_getdents64, SYS_lseek, SYS_pread64,
    SYS_pwrite64, SYS_pipe2, SYS_signalfd4, SYS_accept4, SYS_getppid, SYS_getuid, SYS_geteuid, SYS_getgid, SYS_getegid,
];

/// What a meter asks of files, and of who has them open.
#[rustfmt::skip]
const METERING: &[c_long] = &[
    SYS_newfstatat, SYS_statx, SYS_fstatfs, SYS_getdents64, SYS_lseek, SYS_pread64, SYS_readlinkat, SYS_kcmp,
    SYS_pidfd_open, SYS_pidfd_getfd,
];

/// What the relay does with sockets that it was given: it can make none, bind none and connect none.
#[rustfmt::skip]
const RELAYING: &[c_long] = &[
    SYS_accept4, SYS_recvmmsg, SYS_pipe2, SYS_getsockname, SYS_getpeername, SYS_pread64,
];

/// What the agent may call with any arguments.
#[rustfmt::skip]
const AGENTS: &[c_long] = &[
    // Files.
    SYS_access, SYS_chdir, SYS_chown, SYS_close, SYS_close_range, SYS_copy_file_range, SYS_dup, SYS_dup2,
    SYS_dup3, SYS_faccessat, SYS_faccessat2, SYS_fadvise64, SYS_fallocate, SYS_fchdir, SYS_fchown,
    SYS_fchownat, SYS_fcntl, SYS_fdatasync, SYS_fgetxattr, SYS_flistxattr, SYS_flock, SYS_fremovexattr,
    SYS_fsetxattr, SYS_fstat, SYS_fstatfs, SYS_fsync, SYS_ftruncate, SYS_futimesat, SYS_getcwd,
    SYS_getdents, SYS_getdents64, SYS_getxattr, SYS_lchown, SYS_lgetxattr, SYS_link, SYS_linkat,
    SYS_listxattr, SYS_llistxattr, SYS_lremovexattr, SYS_lseek, SYS_lsetxattr, SYS_lstat, SYS_mkdir, SYS_mkdirat,
    SYS_name_to_handle_at, SYS_newfstatat, SYS_pread64, SYS_preadv, SYS_preadv2, SYS_pwrite64,
    SYS_pwritev, SYS_pwritev2, SYS_read, SYS_readahead, SYS_readlink, SYS_readlinkat, SYS_readv,
    SYS_removexattr, SYS_rename, SYS_renameat, SYS_renameat2, SYS_rmdir, SYS_sendfile, SYS_setxattr,
    SYS_splice, SYS_stat, SYS_statfs, SYS_statx, SYS_symlink, SYS_symlinkat, SYS_sync,
    SYS_sync_file_range, SYS_syncfs, SYS_tee, SYS_truncate, SYS_umask, SYS_unlink, SYS_unlinkat,
    SYS_utime, SYS_utimensat, SYS_utimes, SYS_vmsplice, SYS_write, SYS_writev, SYS_CACHESTAT,
    SYS_SETXATTRAT, SYS_GETXATTRAT, SYS_LISTXATTRAT, SYS_REMOVEXATTRAT, SYS_inotify_add_watch,
    SYS_inotify_init, SYS_inotify_init1, SYS_inotify_rm_watch, SYS_ioprio_get, SYS_ioprio_set,
    // Waiting.
    SYS_epoll_create, SYS_epoll_create1, SYS_epoll_ctl, SYS_epoll_pwait, SYS_epoll_pwait2, SYS_epoll_wait,
    SYS_eventfd, SYS_eventfd2, SYS_pause, SYS_pipe, SYS_pipe2, SYS_poll, SYS_ppoll, SYS_pselect6,
    SYS_select, SYS_signalfd, SYS_signalfd4, SYS_timerfd_create, SYS_timerfd_gettime, SYS_timerfd_settime,
    // Sockets.
    SYS_accept, SYS_accept4, SYS_bind, SYS_connect, SYS_getpeername, SYS_getsockname, SYS_getsockopt,
    SYS_listen, SYS_recvfrom, SYS_recvmmsg, SYS_recvmsg, SYS_sendmmsg, SYS_sendmsg, SYS_sendto,
    SYS_shutdown,
    // Memory.
    SYS_brk, SYS_madvise, SYS_mincore, SYS_mlock, SYS_mlock2, SYS_mlockall, SYS_mprotect, SYS_mremap, SYS_msync, SYS_munlock, SYS_munlockall, SYS_munmap, SYS_pkey_alloc, SYS_pkey_free,
    SYS_pkey_mprotect, SYS_remap_file_pages, SYS_mseal, SYS_MAP_SHADOW_STACK,
    // Processes. ptrace(2) and process_vm_*: the kernel's own checks keep them to the agent's processes.
    SYS_arch_prctl, SYS_capget, SYS_capset, SYS_execve, SYS_execveat, SYS_exit, SYS_exit_group, SYS_fork,
    SYS_futex, SYS_futex_waitv, SYS_FUTEX_WAKE, SYS_FUTEX_WAIT, SYS_FUTEX_REQUEUE, SYS_get_robust_list,
    SYS_getcpu, SYS_getegid, SYS_geteuid, SYS_getgid, SYS_getgroups, SYS_getpgid, SYS_getpgrp, SYS_getpid,
    SYS_getppid, SYS_getpriority, SYS_getrandom, SYS_getresgid, SYS_getresuid, SYS_getrlimit,
    SYS_getrusage, SYS_getsid, SYS_gettid, SYS_getuid, SYS_kill, SYS_landlock_add_rule,
    SYS_landlock_create_ruleset, SYS_landlock_restrict_self, SYS_membarrier,
    SYS_pidfd_open, SYS_pidfd_send_signal, SYS_prctl, SYS_process_mrelease,
    SYS_process_vm_readv, SYS_process_vm_writev, SYS_ptrace, SYS_rseq, SYS_sched_get_priority_max,
    SYS_sched_get_priority_min, SYS_sched_getaffinity, SYS_sched_getattr, SYS_sched_getparam,
    SYS_sched_getscheduler, SYS_sched_rr_get_interval, SYS_sched_setaffinity, SYS_sched_setattr,
    SYS_sched_setparam, SYS_sched_setscheduler, SYS_sched_yield, SYS_set_robust_list,
    SYS_set_tid_address, SYS_setfsgid, SYS_setfsuid, SYS_setgroups, SYS_setpgid,
    SYS_setpriority, SYS_setsid, SYS_sysinfo, SYS_times, SYS_uname, SYS_vfork, SYS_wait4, SYS_waitid, SYS_URETPROBE,
    // Signals and time.
    SYS_alarm, SYS_clock_getres, SYS_clock_gettime, SYS_clock_nanosleep, SYS_getitimer, SYS_gettimeofday,
    SYS_nanosleep, SYS_restart_syscall, SYS_rt_sigaction, SYS_rt_sigpending, SYS_rt_sigprocmask,
    SYS_rt_sigqueueinfo, SYS_rt_sigreturn, SYS_rt_sigsuspend, SYS_rt_sigtimedwait, SYS_rt_tgsigqueueinfo,
    SYS_setitimer, SYS_sigaltstack, SYS_tgkill, SYS_time, SYS_timer_create, SYS_timer_delete,
    SYS_timer_getoverrun, SYS_timer_gettime, SYS_timer_settime, SYS_tkill,
    // System V and POSIX objects of the session's own namespace.
    SYS_mq_getsetattr, SYS_mq_notify, SYS_mq_open, SYS_mq_timedreceive, SYS_mq_timedsend, SYS_mq_unlink,
    SYS_msgctl, SYS_msgget, SYS_msgrcv, SYS_msgsnd, SYS_semctl, SYS_semget, SYS_semop, SYS_semtimedop,
    SYS_shmat, SYS_shmctl, SYS_shmdt, SYS_shmget,
];

/// What the agent's libraries do without, as on a kernel that lacks it: arguments that lie in memory, where no filter
/// sees them, or in rings; contexts of asynchronous I/O, which one program can take all of from the whole host
/// (`fs.aio-max-nr`); segments that only 16-bit code needs.
const WITHOUT: &[c_long] = &[
    SYS_io_setup,
    SYS_io_destroy,
    SYS_io_submit,
    SYS_io_cancel,
    SYS_io_getevents,
    SYS_IO_PGETEVENTS,
    SYS_modify_ldt,
    SYS_clone3,
    SYS_openat2,
    SYS_io_uring_setup,
    SYS_io_uring_enter,
    SYS_io_uring_register,
    SYS_FILE_GETATTR,
    SYS_FILE_SETATTR,
];

/// Every flag of `clone(2)` that makes a namespace. `CLONE_NEWTIME` is none there: it is a part of the
/// child's signal.
const NEW_NAMESPACES: u32 = (CLONE_NEWNS
    | CLONE_NEWCGROUP
    | CLONE_NEWUTS
    | CLONE_NEWIPC
    | CLONE_NEWUSER
    | CLONE_NEWPID
    | CLONE_NEWNET) as u32;
/// What `unshare(2)` may do without a namespace.
const UNSHARED: u32 =
    (CLONE_FS | CLONE_FILES | CLONE_SYSVSEM | CLONE_SIGHAND | CLONE_THREAD | CLONE_VM) as u32;
/// Obsolete, and with an inet family a packet socket still.
const SOCK_PACKET: u32 = 10;
const TIOCLINUX: u32 = 0x541c;
/// Succeeds, and does nothing.
const PRETEND: Verdict = Verdict::Errno(0);
/// Stand for a session's ids in the agent's table, until [`with_ids`](super::Filter::with_ids).
pub(super) const OWN_UID: u32 = 0xfffd_0001;
pub(super) const OWN_GID: u32 = 0xfffd_0002;
const PER_LINUX32: u32 = 8;
const UNAME26: u32 = 0x2_0000;
const ADDR_NO_RANDOMIZE: u32 = 0x4_0000;

fn agent(options: Options) -> BTreeMap<u32, Rule> {
    let mut rules = all(AGENTS, ALLOW);
    rules.extend(all(WITHOUT, NOSYS));
    if options.memfd_create {
        let huge = only_without(1, MFD_HUGETLB, ALLOW, NOSYS);
        rules.extend(each(&[(SYS_memfd_create, huge)]));
    }
    // umode_t, so only its low bits count. mkdir(2) drops both by itself.
    let refused = if options.set_gid { S_ISUID } else { S_ISUID | S_ISGID };
    let mode = |argument| only_without(argument, refused, ALLOW, NOTIFY);
    let made = |argument| {
        let devices = vec![S_IFCHR, S_IFBLK];
        by(Word::Low(argument), S_IFMT, vec![(devices, NOTIFY.into())], mode(argument))
    };
    let opened = |flags| {
        let creates = (O_CREAT | (O_TMPFILE & !O_DIRECTORY)) as u32;
        only_without(flags, creates, ALLOW, mode(flags + 1))
    };
    rules.extend(each(&[
        (SYS_chmod, mode(1)),
        (SYS_fchmod, mode(1)),
        (SYS_fchmodat, mode(2)),
        (SYS_fchmodat2, mode(2)),
        (SYS_creat, mode(1)),
        (SYS_mknod, made(1)),
        (SYS_mknodat, made(2)),
        (SYS_open, opened(1)),
        (SYS_openat, opened(2)),
        // Of two listeners the later one is asked, and may let the call through (seccomp_unotify(2)): there is one. The
        // kernel says the same of a second.
        (
            SYS_seccomp,
            only_without(1, SECCOMP_FILTER_FLAG_NEW_LISTENER as u32, ALLOW, Verdict::Notify(EBUSY as u16)),
        ),
        (SYS_clone, only_without(0, NEW_NAMESPACES, ALLOW, NOTIFY)),
        (SYS_unshare, unshare()),
        (SYS_personality, personality()),
        (SYS_setuid, ids(OWN_UID, 0..1)),
        (SYS_setreuid, ids(OWN_UID, 0..2)),
        (SYS_setresuid, ids(OWN_UID, 0..3)),
        (SYS_setgid, ids(OWN_GID, 0..1)),
        (SYS_setregid, ids(OWN_GID, 0..2)),
        (SYS_setresgid, ids(OWN_GID, 0..3)),
        (SYS_prlimit64, limits()),
        (SYS_setrlimit, equal(0, &[RLIMIT_CORE], PRETEND, ALLOW)),
        // The host's huge pages are charged to no group: a host without them says the same.
        (SYS_mmap, only_without(3, MAP_HUGETLB as u32, ALLOW, Verdict::Errno(ENOMEM as u16))),
        (SYS_setsockopt, options_of_sockets()),
        (SYS_socket, socket()),
        (SYS_socketpair, equal(0, &[AF_UNIX as u32], ALLOW, Verdict::Notify(EAFNOSUPPORT as u16))),
        // TIOCSTI and TIOCLINUX put bytes into a terminal's input. TIOCSETD loads modules, and names in memory which.
        (SYS_ioctl, equal(1, &[TIOCSTI as u32, TIOCLINUX, TIOCSETD as u32], NOTIFY, ALLOW)),
    ]));
    rules
}

/// An `unsigned long`: all of it must be known flags.
fn unshare() -> Rule {
    let low = only_without(0, !UNSHARED, ALLOW, NOTIFY);
    by(Word::High(0), u32::MAX, vec![(vec![0], low)], NOTIFY)
}

/// Others' limits may be read. pid 1 has the agent's ids: with its limits lowered it could not start what `exec`
/// asks for, and would end.
///
/// `RLIMIT_CORE` stays what it is: 0, which many programs set, would start a handler of the host's that is a pipe,
/// where 1 does not (core(5)). They see that it is set, unless they ask for what it was in the same call.
fn limits() -> Rule {
    let null = |argument, then: Rule, otherwise: Rule| {
        let high = by(Word::High(argument), u32::MAX, vec![(vec![0], then)], otherwise.clone());
        by(Word::Low(argument), u32::MAX, vec![(vec![0], high)], otherwise)
    };
    let core = null(2, ALLOW.into(), null(3, PRETEND.into(), NOTIFY.into()));
    let own = by(Word::Low(1), u32::MAX, vec![(vec![RLIMIT_CORE], core)], ALLOW);
    by(Word::Low(0), u32::MAX, vec![(vec![0], own)], null(2, ALLOW.into(), NOTIFY.into()))
}

/// All but filters: their code takes from what the host has for all programs' (`net.core.bpf_jit_limit`), and is
/// charged to no group.
fn options_of_sockets() -> Rule {
    let filters = [SO_ATTACH_FILTER, SO_ATTACH_BPF, SO_ATTACH_REUSEPORT_CBPF, SO_ATTACH_REUSEPORT_EBPF]
        .map(|o| o as u32);
    let of_socket = equal(2, &filters, NOTIFY, ALLOW);
    by(Word::Low(1), u32::MAX, vec![(vec![SOL_SOCKET as u32], of_socket)], ALLOW)
}

/// The caller's own id and -1 are the kernel's to judge; no other can be had, and those that the session's user
/// namespace does not have are EINVAL there, which programs do not expect.
fn ids(own: u32, arguments: std::ops::Range<u8>) -> Rule {
    arguments.rev().fold(ALLOW.into(), |rest, argument| {
        by(Word::Low(argument), u32::MAX, vec![(vec![own, u32::MAX], rest)], PERM)
    })
}

/// The values that container runtimes allow, and the one that gdb starts programs with.
fn personality() -> Rule {
    let values = [0, PER_LINUX32, UNAME26, UNAME26 | PER_LINUX32, ADDR_NO_RANDOMIZE, u32::MAX];
    equal(0, &values, ALLOW, NOTIFY)
}

/// Streams and datagrams of unix, inet and inet6, and the one netlink family that libc asks for addresses.
fn socket() -> Rule {
    let [unix, inet, inet6, netlink] = [AF_UNIX, AF_INET, AF_INET6, AF_NETLINK].map(|family| family as u32);
    let [stream, datagram, raw, packets] =
        [SOCK_STREAM, SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET].map(|kind| kind as u32);
    // The kernel's SOCK_TYPE_MASK.
    let kind =
        |arms: Vec<(Vec<u32>, Rule)>| by(Word::Low(1), 0xf, arms, Verdict::Notify(ESOCKTNOSUPPORT as u16));
    let no_protocol = Verdict::Notify(EPROTONOSUPPORT as u16);
    let internet = equal(2, &[0, IPPROTO_TCP as u32, IPPROTO_UDP as u32], ALLOW, no_protocol);
    let route = equal(2, &[NETLINK_ROUTE as u32], ALLOW, no_protocol);
    let arms = vec![
        (vec![unix], kind(vec![(vec![stream, datagram, packets], ALLOW.into())])),
        (
            vec![inet, inet6],
            kind(vec![(vec![stream, datagram], internet), (vec![raw, SOCK_PACKET], NOTIFY.into())]),
        ),
        (vec![netlink], kind(vec![(vec![raw, datagram], route)])),
    ];
    by(Word::Low(0), u32::MAX, arms, Verdict::Notify(EAFNOSUPPORT as u16))
}

/// The relay: what it shares with the keeper, and connections of others.
fn relay(options: Options) -> BTreeMap<u32, Rule> {
    let mut rules = helper(options);
    rules.extend(all(RELAYING, ALLOW));
    rules.extend(each(&[
        (SYS_fcntl, equal(1, &descriptor(&[F_SETPIPE_SZ, F_GETPIPE_SZ]), ALLOW, PERM)),
        (SYS_getsockopt, equal(1, &[SOL_SOCKET as u32, IPPROTO_TCP as u32], ALLOW, PERM)),
        (SYS_setsockopt, set_option()),
        // With it, a socket that is not connected (any more) connects to whatever address a message names (tcp(7)),
        // past the keeper, past Landlock, and without connect(2): one whose connection failed, and a listener that was
        // shut down.
        (SYS_sendto, only_without(3, MSG_FASTOPEN as u32, ALLOW, Verdict::Kill)),
        (SYS_sendmsg, only_without(2, MSG_FASTOPEN as u32, ALLOW, Verdict::Kill)),
        (SYS_sendmmsg, only_without(3, MSG_FASTOPEN as u32, ALLOW, Verdict::Kill)),
    ]));
    rules
}

/// How a connection ends, waits and is kept alive; nothing of where its packets go.
fn set_option() -> Rule {
    let [socket, tcp] = [SOL_SOCKET, IPPROTO_TCP].map(|level| level as u32);
    let of_socket = [SO_LINGER, SO_KEEPALIVE, SO_RCVBUF, SO_SNDBUF].map(|option| option as u32);
    let of_tcp =
        [TCP_NODELAY, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT, TCP_USER_TIMEOUT].map(|option| option as u32);
    let arms =
        vec![(vec![socket], equal(2, &of_socket, ALLOW, PERM)), (vec![tcp], equal(2, &of_tcp, ALLOW, PERM))];
    by(Word::Low(1), u32::MAX, arms, PERM)
}

fn descriptor(also: &[c_int]) -> Vec<u32> {
    let every = [F_GETFL, F_SETFL, F_GETFD, F_SETFD, F_DUPFD_CLOEXEC, F_GET_SEALS];
    every.iter().chain(also).map(|command| *command as u32).collect()
}

/// What relay and keeper share.
fn helper(_: Options) -> BTreeMap<u32, Rule> {
    let mut rules = all(TRIED, PERM);
    rules.extend(all(OWN, ALLOW));
    // Of a terminal: its size, its settings to read.
    let terminal = [TIOCSWINSZ, TIOCGWINSZ, TCGETS, TCGETS2, FIONBIO].map(|request| request as u32);
    let questions = [PR_GET_SECCOMP, PR_GET_NO_NEW_PRIVS, PR_GET_DUMPABLE].map(|option| option as u32);
    let executable = |argument| only_without(argument, PROT_EXEC as u32, ALLOW, PERM);
    rules.extend(each(&[
        (SYS_mmap, executable(2)),
        (SYS_mprotect, executable(2)),
        (SYS_fcntl, equal(1, &descriptor(&[]), ALLOW, PERM)),
        (SYS_ioctl, equal(1, &terminal, ALLOW, PERM)),
        (SYS_prctl, equal(0, &questions, ALLOW, PERM)),
        (SYS_getsockopt, equal(1, &[SOL_SOCKET as u32], ALLOW, PERM)),
        // For abort(3).
        (SYS_tgkill, equal(2, &[SIGABRT as u32], ALLOW, PERM)),
    ]));
    rules
}

fn keeper(options: Options) -> BTreeMap<u32, Rule> {
    let mut rules = helper(options);
    rules.extend(all(KEEPING, ALLOW));
    let writes = (O_ACCMODE | O_CREAT | O_TRUNC | O_TMPFILE & !O_DIRECTORY) as u32;
    // The last three receive refused calls and answer them. What the answer is no filter sees.
    let hearing = [SECCOMP_IOCTL_NOTIF_RECV, SECCOMP_IOCTL_NOTIF_ID_VALID, SECCOMP_IOCTL_NOTIF_SEND];
    let ioctls: Vec<u32> = [FIONBIO, PIDFD_GET_INFO].into_iter().chain(hearing).map(|i| i as u32).collect();
    rules.extend(each(&[
        (SYS_openat, only_without(2, writes, ALLOW, PERM)),
        (SYS_ioctl, equal(1, &ioctls, ALLOW, PERM)),
        // Closes of files that sessions run, and nothing that could hold others up: a mark is for all of the host.
        (SYS_fanotify_mark, closes()),
        // Streams between relay and service.
        (SYS_socketpair, equal(0, &[AF_UNIX as u32], ALLOW, PERM)),
    ]));
    rules
}

fn meter(options: Options) -> BTreeMap<u32, Rule> {
    let mut rules = helper(options);
    rules.extend(all(METERING, ALLOW));
    let writes = (O_ACCMODE | O_CREAT | O_TRUNC | O_TMPFILE & !O_DIRECTORY) as u32;
    let peeks = equal(2, &[SO_PEEK_OFF as u32], ALLOW, PERM);
    let of_sockets = by(Word::Low(1), u32::MAX, vec![(vec![SOL_SOCKET as u32], peeks)], PERM);
    rules.extend(each(&[(SYS_openat, only_without(2, writes, ALLOW, PERM)), (SYS_setsockopt, of_sockets)]));
    rules
}

/// `FAN_CLOSE_NOWRITE` of one file, to add or to remove.
fn closes() -> Rule {
    let flags = equal(1, &[FAN_MARK_ADD, FAN_MARK_REMOVE], ALLOW, PERM);
    let low = by(Word::Low(2), u32::MAX, vec![(vec![FAN_CLOSE_NOWRITE as u32], flags)], PERM);
    by(Word::High(2), u32::MAX, vec![(vec![0], low)], PERM)
}

fn dialler(options: Options) -> BTreeMap<u32, Rule> {
    let mut rules = keeper(options);
    let families = vec![AF_INET as u32, AF_INET6 as u32];
    let [stream, datagram] =
        [SOCK_STREAM, SOCK_DGRAM].map(|kind| (kind | SOCK_NONBLOCK | SOCK_CLOEXEC) as u32);
    let kind = by(
        Word::Low(1),
        u32::MAX,
        vec![
            (vec![stream], equal(2, &[IPPROTO_TCP as u32], ALLOW, PERM)),
            (vec![datagram], equal(2, &[IPPROTO_UDP as u32], ALLOW, PERM)),
        ],
        PERM,
    );
    rules.extend(each(&[
        (SYS_socket, by(Word::Low(0), u32::MAX, vec![(families, kind)], PERM)),
        (SYS_connect, ALLOW.into()),
        // Whether an address is the host's own.
        (SYS_getsockname, ALLOW.into()),
        // libnftnl's form of a batch depends on the kernel's version.
        (SYS_uname, ALLOW.into()),
    ]));
    rules
}

fn all(calls: &[c_long], verdict: Verdict) -> BTreeMap<u32, Rule> {
    calls.iter().map(|call| (*call as u32, verdict.into())).collect()
}

fn each(calls: &[(c_long, Rule)]) -> impl Iterator<Item = (u32, Rule)> {
    calls.iter().map(|(call, rule)| (*call as u32, rule.clone()))
}

fn by(word: Word, mask: u32, arms: Vec<(Vec<u32>, Rule)>, otherwise: impl Into<Rule>) -> Rule {
    Rule::Match(Box::new(Match { word, mask, arms, otherwise: otherwise.into() }))
}

/// `then` if the low half of an argument is one of `values`.
fn equal(argument: u8, values: &[u32], then: Verdict, otherwise: Verdict) -> Rule {
    by(Word::Low(argument), u32::MAX, vec![(values.to_vec(), then.into())], otherwise)
}

/// `then` if the low half of an argument has none of `bits`.
fn only_without(argument: u8, bits: u32, then: Verdict, otherwise: impl Into<Rule>) -> Rule {
    by(Word::Low(argument), bits, vec![(vec![0], then.into())], otherwise)
}
