//! The worker of one review. Of root's rights it keeps `CAP_SYS_ADMIN`, for mounts, and until it has its user's ids
//! over files those to take them. An overlay is mounted with these: what the user cannot read is not readable in it.

use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use agentd_kernel::mount::{self, Tree};
use agentd_kernel::mountinfo::Mounts;
use agentd_kernel::packets::Packets;
use agentd_kernel::{creds, peer, process, procfs};
use agentd_policy::Refusal;
use agentd_policy::names::{AbsPath, SessionId};
use agentd_policy::offer::{MAX_STEER, ToClient};
use agentd_policy::review::{Directory, Kept, MAX_MADE, Opened};
use agentd_policy::rule::Rule;
use agentd_policy::wire::{Peer, decode_with, encode};
use agentd_session::error::{HostError, On as _};
use agentd_session::refusals;
use nix::unistd::{Gid, Uid};
use rustix::fs::{FileType, Stat};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

use super::place::{Overlay, Place, READ_ONLY};
use super::views;
use crate::directories::{self, Directories};

/// How long it may take, with its client's part, in seconds.
const DEADLINE: u32 = 20;
/// The longest message of a client's.
const MAX_OPENED: usize = 64;

/// What is reviewed, for whom.
pub struct Review<'a> {
    /// The session, perhaps another user's.
    pub session: SessionId,
    /// The user who asks for it.
    pub peer: Peer,
    /// The client's side socket.
    pub socket: &'a Packets,
    /// The image that sessions share and where in it this one is, if they do.
    pub shared: Option<(String, String)>,
    /// The host's /proc.
    pub proc: BorrowedFd<'a>,
    /// What stands for masked names.
    pub placeholder: BorrowedFd<'a>,
}

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

