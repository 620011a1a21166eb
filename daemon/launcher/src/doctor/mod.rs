//! What the host offers to sessions: every facility is tried for real, in a short-lived child, and nothing of
//! the trial is left. A version number is shown and decides nothing.
//!
//! What needs a right of root's is tried here; [`unprivileged`] tries and judges the rest, and reports.

mod apart;
mod cgroups;
mod confine;
mod files;
mod unprivileged;

use agentd_kernel::creds::{NoHostRights, parent_death_signal};
use agentd_kernel::process::{self, CloneArgs, SingleThreaded};
use agentd_policy::event::ExitStatus;
use agentd_policy::wire::Check;
use agentd_session::error::HostError;
use nix::sched::CloneFlags;

use crate::context::Context;
use apart::{apart, apart_in, own_namespaces};
use unprivileged::{Facts, confine::NAMESPACES, network::TRIALS};

/// Tries every facility, for the user `uid`, and has a child without rights give the checks to `report`. Runs in a
/// child of the launcher, as root; takes some seconds at most, and at worst five for each facility.
///
/// # Errors
/// If there is no report.
pub fn examine(
    cx: &Context,
    uid: u32,
    report: impl FnOnce(Vec<Check>) -> Result<(), HostError>,
) -> Result<(), HostError> {
    let token = SingleThreaded::verify()?;
    let id = cx.settings.config.pool.uids.system().get();
    let mut groups = cgroups::Groups::default();
    let trial = groups.trial(token, cx.cgroups.root.as_deref(), id);
    // First: a group that was killed once takes nobody in who is born elsewhere, on some kernels.
    let network = trial.as_ref().ok().filter(|trial| trial.birth.is_ok()).map(|trial| {
        let network = CloneFlags::CLONE_NEWNET;
        TRIALS.map(|work| apart_in(token, trial.born(), || work(&own_namespaces(id, network)?)))
    });
    let facts = Facts {
        namespaces: NAMESPACES.map(|(_, kind)| apart(token, || own_namespaces(id, kind).map(drop))),
        files: files::facts(token, cx, uid),
        exec_watch: apart(token, || confine::watch_exec(&cx.host)),
        memfd_noexec: apart(token, || confine::memfd_noexec(token)),
        oom: apart(token, || confine::oom_protect(&cx.host)),
        cgroups: trial,
        network,
    };
    let child = process::spawn(token, CloneArgs { with_parent: true, ..CloneArgs::default() }, || {
        let reported = NoHostRights::of(id, id, &[]).map_err(HostError::from).and_then(|none| {
            parent_death_signal()?;
            report(unprivileged::checks(&none, token, cx, &facts))
        });
        match reported {
            Ok(()) => 0,
            Err(error) => {
                tracing::error!(%error, "the host could not be examined");
                1
            }
        }
    })?;
    match child.wait()? {
        ExitStatus::Code(0) => Ok(()),
        how => Err(HostError::unfit(format!("what reports it ended with {how:?}"))),
    }
}
