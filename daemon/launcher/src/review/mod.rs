//! Reviews: a client sees what a session of its user's changed in overlays, live or ended. A worker shows it, which is
//! forked for one review, holds the conversation with the client ([`agentd_policy::review`]) and ends with it. Nothing
//! that the agent wrote is read here: the worker makes mounts, the client looks.

mod place;
mod views;
mod worker;

use std::os::fd::AsFd as _;

use agentd_kernel::packets::Packets;
use agentd_kernel::process::{self, Child, CloneArgs};
use agentd_policy::names::SessionId;
use agentd_policy::wire::Peer;
use agentd_session::log;

use crate::context::Context;
use worker::Review;

/// The most at a time: of one account, and of all.
const MOST: (usize, usize) = (4, 32);

/// Workers that have not ended, with their accounts.
#[derive(Debug, Default)]
pub struct Reviews(Vec<(Child, u32)>);

impl Reviews {
    /// Whether one more of `account` is within bounds.
    pub fn has_room(&self, account: u32) -> bool {
        self.0.len() < MOST.1 && self.0.iter().filter(|(_, other)| *other == account).count() < MOST.0
    }

    /// Forks the worker, which holds the conversation on `socket`. If there is none, the client sees its end alone.
    pub fn start(&mut self, cx: &Context, account: u32, asked: (SessionId, Peer), socket: &Packets) {
        let birth = CloneArgs { with_parent: true, ..CloneArgs::default() };
        let child = process::spawn(cx.token, birth, || {
            let (session, peer) = asked;
            log::belong_to(&session);
            let shared = cx.disk.order(peer.uid, &session).shared;
            let (proc, placeholder) = (cx.host.proc.as_fd(), cx.host.placeholder.as_fd());
            Review { session, peer, socket, shared, proc, placeholder }.run(&cx.directories)
        });
        match child {
            Ok(child) => self.0.push((child, account)),
            Err(error) => tracing::error!(%error, "a review cannot begin"),
        }
    }

    /// Takes up the ends of workers.
    pub fn reap(&mut self) {
        self.0.retain(|(child, _)| matches!(child.try_wait(), Ok(None)));
    }
}
