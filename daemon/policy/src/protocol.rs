//! Transports, and how an entry of a profile names them.

use serde::{Deserialize, Serialize};

/// A transport that connections are allowed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP, RFC 9293.
    Tcp,
    /// UDP, RFC 768.
    Udp,
}

/// A transport, and whether what goes by it is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AllowProtocol {
    /// TCP whose first bytes are inspected.
    Tcp,
    /// UDP, by datagram.
    Udp,
    /// TCP whose bytes nobody looks at.
    Opaque,
}

impl AllowProtocol {
    /// The transport that it stands for.
    pub fn protocol(self) -> Protocol {
        match self {
            Self::Tcp | Self::Opaque => Protocol::Tcp,
            Self::Udp => Protocol::Udp,
        }
    }
}
