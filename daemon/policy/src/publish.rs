//! Ports of a session that appear on the host's loopback, so that programs on the host can connect to them.
//!
//! One has one form, in which it is given (`--publish`) and shown: `PORT`, or `HOSTPORT:PORT` where the host's is
//! another.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Refusal;
use crate::ports::{MAX_LOCAL, OWN_PORTS};
use crate::rule::Rule;

/// What is not a port.
const FORM: &str = "write PORT, or HOSTPORT:PORT for another one on this host, each from 1 to 65535";

/// A port of the session's loopback, and where the host's has it. TCP alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Publish {
    /// On the host.
    pub host: u16,
    /// In the session.
    pub port: u16,
}

impl Publish {
    /// Reads `PORT` or `HOSTPORT:PORT`.
    ///
    /// # Errors
    /// What cannot be meant, and what to write instead.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let bad = |why: &str, hint: &str| {
            Refusal::new(format!("publish {text:?}: {why}"), Rule::NetworkPublish, hint)
        };
        let mut parts = text.rsplitn(3, ':');
        let (port, host, address) = (parts.next().unwrap_or(text), parts.next(), parts.next());
        if address.is_some() {
            return Err(bad(
                "it names an address",
                "leave it out: a port is published on this host's own loopback, 127.0.0.1 and ::1",
            ));
        }
        if text.contains('/') {
            return Err(bad("it names a protocol", "leave it out: what is published is TCP"));
        }
        let read = |text: &str| text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
        match (read(port), host.map(read)) {
            (Some(port @ 1..), None) => Ok(Self { host: port, port }),
            (Some(port @ 1..), Some(Some(host @ 1..))) => Ok(Self { host, port }),
            _ => Err(bad("it is no port", FORM)),
        }
    }
}

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host == self.port {
            true => write!(f, "{}", self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Checks what any session may publish, by any plan. `local` are the ports of the host's loopback that it has
/// on its own.
///
/// # Errors
/// The first rule that they break.
pub(crate) fn check(all: &[Publish], local: &[u16]) -> Result<(), Refusal> {
    if all.len() > MAX_LOCAL {
        return Err(Refusal::new(
            format!("{} published ports", all.len()),
            Rule::PlanEgress,
            format!("ask for at most {MAX_LOCAL}"),
        ));
    }
    for (number, one) in all.iter().enumerate() {
        let (what, hint) = match one {
            Publish { host: 0, .. } | Publish { port: 0, .. } => ("port 0 is none", FORM),
            Publish { port, .. } if OWN_PORTS.contains(port) => (
                "in a session this port is agentd's own",
                "have the server listen on another port, and publish it as HOSTPORT:PORT",
            ),
            Publish { host, .. } if all[..number].iter().any(|other| other.host == *host) => {
                ("the host's port is published twice", "give each one of its own: HOSTPORT:PORT")
            }
            Publish { host, port } if local.contains(port) || local.contains(host) => (
                "the same port is allowed as local",
                "leave one of them out: the session would reach itself by it",
            ),
            Publish { .. } => continue,
        };
        return Err(Refusal::new(format!("publish {one}: {what}"), Rule::NetworkPublish, hint));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::network;
    use proptest::prelude::*;

    #[test]
    fn a_port_has_one_form_and_it_comes_back() {
        for (given, host, port, shown) in
            [("3000", 3000, 3000, "3000"), ("8080:80", 8080, 80, "8080:80"), ("80:80", 80, 80, "80")]
        {
            let publish = Publish::parse(given).unwrap();
            assert_eq!((publish, publish.to_string().as_str()), (Publish { host, port }, shown));
        }
    }

    #[test]
    fn what_cannot_be_meant_is_one_line_with_its_hint() {
        for (given, hint) in [
            ("", "HOSTPORT:PORT"),
            ("0", "HOSTPORT:PORT"),
            ("65536", "HOSTPORT:PORT"),
            ("+80", "HOSTPORT:PORT"),
            ("80:", "HOSTPORT:PORT"),
            (":80", "HOSTPORT:PORT"),
            ("0:80", "HOSTPORT:PORT"),
            ("3000-3010", "HOSTPORT:PORT"),
            ("3000/udp", "TCP"),
            ("0.0.0.0:80:80", "loopback"),
            ("[::]:80:80", "loopback"),
            ("\u{1b}[2J", "HOSTPORT:PORT"),
        ] {
            let refusal = Publish::parse(given).unwrap_err();
            assert!(refusal.rule == Rule::NetworkPublish && refusal.hint.contains(hint), "{refusal}");
            assert!(!refusal.to_string().contains(char::is_control), "{refusal}");
        }
        let entry = |port, host_port| network::Publish { port, host_port }.parsed();
        assert_eq!(entry(3000, None), Ok(Publish { host: 3000, port: 3000 }));
        assert_eq!(entry(3000, Some(8080)), Ok(Publish { host: 8080, port: 3000 }));
        for (port, host) in [(0, None), (0, Some(1)), (1, Some(0))] {
            assert_eq!(entry(port, host).unwrap_err().rule, Rule::NetworkPublish);
        }
    }

    #[test]
    fn a_plan_holds_what_can_be_published() {
        let publish = |host, port| Publish { host, port };
        let good = [publish(3000, 3000), publish(3001, 3000), publish(3128, 80)];
        assert_eq!(check(&good, &[5432]), Ok(()));
        for (bad, local) in [
            (vec![publish(0, 80)], vec![]),
            (vec![publish(80, 0)], vec![]),
            (vec![publish(8080, 3128)], vec![]),
            (vec![publish(8080, 53)], vec![]),
            (vec![publish(8080, 1)], vec![]),
            (vec![publish(8080, 80), publish(8080, 81)], vec![]),
            (vec![publish(8080, 80)], vec![80]),
            (vec![publish(8080, 80)], vec![8080]),
        ] {
            assert_eq!(check(&bad, &local).unwrap_err().rule, Rule::NetworkPublish, "{bad:?}");
        }
        let many: Vec<_> = (1000..).take(MAX_LOCAL + 1).map(|port| publish(port, port)).collect();
        assert_eq!(check(&many, &[]).unwrap_err().rule.name(), "plan.egress");
        assert_eq!(check(&many[1..], &[]), Ok(()));
    }

    proptest! {
        #[test]
        fn what_is_read_comes_back_as_it_is_shown(text in "[0-9]{0,6}:?[0-9]{0,6}|\\PC{0,12}") {
            if let Ok(publish) = Publish::parse(&text) {
                prop_assert_eq!(Publish::parse(&publish.to_string()).unwrap(), publish);
            }
        }
    }
}
