//! The side connection between a client and the launcher, beside which the service has no part.
//!
//! The launcher speaks first: [`Site`], what a client must know of this daemon. The client answers with an [`Offer`]:
//! what it agreed to, and beside it the descriptors that it opened itself with its user's own rights, each with its
//! role and the highest mode that it grants. The launcher holds it and gives a ticket. Or it answers with a [`Steer`]:
//! what is to be different in a session that runs, which the launcher has the session's keeper do. Or it asks for a
//! review, which a worker of the launcher's goes on with ([`crate::review`]), or for what there is to review to be
//! deleted. A message is one packet, encoded as every message of agentd's ([`crate::wire`]).

use std::net::SocketAddr;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::Refusal;
use crate::addresses::Net;
use crate::config::{Bounds, Config, Resolvers};
use crate::consent::{Consent, VERSION};
use crate::mode::{Mode, Role};
use crate::mount::MAX_MOUNTS;
use crate::names::{AbsPath, RelPath, SessionId};
use crate::network::Change;
use crate::resolver::Resolver;
use crate::review::{Directory, Kept};
use crate::wire::{self, Message, Ticket, WireError};

/// The most descriptors of one offer (`SCM_MAX_FD`).
pub const MAX_GRANTS: usize = 253;
/// The longest offer, in bytes.
pub const MAX_OFFER: usize = 1024;
/// The longest change of a session that runs.
pub const MAX_STEER: usize = 32 << 10;

/// What a client must know of a daemon before it opens anything.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Site {
    /// The launcher's version.
    pub version: String,
    /// Where the site's profiles are.
    pub profile_dirs: Vec<AbsPath>,
    /// Whether callers with uid 0 may start sessions.
    pub allow_root: bool,
    /// What no profile and no flag can exceed.
    pub bounds: Bounds,
    /// Special-purpose ranges that count as public ones.
    pub allow_private_ranges: Vec<Net>,
    /// The HTTP proxy by which names are reached, if there is one.
    pub proxy: Option<SocketAddr>,
    /// Whom names are asked of; `None`: the system's resolvers.
    pub resolvers: Option<Vec<Resolver>>,
}

impl Site {
    /// What `config` says.
    pub fn of(config: &Config) -> Self {
        Self {
            version: VERSION.to_owned(),
            profile_dirs: config.profile_dirs.clone(),
            allow_root: config.allow_root,
            bounds: config.bounds.clone(),
            allow_private_ranges: config.egress.allow_private_ranges.clone(),
            proxy: config.egress.proxy,
            resolvers: match &config.egress.resolvers {
                Resolvers::System => None,
                Resolvers::List(list) => Some(list.clone()),
            },
        }
    }
}

/// The most that one descriptor may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// What the descriptor is for.
    pub role: Role,
    /// The most that it may be given as.
    pub mode: Mode,
}

/// What a client sends, once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromClient {
    /// For a session that it will ask the service for. With descriptors.
    Offer(Box<Offer>),
    /// About one that runs.
    Steer(Steer),
    /// To see what this session of its user's changed in overlays.
    Review(SessionId),
    /// To have that deleted. The session's record stays.
    Discard(SessionId),
}

/// A change of a session that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Steer {
    /// A session of the client's user.
    pub session: SessionId,
    /// What it may reach besides, and what not any more.
    pub change: Box<Change>,
}

/// What a client hands over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// To what it agreed.
    pub consent: Consent,
    /// One for each descriptor, in their order.
    pub grants: Vec<Grant>,
}

impl FromClient {
    /// What a client sent.
    ///
    /// # Errors
    /// If it is malformed, or an offer that names more than 253 descriptors.
    pub fn decode(packet: &[u8]) -> Result<Self, WireError> {
        if packet.len() > MAX_STEER {
            return Err(WireError::TooLong(packet.len()));
        }
        match wire::decode(packet)? {
            Self::Offer(_) if packet.len() > MAX_OFFER => Err(WireError::TooLong(packet.len())),
            Self::Offer(offer) if offer.grants.len() > MAX_GRANTS || !offer.consent.is_well_formed() => {
                Err(WireError::TooLong(offer.grants.len()))
            }
            message => Ok(message),
        }
    }
}

impl Offer {
    /// The offer in a packet.
    ///
    /// # Errors
    /// As [`FromClient::decode`]; if it is something else.
    pub fn decode(packet: &[u8]) -> Result<Self, WireError> {
        match FromClient::decode(packet)? {
            FromClient::Offer(offer) => Ok(*offer),
            _ => Err(WireError::TooLong(packet.len())),
        }
    }
}

