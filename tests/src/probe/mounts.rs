//! Mounts and namespaces.

use std::fs::File;
use std::os::fd::AsRawFd;

use libc::{AT_FDCWD, EACCES, EINVAL, ENOENT, ENOSYS, EPERM};

use super::case::{Act, Case, Outside, case};
use super::sys::{self, Arg, Fork, c};

const NO: &[i32] = &[EPERM, ENOSYS, EACCES];
const UNMASKED: &str = "a /proc without masks";
const NEW_API: &str = "the same, by calls that older filters do not know";
const CHAIN: &str = "every capability in a user namespace of our own: most kernel exploits start there";

pub const CASES: &[Case] = &[
    case("mount_tmpfs", mount, &["tmpfs", "/tmp"], NO, Outside::Apart, "files of our own over any path")
        .recorded_call("mount"),
    case("mount_proc", mount, &["proc", "/tmp"], NO, Outside::Apart, UNMASKED).recorded_call("mount"),
    case("mount_sysfs", mount, &["sysfs", "/tmp"], NO, Outside::Apart, "a writable /sys")
        .recorded_call("mount"),
    case("mount_cgroup", mount, &["cgroup2", "/tmp"], NO, Outside::Apart, "our own limits, release_agent")
        .recorded_call("mount")
        .origin("CVE-2022-0492"),
    case("mount_devpts", mount, &["devpts", "/tmp"], NO, Outside::Apart, "the host's terminals")
        .recorded_call("mount"),
    case("mount_overlay", overlay, &[], NO, Outside::Apart, "copies of set-user-ID files")
        .recorded_call("mount")
        .origin("CVE-2021-3493, CVE-2023-0386, CVE-2023-2640"),
    case("mount_bind", bind, &["/usr", "/tmp"], NO, Outside::Apart, "a second way to what is covered")
        .recorded_call("mount"),
    case("mount_remount", remount, &["/usr"], NO, Outside::Apart, "a writable /usr").recorded_call("mount"),
    case("mount_propagation", propagation, &[], NO, Outside::Apart, "mounts that appear on the host")
        .recorded_call("mount"),
    case("mount_move", move_old, &["/proc", "/tmp"], NO, Outside::Apart, "what is below /proc's masks")
        .recorded_call("mount"),
    case(
        "umount_mask",
        umount,
        &["/proc/sys"],
        &[EPERM, ENOSYS, EACCES, EINVAL],
        Outside::Nowhere("apart nothing is masked"),
        UNMASKED,
    )
    .recorded_call("umount2"),
    case("umount_proc", umount, &["/proc"], NO, Outside::Apart, "what is below /proc")
        .recorded_call("umount2"),
    case("fsopen", fsopen, &["tmpfs"], NO, Outside::Apart, NEW_API)
        .recorded_call("fsopen")
        .origin("CVE-2022-0185"),
    case("fspick", fspick, &["/tmp"], NO, Outside::Apart, NEW_API).recorded_call("fspick"),
    case("open_tree", open_tree, &["/usr"], NO, Outside::Apart, NEW_API)
        .recorded_call("open_tree")
        .origin("CVE-2021-41133"),
    case("open_tree_attr", open_tree_attr, &["/usr"], NO, Outside::Apart, NEW_API)
        .recorded_call("open_tree_attr")
        .host_may_lack(),
    case("move_mount", move_mount, &["/proc", "/tmp"], NO, Outside::Apart, NEW_API)
        .recorded_call("move_mount")
        .origin("CVE-2021-41133"),
    case("mount_setattr", setattr, &["/usr"], NO, Outside::Apart, NEW_API)
        .recorded_call("mount_setattr")
        .origin("CVE-2021-41133"),
    case(
        "pivot_root",
        pivot_root,
        &[],
        NO,
        Outside::Nowhere("would need a root to go to; chroot shows the capability"),
        "another root",
    )
    .recorded_call("pivot_root"),
    case(
        "chroot",
        chroot,
        &["/usr"],
        NO,
        Outside::Apart,
        "a root of our own, with our /etc for set-user-ID programs",
    )
    .recorded_call("chroot")
    .origin("CVE-2025-32463"),
    case("unshare_user", unshare, &["user"], &[EPERM], Outside::User, CHAIN)
        .recorded_call("unshare")
        .origin("CVE-2022-0185")
        .host_may_lack(),
    case("unshare_mount", unshare, &["mount"], &[EPERM], Outside::Apart, "a mount namespace of our own")
        .recorded_call("unshare"),
    case("unshare_net", unshare, &["net"], &[EPERM], Outside::Apart, "network code as its root")
        .recorded_call("unshare")
        .origin("CVE-2023-32233"),
    case("unshare_pid", unshare, &["pid"], &[EPERM], Outside::Apart, "processes out of sight")
        .recorded_call("unshare"),
    case("unshare_cgroup", unshare, &["cgroup"], &[EPERM], Outside::Apart, "another view of cgroups")
        .recorded_call("unshare"),
    case("unshare_uts", unshare, &["uts"], &[EPERM], Outside::Apart, "another name of the host")
        .recorded_call("unshare"),
    case("unshare_ipc", unshare, &["ipc"], &[EPERM], Outside::Apart, "ipc objects that nobody counts")
        .recorded_call("unshare"),
    case("unshare_time", unshare, &["time"], &[EPERM], Outside::Apart, "another clock")
        .recorded_call("unshare")
        .host_may_lack(),
    case("clone_user", clone_user, &[], &[EPERM], Outside::User, CHAIN)
        .recorded_call("clone")
        .origin("CVE-2023-2640")
        .host_may_lack(),
    case("clone3_user", clone3_user, &[], NO, Outside::User, "the same, in an argument that no filter sees")
        .origin("CVE-2021-41133")
        .host_may_lack(),
    case("setns_mount", setns, &["/proc/1/ns/mnt"], NO, Outside::Apart, "init's mount namespace"),
    case("setns_net", setns, &["/proc/1/ns/net"], NO, Outside::Apart, "init's network namespace"),
    case(
        "setns_own_user",
        setns,
        &["/proc/self/ns/user"],
        &[EPERM, EINVAL, ENOSYS, EACCES],
        Outside::Nowhere("a process cannot enter the user namespace that it is in"),
        "capabilities in our own user namespace",
    )
    .recorded_call("setns"),
    case("setns_own_net", setns, &["/proc/self/ns/net"], NO, Outside::Apart, "setns at all")
        .recorded_call("setns"),
    case("setns_pidfd", setns_pidfd, &["1"], NO, Outside::Apart, "all of init's namespaces at once")
        .recorded_call("setns"),
    case(
        "userns_parent",
        parent_namespace,
        &[],
        &[EPERM, libc::ENOTTY, EACCES],
        Outside::Nowhere("the first user namespace has no parent"),
        "a handle of the host's user namespace",
    ),
    case(
        "uid_map_write",
        uid_map,
        &[],
        &[EPERM, EACCES, libc::EROFS],
        Outside::Nowhere("a map is written once"),
        "another map of uids",
    )
    .origin("CVE-2018-18955"),
    case(
        "mount_by_userns_chain",
        userns_mount,
        &[],
        &[EPERM],
        Outside::User,
        "mounts in a namespace of our own",
    )
    .origin("CVE-2022-0185")
    .host_may_lack(),
];

