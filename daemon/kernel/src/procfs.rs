//! What /proc shows of a process, through a directory descriptor: no path, no current root.

use std::io::Write as _;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use agentd_policy::text;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::process::Pid;

/// The most that is read of any file here.
const MAX: usize = 64 << 10;
/// What is read at first.
const FIRST: usize = 4096;

/// What is looked at of a descriptor's: its first four lines.
const FDINFO: usize = 128;

/// The least that an `oom_score_adj` can be.
const OOM_NEVER: i32 = -1000;

/// What identifies a process to its own session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ids {
    /// In its innermost pid namespace.
    pub pid: u32,
    /// Its parent, as the reader sees it.
    pub parent: u32,
    /// Its thread group, as the reader sees it: the process's number.
    pub group: u32,
}

/// Opens the host's /proc.
///
/// # Errors
/// As `open(2)`.
pub fn open() -> std::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open("/proc", flags, Mode::empty())?)
}

/// Lets nobody in the caller's user namespace make one below it (`namespaces(7)`, `ENOSPC`), for good.
///
/// # Errors
/// As `openat(2)` and `write(2)`; or if the limit is another afterwards.
pub fn no_user_namespaces(proc: BorrowedFd<'_>) -> std::io::Result<()> {
    let path = "sys/user/max_user_namespaces";
    let file = rustix::fs::openat(proc, path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, b"0")?;
    let mut text = [0; 16];
    let count = rustix::io::pread(&file, &mut text, 0)?;
    match text.get(..count) {
        Some(b"0\n") => Ok(()),
        _ => Err(std::io::Error::other("the limit of user namespaces is another after it was set")),
    }
}

fn read(proc: BorrowedFd<'_>, path: String) -> std::io::Result<Vec<u8>> {
    let file = rustix::fs::openat(proc, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut bytes = vec![0; FIRST];
    let mut filled = 0;
    // Most files come as a whole; the kernel makes up some of them anew for each read.
    while filled < MAX {
        if filled == bytes.len() {
            bytes.resize((2 * filled).min(MAX), 0);
        }
        let room = bytes.len() - filled;
        let read = rustix::io::retry_on_intr(|| rustix::io::read(&file, &mut bytes[filled..]))?;
        filled += read;
        // Those that are read here are made as a whole (single_open() in the kernel): what leaves room is all.
        if read < room {
            break;
        }
    }
    bytes.truncate(filled);
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
        group: number(field("Tgid:")),
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
    uid.ok_or_else(|| std::io::Error::other("/proc shows no uid"))
}

/// The cgroup2 group of `pid`, as the reader's cgroup namespace sees it.
///
/// # Errors
/// `ENOENT` or `ESRCH` once it is gone.
pub fn cgroup(proc: BorrowedFd<'_>, pid: i32) -> std::io::Result<String> {
    let text = read(proc, format!("{pid}/cgroup"))?;
    let text = String::from_utf8_lossy(&text);
    let path = text.lines().find_map(|line| line.strip_prefix("0::"));
    path.map(str::to_owned).ok_or_else(|| std::io::Error::other("/proc shows no cgroup2 group"))
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

/// A file, whatever its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileId {
    /// Of its file system.
    pub device: u64,
    /// The number of the file there.
    pub inode: u64,
}

impl FileId {
    /// The file that `fd` is open on.
    ///
    /// # Errors
    /// As `fstat(2)`.
    pub fn of(fd: BorrowedFd<'_>) -> std::io::Result<Self> {
        Ok(Self::from(rustix::fs::fstat(fd)?))
    }
}

impl From<rustix::fs::Stat> for FileId {
    fn from(stat: rustix::fs::Stat) -> Self {
        Self { device: stat.st_dev, inode: stat.st_ino }
    }
}

/// The file that `pid` runs. The kernel sets it with the image; a process without capabilities cannot change it.
///
/// # Errors
/// `ENOENT` once it is gone, `EACCES` if the reader may not know.
pub fn running(proc: BorrowedFd<'_>, pid: i32) -> std::io::Result<FileId> {
    Ok(FileId::from(rustix::fs::statat(proc, format!("{pid}/exe"), AtFlags::empty())?))
}

/// A process's image, as far as it differs from another of the same file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// When the process began, in ticks since boot: no other with its number has the same.
    pub began: u64,
    /// Whether it was forked and has had no image of its own since (`PF_FORKNOEXEC`).
    pub forked: bool,
    /// Where code and stack begin and the arguments are.
    pub places: [u64; 3],
}

