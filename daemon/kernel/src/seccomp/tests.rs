//! The filters against their tables, by an interpreter; and in the kernel, under real programs.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "constants of libc as arguments of system calls"
)]

use nix::sys::signal::{SigSet, Signal};
use proptest::prelude::*;

use super::*;
use crate::creds;
use crate::lockdown::testing::in_child;

const AGENT_OPTIONS: Options = Options { memfd_create: false, set_gid: false };

impl Call {
    fn native(number: libc::c_long, arguments: [u64; 6]) -> Self {
        Self { arch: bpf::X86_64, number: number as u32, arguments }
    }
}

/// Runs a program as the kernel would; the verdict and how many instructions it took.
fn interpret(program: &[libc::sock_filter], call: &Call) -> (u32, usize) {
    let (mut at, mut accumulator) = (0, 0);
    for steps in 1.. {
        let libc::sock_filter { code, jt, jf, k } = program[at];
        at += 1;
        let jump = |taken: bool| usize::from(if taken { jt } else { jf });
        match code {
            bpf::LOAD => accumulator = call.word(k),
            bpf::AND => accumulator &= k,
            bpf::JUMP => at += k as usize,
            bpf::IF_EQUAL => at += jump(accumulator == k),
            bpf::IF_FROM => at += jump(accumulator >= k),
            bpf::IF_ANY => at += jump(accumulator & k != 0),
            bpf::RETURN => return (k, steps),
            other => panic!("instruction {other:#x}"),
        }
    }
    unreachable!()
}

fn verdict(table: &Table, options: Options, call: &Call) -> Verdict {
    let filter = compile(table, options);
    let expected = call.judge(&(table.rules)(options), table.denied);
    assert_eq!(interpret(&filter.0, call).0, bpf::action(expected), "{call:x?}");
    expected
}

/// What the caller sees: a call that is notified of fails as any other.
fn agent(number: libc::c_long, arguments: &[u64]) -> Verdict {
    let mut six = [0; 6];
    six[..arguments.len()].copy_from_slice(arguments);
    match verdict(&AGENT, AGENT_OPTIONS, &Call::native(number, six)) {
        Verdict::Notify(errno) => Verdict::Errno(errno),
        other => other,
    }
}

const ALLOW: Verdict = Verdict::Allow;
const PERM: Verdict = Verdict::Errno(libc::EPERM as u16);
const NOSYS: Verdict = Verdict::Errno(libc::ENOSYS as u16);
/// Noise for the upper half of an `int`.
const HIGH: u64 = 0xdead_beef << 32;

#[test]
fn the_agents_filter_is_the_reviewed_one() {
    let listing = compile(&AGENT, AGENT_OPTIONS).to_string();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/src/seccomp/agent.golden"), &listing).unwrap();
    } else {
        let golden = include_str!("agent.golden");
        assert_eq!(
            listing, golden,
            "if it is meant, run the test with UPDATE_GOLDEN=1 and review the difference"
        );
    }
}

#[test]
fn what_is_refused_is_told_of_by_name() {
    use libc::{SYS_setgid, SYS_setregid, SYS_setresgid, SYS_setresuid, SYS_setreuid, SYS_setuid};
    let silent = [libc::ENOSYS, libc::ENOMEM, 0].map(|errno| Verdict::Errno(errno as u16));
    // Libraries try these.
    let ids =
        [SYS_setuid, SYS_setgid, SYS_setreuid, SYS_setregid, SYS_setresuid, SYS_setresgid].map(|n| n as u32);
    let mut notified = 0;
    for number in 0..600_u32 {
        for arguments in [[0; 6], [1; 6], [0o4755; 6], [u64::MAX; 6], [0x7000_0000; 6], [1, 1, 26, 0, 0, 0]] {
            let call = Call::native(number.into(), arguments);
            match verdict(&AGENT, AGENT_OPTIONS, &call) {
                Verdict::Notify(errno) => {
                    notified += 1;
                    assert!(errno != 0 && names::name(call.number).is_some(), "{call:?}");
                    assert_eq!(
                        Listener::new(std::fs::File::open("/dev/null").unwrap().into(), AGENT, AGENT_OPTIONS)
                            .errno(&call),
                        errno
                    );
                }
                Verdict::Allow => {}
                PERM if ids.contains(&number) => {}
                other => assert!(silent.contains(&other), "{call:?}: {other:?}"),
            }
        }
    }
    assert!(notified > 300, "{notified}");
    for table in [&RELAY, &KEEPER, &DIALLER, &METER] {
        let rules = (table.rules)(AGENT_OPTIONS);
        let notified = |number| {
            matches!(Call::native(number, [u64::MAX; 6]).judge(&rules, table.denied), Verdict::Notify(_))
        };
        assert!(!(0..600).any(notified), "nobody listens to ours");
    }
}

#[test]
fn what_was_asked_is_said_in_the_words_of_manual_pages() {
    let said = |number: libc::c_long, arguments: &[u64]| {
        let mut six = [0; 6];
        six[..arguments.len()].copy_from_slice(arguments);
        let call = Call::native(number, six);
        (call.name(), call.argument().unwrap_or_default())
    };
    let of = |name: &str, argument: &str| (name.to_owned(), argument.to_owned());
    assert_eq!(said(libc::SYS_mount, &[1, 2, 3]), of("mount", ""));
    assert_eq!(said(libc::SYS_unshare, &[HIGH | 0x1002_0000]), of("unshare", "CLONE_NEWNS|CLONE_NEWUSER"));
    assert_eq!(said(libc::SYS_unshare, &[1 << 37]), of("unshare", "flags 0x2000000000"));
    assert_eq!(said(libc::SYS_fchmodat, &[0, 0, HIGH | 0o4755]), of("fchmodat", "mode 4755"));
    assert_eq!(
        said(libc::SYS_socket, &[17, 3 | 0x80000, 768]),
        of("socket", "AF_PACKET, SOCK_RAW, protocol 768")
    );
    assert_eq!(said(libc::SYS_ioctl, &[0, 0x5412]), of("ioctl", "TIOCSTI"));
    assert_eq!(said(999, &[]), of("999", ""));
}