fn mount(args: &[String]) -> Act {
    let (kind, place) = (c(&args[0]), c(&args[1]));
    sys::call(libc::SYS_mount, [(&kind).into(), (&place).into(), (&kind).into(), 0.into(), Arg::Null])?;
    Ok("mounted".into())
}

fn overlay(_: &[String]) -> Act {
    let options = c("lowerdir=/usr:/opt");
    let arguments = [c("overlay").into(), c("/tmp").into(), c("overlay").into(), 0.into(), (&options).into()];
    sys::call(libc::SYS_mount, arguments)?;
    Ok("mounted".into())
}

fn old_mount(from: &str, to: &str, flags: u64) -> Act {
    let arguments = [c(from).into(), c(to).into(), Arg::Null, flags.into(), Arg::Null];
    sys::call(libc::SYS_mount, arguments)?;
    Ok("done".into())
}

fn bind(args: &[String]) -> Act {
    old_mount(&args[0], &args[1], libc::MS_BIND | libc::MS_REC)
}

fn remount(args: &[String]) -> Act {
    // Where /usr is no mount of its own it has to become one: the kernel asks for the right first.
    match old_mount("none", &args[0], libc::MS_REMOUNT | libc::MS_BIND) {
        Err(refused) if refused.errno == EINVAL => {
            old_mount("none", "/proc", libc::MS_REMOUNT | libc::MS_BIND)
        }
        other => other,
    }
}

