//! Doors into the kernel that no agent needs.

use std::os::fd::AsRawFd;

use libc::{EACCES, EINVAL, ENODATA, ENOSYS, EPERM};

use super::case::{Act, Case, Outside, Refused, case};
use super::sys::{self, Arg, c};

const NO: &[i32] = &[EPERM, ENOSYS];
const KEYS: &str = "keys of the caller's keyrings, which namespaces do not keep apart";
const FOREIGN: &str = "system calls that a filter for this architecture does not know";
const STEER: &str = "the machine itself";
const TWICE: &str = "would change the host; that the call is filtered is what counts";

pub const CASES: &[Case] = &[
    case("io_uring", io_uring, &[], NO, Outside::User, "system calls that no filter sees")
        .origin("CVE-2022-29582, CVE-2023-2598")
        .host_may_lack(),
    case("add_key", add_key, &[], NO, Outside::User, KEYS).recorded_call("add_key").host_may_lack(),
    case(
        "request_key",
        request_key,
        &[],
        NO,
        Outside::Root,
        "a helper program that the kernel starts on the host",
    )
    .recorded_call("request_key")
    .host_may_lack(),
    case("keyctl", keyctl, &[], NO, Outside::User, KEYS)
        .recorded_call("keyctl")
        .origin("CVE-2016-0728")
        .host_may_lack(),
    case("bpf", bpf, &[], NO, Outside::Root, "code in the kernel")
        .recorded_call("bpf")
        .origin("CVE-2017-16995, CVE-2021-3490")
        .host_may_lack(),
    case("perf", perf, &[], NO, Outside::Root, "a look at other processes, and its bugs")
        .recorded_call("perf_event_open")
        .origin("CVE-2013-2094")
        .host_may_lack(),
    case(
        "userfaultfd",
        userfaultfd,
        &[],
        NO,
        Outside::Root,
        "a pause inside of kernel code: every race is won",
    )
    .recorded_call("userfaultfd")
    .origin("used for CVE-2021-22555 and others")
    .host_may_lack(),
    case("init_module", init_module, &[], NO, Outside::Nowhere(TWICE), "code in the kernel")
        .recorded_call("init_module"),
    case("finit_module", finit_module, &[], NO, Outside::Nowhere(TWICE), "code in the kernel")
        .recorded_call("finit_module"),
    case("kexec", kexec, &[], NO, Outside::Nowhere(TWICE), "another kernel").recorded_call("kexec_load"),
    case("reboot", reboot, &[], NO, Outside::Nowhere(TWICE), STEER).recorded_call("reboot"),
    case("swapon", swapon, &[], NO, Outside::Nowhere(TWICE), STEER).recorded_call("swapon"),
    case("acct", acct, &[], NO, Outside::Nowhere(TWICE), "a log of what the host runs").recorded_call("acct"),
    case("syslog", syslog, &[], NO, Outside::Root, "kernel messages: addresses, other tenants")
        .recorded_call("syslog")
        .host_may_lack(),
    case("iopl", iopl, &[], NO, Outside::Nowhere(TWICE), "the machine's ports").recorded_call("iopl"),
    case("settime", settime, &[], NO, Outside::Nowhere(TWICE), "the host's clock")
        .recorded_call("clock_settime"),
    case("adjtime", adjtime, &[], NO, Outside::Nowhere(TWICE), "the host's clock").recorded_call("adjtimex"),
    case("sethostname", sethostname, &[], NO, Outside::Apart, "another name of the session")
        .recorded_call("sethostname"),
    case("quotactl", quotactl, &[], &[EPERM, ENOSYS], Outside::Nowhere(TWICE), "disk quotas")
        .recorded_call("quotactl"),
    case("fanotify", fanotify, &[], NO, Outside::Root, "the exec watch of our own session")
        .recorded_call("fanotify_init")
        .host_may_lack(),
    case(
        "move_pages",
        move_pages,
        &["1"],
        &[EPERM, ENOSYS, EACCES, libc::ESRCH],
        Outside::Apart,
        "where other processes' memory is",
    )
    .recorded_call("move_pages")
    .host_may_lack(),
    case(
        "process_madvise",
        process_madvise,
        &["1"],
        &[EPERM, ENOSYS, EACCES],
        Outside::Apart,
        "other processes' memory, thrown out",
    )
    .recorded_call("process_madvise")
    .host_may_lack(),
    case(
        "mseal_unknown",
        unknown,
        &[],
        &[ENOSYS],
        Outside::Nowhere("a number that no kernel has"),
        "calls that are newer than the filter",
    ),
    case(
        "seccomp_listener",
        listener,
        &[],
        &[libc::EBUSY],
        Outside::User,
        "refused calls that our own listener lets through (seccomp_unotify(2))",
    )
    .recorded_call("seccomp"),
    case("x32", x32, &[], &[ENOSYS, EPERM], Outside::Nowhere("most kernels have no x32"), FOREIGN)
        .origin("CVE-2014-0038"),
    case("int80", int80, &[], &[ENOSYS, EPERM], Outside::User, FOREIGN)
        .origin("CVE-2009-0835")
        .host_may_lack(),
    case(
        "memfd_exec",
        memfd_exec,
        &[],
        &[EPERM, ENOSYS, EACCES],
        Outside::User,
        "a program that was never a file: no exec event",
    )
    .host_may_lack(),
    case(
        "dirty_pipe",
        dirty_pipe,
        &["{input}/file"],
        &[ENODATA],
        Outside::Nowhere("fixed in every kernel that agentd runs on"),
        "writes to files that may only be read",
    )
    .origin("CVE-2022-0847"),
    case(
        "dirty_cow",
        dirty_cow,
        &["{input}/file"],
        &[ENODATA, EACCES, EPERM, libc::EIO],
        Outside::Nowhere("fixed in every kernel that agentd runs on"),
        "writes to files that may only be read",
    )
    .origin("CVE-2016-5195"),
    case("personality", personality, &[], NO, Outside::User, "memory that is readable and executable alike")
        .recorded_call("personality"),
    case("vhangup", vhangup, &[], NO, Outside::Nowhere(TWICE), "others' terminals").recorded_call("vhangup"),
    case(
        "lookup_cookie",
        lookup_cookie,
        &[],
        &[EPERM, ENOSYS],
        Outside::Nowhere("gone from newer kernels"),
        "paths by number",
    )
    .recorded_call("lookup_dcookie"),
    case(
        "ptrace_seccomp",
        seccomp_dump,
        &[],
        &[EPERM, EACCES, EINVAL, ENOSYS],
        Outside::Nowhere("nothing is filtered there"),
        "the filter that confines us",
    ),
];