/// The memory of `pid`.
///
/// # Errors
/// `ENOENT` or `ESRCH` once it is gone.
pub fn memory(proc: BorrowedFd<'_>, pid: i32) -> std::io::Result<Memory> {
    let text = read(proc, format!("{pid}/stat"))?;
    parse_memory(&String::from_utf8_lossy(&text))
        .ok_or_else(|| std::io::Error::other("/proc/PID/stat is short"))
}

/// `flags`, `starttime`, `startcode`, `startstack` and `arg_start` of proc_pid_stat(5), which follow a name that may
/// hold anything, so they are counted from its closing parenthesis.
pub(crate) fn parse_memory(stat: &str) -> Option<Memory> {
    const PF_FORKNOEXEC: u64 = 0x40;
    let after = &stat[stat.rfind(')')? + 1..];
    let fields: Vec<&str> = after.split_whitespace().collect();
    // The first field behind the name is number 3.
    let number = |n: usize| fields.get(n - 3)?.parse::<u64>().ok();
    Some(Memory {
        began: number(22)?,
        forked: number(9)? & PF_FORKNOEXEC != 0,
        places: [number(26)?, number(28)?, number(48)?],
    })
}

/// What a thread does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThreadState {
    /// It waits in `execve(2)` or `execveat(2)`.
    InExec,
    /// It waits elsewhere.
    Elsewhere,
    /// It runs, so /proc does not show it.
    Running,
    /// There is none of that number in the process.
    Gone,
}

/// What thread `thread` of process `pid` does (proc_pid_syscall(5)).
///
/// # Errors
/// `EPERM` if the reader may not know.
pub fn thread_state(proc: BorrowedFd<'_>, pid: i32, thread: i32) -> std::io::Result<ThreadState> {
    let text = match read(proc, format!("{pid}/task/{thread}/syscall")) {
        Ok(text) => text,
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => {
            return Ok(ThreadState::Gone);
        }
        Err(error) => return Err(error),
    };
    Ok(parse_thread_state(&String::from_utf8_lossy(&text)))
}

pub(crate) fn parse_thread_state(syscall: &str) -> ThreadState {
    match syscall.split_whitespace().next().map(str::parse::<i64>) {
        Some(Ok(libc::SYS_execve | libc::SYS_execveat)) => ThreadState::InExec,
        Some(Ok(_)) => ThreadState::Elsewhere,
        Some(Err(_)) | None => ThreadState::Running,
    }
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

/// What distinguishes sockets from other files: all of them are on one file system, which is mounted once for the
/// kernel itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketMount(u64);

impl SocketMount {
    /// As a socket of the calling process shows it.
    ///
    /// # Errors
    /// If /proc shows neither mount nor inode of a descriptor (before Linux 5.14).
    pub fn of(proc: BorrowedFd<'_>, socket: BorrowedFd<'_>) -> std::io::Result<Self> {
        let text = read(proc, format!("self/fdinfo/{}", std::os::fd::AsRawFd::as_raw_fd(&socket)))?;
        let (mount, _) = parse_fdinfo(&text).ok_or_else(|| std::io::Error::other("fdinfo shows no inode"))?;
        Ok(Self(mount))
    }

    /// Whether `pid` has a descriptor of the socket with that inode. At most `budget` descriptors are looked at, and
    /// taken from it; `None` if that was too few to know.
    ///
    /// # Errors
    /// `ENOENT` or `ESRCH` once it is gone, `EACCES` if the reader may not know.
    pub fn has(
        self,
        proc: BorrowedFd<'_>,
        pid: i32,
        inode: u32,
        budget: &mut usize,
    ) -> std::io::Result<Option<bool>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(proc, format!("{pid}/fdinfo"), flags, Mode::empty())?;
        for entry in rustix::fs::Dir::read_from(&dir)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if !name.bytes().all(|byte| byte.is_ascii_digit()) {
                continue;
            }
            let Some(left) = budget.checked_sub(1) else { return Ok(None) };
            *budget = left;
            // One that was closed meanwhile is none.
            let Ok(text) = read(dir.as_fd(), name.to_owned()) else { continue };
            if parse_fdinfo(&text) == Some((self.0, inode.into())) {
                return Ok(Some(true));
            }
        }
        Ok(Some(false))
    }
}

