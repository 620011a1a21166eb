//! The worker of one review. Of root's rights it keeps `CAP_SYS_ADMIN`, for mounts, and until it has its user's ids over
//! files those to take them. An overlay is mounted with these: what the user cannot read is not readable in it.

use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use agentd_kernel::mount::{self, Tree};
use agentd_kernel::mountinfo::Mounts;
use agentd_kernel::{creds, process, procfs};
use agentd_policy::Refusal;
use agentd_policy::names::AbsPath;
use agentd_policy::offer::{MAX_STEER, ToClient};
use agentd_policy::review::{Directory, Kept, MAX_MADE, Opened};
use agentd_policy::rule::Rule;
use agentd_policy::wire::{decode_with, encode};
use agentd_session::error::{HostError, On as _};
use nix::unistd::{Gid, Uid};
use rustix::fs::{FileType, Stat};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

use super::place::{Overlay, Place, READ_ONLY};
use super::{Review, views};

/// How long it may take, with its client's part, in seconds.
const DEADLINE: u32 = 20;
/// The longest message of a client's.
const MAX_OPENED: usize = 64;

/// Why a review ends early.
enum Ended {
    /// The client is gone.
    Gone,
    Refused(Refusal),
    Failed(HostError),
}

impl From<HostError> for Ended {
    fn from(error: HostError) -> Self {
        Self::Failed(error)
    }
}

/// Runs to the end; its exit code. `shared` is the image that sessions share and where in it this one is.
pub fn run(
    review: &Review,
    shared: Option<&(String, String)>,
    host: (BorrowedFd<'_>, BorrowedFd<'_>),
) -> i32 {
    let session = &review.session;
    let refusal = match converse(review, shared, host) {
        Ok(()) | Err(Ended::Gone) => return 0,
        Err(Ended::Refused(refusal)) => refusal,
        Err(Ended::Failed(error)) => {
            tracing::warn!(user = review.uid, %error, "a review failed");
            let hint = "try again; the launcher's log has more";
            Refusal::new(format!("a review of session {session}: {error}"), Rule::ReviewFailed, hint)
        }
    };
    i32::from(send(review, &ToClient::Refused(refusal), &[]).is_err())
}

fn converse(
    review: &Review,
    shared: Option<&(String, String)>,
    (proc, placeholder): (BorrowedFd<'_>, BorrowedFd<'_>),
) -> Result<(), Ended> {
    confine(review, (proc, placeholder))?;
    // What asked for it is still in the socket.
    review.socket.set_nonblocking(false).on("socket")?;
    review.socket.receive(MAX_STEER, 0).on("client")?.ok_or(Ended::Gone)?;
    let place = Place::of(review.directory.try_clone().on("uppers")?, shared)?;
    let overlays = place.overlays()?;
    if overlays.is_empty() {
        let what = format!("a review of session {}", review.session);
        let hint = "review it with the version of agentd that it ran in; one that is being built, later";
        return Err(Ended::Refused(Refusal::new(what, Rule::ReviewFormat, hint)));
    }
    name_all(review, &overlays, identity(&rustix::fs::fstat(placeholder).on("placeholder")?))?;
    let workspaces = opened(review, &overlays, proc)?;
    views::leave_host()?;
    let uppers = views::uppers(&place, &overlays)?;
    drop(place);
    become_owner(review)?;
    let views: Result<Vec<_>, _> = uppers.iter().zip(&workspaces).map(|(u, w)| views::of(u, w)).collect();
    let views = views?;
    let descriptors: Vec<_> = views.iter().flatten().map(AsFd::as_fd).collect();
    send(review, &ToClient::Views(overlays.len() as u8), &descriptors)
}

/// Gives up what the work does not need.
fn confine(review: &Review, (proc, placeholder): (BorrowedFd<'_>, BorrowedFd<'_>)) -> Result<(), HostError> {
    nix::unistd::alarm::set(DEADLINE);
    process::set_title(c"agentd-review")?;
    let (socket, directory) = (review.socket.as_fd(), review.directory.as_fd());
    process::close_all_but(&[socket, directory, proc, placeholder])?;
    creds::not_dumpable()?;
    creds::no_new_privs()?;
    keep(CapabilitySet::SYS_ADMIN | CapabilitySet::SETUID | CapabilitySet::SETGID)
}

