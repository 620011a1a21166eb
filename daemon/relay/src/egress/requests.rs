//! What requests of HTTP/1 and HTTP/2 have in common: each is judged by the host that it names.

use std::net::SocketAddr;

use agentd_policy::denial::Denial;
use agentd_policy::egress::Purpose;
use agentd_policy::rule::Rule;
use agentd_protocols::authority::{Authority, Host};
use agentd_protocols::http::Refused;

use super::caps;
use super::close::CloseReason;
use super::copy::{self, Direction};
use super::judge::{self, Place, Refusal, RejectWith, Subject};
use super::tcp::Connection;

/// Below this, asking whether bytes are certain costs more than looking at them.
pub const PUMP_MIN: u64 = copy::CHUNK as u64;

/// Takes more of the client's bytes into `held`, or past it, counted by `skipped`, those that begin nothing for
/// `certain`; `false` at their end.
///
/// # Errors
/// If the end comes behind a part of something that was never judged: that goes nowhere.
pub async fn more(
    connection: &Connection,
    way: &mut Direction<'_>,
    held: &mut Vec<u8>,
    certain: u64,
    skipped: impl FnOnce(u64),
) -> Result<bool, CloseReason> {
    let whole = if held.is_empty() && certain >= PUMP_MIN {
        let count = way.pump(certain).await?;
        skipped(count);
        count == certain
    } else {
        tokio::task::coop::consume_budget().await;
        copy::read(&connection.client, held, connection.buffers.chunk()).await? > 0
    };
    if whole {
        return Ok(true);
    }
    if !held.is_empty() {
        return Err(CloseReason::Reset);
    }
    way.end()?;
    Ok(false)
}

/// Whether `to` is where a whole target leads: a name may be there.
pub fn is_at(authority: &Authority, port: u16, to: SocketAddr) -> bool {
    let there = match authority.host {
        Host::Address(address) => address == to.ip(),
        Host::Name(_) => true,
    };
    there && port == to.port()
}

/// The purpose by which a request for `authority` goes on `connection`, which counts by its rule from now on.
///
/// # Errors
/// The refusal, as a response of HTTP/1.
pub fn judged(
    connection: &Connection,
    method: &str,
    authority: &Authority,
    place: Place,
) -> Result<Purpose, Refusal> {
    let (plan, pins) = (connection.gate.plan(), &connection.gate.pins);
    let judged = judge::http(&plan, pins, authority, place).or_else(|denial| {
        // One more request for the same name, on a connection that was dialled by its pin.
        match &authority.host {
            Host::Name(name) if denial.rule == Rule::PinUnknown && connection.is_used_for(name) => {
                Ok((Purpose::Name(name.clone()), Some(name.clone())))
            }
            _ => Err(denial),
        }
    });
    let refused = |denial| refused(method, authority, denial);
    let (purpose, name) = judged.map_err(refused)?;
    let to = match authority.host {
        Host::Address(address) if place.proxied => {
            let there = SocketAddr::new(address, place.to.port());
            connection.used_at(there).map_err(|rule| refused(rule.into()))?;
            there
        }
        _ => place.to,
    };
    connection.used_for(name.as_ref(), place).map_err(|rule| refused(rule.into()))?;
    let capped = |cap| Refusal { why: caps::WHY.into(), ..refused(cap) };
    connection.join(&purpose, to).map_err(capped)?;
    Ok(purpose)
}

/// A request that is refused by the host that it names.
pub fn refused(method: &str, authority: &Authority, denial: Denial) -> Refusal {
    let why = format!("{authority} is not allowed here");
    let subject = Subject::request(method, authority.to_string());
    Refusal { subject, ..Refusal::new(RejectWith::Http, denial, why) }
}

/// One that cannot be read in one way only.
pub fn malformed(refused: &Refused) -> Refusal {
    let rule = if *refused == Refused::Body { Rule::HttpBody } else { Rule::HttpMalformed };
    Refusal { subject: Subject::Malformed, ..Refusal::new(RejectWith::Http, rule, refused.to_string()) }
}
