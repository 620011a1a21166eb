//! Transports.

use serde::{Deserialize, Serialize};

/// A transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A transport, and whether what goes by it is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AllowProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// TCP whose bytes nobody looks at.
    Opaque,
}

impl AllowProtocol {
    /// The transport.
    pub fn protocol(self) -> Protocol {
        match self {
            Self::Tcp | Self::Opaque => Protocol::Tcp,
            Self::Udp => Protocol::Udp,
        }
    }
}
