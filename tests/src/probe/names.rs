//! Names inside a workspace that are masked or protected, and bits that make a file more than a file.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use libc::{AT_FDCWD, EACCES, EBUSY, EINVAL, ENODATA, ENOENT, ENOSYS, EPERM, EROFS, EXDEV};

use super::case::{Act, Case, Outside, Refused, case};
use super::sys::{self, Arg, c};

const DIRECT: &[&str] = &["--workspace", "{ws}:direct", "--mask", "conf/secret.key"];
const OVERLAY: &[&str] = &["--workspace", "{ws}:overlay", "--mask", "conf/secret.key"];
const BUSY: &[i32] = &[EBUSY, EXDEV, EACCES, EPERM, EROFS];
const LOCKED: &[i32] = &[EROFS, EACCES, EPERM];
const FILTERED: &[i32] = &[EPERM, ENOSYS];

pub const CASES: &[Case] = &[
    case(
        "mask_read",
        reads_marker,
        &["{ws}/.env", "{marker}"],
        &[ENODATA, ENOENT, EACCES],
        Outside::User,
        "a masked file's content",
    )
    .options(DIRECT),
    case(
        "mask_read_overlay",
        reads_marker,
        &["{ws}/.env", "{marker}"],
        &[ENODATA, ENOENT, EACCES],
        Outside::User,
        "the same, below an overlay",
    )
    .options(OVERLAY),
    case(
        "mask_read_nested",
        reads_marker,
        &["{ws}/conf/secret.key", "{marker}"],
        &[ENODATA, ENOENT, EACCES],
        Outside::User,
        "a masked file further down",
    )
    .options(DIRECT),
    case(
        "mask_by_fd",
        reads_marker,
        &["/proc/self/cwd/conf/../.env", "{marker}"],
        &[ENODATA, ENOENT, EACCES],
        Outside::User,
        "a masked file by another way to it",
    )
    .options(DIRECT),
    case(
        "mask_unlink",
        unlink_and_look,
        &["{ws}/.env", "{marker}"],
        BUSY,
        Outside::User,
        "what is below a mask, by taking the mask away",
    )
    .options(DIRECT),
    case(
        "mask_rename",
        rename_over,
        &["{ws}/.env", "{ws}/env"],
        BUSY,
        Outside::User,
        "a masked file under another name",
    )
    .options(DIRECT),
    case(
        "mask_rename_ancestor",
        rename_over,
        &["{ws}/conf", "{ws}/conf2"],
        BUSY,
        Outside::User,
        "a masked file in a renamed directory",
    )
    .options(DIRECT)
    .origin("mount-point races, CVE-2019-10144 and kin"),
    case(
        "mask_rename_ancestor_overlay",
        rename_over,
        &["{ws}/conf", "{ws}/conf2"],
        BUSY,
        Outside::User,
        "the same in an overlay",
    )
    .options(OVERLAY),
    case(
        "mask_exchange",
        exchange,
        &["{ws}/conf", "{ws}/other"],
        BUSY,
        Outside::User,
        "a directory of our own in the place of a masked file's",
    )
    .options(DIRECT)
    .origin("CVE-2021-30465"),
    case(
        "mask_hardlink",
        hard_link,
        &["{ws}/.env", "{ws}/hard"],
        BUSY,
        Outside::User,
        "a second name of a masked file",
    )
    .options(DIRECT),
    case(
        "mask_symlink_swap",
        symlink_swap,
        &["{ws}/conf"],
        BUSY,
        Outside::User,
        "a link where a masked file's directory was",
    )
    .options(DIRECT)
    .origin("CVE-2018-15664"),
    case(
        "mask_race",
        race,
        &["{ws}/conf", "{ws}/other", "secret.key", "{marker}"],
        &[ENODATA],
        Outside::User,
        "a masked file, by swapping names while it is opened",
    )
    .options(DIRECT)
    .origin("CVE-2018-15664, CVE-2021-30465"),
    case(
        "mask_bind_ns",
        mask_umount,
        &["{ws}/.env"],
        &[EPERM, ENOSYS],
        Outside::Nowhere("unmounting what nothing covers cannot work"),
        "a masked file, by unmounting the mask",
    )
    .options(DIRECT),
    case(
        "protect_config_replace",
        replace,
        &["{ws}/.git/config"],
        BUSY,
        Outside::User,
        "the same, as git itself writes it: by renaming",
    )
    .options(DIRECT),
    case(
        "protect_rename",
        rename_over,
        &["{ws}/.git", "{ws}/git"],
        BUSY,
        Outside::User,
        "a .git of our own, with hooks",
    )
    .options(DIRECT),
    case(
        "protect_exchange",
        exchange,
        &["{ws}/.git", "{ws}/other"],
        BUSY,
        Outside::User,
        "the same, in one step",
    )
    .options(DIRECT),
    case(
        "protect_hooks_link",
        symlink_swap,
        &["{ws}/.git/hooks"],
        BUSY,
        Outside::User,
        "hooks from a directory of our own",
    )
    .options(DIRECT)
    .origin("CVE-2024-32002"),
    case(
        "ro_workspace_write",
        append,
        &["{ws}/README"],
        LOCKED,
        Outside::User,
        "changes to a read-only workspace",
    )
    .options(&["--workspace", "{ws}:ro"]),
    case(
        "setuid_program",
        euid_of,
        &["{ws}/suid-probe"],
        &[EPERM, EACCES],
        Outside::User,
        "root, through a program that has the bit",
    )
    .options(DIRECT)
    .seen("process.exec", &[("/exec/path", "{ws}/suid-probe"), ("/decision", "allow")]),
    case(
        "setuid_system_program",
        euid_of_system,
        &[],
        &[EPERM, EACCES],
        Outside::Nowhere("su and its kin ask for passwords"),
        "root, through the host's own programs",
    )
    .options(DIRECT),
    case(
        "setuid_chmod",
        chmod,
        &["{ws}/own", "4755"],
        FILTERED,
        Outside::User,
        "a program on the host's disk that runs as the user, for others",
    )
    .recorded_call("chmod")
    .options(DIRECT),
    case("setuid_fchmod", fchmod, &["{ws}/own", "4755"], FILTERED, Outside::User, "the same, by descriptor")
        .recorded_call("fchmod")
        .options(DIRECT),
    case(
        "setuid_fchmodat2",
        fchmodat2,
        &["{ws}/own", "2755"],
        FILTERED,
        Outside::User,
        "the same, by a newer call",
    )
    .recorded_call("fchmodat2")
    .options(DIRECT)
    .host_may_lack(),
    case("setuid_open", open_mode, &["{ws}/made", "4755"], FILTERED, Outside::User, "the same, from birth")
        .options(DIRECT),
    case("setuid_creat", creat, &["{ws}/made2", "6755"], FILTERED, Outside::User, "the same, by an old call")
        .recorded_call("creat")
        .options(DIRECT),
    case(
        "setuid_openat2",
        openat2,
        &["{ws}/made3"],
        FILTERED,
        Outside::User,
        "the same, in an argument that no filter sees",
    )
    .options(DIRECT),
    case("setuid_mknod", mknod_file, &["{ws}/made4"], FILTERED, Outside::User, "the same, by mknod")
        .recorded_call("mknodat")
        .options(DIRECT),
    case(
        "setgid_mkdir",
        mkdir_mode,
        &["{ws}/dir", "2777"],
        &[ENODATA],
        Outside::Nowhere("mkdir(2) drops the bit by itself"),
        "a directory whose files take its group",
    )
    .options(DIRECT),
    case(
        "setuid_symlink_tmp",
        chmod,
        &["/proc/self/cwd/own", "4755"],
        FILTERED,
        Outside::User,
        "the same through a magic link",
    )
    .options(DIRECT),
    case(
        "file_capabilities",
        capabilities,
        &["{ws}/own"],
        &[EPERM, EACCES],
        Outside::Root,
        "a program with capabilities, on the host's disk",
    )
    .options(DIRECT)
    .origin("CVE-2021-3493, CVE-2023-2640"),
    case(
        "device_node",
        device_node,
        &["{ws}/disk"],
        &[EPERM, ENOSYS],
        Outside::Apart,
        "the host's disk, by its number",
    )
    .options(DIRECT),
    case(
        "chown_root",
        chown,
        &["{ws}/own"],
        &[EPERM, EINVAL, libc::EOVERFLOW],
        Outside::Root,
        "a file of root's on the host's disk",
    )
    .options(DIRECT),
];

