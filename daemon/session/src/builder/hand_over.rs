//! The end of a build: the builder gives up its rights, as init does at the same time, and reports to the launcher.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use agentd_kernel::nsfs::Handle;
use agentd_kernel::packets::Packets;
use agentd_policy::step::Step;
use agentd_policy::wire::encode;

use super::fault::{At, Fault};
use super::steps::Steps;
use crate::host::Host;
use crate::keeper::Keeper;
use crate::order::Reply;

/// A session that is built, but for what keeper and init take from themselves.
pub struct Ready {
    /// The keeper to be.
    pub keeper: Keeper,
    /// How long it took so far.
    pub steps: Steps,
    /// The service's end of the keeper's socket.
    pub service: Packets,
    /// And of the relay's.
    pub relay: OwnedFd,
    /// A handle of its user namespace, if this kernel has such.
    pub users: Option<Handle>,
}

impl Ready {
    /// Gives up every right, waits until init has done the same, and reports to the launcher. What goes wrong ends the
    /// session.
    pub fn hand_over(self, launcher: &Packets, host: &Host) -> Result<Keeper, Fault> {
        let Self { mut keeper, mut steps, service, relay, users } = self;
        let answer = [service.as_fd(), relay.as_fd()];
        let confined = confine(&mut keeper, &mut steps, &answer, launcher, host);
        let reported = confined.and_then(|()| {
            let users = users.map(|users| (users.kind, users.bytes));
            let built =
                encode(&Reply::Built { timings: steps.timings(), users }).at(Step::Keeper, "answer")?;
            launcher.send(&built, &answer).at(Step::Keeper, "answer")?;
            steps.done(Step::Answer)
        });
        drop((service, relay));
        match reported {
            Ok(()) => Ok(keeper),
            Err(fault) => {
                keeper.abandon();
                Err(fault)
            }
        }
    }
}

/// The keeper's rights go while init confines itself.
fn confine(
    keeper: &mut Keeper,
    steps: &mut Steps,
    answer: &[BorrowedFd<'_>],
    launcher: &Packets,
    host: &Host,
) -> Result<(), Fault> {
    let also: Vec<_> = answer.iter().copied().chain([launcher.as_fd()]).collect();
    keeper.give_up(host.empty_root.as_fd(), &also).at(Step::Keeper, "rights")?;
    keeper.publish().map_err(|error| Fault::Refused(error.into()))?;
    steps.done(Step::Publish)?;
    let filter = if keeper.dials() { &host.dialler_filter } else { &host.keeper_filter };
    keeper.install(filter).at(Step::Keeper, "filter")?;
    // With the ids the parent-death signal has gone: from here on the session needs no launcher.
    steps.done(Step::Rights)?;
    let landlock_abi = keeper.confined()?;
    tracing::debug!(landlock_abi, "confined");
    steps.done(Step::Confine)
}
