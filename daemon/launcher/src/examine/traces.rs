//! Traces of sessions that nobody knows: how they are found, and how they go.

use std::collections::BTreeSet;
use std::os::fd::AsFd as _;

use agentd_kernel::procfs;
use agentd_policy::wire::Leak;
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, PidfdFlags, Signal};
use serde::{Deserialize, Serialize};

use crate::context::Context;
use crate::directories::{Doomed, is_held, names};
use crate::sessions::{KINDS, Seen, Sessions, group_path};
use crate::workers;
use agentd_session::error::{HostError, On as _};

/// The most that are reported at once; the next look finds the rest.
const MAX: usize = 256;
/// The longest name that is reported in full, in bytes: all of them fit one message.
const MAX_NAME: usize = 128;

/// Something that belongs to a session, if there is one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    what: What,
    /// Whether it has been taken away.
    pub cleaned: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum What {
    /// The groups of a lease.
    Cgroup { uid: u32, lease: u32 },
    /// A process under an id of a lease, or in one of its groups.
    Process { pid: i32, lease: u32, uid: u32 },
    /// A record or a lock of a lease.
    Lease(u32),
    /// A keeper's name.
    Socket(String),
    /// What a session wrote.
    Overlay { uid: u32, session: String },
}

/// Everything there is that could belong to a session.
pub fn find(cx: &Context, sessions: &Sessions) -> Vec<Trace> {
    let mut all = Vec::new();
    let found = [
        groups(sessions, &mut all),
        processes(cx, &mut all),
        leases(cx, &mut all),
        names(&cx.directories.keepers).map(|names| {
            // What is said of sessions that were ended for their format is no socket.
            let sockets = names.into_iter().filter(|name| !name.contains('.'));
            all.extend(sockets.map(What::Socket))
        }),
        cx.directories.all_overlays().map(|overlays| {
            let of_nobody = overlays.into_iter().filter(|(uid, name)| match Doomed::parse(*uid, name) {
                Some(doomed) => !sessions.deletes(&doomed),
                None => !cx.directories.may_have_record(name),
            });
            all.extend(of_nobody.map(|(uid, session)| What::Overlay { uid, session }));
        }),
    ];
    for error in found.into_iter().filter_map(Result::err) {
        tracing::error!(%error, "what was left behind cannot be looked for");
    }
    // What belongs to sessions that are known takes no room.
    let seen = sessions.seen_now();
    let traces = all.into_iter().map(|what| Trace { what, cleaned: false });
    traces.filter(|trace| !trace.is_of(&seen)).take(MAX).collect()
}

fn groups(sessions: &Sessions, all: &mut Vec<What>) -> Result<(), HostError> {
    let mut found = BTreeSet::new();
    for kind in KINDS {
        for user in sessions.hierarchies().names(kind)? {
            let Some(uid) = user.strip_prefix('u').and_then(|uid| uid.parse::<u32>().ok()) else { continue };
            for lease in sessions.hierarchies().names(&format!("{kind}/{user}"))? {
                let Ok(lease) = lease.parse::<u32>() else { continue };
                found.insert((uid, lease));
            }
        }
    }
    all.extend(found.into_iter().map(|(uid, lease)| What::Cgroup { uid, lease }));
    Ok(())
}

fn processes(cx: &Context, all: &mut Vec<What>) -> Result<(), HostError> {
    let pool = cx.settings.config.pool.uids;
    let proc = cx.host.proc.as_fd();
    for pid in procfs::pids(proc).on("/proc")? {
        let Ok(uid) = procfs::uid(proc, pid) else { continue };
        let lease = (uid.wrapping_sub(pool.first())) / 3;
        if pool.contains(uid) && lease < pool.leases() {
            all.push(What::Process { pid, lease, uid });
        }
    }
    Ok(())
}

/// Files of leases that are locked or have something in them: an empty one is free.
fn leases(cx: &Context, all: &mut Vec<What>) -> Result<(), HostError> {
    for name in names(&cx.directories.leases)? {
        let Ok(number) = name.parse() else { continue };
        let Some(file) = cx.directories.lease_file(number)? else { continue };
        let size = rustix::fs::fstat(&file).on(format_args!("lease {number}"))?.st_size;
        if size > 0 || is_held(&file).on(format_args!("lease {number}"))? {
            all.push(What::Lease(number));
        }
    }
    Ok(())
}

impl Trace {
    /// Whether it belongs to a session that is known.
    pub fn is_of(&self, seen: &Seen) -> bool {
        match &self.what {
            What::Cgroup { lease, .. } | What::Process { lease, .. } | What::Lease(lease) => {
                seen.leases.contains(lease)
            }
            What::Socket(session) => seen.ids.contains(session),
            What::Overlay { uid, session } => {
                let lease = Doomed::parse(*uid, session).and_then(|doomed| doomed.lease());
                seen.ids.contains(session) || lease.is_some_and(|lease| seen.leases.contains(&lease))
            }
        }
    }

    /// Whether it is what a session wrote.
    pub fn is_overlay(&self) -> bool {
        matches!(self.what, What::Overlay { .. })
    }

