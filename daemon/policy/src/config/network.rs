//! How sessions reach the network, as the site decides it: who resolves, and what counts as public.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Deserializer, de::Error};

use crate::Refusal;
use crate::addresses::Net;
use crate::allow::MAX_RULES;
use crate::blocklist::{ListFile, MAX_LISTS};
use crate::egress;
use crate::hosts::HostName;
use crate::names::AbsPath;
use crate::resolver::{MAX_RESOLVERS, MAX_SEARCH, Resolver};
use crate::rule::Rule;

/// How sessions reach the network.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Egress {
    /// Whom sessions' names are asked of.
    pub resolvers: Resolvers,
    /// Domains that names without a dot are looked for in.
    pub search: Search,
    /// Special-purpose ranges that the site uses as public ones.
    #[serde(deserialize_with = "nets")]
    pub allow_private_ranges: Vec<Net>,
    /// Files with names that no session reaches.
    #[serde(deserialize_with = "lists")]
    pub blocklists: Vec<ListFile>,
    /// Whose certificates are believed of servers that agentd itself asks over TLS.
    pub trust: Trust,
    /// The HTTP proxy by which names are reached, where a site has no other way to them.
    #[serde(deserialize_with = "proxy")]
    pub proxy: Option<SocketAddr>,
    /// A file of root's with what the proxy wants to know of its clients, `USER:PASSWORD`.
    pub proxy_credential: Option<AbsPath>,
}

/// The longest CA bundle, in bytes: the system's has some 220 KiB.
pub const MAX_CA_BUNDLE: u64 = 4 << 20;

/// A CA bundle: certificates, as PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The file that Debian's ca-certificates makes.
    System,
    /// A file of root's.
    File(AbsPath),
}

/// Whom sessions' names are asked of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolvers {
    /// Those of `/etc/resolv.conf`, read at start and reload.
    System,
    /// These, in this order.
    List(Vec<Resolver>),
}

/// Domains that names without a dot are looked for in: sessions see them in `/etc/resolv.conf`, and each name that is
/// asked for by that is judged as any other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Search {
    /// Those of the host's `/etc/resolv.conf`, read at start and reload.
    System,
    /// These, in this order.
    List(Vec<HostName>),
}

impl Search {
    /// Those that the text of a `resolv.conf(5)` names: the last line that names some counts. What is no name of a host
    /// is left out.
    pub fn of_system(text: &str) -> Vec<HostName> {
        let mut lines = text.lines().filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            matches!(words.next(), Some("search" | "domain")).then_some(words)
        });
        let names = lines.next_back().into_iter().flatten();
        names.filter_map(|name| HostName::parse(name.trim_end_matches('.')).ok()).take(MAX_SEARCH).collect()
    }
}

impl<'de> Deserialize<'de> for Search {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Word(String),
            List(Vec<String>),
        }
        const FORM: &str = "search is \"system\" or a list of domains";
        match Either::deserialize(d).map_err(|_| D::Error::custom(FORM))? {
            Either::Word(word) if word == "system" => Ok(Self::System),
            Either::Word(_) => Err(D::Error::custom(FORM)),
            Either::List(list) if list.len() > MAX_SEARCH => {
                Err(D::Error::custom(format!("{} domains to search: name at most {MAX_SEARCH}", list.len())))
            }
            Either::List(list) => {
                let parse = |text: &String| HostName::parse(text).map_err(|why| format!("{text:?}: {why}"));
                list.iter().map(parse).collect::<Result<_, _>>().map(Self::List).map_err(D::Error::custom)
            }
        }
    }
}

/// As many of its `nameserver` lines as `resolv.conf(5)` says that count (`MAXNS`).
const MAX_SYSTEM: usize = 3;

impl Default for Egress {
    fn default() -> Self {
        Self {
            resolvers: Resolvers::System,
            search: Search::List(Vec::new()),
            allow_private_ranges: Vec::new(),
            blocklists: Vec::new(),
            trust: Trust::System,
            proxy: None,
            proxy_credential: None,
        }
    }
}

