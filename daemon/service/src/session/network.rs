//! What a running session may reach, as it is shown. It is changed by way of the launcher alone.

use agentd_policy::caps::{Capped, Caps};
use agentd_policy::egress::Egress;
use agentd_proto::v1::{Cap, Network};

/// As the API shows it.
pub fn show(egress: &Egress) -> Network {
    Network {
        allow: egress.rules().map(|rule| rule.to_string()).collect(),
        deny: egress.hosts.deny.iter().map(ToString::to_string).collect(),
        resolvers: egress.resolvers.iter().map(ToString::to_string).collect(),
        proxy_env: egress.announce_proxy,
        caps: egress.caps.iter().map(cap).collect(),
        publish: published(egress),
        dns_types: egress.dns_types.iter().map(ToString::to_string).collect(),
    }
}

fn cap(Capped { rule, caps }: &Capped) -> Cap {
    let Caps { connections, sent } = caps;
    // No plan has a cap of 0.
    Cap { rule: rule.to_string(), max_connections: connections.unwrap_or(0), max_sent: sent.unwrap_or(0) }
}

/// The ports that it publishes, as the API shows them.
pub fn published(egress: &Egress) -> Vec<String> {
    egress.publish.iter().map(ToString::to_string).collect()
}
