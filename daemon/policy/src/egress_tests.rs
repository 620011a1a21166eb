use std::net::IpAddr;

use super::*;
use crate::addresses::Kind;
use crate::allow::MAX_RULES;
use crate::denial::Denial;
use crate::hosts::{HostPattern, HostRule};
use crate::ports::{MAX_LOCAL, PROXY_PORT};
use crate::resolver::MAX_RESOLVERS;
use crate::rule::Rule;

/// One of them.
const PUBLISHED: Publish = Publish { host: 8080, port: 80 };

fn net(text: &str, ports: &[u16]) -> NetRule {
    NetRule { net: Net::parse(text).unwrap(), ports: ports.to_vec(), protocol: Protocol::Tcp }
}

fn with_nets(nets: Vec<NetRule>) -> Egress {
    Egress { nets, ..Egress::default() }
}

fn dial(egress: &Egress, to: &str) -> Result<(), Denial> {
    let judged = egress.dial(&Purpose::Net, to.parse().unwrap(), Protocol::Tcp, false);
    assert_eq!(egress.net(to.parse().unwrap(), Protocol::Tcp).is_some(), judged.is_ok(), "{to}");
    judged
}

fn host(text: &str, ports: Vec<u16>) -> HostRule {
    HostRule { host: HostPattern::parse(text).unwrap(), ports, protocol: Protocol::Tcp, opaque: false }
}

#[test]
fn a_wide_rule_reaches_nothing_near_the_host() {
    let egress = with_nets(vec![net("0.0.0.0/0", &[]), net("::/0", &[])]);
    for public in ["8.8.8.8:853", "[2606:4700::1111]:443"] {
        assert_eq!(dial(&egress, public), Ok(()), "{public}");
    }
    let asked = egress.dial(&Purpose::Net, "8.8.8.8:53".parse().unwrap(), Protocol::Tcp, false);
    assert_eq!(asked, Err(Rule::Default.into()));
    for near in [
        "127.0.0.1:22",
        "0.0.0.0:22",
        "10.0.0.1:80",
        "169.254.169.254:80",
        "168.63.129.16:80",
        "100.64.0.1:80",
        "255.255.255.255:80",
        "[::1]:22",
        "[::ffff:127.0.0.1]:22",
        "[::ffff:8.8.8.8]:853",
        "[fe80::1]:80",
        "[fd00::1]:80",
        "[64:ff9b::7f00:1]:22",
        "[2002:7f00:1::]:22",
    ] {
        assert_eq!(dial(&egress, near).unwrap_err().rule, Rule::Address, "{near}");
    }
}

#[test]
fn a_special_range_is_reached_by_a_rule_within_it() {
    let egress = with_nets(vec![
        net("0.0.0.0/0", &[443]),
        net("10.1.0.0/16", &[80]),
        net("169.254.169.254/32", &[80]),
        net("169.254.0.0/16", &[81]),
        net("127.0.0.0/8", &[]),
        net("::ffff:127.0.0.0/104", &[]),
    ]);
    assert_eq!(dial(&egress, "10.1.2.3:80"), Ok(()));
    assert_eq!(dial(&egress, "10.1.2.3:443"), Err(Denial::about(Rule::Address, Kind::Private)));
    assert_eq!(dial(&egress, "10.2.2.3:80"), Err(Rule::Default.into()));
    assert_eq!(dial(&egress, "169.254.169.254:80"), Ok(()));
    assert!(dial(&egress, "169.254.169.254:81").is_err());
    // The host's own is never a network's.
    assert!(dial(&egress, "127.0.0.1:22").is_err() && dial(&egress, "[::ffff:127.0.0.1]:22").is_err());
    let site = Egress { allow_private_ranges: vec![Net::parse("10.0.0.0/8").unwrap()], ..egress };
    assert_eq!(dial(&site, "10.2.2.3:443"), Ok(()));
}

#[test]
fn a_name_leads_into_a_range_by_a_rule_within_it() {
    let mut egress = with_nets(vec![net("0.0.0.0/0", &[]), net("10.1.0.0/16", &[80])]);
    egress.hosts.allow.push(host("intranet.example", vec![80, 443]));
    let name = HostName::parse("intranet.example").unwrap();
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    assert_eq!(egress.pin(&name, address("10.1.2.3")), Ok(()));
    assert_eq!(egress.pin(&name, address("10.2.2.3")), Err(Denial::about(Rule::Address, Kind::Private)));
    assert_eq!(egress.pin(&name, address("127.0.0.1")), Err(Denial::about(Rule::Address, Kind::Loopback)));
    let by_name = Purpose::Name(name.clone());
    let dial = |to: &str| egress.dial(&by_name, to.parse().unwrap(), Protocol::Tcp, true);
    assert_eq!(dial("10.1.2.3:80"), Ok(()));
    // No further than without the name.
    assert_eq!(dial("10.1.2.3:443"), Err(Denial::about(Rule::Address, Kind::Private)));
    assert_eq!(
        egress.rule(&by_name, "10.1.2.3:80".parse().unwrap(), Protocol::Tcp).as_deref(),
        Some("allow intranet.example")
    );
    assert_eq!(egress.name_rule(&name).as_deref(), Some("allow intranet.example"));
    let by_net = egress.rule(&Purpose::Net, "10.1.2.3:80".parse().unwrap(), Protocol::Tcp);
    assert_eq!(by_net.as_deref(), Some("allow 10.1.0.0/16"));
}

