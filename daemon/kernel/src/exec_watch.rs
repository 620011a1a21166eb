//! Who runs what: fanotify permission events on every mount from which programs can run (`fanotify(7)`).
//!
//! An event is an attempt: it comes when the kernel opens a file for `execve(2)`, before the image changes;
//! an ELF loader and a script's interpreter come as events of their own. The opener waits until it is
//! answered. If the last holder of the group dies, the kernel lets pending ones through.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::sys::fanotify::{
    EventFFlags, Fanotify, FanotifyResponse, InitFlags, MarkFlags, MaskFlags, Response,
};

use crate::procfs;

/// The longest path that is told, in bytes.
const MAX_PATH: usize = 4096;

/// A group of marks and its queue.
#[derive(Debug)]
pub struct ExecWatch(Fanotify);

/// One process that waits to run one file.
#[derive(Debug)]
pub struct Attempt {
    /// The process (thread group), as the reader sees it; 0 if it is in no pid namespace of the reader's.
    pub pid: i32,
    /// The file, as the session sees it, at most 4096 bytes; `None` where the kernel cannot name it.
    pub path: Option<String>,
    event: nix::sys::fanotify::FanotifyEvent,
}

/// What was read.
#[derive(Debug, Default)]
pub struct Attempts {
    /// Each must be answered.
    pub attempts: Vec<Attempt>,
    /// The kernel's queue overflowed: attempts went by unseen.
    pub overflow: bool,
}

impl ExecWatch {
    /// A new group. Needs `CAP_SYS_ADMIN`; reading and answering do not.
    ///
    /// # Errors
    /// As `fanotify_init(2)`.
    pub fn new() -> std::io::Result<Self> {
        let flags = InitFlags::FAN_CLASS_CONTENT | InitFlags::FAN_CLOEXEC | InitFlags::FAN_NONBLOCK;
        let files = EventFFlags::O_RDONLY | EventFFlags::O_CLOEXEC | EventFFlags::O_LARGEFILE;
        Ok(Self(Fanotify::init(flags, files)?))
    }

    /// Watches the mount that `place` lies on. A copy of the mount namespace does not carry the mark.
    ///
    /// # Errors
    /// As `fanotify_mark(2)`.
    pub fn mark(&self, place: BorrowedFd<'_>) -> std::io::Result<()> {
        let flags = MarkFlags::FAN_MARK_ADD | MarkFlags::FAN_MARK_MOUNT;
        Ok(self.0.mark(flags, MaskFlags::FAN_OPEN_EXEC_PERM, place, Some("."))?)
    }

    /// The same of the mount of the file `name` in `dir`.
    ///
    /// # Errors
    /// As `fanotify_mark(2)`.
    pub fn mark_file(&self, dir: BorrowedFd<'_>, name: &OsStr) -> std::io::Result<()> {
        let flags = MarkFlags::FAN_MARK_ADD | MarkFlags::FAN_MARK_MOUNT | MarkFlags::FAN_MARK_DONT_FOLLOW;
        Ok(self.0.mark(flags, MaskFlags::FAN_OPEN_EXEC_PERM, dir, Some(name))?)
    }

    /// The attempts that wait, none if there are none. `proc` is the host's /proc.
    ///
    /// # Errors
    /// As `read(2)`.
    pub fn read(&self, proc: BorrowedFd<'_>) -> std::io::Result<Attempts> {
        let events = match self.0.read_events() {
            Ok(events) => events,
            Err(nix::errno::Errno::EAGAIN) => return Ok(Attempts::default()),
            Err(errno) => return Err(errno.into()),
        };
        let mut out = Attempts::default();
        for event in events {
            let Some(fd) = event.fd() else {
                out.overflow = true;
                continue;
            };
            let path = procfs::link_text(proc, "self", &format!("fd/{}", fd.as_raw_fd())).ok();
            let path = path.filter(|path| path.len() <= MAX_PATH);
            out.attempts.push(Attempt { pid: event.pid(), path, event });
        }
        Ok(out)
    }

    /// Lets the process go on, or makes its `execve` fail with EPERM.
    ///
    /// # Errors
    /// As `write(2)`; `ENOENT` if the process was killed while it waited.
    pub fn answer(&self, attempt: Attempt, allow: bool) -> std::io::Result<()> {
        let response = if allow { Response::FAN_ALLOW } else { Response::FAN_DENY };
        if let Some(fd) = attempt.event.fd() {
            match self.0.write_response(FanotifyResponse::new(fd, response)) {
                Ok(()) | Err(nix::errno::Errno::ENOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}

impl AsFd for ExecWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
