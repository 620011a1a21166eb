use super::*;
use crate::network::Change;

fn list(entries: &[&str]) -> Vec<Hosts> {
    entries.iter().map(|text| Hosts::parse(text).unwrap()).collect()
}

fn ceiling(hosts: &[&str], denied: &[&str]) -> Ceiling {
    Ceiling { hosts: list(hosts), denied: list(denied), local: false, publish: false, opaque: false }
}

/// What an egress that allows this is refused by.
#[track_caller]
fn refused(ceiling: &Ceiling, allow: &str) -> Option<&'static str> {
    let change = Change::parse(&[allow.to_owned()], &[]).unwrap();
    let mut egress = Egress::default();
    egress.deny(ceiling.denied_names());
    ceiling.check(&change.apply_first(&egress)).err().map(|refusal| refusal.rule.name())
}

impl Change {
    /// To one that need not have been open.
    fn apply_first(&self, egress: &Egress) -> Egress {
        let mut next = egress.clone();
        for capped in &self.allow {
            match &capped.rule {
                AllowRule::Host(host) => next.hosts.allow.push(host.clone()),
                AllowRule::Net(net) => next.nets.push(net.clone()),
                AllowRule::Local(port) => next.local.push(*port),
            }
        }
        next
    }
}

#[test]
fn rules_stay_below_it() {
    let some = ceiling(&["*.example.org", "192.0.2.0/24", "2001:db8::/32"], &[]);
    for within in
        ["a.example.org", "*.a.example.org:22", "*.example.org:*", "192.0.2.0/25:80", "[2001:db8::1/128]:443"]
    {
        assert_eq!(refused(&some, within), None, "{within}");
    }
    for beyond in
        ["example.org", "*.org", "*.com", "example.org.evil.example", "192.0.0.0/16:80", "0.0.0.0/0:*"]
    {
        assert_eq!(refused(&some, beyond), Some("bounds.hosts"), "{beyond}");
    }
    assert_eq!(refused(&some, "[::/0]:443"), Some("bounds.hosts"));
    assert_eq!(refused(&some, "local:5432"), Some("bounds.local"));
    assert_eq!(refused(&ceiling(&["*"], &[]), "0.0.0.0/0:*"), None);
    assert_eq!(refused(&Ceiling::default(), "local:5432"), None);
    assert_eq!(refused(&Ceiling::default(), "db.example.org:5432/opaque"), None);
    for web in ["a.example.org:443/opaque", "a.example.org:5432,80/opaque"] {
        assert_eq!(refused(&Ceiling::default(), web), Some("bounds.opaque"), "{web}");
        assert_eq!(refused(&Ceiling { opaque: true, ..Ceiling::default() }, web), None, "{web}");
    }
}

#[test]
fn what_is_denied_is_denied_whatever_covers_it() {
    let some = ceiling(&["*"], &["*.evil.example", "203.0.113.0/24"]);
    for denied in ["a.evil.example", "*.b.evil.example", "*.evil.example:22", "203.0.113.9/32:80"] {
        assert_eq!(refused(&some, denied), Some("bounds.hosts_denied"), "{denied}");
    }
    // What holds more than that passes, and the rest of it is refused by name and by address.
    for wider in ["*.example:443", "0.0.0.0/0:443"] {
        assert_eq!(refused(&some, wider), None, "{wider}");
    }
    let denied =
        |address: &str| some.address(address.parse().unwrap()).err().map(|denial| denial.to_string());
    for address in [
        "203.0.113.7",
        "::ffff:203.0.113.7",
        "64:ff9b::203.0.113.7",
        "2002:cb00:7107::1",
        "64:ff9b:1::cb00:7107",
    ] {
        assert_eq!(denied(address).as_deref(), Some("bounds.hosts_denied 203.0.113.0/24"), "{address}");
    }
    assert_eq!(denied("203.0.114.7"), None);
    let name = |name: &str| some.name(&HostName::parse(name).unwrap()).is_ok();
    assert!(name("evil.example") && !name("x.evil.example"));
    assert_eq!(refused(&ceiling(&["*"], &["*"]), "a.example"), Some("bounds.hosts_denied"));
}

#[test]
fn an_egress_that_leaves_the_denied_names_out_is_refused() {
    let some = ceiling(&["*"], &["evil.example"]);
    let change = Change::parse(&["*.example".to_owned()], &[]).unwrap();
    let egress = change.apply_first(&Egress::default());
    assert_eq!(some.check(&egress).unwrap_err().rule.name(), "bounds.hosts_denied");
}

#[test]
fn the_narrower_of_two_entries_is_in_both() {
    let (a, b) =
        (list(&["*.example.org", "10.0.0.0/8", "x.example"]), list(&["a.example.org", "10.1.0.0/16"]));
    assert_eq!(intersection(&[&a, &b]), list(&["a.example.org", "10.1.0.0/16"]));
    assert_eq!(intersection(&[&a, &list(&["*"])]), a);
}