fn io_uring(_: &[String]) -> Act {
    let mut parameters = [0; 120];
    sys::call(libc::SYS_io_uring_setup, [4.into(), Arg::Out(&mut parameters)])?;
    Ok("set up".into())
}

/// `KEY_SPEC_PROCESS_KEYRING` of `keyctl(2)`.
const OWN_KEYRING: i32 = -2;

fn add_key(_: &[String]) -> Act {
    let (kind, name, value) = (c("user"), c("agentd-test"), b"x");
    let arguments = [(&kind).into(), (&name).into(), Arg::In(value), 1.into(), OWN_KEYRING.into()];
    sys::call(libc::SYS_add_key, arguments)?;
    Ok("added".into())
}

fn request_key(_: &[String]) -> Act {
    // An unknown key and no program to make it: ENOKEY comes from the key service itself.
    let arguments = [c("user").into(), c("agentd-test-none").into(), Arg::Null, 0.into()];
    match sys::call(libc::SYS_request_key, arguments) {
        Err(error) if error.raw_os_error() == Some(libc::ENOKEY) => Ok("looked for".into()),
        other => Ok(format!("key {}", other?)),
    }
}

fn keyctl(_: &[String]) -> Act {
    // KEYCTL_GET_KEYRING_ID of the user's keyring, made if missing.
    let id = sys::call(libc::SYS_keyctl, [0.into(), (-4).into(), 1.into()])?;
    Ok(format!("keyring {id}"))
}

fn bpf(_: &[String]) -> Act {
    // BPF_MAP_CREATE: an array of one element of 4 bytes.
    let mut attributes: Vec<u8> = [2u32, 4, 4, 1].iter().flat_map(|n| n.to_ne_bytes()).collect();
    attributes.resize(120, 0);
    sys::call(libc::SYS_bpf, [0.into(), Arg::In(&attributes), attributes.len().into()])?;
    Ok("a map".into())
}

fn perf(_: &[String]) -> Act {
    // struct perf_event_attr: PERF_TYPE_SOFTWARE, its size, PERF_COUNT_SW_CPU_CLOCK.
    let mut attributes: Vec<u8> = [1u32, 112].iter().flat_map(|n| n.to_ne_bytes()).collect();
    attributes.resize(112, 0);
    sys::call(
        libc::SYS_perf_event_open,
        [Arg::In(&attributes), 0.into(), (-1).into(), (-1).into(), 0.into()],
    )?;
    Ok("counting".into())
}

