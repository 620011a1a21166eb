//! How much memory a connection may take. A client that does not read, or a server, has all buffers on the way filled,
//! and the kernel's grow to megabytes each; they count as the relay's and the keeper's, which have a limit. So the more
//! connections there are, the less a further one gets: in all no more than that limit, whatever all of them do.

use std::os::fd::AsFd;

use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_send_buffer_size};

use super::copy::CHUNK;

/// The most connections with large buffers.
const LARGE: usize = 8;
/// The most connections with large or medium buffers.
const MEDIUM: usize = 64;

/// The buffers of one connection, by how many connections there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BufferTier {
    /// Its sockets' buffers grow as the kernel sees fit.
    Large,
    /// 128 KiB for each buffer of a socket, chunks of 64 KiB.
    Medium,
    /// 16 KiB for each buffer of a socket, chunks of 8 KiB.
    Small,
}

impl BufferTier {
    /// For the last of `open` connections.
    pub fn of(open: usize) -> Self {
        if open <= LARGE {
            Self::Large
        } else if open <= MEDIUM {
            Self::Medium
        } else {
            Self::Small
        }
    }

    /// The most bytes that are read at once, and so held while they cannot be written.
    pub fn chunk(self) -> usize {
        match self {
            Self::Large | Self::Medium => CHUNK,
            Self::Small => 8 << 10,
        }
    }

    /// Whether much may go by a pipe, which holds it as well.
    pub fn splices(self) -> bool {
        self == Self::Large
    }

    /// Bounds the buffers of the session's side, which is near: more would make nothing faster.
    pub fn limit_client_side(self, socket: impl AsFd) {
        bound(socket, if self == Self::Large { 256 << 10 } else { self.server_size() });
    }

    /// Bounds the buffers of the far end's side.
    pub fn limit_server_side(self, socket: impl AsFd) {
        if self != Self::Large {
            bound(socket, self.server_size());
        }
    }

    fn server_size(self) -> usize {
        match self {
            Self::Large | Self::Medium => 128 << 10,
            Self::Small => 16 << 10,
        }
    }
}

/// The kernel takes twice as much: what it keeps beside the bytes counts.
fn bound(socket: impl AsFd, size: usize) {
    // It fails on no socket of TCP.
    set_socket_send_buffer_size(&socket, size).ok();
    set_socket_recv_buffer_size(&socket, size).ok();
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use rustix::net::sockopt::{socket_recv_buffer_size, socket_send_buffer_size};

    use super::*;

    #[test]
    fn the_more_there_are_the_less_each_has() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = || TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let sizes = |socket: &TcpStream| {
            socket_send_buffer_size(socket).unwrap() + socket_recv_buffer_size(socket).unwrap()
        };
        // All of them, all the way: both buffers of both sockets, what was read, and the longest heads of both sides.
        const HEADS: usize = 3 * agentd_protocols::http::MAX_HEAD;
        let mut total = 0;
        for (open, tier) in [
            (1, BufferTier::Large),
            (8, BufferTier::Large),
            (9, BufferTier::Medium),
            (64, BufferTier::Medium),
            (65, BufferTier::Small),
        ] {
            assert_eq!(BufferTier::of(open), tier);
            let (near, far) = (socket(), socket());
            tier.limit_client_side(&near);
            tier.limit_server_side(&far);
            assert!(sizes(&near) <= 1 << 20);
            let each = sizes(&near) + sizes(&far) + 2 * tier.chunk() + HEADS;
            total += match (open, tier) {
                // What the kernel gives at most by default.
                (1, BufferTier::Large) => LARGE * (each + (6 << 20) + (4 << 20)),
                (9, BufferTier::Medium) => (MEDIUM - LARGE) * each,
                (_, BufferTier::Small) => (1024 - MEDIUM) * each,
                _ => 0,
            };
        }
        assert!(total < 480 << 20, "{total} bytes");
    }
}