    /// Whose groups it is about.
    pub fn user(&self) -> Option<u32> {
        match self.what {
            What::Cgroup { uid, .. } => Some(uid),
            _ => None,
        }
    }

    /// For the service.
    pub fn leak(&self) -> Leak {
        let (kind, what) = match &self.what {
            What::Cgroup { uid, lease } => ("cgroup", format!("u{uid}/{lease}")),
            What::Process { pid, uid, .. } => ("process", format!("{pid} of uid {uid}")),
            What::Lease(lease) => ("lease", lease.to_string()),
            What::Socket(session) => ("socket", session.clone()),
            What::Overlay { uid, session } => ("overlay", format!("u{uid}/{session}")),
        };
        let what = what.chars().flat_map(char::escape_default).take(MAX_NAME).collect();
        Leak { kind: kind.into(), what, cleaned: self.cleaned }
    }

    /// Takes it away. Whether it is gone.
    pub fn clean(&self, cx: &Context, sessions: &Sessions) -> bool {
        match self.try_clean(cx, sessions) {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(%error, trace = ?self.what, "what was left behind stays");
                false
            }
        }
    }

    fn try_clean(&self, cx: &Context, sessions: &Sessions) -> Result<(), HostError> {
        match &self.what {
            What::Cgroup { uid, lease } => {
                for kind in KINDS {
                    let path = group_path(kind, *uid, *lease);
                    sessions.hierarchies().clear_below(&path)?;
                    sessions.hierarchies().remove(&path)?;
                }
                Ok(())
            }
            What::Process { pid, uid, .. } => end(cx, *pid, *uid, |group| sessions.hierarchies().owns(group)),
            What::Lease(lease) => {
                // A launcher that gives it to a session meanwhile has the lock; one that is held stays.
                let Some(file) = cx.directories.lease_file(*lease)? else { return Ok(()) };
                flock(&file, FlockOperation::NonBlockingLockExclusive).on("its lock")?;
                Ok(rustix::fs::ftruncate(&file, 0)?)
            }
            What::Socket(session) => cx.directories.remove_keeper_socket(session),
            What::Overlay { uid, session } => {
                // A record may have come, or become readable, since it was looked for.
                if Doomed::parse(*uid, session).is_none() && cx.directories.may_have_record(session) {
                    return Err(HostError::unfit("there is a record of it"));
                }
                let name = match Doomed::parse(*uid, session) {
                    Some(doomed) => doomed.name(),
                    None => match cx.directories.doom_uppers(*uid, session)? {
                        Some(doomed) => doomed.name(),
                        None => return Ok(()),
                    },
                };
                let Some(user) = cx.directories.user_overlays(*uid)? else { return Ok(()) };
                Ok(workers::delete_tree(user.as_fd(), &name)?)
            }
        }
    }
}

/// Ends a process that has that uid and is in a group of ours, and waits for its end. One that is in another's is that
/// one's, who uses the same ids.
fn end(cx: &Context, pid: i32, uid: u32, is_ours: impl Fn(&str) -> bool) -> Result<(), HostError> {
    let proc = cx.host.proc.as_fd();
    let Some(number) = Pid::from_raw(pid) else { return Ok(()) };
    let pidfd = match rustix::process::pidfd_open(number, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        Err(errno) => return Err(errno.into()),
    };
    match procfs::uid(proc, pid) {
        Ok(found) if found == uid => {}
        // Another process, or none, by now.
        _ => return Ok(()),
    }
    match procfs::cgroup(proc, pid) {
        Ok(group) if is_ours(&group) => {}
        Ok(group) => return Err(HostError::unfit(format!("it is in {group}, no group of this daemon"))),
        Err(error) => return Err(error).on("its group"),
    }
    match rustix::process::pidfd_send_signal(&pidfd, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(errno) => return Err(errno.into()),
    }
    let mut ended = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
    let most = rustix::event::Timespec { tv_sec: 2, tv_nsec: 0 };
    match rustix::event::poll(&mut ended, Some(&most)) {
        Ok(0) => Err(HostError::unfit("it does not end")),
        Ok(_) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_a_known_session_is_no_leak() {
        let seen = Seen { leases: [3].into(), ids: ["aabbccddeeff".to_owned()].into() };
        let is_of = |what| Trace { what, cleaned: false }.is_of(&seen);
        assert!(is_of(What::Cgroup { uid: 1, lease: 3 }) && !is_of(What::Cgroup { uid: 1, lease: 4 }));
        assert!(is_of(What::Process { pid: 1, lease: 3, uid: 9 }) && is_of(What::Lease(3)));
        assert!(is_of(What::Socket("aabbccddeeff".into())) && !is_of(What::Socket("aabbccddeefe".into())));
    }

    #[test]
    fn hostile_names_are_reported_harmlessly_and_briefly() {
        let what = What::Socket("\u{1b}]0;\u{202e}x".repeat(100));
        let leak = Trace { what, cleaned: true }.leak();
        assert!(leak.what.is_ascii() && leak.what.len() == MAX_NAME && !leak.what.contains('\u{1b}'));
    }
}
