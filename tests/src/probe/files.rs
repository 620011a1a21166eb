//! Files that are none of the agent's: the caller's home, root's, the host's /proc, /sys and /dev.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use libc::{EACCES, ENODATA, ENOENT, EPERM, EROFS};

use super::case::{Act, Case, Outside, Refused, case};
use super::sys;

const GONE: &[i32] = &[ENOENT];
const HIDDEN: &[i32] = &[ENOENT, EACCES, EPERM];
const CLOSED: &[i32] = &[EACCES, EPERM];
const LOCKED: &[i32] = &[ENOENT, EROFS, EACCES, EPERM];
const NO_DESCRIPTORS: &str = "descriptor of the host that the agent inherits is a door out of its root";

pub const CASES: &[Case] = &[
    case("home_secret", read, &["{secret}"], GONE, Outside::User, "the caller's private keys"),
    case("home_listing", list, &["{home}/.ssh"], GONE, Outside::User, "the names of the caller's keys"),
    case("other_users_home", list, &["{other_home}"], GONE, Outside::Root, "another user's files"),
    case("root_home", list, &["/root"], GONE, Outside::Root, "root's files"),
    case("shadow", read, &["/etc/shadow"], GONE, Outside::Root, "password hashes"),
    case("host_var", list, &["/var/log"], GONE, Outside::User, "what the host's services wrote down"),
    case(
        "daemon_state",
        list,
        &["{state}"],
        HIDDEN,
        Outside::Root,
        "other sessions' overlays and audit files",
    ),
    case(
        "daemon_keepers",
        list,
        &["{runtime}/keepers"],
        HIDDEN,
        Outside::Root,
        "the names of sessions' keepers",
    ),
    case("daemon_runtime", list, &["{runtime}"], HIDDEN, Outside::Root, "agentd's own sockets"),
    case(
        "dotdot_secret",
        read,
        &["{ws}/../.ssh/id_test"],
        GONE,
        Outside::User,
        "what lies beside the workspace",
    ),
    case(
        "dotdot_root",
        read,
        &["/../../../../../../../../etc/shadow"],
        GONE,
        Outside::Root,
        "the host's root above the session's",
    ),
    case(
        "cwd_dotdot",
        read,
        &["/proc/self/cwd/../../../../../../../../etc/shadow"],
        GONE,
        Outside::Root,
        "the host's root, if the working directory is outside of the session's",
    )
    .origin("CVE-2024-21626"),
    case(
        "input_link",
        read,
        &["{input}/link"],
        GONE,
        Outside::User,
        "what a link in an input names outside of it",
    )
    .origin("CVE-2018-15664"),
    case("input_link_root", read, &["{input}/link-root"], GONE, Outside::Root, "the same with root's files")
        .origin("CVE-2021-30465"),
    case(
        "input_write",
        open_to_write,
        &["{input}/file"],
        LOCKED,
        Outside::User,
        "changes to what may only be read",
    ),
    case(
        "usr_write",
        open_to_write,
        &["/usr/lib/os-release"],
        LOCKED,
        Outside::Root,
        "programs that root runs",
    ),
    case(
        "passwd_write",
        open_to_write,
        &["/etc/passwd"],
        LOCKED,
        Outside::Root,
        "an account without password",
    ),
    case(
        "proc1_root",
        list,
        &["/proc/1/root/"],
        CLOSED,
        Outside::Apart,
        "the root of init's mount namespace",
    ),
    case("proc1_cwd", list, &["/proc/1/cwd/"], CLOSED, Outside::Apart, "a directory that init has open"),
    case(
        "proc1_fd",
        list,
        &["/proc/1/fd"],
        CLOSED,
        Outside::Apart,
        "init's descriptors: its socket to the keeper",
    )
    .origin("CVE-2016-9962"),
    case(
        "proc1_exe",
        read,
        &["/proc/1/exe"],
        CLOSED,
        Outside::Apart,
        "agentd's own program file, to overwrite it",
    )
    .origin("CVE-2019-5736"),
    case("proc1_environ", read, &["/proc/1/environ"], CLOSED, Outside::Apart, "init's environment"),
    case(
        "proc1_maps",
        read,
        &["/proc/1/maps"],
        CLOSED,
        Outside::Apart,
        "init's addresses, for an attack on it",
    ),
    case("proc1_mem", open_to_write, &["/proc/1/mem"], CLOSED, Outside::Apart, "code of our own in init"),
    case("proc1_syscall", read, &["/proc/1/syscall"], CLOSED, Outside::Apart, "init's registers"),
    case(
        "host_environ",
        environments,
        &["{env_marker}"],
        GONE,
        Outside::User,
        "secrets in other processes' environments",
    ),
    case("host_processes", process_of, &["{host_pid}"], GONE, Outside::User, "what else runs on the host"),
    case(
        "core_pattern",
        open_to_write,
        &["/proc/sys/kernel/core_pattern"],
        LOCKED,
        Outside::Root,
        "a program that the host runs as root at a crash",
    )
    .origin("CVE-2022-0811"),
    case(
        "modprobe_path",
        open_to_write,
        &["/proc/sys/kernel/modprobe"],
        LOCKED,
        Outside::Root,
        "a program that the kernel runs as root",
    )
    .host_may_lack(),
    case(
        "sysrq",
        open_to_write,
        &["/proc/sysrq-trigger"],
        LOCKED,
        Outside::Root,
        "a reboot or crash of the host",
    )
    .host_may_lack(),
    case(
        "drop_caches",
        open_to_write,
        &["/proc/sys/vm/drop_caches"],
        LOCKED,
        Outside::Root,
        "a slow host for everybody",
    ),
    case(
        "kcore",
        read,
        &["/proc/kcore"],
        &[ENOENT, EACCES, EPERM, ENODATA],
        Outside::Root,
        "all of the kernel's memory",
    )
    .host_may_lack(),
    case(
        "timer_list",
        read,
        &["/proc/timer_list"],
        &[ENOENT, EACCES, EPERM, ENODATA],
        Outside::Root,
        "kernel addresses and the host's load",
    )
    .host_may_lack(),
    case(
        "kallsyms",
        read,
        &["/proc/kallsyms"],
        &[ENOENT, EACCES, EPERM, ENODATA],
        Outside::User,
        "the kernel's symbols",
    )
    .host_may_lack(),
    case(
        "kernel_config",
        read,
        &["/proc/config.gz"],
        &[ENOENT, EACCES, EPERM, ENODATA],
        Outside::User,
        "how the kernel was built",
    )
    .host_may_lack(),
    case("sys_tree", list, &["/sys/kernel"], GONE, Outside::User, "the host's devices and kernel settings"),
    case(
        "sys_write",
        open_to_write,
        &["/sys/kernel/mm/transparent_hugepage/enabled"],
        LOCKED,
        Outside::Root,
        "kernel settings for the whole host",
    )
    .host_may_lack(),
    case(
        "cgroup_write",
        cgroup_write,
        &[],
        LOCKED,
        Outside::Root,
        "limits of the session, and the processes of others",
    ),
    case("cgroup_child", cgroup_child, &[], LOCKED, Outside::Apart, "a control group of its own"),
    case(
        "cgroup_others",
        cgroup_others,
        &[],
        GONE,
        Outside::User,
        "control groups of other sessions and users",
    ),
    case(
        "release_agent",
        release_agent,
        &[],
        GONE,
        Outside::Root,
        "a program that the host runs as root when a cgroup empties",
    )
    .origin("CVE-2022-0492")
    .host_may_lack(),
    case(
        "block_devices",
        device_of_kind,
        &["block"],
        GONE,
        Outside::Root,
        "the host's disks, below every permission",
    ),
    case(
        "other_devices",
        device_of_kind,
        &["char"],
        GONE,
        Outside::Root,
        "drivers: kmsg, mem, fuse, kvm, tun",
    ),
    case(
        "proc_self_root",
        list,
        &["/proc/self/root/root"],
        GONE,
        Outside::Root,
        "the host's root through a magic link",
    ),
    case("leaked_descriptors", leaked, &[], GONE, Outside::User, NO_DESCRIPTORS)
        .origin("CVE-2024-21626, CVE-2016-9962")
        .outside_args(&["leak"]),
    case(
        "handle_of_root",
        open_by_handle,
        &["{ws}"],
        &[EPERM, libc::ENOSYS],
        Outside::Root,
        "any file of the file system that the workspace is on",
    )
    .recorded_call("open_by_handle_at")
    .origin("shocker.c, Docker before 1.0"),
];

