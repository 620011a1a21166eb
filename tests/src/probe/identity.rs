//! What the agent is: ids, capabilities, limits.

use libc::{EINVAL, ENOENT, EPERM};

use super::case::{Act, Case, Outside, Refused, case};
use super::sys::{self, Arg};

const NO: &[i32] = &[EPERM, libc::EACCES];
const KEEPER: &str = "uid 0 of the session's user namespace, which is the keeper's";

pub const CASES: &[Case] = &[
    case("setuid_0", setuid_0, &[], &[EPERM, EINVAL], Outside::Root, KEEPER),
    case("setreuid_0", setreuid_0, &[], &[EPERM, EINVAL], Outside::Root, KEEPER),
    case("setgroups", setgroups, &[], NO, Outside::Root, "groups such as docker or sudo"),
    case("setfsuid_0", setfsuid_0, &[], NO, Outside::Root, "root's files, by the file system's own uid"),
    case(
        "supplementary_groups",
        super::files::read,
        &["{opt}/members"],
        &[libc::EACCES],
        Outside::User,
        "what the caller's groups may, docker among them, where the caller named nothing",
    ),
    case(
        "supplementary_groups_usr",
        super::files::read,
        &["{usr}/members"],
        &[libc::EACCES],
        Outside::User,
        "the same among programs",
    ),
    case("capabilities", any_capability, &[], &[ENOENT], Outside::Root, "any capability in any set"),
    case("capset", capset, &[], NO, Outside::Root, "CAP_SYS_ADMIN"),
    case("ambient", ambient, &[], NO, Outside::Root, "capabilities that survive an exec"),
    case("no_new_privs", no_new_privs, &[], &[ENOENT], Outside::User, "privileges through exec"),
    case("seccomp_off", seccomp_off, &[], &[ENOENT], Outside::User, "every system call"),
    case(
        "raise_files",
        raise,
        &["7"],
        NO,
        Outside::Nowhere("needs CAP_SYS_RESOURCE, which root may lack"),
        "more open files than the plan gives",
    ),
    case(
        "core_handler",
        core_limit,
        &[],
        NO,
        Outside::User,
        "the host's core handler, run as root on our crash",
    )
    .origin("CVE-2020-8831, CVE-2022-0811")
    .host_may_lack(),
    case("realtime", realtime, &[], NO, Outside::Root, "a CPU for ourselves"),
    case("priority", priority, &[], NO, Outside::Root, "more CPU than others"),
    case(
        "oom_score",
        oom_score,
        &[],
        NO,
        Outside::Nowhere("needs CAP_SYS_RESOURCE, which root may lack"),
        "being killed last",
    ),
];

fn setuid_0(_: &[String]) -> Act {
    sys::call(libc::SYS_setresuid, [0.into(), 0.into(), 0.into()])?;
    Ok("uid 0".into())
}

fn setreuid_0(_: &[String]) -> Act {
    sys::call(libc::SYS_setreuid, [(-1).into(), 0.into()])?;
    Ok("uid 0".into())
}

fn setgroups(_: &[String]) -> Act {
    sys::call(libc::SYS_setgroups, [0.into(), Arg::Null])?;
    Ok("set".into())
}

fn setfsuid_0(_: &[String]) -> Act {
    sys::call(libc::SYS_setfsuid, [0.into()])?;
    // The call reports no error: the second one returns what is in force.
    match sys::call(libc::SYS_setfsuid, [0.into()])? {
        0 => Ok("fsuid 0".into()),
        uid => Err(Refused::new(EPERM, format!("fsuid {uid}"))),
    }
}

fn status(key: &str) -> std::io::Result<String> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    Ok(line.unwrap_or_default().trim().to_owned())
}

fn any_capability(_: &[String]) -> Act {
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        let bits = status(set)?;
        if bits.bytes().any(|b| b != b'0') {
            return Ok(format!("{set} {bits}"));
        }
    }
    Err(Refused::new(ENOENT, "all sets are empty"))
}

