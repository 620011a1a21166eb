//! What of a resolver's reply belongs to the question.

use std::net::IpAddr;

use agentd_policy::hosts::{HostError, HostName};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{DNSClass, RData, Record};

use super::data::{self, rebuilt};
use super::{HEADER, Question, flag, u16_at};

/// The most names from the question to the addresses.
const MAX_CHAIN: usize = 12;
/// The most addresses, or other data, that are taken.
const MAX_DATA: usize = 64;

/// Between which bounds answers hold, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ttls {
    /// The shortest, in seconds.
    pub least: u32,
    /// The longest, in seconds.
    pub most: u32,
}

impl Ttls {
    /// `ttl` between them. With its highest bit set it means 0 (RFC 2181 §8).
    fn clamp(self, ttl: u32) -> u32 {
        let ttl = if ttl > i32::MAX as u32 { 0 } else { ttl };
        ttl.max(self.least).min(self.most)
    }
}

/// Why a reply is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// To another question, or forged: the right one may still come.
    #[error("a reply to another question")]
    NotOurs,
    /// The answer is whole by TCP only.
    #[error("the reply is cut short")]
    Truncated,
    /// The resolver failed.
    #[error("the resolver answered {0}")]
    Code(ResponseCode),
    /// Out of form.
    #[error("the reply is malformed: {0}")]
    Form(String),
    /// Two aliases for one name, or a name that is its own.
    #[error("the aliases of the name go in circles, or two ways")]
    Circle,
    /// Too many aliases.
    #[error("more than {MAX_CHAIN} aliases")]
    Chain,
    /// An alias for what is no name of a host.
    #[error("an alias for what is no host: {0}")]
    Alias(#[from] HostError),
    /// A record that leads to what is no name of a host.
    #[error("a record that leads to what is no host: {0}")]
    Target(#[source] HostError),
    /// More data than is taken.
    #[error("more than {} bytes of data", data::MAX_BYTES)]
    TooMuch,
}

/// The answer to a question, before anything is judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Whether the last name of the chain exists.
    pub exists: bool,
    /// The name that was asked for, and what it is an alias of, one after the other: each is to be judged.
    pub chain: Vec<HostName>,
    /// The addresses of the last, of the type that was asked for, each once.
    pub addresses: Vec<IpAddr>,
    /// Data of another type that was asked for, as in a record, written anew; each once.
    pub data: Vec<Vec<u8>>,
    /// How long all of it holds.
    pub ttl: u32,
}

impl Question {
    /// Reads what claims to be the reply.
    ///
    /// # Errors
    /// [`ReplyError`].
    pub fn read(&self, reply: &[u8], ttls: Ttls) -> Result<Outcome, ReplyError> {
        let flags = u16_at(reply, 2).ok_or(ReplyError::NotOurs)?;
        let ours = reply.get(..2) == self.message.get(..2)
            && reply.get(4..6) == Some(&[0, 1])
            && reply.get(HEADER..self.asked) == self.message.get(HEADER..self.asked);
        if !ours || flags & flag::RESPONSE == 0 || flags & flag::OPCODE != 0 {
            return Err(ReplyError::NotOurs);
        }
        if flags & flag::TRUNCATED != 0 {
            return Err(ReplyError::Truncated);
        }
        let message = Message::from_vec(reply).map_err(|error| ReplyError::Form(error.to_string()))?;
        let exists = match message.metadata.response_code {
            ResponseCode::NoError => true,
            ResponseCode::NXDomain => false,
            code => return Err(ReplyError::Code(code)),
        };
        self.outcome(&message, exists, ttls)
    }

    fn outcome(&self, message: &Message, exists: bool, ttls: Ttls) -> Result<Outcome, ReplyError> {
        let answers: Vec<(HostName, &Record)> = message
            .answers
            .iter()
            .filter(|record| record.dns_class == DNSClass::IN)
            .filter_map(|record| Some((HostName::from_labels(record.name.iter()).ok()?, record)))
            .collect();
        let (chain, mut ttl) = self.chain(&answers)?;
        let mut outcome = Outcome { exists, chain, addresses: Vec::new(), data: Vec::new(), ttl: 0 };
        for (owner, record) in &answers {
            if Some(owner) != outcome.chain.last() || !exists || record.record_type() != self.kind {
                continue;
            }
            if outcome.addresses.len() + outcome.data.len() == MAX_DATA {
                break;
            }
            ttl = ttl.min(ttls.clamp(record.ttl));
            match &record.data {
                RData::A(address) => outcome.address(address.0.into()),
                RData::AAAA(address) => outcome.address(address.0.into()),
                data => outcome.data(rebuilt(data)?)?,
            }
        }
        if outcome.addresses.is_empty() && outcome.data.is_empty() {
            ttl = ttl.min(ttls.clamp(negative_ttl(message)));
        }
        outcome.ttl = ttls.clamp(ttl);
        Ok(outcome)
    }

    /// Follows the aliases from the question on, whatever else the reply holds.
    fn chain(&self, answers: &[(HostName, &Record)]) -> Result<(Vec<HostName>, u32), ReplyError> {
        let (mut chain, mut ttl) = (vec![self.name.clone()], i32::MAX as u32);
        loop {
            let mut next: Option<HostName> = None;
            for (owner, record) in answers {
                let RData::CNAME(alias) = &record.data else { continue };
                if Some(owner) != chain.last() {
                    continue;
                }
                let alias = HostName::from_labels(alias.0.iter())?;
                ttl = ttl.min(record.ttl);
                match &next {
                    Some(other) if *other != alias => return Err(ReplyError::Circle),
                    _ => next = Some(alias),
                }
            }
            match next {
                None => return Ok((chain, ttl)),
                Some(alias) if chain.contains(&alias) => return Err(ReplyError::Circle),
                Some(_) if chain.len() == MAX_CHAIN => return Err(ReplyError::Chain),
                Some(alias) => chain.push(alias),
            }
        }
    }
}

impl Outcome {
    fn address(&mut self, address: IpAddr) {
        if !self.addresses.contains(&address) {
            self.addresses.push(address);
        }
    }

    fn data(&mut self, data: Vec<u8>) -> Result<(), ReplyError> {
        if !self.data.contains(&data) {
            let bytes = self.data.iter().map(Vec::len).sum::<usize>() + data.len();
            if bytes > data::MAX_BYTES {
                return Err(ReplyError::TooMuch);
            }
            self.data.push(data);
        }
        Ok(())
    }
}

/// How long "nothing" holds (RFC 2308 §5).
fn negative_ttl(message: &Message) -> u32 {
    let soa = message.authorities.iter().find_map(|record| match &record.data {
        RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
        _ => None,
    });
    soa.unwrap_or(0)
}
