use proptest::prelude::*;

use super::*;
use crate::dns_type::DnsType;
use crate::egress::WILDCARD_BUDGET;
use crate::profile::Profile;
use crate::profile::network::Network;
use crate::profile::tests::WHOLE;
use crate::protocol::Protocol;
use crate::publish::Publish;

fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

fn change(allow: &[&str], deny: &[&str]) -> Change {
    Change::parse(&texts(allow), &texts(deny)).unwrap()
}

fn upstream() -> Upstream {
    Upstream {
        resolvers: vec![Resolver::parse("192.0.2.53").unwrap()],
        search: vec![],
        allow_private_ranges: vec![],
        proxy: None,
    }
}

fn of(toml: &str) -> Result<Change, Refusal> {
    Profile::parse("x", &format!("schema = 1\n{toml}")).map(|profile| profile.network.change().unwrap())
}

#[test]
fn the_documented_profile_has_its_way_out() {
    let profile = Profile::parse("x", WHOLE).unwrap();
    let egress = profile.network.egress(&Change::default(), &[], &upstream()).unwrap();
    let host = HostPattern::parse("api.example.org").unwrap();
    assert_eq!(
        egress.hosts.allow,
        [HostRule { host, ports: vec![443], protocol: Protocol::Tcp, opaque: false }]
    );
    assert_eq!(egress.hosts.deny, [HostPattern::parse("*.ads.example").unwrap()]);
    assert_eq!((egress.nets.len(), &egress.local[..], egress.announce_proxy), (1, &[5432][..], false));
    assert_eq!(egress.publish, [Publish { host: 8080, port: 3000 }]);
    assert_eq!((&egress.resolvers, egress.wildcard_budget), (&upstream().resolvers, WILDCARD_BUDGET));
    assert_eq!(egress.check(), Ok(()));
}

#[test]
fn flags_have_one_form_and_it_comes_back() {
    for (given, shown) in [
        ("api.example.org", "api.example.org:80,443"),
        ("API.Example.ORG.:443", "api.example.org:443"),
        ("*.example.org:*", "*.example.org:*"),
        ("example.org:22,443,22", "example.org:22,443"),
        ("example.org:123/udp", "example.org:123/udp"),
        ("example.org:123/tcp", "example.org:123"),
        ("192.0.2.0/24", "192.0.2.0/24:80,443"),
        ("192.0.2.7/32:*", "192.0.2.7/32:*"),
        ("192.0.2.0/24:123/udp", "192.0.2.0/24:123/udp"),
        ("2001:db8::/32", "[2001:db8::/32]:80,443"),
        ("2001:db8::/32:8080", "[2001:db8::/32]:8080"),
        ("[2001:db8::/32]:8080", "[2001:db8::/32]:8080"),
        ("[2001:db8::/32]", "[2001:db8::/32]:80,443"),
        ("local:5432", "local:5432"),
    ] {
        let rule = AllowRule::parse(given).unwrap();
        assert_eq!(rule.to_string(), shown);
        assert_eq!(AllowRule::parse(shown).unwrap(), rule);
    }
}

#[test]
fn what_cannot_be_meant_is_one_line_with_its_hint() {
    for (given, rule, hint) in [
        ("*", "network.host", "`*.`"),
        ("*.*.example.org", "network.host", "`*.`"),
        ("a.*.example.org", "network.host", "`*.`"),
        ("192.0.2.1", "network.host", "192.0.2.1/32"),
        ("192.0.2.1:443", "network.host", "192.0.2.1/32"),
        ("[2001:db8::1]:443", "network.host", "2001:db8::1/128"),
        ("2001:db8::1", "network.host", "2001:db8::1/128"),
        ("0x7f.1", "network.host", "192.0.2.1/32"),
        ("127.0.0.1:80", "network.host", "local:PORT"),
        ("127.0.0.0/8", "network.loopback", "local:PORT"),
        ("::1/128", "network.loopback", "local:PORT"),
        ("localhost:80", "network.host", "local:PORT"),
        ("bücher.example", "network.host", "xn--"),
        ("https://example.org/", "network.form", "scheme"),
        ("example.org/x", "network.cidr", "192.0.2.0/24"),
        ("192.0.2.1/24", "network.cidr", "zeros"),
        ("192.0.2.0/33", "network.cidr", "192.0.2.0/24"),
        ("example.org:", "network.port", "65535"),
        ("example.org:0", "network.port", "65535"),
        ("example.org:65536", "network.port", "65535"),
        ("example.org:1-9", "network.port", "65535"),
        ("example.org/udp", "network.udp", "ports"),
        ("example.org:*/udp", "network.udp", "ports"),
        ("local:0", "network.local", "65535"),
        ("local:x", "network.local", "65535"),
        ("local", "network.local", "local:PORT"),
        ("LOCAL.", "network.local", "local:PORT"),
        ("local/tcp", "network.local", "local:PORT"),
        ("", "network.host", "name"),
        ("a\n\u{1b}2J", "network.host", "name"),
    ] {
        let refusal = AllowRule::parse(given).unwrap_err();
        assert_eq!(refusal.rule.name(), rule, "{refusal}");
        assert!(refusal.hint.contains(hint), "{refusal}");
        assert!(!refusal.to_string().contains(char::is_control), "{refusal}");
    }
    let refusal = |text: &str| Change::parse(&[], &texts(&[text])).unwrap_err();
    assert_eq!(refusal("a.example:443").hint, "write a.example");
    assert_eq!(refusal("192.0.2.1").rule.name(), "network.deny");
    assert_eq!(refusal("*").rule.name(), "network.host");
}