#[test]
fn no_listener_is_made() {
    let flags = |flags: u64| agent(libc::SYS_seccomp, &[1, flags]);
    assert_eq!((flags(0), flags(HIGH | 1)), (ALLOW, ALLOW));
    assert_eq!((flags(8), flags(HIGH | 0x28)), (Verdict::Errno(16), Verdict::Errno(16)));
}

#[test]
fn limits_of_others_may_be_read_and_not_set() {
    let limits = |pid: u64, new: u64| agent(libc::SYS_prlimit64, &[pid, 7, new, 0x7000]);
    for new in [0, 0x7ffc_0000_1000, 1 << 32] {
        assert_eq!((limits(0, new), limits(HIGH, new)), (ALLOW, ALLOW));
        let others = if new == 0 { ALLOW } else { PERM };
        assert_eq!((limits(1, new), limits(u64::from(u32::MAX), new)), (others, others));
    }
}

#[test]
fn the_limit_of_core_files_stays() {
    let pretend = Verdict::Errno(0);
    let core = HIGH | u64::from(libc::RLIMIT_CORE);
    let set = |new: u64, old: u64| agent(libc::SYS_prlimit64, &[HIGH, core, new, old]);
    assert_eq!((set(0, 0x7000), set(0, 0)), (ALLOW, ALLOW));
    for new in [0x7000, 1 << 32] {
        assert_eq!((set(new, 0), set(new, 0x8000), set(new, 1 << 32)), (pretend, PERM, PERM));
    }
    assert_eq!(agent(libc::SYS_setrlimit, &[core, 0x7000]), pretend);
    assert_eq!(agent(libc::SYS_setrlimit, &[libc::RLIMIT_NOFILE.into(), 0x7000]), ALLOW);
    assert_eq!(agent(libc::SYS_prlimit64, &[7, core, 0x7000, 0]), PERM);
}

#[test]
fn what_the_host_has_once_for_all_is_out_of_reach() {
    use libc::*;
    for call in [SYS_io_setup, SYS_io_submit, SYS_io_destroy, SYS_io_cancel, SYS_io_getevents, 333] {
        assert_eq!(agent(call, &[1, 1]), NOSYS, "{call}");
    }
    assert_eq!(agent(SYS_modify_ldt, &[1, 1]), NOSYS);
    for request in [0x5423, 0x5423 | HIGH] {
        assert_eq!(agent(SYS_ioctl, &[0, request, 0x7000]), PERM);
    }
    let map = |flags: i32| agent(SYS_mmap, &[0, 4096, 3, u64::from(flags as u32), u64::MAX, 0]);
    assert_eq!(map(MAP_PRIVATE | MAP_ANONYMOUS), ALLOW);
    let none = Verdict::Errno(ENOMEM as u16);
    assert_eq!(map(MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB), none);
    assert_eq!(map(MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB | 30 << MAP_HUGE_SHIFT), none);
    let memfd = |flags: u64| {
        verdict(
            &AGENT,
            Options { memfd_create: true, set_gid: false },
            &Call::native(SYS_memfd_create, [1, flags, 0, 0, 0, 0]),
        )
    };
    assert_eq!(memfd(HIGH | u64::from(MFD_CLOEXEC)), ALLOW);
    assert_eq!(memfd(HIGH | u64::from(MFD_HUGETLB)), NOSYS);
    let option = |level: i32, name: i32| {
        agent(SYS_setsockopt, &[3, HIGH | u64::from(level as u32), HIGH | u64::from(name as u32)])
    };
    for filter in [SO_ATTACH_FILTER, SO_ATTACH_BPF, SO_ATTACH_REUSEPORT_CBPF, SO_ATTACH_REUSEPORT_EBPF] {
        assert_eq!((option(SOL_SOCKET, filter), option(IPPROTO_TCP, filter)), (PERM, ALLOW));
    }
    assert_eq!(option(SOL_SOCKET, SO_REUSEADDR), ALLOW);
}

#[test]
fn filters_are_short() {
    for (table, most) in [(&AGENT, 260), (&RELAY, 180), (&KEEPER, 150), (&DIALLER, 180), (&METER, 150)] {
        let filter = compile(table, AGENT_OPTIONS);
        assert!(filter.0.len() <= most, "{} instructions", filter.0.len());
        let longest = (0..500).map(|number| interpret(&filter.0, &Call::native(number, [0; 6])).1).max();
        assert!(longest <= Some(20), "{longest:?} steps");
    }
}

#[test]
fn every_number_has_its_tables_verdict() {
    for table in [&AGENT, &RELAY, &KEEPER, &DIALLER, &METER] {
        for both in [false, true] {
            let options = Options { memfd_create: both, set_gid: both };
            let (filter, rules) = (compile(table, options), (table.rules)(options));
            for number in (0..600).chain([0x3fff_ffff, 0x4000_0000, 0x4000_0001, u32::MAX]) {
                for arch in [bpf::X86_64, 0x4000_0003, 0xc000_00b7, 0] {
                    for arguments in [[0; 6], [1; 6], [u64::MAX; 6], [HIGH; 6]] {
                        let call = Call { arch, number, arguments };
                        let expected = bpf::action(call.judge(&rules, table.denied));
                        assert_eq!(interpret(&filter.0, &call).0, expected, "{call:x?}");
                    }
                }
            }
        }
    }
}

