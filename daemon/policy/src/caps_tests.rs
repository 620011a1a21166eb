use proptest::prelude::*;

use super::*;
use crate::caps::Caps;
use crate::network::{Change, Upstream};
use crate::profile::Profile;
use crate::resolver::Resolver;

fn upstream() -> Upstream {
    Upstream {
        resolvers: vec![Resolver::parse("192.0.2.53:53").unwrap()],
        search: vec![],
        allow_private_ranges: vec![],
        proxy: None,
    }
}

/// What a profile with these entries lets out, with these flags.
fn out(toml: &str, flags: &[&str]) -> Egress {
    let profile = Profile::parse("x", &format!("schema = 1\n{toml}")).unwrap();
    profile.network.egress(&given(flags), &[], &upstream()).unwrap()
}

fn given(allow: &[&str]) -> Change {
    let texts: Vec<String> = allow.iter().map(ToString::to_string).collect();
    Change::parse(&texts, &[]).unwrap()
}

/// One entry for each text of a rule and its caps.
fn entries(list: &[(&str, &str)]) -> String {
    let entry = |(host, caps): &(&str, &str)| {
        let key = if host.contains('/') { "cidr" } else { "host" };
        format!("[[network.allow]]\n{key} = '{host}'\nports = [443]\n{caps}\n")
    };
    list.iter().map(entry).collect()
}

fn by_name(egress: &Egress, name: &str, port: u16) -> Option<String> {
    let purpose = Purpose::Name(HostName::parse(name).unwrap());
    let to = SocketAddr::from(([192, 0, 2, 1], port));
    egress.capped(&purpose, to, Protocol::Tcp).map(ToString::to_string)
}

#[test]
fn the_closest_rule_counts() {
    let egress = out(
        &entries(&[
            ("up.a.example", "max_sent = 5"),
            ("*.example", "max_sent = '1M'"),
            ("*.a.example", ""),
            ("b.example", ""),
            ("8.0.0.0/8", "max_connections = 2"),
            ("8.8.0.0/16", ""),
            ("8.8.8.0/24", "max_connections = 1"),
        ]),
        &[],
    );
    assert_eq!(egress.check(), Ok(()));
    let sent = |name| by_name(&egress, name, 443);
    assert_eq!(sent("up.a.example").unwrap(), "up.a.example:443 max_sent=5");
    assert_eq!(sent("down.a.example"), None);
    assert_eq!(sent("a.example").unwrap(), "*.example:443 max_sent=1M");
    assert_eq!((sent("b.example"), by_name(&egress, "a.example", 80)), (None, None));
    let net = |text: &str| {
        let capped = egress.capped(&Purpose::Net, text.parse().unwrap(), Protocol::Tcp);
        capped.map(ToString::to_string)
    };
    assert_eq!(net("8.9.0.1:443").unwrap(), "8.0.0.0/8:443 max_connections=2");
    assert_eq!((net("8.8.9.1:443"), net("9.0.0.1:443")), (None, None));
    assert_eq!(net("8.8.8.1:443").unwrap(), "8.8.8.0/24:443 max_connections=1");
    assert_eq!(egress.capped(&Purpose::Resolver, "8.0.0.1:443".parse().unwrap(), Protocol::Tcp), None);
}

#[test]
fn of_equally_close_rules_the_last_one_counts() {
    let capped = entries(&[("a.example", "max_sent = 5\nmax_connections = 3")]);
    assert_eq!(
        by_name(&out(&capped, &[]), "a.example", 443).unwrap(),
        "a.example:443 max_connections=3 max_sent=5"
    );
    // A flag, by the same ports or by others; one for the names around it does not come closer.
    for (flag, left) in
        [("a.example:443", false), ("a.example", false), ("a.example:80", true), ("*.example", true)]
    {
        assert_eq!(by_name(&out(&capped, &[flag]), "a.example", 443).is_some(), left, "{flag}");
    }
    let list =
        |first: &'static str, last: &'static str| entries(&[("a.example", first), ("a.example", last)]);
    assert_eq!(by_name(&out(&list("max_sent = 5", ""), &[]), "a.example", 443), None);
    assert!(
        by_name(&out(&list("", "max_sent = 6"), &[]), "a.example", 443).unwrap().ends_with(":443 max_sent=6")
    );
    assert!(
        by_name(&out(&list("max_sent = 5", "max_sent = 6"), &[]), "a.example", 443).unwrap().ends_with('6')
    );
}

