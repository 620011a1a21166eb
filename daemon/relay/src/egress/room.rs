//! How much memory a connection may take. A client that does not read, or a server, has all buffers on the way filled,
//! and the kernel's grow to megabytes each; they count as the relay's and the keeper's, which have a limit. So the more
//! connections there are, the less a further one gets: in all no more than that limit, whatever all of them do.

use std::os::fd::AsFd;

use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_send_buffer_size};

use super::copy::CHUNK;

/// So many may have buffers that grow as the kernel sees fit.
const AMPLE: usize = 8;
/// So many more are still fast.
const FAIR: usize = 64;

/// What one gets, by how many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// As much as it can use.
    Ample,
    /// Enough for most.
    Fair,
    /// Enough to go on.
    Little,
}

impl Room {
    /// For the last of so many.
    pub fn of(open: usize) -> Self {
        if open <= AMPLE {
            Self::Ample
        } else if open <= FAIR {
            Self::Fair
        } else {
            Self::Little
        }
    }

    /// The most bytes that are read at once, and so held while they cannot be written.
    pub fn chunk(self) -> usize {
        match self {
            Self::Ample | Self::Fair => CHUNK,
            Self::Little => 8 << 10,
        }
    }

    /// Whether much may go by a pipe, which holds it as well.
    pub fn splices(self) -> bool {
        self == Self::Ample
    }

    /// Bounds the buffers of the session's side, which is near: more would make nothing faster.
    pub fn near(self, socket: impl AsFd) {
        bound(socket, if self == Self::Ample { 256 << 10 } else { self.far_size() });
    }

    /// Bounds the buffers of the far end's side.
    pub fn far(self, socket: impl AsFd) {
        if self != Self::Ample {
            bound(socket, self.far_size());
        }
    }

    fn far_size(self) -> usize {
        match self {
            Self::Ample | Self::Fair => 128 << 10,
            Self::Little => 16 << 10,
        }
    }
}

/// The kernel takes twice as much: what it keeps beside the bytes counts.
fn bound(socket: impl AsFd, size: usize) {
    // It fails on no socket of TCP.
    let _ = set_socket_send_buffer_size(&socket, size);
    let _ = set_socket_recv_buffer_size(&socket, size);
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
        const HEADS: usize = 3 * agentd_relay::http::MAX_HEAD;
        let mut total = 0;
        for (open, room) in
            [(1, Room::Ample), (8, Room::Ample), (9, Room::Fair), (64, Room::Fair), (65, Room::Little)]
        {
            assert_eq!(Room::of(open), room);
            let (near, far) = (socket(), socket());
            room.near(&near);
            room.far(&far);
            assert!(sizes(&near) <= 1 << 20);
            let each = sizes(&near) + sizes(&far) + 2 * room.chunk() + HEADS;
            total += match (open, room) {
                // What the kernel gives at most by default.
                (1, Room::Ample) => AMPLE * (each + (6 << 20) + (4 << 20)),
                (9, Room::Fair) => (FAIR - AMPLE) * each,
                (_, Room::Little) => (1024 - FAIR) * each,
                _ => 0,
            };
        }
        assert!(total < 480 << 20, "{total} bytes");
    }
}