#[test]
fn foreign_calls_do_not_exist() {
    for (arch, number) in [(0x4000_0003, 11), (bpf::X86_64, 0x4000_0000 | 59), (bpf::X86_64, 1000)] {
        for table in [&AGENT, &RELAY, &KEEPER, &DIALLER, &METER] {
            let call = Call { arch, number, arguments: [0; 6] };
            assert_eq!(verdict(table, AGENT_OPTIONS, &call), NOSYS);
        }
    }
}

#[test]
fn no_namespace_is_made() {
    for flag in [
        libc::CLONE_NEWNS,
        libc::CLONE_NEWCGROUP,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNET,
    ] {
        assert_eq!(agent(libc::SYS_clone, &[flag as u64 | HIGH | libc::SIGCHLD as u64]), PERM);
        assert_eq!(agent(libc::SYS_unshare, &[flag as u64]), PERM);
    }
    assert_eq!(agent(libc::SYS_unshare, &[libc::CLONE_NEWTIME as u64]), PERM);
    assert_eq!(agent(libc::SYS_unshare, &[1 << 37]), PERM);
    assert_eq!(agent(libc::SYS_unshare, &[libc::CLONE_FS as u64]), ALLOW);
    assert_eq!(agent(libc::SYS_clone, &[0x3d0f00]), ALLOW);
    assert_eq!(agent(libc::SYS_clone3, &[]), NOSYS);
    assert_eq!(agent(libc::SYS_setns, &[]), PERM);
}

#[test]
fn sockets_are_those_that_programs_need() {
    let socket = |family: i32, kind: i32, protocol: i32| {
        let argument = |value: i32| HIGH | u64::from(value as u32);
        agent(libc::SYS_socket, &[argument(family), argument(kind | libc::SOCK_CLOEXEC), argument(protocol)])
    };
    let protocol = Verdict::Errno(libc::EPROTONOSUPPORT as u16);
    let family = Verdict::Errno(libc::EAFNOSUPPORT as u16);
    for inet in [libc::AF_INET, libc::AF_INET6] {
        assert_eq!(socket(inet, libc::SOCK_STREAM, 0), ALLOW);
        assert_eq!(socket(inet, libc::SOCK_STREAM, libc::IPPROTO_TCP), ALLOW);
        assert_eq!(socket(inet, libc::SOCK_DGRAM, libc::IPPROTO_UDP), ALLOW);
        assert_eq!(socket(inet, libc::SOCK_STREAM, libc::IPPROTO_MPTCP), protocol);
        assert_eq!(socket(inet, libc::SOCK_STREAM, libc::IPPROTO_SCTP), protocol);
        assert_eq!(socket(inet, libc::SOCK_DGRAM, libc::IPPROTO_ICMP), protocol);
        assert_eq!(socket(inet, libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE), protocol);
        assert_eq!(socket(inet, libc::SOCK_RAW, libc::IPPROTO_ICMP), PERM);
        assert_eq!(socket(inet, 10, 0), PERM);
        assert_eq!(socket(inet, libc::SOCK_SEQPACKET, 0), Verdict::Errno(libc::ESOCKTNOSUPPORT as u16));
    }
    for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_SEQPACKET] {
        assert_eq!(socket(libc::AF_UNIX, kind | libc::SOCK_NONBLOCK, 0), ALLOW);
    }
    assert_eq!(socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE), ALLOW);
    assert_eq!(socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_NETFILTER), protocol);
    for other in [libc::AF_PACKET, libc::AF_VSOCK, libc::AF_ALG, libc::AF_BLUETOOTH, libc::AF_XDP, 0, -1] {
        assert_eq!(socket(other, libc::SOCK_RAW, 0), family);
    }
    assert_eq!(agent(libc::SYS_socketpair, &[libc::AF_UNIX as u64, 1]), ALLOW);
    assert_eq!(agent(libc::SYS_socketpair, &[libc::AF_TIPC as u64, 1]), family);
}

#[test]
fn no_call_sets_setuid_or_setgid_bits() {
    let create = (libc::O_CREAT | libc::O_WRONLY) as u64;
    let temporary = (libc::O_TMPFILE | libc::O_WRONLY) as u64;
    for bit in [0o4000, 0o2000, 0o6000] {
        for (mode, expected) in [(0o755 | bit | HIGH, PERM), (0o1777 | HIGH, ALLOW)] {
            for call in [libc::SYS_chmod, libc::SYS_fchmod, libc::SYS_creat, libc::SYS_mknod] {
                assert_eq!(agent(call, &[0, mode]), expected, "{call}");
            }
            for call in [libc::SYS_fchmodat, libc::SYS_fchmodat2, libc::SYS_mknodat] {
                assert_eq!(agent(call, &[0, 0, mode]), expected, "{call}");
            }
            for flags in [create, temporary] {
                assert_eq!(agent(libc::SYS_open, &[0, flags | HIGH, mode]), expected);
                assert_eq!(agent(libc::SYS_openat, &[0, 0, flags | HIGH, mode]), expected);
            }
            // Without either flag there is no mode, only what the register holds.
            assert_eq!(agent(libc::SYS_openat, &[0, 0, libc::O_DIRECTORY as u64, mode]), ALLOW);
        }
    }
    assert_eq!(agent(libc::SYS_mknod, &[0, u64::from(libc::S_IFCHR | 0o600)]), PERM);
    assert_eq!(agent(libc::SYS_mknodat, &[0, 0, u64::from(libc::S_IFBLK | 0o600)]), PERM);
    assert_eq!(agent(libc::SYS_mknod, &[0, u64::from(libc::S_IFIFO | 0o600)]), ALLOW);
    assert_eq!(agent(libc::SYS_openat2, &[]), NOSYS);
    // The kernel takes them out of its mode.
    assert_eq!(agent(libc::SYS_mkdir, &[0, 0o6755]), ALLOW);
}

