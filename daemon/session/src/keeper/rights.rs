//! What a builder gives up when it becomes a keeper.

use std::os::fd::{AsFd, BorrowedFd};

use agentd_kernel::{creds, mount, process, rlimits, seccomp};

use super::Keeper;
use super::egress::EgressState;
use crate::error::HostError;

/// Descriptors besides one for each process of the session: its own, and connections on their way to the relay.
const OWN_FILES: u64 = 1024;

impl Keeper {
    /// Gives up every right: an empty root, the leased uid, no capability, no descriptor that the builder had
    /// besides those of the keeper and `also`. What is left to give up is [`Keeper::install`]'s.
    pub fn give_up(&self, empty_root: BorrowedFd<'_>, also: &[BorrowedFd<'_>]) -> Result<(), HostError> {
        creds::not_dumpable()?;
        rlimits::Limits::of_files(self.limits.planned.pids + OWN_FILES).apply().map(drop)?;
        mount::enter_namespace(empty_root)?;
        self.close_all_but(also)?;
        let id = self.identity.lease.keeper.get();
        creds::become_ids(id, id)?;
        creds::drop_all_capabilities()?;
        creds::no_new_privs()?;
        Ok(creds::not_dumpable()?)
    }

    /// The last that it gives up: calls that it has no use for.
    pub fn install(&self, filter: &seccomp::Filter) -> Result<(), HostError> {
        Ok(seccomp::install(filter).map(drop)?)
    }

    fn close_all_but(&self, also: &[BorrowedFd<'_>]) -> std::io::Result<()> {
        let mut keep = also.to_vec();
        let own = [&self.identity.lock, &self.proc].map(AsFd::as_fd);
        keep.extend(own.into_iter().chain([self.event_loop.as_fd(), self.signals.as_fd()]));
        keep.extend(self.init.descriptors());
        keep.extend(self.relay.descriptors());
        keep.extend(self.service.descriptors());
        keep.extend(self.audit.descriptors());
        keep.extend(self.files.descriptors());
        keep.extend(self.egress_state.iter().flat_map(EgressState::descriptors));
        if let Some((meter, notices)) = &self.limits.disk {
            keep.extend([meter.pidfd.as_fd(), notices.as_fd()]);
        }
        keep.extend(self.watch.descriptors());
        keep.extend(self.denials.descriptors());
        process::close_all_but(&keep)
    }
}