#[test]
fn a_pattern_covers_what_lies_in_it() {
    let covers = |a: &str, b: &str| HostPattern::parse(a).unwrap().covers(&HostPattern::parse(b).unwrap());
    for (a, b) in [("a.b", "a.b"), ("*.b", "*.b"), ("*.b", "a.b"), ("*.b", "*.a.b"), ("*.b", "c.a.b")] {
        assert!(covers(a, b), "{a} {b}");
    }
    for (a, b) in [("a.b", "*.a.b"), ("*.b", "b"), ("*.a.b", "*.b"), ("*.a.b", "a.b"), ("*.b", "a.bb")] {
        assert!(!covers(a, b), "{a} {b}");
    }
}

#[test]
fn entries_of_profiles_are_one_of_three() {
    let rules = of(
        "[[network.allow]]\nhost = 'a.example'\n[[network.allow]]\ncidr = '192.0.2.0/24'\nports = [123]\n\
                    protocol = 'udp'\n[[network.allow]]\nlocal = 5432",
    );
    let rules: Vec<String> = rules.unwrap().allow.iter().map(ToString::to_string).collect();
    assert_eq!(rules, ["a.example:*", "192.0.2.0/24:123/udp", "local:5432"]);
    for (entry, rule) in [
        ("", "network.form"),
        ("ports = [443]", "network.form"),
        ("host = 'a.example'\ncidr = '192.0.2.0/24'", "network.form"),
        ("local = 5432\nports = [5432]", "network.local"),
        ("local = 5353\nprotocol = 'udp'", "network.local"),
        ("local = 0", "network.local"),
        ("host = 'a.example:443'", "network.host"),
        ("host = '192.0.2.1'", "network.host"),
        ("cidr = 'a.example'", "network.cidr"),
        ("host = 'a.example'\nports = [0]", "network.port"),
        ("host = 'a.example'\nprotocol = 'udp'", "network.udp"),
        ("host = 'a.example'\nprotocol = 'sctp'", "profile.form"),
    ] {
        let refusal = of(&format!("[[network.allow]]\n{entry}")).unwrap_err();
        assert_eq!(refusal.rule.name(), rule, "{refusal}");
        assert!(refusal.what.contains("profile x"), "{refusal}");
    }
    assert_eq!(of("[network]\ndeny = ['*']").unwrap_err().rule.name(), "network.host");
}

#[test]
fn a_session_that_runs_gets_more_and_keeps_every_deny() {
    let flags = change(&["a.example:443", "192.0.2.0/24:123/udp", "local:5432"], &["b.example"]);
    let now = Network::default().egress(&flags, &[], &upstream()).unwrap();
    let next =
        change(&["*.c.example", "a.example:443", "local:5432", "11.22.33.0/24:123/udp"], &["d.c.example"]);
    assert_eq!(
        next.to_string(),
        "allow *.c.example:80,443, allow a.example:443, allow local:5432, allow 11.22.33.0/24:123/udp, \
         deny d.c.example"
    );
    let then = next.apply(&now).unwrap();
    let rules: Vec<String> = then.rules().map(|rule| rule.to_string()).collect();
    let nets = ["192.0.2.0/24:123/udp", "11.22.33.0/24:123/udp"];
    assert_eq!(rules, ["a.example:443", "*.c.example:80,443", nets[0], nets[1], "local:5432"]);
    let deny: Vec<String> = then.hosts.deny.iter().map(ToString::to_string).collect();
    assert_eq!(deny, ["b.example", "d.c.example"]);
    assert_eq!(next.apply(&then).unwrap(), then);
    let rule = |allow: &[&str], deny: &[&str]| change(allow, deny).apply(&then).unwrap_err().rule.name();
    assert_eq!(rule(&["b.example"], &[]), "network.deny");
    assert_eq!(rule(&["x.e.example"], &["*.e.example"]), "network.deny");
    assert_eq!(rule(&["local:2"], &[]), "network.live");
    assert_eq!(rule(&["192.0.2.0/24:124/udp"], &[]), "network.live");
    let nobody = Egress { resolvers: vec![], hosts: crate::hosts::HostRules::default(), ..then.clone() };
    assert_eq!(change(&["e.example"], &[]).apply(&nobody).unwrap_err().rule.name(), "egress.resolver");
}

