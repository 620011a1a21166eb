//! Other processes: init above, the host around.

use std::io::Write;
use std::time::Duration;

use libc::{EACCES, EINVAL, ENODATA, ENOSYS, EPERM, ESRCH};

use super::case::{Act, Case, Outside, Refused, case};
use super::sys::{self, Arg, Fork};

const NO: &[i32] = &[EPERM, EACCES, ENOSYS];
const CODE: &str = "code of our own in init, which holds sockets to the keeper";

pub const CASES: &[Case] = &[
    case("ptrace_init", ptrace, &["1"], NO, Outside::Apart, CODE).origin("CVE-2016-9962"),
    case(
        "ptrace_host",
        ptrace,
        &["{host_pid}"],
        &[ESRCH, EPERM],
        Outside::User,
        "a process of the caller's on the host",
    ),
    case(
        "ptrace_traceme_setuid",
        traceme,
        &[],
        &[EPERM, ENODATA],
        Outside::Nowhere("fixed in every kernel that agentd runs on"),
        "root, through a traced setuid program",
    )
    .origin("CVE-2019-13272"),
    case("vm_read_init", vm_read, &["1"], NO, Outside::Apart, "init's memory"),
    case("vm_write_init", vm_write, &["1"], NO, Outside::Apart, CODE),
    case("pidfd_getfd_init", getfd, &["1"], NO, Outside::Apart, "init's descriptors")
        .recorded_call("pidfd_getfd")
        .origin("CVE-2024-21626"),
    case("kcmp_init", kcmp, &["1"], NO, Outside::Apart, "what init has open")
        .recorded_call("kcmp")
        .host_may_lack(),
    case(
        "kill_init",
        kill_init,
        &[],
        NO,
        Outside::Nowhere("pid 1 ignores it everywhere"),
        "a session without its supervisor",
    ),
    case(
        "stop_init",
        stop_init,
        &[],
        NO,
        Outside::Nowhere("pid 1 ignores it everywhere"),
        "a session whose supervisor stands still",
    ),
    case(
        "signal_host",
        signal,
        &["{host_pid}"],
        &[ESRCH, EPERM],
        Outside::User,
        "signals to the caller's processes",
    ),
    case(
        "signal_thread_host",
        tgkill,
        &["{host_pid}"],
        &[ESRCH, EPERM],
        Outside::User,
        "the same, by another call",
    ),
    case(
        "pidfd_host",
        pidfd,
        &["{host_pid}"],
        &[ESRCH, EPERM],
        Outside::User,
        "a handle of a process on the host",
    ),
    case(
        "priority_host",
        priority_of,
        &["{host_pid}"],
        &[ESRCH, EPERM, EACCES],
        Outside::User,
        "slower processes of the caller's",
    ),
    case("affinity_host", affinity_of, &["{host_pid}"], &[ESRCH, EPERM], Outside::User, "the same, by CPU"),
    case(
        "limits_init",
        limit,
        &["1"],
        &[EPERM],
        Outside::Apart,
        "a pid 1 that can start nothing, and ends when its user asks it to",
    )
    .recorded_call("prlimit64"),
    case("limits_host", limits_of, &["{host_pid}"], &[ESRCH, EPERM], Outside::User, "the same, by limits"),
    case(
        "shared_memory_host",
        shared_memory,
        &["{shm_key}"],
        &[libc::ENOENT, EACCES],
        Outside::User,
        "System V memory of the host's programs",
    ),
    case(
        "message_queue_host",
        message_queue,
        &["agentd-test-{host_pid}"],
        &[libc::ENOENT, EACCES, ENOSYS, EPERM],
        Outside::User,
        "POSIX message queues of the host",
    ),
    case(
        "invalid_waitid",
        waitid_kernel,
        &[],
        &[libc::EFAULT, EINVAL, libc::ECHILD],
        Outside::Nowhere("fixed in every kernel that agentd runs on"),
        "a write to the kernel's memory",
    )
    .origin("CVE-2017-5123"),
];

