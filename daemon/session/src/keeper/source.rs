//! What the keeper waits for.

use agentd_kernel::event_loop::{EventLoop, Token};

/// The keeper's event loop.
pub type Events = EventLoop<Source>;

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The service's socket.
    Service,
    Init,
    InitExit,
    /// The relay's control socket.
    Relay,
    /// The relay's pidfd.
    RelayExit,
    /// fanotify: a process asks to run a file.
    Execs,
    /// fanotify: files that were to be run were closed.
    Closes,
    /// NFLOG: packets that the rules dropped.
    Denials,
    /// `pids.events` of the session's cgroup.
    Pids,
    /// Its events of memory.
    Memory,
    /// The meter's pipe.
    Disk,
    /// The meter's pidfd.
    MeterExit,
    /// Where services and the launcher connect.
    Listener,
    Signals,
    /// The launcher or a scout, once the session is empty.
    Leftovers,
    /// Calls that the agent's filter refused.
    Refused,
    /// A launcher that changes the rules.
    Steering,
    /// The pidfd of a process of the session, by its pid outside.
    Process(u32),
    /// Either end of a pair of [`Datagrams`](super::egress), by its number.
    Datagrams(u64),
    /// A connection to the site's proxy, by its number.
    Tunnel(u64),
}

impl Token for Source {
    fn to_parts(self) -> (u8, u64) {
        match self {
            Self::Service => (1, 0),
            Self::Init => (2, 0),
            Self::InitExit => (3, 0),
            Self::Relay => (4, 0),
            Self::RelayExit => (5, 0),
            Self::Execs => (6, 0),
            Self::Closes => (7, 0),
            Self::Denials => (8, 0),
            Self::Pids => (9, 0),
            Self::Memory => (10, 0),
            Self::Disk => (11, 0),
            Self::MeterExit => (12, 0),
            Self::Listener => (13, 0),
            Self::Signals => (14, 0),
            Self::Leftovers => (15, 0),
            Self::Refused => (16, 0),
            Self::Steering => (17, 0),
            Self::Process(pid) => (18, pid.into()),
            Self::Datagrams(number) => (19, number),
            Self::Tunnel(number) => (20, number),
        }
    }

    fn from_parts(kind: u8, number: u64) -> Option<Self> {
        Some(match kind {
            1 => Self::Service,
            2 => Self::Init,
            3 => Self::InitExit,
            4 => Self::Relay,
            5 => Self::RelayExit,
            6 => Self::Execs,
            7 => Self::Closes,
            8 => Self::Denials,
            9 => Self::Pids,
            10 => Self::Memory,
            11 => Self::Disk,
            12 => Self::MeterExit,
            13 => Self::Listener,
            14 => Self::Signals,
            15 => Self::Leftovers,
            16 => Self::Refused,
            17 => Self::Steering,
            18 => Self::Process(u32::try_from(number).ok()?),
            19 => Self::Datagrams(number),
            20 => Self::Tunnel(number),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_name_one_source() {
        let mut known = 0;
        for kind in 0..=u8::MAX {
            let Some(source) = Source::from_parts(kind, 7) else { continue };
            known += 1;
            let (again, number) = source.to_parts();
            assert_eq!((again, Source::from_parts(again, number)), (kind, Some(source)));
        }
        assert_eq!(known, 20);
        assert_eq!(Source::from_parts(18, 1 << 32), None);
    }
}