/// Launcher to client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToClient {
    /// First, without being asked.
    Site(Box<Site>),
    /// The offer is held as long as the client keeps the socket open and lives; the request names the ticket.
    Held(Ticket),
    /// What was asked for is not done.
    Refused(Refusal),
    /// The change is in force, and an event.
    Steered,
    /// A workspace to review.
    Workspace(Box<Kept>),
    /// Names that agentd made in the last one, as many as fit a packet.
    Made(Vec<RelPath>),
    /// Those are all; the client opens them. With the socket that stands for masked names at the top of an upper
    /// directory: what is another link of it was made by agentd.
    Open(Directory),
    /// What there is of as many workspaces. With two descriptors for each, read-only and opened with `O_PATH`: the
    /// upper directory as it is on disk, and what the session saw.
    Views(u8),
    /// Nothing is left to review.
    Discarded,
}

impl Message for ToClient {
    fn descriptors(&self) -> RangeInclusive<usize> {
        match self {
            Self::Views(count) => {
                let count = 2 * usize::from(*count);
                count..=count.min(2 * MAX_MOUNTS)
            }
            _ => 0..=0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::MAX_CHANGE;
    use crate::plan::tests::plan;
    use proptest::prelude::*;

    #[test]
    fn the_longest_offer_fits() {
        let grants = vec![Grant { role: Role::Workspace, mode: Mode::Direct }; MAX_GRANTS];
        let offer = Offer { consent: Consent::to(&plan()).unwrap(), grants };
        let packet = wire::encode(&FromClient::Offer(Box::new(offer.clone()))).unwrap();
        assert_eq!(Offer::decode(&packet).unwrap(), offer);
        let grants = vec![offer.grants[0]; MAX_GRANTS + 1];
        assert!(
            Offer::decode(&wire::encode(&FromClient::Offer(Box::new(Offer { grants, ..offer }))).unwrap())
                .is_err()
        );
    }

    #[test]
    fn the_longest_change_fits_and_is_no_offer() {
        let name = format!("{}example", "a.".repeat(123));
        let allow = vec![format!("{name}:443"); MAX_CHANGE];
        let change = Box::new(Change::parse(&allow, &[]).unwrap());
        let steer = FromClient::Steer(Steer { session: SessionId::from_random([1; 6]), change });
        let packet = wire::encode(&steer).unwrap();
        assert_eq!(FromClient::decode(&packet).unwrap(), steer);
        assert!(Offer::decode(&packet).is_err());
    }

    #[test]
    fn a_site_comes_as_it_went() {
        let text = "[bounds]\nhost_memory = '1G'\nmodes_forbidden = ['direct']\n\
            [egress]\nresolvers = ['192.0.2.53']\nallow_private_ranges = ['10.0.0.0/8']\nproxy = 'http://192.0.2.1:3128/'";
        for text in ["", text] {
            let site = ToClient::Site(Box::new(Site::of(&Config::parse(text).unwrap())));
            let packet = wire::encode(&site).unwrap();
            assert_eq!(wire::decode::<ToClient>(&packet).unwrap(), site);
        }
    }

    #[test]
    fn names_of_any_length_fit_and_views_have_their_descriptors() {
        let name = RelPath::parse(&format!("{}x", "a/".repeat(2046))).unwrap();
        let of = |message: &ToClient, descriptors| {
            wire::decode_with::<ToClient, _>(&wire::encode(message).unwrap(), vec![(); descriptors]).is_ok()
        };
        assert!(of(&ToClient::Made(vec![name; crate::review::MAX_MADE]), 0));
        assert!(of(&ToClient::Views(2), 4) && of(&ToClient::Views(64), 128) && of(&ToClient::Discarded, 0));
        assert!(
            !of(&ToClient::Views(2), 3) && !of(&ToClient::Views(65), 130) && !of(&ToClient::Discarded, 1)
        );
    }

    #[test]
    fn a_review_is_no_offer() {
        let session = SessionId::from_random([1; 6]);
        for asked in [FromClient::Review(session.clone()), FromClient::Discard(session.clone())] {
            let packet = wire::encode(&asked).unwrap();
            assert_eq!(FromClient::decode(&packet).unwrap(), asked);
            assert!(Offer::decode(&packet).is_err());
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            FromClient::decode(&bytes).ok();
            let mut packet = wire::VERSION.to_le_bytes().to_vec();
            packet.extend(bytes);
            FromClient::decode(&packet).ok();
            wire::decode::<ToClient>(&packet).ok();
        }
    }
}
