//! The names of calls that are notified of, and of the arguments that they are refused for.

use libc::*;

use super::Call;

/// Calls that a filter notifies of, by number (`arch/x86/entry/syscalls/syscall_64.tbl`).
#[rustfmt::skip]
const NAMES: &[(u32, &str)] = &[
    (2, "open"), (16, "ioctl"), (41, "socket"), (53, "socketpair"), (54, "setsockopt"), (56, "clone"), (83, "mkdir"),
    (85, "creat"), (90, "chmod"), (91, "fchmod"), (103, "syslog"), (133, "mknod"), (134, "uselib"),
    (135, "personality"), (136, "ustat"), (139, "sysfs"), (153, "vhangup"), (155, "pivot_root"), (156, "_sysctl"),
    (159, "adjtimex"), (161, "chroot"), (163, "acct"), (164, "settimeofday"), (165, "mount"), (166, "umount2"),
    (167, "swapon"), (168, "swapoff"), (169, "reboot"), (170, "sethostname"), (171, "setdomainname"), (172, "iopl"),
    (173, "ioperm"), (174, "create_module"), (175, "init_module"), (176, "delete_module"),
    (177, "get_kernel_syms"), (178, "query_module"), (179, "quotactl"), (180, "nfsservctl"), (181, "getpmsg"),
    (182, "putpmsg"), (183, "afs_syscall"), (184, "tuxcall"), (185, "security"), (205, "set_thread_area"),
    (211, "get_thread_area"), (212, "lookup_dcookie"), (214, "epoll_ctl_old"), (215, "epoll_wait_old"),
    (227, "clock_settime"), (236, "vserver"), (237, "mbind"), (238, "set_mempolicy"), (239, "get_mempolicy"),
    (246, "kexec_load"), (248, "add_key"), (249, "request_key"), (250, "keyctl"), (256, "migrate_pages"),
    (257, "openat"), (258, "mkdirat"), (259, "mknodat"), (268, "fchmodat"), (272, "unshare"), (279, "move_pages"),
    (298, "perf_event_open"), (300, "fanotify_init"), (301, "fanotify_mark"), (302, "prlimit64"),
    (304, "open_by_handle_at"), (305, "clock_adjtime"), (308, "setns"), (312, "kcmp"), (313, "finit_module"),
    (317, "seccomp"), (319, "memfd_create"), (320, "kexec_file_load"), (321, "bpf"), (323, "userfaultfd"),
    (428, "open_tree"), (429, "move_mount"), (430, "fsopen"), (431, "fsconfig"), (432, "fsmount"), (433, "fspick"),
    (438, "pidfd_getfd"), (440, "process_madvise"), (442, "mount_setattr"), (443, "quotactl_fd"),
    (447, "memfd_secret"), (450, "set_mempolicy_home_node"), (452, "fchmodat2"), (457, "statmount"),
    (458, "listmount"), (459, "lsm_get_self_attr"), (460, "lsm_set_self_attr"), (461, "lsm_list_modules"),
    (467, "open_tree_attr"),
];

/// Flags of `clone(2)` and `unshare(2)`.
const NAMESPACES: &[(c_int, &str)] = &[
    (CLONE_NEWNS, "CLONE_NEWNS"),
    (CLONE_NEWCGROUP, "CLONE_NEWCGROUP"),
    (CLONE_NEWUTS, "CLONE_NEWUTS"),
    (CLONE_NEWIPC, "CLONE_NEWIPC"),
    (CLONE_NEWUSER, "CLONE_NEWUSER"),
    (CLONE_NEWPID, "CLONE_NEWPID"),
    (CLONE_NEWNET, "CLONE_NEWNET"),
];

/// Families of `socket(2)` that programs are known to try.
const FAMILIES: &[(c_int, &str)] = &[
    (AF_UNIX, "AF_UNIX"),
    (AF_INET, "AF_INET"),
    (AF_INET6, "AF_INET6"),
    (AF_NETLINK, "AF_NETLINK"),
    (AF_PACKET, "AF_PACKET"),
    (AF_ALG, "AF_ALG"),
    (AF_VSOCK, "AF_VSOCK"),
    (AF_BLUETOOTH, "AF_BLUETOOTH"),
    (AF_TIPC, "AF_TIPC"),
    (AF_XDP, "AF_XDP"),
];

/// Kinds of sockets.
const KINDS: &[(c_int, &str)] = &[
    (SOCK_STREAM, "SOCK_STREAM"),
    (SOCK_DGRAM, "SOCK_DGRAM"),
    (SOCK_RAW, "SOCK_RAW"),
    (SOCK_SEQPACKET, "SOCK_SEQPACKET"),
];

/// Requests of `ioctl(2)`.
#[expect(clippy::cast_possible_truncation, reason = "the kernel reads 32 bits of it")]
const REQUESTS: &[(c_int, &str)] =
    &[(TIOCSTI as c_int, "TIOCSTI"), (0x541c, "TIOCLINUX"), (TIOCSETD as c_int, "TIOCSETD")];

/// The name of call `number`.
pub fn name(number: u32) -> Option<&'static str> {
    NAMES.iter().find(|(known, _)| *known == number).map(|(_, name)| *name)
}

/// The argument that the call is refused for: see [`Call::argument`].
pub fn argument(call: &Call) -> Option<String> {
    let low = |argument: usize| super::notify::low(call.arguments[argument]);
    let number = |argument: usize| low(argument).cast_signed();
    let mode = |argument: usize| Some(format!("mode {:04o}", low(argument) & 0o177_777));
    match name(call.number)? {
        "chmod" | "fchmod" | "creat" | "mkdir" | "mknod" => mode(1),
        "fchmodat" | "fchmodat2" | "mkdirat" | "mknodat" | "open" => mode(2),
        "openat" => mode(3),
        "clone" | "unshare" => {
            let set: Vec<_> =
                NAMESPACES.iter().filter(|(flag, _)| number(0) & flag != 0).map(|(_, name)| *name).collect();
            let all = call.arguments[0];
            Some(if set.is_empty() { format!("flags {all:#x}") } else { set.join("|") })
        }
        "socket" | "socketpair" => {
            let (family, kind) = (word(FAMILIES, number(0)), word(KINDS, number(1) & 0xf));
            Some(format!("{family}, {kind}, protocol {}", number(2)))
        }
        "setsockopt" => Some(format!("level {}, option {}", number(1), number(2))),
        "ioctl" => Some(word(REQUESTS, number(1))),
        "personality" => Some(format!("{:#x}", low(0))),
        "prlimit64" => Some(format!("pid {}, resource {}", number(0), number(1))),
        "seccomp" => Some("SECCOMP_FILTER_FLAG_NEW_LISTENER".into()),
        // A command, which is the first argument.
        "bpf" | "keyctl" => Some(format!("command {}", number(0))),
        "setns" => Some(format!("type {:#x}", low(1))),
        _ => None,
    }
}

/// The name of `value`, or its number.
fn word(names: &[(c_int, &str)], value: c_int) -> String {
    match names.iter().find(|(known, _)| *known == value) {
        Some((_, name)) => (*name).to_owned(),
        None => format!("{value:#x}"),
    }
}
