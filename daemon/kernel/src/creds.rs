//! Who a process is and what it may: ids, capabilities, `no_new_privs`, dumpable, parent-death signal.
//!
//! Everything here binds the calling thread (`credentials(7)`, `capabilities(7)`), so it is for processes
//! with one thread, and everything is read back from the kernel.

use caps::{CapSet, errors::CapsError};
use rustix::process::{DumpableBehavior, Gid, Signal, Uid};
use rustix::thread::CapabilitySet;

/// What was not done.
#[derive(Debug, thiserror::Error)]
pub enum CredsError {
    /// The kernel refused.
    #[error("cannot {what}: {source}")]
    Refused {
        /// The step that failed.
        what: &'static str,
        /// The error of that step.
        source: std::io::Error,
    },
    /// Capabilities could not be read or changed.
    #[error("cannot {what}: {source}")]
    Capabilities {
        /// The step that failed.
        what: &'static str,
        /// The error of that step.
        source: CapsError,
    },
    /// The kernel took it and says otherwise.
    #[error("{0} after it was set otherwise")]
    NotInForce(&'static str),
}

trait Doing<T> {
    fn doing(self, what: &'static str) -> Result<T, CredsError>;
}

impl<T> Doing<T> for rustix::io::Result<T> {
    fn doing(self, what: &'static str) -> Result<T, CredsError> {
        self.map_err(|errno| CredsError::Refused { what, source: errno.into() })
    }
}

impl<T> Doing<T> for Result<T, CapsError> {
    fn doing(self, what: &'static str) -> Result<T, CredsError> {
        self.map_err(|source| CredsError::Capabilities { what, source })
    }
}

/// Whether the process has one thread. It needs no /proc: `unshare(2)` takes `CLONE_THREAD` from such a
/// process only, and then changes nothing.
pub fn single_threaded() -> bool {
    // SAFETY: nothing is unshared; a process with more threads gets EINVAL.
    unsafe { libc::unshare(libc::CLONE_THREAD) == 0 }
}

/// Becomes `uid` and `gid` for good, without supplementary groups. The bounding set is emptied first: it
/// takes a capability that a process loses with its privileged uid, and only while it is empty does a
/// program that is executed as uid 0 of a namespace get nothing.
///
/// # Errors
/// [`CredsError`]; the process must end then.
pub fn become_ids(uid: u32, gid: u32) -> Result<(), CredsError> {
    become_member(uid, gid, &[])
}

/// The same with these supplementary groups and no others.
///
/// # Errors
/// As [`become_ids`].
pub fn become_member(uid: u32, gid: u32, groups: &[u32]) -> Result<(), CredsError> {
    drop_bounding()?;
    let (new_uid, new_gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    let groups: Vec<_> = groups.iter().copied().map(Gid::from_raw).collect();
    rustix::thread::set_thread_groups(&groups).doing("change the supplementary groups")?;
    rustix::thread::set_thread_res_gid(new_gid, new_gid, new_gid).doing("change the gid")?;
    rustix::thread::set_thread_res_uid(new_uid, new_uid, new_uid).doing("change the uid")?;
    if uids()? != [uid; 3] || gids()? != [gid; 3] {
        return Err(CredsError::NotInForce("the ids are others"));
    }
    same_groups(groups)
}

/// Proof that this process has no capability over anything of the host's, now or later.
#[derive(Debug)]
pub struct NoHostRights(());

impl NoHostRights {
    /// Becomes `uid` and `gid` for good, with these supplementary groups and without any capability. Processes of the
    /// same uid can neither trace nor read this one.
    ///
    /// # Errors
    /// [`CredsError`]; the process must end then.
    pub fn of(uid: u32, gid: u32, groups: &[u32]) -> Result<Self, CredsError> {
        become_member(uid, gid, groups)?;
        drop_all_capabilities()?;
        no_new_privs()?;
        not_dumpable()?;
        Ok(Self(()))
    }

    /// Becomes `id` for good in new namespaces of these `kinds`, and in a new user namespace that owns them: it has
    /// every capability over those, and none over others. No right to make namespaces is asked of `id`.
    ///
    /// # Errors
    /// [`CredsError`]; the process must end then.
    #[cfg(feature = "session")]
    pub fn in_namespaces(id: u32, kinds: nix::sched::CloneFlags) -> Result<Self, CredsError> {
        rustix::thread::set_keep_capabilities(true).doing("keep the capabilities")?;
        become_ids(id, id)?;
        let mut rights = rustix::thread::capabilities(None).doing("read the capabilities")?;
        rights.effective = CapabilitySet::SYS_ADMIN;
        rustix::thread::set_capabilities(None, rights).doing("take a capability")?;
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER | kinds)
            .map_err(|errno| CredsError::Refused { what: "unshare", source: errno.into() })?;
        Ok(Self(()))
    }
}

/// Changes the supplementary groups of a process that keeps all else.
///
/// # Errors
/// [`CredsError`].
pub fn supplementary(groups: &[u32]) -> Result<(), CredsError> {
    let groups: Vec<_> = groups.iter().copied().map(Gid::from_raw).collect();
    rustix::thread::set_thread_groups(&groups).doing("change the supplementary groups")?;
    same_groups(groups)
}

fn same_groups(mut wanted: Vec<Gid>) -> Result<(), CredsError> {
    let mut found = rustix::process::getgroups().doing("read the supplementary groups")?;
    wanted.sort_unstable_by_key(|group| group.as_raw());
    found.sort_unstable_by_key(|group| group.as_raw());
    match found == wanted {
        true => Ok(()),
        false => Err(CredsError::NotInForce("the supplementary groups are others")),
    }
}

/// Changes the effective uid and keeps the capabilities, so that the process can come back: the kernel takes
/// the owner of a new user namespace from the effective uid, and clears the effective set when it leaves 0.
/// The real uid stays what it is.
///
/// # Errors
/// [`CredsError`].
pub fn effective_uid(uid: u32) -> Result<(), CredsError> {
    let before = rustix::thread::capabilities(None).doing("read the capabilities")?;
    rustix::thread::set_thread_res_uid(None, Uid::from_raw(uid), None).doing("change the effective uid")?;
    rustix::thread::set_capabilities(None, before).doing("keep the capabilities")?;
    let after = rustix::thread::capabilities(None).doing("read the capabilities")?;
    if after != before || uids()?[1] != uid {
        return Err(CredsError::NotInForce("effective uid or capabilities are others"));
    }
    Ok(())
}

/// Empties every capability set, in the order in which that is possible, and reads each back.
///
/// # Errors
/// [`CredsError`]; above all if the bounding set is not empty and `CAP_SETPCAP` is lost already.
pub fn drop_all_capabilities() -> Result<(), CredsError> {
    caps::clear(None, CapSet::Ambient).doing("clear the ambient capabilities")?;
    drop_bounding()?;
    let none = rustix::thread::CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, none).doing("drop the capabilities")?;
    let left = rustix::thread::capabilities(None).doing("read the capabilities")?;
    // What is not inheritable is not ambient (capabilities(7)).
    if left != none {
        return Err(CredsError::NotInForce("there are capabilities"));
    }
    Ok(())
}

/// Empties the bounding set: what is held stays, and can be had by no program any more. Costs a system call a
/// capability if it is empty already.
///
/// # Errors
/// [`CredsError`].
pub fn drop_bounding() -> Result<(), CredsError> {
    let bounding = || caps::read(None, CapSet::Bounding).doing("read the bounding set");
    let left = bounding()?;
    if left.is_empty() {
        return Ok(());
    }
    for capability in left {
        caps::drop(None, CapSet::Bounding, capability).doing("empty the bounding set")?;
    }
    match bounding()?.is_empty() {
        true => Ok(()),
        false => Err(CredsError::NotInForce("the bounding set has capabilities")),
    }
}

/// No program that is executed from here on gains anything by that.
///
/// # Errors
/// [`CredsError`].
pub fn no_new_privs() -> Result<(), CredsError> {
    rustix::thread::set_no_new_privs(true).doing("set no_new_privs")?;
    match rustix::thread::no_new_privs().doing("read no_new_privs")? {
        true => Ok(()),
        false => Err(CredsError::NotInForce("no_new_privs is not set")),
    }
}

/// Processes of the same uid can neither trace nor read this one, and it dumps no core. Executing a program
/// undoes it, and so does a change of the effective ids.
///
/// # Errors
/// [`CredsError`].
pub fn not_dumpable() -> Result<(), CredsError> {
    let wanted = DumpableBehavior::NotDumpable;
    rustix::process::set_dumpable_behavior(wanted).doing("become non-dumpable")?;
    match rustix::process::dumpable_behavior().doing("read the dumpable flag")? == wanted {
        true => Ok(()),
        false => Err(CredsError::NotInForce("the process is dumpable")),
    }
}

/// This process is killed when its parent ends. To be called after the last change of ids, which clears it.
/// A parent that has ended already is not noticed: let a pipe show that.
///
/// # Errors
/// [`CredsError`].
pub fn parent_death_signal() -> Result<(), CredsError> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .doing("set the parent-death signal")?;
    match rustix::process::parent_process_death_signal().doing("read the parent-death signal")? {
        Some(Signal::KILL) => Ok(()),
        _ => Err(CredsError::NotInForce("the parent-death signal is another")),
    }
}