#[test]
fn setgid_bits_alone_where_nothing_of_the_hosts_is_written() {
    let options = Options { memfd_create: false, set_gid: true };
    let notified = Verdict::Notify(libc::EPERM as u16);
    for (mode, expected) in [(0o2755, ALLOW), (0o755, ALLOW), (0o4755, notified), (0o6755, notified)] {
        for call in [libc::SYS_chmod, libc::SYS_fchmod, libc::SYS_creat, libc::SYS_mknod] {
            let call = Call::native(call, [0, mode | HIGH, 0, 0, 0, 0]);
            assert_eq!(verdict(&AGENT, options, &call), expected, "{call:?} {mode:o}");
        }
    }
}

#[test]
fn ids_that_a_session_does_not_have_are_not_permitted() {
    use libc::{SYS_setgid, SYS_setregid, SYS_setresgid, SYS_setresuid, SYS_setreuid, SYS_setuid};
    let filter = compile(&AGENT, AGENT_OPTIONS).with_ids(1000, 100);
    let judged = |call: libc::c_long, ids: [u64; 3]| {
        let [one, two, three] = ids.map(|id| id | HIGH);
        interpret(&filter.0, &Call::native(call, [one, two, three, 0, 0, 0])).0
    };
    let (allowed, refused, none) = (bpf::action(ALLOW), bpf::action(PERM), u64::from(u32::MAX));
    for (own, calls) in
        [(1000, [SYS_setuid, SYS_setreuid, SYS_setresuid]), (100, [SYS_setgid, SYS_setregid, SYS_setresgid])]
    {
        for (position, call) in calls.into_iter().enumerate() {
            assert_eq!(judged(call, [own; 3]), allowed);
            assert_eq!(judged(call, [none; 3]), allowed);
            for other in [0, 65534, u64::from(tables::OWN_UID), u64::from(tables::OWN_GID)] {
                let mut ids = [own; 3];
                ids[position] = other;
                assert_eq!(judged(call, ids), refused, "{call} {ids:?}");
            }
        }
    }
}

#[test]
fn the_rest_of_the_agents_table() {
    assert_eq!(agent(libc::SYS_ioctl, &[0, libc::TIOCSTI | HIGH]), PERM);
    assert_eq!(agent(libc::SYS_ioctl, &[0, 0x541c | HIGH]), PERM);
    assert_eq!(agent(libc::SYS_ioctl, &[0, libc::TCGETS]), ALLOW);
    for persona in [0, 8, 0x2_0000, 0x2_0008, 0x4_0000, 0xffff_ffff] {
        assert_eq!(agent(libc::SYS_personality, &[persona | HIGH]), ALLOW);
    }
    assert_eq!(agent(libc::SYS_personality, &[0x40_0000]), PERM);
    for call in [libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register] {
        assert_eq!(agent(call, &[]), NOSYS);
    }
    use libc::*;
    #[rustfmt::skip]
    let calls = [
        SYS_keyctl, SYS_add_key, SYS_request_key, SYS_bpf, SYS_perf_event_open, SYS_userfaultfd,
        SYS_pidfd_getfd, SYS_kexec_load, SYS_kexec_file_load, SYS_init_module, SYS_finit_module,
        SYS_delete_module, SYS_mount, SYS_umount2, SYS_pivot_root, SYS_chroot, SYS_fsopen, SYS_fsmount,
        SYS_fsconfig, SYS_fspick, SYS_open_tree, SYS_move_mount, SYS_mount_setattr, SYS_swapon,
        SYS_swapoff, SYS_quotactl, SYS_quotactl_fd, SYS_acct, SYS_reboot, SYS_sethostname,
        SYS_setdomainname, SYS_settimeofday, SYS_clock_settime, SYS_clock_adjtime, SYS_adjtimex, SYS_iopl,
        SYS_ioperm, SYS_lookup_dcookie, SYS_open_by_handle_at, SYS_nfsservctl, SYS_vserver, SYS_syslog,
        SYS_vhangup, SYS_fanotify_init, SYS_fanotify_mark, SYS_memfd_secret, SYS_memfd_create,
        SYS_move_pages, SYS_migrate_pages, SYS_mbind, SYS_set_mempolicy, SYS_kcmp, SYS_process_madvise,
        SYS_uselib, SYS_ustat, SYS_sysfs, SYS__sysctl, 457, 458, 459, 460, 461, 467,
    ];
    for call in calls {
        assert_eq!(agent(call, &[]), PERM, "{call}");
    }
    let memfd = Call::native(SYS_memfd_create, [0; 6]);
    assert_eq!(verdict(&AGENT, Options { memfd_create: true, set_gid: false }, &memfd), ALLOW);
}

