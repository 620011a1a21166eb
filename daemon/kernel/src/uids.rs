//! What the kernel still counts for a uid that no process has: descriptors that left through a socket keep it.
//!
//! There is no list of it. Each counter is tried: as that uid, what fits exactly once nothing is in use.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::inotify;
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit};

use crate::creds;

/// A counter that is not zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// inotify instances (`fs.inotify.max_user_instances`).
    Inotify,
    /// Bytes of POSIX message queues (`RLIMIT_MSGQUEUE`).
    Queues,
    /// Pages of pipes (`fs.pipe-user-pages-soft`).
    Pipes,
    /// Descriptors in the queues of sockets (`RLIMIT_NOFILE`).
    InFlight,
    /// Keys and keyrings (`kernel.keys.maxkeys`).
    Keys,
}

/// The most inotify instances that are made. Who has as many left lacks nothing.
const MOST_INSTANCES: u64 = 1024;
/// Pages that a pipe gets at most here.
const PIPE_PAGES: u64 = 256;
const PAGE: u64 = 4096;
/// Less than two of the smallest queues, and no less than one: `mqueue(7)`, a message and a node of the tree.
const ONE_QUEUE: u64 = 190;

/// Tries the counters that a session's user namespace adds up to: those of the uid that owns it. For a process that
/// ends afterwards: it becomes `uid` for good.
///
/// # Errors
/// If it cannot be tried.
pub fn of_owner(uid: u32) -> std::io::Result<Option<Counter>> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWIPC)?;
    become_uid(uid)?;
    soft(Resource::Msgqueue, ONE_QUEUE)?;
    if !queue_fits()? {
        return Ok(Some(Counter::Queues));
    }
    let most = limit("/proc/sys/fs/inotify/max_user_instances")?.min(MOST_INSTANCES);
    soft(Resource::Nofile, most + 64)?;
    Ok((!all_fit(most, || inotify::init(inotify::CreateFlags::CLOEXEC), &[Errno::MFILE])?)
        .then_some(Counter::Inotify))
}

/// Tries the counters of the uid that a session's processes have. As [`of_owner`].
///
/// # Errors
/// If it cannot be tried.
pub fn of_user(uid: u32) -> std::io::Result<Option<Counter>> {
    become_uid(uid)?;
    let pages = limit("/proc/sys/fs/pipe-user-pages-soft")?;
    if pages > 0 {
        let pipes = pages / PIPE_PAGES;
        soft(Resource::Nofile, pipes * 2 + 64)?;
        let size = usize::try_from(PIPE_PAGES * PAGE).map_err(std::io::Error::other)?;
        let large = || {
            let pipe = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
            rustix::pipe::fcntl_setpipe_size(&pipe.0, size)?;
            Ok(pipe)
        };
        if !all_fit(pipes, large, &[Errno::PERM])? {
            return Ok(Some(Counter::Pipes));
        }
    }
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    // One more than there may be is in flight only if some are already.
    soft(Resource::Nofile, 0)?;
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = rustix::net::SendAncillaryBuffer::new(&mut space);
    let fds = [ours.as_fd()];
    if !control.push(rustix::net::SendAncillaryMessage::ScmRights(&fds)) {
        return Err(std::io::Error::other("no room for a descriptor"));
    }
    match rustix::net::sendmsg(
        &theirs,
        &[std::io::IoSlice::new(b"x")],
        &mut control,
        rustix::net::SendFlags::empty(),
    ) {
        Ok(_) => Ok(None),
        Err(Errno::TOOMANYREFS) => Ok(Some(Counter::InFlight)),
        Err(errno) => Err(errno.into()),
    }
}