impl Egress {
    /// Checks that `given` has what the site gives to every session's egress, by any service. Which resolvers are the
    /// system's only the service knows.
    ///
    /// # Errors
    /// A resolver or a range that is not the site's.
    pub fn check(&self, given: &egress::Egress) -> Result<(), Refusal> {
        let reload = "ask again: the configuration may just have been read anew";
        if let Resolvers::List(list) = &self.resolvers
            && let Some(other) = given.resolvers.iter().find(|resolver| !list.contains(resolver))
        {
            return Err(Refusal::new(format!("resolver {other}"), Rule::EgressResolver, reload));
        }
        if let Search::List(list) = &self.search
            && given.search != *list
        {
            return Err(Refusal::new("other domains to search than the site's", Rule::EgressSearch, reload));
        }
        if given.proxy != self.proxy {
            return Err(Refusal::new("another proxy than the site's", Rule::EgressProxy, reload));
        }
        if given.allow_private_ranges != self.allow_private_ranges {
            return Err(Refusal::new("other ranges than the site's", Rule::EgressPrivateRanges, reload));
        }
        Ok(())
    }
}

impl Trust {
    /// Where the file is.
    pub fn path(&self) -> &str {
        match self {
            Self::System => "/etc/ssl/certs/ca-certificates.crt",
            Self::File(path) => path.as_str(),
        }
    }
}

impl<'de> Deserialize<'de> for Trust {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        match String::deserialize(d)?.as_str() {
            "system" => Ok(Self::System),
            path => AbsPath::parse(path).map(Self::File).map_err(|_| {
                D::Error::custom(format!("trust {path:?}: write \"system\" or the file's whole path"))
            }),
        }
    }
}

impl Resolvers {
    /// Those that the text of a `resolv.conf(5)` names, and the lines that name none of use: another machine's word
    /// for an address, or one that needs the name of an interface.
    pub fn of_system(text: &str) -> (Vec<Resolver>, Vec<String>) {
        let words = text.lines().filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            (words.next() == Some("nameserver")).then(|| words.next().unwrap_or_default())
        });
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        for word in words.take(MAX_SYSTEM) {
            match word.parse::<IpAddr>().map(|_| Resolver::parse(word)) {
                Ok(Ok(resolver)) if good.contains(&resolver) => {}
                Ok(Ok(resolver)) => good.push(resolver),
                Ok(Err(why)) => bad.push(format!("nameserver {word}: {why}")),
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
                let parse =
                    |text: &String| Resolver::parse(text).map_err(|why| format!("resolver {text:?}: {why}"));
                list.iter().map(parse).collect::<Result<_, _>>().map(Self::List).map_err(D::Error::custom)
            }
        }
    }
}

/// What `resolvers` may be.
const FORM: &str =
    "resolvers are \"system\" or a list such as [\"192.0.2.53:53\", \"tls://192.0.2.53#NAME\"]";

fn nets<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Net>, D::Error> {
    let nets = Vec::<Net>::deserialize(d)?;
    match nets.len() {
        0..=MAX_RULES => Ok(nets),
        many => Err(D::Error::custom(format!("{many} ranges: name at most {MAX_RULES}"))),
    }
}

fn proxy<'de, D: Deserializer<'de>>(d: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(d)?;
    let rest = text.strip_prefix("http://").unwrap_or(&text);
    if rest.contains('@') {
        return Err(D::Error::custom(
            "proxy: put USER:PASSWORD into a file of root's, and name that as proxy_credential",
        ));
    }
    if text.is_empty() {
        return Ok(None);
    }
    rest.strip_suffix('/').unwrap_or(rest).parse().map(Some).map_err(|_| {
        let form = "write its address and port, such as \"192.0.2.1:3128\": no name can be resolved before it is reached";
        D::Error::custom(format!("proxy {text:?}: {form}"))
    })
}

