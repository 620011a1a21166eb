//! Building one session, top to bottom: [`prepare`] makes what is the same for every session of a user,
//! before anybody asks; [`complete`] what one request asks for. The builder is root, has a deadline, and
//! alone touches callers' files; at the end it gives everything up and becomes the session's keeper.

pub mod access;
mod complete;
pub mod covers;
pub mod etc;
mod fault;
mod fs_ids;
mod hand_over;
mod inside;
mod paths;
#[cfg(debug_assertions)]
mod points;
mod prepare;
mod proc;
mod relay;
mod root;
mod sockets;
pub mod stdio;
mod steps;
pub mod sysfs;
mod system;
mod uppers;
mod view;
mod watch;
mod workspace;

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use agentd_kernel::cgroup::Group;
use agentd_kernel::creds;
use agentd_kernel::nsfs::Handle;
use agentd_kernel::packets::{MAX_DESCRIPTORS, Packets};
use agentd_kernel::process::{self, Child, SingleThreaded};
use agentd_policy::Refusal;
use agentd_policy::ceiling::Ceiling;
use agentd_policy::lease::{Groups, Lease, Pool};
use agentd_policy::names::AbsPath;
use agentd_policy::offer::{Grant, MAX_OFFER, Offer};
use agentd_policy::plan::Plan;
use agentd_policy::rule::Rule;
use agentd_policy::wire::{MAX_KEEPER_PACKET, MAX_PACKET, Timing, decode, encode};
use rustix::event::{PollFd, PollFlags};
use serde::{Deserialize, Serialize};

pub use fault::{At, Fault, of_step};
pub use inside::Copied;
pub use root::WRITABLE;
pub use view::COPY_ON_WRITE;

use crate::disk::{self, Reserve};
use crate::host::Host;
use crate::init::{FromInit, Network};
use crate::log;
use hand_over::Ready;

/// Whose session it is: the numbers that it sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The caller's uid.
    pub uid: u32,
    /// The caller's gid.
    pub gid: u32,
    /// Its other groups.
    pub groups: Groups,
}

/// What a builder is born with.
pub struct Builder<'a> {
    /// For whom.
    pub owner: Owner,
    /// The session's throwaway ids.
    pub lease: Lease,
    /// The range that they come from.
    pub pool: Pool,
    /// The lock that says the lease is taken; the keeper holds it as long as it lives.
    pub lock: OwnedFd,
    /// Where the session's processes live.
    pub agents: &'a Group,
    /// Where keeper and relay live.
    pub helpers: &'a Group,
    /// How many terminals the session may have.
    pub terminals: u32,
    /// What the launcher prepared.
    pub host: &'a Host,
    /// To the launcher.
    pub launcher: Packets,
    /// That fork is sound.
    pub token: SingleThreaded,
}

/// Launcher to builder. Descriptors: the keeper's listening socket; the caller's side socket with its offer; a directory for uppers, if the plan has overlays; the table of blocklists, if the site has any and the session
/// egress; a CA bundle, if it asks over TLS.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Order {
    /// What to build.
    pub plan: Plan,
    /// What it may reach at most, however it is changed later.
    pub ceiling: Ceiling,
    /// When the launcher read the request: nanoseconds of `CLOCK_MONOTONIC`.
    pub began_ns: u64,
    /// Whether a directory for uppers does.
    pub uppers: bool,
    /// What enforces the limit of what is written there.
    pub disk: disk::Order,
    /// What must stay free of its file system.
    pub reserve: Reserve,
    /// Whether the table of blocklists does.
    pub blocklist: bool,
    /// Whether a CA bundle does.
    pub trust: bool,
    /// Whether a file for the site's proxy does.
    pub credential: bool,
    /// Who may connect to the keeper, besides root.
    pub service_uid: u32,
}

