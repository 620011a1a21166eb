//! Too much of everything: each ends at the session's own limit.

use std::fs::File;
use std::io::{Read, Write};
use std::process::ExitCode;

use libc::{EAGAIN, EDQUOT, EMFILE, ENOMEM, ENOSPC};

use super::case::{Act, Case, Outside, Refused, case};
use super::sys::{self, Fork};

pub const CASES: &[Case] = &[
    case("fork_bomb", forks, &["5000"], &[EAGAIN], Outside::User, "a host that cannot start a process")
        .options(&["--pids", "64"])
        .outside_args(&["20"])
        .seen("limit.hit", &[("/limit/name", "pids"), ("/limit/limit", "64")]),
    case("thread_bomb", threads, &["5000"], &[EAGAIN], Outside::User, "the same, by threads")
        .options(&["--pids", "64"])
        .outside_args(&["20"])
        .seen("limit.hit", &[("/limit/name", "pids"), ("/limit/limit", "64")]),
    case("memory_bomb", memory, &["1024"], &[ENOMEM], Outside::User, "a host without memory")
        .options(&["--memory", "64M"])
        .outside_args(&["16"])
        .seen("limit.hit", &[("/limit/name", "memory")])
        .may_end_session(),
    case(
        "page_cache_bomb",
        fill,
        &["/tmp/fill", "1024"],
        &[ENOSPC, ENOMEM],
        Outside::User,
        "a host without memory, by files in it",
    )
    .options(&["--memory", "64M"])
    .outside_args(&["/tmp/agentd-test-fill", "4"])
    .may_end_session(),
    case("disk_bomb_tmp", fill, &["/tmp/fill", "4096"], &[ENOSPC], Outside::User, "a host without disk")
        .options(&["--memory", "2G"])
        .outside_args(&["/tmp/agentd-test-fill", "4"]),
    case(
        "disk_bomb_shm",
        fill,
        &["/dev/shm/fill", "4096"],
        &[ENOSPC, ENOMEM],
        Outside::User,
        "a host without memory",
    )
    .options(&["--memory", "256M"])
    .outside_args(&["/dev/shm/agentd-test-fill", "4"])
    .may_end_session(),
    case(
        "inode_bomb",
        inodes,
        &["/tmp", "4000000"],
        &[ENOSPC, EDQUOT, ENOMEM],
        Outside::User,
        "a host without memory, by empty files",
    )
    .options(&["--memory", "128M"])
    .outside_args(&["/tmp", "50"])
    .may_end_session(),
    case("descriptor_bomb", descriptors, &["2000000"], &[EMFILE], Outside::User, "a host without open files")
        .outside_args(&["200"]),
    case(
        "pipe_bomb",
        pipes,
        &["2000000"],
        &[EMFILE, libc::ENFILE, ENOMEM],
        Outside::User,
        "kernel memory that nobody counts",
    )
    .origin("CVE-2016-2847")
    .options(&["--memory", "256M"])
    .outside_args(&["20"])
    .may_end_session(),
    case(
        "lock_bomb",
        locked_memory,
        &["512"],
        &[ENOMEM, EAGAIN, libc::EPERM],
        Outside::Root,
        "memory that cannot be taken back",
    )
    .options(&["--memory", "64M"])
    .outside_args(&["1"])
    .may_end_session(),
    case(
        "root_tmpfs_bomb",
        fill,
        &["/run/fill", "64"],
        &[libc::EROFS, libc::EACCES],
        Outside::Apart,
        "the session's root, which agentd pays for",
    )
    .outside_args(&["/run/agentd-test-fill", "1"]),
];

fn number(text: &str) -> usize {
    text.parse().expect("a number")
}

fn forks(args: &[String]) -> Act {
    let mut children = Vec::new();
    let mut refused = None;
    for _ in 0..number(&args[0]) {
        match sys::fork() {
            Ok(Fork::Child) => loop {
                std::thread::park();
            },
            Ok(Fork::Parent(pid)) => children.push(pid),
            Err(error) => {
                refused = Some(error);
                break;
            }
        }
    }
    for pid in &children {
        sys::call(libc::SYS_kill, [(*pid).into(), libc::SIGKILL.into()]).ok();
        sys::wait(*pid).ok();
    }
    match refused {
        None => Ok(format!("{} processes", children.len())),
        Some(error) => Err(Refused { detail: format!("after {}", children.len()), ..error.into() }),
    }
}

fn threads(args: &[String]) -> Act {
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    let receiver = std::sync::Arc::new(std::sync::Mutex::new(receiver));
    for count in 0..number(&args[0]) {
        let receiver = receiver.clone();
        let waits = move || drop(receiver.lock().map(|r| r.recv()));
        if let Err(error) = std::thread::Builder::new().stack_size(64 << 10).spawn(waits) {
            drop(sender);
            return Err(Refused { detail: format!("after {count}"), ..error.into() });
        }
    }
    drop(sender);
    Ok(format!("{} threads", args[0]))
}

