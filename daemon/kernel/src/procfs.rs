//! What /proc tells of a process, through a directory descriptor: no path, no current root.

use std::io::{Read as _, Write as _};
use std::os::fd::{BorrowedFd, OwnedFd};

use agentd_policy::text;
use rustix::fs::{Mode, OFlags};
use rustix::process::Pid;

/// The most that is read of any file here.
const MAX: u64 = 64 << 10;

/// The least that an `oom_score_adj` can be.
const OOM_NEVER: i32 = -1000;

/// What identifies a process to its own session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ids {
    /// In its innermost pid namespace.
    pub pid: u32,
    /// Its parent, as the reader sees it.
    pub parent: u32,
}

/// Opens the host's /proc.
///
/// # Errors
/// As `open(2)`.
pub fn open() -> std::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open("/proc", flags, Mode::empty())?)
}

fn read(proc: BorrowedFd<'_>, path: String) -> std::io::Result<Vec<u8>> {
    let file = rustix::fs::openat(proc, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut bytes = Vec::new();
    std::fs::File::from(file).take(MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The ids of `pid`.
///
/// # Errors
/// `ENOENT` or `ESRCH` once it is gone.
pub fn ids(proc: BorrowedFd<'_>, pid: i32) -> std::io::Result<Ids> {
    let text = read(proc, format!("{pid}/status"))?;
    Ok(parse_ids(&String::from_utf8_lossy(&text)))
}

pub(crate) fn parse_ids(status: &str) -> Ids {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    let number = |text: Option<&str>| text.and_then(|t| t.trim().parse().ok()).unwrap_or(0);
    Ids {
        pid: number(field("NSpid:").and_then(|line| line.split_whitespace().next_back())),
        parent: number(field("PPid:")),
    }
}

/// The real uid of `pid`.
///
/// # Errors
/// `ENOENT` or `ESRCH` once it is gone.
pub fn uid(proc: BorrowedFd<'_>, pid: i32) -> std::io::Result<u32> {
    let text = read(proc, format!("{pid}/status"))?;
    let text = String::from_utf8_lossy(&text);
    let ids = text.lines().find_map(|line| line.strip_prefix("Uid:"));
    let uid = ids.and_then(|ids| ids.split_whitespace().next()).and_then(|id| id.parse().ok());
    uid.ok_or_else(|| std::io::Error::other("/proc tells no uid"))
}

/// The cgroup2 group of `pid`, as the reader's cgroup namespace sees it.
///
/// # Errors
/// `ENOENT` or `ESRCH` once it is gone.
pub fn cgroup(proc: BorrowedFd<'_>, pid: i32) -> std::io::Result<String> {
    let text = read(proc, format!("{pid}/cgroup"))?;
    let text = String::from_utf8_lossy(&text);
    let path = text.lines().find_map(|line| line.strip_prefix("0::"));
    path.map(str::to_owned).ok_or_else(|| std::io::Error::other("/proc tells no cgroup2 group"))
}

/// Every process.
///
/// # Errors
/// As `getdents64(2)`.
pub fn pids(proc: BorrowedFd<'_>) -> std::io::Result<Vec<i32>> {
    let mut pids = Vec::new();
    for entry in rustix::fs::Dir::read_from(proc)? {
        pids.extend(entry?.file_name().to_str().ok().and_then(|name| name.parse::<i32>().ok()));
    }
    Ok(pids)
}

/// Sets how readily the OOM killer takes `pid`, or this process (proc_pid_oom_score_adj(5)).
///
/// # Errors
/// `EACCES` for less than before without `CAP_SYS_RESOURCE`.
pub fn set_oom_score_adj(proc: BorrowedFd<'_>, pid: Option<Pid>, value: i32) -> std::io::Result<()> {
    let name = pid.map_or("self".to_owned(), |pid| pid.as_raw_nonzero().to_string());
    let path = format!("{name}/oom_score_adj");
    let file = rustix::fs::openat(proc, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    std::fs::File::from(file).write_all(value.to_string().as_bytes())
}

/// The OOM killer shall take others than this process and its children, where that is permitted. Whether it is.
///
/// # Errors
/// As `write(2)`, but for `EACCES`.
pub fn spare_from_oom(proc: BorrowedFd<'_>) -> std::io::Result<bool> {
    match set_oom_score_adj(proc, None, OOM_NEVER) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Ok(false),
        Err(error) => Err(error),
    }
}

/// Where the image of `pid` keeps its arguments: changes whenever the image does.
///
/// # Errors
/// `ENOENT` or `ESRCH` once it is gone.
pub fn image(proc: BorrowedFd<'_>, pid: i32) -> std::io::Result<[u64; 3]> {
    let text = read(proc, format!("{pid}/stat"))?;
    Ok(parse_image(&String::from_utf8_lossy(&text)))
}

/// `startcode`, `startstack` and `arg_start` of proc_pid_stat(5), which follow a name that may hold
/// anything, so they are counted from its closing parenthesis.
pub(crate) fn parse_image(stat: &str) -> [u64; 3] {
    let after = stat.rfind(')').map_or("", |at| &stat[at + 1..]);
    let fields: Vec<&str> = after.split_whitespace().collect();
    // The first field behind the name is number 3.
    [26, 28, 48].map(|n| fields.get(n - 3).and_then(|f| f.parse().ok()).unwrap_or(0))
}

/// The arguments as the process has them in its memory: a claim.
///
/// # Errors
/// `ENOENT` or `ESRCH` once it is gone.
pub fn arguments(proc: BorrowedFd<'_>, pid: i32) -> std::io::Result<Vec<String>> {
    let bytes = read(proc, format!("{pid}/cmdline"))?;
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    Ok(bytes.split(|b| *b == 0).map(text::from_bytes).collect())
}

/// What `link` (`exe`, `fd/7`) of `pid` (a number or `self`) points to, as events have it: [`text::from_bytes`].
///
/// # Errors
/// As `readlinkat(2)`.
pub fn link_text(proc: BorrowedFd<'_>, pid: &str, link: &str) -> std::io::Result<String> {
    let target = rustix::fs::readlinkat(proc, format!("{pid}/{link}"), Vec::with_capacity(256))?;
    Ok(text::from_bytes(target.as_bytes()))
}

/// What `link` (`exe`, `fd/7`) of `pid` (a number or `self`) points to.
///
/// # Errors
/// As `readlinkat(2)`.
pub fn link(proc: BorrowedFd<'_>, pid: &str, link: &str) -> std::io::Result<String> {
    let target = rustix::fs::readlinkat(proc, format!("{pid}/{link}"), Vec::with_capacity(256))?;
    Ok(target.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn ourselves() {
        let proc = open().unwrap();
        let own = std::process::id();
        assert_eq!(ids(proc.as_fd(), own as i32).unwrap().pid, own);
        assert!(image(proc.as_fd(), own as i32).unwrap().iter().all(|n| *n != 0));
        assert!(!arguments(proc.as_fd(), own as i32).unwrap().is_empty());
        assert!(link(proc.as_fd(), "self", "exe").unwrap().starts_with('/'));
        assert!(ids(proc.as_fd(), i32::MAX).is_err());
        assert_eq!(uid(proc.as_fd(), own as i32).unwrap(), rustix::process::getuid().as_raw());
        assert!(pids(proc.as_fd()).unwrap().contains(&(own as i32)));
        assert!(cgroup(proc.as_fd(), own as i32).unwrap().starts_with('/'));
        // What it is already can be set without any right.
        let before = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap().trim().parse().unwrap();
        set_oom_score_adj(proc.as_fd(), None, before).unwrap();
    }

    #[test]
    fn hostile_names_do_not_shift_fields() {
        let mut fields: Vec<String> = (3..=52).map(|n| n.to_string()).collect();
        fields[0] = "S".into();
        let stat = format!("7 (a ) 1 2 3) {}", fields.join(" "));
        assert_eq!(parse_image(&stat), [26, 28, 48]);
        assert_eq!(parse_image(""), [0; 3]);
        assert_eq!(parse_ids("Name:\tx\nPPid:\t5\nNSpid:\t900\t7\n"), Ids { pid: 7, parent: 5 });
    }
}
