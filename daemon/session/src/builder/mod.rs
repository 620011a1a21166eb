//! Building one session, top to bottom: [`prepare`] makes what is the same for every session of a user,
//! before anybody asks; [`complete`] what one request asks for. The builder is root, has a deadline, and
//! alone touches callers' files; at the end it gives everything up and becomes the session's keeper.

mod complete;
mod covers;
mod etc;
mod fault;
mod fs_ids;
mod hand_over;
mod inside;
mod paths;
mod prepare;
mod proc;
mod relay;
mod root;
mod steps;
mod streams;
mod sysfs;
mod system;
mod uppers;
mod view;
mod watch;
mod workspace;

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use agentd_kernel::cgroup::Group;
use agentd_kernel::creds;
use agentd_kernel::packets::{MAX_DESCRIPTORS, Packets};
use agentd_kernel::process::{self, Child, SingleThreaded};
use agentd_policy::ceiling::Ceiling;
use agentd_policy::lease::{Lease, Pool};
use agentd_policy::offer::{Grant, MAX_OFFER, Offer};
use agentd_policy::plan::Permitted;
use agentd_policy::rule::Rule;
use agentd_policy::step::Step;
use agentd_policy::wire::{Attached, MAX_KEEPER_PACKET, MAX_PACKET, decode_with, encode};
use rustix::event::{PollFd, PollFlags};

pub use covers::COMMON_DIR;
pub use fault::{At, Fault};
pub use view::COPY_ON_WRITE;

use crate::host::Host;
use crate::init::{FromInit, Network};
use crate::log;
use crate::meter::Reserve;
use crate::order::{DiskOrder, Order, OrderDescriptors, Owner, Reply, monotonic_ns};
use hand_over::Ready;

/// What a builder is born with.
pub struct Builder<'a> {
    /// Whose session it will be.
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

/// An order with its descriptors.
struct Received {
    plan: Permitted,
    ceiling: Ceiling,
    began: Instant,
    /// Where a service finds the keeper.
    listener: OwnedFd,
    service_uid: u32,
    offered: Vec<(Grant, OwnedFd)>,
    uppers: Option<OwnedFd>,
    disk: DiskOrder,
    reserve: Reserve,
    blocklist: Option<OwnedFd>,
    /// The CA bundle, for the relay.
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
            Err(fault) => {
                // A launcher that is gone needs no answer.
                encode(&Reply::Refused(fault.into())).map(|p| launcher.send(&p, &[])).ok();
                1
            }
        }
    }

    fn into_launcher(self) -> (Packets, &'a Host) {
        (self.launcher, self.host)
    }

    fn build(&self) -> Result<Option<Ready>, Fault> {
        nix::sys::signal::SigSet::empty().thread_set_mask().at(Step::Keeper, "signals")?;
        self.close_the_launchers().at(Step::Keeper, "descriptors")?;
        fault::arm();
        creds::ordinary().at(Step::Keeper, "defaults")?;
        process::clear_environment().at(Step::Keeper, "environment")?;
        let prepared = self.prepare()?;
        let children = prepared.children().at(Step::Keeper, "children")?;
        let built = match self.order(&children) {
            Ok(Some(order)) => self.complete(prepared, order).map(Some),
            Ok(None) => Ok(None),
            Err(fault) => Err(fault),
        };
        if !matches!(built, Ok(Some(_))) {
            // Reaped here, they leave nothing for others to reap. One may have ended and been reaped already.
            for child in children {
                child.kill().and_then(|()| child.wait()).ok();
            }
        }
        built
    }

    /// Closes what only the launcher uses: clients, other sessions, and its own end of our socket, whose end
    /// means that we have to go.
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
        let Some(packet) = self.launcher.receive(MAX_PACKET, 6).at(Step::Order, "launcher")? else {
            return Ok(None);
        };
        let decoded = decode_with(&packet.bytes, packet.descriptors);
        let (order, attached): (Order, _) = decoded.at(Step::Order, "launcher")?;
        let descriptors = OrderDescriptors::take(&order, attached).at(Step::Order, "launcher")?;
        let OrderDescriptors { listener, offer, uppers, blocklist, ca_bundle: trust, credential } =
            descriptors;
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
                Err(errno) => return Err(errno).at(Step::Order, "poll"),
            }
            let [word, init, relay] = fds.map(|fd| !fd.revents().is_empty());
            for (ended, what) in [(init, "init"), (relay, "relay")] {
                if ended {
                    return Err(Fault::unfit(
                        Step::Order,
                        what,
                        "it ended before anybody asked for the session",
                    ));
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
    let packet = socket.receive(MAX_OFFER, MAX_DESCRIPTORS).at(Step::Order, "offer")?;
    let packet = packet.ok_or_else(|| Fault::unfit(Step::Order, "offer", "its client is gone"))?;
    let Offer { grants, .. } = Offer::decode(&packet.bytes).map_err(|error| malformed(error.to_string()))?;
    let (granted, given) = (grants.len(), packet.descriptors.len());
    if granted != given {
        return Err(malformed(format!("{given} descriptors for {granted} grants")));
    }
    Ok(grants.into_iter().zip(packet.descriptors).collect())
}

/// The next message of init; what it could not do becomes our fault.
fn receive(socket: &Packets) -> Result<(FromInit, Attached<OwnedFd>), Fault> {
    let packet = socket.receive(MAX_KEEPER_PACKET, Network::DESCRIPTORS).at(Step::Init, "message")?;
    let packet =
        packet.ok_or_else(|| Fault::unfit(Step::Init, "init", "it ended before the session was built"))?;
    match decode_with(&packet.bytes, packet.descriptors).at(Step::Init, "message")? {
        (FromInit::Failed { step, why }, _) => Err(Fault::Init { step, why }),
        message => Ok(message),
    }
}