fn userfaultfd(_: &[String]) -> Act {
    sys::call(libc::SYS_userfaultfd, [libc::O_CLOEXEC.into()])?;
    Ok("a descriptor".into())
}

fn init_module(_: &[String]) -> Act {
    sys::call(libc::SYS_init_module, [Arg::In(b"none"), 4.into(), c("").into()])?;
    Ok("loaded".into())
}

fn finit_module(_: &[String]) -> Act {
    sys::call(libc::SYS_finit_module, [0.into(), c("").into(), 0.into()])?;
    Ok("loaded".into())
}

fn kexec(_: &[String]) -> Act {
    sys::call(libc::SYS_kexec_load, [0.into(), 0.into(), Arg::Null, 0.into()])?;
    Ok("unloaded".into())
}

fn reboot(_: &[String]) -> Act {
    // With the second magic number wrong even root gets EINVAL.
    sys::call(libc::SYS_reboot, [0xfee1_deadu32.into(), 0.into(), 0.into(), Arg::Null])?;
    Ok("asked".into())
}

fn swapon(_: &[String]) -> Act {
    sys::call(libc::SYS_swapon, [c("/nonexistent").into(), 0.into()])?;
    Ok("on".into())
}

fn acct(_: &[String]) -> Act {
    sys::call(libc::SYS_acct, [c("/nonexistent").into()])?;
    Ok("on".into())
}

fn syslog(_: &[String]) -> Act {
    let mut text = [0; 256];
    let len = text.len();
    // SYSLOG_ACTION_READ_ALL
    let count = sys::call(libc::SYS_syslog, [3.into(), Arg::Out(&mut text), len.into()])?;
    Ok(format!("{count} bytes"))
}

fn iopl(_: &[String]) -> Act {
    sys::call(libc::SYS_iopl, [3.into()])?;
    Ok("level 3".into())
}

fn settime(_: &[String]) -> Act {
    // An impossible time: with the right to set it the answer is EINVAL.
    let time: Vec<u8> = [-1i64, -1].iter().flat_map(|n| n.to_ne_bytes()).collect();
    sys::call(libc::SYS_clock_settime, [0.into(), Arg::In(&time)])?;
    Ok("set".into())
}

fn adjtime(_: &[String]) -> Act {
    // struct timex with ADJ_STATUS.
    let mut timex = [0; 208];
    timex[..4].copy_from_slice(&0x10u32.to_ne_bytes());
    sys::call(libc::SYS_adjtimex, [Arg::Out(&mut timex)])?;
    Ok("set".into())
}

fn sethostname(_: &[String]) -> Act {
    sys::call(libc::SYS_sethostname, [Arg::In(b"x"), 1.into()])?;
    Ok("x".into())
}

fn quotactl(_: &[String]) -> Act {
    // Q_SYNC for no device at all is permitted to everybody by the kernel itself; Q_QUOTAON is not.
    let command = 0x80_0002u32 << 8;
    sys::call(libc::SYS_quotactl, [command.into(), c("/dev/null").into(), 0.into(), Arg::Null])?;
    Ok("on".into())
}

fn fanotify(_: &[String]) -> Act {
    // FAN_CLASS_CONTENT: permission events.
    sys::call(libc::SYS_fanotify_init, [4.into(), 0.into()])?;
    Ok("a group".into())
}

fn move_pages(args: &[String]) -> Act {
    let pid: i32 = args[0].parse().expect("a pid");
    sys::call(libc::SYS_move_pages, [pid.into(), 0.into(), Arg::Null, Arg::Null, Arg::Null, 0.into()])?;
    Ok("let".into())
}

fn process_madvise(args: &[String]) -> Act {
    let pid: i32 = args[0].parse().expect("a pid");
    let pidfd = sys::open_call(libc::SYS_pidfd_open, [pid.into(), 0.into()])?;
    let arguments = [pidfd.as_raw_fd().into(), Arg::Null, 0.into(), libc::MADV_COLD.into(), 0.into()];
    sys::call(libc::SYS_process_madvise, arguments)?;
    Ok("let".into())
}

fn unknown(_: &[String]) -> Act {
    sys::call(1023, [])?;
    Ok("?".into())
}

