//! The sockets in `keepers/`, where the keepers of running sessions accept a service that starts anew.

use std::time::Duration;

use agentd_policy::names::SessionId;
use rustix::io::Errno;

use crate::host::Host;
use crate::launcher::link::{Link, connect_packets};

/// Between two attempts at a keeper that is busy.
const PAUSE: Duration = Duration::from_millis(5);
/// How many there are: one that takes no connection is as one that is not there.
const ATTEMPTS: u32 = 200;

/// Where the keeper of a session listens.
fn path(host: &Host, session: &SessionId) -> String {
    format!("{}/keepers/{session}", host.site().config.runtime_dir)
}

/// The format of the launcher's record of a session, if a launcher has ended the session because it is another than its
/// own.
pub fn foreign_format(host: &Host, session: &SessionId) -> Option<u64> {
    std::fs::read_to_string(format!("{}.format", path(host, session))).ok()?.trim().parse().ok()
}

/// The keeper of a session, if there is one. It need not answer yet.
pub fn connect(host: &Host, session: &SessionId) -> Option<Link> {
    let path = path(host, session);
    let mut attempts = 0;
    let packets = loop {
        match connect_packets(&path) {
            Ok(packets) => break packets,
            Err(Errno::NOENT | Errno::CONNREFUSED) => return None,
            // It has not come to those that connected before.
            Err(Errno::AGAIN) if attempts < ATTEMPTS => {
                attempts += 1;
                std::thread::sleep(PAUSE);
            }
            Err(errno) => {
                tracing::error!(%session, path, error = %errno, "a keeper cannot be reached");
                return None;
            }
        }
    };
    let link = Link::new(packets);
    link.inspect_err(|error| tracing::error!(%session, path, %error, "a keeper's socket cannot be used")).ok()
}