fn capset(_: &[String]) -> Act {
    // struct __user_cap_header_struct (version 3, this process) and two __user_cap_data_struct.
    let header: Vec<u8> = [0x2008_0522u32, 0].iter().flat_map(|n| n.to_ne_bytes()).collect();
    let data: Vec<u8> = [1u32 << 21, 1 << 21, 0, 0, 0, 0].iter().flat_map(|n| n.to_ne_bytes()).collect();
    sys::call(libc::SYS_capset, [Arg::In(&header), Arg::In(&data)])?;
    Ok("CAP_SYS_ADMIN".into())
}

fn ambient(_: &[String]) -> Act {
    let (header, sys_admin) = ([0x2008_0522u32, 0], 21);
    let all: Vec<u8> = [1u32 << 21, 1 << 21, 1 << 21, 0, 0, 0].iter().flat_map(|n| n.to_ne_bytes()).collect();
    let header: Vec<u8> = header.iter().flat_map(|n| n.to_ne_bytes()).collect();
    sys::call(libc::SYS_capset, [Arg::In(&header), Arg::In(&all)]).ok();
    let raise = [
        libc::PR_CAP_AMBIENT.into(),
        libc::PR_CAP_AMBIENT_RAISE.into(),
        sys_admin.into(),
        0.into(),
        0.into(),
    ];
    sys::call(libc::SYS_prctl, raise)?;
    Ok("raised".into())
}

fn no_new_privs(_: &[String]) -> Act {
    // Taking it back is EINVAL; whether it was ever there is what counts.
    sys::call(libc::SYS_prctl, [libc::PR_SET_NO_NEW_PRIVS.into(), 0.into(), 0.into(), 0.into(), 0.into()])
        .ok();
    match status("NoNewPrivs")?.as_str() {
        "1" => Err(Refused::new(ENOENT, "set")),
        other => Ok(format!("NoNewPrivs {other}")),
    }
}

fn seccomp_off(_: &[String]) -> Act {
    sys::call(libc::SYS_prctl, [libc::PR_SET_SECCOMP.into(), 0.into(), 0.into(), 0.into(), 0.into()]).ok();
    match status("Seccomp")?.as_str() {
        "2" => Err(Refused::new(ENOENT, "filtered")),
        other => Ok(format!("Seccomp {other}")),
    }
}

fn limits(resource: u32) -> std::io::Result<(u64, u64)> {
    let mut out = [0; 16];
    sys::call(libc::SYS_prlimit64, [0.into(), resource.into(), Arg::Null, Arg::Out(&mut out)])?;
    let (soft, hard) = out.split_at(8);
    let number = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().expect("eight bytes"));
    Ok((number(soft), number(hard)))
}

fn raise(args: &[String]) -> Act {
    let resource: u32 = args[0].parse().expect("a resource's number");
    let (soft, hard) = limits(resource)?;
    let new: Vec<u8> = [soft, hard + 1].iter().flat_map(|n| n.to_ne_bytes()).collect();
    sys::call(libc::SYS_prlimit64, [0.into(), resource.into(), Arg::In(&new), Arg::Null])?;
    Ok(format!("{} to {}", hard, hard + 1))
}

fn core_limit(_: &[String]) -> Act {
    match limits(libc::RLIMIT_CORE)? {
        (_, hard) if hard > 1 => Ok(format!("cores of {hard} bytes")),
        // 0 would still start a handler behind a pipe.
        (1, _) => Err(Refused::new(EPERM, "1")),
        (soft, _) => Ok(format!("soft limit {soft}")),
    }
}

fn realtime(_: &[String]) -> Act {
    let priority = 50i32.to_ne_bytes();
    sys::call(libc::SYS_sched_setscheduler, [0.into(), libc::SCHED_FIFO.into(), Arg::In(&priority)])?;
    Ok("SCHED_FIFO".into())
}

fn priority(_: &[String]) -> Act {
    sys::call(libc::SYS_setpriority, [i64::from(libc::PRIO_PROCESS).into(), 0.into(), (-20).into()])?;
    Ok("nice -20".into())
}

fn oom_score(_: &[String]) -> Act {
    std::fs::write("/proc/self/oom_score_adj", "-1000")?;
    Ok("-1000".into())
}
