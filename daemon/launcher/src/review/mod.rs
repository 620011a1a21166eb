//! Reviews: a client sees what a session of its user's changed in overlays, live or ended. A worker shows it, which is
//! forked for one review, holds the conversation with the client ([`agentd_policy::review`]) and ends with it. Nothing
//! that the agent wrote is read here: the worker makes mounts, the client looks.

mod place;
mod views;
mod worker;

use std::os::fd::{AsFd as _, OwnedFd};

use agentd_kernel::packets::Packets;
use agentd_kernel::process::{self, Child, CloneArgs};
use agentd_policy::names::SessionId;
use agentd_session::log;

use crate::context::Context;

/// The most at a time: of one account, and of all.
const MOST: (usize, usize) = (4, 32);

/// What is reviewed, and by whom.
#[derive(Debug)]
pub struct Review {
    /// The session.
    pub session: SessionId,
    /// Whose it is, who is the client's user.
    pub uid: u32,
    /// The client's group.
    pub gid: u32,
    /// Its other groups.
    pub groups: Vec<u32>,
    /// The session's directory of uppers.
    pub directory: OwnedFd,
    /// The client.
    pub socket: Packets,
}

/// Workers that have not ended, with their accounts.
#[derive(Debug, Default)]
pub struct Reviews(Vec<(Child, u32)>);

impl Reviews {
    /// Whether one more of `account` is within bounds.
    pub fn has_room(&self, account: u32) -> bool {
        self.0.len() < MOST.1 && self.0.iter().filter(|(_, other)| *other == account).count() < MOST.0
    }

    /// Forks the worker. The socket is its own from then on, and comes back to be closed.
    pub fn start(&mut self, cx: &Context, account: u32, review: Review) -> (Packets, std::io::Result<()>) {
        let shared = cx.disk.order(review.uid, &review.session).shared;
        let child = process::spawn(cx.token, CloneArgs { with_parent: true, ..CloneArgs::default() }, || {
            log::belong_to(&review.session);
            worker::run(&review, shared.as_ref(), (cx.host.proc.as_fd(), cx.host.placeholder.as_fd()))
        });
        (review.socket, child.map(|child| self.0.push((child, account))))
    }

    /// Takes up the ends of workers.
    pub fn reap(&mut self) {
        self.0.retain(|(child, _)| matches!(child.try_wait(), Ok(None)));
    }
}