#[test]
fn a_rule_that_is_given_again_is_given_last() {
    let given = |caps: &str| {
        let wide = "[[network.allow]]\nhost = 'a.example'\nports = [80, 443]\n";
        format!("{wide}{}{wide}{caps}", entries(&[("a.example", "")]))
    };
    let counts = |toml: &str| by_name(&out(toml, &[]), "a.example", 443);
    assert_eq!(counts(&given("max_sent = 5")).unwrap(), "a.example:80,443 max_sent=5");
    let again = entries(&[("a.example", "")]);
    assert_eq!(counts(&format!("{}\n{again}", given("max_sent = 5"))), None);
}

#[test]
fn a_change_of_a_running_session_lifts_only_what_it_names() {
    let now =
        out(&entries(&[("*.a.example", "max_sent = 5"), ("b.example", "max_sent = 6")]), &["b.example"]);
    let then = given(&["c.example", "x.a.example"]).apply(&now).unwrap();
    assert_eq!((then.caps.len(), by_name(&then, "x.a.example", 443)), (2, None));
    assert!(by_name(&then, "y.a.example", 443).is_some());
    let lifted = given(&["*.a.example:443"]).apply(&then).unwrap();
    assert_eq!((lifted.caps.len(), by_name(&lifted, "y.a.example", 443)), (1, None));
    // Of two rules that are equally close the capped one was given first, and is given again.
    assert_eq!(by_name(&now, "b.example", 443), None);
    let denied = Change::parse(&[], &["x.a.example".into()]).unwrap().apply(&now).unwrap();
    assert_eq!(denied.caps, now.caps);
}

#[test]
fn a_port_of_the_hosts_loopback_has_its_caps() {
    let egress = out("[[network.allow]]\nlocal = 5432\nmax_connections = 1", &[]);
    let to = "127.0.0.1:5432".parse().unwrap();
    let capped = egress.capped(&Purpose::Local, to, Protocol::Tcp).unwrap();
    assert_eq!(capped.to_string(), "local:5432 max_connections=1");
}

#[test]
fn what_says_nothing_is_refused() {
    for caps in
        ["max_sent = 0", "max_connections = 0", "max_connections = -1", "max_sent = '5X'", "max_recv = 1"]
    {
        let text = format!("schema = 1\n{}", entries(&[("a.example", caps)]));
        let refusal = Profile::parse("x", &text).unwrap_err();
        assert!(["network.cap", "profile.form"].contains(&refusal.rule.name()), "{caps}: {refusal}");
    }
    let good = out(&entries(&[("a.example", "max_sent = 5")]), &[]);
    let foul: [fn(&mut Egress); 4] = [
        |e| e.caps.push(e.caps[0].clone()),
        |e| e.caps[0].rule = AllowRule::Local(1),
        |e| e.caps[0].caps = Caps::default(),
        |e| e.caps[0].caps.sent = Some(0),
    ];
    for (number, change) in foul.into_iter().enumerate() {
        let mut egress = good.clone();
        change(&mut egress);
        assert_eq!(egress.check().unwrap_err().rule.name(), "network.cap", "{number}");
    }
}

proptest! {
    /// Whatever the order of rules that are not equally close, the same one counts.
    #[test]
    fn order_does_not_matter_between_rules_of_other_closeness(
        order in Just(vec!["*.example", "*.b.example", "*.a.b.example", "x.a.b.example"]).prop_shuffle(),
        name in "(x\\.|y\\.)?(a\\.)?b\\.example",
    ) {
        let list: Vec<_> = order.iter().map(|host| (*host, "max_sent = 1")).collect();
        let matching = |host: &&&str| HostPattern::parse(host).unwrap().matches(&HostName::parse(&name).unwrap());
        let closest = order.iter().filter(matching).max_by_key(|host| (!host.starts_with('*'), host.len())).unwrap();
        prop_assert_eq!(by_name(&out(&entries(&list), &[]), &name, 443).unwrap(), format!("{closest}:443 max_sent=1"));
    }
}