fn reads_marker(args: &[String]) -> Act {
    let text = fs::read_to_string(&args[0])?;
    if text.contains(&args[1]) {
        Ok(text)
    } else {
        Err(Refused::new(ENODATA, format!("{} bytes", text.len())))
    }
}

fn unlink_and_look(args: &[String]) -> Act {
    fs::remove_file(&args[0])?;
    // Outside there is nothing below: that the name could be taken away is what counts.
    Ok(reads_marker(args).unwrap_or_else(|_| "unlinked".into()))
}

fn rename_over(args: &[String]) -> Act {
    fs::rename(&args[0], &args[1])?;
    Ok("renamed".into())
}

fn exchange(args: &[String]) -> Act {
    use rustix::fs::{CWD, RenameFlags};
    rustix::fs::renameat_with(CWD, &args[0], CWD, &args[1], RenameFlags::EXCHANGE)?;
    Ok("exchanged".into())
}

fn hard_link(args: &[String]) -> Act {
    fs::hard_link(&args[0], &args[1])?;
    Ok("linked".into())
}

fn symlink_swap(args: &[String]) -> Act {
    let link = format!("{}.link", args[0]);
    let aside = format!("{}.aside", args[0]);
    symlink("/tmp", &link)?;
    fs::rename(&args[0], &aside)?;
    fs::rename(&link, &args[0])?;
    Ok("swapped".into())
}

