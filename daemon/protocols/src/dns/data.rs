//! Data of records besides addresses: read by the library, and written anew, so that nothing passes which neither
//! knows.

use agentd_policy::hosts::HostName;
use hickory_proto::rr::{Name, RData};
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder};

use super::ReplyError;

/// The most bytes of all data of an answer.
pub(super) const MAX_BYTES: usize = 8 << 10;

/// The data as a record holds it, names in their one spelling and not compressed. What a record leads to has to be a
/// host, or nothing (RFC 2782, RFC 7505): it is asked for, and judged, in its turn.
pub(super) fn rebuilt(data: &RData) -> Result<Vec<u8>, ReplyError> {
    let mut out = Vec::new();
    match data {
        RData::MX(mail) => {
            out.extend(mail.preference.to_be_bytes());
            host(&mail.exchange, &mut out)?;
        }
        RData::SRV(service) => {
            for number in [service.priority, service.weight, service.port] {
                out.extend(number.to_be_bytes());
            }
            host(&service.target, &mut out)?;
        }
        RData::NS(name) => host(&name.0, &mut out)?,
        RData::PTR(name) => host(&name.0, &mut out)?,
        RData::SOA(zone) => {
            host(&zone.mname, &mut out)?;
            // A mailbox: its first label may hold anything.
            labels(zone.rname.iter(), &mut out);
            for number in [zone.refresh, zone.retry, zone.expire] {
                if number < 0 {
                    return Err(ReplyError::Form("a time below zero".into()));
                }
            }
            out.extend(zone.serial.to_be_bytes());
            for number in [zone.refresh, zone.retry, zone.expire] {
                out.extend(number.to_be_bytes());
            }
            out.extend(zone.minimum.to_be_bytes());
        }
        RData::NAPTR(rule) => {
            out.extend(rule.order.to_be_bytes());
            out.extend(rule.preference.to_be_bytes());
            for text in [&rule.flags, &rule.services, &rule.regexp] {
                let length = u8::try_from(text.len()).map_err(|error| ReplyError::Form(error.to_string()))?;
                out.push(length);
                out.extend(text.iter());
            }
            host(&rule.replacement, &mut out)?;
        }
        // No names in them.
        RData::CAA(_) | RData::SSHFP(_) | RData::TLSA(_) | RData::TXT(_) => {
            let mut encoder = BinEncoder::new(&mut out);
            data.emit(&mut encoder).map_err(|error| ReplyError::Form(error.to_string()))?;
        }
        other => return Err(ReplyError::Form(format!("data of type {} that is none", other.record_type()))),
    }
    Ok(out)
}

/// Writes a host's name, or the root's.
fn host(name: &Name, out: &mut Vec<u8>) -> Result<(), ReplyError> {
    if !name.is_root() {
        let host = HostName::from_labels(name.iter()).map_err(ReplyError::Target)?;
        labels(host.labels().map(str::as_bytes), out);
    } else {
        out.push(0);
    }
    Ok(())
}

/// Writes labels, each of which is one of a name that was read.
fn labels<'a>(labels: impl Iterator<Item = &'a [u8]>, out: &mut Vec<u8>) {
    for label in labels {
        out.push(super::label_length(label));
        out.extend(label.iter().map(u8::to_ascii_lowercase));
    }
    out.push(0);
}
