//! Waiting for a process, but not for ever.

use std::process::{Child, ExitStatus};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// The status of `child` once it has ended; `None` if it has not within `limit` of [`patience`].
pub fn wait_for_exit(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let limit = patience(limit);
    if let Ok(Some(status)) = child.try_wait() {
        return Some(status);
    }
    let pid = Pid::from_raw(child.id().cast_signed()).expect("a child's pid is not 0");
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).expect("our own child can be held");
    let limit = Timespec { tv_sec: limit.as_secs().cast_signed(), tv_nsec: i64::from(limit.subsec_nanos()) };
    let ready = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&limit)).expect("poll of a pidfd");
    (ready > 0).then(|| child.wait().expect("our own child"))
}

/// `limit`; on a machine that is emulated, as many times that as `AGENTD_TEST_SLOWNESS` says.
pub fn patience(limit: Duration) -> Duration {
    let slowness = std::env::var("AGENTD_TEST_SLOWNESS").ok().and_then(|times| times.parse::<u32>().ok());
    limit * slowness.unwrap_or(1)
}

/// How long tests are to go on that are the better the longer they are: `AGENTD_TEST_MINUTES`; `None` if it is not set,
/// and they are short or left out.
pub fn long() -> Option<Duration> {
    let minutes: f64 =
        std::env::var("AGENTD_TEST_MINUTES").ok()?.parse().expect("AGENTD_TEST_MINUTES is a number");
    Some(Duration::from_secs_f64(minutes * 60.0))
}
