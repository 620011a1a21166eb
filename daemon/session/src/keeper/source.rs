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

/// Every source that there is once, in the order of their kinds.
const SINGLE: [Source; 17] = [
    Source::Service,
    Source::Init,
    Source::InitExit,
    Source::Relay,
    Source::RelayExit,
    Source::Execs,
    Source::Closes,
    Source::Denials,
    Source::Pids,
    Source::Memory,
    Source::Disk,
    Source::MeterExit,
    Source::Listener,
    Source::Signals,
    Source::Leftovers,
    Source::Refused,
    Source::Steering,
];
/// The kinds of the others.
const PROCESS: u8 = 32;
const DATAGRAMS: u8 = 33;
const TUNNEL: u8 = 34;

impl Token for Source {
    fn to_parts(self) -> (u8, u64) {
        match self {
            Self::Process(pid) => (PROCESS, pid.into()),
            Self::Datagrams(number) => (DATAGRAMS, number),
            Self::Tunnel(number) => (TUNNEL, number),
            single => ((0..).zip(SINGLE).find(|(_, s)| *s == single).map_or(u8::MAX, |(kind, _)| kind), 0),
        }
    }

    fn from_parts(kind: u8, number: u64) -> Option<Self> {
        match kind {
            PROCESS => u32::try_from(number).ok().map(Self::Process),
            DATAGRAMS => Some(Self::Datagrams(number)),
            TUNNEL => Some(Self::Tunnel(number)),
            single => SINGLE.get(usize::from(single)).copied(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_name_one_source() {
        let many = [Source::Process(u32::MAX), Source::Datagrams(7), Source::Tunnel(1 << 40)];
        for source in SINGLE.into_iter().chain(many) {
            let (kind, number) = source.to_parts();
            assert_eq!(Source::from_parts(kind, number), Some(source));
        }
        assert_eq!(Source::from_parts(SINGLE.len() as u8, 0), None);
        assert_eq!(Source::from_parts(PROCESS, 1 << 32), None);
    }
}