fn target(args: &[String]) -> i32 {
    args[0].parse().expect("a pid")
}

fn ptrace(args: &[String]) -> Act {
    sys::call(
        libc::SYS_ptrace,
        [i64::from(libc::PTRACE_SEIZE).into(), target(args).into(), 0.into(), 0.into()],
    )?;
    Ok("traced".into())
}

fn traceme(_: &[String]) -> Act {
    match sys::fork()? {
        Fork::Child => {
            let traced = sys::call(
                libc::SYS_ptrace,
                [i64::from(libc::PTRACE_TRACEME).into(), 0.into(), 0.into(), 0.into()],
            );
            if traced.is_err() {
                sys::exit(2);
            }
            std::process::Command::new("/usr/bin/su").arg("--version").output().ok();
            sys::exit(i32::from(rustix::process::geteuid().is_root()))
        }
        Fork::Parent(pid) => match sys::wait(pid)? {
            status if libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 1 => Ok("root".into()),
            status => Err(Refused::new(ENODATA, format!("status {status:#x}"))),
        },
    }
}

/// `struct iovec` of one word of ours, and of the same address in the other process.
fn word() -> (Vec<u8>, Vec<u8>) {
    let (address, size) = sys::own_word();
    let vector: Vec<u8> = [address, size as u64].iter().flat_map(|n| n.to_ne_bytes()).collect();
    (vector.clone(), vector)
}

fn vm_read(args: &[String]) -> Act {
    // Reads into a constant's page: EFAULT comes after the permission to look, and is a success too.
    vm(libc::SYS_process_vm_readv, args)
}

fn vm_write(args: &[String]) -> Act {
    vm(libc::SYS_process_vm_writev, args)
}

fn vm(number: i64, args: &[String]) -> Act {
    let (local, remote) = word();
    let arguments = [target(args).into(), Arg::In(&local), 1.into(), Arg::In(&remote), 1.into(), 0.into()];
    match sys::call(number, arguments) {
        Ok(count) => Ok(format!("{count} bytes")),
        Err(error) if error.raw_os_error() == Some(libc::EFAULT) => Ok("let as far as the address".into()),
        Err(error) => Err(error.into()),
    }
}