/// At least a byte of a file.
pub fn read(args: &[String]) -> Act {
    let mut bytes = [0; 64];
    let count = File::open(&args[0])?.read(&mut bytes)?;
    match count {
        0 => Err(Refused::new(ENODATA, "empty")),
        n => Ok(String::from_utf8_lossy(&bytes[..n]).into_owned()),
    }
}

/// A directory with at least a name in it.
pub fn list(args: &[String]) -> Act {
    let names: Vec<_> = std::fs::read_dir(&args[0])?.flatten().map(|e| e.file_name()).take(8).collect();
    Ok(format!("{names:?}"))
}

/// A descriptor to write to what exists; nothing is written.
pub fn open_to_write(args: &[String]) -> Act {
    OpenOptions::new().write(true).open(&args[0])?;
    Ok("open for writing".into())
}

fn environments(args: &[String]) -> Act {
    for entry in std::fs::read_dir("/proc")?.flatten() {
        if entry.file_name() == *std::process::id().to_string() {
            continue;
        }
        if let Ok(environment) = std::fs::read(entry.path().join("environ"))
            && String::from_utf8_lossy(&environment).contains(&args[0])
        {
            return Ok(format!("in {:?}", entry.path()));
        }
    }
    Err(Refused::new(ENOENT, "in no environment"))
}