/// Leaves the session keyring of its parent for a new, empty one (`session-keyring(7)`). A kernel without
/// keys has none to leave.
///
/// # Errors
/// [`CredsError`].
pub fn leave_keyring() -> Result<(), CredsError> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: without a name the kernel reads and writes no memory of ours.
    let result = unsafe {
        libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>())
    };
    let error = std::io::Error::last_os_error();
    match result {
        -1 if error.raw_os_error() == Some(libc::ENOSYS) => Ok(()),
        -1 => Err(CredsError::Refused { what: "leave the session keyring", source: error }),
        _ => Ok(()),
    }
}

/// Makes this process one as any other: in a session (`setsid(2)`) of its own, with no terminal, and scheduled as
/// processes are by default, whatever the daemon was started with. (A child never has a better priority.)
///
/// # Errors
/// [`CredsError`].
pub fn ordinary() -> Result<(), CredsError> {
    rustix::process::setsid().doing("begin a session of its own")?;
    let by_default = libc::sched_param { sched_priority: 0 };
    // SAFETY: the kernel reads the parameters, which live across the call.
    let scheduled = unsafe { libc::sched_setscheduler(0, libc::SCHED_OTHER, &raw const by_default) };
    if scheduled == -1 {
        let source = std::io::Error::last_os_error();
        return Err(CredsError::Refused { what: "be scheduled by default", source });
    }
    // What reads and writes of the disk are worth follows from the priority (`ioprio_set(2)`): `IOPRIO_WHO_PROCESS`,
    // `IOPRIO_CLASS_NONE`.
    // SAFETY: three numbers, and no memory.
    if unsafe { libc::syscall(libc::SYS_ioprio_set, 1, 0, 0) } == -1 {
        let source = std::io::Error::last_os_error();
        return Err(CredsError::Refused { what: "have the default I/O priority", source });
    }
    // SAFETY: a number, and no memory: `PER_LINUX`, with none of the flags that a starter can have set.
    if unsafe { libc::personality(0) } == -1 {
        let source = std::io::Error::last_os_error();
        return Err(CredsError::Refused { what: "have the default personality", source });
    }
    Ok(())
}