#[test]
fn loopback_and_resolvers_are_what_was_named() {
    let egress = Egress {
        local: vec![5432],
        resolvers: vec![Resolver::parse("127.0.0.53").unwrap()],
        ..Egress::default()
    };
    let dial = |purpose, to: &str, protocol| egress.dial(&purpose, to.parse().unwrap(), protocol, true);
    for own in ["127.0.0.1:5432", "[::1]:5432"] {
        assert_eq!(dial(Purpose::Local, own, Protocol::Tcp), Ok(()), "{own}");
    }
    for (to, protocol) in [
        ("127.0.0.1:22", Protocol::Tcp),
        ("[::1]:22", Protocol::Tcp),
        ("[::1]:5432", Protocol::Udp),
        ("[::ffff:127.0.0.1]:5432", Protocol::Tcp),
        ("127.0.0.2:5432", Protocol::Tcp),
        ("127.0.0.1:5432", Protocol::Udp),
    ] {
        assert_eq!(dial(Purpose::Local, to, protocol), Err(Rule::Default.into()), "{to}");
    }
    assert_eq!(dial(Purpose::Resolver, "127.0.0.53:53", Protocol::Udp), Ok(()));
    assert_eq!(dial(Purpose::Resolver, "127.0.0.53:54", Protocol::Udp), Err(Rule::ResolverUnknown.into()));
}

#[test]
fn a_resolver_over_tls_is_asked_by_nothing_else() {
    let resolvers = vec![Resolver::parse("tls://192.0.2.53#dns.example").unwrap()];
    let egress = Egress { resolvers, ..Egress::default() };
    assert!(egress.asks_over_tls() && !Egress::default().asks_over_tls());
    let dial = |to: &str, protocol| egress.dial(&Purpose::Resolver, to.parse().unwrap(), protocol, false);
    assert_eq!(dial("192.0.2.53:853", Protocol::Tcp), Ok(()));
    for (to, protocol) in [
        ("192.0.2.53:853", Protocol::Udp),
        ("192.0.2.53:53", Protocol::Udp),
        ("192.0.2.53:53", Protocol::Tcp),
    ] {
        assert_eq!(dial(to, protocol), Err(Rule::ResolverUnknown.into()), "{to}");
    }
}

#[test]
fn names_need_their_pin_and_no_deny() {
    let mut egress = Egress::default();
    egress.hosts.allow = vec![host("*.a.example", vec![443])];
    egress.hosts.deny = vec![HostPattern::parse("x.a.example").unwrap()];
    let dial = |name: &str, to: &str, pinned| {
        let purpose = Purpose::Name(HostName::parse(name).unwrap());
        egress.dial(&purpose, to.parse().unwrap(), Protocol::Tcp, pinned)
    };
    assert_eq!(dial("b.a.example", "8.8.8.8:443", true), Ok(()));
    assert_eq!(dial("b.a.example", "8.8.8.8:443", false), Err(Rule::PinUnknown.into()));
    assert_eq!(dial("b.a.example", "8.8.8.8:80", true), Err(Rule::Default.into()));
    assert_eq!(dial("x.a.example", "8.8.8.8:443", true), Err(Denial::about(Rule::Deny, "x.a.example")));
    assert_eq!(dial("b.a.example", "10.0.0.1:443", true), Err(Denial::about(Rule::Address, Kind::Private)));
}