fn process_of(args: &[String]) -> Act {
    let wanted = format!("agentd-test-sleeper-{}", args[0]);
    for entry in std::fs::read_dir("/proc")?.flatten() {
        // Our own command line has the number only, not the name.
        if let Ok(line) = std::fs::read(entry.path().join("comm"))
            && let Ok(args) = std::fs::read(entry.path().join("cmdline"))
            && (String::from_utf8_lossy(&args).contains(&wanted) || line.starts_with(b"kthreadd"))
        {
            return Ok(format!("{:?}", entry.path()));
        }
    }
    Err(Refused::new(ENOENT, "no process of the host in sight"))
}

/// The directories of hierarchies, and of what is below them.
fn cgroups(deep: usize) -> std::io::Result<Vec<PathBuf>> {
    let mut found = vec![PathBuf::from("/sys/fs/cgroup")];
    for _ in 0..deep {
        for dir in found.clone() {
            let below =
                std::fs::read_dir(&dir)?.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
            found.extend(
                below.map(|entry| entry.path()).filter(|path| !found.contains(path)).collect::<Vec<_>>(),
            );
        }
    }
    Ok(found)
}

fn cgroup_write(_: &[String]) -> Act {
    let mut refused = Refused::new(ENOENT, "no file of a group");
    for dir in cgroups(1)? {
        for file in
            ["cgroup.procs", "cgroup.kill", "memory.max", "memory.limit_in_bytes", "cpu.max", "pids.max"]
        {
            match OpenOptions::new().write(true).open(dir.join(file)) {
                Ok(_) => return Ok(format!("{:?}", dir.join(file))),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => refused = error.into(),
            }
        }
    }
    Err(refused)
}

fn cgroup_child(_: &[String]) -> Act {
    let mut refused = Refused::new(ENOENT, "no group");
    for dir in cgroups(1)? {
        let child = dir.join(format!("agentd-test-{}", std::process::id()));
        match std::fs::create_dir(&child) {
            Ok(()) => {
                std::fs::remove_dir(&child)?;
                return Ok(format!("{child:?}"));
            }
            Err(error) => refused = error.into(),
        }
    }
    Err(refused)
}

/// A group below the hierarchies' own, or above.
fn cgroup_others(_: &[String]) -> Act {
    for dir in cgroups(3)? {
        if dir.join("cgroup.procs").exists()
            && dir.parent().is_some_and(|up| up.join("cgroup.procs").exists())
        {
            return Ok(format!("{dir:?}"));
        }
    }
    Err(Refused::new(ENOENT, "no group but its own"))
}

fn release_agent(_: &[String]) -> Act {
    for dir in std::fs::read_dir("/sys/fs/cgroup")?.flatten() {
        let path = dir.path().join("release_agent");
        if OpenOptions::new().write(true).open(&path).is_ok() {
            return Ok(format!("{path:?}"));
        }
    }
    Err(Refused::new(ENOENT, "no release_agent"))
}

/// What a session's /dev may hold.
const DEVICES: &[&str] = &[
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
    "/dev/ptmx",
    "/dev/pts/ptmx",
];

fn device_of_kind(args: &[String]) -> Act {
    use std::os::unix::fs::FileTypeExt;
    let mut dirs = vec![Path::new("/dev").to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir)?.flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            let path = entry.path();
            let own = DEVICES.iter().any(|d| path == Path::new(d));
            if kind.is_dir() && !path.starts_with("/dev/pts") {
                dirs.push(path);
            } else if (kind.is_block_device() && args[0] == "block")
                || (kind.is_char_device() && args[0] == "char" && !own && !path.starts_with("/dev/pts"))
            {
                return Ok(format!("{path:?}"));
            }
        }
    }
    Err(Refused::new(ENOENT, "none"))
}

fn leaked(args: &[String]) -> Act {
    let door = if args.first().is_some_and(|a| a == "leak") { Some(File::open("/")?) } else { None };
    let listing = File::open("/proc/self/fd")?;
    let own = listing.as_raw_fd().to_string();
    for entry in std::fs::read_dir("/proc/self/fd")?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let target = std::fs::read_link(entry.path()).unwrap_or_default();
        let of_ours = name == own || target.starts_with("/proc/") && target.ends_with("fd");
        if !["0", "1", "2"].contains(&name.as_str()) && !of_ours {
            drop(door);
            return Ok(format!("{name} is {target:?}"));
        }
    }
    Err(Refused::new(ENOENT, "0, 1 and 2 only"))
}

/// Opens inode 2, the root of an ext4, by its number.
fn open_by_handle(args: &[String]) -> Act {
    let dir = File::open(&args[0])?;
    // struct file_handle { bytes = 8, type = FILEID_INO32_GEN, inode, generation }
    let handle: Vec<u8> = [8u32, 1, 2, 0].iter().flat_map(|n| n.to_ne_bytes()).collect();
    let fd = sys::call(
        libc::SYS_open_by_handle_at,
        [dir.as_raw_fd().into(), sys::Arg::In(&handle), libc::O_RDONLY.into()],
    );
    match fd {
        Ok(fd) => list(&[format!("/proc/self/fd/{fd}")]),
        // A file system other than ext4 says that the handle is stale: it was let as far as that.
        Err(error) if error.raw_os_error() == Some(libc::ESTALE) => Ok("handles are looked up".into()),
        Err(error) => Err(error.into()),
    }
}