#[test]
fn neither_relay_nor_keeper_gets_further() {
    use libc::*;
    #[rustfmt::skip]
    let calls = [
        SYS_socket, SYS_socketpair, SYS_connect, SYS_bind, SYS_listen, SYS_accept, SYS_execve,
        SYS_execveat, SYS_clone, SYS_clone3, SYS_fork, SYS_vfork, SYS_ptrace, SYS_mount, SYS_setns,
        SYS_unshare, SYS_setuid, SYS_setresuid, SYS_setresgid, SYS_setgroups, SYS_capset,
        SYS_process_vm_writev, SYS_unlinkat, SYS_rename, SYS_chmod, SYS_shmat, SYS_pkey_mprotect,
        SYS_io_uring_setup, SYS_memfd_create, SYS_dup2,
    ];
    for call in calls {
        let call = Call::native(call, [0; 6]);
        assert_eq!(verdict(&RELAY, AGENT_OPTIONS, &call), Verdict::Kill, "{call:?}");
        assert_eq!(verdict(&KEEPER, AGENT_OPTIONS, &call), PERM, "{call:?}");
        let dials = call.number == SYS_connect as u32;
        assert_eq!(verdict(&DIALLER, AGENT_OPTIONS, &call), if dials { ALLOW } else { PERM }, "{call:?}");
    }
    let accept = Call::native(SYS_accept4, [0; 6]);
    assert_eq!(verdict(&RELAY, AGENT_OPTIONS, &accept), ALLOW);
    assert_eq!(verdict(&KEEPER, AGENT_OPTIONS, &accept), ALLOW);
    for (family, expected) in [(AF_UNIX, ALLOW), (AF_INET, PERM), (AF_TIPC, PERM), (-1, PERM)] {
        let pair = Call::native(SYS_socketpair, [HIGH | u64::from(family as u32), 1, 0, 0, 0, 0]);
        assert_eq!(verdict(&RELAY, AGENT_OPTIONS, &pair), Verdict::Kill);
        assert_eq!(verdict(&KEEPER, AGENT_OPTIONS, &pair), expected);
    }
    for table in [&RELAY, &KEEPER] {
        for call in [SYS_mmap, SYS_mprotect] {
            let with = |prot| Call::native(call, [0, 4096, prot, 0, 0, 0]);
            assert_eq!(verdict(table, AGENT_OPTIONS, &with((PROT_READ | PROT_WRITE) as u64)), ALLOW);
            assert_eq!(verdict(table, AGENT_OPTIONS, &with((PROT_READ | PROT_EXEC) as u64)), PERM);
        }
    }
    // A mark is for every process of the host: one that asks for permission would hold all of them up.
    let mark = |flags: u32, mask: u64| Call::native(SYS_fanotify_mark, [3, flags.into(), mask, 4, 0, 0]);
    for flags in [FAN_MARK_ADD, FAN_MARK_REMOVE] {
        assert_eq!(verdict(&KEEPER, AGENT_OPTIONS, &mark(flags, FAN_CLOSE_NOWRITE)), ALLOW);
        assert_eq!(verdict(&RELAY, AGENT_OPTIONS, &mark(flags, FAN_CLOSE_NOWRITE)), Verdict::Kill);
        for mask in [FAN_OPEN_PERM, FAN_OPEN_EXEC_PERM, FAN_ACCESS_PERM, FAN_CLOSE_WRITE, HIGH, 0] {
            for mask in [mask, mask | HIGH, mask | FAN_CLOSE_NOWRITE | HIGH] {
                assert_eq!(verdict(&KEEPER, AGENT_OPTIONS, &mark(flags, mask)), PERM, "{mask:x}");
            }
        }
    }
    for flags in [FAN_MARK_FLUSH, FAN_MARK_ADD | FAN_MARK_MOUNT, FAN_MARK_ADD | FAN_MARK_FILESYSTEM] {
        assert_eq!(verdict(&KEEPER, AGENT_OPTIONS, &mark(flags, FAN_CLOSE_NOWRITE)), PERM);
    }
    let open = |flags: i32| Call::native(SYS_openat, [0, 0, flags as u64, 0, 0, 0]);
    assert_eq!(verdict(&RELAY, AGENT_OPTIONS, &open(O_RDONLY)), PERM);
    assert_eq!(verdict(&KEEPER, AGENT_OPTIONS, &open(O_RDONLY | O_CLOEXEC | O_DIRECTORY)), ALLOW);
    assert_eq!(verdict(&KEEPER, AGENT_OPTIONS, &open(O_PATH)), ALLOW);
    for flags in [O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, O_TMPFILE] {
        assert_eq!(verdict(&KEEPER, AGENT_OPTIONS, &open(flags)), PERM);
    }
}

#[test]
fn a_meter_reads_and_looks_into_queues_and_nothing_else() {
    use libc::*;
    for call in
        [SYS_newfstatat, SYS_fstatfs, SYS_getdents64, SYS_kcmp, SYS_pidfd_open, SYS_pidfd_getfd, SYS_recvmsg]
    {
        assert_eq!(verdict(&METER, AGENT_OPTIONS, &Call::native(call, [0; 6])), ALLOW, "{call}");
    }
    for call in [
        SYS_kill,
        SYS_pidfd_send_signal,
        SYS_ptrace,
        SYS_process_vm_readv,
        SYS_process_vm_writev,
        SYS_socket,
        SYS_connect,
        SYS_accept4,
        SYS_unlinkat,
        SYS_mkdirat,
        SYS_fork,
        SYS_execve,
        SYS_setns,
        SYS_mount,
        SYS_open_by_handle_at,
    ] {
        assert_eq!(verdict(&METER, AGENT_OPTIONS, &Call::native(call, [0; 6])), PERM, "{call}");
    }
    for flags in [O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, O_TMPFILE] {
        let open = Call::native(SYS_openat, [0, 0, flags as u64, 0, 0, 0]);
        assert_eq!(verdict(&METER, AGENT_OPTIONS, &open), PERM);
    }
    let option =
        |level: i32, option: i32| Call::native(SYS_setsockopt, [0, level as u64, option as u64, 0, 0, 0]);
    assert_eq!(verdict(&METER, AGENT_OPTIONS, &option(SOL_SOCKET, SO_PEEK_OFF)), ALLOW);
    assert_eq!(verdict(&METER, AGENT_OPTIONS, &option(SOL_SOCKET, SO_PASSCRED)), PERM);
    assert_eq!(verdict(&METER, AGENT_OPTIONS, &option(IPPROTO_TCP, SO_PEEK_OFF)), PERM);
}