/// A child touches so many MiB.
fn memory(args: &[String]) -> Act {
    let size = number(&args[0]);
    match sys::fork()? {
        Fork::Child => {
            let mut blocks = Vec::new();
            for _ in 0..size {
                blocks.push(vec![1u8; 1 << 20]);
            }
            sys::exit(i32::from(blocks.len() != size))
        }
        Fork::Parent(pid) => match sys::wait(pid)? {
            0 => Ok(format!("{size} MiB")),
            status => Err(Refused::new(ENOMEM, format!("status {status:#x}"))),
        },
    }
}

/// So many MiB in a file, by a child, which may be killed for it.
fn fill(args: &[String]) -> Act {
    let (path, size) = (&args[0], number(&args[1]));
    let pid = match sys::fork()? {
        Fork::Parent(pid) => pid,
        Fork::Child => {
            let block = vec![1u8; 1 << 20];
            let result =
                File::create(path).and_then(|mut file| (0..size).try_for_each(|_| file.write_all(&block)));
            sys::exit(result.err().map_or(0, |error| error.raw_os_error().unwrap_or(255)))
        }
    };
    let status = sys::wait(pid)?;
    let written = std::fs::metadata(path).map_or(0, |m| m.len() >> 20);
    std::fs::remove_file(path).ok();
    match status {
        0 => Ok(format!("{written} MiB")),
        status if libc::WIFSIGNALED(status) => {
            Err(Refused::new(ENOMEM, format!("killed after {written} MiB")))
        }
        status => Err(Refused::new(libc::WEXITSTATUS(status), format!("after {written} MiB"))),
    }
}

fn inodes(args: &[String]) -> Act {
    let (dir, count) = (format!("{}/inodes-{}", args[0], std::process::id()), number(&args[1]));
    std::fs::create_dir(&dir)?;
    let pid = match sys::fork()? {
        Fork::Parent(pid) => pid,
        Fork::Child => {
            let result = (0..count).try_for_each(|n| File::create(format!("{dir}/{n}")).map(drop));
            sys::exit(result.err().map_or(0, |error| error.raw_os_error().unwrap_or(255)))
        }
    };
    let status = sys::wait(pid)?;
    std::fs::remove_dir_all(&dir).ok();
    match status {
        0 => Ok(format!("{count} files")),
        status if libc::WIFSIGNALED(status) => Err(Refused::new(ENOMEM, "killed")),
        status => Err(Refused::new(libc::WEXITSTATUS(status), "refused")),
    }
}

fn descriptors(args: &[String]) -> Act {
    let mut open = Vec::new();
    for _ in 0..number(&args[0]) {
        match File::open("/dev/null") {
            Ok(file) => open.push(file),
            Err(error) => return Err(Refused { detail: format!("after {}", open.len()), ..error.into() }),
        }
    }
    Ok(format!("{} descriptors", open.len()))
}

/// Pipes of the largest size, filled.
fn pipes(args: &[String]) -> Act {
    let count = number(&args[0]);
    let pid = match sys::fork()? {
        Fork::Parent(pid) => pid,
        Fork::Child => {
            let mut open = Vec::new();
            let block = vec![1u8; 1 << 16];
            let result = (0..count).try_for_each(|_| {
                let (reader, mut writer) = std::io::pipe()?;
                // The kernel makes pipes smaller once a user has many: what fits must do.
                rustix::io::ioctl_fionbio(&writer, true)?;
                while writer.write(&block).is_ok() {}
                open.push((reader, writer));
                Ok(())
            });
            sys::exit(result.err().map_or(0, |error: std::io::Error| error.raw_os_error().unwrap_or(255)))
        }
    };
    match sys::wait(pid)? {
        0 => Ok(format!("{count} pipes")),
        status if libc::WIFSIGNALED(status) => Err(Refused::new(ENOMEM, "killed")),
        status => Err(Refused::new(libc::WEXITSTATUS(status), "refused")),
    }
}

fn locked_memory(args: &[String]) -> Act {
    // MCL_CURRENT | MCL_FUTURE; what is locked must fit into the limit, and into the group's memory.
    sys::call(libc::SYS_mlockall, [3.into()])?;
    memory(args)
}

/// Standard input to standard output, as fast as it goes; no case.
pub fn copy() -> ExitCode {
    let mut block = vec![0; 1 << 16];
    let (mut input, mut output) = (std::io::stdin().lock(), std::io::stdout().lock());
    loop {
        match input.read(&mut block) {
            Ok(0) => return ExitCode::SUCCESS,
            Ok(n) if output.write_all(&block[..n]).is_ok() => {}
            _ => return ExitCode::FAILURE,
        }
    }
}