fn propagation(_: &[String]) -> Act {
    old_mount("none", "/", libc::MS_SHARED | libc::MS_REC)
}

fn move_old(args: &[String]) -> Act {
    old_mount(&args[0], &args[1], libc::MS_MOVE)
}

fn umount(args: &[String]) -> Act {
    sys::call(libc::SYS_umount2, [c(&args[0]).into(), libc::MNT_DETACH.into()])?;
    Ok("unmounted".into())
}

fn fsopen(args: &[String]) -> Act {
    sys::call(libc::SYS_fsopen, [c(&args[0]).into(), 0.into()])?;
    Ok("open".into())
}

fn fspick(args: &[String]) -> Act {
    match sys::call(libc::SYS_fspick, [AT_FDCWD.into(), c(&args[0]).into(), 0.into()]) {
        Err(error) if error.raw_os_error() == Some(EINVAL) => {
            sys::call(libc::SYS_fspick, [AT_FDCWD.into(), c("/proc").into(), 0.into()])?;
        }
        other => drop(other?),
    }
    Ok("picked".into())
}

const OPEN_TREE_CLONE: i32 = 1;

fn open_tree(args: &[String]) -> Act {
    sys::call(libc::SYS_open_tree, [AT_FDCWD.into(), c(&args[0]).into(), OPEN_TREE_CLONE.into()])?;
    Ok("cloned".into())
}

/// Since Linux 6.15.
const SYS_OPEN_TREE_ATTR: i64 = 467;

fn open_tree_attr(args: &[String]) -> Act {
    let attributes = [0; 32];
    let arguments = [
        AT_FDCWD.into(),
        c(&args[0]).into(),
        OPEN_TREE_CLONE.into(),
        Arg::In(&attributes),
        attributes.len().into(),
    ];
    sys::call(SYS_OPEN_TREE_ATTR, arguments)?;
    Ok("cloned".into())
}

fn move_mount(args: &[String]) -> Act {
    let (from, to) = (c(&args[0]), c(&args[1]));
    sys::call(
        libc::SYS_move_mount,
        [AT_FDCWD.into(), (&from).into(), AT_FDCWD.into(), (&to).into(), 0.into()],
    )?;
    Ok("moved".into())
}

fn setattr(args: &[String]) -> Act {
    // struct mount_attr { set = 0, clear = MOUNT_ATTR_RDONLY, propagation, userns_fd }
    let attributes: Vec<u8> = [0u64, 1, 0, 0].iter().flat_map(|n| n.to_ne_bytes()).collect();
    let call = |path: &str| {
        let arguments =
            [AT_FDCWD.into(), c(path).into(), 0.into(), Arg::In(&attributes), attributes.len().into()];
        sys::call(libc::SYS_mount_setattr, arguments)
    };
    match call(&args[0]) {
        Err(error) if error.raw_os_error() == Some(EINVAL) => drop(call("/proc")?),
        other => drop(other?),
    }
    Ok("writable".into())
}