#[test]
fn each_bound_of_a_plan_holds() {
    type Change = fn(&mut Egress);
    let breaks: &[(&str, Change)] = &[
        ("plan.egress", |e| e.nets = vec![net("192.0.2.0/24", &[]); MAX_RULES + 1]),
        ("plan.egress", |e| e.nets = vec![net("192.0.2.0/24", &[1; MAX_PORTS + 1])]),
        ("plan.egress", |e| e.hosts.allow = vec![host(&"a.".repeat(120), vec![]); 200]),
        ("plan.egress", |e| e.resolvers = vec![Resolver::parse("192.0.2.1").unwrap(); MAX_RESOLVERS + 1]),
        ("plan.egress", |e| e.local = (1..=u16::try_from(MAX_LOCAL).unwrap() + 1).collect()),
        ("plan.egress", |e| e.wildcard_budget = WILDCARD_BUDGET + 1),
        ("network.udp", |e| {
            e.nets = vec![NetRule { protocol: Protocol::Udp, ..net("192.0.2.0/24", &[]) }];
        }),
        ("network.local", |e| e.local = vec![0]),
        ("network.local", |e| e.local = vec![5432, PROXY_PORT]),
        ("network.local", |e| e.local = vec![1]),
        ("network.dns", |e| e.nets = vec![net("192.0.2.0/24", &[443, 53])]),
        ("network.dns", |e| e.hosts.allow = vec![host("a.example", vec![53])]),
        ("plan.egress", |e| e.nets = vec![net("192.0.2.0/24", &[80, 443]); MAX_ACCEPT_RULES / 2 + 1]),
    ];
    assert_eq!(Egress::default().check(), Ok(()));
    for (rule, change) in breaks {
        let mut egress = Egress::default();
        change(&mut egress);
        assert_eq!(egress.check().unwrap_err().rule.name(), *rule);
    }
}

#[test]
fn the_hosts_own_addresses_are_named_one_by_one() {
    let egress = Egress {
        nets: vec![net("0.0.0.0/0", &[]), net("11.0.0.1", &[])],
        allow_private_ranges: vec![Net::parse("12.0.0.0/8").unwrap()],
        ..Egress::default()
    };
    let own = |purpose: &Purpose, to: &str| egress.own(purpose, to.parse().unwrap(), Protocol::Tcp).is_ok();
    let name = Purpose::Name(HostName::parse("a.example").unwrap());
    assert!(own(&Purpose::Net, "11.0.0.1:80") && !own(&Purpose::Net, "11.0.0.2:80"));
    assert!(!own(&name, "11.0.0.1:80") && own(&name, "12.0.0.1:80") && own(&Purpose::Net, "12.0.0.1:80"));
    assert!(own(&Purpose::Local, "127.0.0.1:80") && own(&Purpose::Resolver, "127.0.0.53:53"));
}

#[test]
fn what_is_the_sites_is_the_sites() {
    let site = |text: &str| crate::config::Config::parse(&format!("[egress]\n{text}")).unwrap().egress;
    let resolvers = vec![Resolver::parse("192.0.2.53").unwrap()];
    let egress = Egress { resolvers, local: vec![5432], ..Egress::default() };
    assert_eq!(site("").check(&egress), Ok(()));
    assert_eq!(site("resolvers = ['192.0.2.1', '192.0.2.53']").check(&egress), Ok(()));
    let rule = |text: &str| site(text).check(&egress).unwrap_err().rule.name();
    assert_eq!(rule("resolvers = ['192.0.2.54']"), "egress.resolver");
    assert_eq!(rule("resolvers = ['tls://192.0.2.53:53#dns.example']"), "egress.resolver");
    assert_eq!(rule("allow_private_ranges = ['10.0.0.0/8']"), "egress.allow_private_ranges");
    for next in [
        Egress { resolvers: vec![], ..egress.clone() },
        Egress { allow_private_ranges: vec![Net::parse("10.0.0.0/8").unwrap()], ..egress.clone() },
        Egress { wildcard_budget: 1, ..egress.clone() },
        Egress { dns_types: vec![DnsType::Txt], ..egress.clone() },
        Egress { local: vec![5432, 2], ..egress.clone() },
        Egress { publish: vec![PUBLISHED], ..egress.clone() },
    ] {
        assert_eq!(egress.may_become(&next).unwrap_err().rule.name(), "network.live");
    }
    let with = |text: &str, allow_private_ranges: Vec<Net>| {
        let before = Egress { allow_private_ranges, ..egress.clone() };
        let next = Egress { nets: vec![net(text, &[80])], ..before.clone() };
        before.may_become(&next)
    };
    for near in
        ["169.254.169.254", "10.0.0.0/8", "10.1.2.0/24", "127.0.0.1", "fd00::/8", "::ffff:11.0.0.0/104"]
    {
        assert_eq!(with(near, vec![]).unwrap_err().rule.name(), "network.live", "{near}");
    }
    // What is wider names none of them.
    for far in ["11.0.0.0/8", "0.0.0.0/0", "2000::/3"] {
        assert_eq!(with(far, vec![]), Ok(()), "{far}");
    }
    assert_eq!(with("10.1.2.0/24", vec![Net::parse("10.0.0.0/8").unwrap()]), Ok(()));
    let mut denying = egress.clone();
    denying.hosts.deny = vec![HostPattern::parse("a.example").unwrap()];
    assert_eq!(egress.may_become(&denying), Ok(()));
    assert_eq!(denying.may_become(&egress).unwrap_err().rule.name(), "network.live");
}