/// Whether any of `uids` has keys, as `/proc/key-users` lists them.
///
/// # Errors
/// As `open(2)`; a kernel without keys has none.
pub fn keys(uids: &[u32]) -> std::io::Result<Option<Counter>> {
    match std::fs::read_to_string("/proc/key-users") {
        Ok(text) => Ok(has_keys(&text, uids).then_some(Counter::Keys)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Lines of `uid: usage keys/instantiated owned/most bytes/most`. One that cannot be read counts as a key.
fn has_keys(text: &str, uids: &[u32]) -> bool {
    text.lines().any(|line| {
        let Some((uid, rest)) = line.split_once(':') else { return true };
        let Ok(uid) = uid.trim().parse::<u32>() else { return true };
        let keys = rest.split_whitespace().nth(1).and_then(|keys| keys.split('/').next());
        uids.contains(&uid) && keys != Some("0")
    })
}

fn become_uid(uid: u32) -> std::io::Result<()> {
    creds::become_ids(uid, uid).map_err(std::io::Error::other)?;
    // Who has a capability is above the limits.
    creds::drop_all_capabilities().map_err(std::io::Error::other)
}

/// Lowers a soft limit, or raises it as far as the hard one goes.
fn soft(resource: Resource, value: u64) -> std::io::Result<()> {
    let hard = rustix::process::getrlimit(resource).maximum;
    let current = Some(hard.map_or(value, |hard| hard.min(value)));
    Ok(rustix::process::setrlimit(resource, Rlimit { current, maximum: hard })?)
}

fn limit(path: &str) -> std::io::Result<u64> {
    let text = std::fs::read_to_string(path)?;
    text.trim().parse().map_err(|e| std::io::Error::other(format!("{path}: {e}")))
}

/// Whether `count` of them can be had at once.
fn all_fit<T>(count: u64, make: impl Fn() -> rustix::io::Result<T>, full: &[Errno]) -> std::io::Result<bool> {
    let mut held = Vec::new();
    for _ in 0..count {
        match make() {
            Ok(one) => held.push(one),
            Err(errno) if full.contains(&errno) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(true)
}

/// Whether the smallest queue there is can be made.
fn queue_fits() -> std::io::Result<bool> {
    // SAFETY: a struct of integers, for which zero is a valid value.
    let mut attributes: libc::mq_attr = unsafe { std::mem::zeroed() };
    (attributes.mq_maxmsg, attributes.mq_msgsize) = (1, 1);
    let flags = libc::O_CREAT | libc::O_EXCL | libc::O_RDWR | libc::O_CLOEXEC;
    // SAFETY: the name ends with a NUL, and the kernel only reads it and the attributes, which live across the call.
    let result =
        unsafe { libc::syscall(libc::SYS_mq_open, c"agentd".as_ptr(), flags, 0o600, &raw const attributes) };
    if result >= 0 {
        let fd = i32::try_from(result).map_err(std::io::Error::other)?;
        // SAFETY: a new descriptor that nobody else owns. The queue goes with its namespace.
        drop(unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(fd) });
        return Ok(true);
    }
    match std::io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::EMFILE) => Ok(false),
        // A kernel without message queues.
        error if error.raw_os_error() == Some(libc::ENOSYS) => Ok(true),
        error => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{self, CloneArgs, SingleThreaded};

    /// A uid that nothing uses, one for each test.
    const FIRST: u32 = 1_899_990_000;

    /// What is found, in a child, while another child that has become `uid` holds what `hold` made.
    fn found(
        uid: u32,
        hold: impl Fn() -> Vec<OwnedFd>,
        try_it: fn(u32) -> std::io::Result<Option<Counter>>,
    ) -> i32 {
        let token = SingleThreaded::verify().unwrap();
        let (mut ready, writer) = std::io::pipe().unwrap();
        let holder = process::spawn(token, CloneArgs::default(), || {
            become_uid(uid).unwrap();
            let held = hold();
            std::io::Write::write_all(&mut &writer, b"x").unwrap();
            nix::unistd::pause();
            drop(held);
            0
        })
        .unwrap();
        std::io::Read::read_exact(&mut ready, &mut [0]).unwrap();
        let probe = process::spawn(token, CloneArgs::default(), || match try_it(uid).unwrap() {
            None => 0,
            Some(counter) => counter as i32 + 1,
        })
        .unwrap();
        let code = match probe.wait().unwrap() {
            agentd_policy::event::ExitStatus::Code(code) => code,
            status => panic!("{status:?}"),
        };
        holder.kill().and_then(|()| holder.wait()).unwrap();
        code
    }

    #[test]
    fn whatever_is_left_is_found() {
        crate::lockdown::testing::in_child(|| {
            let inotify = || vec![inotify::init(inotify::CreateFlags::CLOEXEC).unwrap()];
            let pipe = || Vec::<OwnedFd>::from(std::io::pipe().map(|(r, w)| [r.into(), w.into()]).unwrap());
            assert_eq!(found(FIRST, Vec::new, of_owner), 0);
            // The queue that was tried goes with its namespace, which takes a moment: each has a uid of its own.
            assert_eq!(found(FIRST + 10, inotify, of_owner), Counter::Inotify as i32 + 1);
            assert_eq!(found(FIRST + 1, Vec::new, of_user), 0);
            assert_eq!(found(FIRST + 1, pipe, of_user), Counter::Pipes as i32 + 1);
            let in_flight = || {
                let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
                let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut control = rustix::net::SendAncillaryBuffer::new(&mut space);
                let file = std::fs::File::open("/dev/null").unwrap();
                let fds = [file.as_fd()];
                assert!(control.push(rustix::net::SendAncillaryMessage::ScmRights(&fds)));
                let flags = rustix::net::SendFlags::empty();
                rustix::net::sendmsg(&ours, &[std::io::IoSlice::new(b"x")], &mut control, flags).unwrap();
                vec![ours.into(), theirs.into()]
            };
            assert_eq!(found(FIRST + 2, in_flight, of_user), Counter::InFlight as i32 + 1);
            let queue = || {
                assert!(queue_fits().unwrap());
                Vec::new()
            };
            // One that was closed is gone with its namespace only.
            assert_eq!(found(FIRST + 3, queue, of_owner), Counter::Queues as i32 + 1);
            // SAFETY: the name ends with a NUL.
            unsafe { libc::syscall(libc::SYS_mq_unlink, c"agentd".as_ptr()) };
            assert_eq!(found(FIRST + 3, Vec::new, of_owner), 0);
        });
    }

    #[test]
    fn keys_are_read_from_their_list() {
        let text = "    0:     9 8/8 2/1000000 33/25000000\n 1900:     1 0/0 0/200 0/20000\n 1901: 2 1/1 1/200 9/20000\n";
        assert!(!has_keys(text, &[1900, 5]) && has_keys(text, &[5, 1901]));
        assert!(has_keys("nonsense", &[1]) && !has_keys("", &[1]));
        assert_eq!(keys(&[FIRST]).unwrap(), None);
    }
}