fn pivot_root(_: &[String]) -> Act {
    sys::call(libc::SYS_pivot_root, [c("/tmp").into(), c("/tmp").into()])?;
    Ok("turned".into())
}

fn chroot(args: &[String]) -> Act {
    sys::call(libc::SYS_chroot, [c(&args[0]).into()])?;
    Ok("entered".into())
}

fn unshare(args: &[String]) -> Act {
    let flag = match args[0].as_str() {
        "user" => libc::CLONE_NEWUSER,
        "mount" => libc::CLONE_NEWNS,
        "net" => libc::CLONE_NEWNET,
        "pid" => libc::CLONE_NEWPID,
        "cgroup" => libc::CLONE_NEWCGROUP,
        "uts" => libc::CLONE_NEWUTS,
        "ipc" => libc::CLONE_NEWIPC,
        _ => 0x80, // CLONE_NEWTIME
    };
    sys::call(libc::SYS_unshare, [flag.into()])?;
    Ok("unshared".into())
}

fn clone_user(_: &[String]) -> Act {
    let flags = libc::CLONE_NEWUSER | libc::SIGCHLD;
    match sys::call(libc::SYS_clone, [flags.into(), Arg::Null, Arg::Null, Arg::Null, Arg::Null])? {
        0 => sys::exit(0),
        pid => sys::wait(i32::try_from(pid).unwrap())?,
    };
    Ok("cloned".into())
}

fn clone3_user(_: &[String]) -> Act {
    // struct clone_args, version 0: flags, …, exit_signal, …
    let mut words = [0u64; 8];
    (words[0], words[4]) = (libc::CLONE_NEWUSER as u64, libc::SIGCHLD as u64);
    let arguments: Vec<u8> = words.iter().flat_map(|n| n.to_ne_bytes()).collect();
    match sys::call(libc::SYS_clone3, [Arg::In(&arguments), arguments.len().into()])? {
        0 => sys::exit(0),
        pid => sys::wait(i32::try_from(pid).unwrap())?,
    };
    Ok("cloned".into())
}

fn setns(args: &[String]) -> Act {
    let namespace = File::open(&args[0])?;
    sys::call(libc::SYS_setns, [namespace.as_raw_fd().into(), 0.into()])?;
    Ok("entered".into())
}

fn setns_pidfd(args: &[String]) -> Act {
    let pid: i32 = args[0].parse().expect("a pid");
    let pidfd = sys::call(libc::SYS_pidfd_open, [pid.into(), 0.into()])?;
    let flags = libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    sys::call(libc::SYS_setns, [pidfd.into(), flags.into()])?;
    Ok("entered".into())
}

fn parent_namespace(_: &[String]) -> Act {
    /// `NS_GET_PARENT` of `ioctl_ns(2)`.
    const GET_PARENT: i64 = 0xb702;
    let own = File::open("/proc/self/ns/user")?;
    let parent = sys::call(libc::SYS_ioctl, [own.as_raw_fd().into(), GET_PARENT.into(), 0.into()])?;
    Ok(format!("descriptor {parent}"))
}

fn uid_map(_: &[String]) -> Act {
    std::fs::write("/proc/self/uid_map", "0 0 1\n")?;
    Ok("written".into())
}

fn userns_mount(_: &[String]) -> Act {
    if let Fork::Parent(pid) = sys::fork()? {
        let status = sys::wait(pid)?;
        return match libc::WEXITSTATUS(status) {
            0 => Ok("mounted".into()),
            errno => Err(std::io::Error::from_raw_os_error(errno).into()),
        };
    }
    let result = unshare(&["user".into()])
        .and_then(|_| unshare(&["mount".into()]))
        .and_then(|_| mount(&["tmpfs".into(), "/tmp".into()]));
    sys::exit(result.err().map_or(0, |refused| if refused.errno == 0 { ENOENT } else { refused.errno }))
}
