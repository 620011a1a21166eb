//! How sessions reach the network, as the site decides it: who resolves, and what counts as public.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Deserializer, de::Error};

use crate::addresses::Net;
use crate::egress::{MAX_RESOLVERS, MAX_RULES};

/// How sessions reach the network.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Egress {
    /// Whom sessions' names are asked of.
    pub resolvers: Resolvers,
    /// Special-purpose ranges that the site uses as public ones.
    #[serde(deserialize_with = "nets")]
    pub global_also: Vec<Net>,
    /// The CA bundle towards upstream.
    pub trust: String,
}

/// Whom sessions' names are asked of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolvers {
    /// Those of `/etc/resolv.conf`, read at start and reload.
    System,
    /// These, in this order.
    List(Vec<SocketAddr>),
}

/// As many of its `nameserver` lines as `resolv.conf(5)` says that count (`MAXNS`).
const MAX_SYSTEM: usize = 3;
/// Where a resolver is asked if nothing else is said.
const DNS: u16 = 53;

impl Default for Egress {
    fn default() -> Self {
        Self { resolvers: Resolvers::System, global_also: Vec::new(), trust: "system".into() }
    }
}

impl Resolvers {
    /// Those that the text of a `resolv.conf(5)` names, and the lines that name none of use: another machine's word
    /// for an address, or one that needs the name of an interface.
    pub fn of_system(text: &str) -> (Vec<SocketAddr>, Vec<String>) {
        let words = text.lines().filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            (words.next() == Some("nameserver")).then(|| words.next().unwrap_or_default())
        });
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        for word in words.take(MAX_SYSTEM) {
            match word.parse::<IpAddr>().map_err(|e| e.to_string()).and_then(|_| resolver(word)) {
                Ok(address) if good.contains(&address) => {}
                Ok(address) => good.push(address),
                Err(why) => bad.push(format!("nameserver {word}: {why}")),
            }
        }
        (good, bad)
    }
}

impl<'de> Deserialize<'de> for Resolvers {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Word(String),
            List(Vec<String>),
        }
        match Either::deserialize(d).map_err(|_| D::Error::custom(FORM))? {
            Either::Word(word) if word == "system" => Ok(Self::System),
            Either::Word(_) => Err(D::Error::custom(FORM)),
            Either::List(list) if list.is_empty() || list.len() > MAX_RESOLVERS => {
                Err(D::Error::custom(format!("{} resolvers: name 1 to {MAX_RESOLVERS}", list.len())))
            }
            Either::List(list) => {
                let parse = |text: &String| resolver(text).map_err(|why| format!("resolver {text:?}: {why}"));
                list.iter().map(parse).collect::<Result<_, _>>().map(Self::List).map_err(D::Error::custom)
            }
        }
    }
}

/// What `resolvers` may be.
const FORM: &str = "resolvers are \"system\" or a list such as [\"192.0.2.53:53\"]";

/// `ADDRESS:PORT`, or `ADDRESS` alone.
fn resolver(text: &str) -> Result<SocketAddr, String> {
    let bare = || text.parse::<IpAddr>().map(|address| SocketAddr::new(address, DNS));
    let parsed = text.parse::<SocketAddr>().or_else(|_| bare());
    let address = parsed.map_err(|_| "write ADDRESS:PORT or ADDRESS".to_owned())?;
    let ip = address.ip();
    let scoped = match address {
        SocketAddr::V4(_) => false,
        SocketAddr::V6(v6) => v6.scope_id() != 0 || v6.flowinfo() != 0 || v6.ip().is_unicast_link_local(),
    };
    match () {
        () if address.port() == 0 => Err("port 0 is none".into()),
        () if ip.is_unspecified() || ip.is_multicast() => Err("it is no machine's address".into()),
        () if scoped => Err("an address that needs an interface's name cannot be asked".into()),
        () => Ok(address),
    }
}

fn nets<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Net>, D::Error> {
    let nets = Vec::<Net>::deserialize(d)?;
    match nets.len() {
        0..=MAX_RULES => Ok(nets),
        many => Err(D::Error::custom(format!("{many} ranges: name at most {MAX_RULES}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Egress, toml::de::Error> {
        toml::from_str(text)
    }

    #[test]
    fn resolvers_are_the_systems_or_a_list() {
        assert_eq!(parse("").unwrap().resolvers, Resolvers::System);
        assert_eq!(parse("resolvers = 'system'").unwrap().resolvers, Resolvers::System);
        let list =
            parse("resolvers = ['192.0.2.53:5353', '192.0.2.54', '[2001:db8::53]:53', '2001:db8::54']");
        let wanted = ["192.0.2.53:5353", "192.0.2.54:53", "[2001:db8::53]:53", "[2001:db8::54]:53"];
        assert_eq!(
            list.unwrap().resolvers,
            Resolvers::List(wanted.map(|text| text.parse().unwrap()).to_vec())
        );
        for bad in [
            "'sytem'",
            "53",
            "[]",
            "[53]",
            "['dns.example']",
            "['192.0.2.53:0']",
            "['0.0.0.0:53']",
            "['224.0.0.251']",
            "['fe80::1']",
            "['[fe80::1%2]:53']",
            "['192.0.2.53:53 ']",
            "['1.1.1.1','1.1.1.1','1.1.1.1','1.1.1.1','1.1.1.1','1.1.1.1','1.1.1.1','1.1.1.1','1.1.1.1']",
        ] {
            assert!(parse(&format!("resolvers = {bad}")).is_err(), "{bad}");
        }
        for bad in ["['10.0.0.1/8']", "['x']", "'10.0.0.0/8'"] {
            assert!(parse(&format!("global_also = {bad}")).is_err(), "{bad}");
        }
    }

    #[test]
    fn nameserver_lines_count_and_nothing_else_does() {
        let text = "# nameserver 192.0.2.1\n; nameserver 192.0.2.1\nsearch example\nnameserver\t127.0.0.53\r\n \
                    nameserver fe80::1%eth0\nnameserver 2001:db8::53 # late\nnameserver 192.0.2.9\noptions edns0";
        let (good, bad) = Resolvers::of_system(text);
        assert_eq!(good, ["127.0.0.53:53".parse().unwrap(), "[2001:db8::53]:53".parse().unwrap()]);
        assert!(bad.len() == 1 && bad[0].contains("fe80::1%eth0"), "{bad:?}");
        assert_eq!(Resolvers::of_system("nameserver 192.0.2.1:5353\nnameserver").0, []);
        assert_eq!(Resolvers::of_system("").0, []);
    }
}