/// Builder to launcher.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// A name is about to be made in a directory of the caller's. The launcher takes it away again in the end, whatever
    /// becomes of the builder. Descriptor: the directory.
    Placed {
        /// The directory's path.
        workspace: AbsPath,
        /// The name in it.
        name: String,
        /// The file system of the directory.
        dev: u64,
        /// Its number there.
        ino: u64,
    },
    /// The session is confined and its command starts. Descriptors: the service's ends of the keeper's and
    /// of the relay's socket.
    Built {
        /// How long each step took.
        timings: Vec<Timing>,
        /// A handle of its user namespace, if this kernel has such.
        users: Option<(i32, [u8; Handle::SIZE])>,
    },
    /// Of a keeper: no process of the session is left, so that what was made in directories of the caller's can go.
    Emptied,
    /// It was not built.
    Refused(Refusal),
}

/// An order with its descriptors.
struct Received {
    plan: Plan,
    ceiling: Ceiling,
    began: Instant,
    /// Where a service finds the keeper.
    listener: OwnedFd,
    service_uid: u32,
    offered: Vec<(Grant, OwnedFd)>,
    uppers: Option<OwnedFd>,
    disk: disk::Order,
    reserve: Reserve,
    blocklist: Option<OwnedFd>,
    /// Certificates of authorities, for the relay.
    trust: Option<OwnedFd>,
    credential: Option<OwnedFd>,
}

impl<'a> Builder<'a> {
    /// Prepares, waits for an order, builds, and then keeps the session until it ends. The process's exit
    /// code.
    pub fn run(self) -> i32 {
        let built = self.build();
        // Whatever else the builder owned is closed from here on.
        let (launcher, host) = self.into_launcher();
        let handed_over = match built {
            // The launcher wants no session of it.
            Ok(None) => return 0,
            Ok(Some(ready)) => ready.hand_over(&launcher, host),
            Err(fault) => Err(fault),
        };
        match handed_over {
            Ok(mut keeper) => {
                keeper.tell_when_empty(launcher);
                keeper.run()
            }
            Err(Fault(refusal)) => {
                // A launcher that is gone needs no answer.
                let _ = encode(&Reply::Refused(refusal)).map(|p| launcher.send(&p, &[]));
                1
            }
        }
    }

    fn into_launcher(self) -> (Packets, &'a Host) {
        (self.launcher, self.host)
    }

    fn build(&self) -> Result<Option<Ready>, Fault> {
        nix::sys::signal::SigSet::empty().thread_set_mask().at("keeper", "signals")?;
        self.close_the_launchers().at("keeper", "descriptors")?;
        fault::arm();
        creds::ordinary().at("keeper", "defaults")?;
        process::clear_environment().at("keeper", "environment")?;
        let prepared = self.prepare()?;
        let children = prepared.children().at("keeper", "children")?;
        let built = match self.order(&children) {
            Ok(Some(order)) => self.complete(prepared, order).map(Some),
            Ok(None) => Ok(None),
            Err(fault) => Err(fault),
        };
        if !matches!(built, Ok(Some(_))) {
            // Reaped here, they leave nothing for others to reap. One may have ended and been reaped already.
            for child in children {
                let _ = child.kill().and_then(|()| child.wait());
            }
        }
        built
    }

    /// Closes what only the launcher uses: clients, other sessions, and its own end of our socket, whose end
    /// tells us to go.
    fn close_the_launchers(&self) -> std::io::Result<()> {
        let mut keep = self.host.descriptors().to_vec();
        keep.extend(self.agents.descriptors());
        keep.extend(self.helpers.descriptors());
        keep.extend([self.lock.as_fd(), self.launcher.as_fd()]);
        process::close_all_but(&keep)
    }