fn getfd(args: &[String]) -> Act {
    let pidfd = sys::call(libc::SYS_pidfd_open, [target(args).into(), 0.into()])?;
    for fd in 0..16 {
        match sys::call(libc::SYS_pidfd_getfd, [pidfd.into(), fd.into(), 0.into()]) {
            Ok(_) => return Ok(format!("descriptor {fd}")),
            Err(error) if error.raw_os_error() == Some(libc::EBADF) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok("let as far as the descriptors".into())
}

fn kcmp(args: &[String]) -> Act {
    let own = std::process::id().cast_signed();
    sys::call(libc::SYS_kcmp, [own.into(), target(args).into(), 2.into(), 0.into(), 0.into()])?;
    Ok("compared".into())
}

fn kill_init(_: &[String]) -> Act {
    for signal in [libc::SIGTERM, libc::SIGKILL, libc::SIGSEGV, libc::SIGSYS, libc::SIGHUP] {
        sys::call(libc::SYS_kill, [1.into(), signal.into()])?;
    }
    // If it worked we are gone before we can say so.
    std::thread::sleep(Duration::from_millis(200));
    Err(Refused::new(EPERM, "init lives"))
}

fn stop_init(_: &[String]) -> Act {
    for signal in [libc::SIGSTOP, libc::SIGTSTP] {
        sys::call(libc::SYS_kill, [1.into(), signal.into()])?;
    }
    let text = std::fs::read_to_string("/proc/1/status")?;
    match text.lines().find(|line| line.starts_with("State:")) {
        Some(line) if line.contains("(stopped)") => Ok(line.to_owned()),
        line => Err(Refused::new(EPERM, line.unwrap_or("no state"))),
    }
}

fn signal(args: &[String]) -> Act {
    sys::call(libc::SYS_kill, [target(args).into(), libc::SIGCONT.into()])?;
    Ok("sent".into())
}

fn tgkill(args: &[String]) -> Act {
    sys::call(libc::SYS_tgkill, [target(args).into(), target(args).into(), libc::SIGCONT.into()])?;
    Ok("sent".into())
}

fn pidfd(args: &[String]) -> Act {
    sys::call(libc::SYS_pidfd_open, [target(args).into(), 0.into()])?;
    Ok("held".into())
}

fn priority_of(args: &[String]) -> Act {
    sys::call(libc::SYS_setpriority, [i64::from(libc::PRIO_PROCESS).into(), target(args).into(), 1.into()])?;
    Ok("slower".into())
}

fn affinity_of(args: &[String]) -> Act {
    let mask = 1u64.to_ne_bytes();
    sys::call(libc::SYS_sched_setaffinity, [target(args).into(), mask.len().into(), Arg::In(&mask)])?;
    Ok("pinned".into())
}

fn limits_of(args: &[String]) -> Act {
    let mut out = [0; 16];
    let arguments = [target(args).into(), libc::RLIMIT_NOFILE.into(), Arg::Null, Arg::Out(&mut out)];
    sys::call(libc::SYS_prlimit64, arguments)?;
    Ok("read".into())
}

fn limit(args: &[String]) -> Act {
    let none = [0; 16];
    let arguments = [target(args).into(), libc::RLIMIT_NOFILE.into(), Arg::In(&none), Arg::Null];
    sys::call(libc::SYS_prlimit64, arguments)?;
    Ok("lowered".into())
}

fn shared_memory(args: &[String]) -> Act {
    let key: i32 = args[0].parse().expect("a key");
    sys::call(libc::SYS_shmget, [key.into(), 0.into(), 0.into()])?;
    Ok("found".into())
}

fn message_queue(args: &[String]) -> Act {
    let name = sys::c(&args[0]);
    sys::call(libc::SYS_mq_open, [(&name).into(), libc::O_RDONLY.into(), 0.into(), Arg::Null])?;
    Ok("open".into())
}

/// Makes the queue that [`message_queue`] looks for, or takes it away; no case.
pub fn make_queue(args: &[String]) {
    let name = sys::c(&args[0]);
    let result = match args.get(1) {
        None => {
            let flags = libc::O_CREAT | libc::O_RDWR;
            sys::call(libc::SYS_mq_open, [(&name).into(), flags.into(), 0o644.into(), Arg::Null])
        }
        Some(_) => sys::call(libc::SYS_mq_unlink, [(&name).into()]),
    };
    println!("{result:?}");
}

fn waitid_kernel(_: &[String]) -> Act {
    // The kernel half of the address space; only the number is passed, and the kernel must refuse it.
    const KERNEL: i64 = 0xffff_8880_0000_0000_u64.cast_signed();
    let pid = match sys::fork()? {
        Fork::Child => sys::exit(0),
        Fork::Parent(pid) => pid,
    };
    let result =
        sys::call(libc::SYS_waitid, [1.into(), pid.into(), KERNEL.into(), libc::WEXITED.into(), Arg::Null]);
    result?;
    Ok("written".into())
}

/// Leaves a process behind that ignores what it can, in a session of its own, twice removed.
pub fn outlive(args: &[String]) {
    let name = args.first().map_or("agentd-test-outlives", String::as_str);
    for step in 0..2 {
        match sys::fork() {
            Ok(Fork::Child) => {}
            _ => {
                if step == 0 {
                    println!("left behind");
                    std::io::stdout().flush().ok();
                }
                return;
            }
        }
        rustix::process::setsid().ok();
    }
    for signal in [libc::SIGTERM, libc::SIGHUP, libc::SIGINT, libc::SIGPIPE] {
        sys::ignore(signal, true);
    }
    rustix::thread::set_name(&sys::c(name)).ok();
    for fd in 0..3 {
        sys::call(libc::SYS_close, [fd.into()]).ok();
    }
    std::thread::sleep(Duration::from_secs(600));
}
