//! Types of records besides addresses that a profile may list: data about one name, in a form that can be read and
//! written anew.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Refusal;
use crate::rule::Rule;

/// A type of records (RFC 1035 §3.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum DnsType {
    /// Who may issue certificates (RFC 8659).
    Caa,
    /// Where mail goes.
    Mx,
    /// Rewriting rules, of telephony (RFC 3403).
    Naptr,
    /// The zone's servers.
    Ns,
    /// The name of an address.
    Ptr,
    /// The zone's beginning.
    Soa,
    /// Where a service is (RFC 2782).
    Srv,
    /// Fingerprints of ssh keys (RFC 4255).
    Sshfp,
    /// Fingerprints of certificates (RFC 6698).
    Tlsa,
    /// Text records, such as SPF's.
    Txt,
}

impl DnsType {
    /// All of them, in the order of their names.
    pub const ALL: [Self; 10] = [
        Self::Caa,
        Self::Mx,
        Self::Naptr,
        Self::Ns,
        Self::Ptr,
        Self::Soa,
        Self::Srv,
        Self::Sshfp,
        Self::Tlsa,
        Self::Txt,
    ];

    /// Its number in messages.
    pub fn number(self) -> u16 {
        match self {
            Self::Ns => 2,
            Self::Soa => 6,
            Self::Ptr => 12,
            Self::Mx => 15,
            Self::Txt => 16,
            Self::Srv => 33,
            Self::Naptr => 35,
            Self::Sshfp => 44,
            Self::Tlsa => 52,
            Self::Caa => 257,
        }
    }

    /// The type with that number in messages.
    pub fn of_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.number() == number)
    }

    /// The name as zone files have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Caa => "CAA",
            Self::Mx => "MX",
            Self::Naptr => "NAPTR",
            Self::Ns => "NS",
            Self::Ptr => "PTR",
            Self::Soa => "SOA",
            Self::Srv => "SRV",
            Self::Sshfp => "SSHFP",
            Self::Tlsa => "TLSA",
            Self::Txt => "TXT",
        }
    }

    /// Reads its name, in any case.
    ///
    /// # Errors
    /// What cannot be listed, and why.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let same = |name: &str| name.eq_ignore_ascii_case(text);
        if let Some(kind) = Self::ALL.into_iter().find(|kind| same(kind.as_str())) {
            return Ok(kind);
        }
        let any = |names: &[&str]| names.iter().any(|name| same(name));
        let hint = if any(&["A", "AAAA", "CNAME"]) {
            "leave it out: addresses, and the aliases that lead to them, are answered for every allowed name"
                .into()
        } else if any(&["HTTPS", "SVCB"]) {
            "leave it out: these carry addresses and keys of their own, and are answered as if there were none".into()
        } else if any(&["ANY", "AXFR", "IXFR", "OPT", "NULL", "TSIG", "TKEY", "MAILA", "MAILB", "DNAME"]) {
            "leave it out: it is no data about one name, and is never answered".into()
        } else {
            format!("name some of {}", Self::ALL.map(Self::as_str).join(", "))
        };
        Err(Refusal::new(format!("network.dns_types: {text:?}"), Rule::NetworkDnsTypes, hint))
    }
}

impl fmt::Display for DnsType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_has_one_name_and_one_number() {
        for kind in DnsType::ALL {
            assert_eq!(DnsType::parse(kind.as_str()), Ok(kind));
            assert_eq!(DnsType::parse(&kind.as_str().to_lowercase()), Ok(kind));
            assert_eq!(DnsType::of_number(kind.number()), Some(kind));
        }
        // Addresses, aliases, HTTPS and SVCB, what is about many, or about the message.
        for number in [0, 1, 5, 10, 28, 39, 41, 64, 65, 249, 250, 251, 252, 253, 254, 255, 65_280] {
            assert_eq!(DnsType::of_number(number), None, "{number}");
        }
    }

    #[test]
    fn what_cannot_be_listed_is_told_what_to_do() {
        let hint = |text: &str| {
            let refusal = DnsType::parse(text).unwrap_err();
            assert_eq!(refusal.rule.name(), "network.dns_types");
            assert!(refusal.what.contains(text), "{refusal}");
            refusal.hint
        };
        assert!(hint("AAAA").contains("addresses"));
        assert!(hint("https").contains("keys of their own"));
        for never in ["ANY", "axfr", "NULL"] {
            assert!(hint(never).contains("never answered"), "{never}");
        }
        for unknown in ["", "TYPE16", "16", "TXT ", "HINFO"] {
            assert!(hint(unknown).contains("CAA, MX, "), "{unknown}");
        }
    }
}
