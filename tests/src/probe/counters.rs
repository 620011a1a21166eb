//! What the kernel has once for the whole host: who takes all of it takes it from everybody.

use std::os::fd::{AsRawFd, OwnedFd};

use libc::{EACCES, EAGAIN, ENODATA, ENOENT, ENOMEM, ENOSPC, ENOSYS, EPERM};

use super::case::{Act, Case, Outside, Refused, case};
use super::sys::{self, Arg};

const KERNEL: &str = "what the whole host does, of which sessions are a part";
const NOTHING: &[i32] = &[ENOENT, EACCES, EPERM, ENODATA];

pub const CASES: &[Case] = &[
    case(
        "aio_contexts",
        contexts,
        &["600"],
        &[ENOSYS],
        Outside::User,
        "the asynchronous I/O of every database here",
    )
    .outside_args(&["2"])
    .origin("fs.aio-max-nr"),
    case(
        "terminals_of_the_host",
        terminals,
        &["1024"],
        &[ENOSPC, EAGAIN],
        Outside::User,
        "a host without terminals: no ssh",
    )
    .outside_args(&["20"])
    .origin("kernel.pty.max"),
    case(
        "line_discipline",
        discipline,
        &["3", "0"],
        &[EPERM],
        Outside::User,
        "drivers that the kernel loads",
    )
    .recorded_call("ioctl")
    .outside_args(&["0", "0"])
    .origin("CVE-2017-2636, CVE-2021-42008"),
    case(
        "line_discipline_high_bits",
        discipline,
        &["15", "1"],
        &[EPERM],
        Outside::User,
        "drivers that the kernel loads",
    )
    .recorded_call("ioctl")
    .outside_args(&["0", "1"])
    .origin("CVE-2019-10063"),
    case(
        "core_limit_zero",
        no_core,
        &[],
        &[ENODATA],
        Outside::User,
        "a program of root's that reads its memory (core(5))",
    )
    .origin("CVE-2015-1318, CVE-2015-5287"),
    case(
        "core_limit_zero_old",
        no_core_and_old,
        &[],
        &[EPERM],
        Outside::User,
        "the same, by a call that asks as well",
    ),
    case("huge_pages", huge, &[], &[ENOMEM], Outside::Root, "memory that is charged to nobody")
        .host_may_lack(),
    case(
        "modify_ldt",
        segments,
        &[],
        &[ENOSYS],
        Outside::User,
        "code of the kernel that only 16-bit programs need",
    )
    .origin("CVE-2015-3290, CVE-2017-17053")
    .host_may_lack(),
    case(
        "socket_filter",
        filter,
        &[],
        &[EPERM],
        Outside::User,
        "code in the kernel that is charged to nobody",
    )
    .recorded_call("setsockopt")
    .origin("net.core.bpf_jit_limit"),
    case("proc_vmstat", read, &["/proc/vmstat"], NOTHING, Outside::User, KERNEL).host_may_lack(),
    case("proc_zoneinfo", read, &["/proc/zoneinfo"], NOTHING, Outside::User, KERNEL).host_may_lack(),
    case("proc_buddyinfo", read, &["/proc/buddyinfo"], NOTHING, Outside::User, KERNEL).host_may_lack(),
    case("proc_swaps", read, &["/proc/swaps"], NOTHING, Outside::User, KERNEL).host_may_lack(),
    case("proc_fs", list, &["/proc/fs"], NOTHING, Outside::User, KERNEL).host_may_lack(),
    case("proc_bus", list, &["/proc/bus"], NOTHING, Outside::User, KERNEL).host_may_lack(),
];

fn number(text: &str) -> i64 {
    text.parse().expect("a number")
}

fn contexts(args: &[String]) -> Act {
    for _ in 0..number(&args[0]) {
        let mut context = [0; 8];
        sys::call(libc::SYS_io_setup, [128.into(), Arg::Out(&mut context)])?;
    }
    Ok(format!("{} contexts", args[0]))
}

fn terminal() -> rustix::io::Result<OwnedFd> {
    rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY)
}

fn terminals(args: &[String]) -> Act {
    let mut held = Vec::new();
    for _ in 0..number(&args[0]) {
        held.push(terminal()?);
    }
    Ok(format!("{} terminals", held.len()))
}

fn discipline(args: &[String]) -> Act {
    let terminal = terminal()?;
    let wanted = i32::try_from(number(&args[0])).expect("a discipline").to_ne_bytes();
    // The kernel looks at the low half of the request only.
    let request = libc::TIOCSETD.cast_signed() | number(&args[1]) << 32;
    sys::call(libc::SYS_ioctl, [terminal.as_raw_fd().into(), Arg::Int(request), Arg::In(&wanted)])?;
    Ok(format!("discipline {}", args[0]))
}

fn core_limit(ask: bool) -> std::io::Result<u64> {
    let new = [0; 16];
    let mut old = [0; 16];
    let also = if ask { Arg::Out(&mut old) } else { Arg::Null };
    sys::call(libc::SYS_prlimit64, [0.into(), libc::RLIMIT_CORE.into(), Arg::In(&new), also])?;
    let mut now = [0; 16];
    sys::call(libc::SYS_prlimit64, [0.into(), libc::RLIMIT_CORE.into(), Arg::Null, Arg::Out(&mut now)])?;
    Ok(u64::from_ne_bytes(now[..8].try_into().expect("eight bytes")))
}

fn no_core(_: &[String]) -> Act {
    match core_limit(false)? {
        0 => Ok("0".into()),
        other => Err(Refused::new(ENODATA, format!("it stays {other}"))),
    }
}

fn no_core_and_old(_: &[String]) -> Act {
    match core_limit(true)? {
        0 => Ok("0".into()),
        other => Err(Refused::new(ENODATA, format!("it stays {other}"))),
    }
}

fn huge(_: &[String]) -> Act {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    sys::call(
        libc::SYS_mmap,
        [Arg::Null, (2i64 << 20).into(), protection.into(), flags.into(), (-1).into(), 0.into()],
    )?;
    Ok("a huge page".into())
}

fn segments(_: &[String]) -> Act {
    let mut table = [0; 64];
    sys::call(libc::SYS_modify_ldt, [0.into(), Arg::Out(&mut table), 64.into()])?;
    Ok("the table of segments".into())
}

fn filter(_: &[String]) -> Act {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
    // No instructions at all: a kernel that looks at it says EINVAL, which is further than a session gets.
    let program = [0; 16];
    let attached = sys::call(
        libc::SYS_setsockopt,
        [
            socket.as_raw_fd().into(),
            libc::SOL_SOCKET.into(),
            libc::SO_ATTACH_FILTER.into(),
            Arg::In(&program),
            program.len().into(),
        ],
    );
    match attached {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok("the kernel looks at a filter".into()),
        other => Ok(other.map(|_| "attached".into())?),
    }
}

fn read(args: &[String]) -> Act {
    let text = std::fs::read_to_string(&args[0])?;
    if text.is_empty() { Err(Refused::new(ENODATA, "empty")) } else { Ok(text.lines().take(3).collect()) }
}

fn list(args: &[String]) -> Act {
    let count = std::fs::read_dir(&args[0])?.count();
    if count == 0 { Err(Refused::new(ENODATA, "empty")) } else { Ok(format!("{count} entries")) }
}