/// Renames back and forth in one process while another opens.
fn race(args: &[String]) -> Act {
    let (dir, other, file, marker) = (&args[0], &args[1], &args[2], &args[3]);
    if let sys::Fork::Child = sys::fork()? {
        for _ in 0..3000 {
            exchange(&[dir.clone(), other.clone()]).ok();
            fs::rename(dir, format!("{dir}.race")).ok();
            fs::rename(format!("{dir}.race"), dir).ok();
        }
        sys::exit(0);
    }
    for _ in 0..3000 {
        for at in [dir, other, &format!("{dir}.race")] {
            if let Ok(text) = fs::read_to_string(Path::new(at).join(file))
                && text.contains(marker)
            {
                return Ok(format!("read at {at}"));
            }
        }
    }
    Err(Refused::new(ENODATA, "never seen"))
}

fn mask_umount(args: &[String]) -> Act {
    for flags in [0, libc::MNT_DETACH, libc::UMOUNT_NOFOLLOW] {
        sys::call(libc::SYS_umount2, [c(&args[0]).into(), flags.into()])?;
    }
    Ok("unmounted".into())
}

fn append(args: &[String]) -> Act {
    OpenOptions::new().append(true).open(&args[0])?.write_all(b"#\n")?;
    Ok("written".into())
}

fn replace(args: &[String]) -> Act {
    let new = format!("{}.lock", args[0]);
    fs::write(&new, "[core]\n\tfsmonitor = /bin/true\n")?;
    fs::rename(&new, &args[0])?;
    Ok("replaced".into())
}

fn mode(args: &[String]) -> u32 {
    u32::from_str_radix(&args[1], 8).expect("a mode in octal")
}

fn chmod(args: &[String]) -> Act {
    fs::set_permissions(&args[0], fs::Permissions::from_mode(mode(args)))?;
    has_bits(args)
}

fn fchmod(args: &[String]) -> Act {
    File::open(&args[0])?.set_permissions(fs::Permissions::from_mode(mode(args)))?;
    has_bits(args)
}

/// Not in every libc yet.
const SYS_FCHMODAT2: i64 = 452;