/// Hears of every mount(2) of its own from now on, and could let it go on.
fn listener(_: &[String]) -> Act {
    sys::call(libc::SYS_prctl, [libc::PR_SET_NO_NEW_PRIVS.into(), 1.into(), 0.into(), 0.into(), 0.into()])?;
    let instruction = |code: u32, jumps: [u8; 2], k: u32| {
        let [first, second] = u16::try_from(code).unwrap().to_ne_bytes();
        [&[first, second], &jumps[..], &k.to_ne_bytes()[..]].concat()
    };
    let program = [
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, [0, 0], 0),
        instruction(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            [0, 1],
            u32::try_from(libc::SYS_mount).unwrap(),
        ),
        instruction(libc::BPF_RET | libc::BPF_K, [0, 0], libc::SECCOMP_RET_USER_NOTIF),
        instruction(libc::BPF_RET | libc::BPF_K, [0, 0], libc::SECCOMP_RET_ALLOW),
    ]
    .concat();
    // struct sock_fprog
    let description: Vec<u8> = [4_u64.to_ne_bytes(), (program.as_ptr() as u64).to_ne_bytes()].concat();
    let fd = sys::open_call(libc::SYS_seccomp, [1.into(), 8.into(), Arg::In(&description)])?;
    Ok(format!("descriptor {}", fd.as_raw_fd()))
}

fn x32(_: &[String]) -> Act {
    let pid = sys::call(0x4000_0000 | libc::SYS_getpid, [])?;
    Ok(format!("pid {pid}"))
}

fn int80(_: &[String]) -> Act {
    // getpid(2) of the 32-bit table.
    Ok(format!("pid {}", sys::int80(20)?))
}

fn memfd_exec(_: &[String]) -> Act {
    /// `MFD_EXEC`, Linux 6.3; older kernels take none such.
    const EXEC: u32 = 0x10;
    let name = c("program");
    let fd = match sys::open_call(libc::SYS_memfd_create, [(&name).into(), EXEC.into()]) {
        Err(error) if error.raw_os_error() == Some(EINVAL) => {
            sys::open_call(libc::SYS_memfd_create, [(&name).into(), 0.into()])?
        }
        other => other?,
    };
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    std::fs::copy("/usr/bin/true", &path)?;
    std::process::Command::new(&path).status()?;
    Ok("ran".into())
}

/// Fills a pipe, empties it, splices a byte of the file into it, and writes: on a broken kernel that goes to
/// the page cache.
fn dirty_pipe(args: &[String]) -> Act {
    use std::io::{Read, Write};
    let before = std::fs::read(&args[0])?;
    let (mut reader, mut writer) = std::io::pipe()?;
    let mut block = [0; 4096];
    for _ in 0..16 {
        writer.write_all(&block)?;
    }
    for _ in 0..16 {
        reader.read_exact(&mut block)?;
    }
    let file = std::fs::File::open(&args[0])?;
    rustix::pipe::splice(&file, Some(&mut 0), &writer, None, 1, rustix::pipe::SpliceFlags::empty())?;
    writer.write_all(b"OVERWRITTEN")?;
    unchanged(&args[0], &before)
}

/// Writes through `/proc/self/mem` to where nothing is mapped for writing: the file's own page.
fn dirty_cow(args: &[String]) -> Act {
    use std::os::unix::fs::FileExt;
    let before = std::fs::read(&args[0])?;
    let (address, _) = sys::own_word();
    let memory = std::fs::OpenOptions::new().read(true).write(true).open("/proc/self/mem")?;
    let mut word = [0; 8];
    memory.read_exact_at(&mut word, address)?;
    memory.write_all_at(&word, address)?;
    unchanged(&args[0], &before)
}

fn unchanged(path: &str, before: &[u8]) -> Act {
    if std::fs::read(path)? == before {
        Err(Refused::new(ENODATA, "unchanged"))
    } else {
        Ok("changed".into())
    }
}

fn personality(_: &[String]) -> Act {
    // READ_IMPLIES_EXEC
    sys::call(libc::SYS_personality, [0x040_0000.into()])?;
    Ok("set".into())
}

fn vhangup(_: &[String]) -> Act {
    sys::call(libc::SYS_vhangup, [])?;
    Ok("hung up".into())
}

fn lookup_cookie(_: &[String]) -> Act {
    let mut path = [0; 64];
    let len = path.len();
    sys::call(libc::SYS_lookup_dcookie, [0.into(), Arg::Out(&mut path), len.into()])?;
    Ok("a path".into())
}

fn seccomp_dump(_: &[String]) -> Act {
    // PTRACE_SECCOMP_GET_FILTER of our own parent.
    let parent = rustix::process::getppid().map_or(1, |pid| pid.as_raw_nonzero().get());
    sys::call(libc::SYS_ptrace, [libc::PTRACE_SEIZE.into(), parent.into(), 0.into(), 0.into()])?;
    sys::call(libc::SYS_ptrace, [0x420c.into(), parent.into(), 0.into(), Arg::Null])?;
    Ok("read".into())
}
