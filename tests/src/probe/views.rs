//! What of the host's own files can be reached through what is only to be read: watches, locks, FIFOs, and private
//! files of the caller's among the system's.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use libc::{EACCES, ENODATA, ENXIO};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
use rustix::fs::{FlockOperation, flock};

use super::case::{Act, Case, Outside, Refused, case};
use super::files::read;

const NOTHING: &[i32] = &[ENODATA];
/// How long a watch waits: the host is at work all the time.
const WATCH: Duration = Duration::from_millis(1500);

const WATCHED: &str = "what other users do in a directory, as they do it";
const LOCKED: &str = "a channel to other sessions and to the host, and locks held against them";
const PIPE: &str = "a pipe into a process of the host";
const OWN: &str = "a file that the caller keeps to itself, in a directory that everybody reads";

pub const CASES: &[Case] = &[
    case("input_watch", watched, &["{input}/busy"], NOTHING, Outside::User, WATCHED),
    case("input_watch_file", watched, &["{input}/busy/file"], NOTHING, Outside::User, WATCHED),
    case("single_watch", watched, &["{single}"], NOTHING, Outside::User, WATCHED)
        .options(&["--read", "{single}"]),
    case("opt_watch", watched, &["{opt}/busy"], NOTHING, Outside::User, WATCHED),
    case("etc_watch", watched, &["/etc/ssl"], NOTHING, Outside::User, WATCHED).host_may_lack(),
    case("input_lock", lock_is_seen, &["{input}/locked"], NOTHING, Outside::User, LOCKED),
    case("single_lock", lock_is_seen, &["{single}"], NOTHING, Outside::User, LOCKED)
        .options(&["--read", "{single}"]),
    case("opt_lock", lock_is_seen, &["{opt}/locked"], NOTHING, Outside::User, LOCKED),
    case("input_fifo", into_fifo, &["{input}/fifo"], &[ENXIO], Outside::User, PIPE),
    case("opt_fifo", into_fifo, &["{opt}/fifo"], &[ENXIO, EACCES], Outside::User, PIPE),
    case("input_fifo_read", out_of_fifo, &["{input}/fifo"], NOTHING, Outside::User, PIPE),
    case("opt_fifo_read", out_of_fifo, &["{opt}/fifo"], NOTHING, Outside::User, PIPE),
    case("opt_socket", super::sockets::socket, &["{opt}/sock"], SOCKET, Outside::User, PIPE),
    case("usr_own_file", read, &["{usr}/own"], &[EACCES], Outside::User, OWN),
    case("usr_group_file", read, &["{usr}/groups"], &[EACCES], Outside::User, OWN),
    case("opt_own_file", read, &["{opt}/own"], &[EACCES], Outside::User, OWN),
    case("opt_group_file", read, &["{opt}/groups"], &[EACCES], Outside::User, OWN),
];

const SOCKET: &[i32] = &[libc::ECONNREFUSED];

/// Something happens to what is watched.
fn watched(args: &[String]) -> Act {
    let inotify = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
    let all =
        WatchFlags::ACCESS | WatchFlags::OPEN | WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::MODIFY;
    add_watch(&inotify, args[0].as_str(), all)?;
    let wait = Timespec { tv_sec: WATCH.as_secs().cast_signed(), tv_nsec: i64::from(WATCH.subsec_nanos()) };
    match poll(&mut [PollFd::new(&inotify, PollFlags::IN)], Some(&wait))? {
        0 => Err(Refused::new(ENODATA, "nothing was seen")),
        _ => Ok("somebody else's doings".into()),
    }
}

/// A lock of the host's is in the way.
fn lock_is_seen(args: &[String]) -> Act {
    let file = File::open(&args[0])?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Err(Refused::new(ENODATA, "the lock is another one than the host's")),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok("the host's lock is seen".into()),
        Err(errno) => Err(errno.into()),
    }
}

/// A process of the host reads what is written.
fn into_fifo(args: &[String]) -> Act {
    let mut fifo = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&args[0])?;
    fifo.write_all(b"x")?;
    Ok("written".into())
}

/// A process of the host has written what is read.
fn out_of_fifo(args: &[String]) -> Act {
    let mut fifo = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&args[0])?;
    match fifo.read(&mut [0; 8])? {
        0 => Err(Refused::new(ENODATA, "nobody writes to it")),
        count => Ok(format!("{count} bytes")),
    }
}
