//! What of the host's /etc every session has: public files that packages brought and nobody has changed since, and what
//! is made of the system's state (certificates, the loader's cache). A file that was changed may hold a token, and is
//! left out. It is copied beforehand, into memory, by a child that has no right at all: what it can read is public.

mod copy;
mod packages;

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant};

use agentd_kernel::creds;
use agentd_kernel::mount::{Attributes, Tree};
use agentd_kernel::process::{self, Child, CloneArgs, SingleThreaded};
use agentd_policy::event::ExitStatus;
use rustix::event::{PollFd, PollFlags};

use crate::error::{HostError, On as _};

/// How long a copy may take.
const DEADLINE: Duration = Duration::from_secs(20);
/// How often it is looked whether the host's state has changed.
const LOOK: Duration = Duration::from_secs(2);
/// The most that a copy holds, in bytes.
const SIZE: u64 = 48 << 20;

/// What changes when packages, or what is made of them, do.
const STATE: [&str; 11] = [
    "/etc",
    "/etc/alternatives",
    "/etc/ld.so.cache",
    "/etc/pki/ca-trust/extracted/pem",
    "/etc/ssl/certs",
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/ssl/certs/java/cacerts",
    "/usr/lib/sysimage/rpm/rpmdb.sqlite",
    "/var/lib/dpkg/status",
    "/var/lib/rpm/rpmdb.sqlite",
    "/var/lib/ucf/hashfile",
];

/// What [`STATE`] was when a copy was begun: inode and time of change, nothing for what is not there.
type Fingerprint = [Option<(u64, i64, i64)>; STATE.len()];

/// The copy in use, and the next one while it is made.
#[derive(Debug)]
pub struct PublicEtc {
    copy: Option<Tree>,
    of: Fingerprint,
    next: Option<Copying>,
    look: Instant,
}

/// A child at work.
#[derive(Debug)]
struct Copying {
    child: Child,
    tree: Tree,
    of: Fingerprint,
    until: Instant,
}

impl PublicEtc {
    /// Makes the first copy, before anybody waits. `owner` is the id that shows as root's in sessions. Where it cannot
    /// be made, sessions have the generated files alone, and the log says why.
    pub fn prepare(token: SingleThreaded, owner: u32) -> Self {
        let now = Instant::now();
        let mut etc = Self { copy: None, of: [None; STATE.len()], next: None, look: now + LOOK };
        match Copying::start(token, owner, now).and_then(Copying::wait) {
            Ok((tree, of)) => (etc.copy, etc.of) = (Some(tree), of),
            Err(error) => tracing::error!(%error, "/etc is not copied: sessions have generated files alone"),
        }
        etc
    }

    /// A read-only tree that is attached nowhere.
    pub fn copy(&self) -> Option<&Tree> {
        self.copy.as_ref()
    }

    /// The copy's descriptor, which builders keep.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.copy.as_ref().map(AsFd::as_fd)
    }

    /// Begins another copy if the host's state has changed, and takes up one that is done. Sessions that are prepared
    /// from then on have it.
    pub fn refresh(&mut self, token: SingleThreaded, owner: u32, now: Instant) {
        if let Some(mut next) = self.next.take() {
            match next.ended(now) {
                Ok(false) => self.next = Some(next),
                Ok(true) => (self.copy, self.of) = (Some(next.tree), next.of),
                Err(error) => {
                    tracing::error!(
                        %error,
                        "/etc is not copied anew: sessions go on having the copy of before"
                    );
                    self.of = next.of;
                }
            }
        } else if now >= self.look {
            self.look = now + LOOK;
            if fingerprint() != self.of {
                match Copying::start(token, owner, now) {
                    Ok(next) => self.next = Some(next),
                    Err(error) => tracing::error!(%error, "/etc is not copied anew"),
                }
            }
        }
    }

    /// When a copy that is being made is to be looked at again.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        const SOON: Duration = Duration::from_millis(50);
        self.next.as_ref().map(|_| now + SOON)
    }
}

impl Copying {
    fn start(token: SingleThreaded, owner: u32, now: Instant) -> Result<Self, HostError> {
        let of = fingerprint();
        let tree = Tree::tmpfs(SIZE, owner, 0o755, Attributes::WRITABLE)?;
        let child =
            process::spawn(token, CloneArgs { with_parent: true, ..CloneArgs::default() }, || match give_up(
                owner,
                tree.as_fd(),
            )
            .and_then(|()| copy::all(tree.as_fd()))
            {
                Ok(()) => 0,
                Err(error) => {
                    tracing::error!(%error, "/etc cannot be copied");
                    1
                }
            });
        let child = child.on("fork")?;
        Ok(Self { child, tree, of, until: now + DEADLINE })
    }

    /// Whether it is done.
    fn ended(&mut self, now: Instant) -> Result<bool, HostError> {
        match self.child.try_wait()? {
            None if now < self.until => Ok(false),
            None => {
                self.child.kill().and_then(|()| self.child.wait())?;
                Err(HostError::unfit(format!("not done in {DEADLINE:?}")))
            }
            Some(ExitStatus::Code(0)) => {
                agentd_kernel::mount::seal(self.tree.as_fd())?;
                Ok(true)
            }
            Some(how) => Err(HostError::unfit(format!("what copies it ended with {how:?}"))),
        }
    }

    fn wait(mut self) -> Result<(Tree, Fingerprint), HostError> {
        let timeout = rustix::event::Timespec { tv_sec: DEADLINE.as_secs().cast_signed(), tv_nsec: 0 };
        let ended = [PollFd::new(&self.child.pidfd, PollFlags::IN)];
        rustix::io::retry_on_intr(|| rustix::event::poll(&mut ended.clone(), Some(&timeout)))?;
        match self.ended(self.until)? {
            true => Ok((self.tree, self.of)),
            false => Err(HostError::unfit("it goes on")),
        }
    }
}

/// Everything but the tree that is to be filled. No other process has `owner` as its id.
fn give_up(owner: u32, tree: BorrowedFd<'_>) -> Result<(), HostError> {
    process::set_title(c"agentd-etc")?;
    process::close_all_but(&[tree])?;
    creds::NoHostRights::of(owner, owner, &[])?;
    Ok(creds::parent_death_signal()?)
}

fn fingerprint() -> Fingerprint {
    STATE.map(|path| {
        let meta = std::fs::symlink_metadata(path).ok()?;
        Some((meta.ino(), meta.ctime(), meta.ctime_nsec()))
    })
}