/// `mnt_id` and `ino` of proc_pid_fdinfo(5), which come before what the file's own kind has to say.
pub(crate) fn parse_fdinfo(text: &[u8]) -> Option<(u64, u64)> {
    let text = std::str::from_utf8(text.get(..text.len().min(FDINFO))?).ok()?;
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    Some((field("mnt_id:")?, field("ino:")?))
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
        let own = std::process::id().cast_signed();
        assert_eq!(ids(proc.as_fd(), own).unwrap().pid, own.cast_unsigned());
        let now = memory(proc.as_fd(), own).unwrap();
        assert!(now.places.iter().all(|n| *n != 0) && !now.forked && now.began != 0);
        let exe = std::fs::File::open("/proc/self/exe").unwrap();
        assert_eq!(running(proc.as_fd(), own).unwrap(), FileId::of(exe.as_fd()).unwrap());
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        // In the call that reads it.
        assert_eq!(thread_state(proc.as_fd(), own, thread).unwrap(), ThreadState::Elsewhere);
        assert_eq!(thread_state(proc.as_fd(), own, 1).unwrap(), ThreadState::Gone);
        assert!(!arguments(proc.as_fd(), own).unwrap().is_empty());
        assert!(link(proc.as_fd(), "self", "exe").unwrap().starts_with('/'));
        assert!(ids(proc.as_fd(), i32::MAX).is_err());
        assert_eq!(uid(proc.as_fd(), own).unwrap(), rustix::process::getuid().as_raw());
        assert!(pids(proc.as_fd()).unwrap().contains(&own));
        assert!(cgroup(proc.as_fd(), own).unwrap().starts_with('/'));
        // What it is already can be set without any right.
        let before = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap().trim().parse().unwrap();
        set_oom_score_adj(proc.as_fd(), None, before).unwrap();
    }

    #[test]
    fn hostile_names_do_not_shift_fields() {
        let mut fields: Vec<String> = (3..=52).map(|n| n.to_string()).collect();
        fields[0] = "S".into();
        let stat = format!("7 (a ) 1 2 3) {}", fields.join(" "));
        let memory = Memory { began: 22, forked: false, places: [26, 28, 48] };
        assert_eq!(parse_memory(&stat), Some(memory));
        let forked = stat.replacen(" 9 ", " 73 ", 1);
        assert_eq!(parse_memory(&forked), Some(Memory { forked: true, ..memory }));
        assert_eq!((parse_memory(""), parse_memory("7 (x) S 1")), (None, None));
        let ids = Ids { pid: 7, parent: 5, group: 9 };
        assert_eq!(parse_ids("Name:\tx\nTgid:\t9\nPPid:\t5\nNSpid:\t900\t7\n"), ids);
    }

    #[test]
    fn whose_a_socket_is() {
        let proc = open().unwrap();
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let mount = SocketMount::of(proc.as_fd(), socket.as_fd()).unwrap();
        let inode = u32::try_from(rustix::fs::fstat(&socket).unwrap().st_ino).unwrap();
        let own = std::process::id().cast_signed();
        let has = |inode, mut budget| mount.has(proc.as_fd(), own, inode, &mut budget).unwrap();
        assert_eq!(
            (has(inode, 4096), has(u32::MAX, 4096), has(u32::MAX, 1)),
            (Some(true), Some(false), None)
        );
        assert!(mount.has(proc.as_fd(), i32::MAX, inode, &mut 9).is_err());
        assert_eq!(parse_fdinfo(b"pos:\t0\nflags:\t02\nmnt_id:\t10\nino:\t77\n"), Some((10, 77)));
        assert_eq!((parse_fdinfo(b""), parse_fdinfo(b"mnt_id:\t1\nino:\tx\n")), (None, None));
    }

    #[test]
    fn where_a_thread_is() {
        assert_eq!(parse_thread_state("running\n"), ThreadState::Running);
        assert_eq!(parse_thread_state("59 0x7f 0x7f 0x7f 0x0 0x0 0x0 0x7f 0x7f\n"), ThreadState::InExec);
        assert_eq!(parse_thread_state("322 0x7f\n"), ThreadState::InExec);
        assert_eq!(parse_thread_state("-1 0x7f 0x7f\n"), ThreadState::Elsewhere);
        assert_eq!(parse_thread_state("61 0x7f 0x7f\n"), ThreadState::Elsewhere);
        assert_eq!(parse_thread_state(""), ThreadState::Running);
    }
}