fn fchmodat2(args: &[String]) -> Act {
    sys::call(SYS_FCHMODAT2, [AT_FDCWD.into(), c(&args[0]).into(), mode(args).into(), 0.into()])?;
    has_bits(args)
}

fn open_mode(args: &[String]) -> Act {
    OpenOptions::new().write(true).create_new(true).mode(mode(args)).open(&args[0])?;
    has_bits(args)
}

fn creat(args: &[String]) -> Act {
    sys::call(libc::SYS_creat, [c(&args[0]).into(), mode(args).into()])?;
    has_bits(args)
}

fn openat2(args: &[String]) -> Act {
    // struct open_how { flags, mode, resolve }
    let how: Vec<u8> =
        [(libc::O_CREAT | libc::O_WRONLY) as u64, 0o4755, 0].iter().flat_map(|n| n.to_ne_bytes()).collect();
    let arguments = [AT_FDCWD.into(), c(&args[0]).into(), Arg::In(&how), how.len().into()];
    sys::call(libc::SYS_openat2, arguments)?;
    Ok("made".into())
}

fn mknod_file(args: &[String]) -> Act {
    let mode = libc::S_IFREG | 0o4755;
    sys::call(libc::SYS_mknodat, [AT_FDCWD.into(), c(&args[0]).into(), mode.into(), 0.into()])?;
    Ok("made".into())
}

fn mkdir_mode(args: &[String]) -> Act {
    sys::call(libc::SYS_mkdirat, [AT_FDCWD.into(), c(&args[0]).into(), 0o2777.into()])?;
    has_bits(args)
}

fn has_bits(args: &[String]) -> Act {
    let mode = fs::metadata(&args[0])?.permissions().mode();
    if args.len() < 2 || mode & 0o7000 != 0 || self::mode(args) & 0o7000 == 0 {
        return Ok(format!("mode {mode:o}"));
    }
    Err(Refused::new(ENODATA, format!("mode {mode:o}")))
}

fn euid_of(args: &[String]) -> Act {
    let output = Command::new(&args[0]).arg("--euid").output()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if text == "euid 0" { Ok(text) } else { Err(Refused::new(EPERM, text)) }
}

/// Starts what the host has with the bit, and looks whether the kernel gave another uid to it.
fn euid_of_system(_: &[String]) -> Act {
    let own = rustix::process::geteuid().as_raw();
    for name in ["su", "passwd", "mount", "newgrp", "chfn", "sudo"] {
        let path = format!("/usr/bin/{name}");
        let Ok(mut child) = Command::new(&path).arg("--help").stdout(std::process::Stdio::piped()).spawn()
        else {
            continue;
        };
        use std::os::unix::fs::MetadataExt;
        let owner = fs::metadata(format!("/proc/{}", child.id())).map(|m| m.uid());
        child.wait()?;
        if owner.is_ok_and(|uid| uid != own && uid != 65_534) {
            return Ok(format!("{path} ran as another"));
        }
    }
    Err(Refused::new(EPERM, "all ran as the caller"))
}

fn capabilities(args: &[String]) -> Act {
    // struct vfs_cap_data, revision 2: CAP_SYS_ADMIN permitted and effective.
    let data: Vec<u8> = [0x0200_0001u32, 1 << 21, 0, 0, 0].iter().flat_map(|n| n.to_le_bytes()).collect();
    rustix::fs::setxattr(&args[0], "security.capability", &data, rustix::fs::XattrFlags::empty())?;
    Ok("set".into())
}

fn device_node(args: &[String]) -> Act {
    let number = libc::makedev(1, 1);
    let mode = libc::S_IFCHR | 0o666;
    sys::call(libc::SYS_mknodat, [AT_FDCWD.into(), c(&args[0]).into(), mode.into(), number.into()])?;
    fs::remove_file(&args[0])?;
    Ok("made".into())
}

fn chown(args: &[String]) -> Act {
    let file = File::open(&args[0])?;
    sys::call(libc::SYS_fchown, [file.as_raw_fd().into(), 0.into(), 0.into()])?;
    Ok("root's".into())
}