#[test]
fn a_published_port_is_the_sessions_own_and_lets_nothing_out() {
    let egress = Egress { publish: vec![PUBLISHED], ..Egress::default() };
    assert_eq!((egress.is_closed(), egress.sockets(), egress.check()), (true, 6, Ok(())));
    let dial = |publish, to: &str, protocol| {
        egress.dial(&Purpose::Publish(publish), to.parse().unwrap(), protocol, true)
    };
    for to in ["127.0.0.1:80", "[::1]:80"] {
        assert_eq!(dial(PUBLISHED, to, Protocol::Tcp), Ok(()), "{to}");
        assert_eq!(dial(PUBLISHED, to, Protocol::Udp), Err(Rule::PublishUnknown.into()), "{to}");
        assert_eq!(
            dial(Publish { host: 80, port: 80 }, to, Protocol::Tcp),
            Err(Rule::PublishUnknown.into()),
            "{to}"
        );
    }
    for to in ["127.0.0.1:8080", "127.0.0.2:80", "10.200.0.2:80", "[::ffff:127.0.0.1]:80", "0.0.0.0:80"] {
        assert_eq!(dial(PUBLISHED, to, Protocol::Tcp), Err(Rule::PublishUnknown.into()), "{to}");
    }
    for purpose in [Purpose::Local, Purpose::Net, Purpose::Resolver] {
        let to = "127.0.0.1:80".parse().unwrap();
        assert!(egress.dial(&purpose, to, Protocol::Tcp, true).is_err(), "{purpose:?}");
    }
    // It began without anything to reach: what needs a socket from the start it does not get later.
    let open = Egress { local: vec![5432], ..egress.clone() };
    assert_eq!(egress.may_become(&open).unwrap_err().rule.name(), "network.live");
    assert_eq!(egress.may_become(&egress), Ok(()));
    assert_eq!(
        open.may_become(&Egress { publish: vec![], ..open.clone() }).unwrap_err().rule.name(),
        "network.live"
    );
    assert_eq!(open.may_become(&open), Ok(()));
}

#[test]
fn what_began_without_a_network_may_have_one_unless_that_is_for_good() {
    let rule = || HostRule {
        host: HostPattern::parse("a.example").unwrap(),
        ports: vec![443],
        protocol: Protocol::Tcp,
        opaque: false,
    };
    let closed = Egress::default();
    let mut open = closed.clone();
    open.hosts.allow.push(rule());
    assert_eq!((closed.may_become(&open), closed.sockets(), open.sockets()), (Ok(()), 6, 6));
    let name = HostName::parse("a.example").unwrap();
    assert_eq!(closed.pin(&name, [11, 0, 0, 1].into()), Err(Rule::NetworkNone.into()));
    assert_eq!(
        open.pin(&HostName::parse("b.example").unwrap(), [11, 0, 0, 1].into()),
        Err(Rule::Default.into())
    );
    let sealed = Egress { sealed: true, ..closed.clone() };
    assert_eq!((sealed.check(), sealed.sockets()), (Ok(()), 4));
    let unsealed = Egress { sealed: true, ..open.clone() };
    assert_eq!(sealed.may_become(&unsealed).unwrap_err().rule.name(), "network.none");
    assert_eq!(sealed.may_become(&open).unwrap_err().rule.name(), "network.live");
}

/// What only the site's proxy can resolve has an address that nobody connects to.
#[test]
fn an_address_that_stands_for_a_name_is_for_the_proxy_alone() {
    let there: SocketAddr = "198.18.0.7:443".parse().unwrap();
    let name = HostName::parse("a.example").unwrap();
    let mut egress = Egress::default();
    egress.hosts.allow.push(host("a.example", vec![443]));
    let dial = |egress: &Egress, to, protocol| egress.dial(&Purpose::Name(name.clone()), to, protocol, true);
    assert!(egress.pin(&name, there.ip()).is_err() && dial(&egress, there, Protocol::Tcp).is_err());
    egress.proxy = Some("192.0.2.1:3128".parse().unwrap());
    assert_eq!((egress.pin(&name, there.ip()), dial(&egress, there, Protocol::Tcp)), (Ok(()), Ok(())));
    assert!(dial(&egress, there, Protocol::Udp).is_err());
    assert!(egress.dial(&Purpose::Net, there, Protocol::Tcp, true).is_err());
    for other in ["10.0.0.1:443", "127.0.0.1:443", "192.0.2.7:443", "[::ffff:198.18.0.7]:443"] {
        assert!(dial(&egress, other.parse().unwrap(), Protocol::Tcp).is_err(), "{other}");
    }
    let none = Egress { proxy: None, ..egress.clone() };
    assert_eq!(egress.may_become(&none).unwrap_err().rule.name(), "network.live");
}