impl Review<'_> {
    /// Runs to the end; its exit code.
    pub fn run(&self, directories: &Directories) -> i32 {
        let session = &self.session;
        let refusal = match self.converse(directories) {
            Ok(()) | Err(Ended::Gone) => return 0,
            Err(Ended::Refused(refusal)) => refusal,
            Err(Ended::Failed(error)) => {
                tracing::warn!(user = self.peer.uid, %error, "a review failed");
                let hint = "try again; the launcher's log has more";
                Refusal::new(format!("a review of session {session}: {error}"), Rule::ReviewFailed, hint)
            }
        };
        i32::from(self.send(&ToClient::Refused(refusal), &[]).is_err())
    }

    fn converse(&self, directories: &Directories) -> Result<(), Ended> {
        // Only their own, also for root: a session's directory lies below that of its user. One that has none looks
        // like one that is not there.
        let user = directories.user_overlays(self.peer.uid)?;
        let directory = user.and_then(|user| directories::open(&user, self.session.as_str()).ok());
        let directory = directory.ok_or_else(|| Ended::Refused(refusals::unknown(&self.session)))?;
        let groups = peer::groups(self.socket.as_fd()).on("client")?;
        self.confine(directory.as_fd())?;
        // What asked for it is still in the socket.
        self.socket.set_nonblocking(false).on("client")?;
        self.socket.receive(MAX_STEER, 0).on("client")?.ok_or(Ended::Gone)?;
        let place = Place::of(directory, self.shared.as_ref())?;
        let overlays = place.overlays()?;
        if overlays.is_empty() {
            let what = format!("a review of session {}", self.session);
            let hint = "review it with the version of agentd that it ran in; one that is being built, later";
            return Err(Ended::Refused(Refusal::new(what, Rule::ReviewFormat, hint)));
        }
        self.name_all(&overlays)?;
        let workspaces = self.opened(&overlays)?;
        views::leave_host()?;
        let uppers = views::uppers(&place, &overlays)?;
        drop(place);
        self.become_user(&groups)?;
        let views = uppers.iter().zip(&workspaces).map(|(upper, workspace)| views::of(upper, workspace));
        let views = views.collect::<Result<Vec<_>, _>>()?;
        let descriptors: Vec<_> = views.iter().flatten().map(AsFd::as_fd).collect();
        let count = u8::try_from(overlays.len()).map_err(|_| HostError::unfit("too many overlays"))?;
        self.send(&ToClient::Views(count), &descriptors)
    }

    /// Gives up what the work does not need.
    fn confine(&self, directory: BorrowedFd<'_>) -> Result<(), HostError> {
        nix::unistd::alarm::set(DEADLINE);
        process::set_title(c"agentd-review")?;
        process::close_all_but(&[self.socket.as_fd(), directory, self.proc, self.placeholder])?;
        creds::not_dumpable()?;
        creds::no_new_privs()?;
        keep(CapabilitySet::SYS_ADMIN | CapabilitySet::SETUID | CapabilitySet::SETGID)
    }

    /// From here on files are the user's or nobody's.
    fn become_user(&self, groups: &[u32]) -> Result<(), HostError> {
        creds::supplementary(groups)?;
        let (uid, gid) = (Uid::from_raw(self.peer.uid), Gid::from_raw(self.peer.gid));
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

    fn name_all(&self, overlays: &[Overlay]) -> Result<(), Ended> {
        for (_, about, began) in overlays {
            let kept = Kept { path: about.path.clone(), top: about.top, began: *began };
            self.send(&ToClient::Workspace(Box::new(kept)), &[])?;
            for made in about.made.chunks(MAX_MADE) {
                self.send(&ToClient::Made(made.to_vec()), &[])?;
            }
        }
        let placeholder = rustix::fs::fstat(self.placeholder).on("placeholder")?;
        self.send(&ToClient::Open(identity(&placeholder)), &[])
    }

    /// The workspaces as the client opened them, each copied without what is mounted in it.
    fn opened(&self, overlays: &[Overlay]) -> Result<Vec<Tree>, Ended> {
        let packet = self.socket.receive(MAX_OPENED, overlays.len()).on("client")?.ok_or(Ended::Gone)?;
        let (_, descriptors) = decode_with::<Opened, _>(&packet.bytes, packet.descriptors).on("client")?;
        let descriptors = descriptors.rest();
        if descriptors.len() != overlays.len() {
            return Err(Ended::Failed(HostError::unfit("some workspaces were not opened")));
        }
        // Read while the descriptors are held: no mount of theirs can go, and its id to another.
        let mounts = Mounts::read(self.proc).on("mountinfo")?;
        let pairs = descriptors.iter().zip(overlays);
        pairs.map(|(fd, (_, about, _))| self.prove(fd, (&about.path, about.top), &mounts)).collect()
    }

    /// A copy of the mount of `fd`, which is the directory of before and is where it was.
    fn prove(
        &self,
        fd: &OwnedFd,
        (path, top): (&AbsPath, Directory),
        mounts: &Mounts,
    ) -> Result<Tree, Ended> {
        let refused = |what: String, rule, hint: &str| Err(Ended::Refused(Refusal::new(what, rule, hint)));
        let stat = rustix::fs::fstat(fd).on(path)?;
        let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let named = procfs::link(self.proc, "self", &format!("fd/{}", fd.as_raw_fd())).on(path)?;
        if !is_dir || identity(&stat) != top || named != path.as_str() {
            let hint = "put the directory back where the session had it";
            return refused(format!("{path}, which was moved or replaced"), Rule::ReviewMoved, hint);
        }
        // Also in another namespace: what is mounted in it is not known here.
        if !mounts.contains(mount::identity(fd.as_fd()).on(path)?.mount) {
            let hint = "run agentctl outside containers and private mount namespaces";
            return refused(
                format!("{path} in another mount namespace than agentd"),
                Rule::PathNamespace,
                hint,
            );
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

    fn send(&self, message: &ToClient, descriptors: &[BorrowedFd<'_>]) -> Result<(), Ended> {
        let packet = encode(message).on("message")?;
        self.socket.send(&packet, descriptors).map_err(|_| Ended::Gone)
    }
}

fn keep(kept: CapabilitySet) -> Result<(), HostError> {
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).on("capabilities")
}

fn identity(stat: &Stat) -> Directory {
    Directory { device: stat.st_dev, inode: stat.st_ino }
}