#[test]
fn a_dialler_makes_streams_and_datagrams_of_the_internet() {
    use libc::*;
    let flags = SOCK_NONBLOCK | SOCK_CLOEXEC;
    let socket = |family: i32, kind: i32, protocol: i32| {
        let argument = |value: i32| HIGH | u64::from(value as u32);
        let call = [argument(family), argument(kind), argument(protocol), 0, 0, 0];
        verdict(&DIALLER, AGENT_OPTIONS, &Call::native(SYS_socket, call))
    };
    for family in [AF_INET, AF_INET6] {
        assert_eq!(socket(family, SOCK_STREAM | flags, IPPROTO_TCP), ALLOW);
        assert_eq!(socket(family, SOCK_DGRAM | flags, IPPROTO_UDP), ALLOW);
        for (kind, protocol) in [
            (SOCK_STREAM, IPPROTO_TCP),
            (SOCK_STREAM | flags, 0),
            (SOCK_STREAM | flags, IPPROTO_MPTCP),
            (SOCK_STREAM | flags, IPPROTO_SCTP),
            (SOCK_DGRAM | flags, IPPROTO_ICMP),
            (SOCK_RAW | flags, IPPROTO_UDP),
        ] {
            assert_eq!(socket(family, kind, protocol), PERM, "{kind} {protocol}");
        }
    }
    for family in [AF_UNIX, AF_NETLINK, AF_PACKET, AF_VSOCK, -1] {
        assert_eq!(socket(family, SOCK_STREAM | flags, IPPROTO_TCP), PERM);
    }
}

#[test]
fn a_relay_sets_nothing_of_where_packets_go() {
    use libc::*;
    let set = |level: i32, option: i32| {
        let call = [7, HIGH | u64::from(level as u32), HIGH | u64::from(option as u32), 0, 0, 0];
        verdict(&RELAY, AGENT_OPTIONS, &Call::native(SYS_setsockopt, call))
    };
    for (level, option) in [
        (SOL_SOCKET, SO_LINGER),
        (SOL_SOCKET, SO_KEEPALIVE),
        (IPPROTO_TCP, TCP_NODELAY),
        (IPPROTO_TCP, TCP_KEEPIDLE),
    ] {
        assert_eq!(set(level, option), ALLOW);
    }
    for (level, option) in [
        (SOL_SOCKET, SO_ATTACH_FILTER),
        (SOL_SOCKET, SO_BINDTODEVICE),
        (SOL_SOCKET, SO_MARK),
        (SOL_SOCKET, SO_REUSEPORT),
        (SOL_IP, IP_OPTIONS),
        (SOL_IP, IP_TRANSPARENT),
        (SOL_IPV6, IPV6_RTHDR),
        (IPPROTO_TCP, TCP_REPAIR),
        (IPPROTO_TCP, TCP_ULP),
    ] {
        assert_eq!(set(level, option), PERM, "{level} {option}");
    }
}

#[test]
fn a_relay_connects_nothing_by_sending() {
    use libc::*;
    for (call, place) in [(SYS_sendto, 3), (SYS_sendmsg, 2), (SYS_sendmmsg, 3)] {
        let with = |flags: i32| {
            let mut arguments = [7_u64; 6];
            arguments[place] = HIGH | u64::from(flags as u32);
            verdict(&RELAY, AGENT_OPTIONS, &Call::native(call, arguments))
        };
        assert_eq!(with(MSG_NOSIGNAL | MSG_DONTWAIT), ALLOW, "{call}");
        assert_eq!(with(MSG_FASTOPEN), Verdict::Kill, "{call}");
        assert_eq!(with(MSG_NOSIGNAL | MSG_FASTOPEN), Verdict::Kill, "{call}");
    }
}

fn any_verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![Just(Verdict::Allow), Just(Verdict::Kill), (1_u16..5).prop_map(Verdict::Errno)]
}

/// Few values, so that they meet.
fn value() -> impl Strategy<Value = u32> {
    prop_oneof![0_u32..4, Just(u32::MAX), Just(0x8000_0001)]
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let word = prop_oneof![(0_u8..6).prop_map(Word::Low), (0_u8..6).prop_map(Word::High)];
    any_verdict().prop_map(Rule::Always).prop_recursive(3, 16, 4, move |inner| {
        let arms = prop::collection::vec((prop::collection::vec(value(), 0..4), inner.clone()), 0..4);
        (word.clone(), value(), arms, inner).prop_map(|(word, mask, arms, otherwise)| {
            Rule::Match(Box::new(Match { word, mask, arms, otherwise }))
        })
    })
}

fn any_call(numbers: std::ops::Range<u32>) -> impl Strategy<Value = Call> {
    let word = || prop_oneof![4 => value(), 1 => any::<u32>()];
    let argument = (word(), word()).prop_map(|(low, high)| u64::from(high) << 32 | u64::from(low));
    let arch = prop_oneof![9 => Just(bpf::X86_64), 1 => any::<u32>()];
    (arch, prop_oneof![9 => numbers, 1 => any::<u32>()], prop::array::uniform6(argument))
        .prop_map(|(arch, number, arguments)| Call { arch, number, arguments })
}

proptest! {
    #[test]
    fn any_table_is_compiled_to_what_it_says(
        rules in prop::collection::btree_map(0_u32..500, any_rule(), 0..300),
        calls in prop::collection::vec(any_call(0..520), 1..200),
    ) {
        let program = bpf::program(&ranges(rules.clone(), Verdict::Kill));
        for call in &calls {
            let expected = bpf::action(call.judge(&rules, Verdict::Kill));
            prop_assert_eq!(interpret(&program, call).0, expected, "{:x?}", call);
        }
    }

    #[test]
    fn our_tables_are_compiled_to_what_they_say(calls in prop::collection::vec(any_call(0..480), 1..200)) {
        for table in [&AGENT, &RELAY, &KEEPER, &DIALLER, &METER] {
            let (filter, rules) = (compile(table, AGENT_OPTIONS), (table.rules)(AGENT_OPTIONS));
            for call in &calls {
                let expected = bpf::action(call.judge(&rules, table.denied));
                prop_assert_eq!(interpret(&filter.0, call).0, expected, "{:x?}", call);
            }
        }
    }
}

