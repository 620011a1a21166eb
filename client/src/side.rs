//! The side connection to the launcher: it says what the client must know of this daemon, and takes the descriptors, or
//! a change of a session that runs.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use agentd_kernel::packets::{MAX_DESCRIPTORS, PacketError, Packets};
use agentd_policy::consent::Consent;
use agentd_policy::offer::{FromClient, Grant, Offer, Site, Steer, ToClient};
use agentd_policy::rule::Rule;
use agentd_policy::wire::{Attached, MAX_PACKET, Ticket, decode_with, encode};
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde::Serialize;

use crate::connect::{Socket, unreachable};
use crate::failure::Failure;

/// How long the launcher may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The name of the launcher's socket, beside the gRPC socket.
const NAME: &str = "offer.sock";

/// A connection to a launcher that may not have spoken yet.
#[derive(Debug)]
pub struct Begun {
    path: PathBuf,
    packets: Packets,
}

/// A connection to a launcher.
#[derive(Debug)]
pub struct Side {
    path: PathBuf,
    packets: Packets,
    /// What it said of the daemon.
    pub site: Site,
}

/// What the launcher holds for us as long as this lives.
#[derive(Debug)]
pub struct Held {
    /// Names it in the request.
    pub ticket: Ticket,
    _socket: Packets,
}

impl Begun {
    /// Connects to the launcher beside the daemon's `socket`. It speaks first, and meanwhile there is more to do.
    ///
    /// # Errors
    /// If nothing listens there, or root does not.
    pub fn connect(socket: &Socket) -> Result<Self, Failure> {
        let path = socket.path().with_file_name(NAME);
        let fd = open(&path).map_err(|error| unreachable(&path, &error))?;
        is_roots(&fd, &path)?;
        Ok(Self { path, packets: Packets::from_fd(fd) })
    }

    /// Receives what a client needs to know of the daemon.
    ///
    /// # Errors
    /// If no answer comes, or one of another version.
    pub fn receive_site(self) -> Result<Side, Failure> {
        let Self { path, packets } = self;
        match receive(&packets, &path)?.0 {
            ToClient::Site(site) => Ok(Side { path, packets, site: *site }),
            other => Err(failed(&path, &format!("the launcher begins with {other:?}"))),
        }
    }
}

impl Side {
    /// Connects to the launcher beside the daemon's `socket`, and receives what a client needs to know of the daemon.
    ///
    /// # Errors
    /// As [`Begun::connect`] and [`Begun::receive_site`].
    pub fn connect(socket: &Socket) -> Result<Self, Failure> {
        Begun::connect(socket)?.receive_site()
    }

    /// Hands `opened` over, with what was agreed to.
    ///
    /// # Errors
    /// The launcher's refusal.
    pub fn offer(self, consent: Consent, opened: &[(Grant, OwnedFd)]) -> Result<Held, Failure> {
        let grants = opened.iter().map(|(grant, _)| *grant).collect();
        let message = FromClient::Offer(Box::new(Offer { consent, grants }));
        let descriptors: Vec<_> = opened.iter().map(|(_, fd)| fd.as_fd()).collect();
        self.send(&message, &descriptors)?;
        match self.receive()?.0 {
            ToClient::Held(ticket) => Ok(Held { ticket, _socket: self.packets }),
            other => Err(self.unexpected(other)),
        }
    }

    /// Has a session that runs changed. Returns once that is in force.
    ///
    /// # Errors
    /// The launcher's refusal, or the keeper's.
    pub fn steer(self, steer: Steer) -> Result<(), Failure> {
        self.send(&FromClient::Steer(steer), &[])?;
        match self.receive()?.0 {
            ToClient::Steered => Ok(()),
            other => Err(self.unexpected(other)),
        }
    }

    /// Sends one message, with `descriptors` beside it.
    ///
    /// # Errors
    /// If the launcher is gone, or does not read.
    pub fn send<M: Serialize>(&self, message: &M, descriptors: &[BorrowedFd<'_>]) -> Result<(), Failure> {
        let packet = encode(message).map_err(|error| failed(&self.path, &error))?;
        self.packets.send(&packet, descriptors).map_err(|error| failed(&self.path, &error))
    }

    /// The next message, with its descriptors.
    ///
    /// # Errors
    /// If none comes, or one of another version.
    pub fn receive(&self) -> Result<(ToClient, Attached<OwnedFd>), Failure> {
        receive(&self.packets, &self.path)
    }

    /// What a message comes to that is not what was asked for: the launcher's refusal, or an error of its.
    pub fn unexpected(&self, message: ToClient) -> Failure {
        match message {
            ToClient::Refused(refusal) => refusal.into(),
            _ => self.malformed(),
        }
    }

    /// The launcher does not do what its version does.
    pub fn malformed(&self) -> Failure {
        failed(&self.path, &"the launcher answers something else")
    }
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    let address = SocketAddrUnix::new(path)?;
    let fd =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&fd, Timeout::Recv, Some(ANSWER_TIMEOUT))?;
    set_socket_timeout(&fd, Timeout::Send, Some(ANSWER_TIMEOUT))?;
    rustix::net::connect(&fd, &address)?;
    Ok(fd)
}

/// Descriptors go to root alone: a process of another uid that listens there is no launcher (`SO_PEERCRED`, `unix(7)`).
fn is_roots(fd: &OwnedFd, path: &Path) -> Result<(), Failure> {
    let peer = socket_peercred(fd).map_err(|errno| failed(path, &io::Error::from(errno)))?;
    if peer.uid.is_root() {
        return Ok(());
    }
    Err(Failure::refused(
        format!("{}, which uid {} listens at", path.display(), peer.uid.as_raw()),
        Rule::LauncherPeer,
        "agentd's launcher is root: name the socket of one by --socket",
    ))
}

fn receive(packets: &Packets, path: &Path) -> Result<(ToClient, Attached<OwnedFd>), Failure> {
    let packet = match packets.receive(MAX_PACKET, MAX_DESCRIPTORS) {
        Ok(Some(packet)) => packet,
        Ok(None) => return Err(failed(path, &"the launcher hung up")),
        Err(PacketError::WouldBlock) => return Err(failed(path, &"the launcher did not answer")),
        Err(error) => return Err(failed(path, &error)),
    };
    decode_with(&packet.bytes, packet.descriptors).map_err(|error| {
        let version = env!("CARGO_PKG_VERSION");
        failed(path, &format!("{error}; this is agentctl {version}: install agentd of the same version"))
    })
}

fn failed(path: &Path, error: &dyn std::fmt::Display) -> Failure {
    Failure::unreachable(format!("{}: {error}", path.display()))
}