fn keep(kept: CapabilitySet) -> Result<(), HostError> {
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).on("capabilities")
}

/// From here on files are the user's or nobody's.
fn become_owner(review: &Review) -> Result<(), HostError> {
    creds::supplementary(&review.groups)?;
    let (uid, gid) = (Uid::from_raw(review.uid), Gid::from_raw(review.gid));
    nix::unistd::setfsgid(gid);
    nix::unistd::setfsuid(uid);
    // They return what was in force.
    if nix::unistd::setfsgid(gid) != gid || nix::unistd::setfsuid(uid) != uid {
        return Err(HostError::unfit("the ids over files are others"));
    }
    keep(CapabilitySet::SYS_ADMIN)?;
    creds::not_dumpable()?;
    Ok(creds::parent_death_signal()?)
}

fn name_all(review: &Review, overlays: &[Overlay], placeholder: Directory) -> Result<(), Ended> {
    for (_, about, began) in overlays {
        let kept = Kept { path: about.path.clone(), top: about.top, began: *began };
        send(review, &ToClient::Workspace(Box::new(kept)), &[])?;
        for made in about.made.chunks(MAX_MADE) {
            send(review, &ToClient::Made(made.to_vec()), &[])?;
        }
    }
    send(review, &ToClient::Open(placeholder), &[])
}

/// The workspaces as the client opened them, each copied without what is mounted in it.
fn opened(review: &Review, overlays: &[Overlay], proc: BorrowedFd<'_>) -> Result<Vec<Tree>, Ended> {
    let packet = review.socket.receive(MAX_OPENED, overlays.len()).on("client")?.ok_or(Ended::Gone)?;
    let (_, descriptors) = decode_with::<Opened, _>(&packet.bytes, packet.descriptors).on("client")?;
    let descriptors = descriptors.rest();
    if descriptors.len() != overlays.len() {
        return Err(Ended::Failed(HostError::unfit("some workspaces were not opened")));
    }
    // Read while the descriptors are held: no mount of theirs can go, and its id to another.
    let mounts = Mounts::read(proc).on("mountinfo")?;
    let pairs = descriptors.iter().zip(overlays);
    pairs.map(|(fd, (_, about, _))| prove(fd, (&about.path, about.top), (proc, &mounts))).collect()
}

/// A copy of the mount of `fd`, which is the directory of before and is where it was.
fn prove(
    fd: &OwnedFd,
    (path, top): (&AbsPath, Directory),
    (proc, mounts): (BorrowedFd<'_>, &Mounts),
) -> Result<Tree, Ended> {
    let refused = |what: String, rule, hint: &str| Err(Ended::Refused(Refusal::new(what, rule, hint)));
    let stat = rustix::fs::fstat(fd).on(path)?;
    let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    let named = procfs::link(proc, "self", &format!("fd/{}", fd.as_raw_fd())).on(path)?;
    if !is_dir || identity(&stat) != top || named != path.as_str() {
        let hint = "put the directory back where the session had it";
        return refused(format!("{path}, which was moved or replaced"), Rule::ReviewMoved, hint);
    }
    // Also in another namespace: what is mounted in it is not known here.
    if !mounts.contains(mount::identity(fd.as_fd()).on(path)?.mount) {
        let hint = "run agentctl outside containers and private mount namespaces";
        return refused(format!("{path} in another mount namespace than agentd"), Rule::PathNamespace, hint);
    }
    // The overlay would show what lies under it.
    if let Some(below) = mounts.below(Path::new(path.as_str())) {
        let what = format!("{path}, which has a mount below it: {}", below.point.display());
        return refused(what, Rule::PathSubmount, "unmount it");
    }
    let tree = Tree::copy_of_one(fd.as_fd()).on(path)?;
    tree.restrict(READ_ONLY, None).on(path)?;
    Ok(tree)
}

fn identity(stat: &Stat) -> Directory {
    Directory { device: stat.st_dev, inode: stat.st_ino }
}

fn send(review: &Review, message: &ToClient, descriptors: &[BorrowedFd<'_>]) -> Result<(), Ended> {
    let packet = encode(message).on("message")?;
    review.socket.send(&packet, descriptors).map_err(|_| Ended::Gone)
}
