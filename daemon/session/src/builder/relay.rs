//! Starting the relay: another program, under an id of its own, with nothing but its descriptors.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use agentd_kernel::packets::Packets;
use agentd_kernel::process::{self, Child, CloneArgs};
use agentd_kernel::{creds, rlimits};
use agentd_policy::lease::Lease;
use agentd_policy::step::Step;
use nix::sched::CloneFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::Builder;
use super::fault::{At, Fault};
use crate::error::HostError;
use crate::stdio::Outside;

/// Open files of a relay: six for each connection of a session that egress, and for each to a port that it publishes
/// (two sockets, a pipe each way), and four for each command, as many again that come while others go, and its own.
const OPEN_FILES: u64 = 10_240;

/// A relay that runs.
pub struct Started {
    pub child: Child,
    /// The keeper's word to it; it ends when this does.
    pub control: Packets,
    /// The service's end of its stream.
    pub service: OwnedFd,
}

impl Started {
    /// Ends one that is not wanted.
    pub fn end(self) -> Result<(), Fault> {
        self.child.kill().and_then(|()| self.child.wait()).at(Step::Relay, "the one of pipes").map(drop)
    }
}

impl Builder<'_> {
    /// Starts a relay. It must be called in the host's mount namespace, where its loader is.
    pub fn start_relay(&self, outside: &Outside) -> Result<Started, Fault> {
        let (service, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
                .at(Step::Relay, "socket")?;
        let (control, their_control) = Packets::pair().at(Step::Relay, "control socket")?;
        let relay = Relay {
            program: self.host.relay.as_fd(),
            network: self.host.empty_net.as_fd(),
            lease: &self.lease,
            outside,
            service: theirs,
            control: their_control,
        };
        let birth = CloneArgs { cgroup: Some(self.helpers.directory()), ..CloneArgs::default() };
        let child = process::spawn(self.token, birth, || match relay.become_relay() {
            Ok(never) => match never {},
            Err(error) => {
                tracing::error!(%error, "the relay was not started");
                1
            }
        });
        Ok(Started { child: child.at(Step::Relay, "fork")?, control, service })
    }
}

/// What a relay is started with.
struct Relay<'a> {
    program: BorrowedFd<'a>,
    /// A network namespace with nothing in it.
    network: BorrowedFd<'a>,
    lease: &'a Lease,
    /// The command's streams.
    outside: &'a Outside,
    /// Its stream to the service.
    service: OwnedFd,
    /// Ends when the keeper does.
    control: Packets,
}

impl Relay<'_> {
    fn become_relay(&self) -> Result<std::convert::Infallible, HostError> {
        nix::sched::setns(self.network, CloneFlags::CLONE_NEWNET)?;
        let (word, streams) = self.outside.parts();
        let program = self.program.try_clone_to_owned()?;
        // Out of the way of the numbers that the relay expects.
        let mut high = Vec::new();
        for fd in [self.service.as_fd(), self.control.as_fd(), program.as_fd()].into_iter().chain(streams) {
            high.push(rustix::io::fcntl_dupfd_cloexec(fd, 64)?);
        }
        let program = high.remove(2);
        for (number, fd) in (3..).zip(&high) {
            process::place(fd.as_fd(), number)?;
        }
        let count = u32::try_from(high.len()).map_err(|_| HostError::unfit("too many descriptors"))?;
        process::close_on_exec_from(3 + count)?;
        // Where everything in the sessions' cgroup is asked to end, the keeper sees to it; the relay ends with that.
        let mut signals = nix::sys::signal::SigSet::empty();
        signals.add(nix::sys::signal::Signal::SIGTERM);
        signals.thread_set_mask()?;
        rlimits::Limits::of_files(OPEN_FILES).apply().map(drop)?;
        let id = self.lease.relay.get();
        creds::become_ids(id, id)?;
        creds::drop_all_capabilities()?;
        creds::no_new_privs()?;
        creds::parent_death_signal()?;
        let argv = [c"agentd-relay", word];
        Ok(process::execute(program.as_fd(), &argv, &[])?)
    }
}
