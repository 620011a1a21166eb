//! What the launcher waits for.

use agentd_kernel::event_loop::Token;
use agentd_policy::wire::CallerNumber;

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The listener of the API.
    Clients,
    /// The listener of offers.
    OfferClients,
    /// The listener of the service.
    Services,
    /// SIGTERM, SIGINT, SIGHUP and SIGCHLD.
    Signals,
    /// The service's connection.
    Service,
    /// The hang-up of a client whose connection the service has.
    Caller(CallerNumber),
    /// The side socket of a client, by its number.
    Offer(u64),
    /// The socket of the builder of this lease.
    Builder(u32),
    /// The pidfd of the keeper of this lease.
    Keeper(u32),
    /// The child that examines the host.
    Examiner,
    /// The child that checks a new configuration, or the one that reads blocklists.
    Reload,
    /// A keeper that was asked to change rules, by the number of the offer that asked.
    Steering(u64),
}

impl Token for Source {
    fn to_parts(self) -> (u8, u64) {
        match self {
            Self::Clients => (1, 0),
            Self::OfferClients => (2, 0),
            Self::Services => (3, 0),
            Self::Signals => (4, 0),
            Self::Service => (5, 0),
            Self::Caller(CallerNumber(number)) => (6, number),
            Self::Offer(number) => (7, number),
            Self::Builder(lease) => (8, lease.into()),
            Self::Keeper(lease) => (9, lease.into()),
            Self::Examiner => (10, 0),
            Self::Reload => (11, 0),
            Self::Steering(number) => (12, number),
        }
    }

    fn from_parts(kind: u8, number: u64) -> Option<Self> {
        Some(match kind {
            1 => Self::Clients,
            2 => Self::OfferClients,
            3 => Self::Services,
            4 => Self::Signals,
            5 => Self::Service,
            6 => Self::Caller(CallerNumber(number)),
            7 => Self::Offer(number),
            8 => Self::Builder(u32::try_from(number).ok()?),
            9 => Self::Keeper(u32::try_from(number).ok()?),
            10 => Self::Examiner,
            11 => Self::Reload,
            12 => Self::Steering(number),
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
        assert_eq!(known, 12);
        assert_eq!(Source::from_parts(8, 1 << 32), None);
    }
}
