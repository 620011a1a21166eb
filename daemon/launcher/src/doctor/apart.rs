//! Trials in children of their own: whatever one does to itself, or hangs on, stays there.

use std::fmt::{Display, Formatter};
use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use agentd_kernel::creds::{NoHostRights, parent_death_signal};
use agentd_kernel::process::{self, CloneArgs, SingleThreaded};
use agentd_policy::wire::{decode, encode};
use nix::sched::CloneFlags;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// How long one trial may take.
const TRIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest answer: a write to a pipe that comes in one piece.
const MAX_ANSWER: usize = 4096;

/// What a trial found, or why a facility is not there.
pub type Tried<T> = Result<T, Lack>;

/// Why a facility is not there, for the report: one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lack(String);

impl Lack {
    pub fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }

    pub fn on(object: impl Display, error: impl Display) -> Self {
        Self(format!("{object}: {error}"))
    }
}

impl<E: std::error::Error> From<E> for Lack {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

impl Display for Lack {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Runs `work` in a child and returns what it says: what it found, or what it lacks.
pub fn apart<T: Serialize + DeserializeOwned>(
    token: SingleThreaded,
    work: impl FnOnce() -> Tried<T>,
) -> Tried<T> {
    apart_in(token, CloneArgs::default(), work)
}

/// The same, in a child that is born so.
pub fn apart_in<T: Serialize + DeserializeOwned>(
    token: SingleThreaded,
    birth: CloneArgs<'_>,
    work: impl FnOnce() -> Tried<T>,
) -> Tried<T> {
    let (answer, writer) = std::io::pipe()?;
    let child = process::spawn(token, birth, || {
        let tried = parent_death_signal().map_err(Lack::from).and_then(|()| work());
        let said = encode(&tried).map(|bytes| (&writer).write_all(bytes.get(..MAX_ANSWER).unwrap_or(&bytes)));
        i32::from(!matches!(said, Ok(Ok(()))))
    })?;
    drop(writer);
    let mut bytes = [0; MAX_ANSWER];
    let read = match ready(answer.as_fd(), TRIAL_TIMEOUT) {
        true => rustix::io::read(&answer, &mut bytes).map_err(Lack::from),
        false => Err(Lack::new(format!("nothing came of it within {} s", TRIAL_TIMEOUT.as_secs()))),
    };
    child.kill().and_then(|()| child.wait())?;
    decode(&bytes[..read?]).map_err(|_| Lack::new("the trial ended without an answer"))?
}

/// Leaves the host's rights for those over new namespaces of these `kinds`, under `id`.
pub fn own_namespaces(id: u32, kinds: CloneFlags) -> Tried<NoHostRights> {
    let own = NoHostRights::in_namespaces(id, kinds)?;
    parent_death_signal()?;
    Ok(own)
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
