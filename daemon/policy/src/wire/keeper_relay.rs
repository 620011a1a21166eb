//! Messages between a session's keeper and its relay, on the relay's control socket.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::egress::{Egress, Purpose};
use crate::event::NetEvent;
use crate::hosts::HostName;
use crate::protocol::Protocol;
use crate::publish::Publish;
use crate::wire::{Attached, CommandNumber, Message, WireError};

/// Keeper to relay, on the relay's control socket. The socket's end is the relay's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToRelay {
    /// Carry a further command's streams. Descriptors: [`CarryDescriptors`].
    Carry {
        /// The command's number in its session.
        command: CommandNumber,
        /// One terminal, not three pipes.
        terminal: bool,
    },
    /// The service has a new stream for a command. Descriptor: it. It begins with [`RESUME`](super::frame::RESUME).
    Connect {
        /// The command's number in its session.
        command: CommandNumber,
    },
    /// Close a further command's streams: nobody takes its output.
    Close {
        /// The command's number in its session.
        command: CommandNumber,
    },
    /// No command runs any more and none will: end once all output is delivered.
    Over,
    /// What the session may reach, if only to be refused. Descriptors: [`NetworkDescriptors`].
    Network {
        /// What it may reach.
        egress: Box<Egress>,
        /// Whether there is a table.
        blocklist: bool,
    },
    /// What it may reach is something else now: what is open is judged again.
    Policy {
        /// From now on.
        egress: Box<Egress>,
    },
    /// Answers [`FromRelay::Dial`]. Descriptor: a socket that connects, without blocking; none if there is an error.
    Dialled {
        /// The number of the [`FromRelay::Dial`].
        number: u32,
        /// What the kernel or the keeper said: `EACCES` for what the plan does not allow, `EAGAIN` if there is no room
        /// for its event or for one more dial.
        errno: Option<i32>,
    },
    /// The answer to [`FromRelay::Pin`].
    Pinned {
        /// The number of the [`FromRelay::Pin`].
        number: u32,
        /// The addresses that can be reached now, of those that were asked for.
        addresses: Vec<IpAddr>,
    },
    /// The answer to a [`FromRelay::Event`] with a number.
    Recorded {
        /// The number of the [`FromRelay::Event`].
        number: u32,
    },
    /// Ask for a name anew, past what is known of it: something is to be connected to an address that it had. Answered
    /// by [`FromRelay::Renewed`].
    Renew {
        /// The name that is resolved anew.
        name: HostName,
        /// The type of the question: for addresses of IPv4 or IPv6.
        question: u16,
    },
    /// A port is published; it comes right after [`ToRelay::Network`]. Descriptors: one or two listeners on the host's
    /// loopback, for IPv4 and IPv6.
    Publish {
        /// The port, inside and on the host.
        publish: Publish,
    },
}

/// Relay to keeper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromRelay {
    /// Bytes went through one of the session's streams since the last such message; at most one a second.
    Active,
    /// A further command's output was delivered, or nobody took it: the relay has forgotten the command.
    Closed {
        /// The command's number in its session.
        command: CommandNumber,
    },
    /// Connect to an address. Answered by [`ToRelay::Dialled`]; what comes of it is an event, but for resolvers.
    Dial {
        /// The relay's choice; it has at most [`MAX_DIALS`] without an answer.
        number: u32,
        /// The rule or plan entry that allows it.
        purpose: Purpose,
        /// The address and port to connect to.
        to: SocketAddr,
        /// TCP or UDP.
        protocol: Protocol,
        /// Who in the session asked, or who on the host for [`Purpose::Publish`]: a claim, of which nothing is judged.
        from: SocketAddr,
    },
    /// A name was asked for and resolved: its addresses are to be reachable. Answered by [`ToRelay::Pinned`]. The
    /// question is an event.
    Pin {
        /// The relay's choice; it has at most [`MAX_DIALS`] without an answer.
        number: u32,
        /// The name that was asked for, which is what is judged.
        name: HostName,
        /// The type of the question (RFC 1035 §3.2.2).
        question: u16,
        /// What was answered; at most [`MAX_ADDRESSES`](crate::egress::MAX_ADDRESSES).
        addresses: Vec<IpAddr>,
        /// For how long, in seconds.
        ttl: u32,
        /// Who asked; `None` if it was the keeper, by [`ToRelay::Renew`].
        client: Option<Client>,
    },
    /// Something happened. A keeper without room counts it as dropped.
    Event {
        /// The event, without its actor.
        event: NetEvent,
        /// Whose connection or question it is about.
        client: Option<Client>,
        /// Answered by [`ToRelay::Recorded`], if it is a number: until then the client has not been answered, and can
        /// be seen. The relay has at most [`MAX_DIALS`] without an answer. Without a number it is about what a client
        /// did again, of which there was an event before.
        number: Option<u32>,
    },
    /// [`ToRelay::Renew`] is done, whatever came of it: what did has been asked for by [`FromRelay::Pin`] before.
    Renewed {
        /// The name that is resolved anew.
        name: HostName,
        /// The type of the question.
        question: u16,
    },
    /// After [`ToRelay::Over`], of a session with egress: every event has been sent.
    Silent,
}