#[test]
fn without_no_new_privs_nothing_is_installed() {
    in_child(|| {
        let filter = compile(&AGENT, AGENT_OPTIONS);
        assert!(matches!(install(&filter), Err(SeccompError::NewPrivs)));
    });
}

/// Runs a shell command under the agent's filter; its output and exit code.
fn under_filter(command: &str) -> (String, Option<i32>) {
    use std::os::unix::process::CommandExt;
    let filter = compile(&AGENT, AGENT_OPTIONS);
    let mut shell = std::process::Command::new("bash");
    shell.args(["-c", command]).stdin(std::process::Stdio::null());
    // SAFETY: the child does what a session's init does, in a process with one thread; glibc makes its
    // allocator usable after a fork.
    unsafe {
        shell.pre_exec(move || {
            creds::no_new_privs().map_err(std::io::Error::other)?;
            install(&filter).map(drop).map_err(std::io::Error::other)
        });
    }
    let output = shell.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (String::from_utf8_lossy(&text).into_owned(), output.status.code())
}

/// Whether a program can be run at all here.
fn installed(program: &str) -> bool {
    std::process::Command::new(program).arg("--version").output().is_ok_and(|o| o.status.success())
}

#[test]
fn the_programs_that_people_use_run() {
    let directory = std::env::temp_dir().join(format!("agentd-seccomp-{}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    let at = directory.display();
    let gdb = "gdb -nx -batch -ex 'break main' -ex run -ex 'print getpid()' -ex continue";
    let cases: &[(&[&str], String, &str)] = &[
        (&["bash"], "grep Seccomp: /proc/self/status; (exit 3) | cat; echo $((6*7))".into(), "42"),
        (
            &["git"],
            format!(
                "git init -q {at}/r && cd {at}/r && echo a > a && git add a && git -c user.name=a \
            -c user.email=a@b commit -qm first && git log --oneline | wc -l"
            ),
            "1",
        ),
        (
            &["python3"],
            "python3 -c 'import subprocess, threading, socket, tempfile, multiprocessing as m; \
            t = threading.Thread(target=print, args=(\"thread\",)); t.start(); t.join(); \
            socket.socket(); socket.socketpair(); tempfile.TemporaryFile(); \
            print(subprocess.check_output([\"echo\", \"sub\"]).decode(), m.cpu_count() > 0)'"
                .into(),
            "True",
        ),
        (
            &["node"],
            "node -e 'const w = new (require(\"worker_threads\").Worker)(\"1\", {eval: true}); \
            w.on(\"exit\", () => require(\"fs\").readFile(\"/etc/passwd\", e => console.log(\"worker\", e, \
            require(\"child_process\").execSync(\"echo sub\").toString())))'"
                .into(),
            "worker null sub",
        ),
        (
            &["gcc"],
            format!("cd {at} && echo 'int main() {{ return 7; }}' > m.c && gcc -g m.c -o m; ./m; echo $?"),
            "7",
        ),
        (
            &["gcc", "gdb"],
            format!(
                "cd {at} && echo 'int main() {{ return 0; }}' > g.c && gcc -g g.c -o g && \
            {gdb} --args ./g"
            ),
            "exited normally",
        ),
        (
            &["cargo"],
            format!(
                "cd {at} && cargo -q init --vcs none --name hello hello && cd hello && \
            CARGO_TARGET_DIR=t cargo -q --offline run"
            ),
            "Hello, world!",
        ),
        (&["setarch"], "setarch -R true && setarch --uname-2.6 uname -r".into(), "2.6"),
    ];
    for (needs, command, expected) in cases {
        if needs.iter().all(|program| installed(program)) {
            let (output, code) = under_filter(command);
            assert!(output.contains(expected) && code == Some(0), "{command}: {code:?}\n{output}");
        }
    }
    std::fs::remove_dir_all(&directory).unwrap();
}

/// Makes a call with arguments that touch no memory: null pointers, or it is refused. Its errno.
fn try_call(number: libc::c_long, arguments: [libc::c_long; 4]) -> Option<i32> {
    let [a, b, c, d] = arguments;
    // SAFETY: see above.
    let result = unsafe { libc::syscall(number, a, b, c, d) };
    if result < 0 { std::io::Error::last_os_error().raw_os_error() } else { None }
}

#[test]
fn the_kernel_agrees() {
    in_child(|| {
        // A filter is for the thread that installs it: this one answers.
        let (hand, taken) = std::sync::mpsc::channel::<OwnedFd>();
        let answering = std::thread::spawn(move || {
            let null = std::fs::File::open("/dev/null").unwrap().into();
            let other = Listener::adopt(null, AGENT, AGENT_OPTIONS);
            assert!(matches!(other, Err(SeccompError::NotAListener)));
            let listener = Listener::adopt(taken.recv().unwrap(), AGENT, AGENT_OPTIONS).unwrap();
            let mut notified = Vec::new();
            loop {
                let mut due = [rustix::event::PollFd::new(&listener, rustix::event::PollFlags::IN)];
                rustix::event::poll(&mut due, None).unwrap();
                match listener.next().unwrap() {
                    Received::Call(asked) => {
                        notified.push((asked.thread, asked.call.name()));
                        listener.refuse(&asked).unwrap();
                    }
                    Received::Nothing | Received::Less => {}
                    Received::End => return notified,
                }
            }
        });
        let filtered = std::thread::spawn(move || {
            let filter = compile(&AGENT, AGENT_OPTIONS);
            creds::no_new_privs().unwrap();
            let (enforced, listener) = install_told(&filter).unwrap();
            assert_eq!(enforced.instructions, filter.0.len());
            hand.send(listener).unwrap();
            assert_eq!(try_call(libc::SYS_getpid | 0x4000_0000, [0; 4]), Some(libc::ENOSYS));
            assert_eq!(try_call(libc::SYS_clone3, [0; 4]), Some(libc::ENOSYS));
            assert_eq!(try_call(libc::SYS_unshare, [libc::CLONE_NEWUSER.into(), 0, 0, 0]), Some(libc::EPERM));
            assert_eq!(try_call(libc::SYS_mount, [0; 4]), Some(libc::EPERM));
            let packet = [libc::AF_PACKET.into(), libc::SOCK_RAW.into(), 0, 0];
            assert_eq!(try_call(libc::SYS_socket, packet), Some(libc::EAFNOSUPPORT));
            let mptcp = [libc::AF_INET.into(), libc::SOCK_STREAM.into(), libc::IPPROTO_MPTCP.into(), 0];
            assert_eq!(try_call(libc::SYS_socket, mptcp), Some(libc::EPROTONOSUPPORT));
            assert_eq!(try_call(libc::SYS_fchmod, [-1, 0o4755, 0, 0]), Some(libc::EPERM));
            assert_eq!(try_call(libc::SYS_fchmod, [-1, 0o755, 0, 0]), Some(libc::EBADF));
            // The upper half of an int is noise to the kernel, and must be to the filter.
            let sti = [-1, (1 << 40) | libc::TIOCSTI as libc::c_long, 0, 0];
            assert_eq!(try_call(libc::SYS_ioctl, sti), Some(libc::EPERM));
            // A second listener would be asked before the first.
            assert_eq!(try_call(libc::SYS_seccomp, [1, 8, 0, 0]), Some(libc::EBUSY));
            rustix::thread::gettid().as_raw_nonzero().get()
        });
        let thread = filtered.join().unwrap();
        let notified = answering.join().unwrap();
        assert!(notified.iter().all(|(who, _)| *who == thread), "{notified:?}");
        let calls: Vec<&str> = notified.iter().map(|(_, call)| call.as_str()).collect();
        assert_eq!(calls, ["unshare", "mount", "socket", "socket", "fchmod", "ioctl", "seccomp"]);
    });
}

#[test]
fn without_a_listener_it_is_refused_all_the_same() {
    in_child(|| {
        creds::no_new_privs().unwrap();
        let filter = compile(&AGENT, AGENT_OPTIONS);
        drop(install_told(&filter).unwrap());
        assert_eq!(try_call(libc::SYS_mount, [0; 4]), Some(libc::ENOSYS));
        // Nor can one be made in its place.
        assert_eq!(try_call(libc::SYS_seccomp, [1, 8, 0, 0]), Some(libc::ENOSYS));
    });
}

/// Calls that a signal interrupts are counted, and asked for without end they hold nobody up.
#[test]
fn interrupted_calls_are_counted_and_hold_nobody_up() {
    in_child(|| {
        let (hand, taken) = std::sync::mpsc::channel::<OwnedFd>();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let filtered = std::thread::spawn(move || {
            creds::no_new_privs().unwrap();
            let (_, listener) = install_told(&compile(&AGENT, AGENT_OPTIONS)).unwrap();
            hand.send(listener).unwrap();
            let mut interrupted = 0;
            // The first is answered, then nobody listens until all others were interrupted.
            assert_eq!(try_call(libc::SYS_mount, [0; 4]), Some(libc::EPERM));
            for _ in 0..50 {
                interrupted += u64::from(try_call(libc::SYS_mount, [0; 4]) == Some(libc::EINTR));
            }
            // A signal may still be on its way when the other side sees the end.
            SigSet::from(Signal::SIGUSR1).thread_block().unwrap();
            go.send(()).unwrap();
            assert_eq!(try_call(libc::SYS_mount, [0; 4]), Some(libc::EPERM));
            interrupted
        });
        let listener = Listener::new(taken.recv().unwrap(), AGENT, AGENT_OPTIONS);
        let answer = || loop {
            match listener.next().unwrap() {
                Received::Call(asked) => {
                    listener.refuse(&asked).unwrap();
                    return asked;
                }
                Received::End => panic!("it is gone"),
                Received::Less | Received::Nothing => std::thread::yield_now(),
            }
        };
        extern "C" fn nothing(_: libc::c_int) {}
        // SAFETY: all of its fields are integers or null, for which zero is a value.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = nothing as *const () as usize;
        // SAFETY: a handler that does nothing, without SA_RESTART, for a signal that nobody else here uses.
        unsafe { libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()) };
        assert_eq!(answer().missed, 0);
        let thread = std::os::unix::thread::JoinHandleExt::as_pthread_t(&filtered);
        while wait.try_recv().is_err() {
            // SAFETY: the thread has not been joined.
            unsafe { libc::pthread_kill(thread, libc::SIGUSR1) };
            std::thread::yield_now();
        }
        let missed = answer().missed;
        assert_eq!(missed, filtered.join().unwrap());
        assert_eq!(missed, 50);
        // What is left of them is asked for, and then nothing more: none of this waits.
        let less = std::iter::from_fn(|| Some(listener.next().unwrap()))
            .take_while(|h| *h == Received::Less)
            .count();
        assert!(less as u64 <= missed, "{less}");
        assert_eq!(listener.next().unwrap(), Received::End);
    });
}