fn lists<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<ListFile>, D::Error> {
    let lists = Vec::<ListFile>::deserialize(d)?;
    if lists.len() > MAX_LISTS {
        return Err(D::Error::custom(format!("{} blocklists: name at most {MAX_LISTS}", lists.len())));
    }
    // Events name a list by its label alone.
    let before = |at: usize| lists.iter().take(at).find(|other| other.label == lists[at].label);
    match (0..lists.len()).find_map(|at| before(at).map(|other| (&lists[at], other))) {
        Some((list, other)) => Err(D::Error::custom(format!(
            "blocklists {} and {} would both be called {}: rename one",
            other.path, list.path, list.label
        ))),
        None => Ok(lists),
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
            Resolvers::List(wanted.map(|text| Resolver::parse(text).unwrap()).to_vec())
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
            assert!(parse(&format!("allow_private_ranges = {bad}")).is_err(), "{bad}");
        }
    }

    #[test]
    fn domains_to_search_are_none_the_systems_or_a_list() {
        let names =
            |texts: &[&str]| texts.iter().map(|text| HostName::parse(text).unwrap()).collect::<Vec<_>>();
        assert_eq!(parse("").unwrap().search, Search::List(vec![]));
        assert_eq!(parse("search = 'system'").unwrap().search, Search::System);
        let list = parse("search = ['corp.example', 'example']").unwrap().search;
        assert_eq!(list, Search::List(names(&["corp.example", "example"])));
        for bad in ["'corp.example'", "['a b']", "['192.0.2.1']", "['a','a','a','a','a','a','a']", "1"] {
            assert!(parse(&format!("search = {bad}")).is_err(), "{bad}");
        }
        let text = "domain first.example\nsearch corp.example. bad_/name example\n# search other.example\n";
        assert_eq!(Search::of_system(text), names(&["corp.example", "example"]));
        assert_eq!(Search::of_system("nameserver 192.0.2.1"), []);
    }

    #[test]
    fn over_tls_a_name_is_needed_and_authorities_are() {
        let egress = parse("resolvers = ['tls://192.0.2.53#dns.example']").unwrap();
        let wanted = Resolver::parse("tls://192.0.2.53:853#dns.example").unwrap();
        assert_eq!(egress.resolvers, Resolvers::List(vec![wanted]));
        let error = parse("resolvers = ['tls://192.0.2.53']").unwrap_err().to_string();
        assert!(error.contains("tls://ADDRESS#NAME"), "{error}");
        assert_eq!(egress.trust.path(), "/etc/ssl/certs/ca-certificates.crt");
        assert_eq!(parse("trust = '/etc/ours.pem'").unwrap().trust.path(), "/etc/ours.pem");
        for bad in ["''", "'ours.pem'", "'System'", "1"] {
            assert!(parse(&format!("trust = {bad}")).is_err(), "{bad}");
        }
    }

    #[test]
    fn blocklists_are_files_whose_names_differ() {
        let lists = parse("blocklists = ['/etc/x/ads.hosts', '/srv/more.txt']").unwrap().blocklists;
        let labels: Vec<_> = lists.iter().map(|list| list.label.as_str()).collect();
        assert_eq!(labels, ["ads", "more"]);
        let many: Vec<_> = (0..=MAX_LISTS).map(|n| format!("'/x/{n}'")).collect();
        for bad in ["['ads.hosts']", "'/x/a'", "['/x/ads.hosts', '/y/ads.txt']", "['/x/a b']", "['/']"] {
            assert!(parse(&format!("blocklists = {bad}")).is_err(), "{bad}");
        }
        assert!(parse(&format!("blocklists = [{}]", many.join(","))).is_err());
        assert!(parse(&format!("blocklists = [{}]", many[1..].join(","))).is_ok());
    }

    #[test]
    fn nameserver_lines_count_and_nothing_else_does() {
        let text = "# nameserver 192.0.2.1\n; nameserver 192.0.2.1\nsearch example\nnameserver\t127.0.0.53\r\n \
                    nameserver fe80::1%eth0\nnameserver 2001:db8::53 # late\nnameserver 192.0.2.9\noptions edns0";
        let (good, bad) = Resolvers::of_system(text);
        assert_eq!(good, ["127.0.0.53", "2001:db8::53"].map(|text| Resolver::parse(text).unwrap()));
        assert!(bad.len() == 1 && bad[0].contains("fe80::1%eth0"), "{bad:?}");
        assert_eq!(Resolvers::of_system("nameserver 192.0.2.1:5353\nnameserver").0, []);
        assert_eq!(Resolvers::of_system("").0, []);
    }
}
