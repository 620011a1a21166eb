//! Trials in children of their own: whatever one does to itself, or hangs on, stays there.

use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use agentd_kernel::process::{self, CloneArgs, SingleThreaded};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;

use super::Lack;

/// How long one trial may take.
const TRIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest answer.
const MAX_ANSWER: usize = 4096;

/// Runs `work` in a child and returns what it says: what it found, or what it lacks.
pub fn apart(token: SingleThreaded, work: impl FnOnce() -> Result<String, Lack>) -> Result<String, Lack> {
    apart_in(token, CloneArgs::default(), work)
}

/// The same, in a child that is born so.
pub fn apart_in(
    token: SingleThreaded,
    birth: CloneArgs<'_>,
    work: impl FnOnce() -> Result<String, Lack>,
) -> Result<String, Lack> {
    let (answer, writer) = std::io::pipe()?;
    let child = process::spawn(token, birth, || {
        let bound = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
        let (mark, mut text) = match bound.map_err(Lack::from).and_then(|()| work()) {
            Ok(found) => ('+', found),
            Err(lack) => ('-', lack.to_string()),
        };
        text.insert(0, mark);
        let short = text.as_bytes().get(..MAX_ANSWER).unwrap_or(text.as_bytes());
        i32::from((&writer).write_all(short).is_err())
    })?;
    drop(writer);
    let mut bytes = [0; MAX_ANSWER];
    // A short write to a pipe comes in one piece.
    let read = match ready(answer.as_fd(), TRIAL_TIMEOUT) {
        true => rustix::io::read(&answer, &mut bytes).map_err(Lack::from),
        false => Err(Lack::new(format!("nothing came of it within {} s", TRIAL_TIMEOUT.as_secs()))),
    };
    child.kill().and_then(|()| child.wait())?;
    let said = String::from_utf8_lossy(&bytes[..read?]).into_owned();
    match (said.strip_prefix('+'), said.strip_prefix('-')) {
        (Some(found), _) => Ok(found.to_owned()),
        (_, Some(lack)) => Err(Lack::new(lack)),
        _ => Err(Lack::new("the trial ended without an answer")),
    }
}

/// Whether `fd` becomes readable within `time`.
pub fn ready(fd: BorrowedFd<'_>, time: Duration) -> bool {
    let Ok(time) = Timespec::try_from(time) else { return false };
    loop {
        match poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&time)) {
            Ok(count) => return count > 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}
