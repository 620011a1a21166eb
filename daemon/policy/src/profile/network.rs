//! `[network]` of a profile, and what it becomes together with flags: an [`Egress`].

use serde::{Deserialize, Serialize};

use super::merge::{Item, table};
use crate::allow::AllowRule;
use crate::allow::parse::{Entry, denied};
use crate::caps::{self, Capped, Caps};
use crate::dns_type::DnsType;
use crate::egress::{Egress, WILDCARD_BUDGET};
use crate::network::{Change, Upstream};
use crate::protocol::AllowProtocol;
use crate::quantity::Size;
use crate::rule::Rule;
use crate::{Refusal, publish};

table! {
    /// `[network]`: what a session may reach, and what of it may be reached.
    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    pub struct Network {
        /// What happens to what no entry names.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub default: Option<NetworkDefault>,
        /// Names that nothing can allow.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        pub deny: Vec<String>,
        /// Names, networks and local ports that pass.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        pub allow: Vec<Allow>,
        /// Types of records besides addresses that names which pass may be asked for.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        pub dns_types: Vec<String>,
        /// Ports of the session that can be reached on the host's loopback.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        pub publish: Vec<Publish>,
        /// Whether the environment names the explicit proxy, by `http_proxy` and its like.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub proxy_env: Option<bool>,
    }
}

/// What happens to what no entry names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkDefault {
    /// It is refused.
    Deny,
    /// Somebody is asked.
    Ask,
    /// It is refused for as long as the session lives, whatever anybody allows later.
    None,
}

/// `[[network.allow]]`: one of `host`, `cidr`, `local`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allow {
    /// A name or `*.` and a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// A network, such as `192.0.2.0/24`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cidr: Option<String>,
    /// A port of the host's loopback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<u16>,
    /// Ports; none: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<u16>,
    /// The protocol; TCP that is inspected if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<AllowProtocol>,
    /// Connections by this rule that are open at a time, and flows of UDP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
    /// Bytes from the session by this rule, in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_sent: Option<Size>,
}

/// `[[network.publish]]`: a port of the session on the host's loopback.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Publish {
    /// The port in the session.
    pub port: u16,
    /// The port on the host's loopback; the same if it is not named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_port: Option<u16>,
}

impl Item for Allow {}
impl Item for Publish {}

impl Network {
    /// What it allows and denies, parsed.
    ///
    /// # Errors
    /// The first entry that cannot be meant, of those that it publishes too.
    pub fn change(&self) -> Result<Change, Refusal> {
        self.publish.iter().try_for_each(|entry| entry.parsed().map(drop))?;
        Ok(Change {
            allow: self.allow.iter().map(Allow::capped).collect::<Result<_, _>>()?,
            deny: self.deny.iter().map(|text| denied("network.deny", text)).collect::<Result<_, _>>()?,
        })
    }

    /// The types of records that it lists, each once.
    ///
    /// # Errors
    /// The first that cannot be listed.
    pub(crate) fn parsed_dns_types(&self) -> Result<Vec<DnsType>, Refusal> {
        let kinds = self.dns_types.iter().map(|text| DnsType::parse(text));
        let mut kinds: Vec<DnsType> = kinds.collect::<Result<_, _>>()?;
        kinds.sort_unstable();
        kinds.dedup();
        Ok(kinds)
    }

    /// The egress that it and flags give together, and what they publish. Where they let nothing pass, the session
    /// still has a resolver, which denies each name.
    ///
    /// # Errors
    /// The first entry that cannot be meant, or that nothing can resolve.
    pub(crate) fn egress(
        &self,
        flags: &Change,
        publish: &[publish::Publish],
        upstream: &Upstream,
    ) -> Result<Egress, Refusal> {
        let own = self.change()?;
        let mut egress = Egress {
            resolvers: upstream.resolvers.clone(),
            search: upstream.search.clone(),
            dns_types: self.parsed_dns_types()?,
            allow_private_ranges: upstream.allow_private_ranges.clone(),
            proxy: upstream.proxy,
            wildcard_budget: WILDCARD_BUDGET,
            announce_proxy: self.proxy_env != Some(false),
            sealed: self.default == Some(NetworkDefault::None),
            ..Egress::default()
        };
        egress.deny(&own.deny);
        egress.allow(&own.allow)?;
        flags.add_to(&mut egress)?;
        for entry in &self.publish {
            egress.publish(entry.parsed()?);
        }
        publish.iter().for_each(|publish| egress.publish(*publish));
        // The environment names no proxy that does not listen.
        egress.announce_proxy &= egress.has_proxy();
        Ok(egress)
    }
}

impl Allow {
    /// The rule, with its caps.
    ///
    /// # Errors
    /// As [`AllowRule::parse`]; a cap of nothing.
    pub fn capped(&self) -> Result<Capped, Refusal> {
        let rule = self.rule()?;
        let caps = Caps { connections: self.max_connections, sent: self.max_sent.map(|size| size.0) };
        caps::check(&rule, caps)?;
        Ok(Capped { rule, caps })
    }

    fn rule(&self) -> Result<AllowRule, Refusal> {
        let protocol = self.protocol.unwrap_or(AllowProtocol::Tcp);
        let at = |text| Entry { list: "network.allow", text };
        match (&self.host, &self.cidr, self.local) {
            (Some(host), None, None) => at(host).host(host, self.ports.clone(), protocol),
            (None, Some(cidr), None) => at(cidr).net(cidr, self.ports.clone(), protocol),
            (None, None, Some(port)) if self.ports.is_empty() && protocol == AllowProtocol::Tcp => {
                at(&format!("local = {port}")).local(port)
            }
            (None, None, Some(_)) => Err(Refusal::new(
                "network.allow with local and ports or UDP",
                Rule::NetworkLocal,
                "`local` is itself the port, of TCP: give an entry to each",
            )),
            _ => Err(Refusal::new(
                "an entry of network.allow without one of host, cidr and local, or with two of them",
                Rule::NetworkForm,
                "give each entry exactly one of `host`, `cidr` and `local`",
            )),
        }
    }
}

impl Publish {
    /// The port, parsed.
    ///
    /// # Errors
    /// A port that is none.
    pub fn parsed(&self) -> Result<publish::Publish, Refusal> {
        match (self.port, self.host_port.unwrap_or(self.port)) {
            (port @ 1.., host @ 1..) => Ok(publish::Publish { host, port }),
            _ => Err(Refusal::new(
                "network.publish with port 0",
                Rule::NetworkPublish,
                "name ports from 1 to 65535",
            )),
        }
    }
}