/// A program's socket in the session, as its peer sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Client {
    /// By which protocol.
    pub protocol: Protocol,
    /// Its own end: a claim, which finds the socket or nothing.
    pub from: SocketAddr,
    /// The end that it talks to.
    pub to: SocketAddr,
}

/// Dials, pins and events of a relay that wait for an answer.
pub const MAX_DIALS: usize = 256;
/// Of dials, those to published ports: each is a question to the session's pid 1, which the agent can slow down.
pub const MAX_INWARD: usize = 32;

impl Message for ToRelay {
    fn descriptors(&self) -> RangeInclusive<usize> {
        match self {
            Self::Carry { terminal, .. } => {
                let count = if *terminal { 2 } else { 4 };
                count..=count
            }
            Self::Connect { .. } => 1..=1,
            Self::Network { egress, blocklist } => {
                let count = egress.sockets() + usize::from(*blocklist) + usize::from(egress.asks_over_tls());
                count..=count
            }
            Self::Dialled { errno, .. } => {
                let count = usize::from(errno.is_none());
                count..=count
            }
            Self::Publish { .. } => 1..=2,
            Self::Close { .. }
            | Self::Over
            | Self::Policy { .. }
            | Self::Pinned { .. }
            | Self::Recorded { .. }
            | Self::Renew { .. } => 0..=0,
        }
    }
}

/// A command's standard streams, from outside.
#[derive(Debug)]
pub enum CommandStreams<F> {
    /// The writing end of its input, the reading ends of its output and error.
    Pipes([F; 3]),
    /// The master of its terminal.
    Terminal(F),
}

impl<F> CommandStreams<F> {
    /// Takes them, as the last of a message.
    ///
    /// # Errors
    /// If there are fewer or more.
    pub fn take(terminal: bool, mut attached: Attached<F>) -> Result<Self, WireError> {
        let streams = match terminal {
            true => Self::Terminal(attached.one()?),
            false => Self::Pipes(attached.array()?),
        };
        attached.finish()?;
        Ok(streams)
    }
}

/// The descriptors of [`ToRelay::Carry`].
#[derive(Debug)]
pub struct CarryDescriptors<F> {
    /// The stream to the service.
    pub service: F,
    /// Those of the command.
    pub streams: CommandStreams<F>,
}

impl<F> CarryDescriptors<F> {
    /// From a message: the stream to the service first, then the command's own.
    ///
    /// # Errors
    /// If there are fewer or more.
    pub fn take(terminal: bool, mut attached: Attached<F>) -> Result<Self, WireError> {
        let service = attached.one()?;
        Ok(Self { service, streams: CommandStreams::take(terminal, attached)? })
    }

    /// In the order in which they are sent.
    pub fn into_vec(self) -> Vec<F> {
        let mut all = vec![self.service];
        match self.streams {
            CommandStreams::Terminal(master) => all.push(master),
            CommandStreams::Pipes(pipes) => all.extend(pipes),
        }
        all
    }
}

/// A session's sockets in its own network, each for IPv4 and IPv6.
#[derive(Debug)]
pub struct EgressSockets<F> {
    /// Transparent listeners for TCP.
    pub tcp: [F; 2],
    /// Sockets for DNS over UDP.
    pub dns: [F; 2],
    /// Listeners of the explicit proxy, if [`Egress::has_proxy`].
    pub proxy: Option<[F; 2]>,
    /// For each of [`Egress::udp_ports`].
    pub udp: Vec<(u16, [F; 2])>,
    /// Listeners for each of [`Egress::local`].
    pub local: Vec<[F; 2]>,
}