    /// Waits for the order; `None` if the launcher closes the socket instead. What was prepared may break
    /// meanwhile.
    fn order(&self, children: &[Child; 2]) -> Result<Option<Received>, Fault> {
        self.await_word(children)?;
        let Some(packet) = self.launcher.receive(MAX_PACKET, 6).at("order", "launcher")? else {
            return Ok(None);
        };
        let order: Order = decode(&packet.bytes).at("order", "launcher")?;
        let mut descriptors = packet.descriptors.into_iter();
        let listener =
            descriptors.next().ok_or_else(|| Fault::host("order", "launcher", "no socket for the keeper"))?;
        let offer = descriptors.next().ok_or_else(|| Fault::host("order", "launcher", "no offer"))?;
        let mut next = |wanted: bool| if wanted { descriptors.next() } else { None };
        let (uppers, blocklist, trust) = (next(order.uppers), next(order.blocklist), next(order.trust));
        let credential = next(order.credential);
        if order.blocklist != blocklist.is_some() {
            return Err(Fault::host("order", "launcher", "no table of blocklists"));
        }
        if order.trust != trust.is_some() {
            return Err(Fault::host("order", "launcher", "no file of authorities"));
        }
        if order.credential != credential.is_some() {
            return Err(Fault::host("order", "launcher", "no file for the site's proxy"));
        }
        let offered = offered(&Packets::from_fd(offer))?;
        let ago = Duration::from_nanos(monotonic_ns().saturating_sub(order.began_ns));
        let began = Instant::now().checked_sub(ago).unwrap_or_else(Instant::now);
        let Order { plan, ceiling, service_uid, disk, reserve, .. } = order;
        log::belong_to(&plan.session);
        fault::arm_by(&plan);
        Ok(Some(Received {
            plan,
            ceiling,
            began,
            listener,
            service_uid,
            offered,
            uppers,
            disk,
            reserve,
            blocklist,
            trust,
            credential,
        }))
    }
}

impl Builder<'_> {
    /// Returns once the launcher says something or is gone.
    fn await_word(&self, [init, relay]: &[Child; 2]) -> Result<(), Fault> {
        loop {
            let mut fds = [self.launcher.as_fd(), init.pidfd.as_fd(), relay.pidfd.as_fd()]
                .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
            match rustix::event::poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno).at("order", "poll"),
            }
            let [word, init, relay] = fds.map(|fd| !fd.revents().is_empty());
            for (ended, what) in [(init, "init"), (relay, "relay")] {
                if ended {
                    return Err(Fault::host("order", what, "it ended before anybody asked for the session"));
                }
            }
            if word {
                return Ok(());
            }
        }
    }
}

/// What the client offered: it is taken here, not in the launcher, because to close a descriptor can block.
fn offered(socket: &Packets) -> Result<Vec<(Grant, OwnedFd)>, Fault> {
    let malformed =
        |what: String| Fault::caller(what, Rule::OfferForm, "offer one descriptor for each grant");
    let packet = socket.receive(MAX_OFFER, MAX_DESCRIPTORS).at("order", "offer")?;
    let packet = packet.ok_or_else(|| Fault::host("order", "offer", "its client is gone"))?;
    let Offer { grants, .. } = Offer::decode(&packet.bytes).map_err(|error| malformed(error.to_string()))?;
    let (granted, given) = (grants.len(), packet.descriptors.len());
    if granted != given {
        return Err(malformed(format!("{given} descriptors for {granted} grants")));
    }
    Ok(grants.into_iter().zip(packet.descriptors).collect())
}

/// The time that launcher and builder share.
pub fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// The next message of init; what it could not do becomes our fault.
fn hear(socket: &Packets) -> Result<(FromInit, Vec<OwnedFd>), Fault> {
    let packet = socket.receive(MAX_KEEPER_PACKET, Network::DESCRIPTORS).at("init", "message")?;
    let packet =
        packet.ok_or_else(|| Fault::host("init", "init", "it ended before the session was built"))?;
    match decode(&packet.bytes).at("init", "message")? {
        FromInit::Failed { step, why } => Err(Fault::host(&step, "init", why)),
        message => Ok((message, packet.descriptors)),
    }
}
