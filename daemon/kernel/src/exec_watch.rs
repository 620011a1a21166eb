//! Who runs what: fanotify permission events on every mount from which programs can run (`fanotify(7)`).
//!
//! An event is an attempt: it comes when the kernel opens a file for `execve(2)`, before the image changes;
//! an ELF loader and a script's interpreter come as events of their own. The opener waits until it is
//! answered. If the last holder of the group dies, the kernel lets pending ones through.
//!
//! A call that fails closes what it opened before its thread is back in user mode. A second group reports such
//! closes, for the files that are asked about: two files that one thread opens were opened by one call exactly if
//! the first was not closed in between.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::fanotify::{
    EventFFlags, Fanotify, FanotifyEvent, FanotifyResponse, InitFlags, MarkFlags, MaskFlags, Response,
};

use crate::procfs::{self, FileId};

/// The longest path that is recorded, in bytes.
const MAX_PATH: usize = 4096;
/// The most reads of closes at once: a session that closes faster than they are read is not waited for.
const MAX_READS: usize = 16;

/// The two groups, their marks and queues.
#[derive(Debug)]
pub struct ExecWatch {
    execs: Fanotify,
    closes: Fanotify,
}

/// One thread that waits to run one file.
#[derive(Debug)]
pub struct Attempt {
    /// The thread, as the reader sees it; 0 if it is in no pid namespace of the reader's.
    pub thread: i32,
    /// The file, as the session sees it, at most 4096 bytes; `None` where the kernel cannot name it.
    pub path: Option<String>,
    /// The file that is to be run.
    pub file: Option<FileId>,
    event: FanotifyEvent,
}

/// What was read.
#[derive(Debug, Default)]
pub struct Attempts {
    /// Each must be answered.
    pub attempts: Vec<Attempt>,
    /// The kernel's queue overflowed: attempts went by unseen.
    pub overflow: bool,
}

/// Closes of files that are watched.
#[derive(Debug, Default)]
pub struct Closes {
    /// Which thread closed which file.
    pub closes: Vec<(i32, FileId)>,
    /// Some were lost.
    pub overflow: bool,
}

/// A file whose closes are reported.
#[derive(Debug)]
pub struct Watched(FanotifyEvent);

impl ExecWatch {
    /// New groups. Needs `CAP_SYS_ADMIN`; reading, answering and watching closes do not.
    ///
    /// # Errors
    /// As `fanotify_init(2)`.
    pub fn new() -> std::io::Result<Self> {
        let common = InitFlags::FAN_CLOEXEC | InitFlags::FAN_NONBLOCK | InitFlags::FAN_REPORT_TID;
        let files = EventFFlags::O_RDONLY | EventFFlags::O_CLOEXEC | EventFFlags::O_LARGEFILE;
        Ok(Self {
            execs: Fanotify::init(common | InitFlags::FAN_CLASS_CONTENT, files)?,
            // A group of its own: a flood of closes leaves the queue of the other as it is.
            closes: Fanotify::init(common | InitFlags::FAN_CLASS_NOTIF, files)?,
        })
    }

    /// Watches the mount that `place` lies on. A copy of the mount namespace does not carry the mark.
    ///
    /// # Errors
    /// As `fanotify_mark(2)`.
    pub fn mark(&self, place: BorrowedFd<'_>) -> std::io::Result<()> {
        let flags = MarkFlags::FAN_MARK_ADD | MarkFlags::FAN_MARK_MOUNT;
        Ok(self.execs.mark(flags, MaskFlags::FAN_OPEN_EXEC_PERM, place, Some("."))?)
    }

    /// The same of the mount of the file `name` in `dir`.
    ///
    /// # Errors
    /// As `fanotify_mark(2)`.
    pub fn mark_file(&self, dir: BorrowedFd<'_>, name: &OsStr) -> std::io::Result<()> {
        let flags = MarkFlags::FAN_MARK_ADD | MarkFlags::FAN_MARK_MOUNT | MarkFlags::FAN_MARK_DONT_FOLLOW;
        Ok(self.execs.mark(flags, MaskFlags::FAN_OPEN_EXEC_PERM, dir, Some(name))?)
    }

    /// The attempts that wait, none if there are none. `proc` is the host's /proc.
    ///
    /// # Errors
    /// As `read(2)`.
    pub fn read(&self, proc: BorrowedFd<'_>) -> std::io::Result<Attempts> {
        let events = match self.execs.read_events() {
            Ok(events) => events,
            Err(Errno::EAGAIN) => return Ok(Attempts::default()),
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
            let file = FileId::of(fd).ok();
            out.attempts.push(Attempt { thread: event.pid(), path, file, event });
        }
        Ok(out)
    }

    /// Lets the thread go on, or makes its `execve` fail with EPERM.
    ///
    /// # Errors
    /// As `write(2)`; a thread that was killed while it waited is none.
    pub fn answer(&self, attempt: &Attempt, allow: bool) -> std::io::Result<()> {
        let response = if allow { Response::FAN_ALLOW } else { Response::FAN_DENY };
        if let Some(fd) = attempt.event.fd() {
            match self.execs.write_response(FanotifyResponse::new(fd, response)) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Has the closes of the attempt's file reported from now on. To be asked before it is answered.
    ///
    /// # Errors
    /// As `fanotify_mark(2)`; `EACCES` for a file that the caller cannot read.
    pub fn watch(&self, attempt: &Attempt) -> std::io::Result<()> {
        Ok(self.mark_closes(MarkFlags::FAN_MARK_ADD, &attempt.event)?)
    }

    /// They are not any more.
    ///
    /// # Errors
    /// As `fanotify_mark(2)`.
    pub fn unwatch(&self, watched: &Watched) -> std::io::Result<()> {
        Ok(self.mark_closes(MarkFlags::FAN_MARK_REMOVE, &watched.0)?)
    }

    fn mark_closes(&self, flags: MarkFlags, event: &FanotifyEvent) -> nix::Result<()> {
        let fd = event.fd().ok_or(Errno::EBADF)?;
        self.closes.mark(flags, MaskFlags::FAN_CLOSE_NOWRITE, fd, None::<&str>)
    }

    /// The closes until now.
    ///
    /// # Errors
    /// As `read(2)`.
    pub fn closes(&self) -> std::io::Result<Closes> {
        let mut out = Closes::default();
        for _ in 0..MAX_READS {
            let events = match self.closes.read_events() {
                Ok(events) => events,
                Err(Errno::EAGAIN) => return Ok(out),
                Err(errno) => return Err(errno.into()),
            };
            for event in events {
                match event.fd().map(FileId::of) {
                    Some(Ok(file)) => out.closes.push((event.pid(), file)),
                    Some(Err(_)) | None => out.overflow = true,
                }
            }
        }
        out.overflow = true;
        Ok(out)
    }

    /// Readable when a watched file was closed.
    pub fn closes_fd(&self) -> BorrowedFd<'_> {
        self.closes.as_fd()
    }
}

impl Attempt {
    /// The file, whose closes stay watched.
    pub fn watched(self) -> Watched {
        Watched(self.event)
    }
}

impl AsFd for ExecWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.execs.as_fd()
    }
}