impl<F> EgressSockets<F> {
    /// Takes those of `egress`, and leaves what follows.
    ///
    /// # Errors
    /// If there are fewer.
    pub fn take(egress: &Egress, attached: &mut Attached<F>) -> Result<Self, WireError> {
        Ok(Self {
            tcp: attached.array()?,
            dns: attached.array()?,
            proxy: egress.has_proxy().then(|| attached.array()).transpose()?,
            udp: egress
                .udp_ports()
                .into_iter()
                .map(|port| Ok((port, attached.array()?)))
                .collect::<Result<_, WireError>>()?,
            local: egress.local.iter().map(|_| attached.array()).collect::<Result<_, _>>()?,
        })
    }

    /// In the order in which they are sent.
    pub fn into_vec(self) -> Vec<F> {
        let udp = self.udp.into_iter().map(|(_, sockets)| sockets);
        [self.tcp, self.dns].into_iter().chain(self.proxy).chain(udp).chain(self.local).flatten().collect()
    }
}

/// The descriptors of [`ToRelay::Network`].
#[derive(Debug)]
pub struct NetworkDescriptors<F> {
    /// What programs of the session reach.
    pub sockets: EgressSockets<F>,
    /// The table of the site's blocklists, if it has any.
    pub blocklist: Option<F>,
    /// The site's CA bundle (PEM), if [`Egress::asks_over_tls`].
    pub ca_bundle: Option<F>,
}

impl<F> NetworkDescriptors<F> {
    /// From a message: the sockets that `egress` needs first, then the blocklist's table and the CA bundle.
    ///
    /// # Errors
    /// If there are fewer or more.
    pub fn take(egress: &Egress, blocklist: bool, mut attached: Attached<F>) -> Result<Self, WireError> {
        let sockets = EgressSockets::take(egress, &mut attached)?;
        let blocklist = attached.one_if(blocklist)?;
        let ca_bundle = attached.one_if(egress.asks_over_tls())?;
        attached.finish()?;
        Ok(Self { sockets, blocklist, ca_bundle })
    }

    /// In the order in which they are sent.
    pub fn into_vec(self) -> Vec<F> {
        let mut all = self.sockets.into_vec();
        all.extend(self.blocklist);
        all.extend(self.ca_bundle);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_come_as_they_were_sent() {
        let egress = Egress { local: vec![5432], ..Egress::default() };
        let count = egress.sockets() + 1;
        let sent: Vec<usize> = (0..count).collect();
        let taken = NetworkDescriptors::take(&egress, true, Attached::new(sent.clone())).unwrap();
        assert_eq!((taken.blocklist, taken.ca_bundle), (Some(count - 1), None));
        assert_eq!(taken.sockets.local, [[count - 3, count - 2]]);
        assert_eq!(taken.into_vec(), sent);
        let message = ToRelay::Network { egress: Box::new(egress.clone()), blocklist: true };
        assert_eq!(message.descriptors(), count..=count);
        for other in [count - 1, count + 1] {
            let attached = Attached::new((0..other).collect());
            assert!(matches!(NetworkDescriptors::take(&egress, true, attached), Err(WireError::Descriptors)));
            let packet = crate::wire::encode(&message).unwrap();
            let decoded = crate::wire::decode_with::<ToRelay, _>(&packet, vec![(); other]);
            assert!(matches!(decoded, Err(WireError::Descriptors)));
        }
    }

    #[test]
    fn a_command_has_a_terminal_or_three_pipes() {
        for (terminal, count) in [(true, 2), (false, 4)] {
            let sent: Vec<usize> = (0..count).collect();
            let taken = CarryDescriptors::take(terminal, Attached::new(sent.clone())).unwrap();
            assert_eq!(taken.into_vec(), sent);
            assert_eq!(ToRelay::Carry { command: 1, terminal }.descriptors(), count..=count);
            assert!(CarryDescriptors::take(!terminal, Attached::new(sent)).is_err());
        }
    }
}