/// Real, effective and saved.
fn uids() -> Result<[u32; 3], CredsError> {
    let [mut real, mut effective, mut saved] = [u32::MAX; 3];
    // SAFETY: the three numbers live across the call, which writes them.
    let result = unsafe { libc::getresuid(&raw mut real, &raw mut effective, &raw mut saved) };
    read_ids(result, [real, effective, saved])
}

/// Real, effective and saved.
fn gids() -> Result<[u32; 3], CredsError> {
    let [mut real, mut effective, mut saved] = [u32::MAX; 3];
    // SAFETY: the three numbers live across the call, which writes them.
    let result = unsafe { libc::getresgid(&raw mut real, &raw mut effective, &raw mut saved) };
    read_ids(result, [real, effective, saved])
}

fn read_ids(result: libc::c_int, ids: [u32; 3]) -> Result<[u32; 3], CredsError> {
    match result {
        0 => Ok(ids),
        _ => Err(CredsError::Refused { what: "read the ids", source: std::io::Error::last_os_error() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lockdown::testing::in_child;

    const NOBODY: u32 = 65_534;

    fn status(field: &str) -> String {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        line[field.len()..].trim_start_matches(':').trim().to_owned()
    }

    #[test]
    fn everything_is_gone_and_does_not_come_back() {
        in_child(|| {
            become_ids(NOBODY, NOBODY).unwrap();
            drop_all_capabilities().unwrap();
            no_new_privs().unwrap();
            not_dumpable().unwrap();
            parent_death_signal().unwrap();
            for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
                assert_eq!(status(set), "0000000000000000", "{set}");
            }
            assert_eq!(status("NoNewPrivs"), "1");
            assert_eq!(status("Uid"), [NOBODY.to_string().as_str(); 4].join("\t"));
            assert_eq!(status("Groups"), "");
            effective_uid(0).unwrap_err();
            become_ids(0, 0).unwrap_err();
            drop_all_capabilities().unwrap();
        });
    }

    #[test]
    fn who_has_no_rights_on_the_host_has_no_capability() {
        in_child(|| {
            NoHostRights::of(NOBODY, NOBODY, &[NOBODY - 1]).unwrap();
            for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
                assert_eq!(status(set), "0000000000000000", "{set}");
            }
            assert_eq!((status("NoNewPrivs"), status("Groups")), ("1".into(), (NOBODY - 1).to_string()));
            assert_eq!(status("Uid"), [NOBODY.to_string().as_str(); 4].join("\t"));
            effective_uid(0).unwrap_err();
        });
    }

    #[test]
    #[cfg(feature = "session")]
    fn who_has_namespaces_of_its_own_has_no_capability_over_the_hosts() {
        use nix::sched::CloneFlags;
        in_child(|| {
            let net = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
            let host = std::fs::File::open("/proc/thread-self/ns/uts").unwrap();
            NoHostRights::in_namespaces(NOBODY, CloneFlags::CLONE_NEWNET).unwrap();
            assert_eq!(status("Uid"), ["65534"; 4].join("\t"));
            // Its own network, and what it may do there; of the host's namespaces nothing, and no process of root's.
            assert_ne!(std::fs::read_link("/proc/thread-self/ns/net").ok(), Some(net));
            assert_ne!(status("CapEff"), "0000000000000000");
            let refused = Err(nix::errno::Errno::EPERM);
            assert_eq!(nix::sched::setns(&host, CloneFlags::CLONE_NEWUTS), refused);
            assert_eq!(nix::unistd::sethostname("x"), refused);
            assert_eq!(nix::sys::signal::kill(nix::unistd::Pid::from_raw(1), None), refused);
            assert!(std::fs::read("/etc/shadow").is_err());
            effective_uid(0).unwrap_err();
        });
    }

    #[test]
    fn root_keeps_nothing_either() {
        in_child(|| {
            drop_all_capabilities().unwrap();
            no_new_privs().unwrap();
            let output =
                std::process::Command::new("grep").args(["Cap", "/proc/self/status"]).output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            assert_eq!(text.matches("0000000000000000").count(), 5, "{text}");
            assert!(matches!(become_ids(NOBODY, NOBODY), Err(CredsError::Refused { .. })));
        });
    }

    #[test]
    fn the_effective_uid_goes_and_comes_back() {
        in_child(|| {
            let before = rustix::thread::capabilities(None).unwrap();
            effective_uid(NOBODY).unwrap();
            assert_eq!(uids().unwrap(), [0, NOBODY, 0]);
            assert_eq!(rustix::thread::capabilities(None).unwrap(), before);
            effective_uid(0).unwrap();
            assert_eq!(uids().unwrap(), [0; 3]);
            assert_eq!(rustix::thread::capabilities(None).unwrap(), before);
        });
    }

    #[test]
    fn a_thread_more_is_noticed() {
        in_child(|| {
            assert!(single_threaded());
            std::thread::scope(|scope| {
                let (sender, receiver) = std::sync::mpsc::channel::<()>();
                scope.spawn(move || receiver.recv());
                assert!(!single_threaded());
                drop(sender);
            });
        });
    }
}