#[test]
fn the_text_of_a_change_is_bounded() {
    let many: Vec<String> = (0..MAX_CHANGE).map(|i| format!("{}{i}.example", "x".repeat(60))).collect();
    let text = Change::parse(&many, &[]).unwrap().to_string();
    assert!(text.len() <= MAX_TEXT && text.ends_with("example:80,443, ..."), "{}", text.len());
}

proptest! {
    #[test]
    fn what_is_read_comes_back_as_it_is_shown(text in "(\\*\\.)?[a-c0-9.:/\\[\\]*-]{0,24}(/udp)?") {
        if let Ok(rule) = AllowRule::parse(&text) {
            prop_assert_eq!(AllowRule::parse(&rule.to_string()).unwrap(), rule);
        }
    }

    #[test]
    fn hostile_entries_never_panic(text in "\\PC{0,48}") {
        Change::parse(std::slice::from_ref(&text), std::slice::from_ref(&text)).ok();
    }
}

#[test]
fn types_of_records_are_listed_by_name() {
    let parse = |toml: &str| Profile::parse("x", &format!("schema = 1\n[network]\n{toml}"));
    let kinds = |toml: &str| parse(toml).unwrap().network.parsed_dns_types().unwrap();
    assert_eq!(kinds(""), []);
    assert_eq!(kinds("dns_types = ['txt', 'SRV', 'TXT']"), [DnsType::Srv, DnsType::Txt]);
    let refusal = parse("dns_types = ['TXT', 'ANY']").unwrap_err();
    assert_eq!(refusal.rule.name(), "network.dns_types");
    assert!(refusal.what.contains("profile x") && refusal.what.contains("ANY"), "{refusal}");
    let both = parse("dns_types = ['TXT']").unwrap().overlaid(parse("dns_types = ['MX']").unwrap());
    assert_eq!(both.network.parsed_dns_types().unwrap(), [DnsType::Mx, DnsType::Txt]);
    let allow = "dns_types = ['MX']\n[[network.allow]]\nhost = 'a.example'";
    let egress = parse(allow).unwrap().network.egress(&Change::default(), &[], &upstream()).unwrap();
    assert_eq!(egress.dns_types, [DnsType::Mx]);
}

#[test]
fn an_opaque_rule_is_for_one_name_and_its_ports() {
    let rule = AllowRule::parse("db.example.org:5432,5433/opaque").unwrap();
    assert_eq!(rule.to_string(), "db.example.org:5432,5433/opaque");
    assert!(matches!(&rule, AllowRule::Host(HostRule { opaque: true, protocol: Protocol::Tcp, .. })));
    for (text, rule) in [
        ("*.example.org:5432/opaque", "network.opaque"),
        ("db.example.org/opaque", "network.opaque"),
        ("db.example.org:*/opaque", "network.opaque"),
        ("192.0.2.0/24:5432/opaque", "network.opaque"),
        ("local:5432/opaque", "network.local"),
    ] {
        assert_eq!(AllowRule::parse(text).unwrap_err().rule.name(), rule, "{text}");
    }
    let change =
        of("[[network.allow]]\nhost = 'db.example.org'\nports = [5432]\nprotocol = 'opaque'").unwrap();
    assert_eq!(change.allow[0].to_string(), "db.example.org:5432/opaque");
    // Whoever made the plan: the same is checked of it.
    let mut egress = Egress { wildcard_budget: WILDCARD_BUDGET, ..Egress::default() };
    let AllowRule::Host(mut host) = rule else { panic!("a name") };
    host.ports.clear();
    egress.hosts.allow.push(host);
    assert_eq!(egress.check().unwrap_err().rule.name(), "network.opaque");
}
