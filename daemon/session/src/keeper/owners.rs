//! Whose a socket of the session is: the one process that has it. Looked for while that process waits for an answer, at
//! a bounded price; who cannot be found, or is not the only one, is not named.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use agentd_kernel::cgroup::Watch;
use agentd_kernel::procfs::{self, SocketMount};
use agentd_kernel::sock_diag::{Ends, SockDiag};
use agentd_policy::event::Actor;
use agentd_policy::protocol::Protocol;
use agentd_policy::token_bucket::TokenBucket;
use agentd_policy::wire::Client;

use super::processes::Processes;

/// The most processes that are looked at for one socket, and the most of their descriptors.
const MAX_PROCESSES: usize = 1024;
const MAX_DESCRIPTORS: usize = 2048;
/// pid 1 of the session.
const INIT: u32 = 1;
/// The most clients that are remembered.
const MAX_RECENT: usize = 256;
/// Sockets that are looked for at once, and in every second after that.
const LOOKS: (u32, u32) = (256, 128);

/// Finds who has a socket.
#[derive(Debug)]
pub struct Owners {
    sockets: SockDiag,
    /// `None` where /proc does not show it.
    mount: Option<SocketMount>,
    looks: TokenBucket,
    /// Who had the relay's clients that were looked for last.
    recent: VecDeque<(Client, Actor)>,
}

impl Owners {
    /// With a socket that asks about those of the session.
    pub fn new(sockets: SockDiag, proc: BorrowedFd<'_>) -> Self {
        let mount = SocketMount::of(proc, sockets.as_fd());
        if let Err(error) = &mount {
            tracing::warn!(%error, "which process has a connection is unknown on this host");
        }
        Self {
            sockets,
            mount: mount.ok(),
            looks: TokenBucket::new(LOOKS.0, LOOKS.1),
            recent: VecDeque::new(),
        }
    }

    /// Who has the relay's client, which waits for an answer.
    pub fn of_client(&mut self, client: &Client, processes: &Processes, watch: &Watch) -> Option<Actor> {
        let Client { protocol, from, to } = *client;
        let found = self.of(&Ends { tcp: protocol == Protocol::Tcp, own: from, far: to }, processes, watch);
        self.recent.retain(|(known, _)| known != client);
        if let Some(actor) = &found {
            self.recent.truncate(MAX_RECENT - 1);
            self.recent.push_front((*client, actor.clone()));
        }
        found
    }

    /// Who had it when it was last looked for: it has done the same again since, and may be gone.
    pub fn known(&self, client: &Client) -> Option<Actor> {
        self.recent.iter().find(|(known, _)| known == client).map(|(_, actor)| actor.clone())
    }

    /// Who has the socket with these ends.
    pub fn of(&mut self, ends: &Ends, processes: &Processes, watch: &Watch) -> Option<Actor> {
        let mount = self.mount?;
        if !self.looks.take(Instant::now()) {
            return None;
        }
        let inode = self.sockets.inode(ends).ok().flatten()?;
        let mut budget = MAX_DESCRIPTORS;
        let mut found = None;
        for pid in watch.processes(MAX_PROCESSES).ok().flatten()? {
            match mount.has(processes.proc(), pid, inode, &mut budget) {
                // Of several it could be any.
                Ok(Some(true)) if found.is_some() => return None,
                Ok(Some(true)) => found = Some(pid),
                Ok(Some(false)) => {}
                Ok(None) => return None,
                // Of a program that the agent may run and not read nobody may know: it could be that one. Init is
                // agentd's own, and has no socket of the agent's.
                Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                    if procfs::ids(processes.proc(), pid).is_ok_and(|ids| ids.pid != INIT) {
                        return None;
                    }
                }
                // It has ended.
                Err(_) => {}
            }
        }
        processes.caller(found?)
    }
}

impl AsFd for Owners {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.sockets.as_fd()
    }
}
