use std::io::Write;
use std::net::{Ipv4Addr, UdpSocket};

use agentd_policy::dns_type::DnsType;
use agentd_policy::egress::Purpose;
use agentd_policy::event::NetEvent;
use agentd_policy::hosts::{HostPattern, HostRule};
use agentd_policy::protocol::Protocol;
use agentd_policy::wire::FromRelay;

use super::world::{World, accept, answer, connect, egress, expect, query};

const FAILED: u8 = 2;
const NO_NAME: u8 = 3;
const REFUSED: u8 = 5;
const HERE: [Ipv4Addr; 1] = [Ipv4Addr::LOCALHOST];

#[test]
fn a_name_is_asked_for_anew_if_the_keeper_wants_that_and_the_rules_allow_it() {
    let world = World::of(&["a.example"]);
    world.ask("a.example");
    let renewed = |of: &str| {
        world.renew(of);
        world.keeper.wait_for(|message| match message {
            FromRelay::Renewed { name, question: 1 } => (name.to_string() == of).then_some(()),
            _ => None,
        });
    };
    // Past what is known of it, and nobody has asked.
    renewed("a.example");
    let by_nobody = |message: &FromRelay| matches!(message, FromRelay::Pin { client: None, .. });
    assert_eq!((world.keeper.count(is_question), world.keeper.count(by_nobody)), (2, 1));
    renewed("b.example");
    assert_eq!((world.keeper.count(is_question), world.keeper.count(by_nobody)), (2, 1));
    let asked = world.keeper.all(|message| match message {
        FromRelay::Pin { client: Some(client), .. } => Some((client.protocol, client.to.ip())),
        _ => None,
    });
    assert_eq!(asked, [(Protocol::Udp, world.dns.ip())]);
}

fn is_question(message: &FromRelay) -> bool {
    matches!(message, FromRelay::Dial { purpose: Purpose::Resolver, .. })
}

fn denial(world: &World, of: &str) -> String {
    world.keeper.wait_for(|message| match message {
        FromRelay::Event { event: NetEvent::Dns { name, denied: Some(rule), .. }, .. } if name == of => {
            Some(rule.clone())
        }
        _ => None,
    })
}

#[test]
fn an_allowed_name_is_pinned_before_it_is_answered_and_then_known() {
    let world = World::of(&["a.example"]);
    assert_eq!(world.ask("a.example"), (0, HERE.into()));
    let pins = |message: &FromRelay| matches!(message, FromRelay::Pin { ttl: 60, question: 1, .. });
    assert_eq!((world.keeper.count(is_question), world.keeper.count(pins)), (1, 1));
    assert_eq!(world.ask("A.eXample"), (0, HERE.into()));
    assert_eq!((world.keeper.count(is_question), world.keeper.count(pins)), (1, 1));
    // The second is on record as well.
    let recorded = |message: &FromRelay| {
        matches!(message, FromRelay::Event { event: NetEvent::Dns { .. }, .. }).then_some(())
    };
    world.keeper.wait_for(recorded);
}

#[test]
fn a_denied_name_reaches_nobody() {
    let mut rules = egress(&["*.a.example", "b.example"]);
    rules.hosts.deny.push(HostPattern::parse("no.a.example").unwrap());
    let world = World::new(rules);
    assert_eq!(world.ask("evil.example"), (NO_NAME, vec![]));
    assert_eq!(denial(&world, "evil.example"), "default");
    assert_eq!(world.ask("no.a.example"), (NO_NAME, vec![]));
    assert_eq!(denial(&world, "no.a.example"), "deny no.a.example");
    // The name of a wildcard itself, and what is no name.
    assert_eq!(world.ask("a.example"), (NO_NAME, vec![]));
    assert_eq!(world.ask("127.0.0.1"), (NO_NAME, vec![]));
    assert_eq!(world.keeper.count(is_question), 0);
}

#[test]
fn other_types_are_not_asked_for() {
    let world = World::of(&["a.example"]);
    for (kind, code) in [(65, 0), (64, 0), (16, REFUSED), (255, REFUSED), (5, REFUSED)] {
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.send_to(&query("a.example", kind), world.dns).unwrap();
        let mut reply = [0; 512];
        let length = client.recv(&mut reply).unwrap();
        assert_eq!(answer(&reply[..length]), (code, vec![]), "{kind}");
    }
    assert_eq!(world.keeper.count(is_question), 0);
}

#[test]
fn a_listed_type_is_asked_for_where_the_name_is_allowed() {
    let mut rules = egress(&["a.example"]);
    rules.dns_types = vec![DnsType::Txt];
    let world = World::new(rules);
    world.keeper.zone.lock().unwrap().names.insert("a.example".into(), HERE.into());
    let ask = |name: &str, kind| {
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.send_to(&query(name, kind), world.dns).unwrap();
        let mut reply = vec![0; 512];
        let length = client.recv(&mut reply).unwrap();
        reply.truncate(length);
        (reply[3] & 15, reply[7], reply.ends_with(b"\0\x03\x02hi"))
    };
    assert_eq!(ask("a.example", 16), (0, 1, true));
    assert_eq!(ask("A.example", 16), (0, 1, true));
    assert_eq!(ask("b.example", 16), (NO_NAME, 0, false));
    assert_eq!(ask("a.example", 15), (REFUSED, 0, false));
    assert_eq!(denial(&world, "b.example"), "default");
    assert_eq!(denial(&world, "a.example"), "dns.type");
    assert_eq!(world.keeper.count(is_question), 1);
    assert_eq!(world.keeper.count(|message| matches!(message, FromRelay::Pin { .. })), 0);
}

#[test]
fn many_at_once_are_answered_each_and_counted() {
    let world = World::of(&["a.example"]);
    assert_eq!(world.ask("a.example"), (0, HERE.into()));
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(std::time::Duration::from_secs(15))).unwrap();
    const MANY: u64 = 200;
    for number in 0..MANY {
        let mut message = query("a.example", 1);
        message[1] = u8::try_from(number).unwrap();
        client.send_to(&message, world.dns).unwrap();
    }
    let mut reply = [0; 512];
    let mut numbers: Vec<u8> = (0..MANY)
        .map(|_| {
            let length = client.recv(&mut reply).unwrap();
            assert_eq!(answer(&reply[..length]), (0, HERE.into()));
            reply[1]
        })
        .collect();
    numbers.sort_unstable();
    assert!(numbers.iter().zip(0..).all(|(one, other)| *one == other), "{numbers:?}");
    assert_eq!(world.keeper.count(is_question), 1);
    // All are on record.
    world.keeper.heard_questions(MANY);
}

#[test]
fn what_does_not_exist_and_what_cannot_be_found_out() {
    let world = World::new(egress(&["a.example", "b.example"]));
    assert_eq!(world.ask("a.example"), (NO_NAME, vec![]));
    world.keeper.zone.lock().unwrap().dead = true;
    assert_eq!(world.ask("b.example"), (FAILED, vec![]));
    // The session lives, and so does what it asked before.
    assert_eq!(world.ask("a.example"), (NO_NAME, vec![]));
}

#[test]
fn a_name_may_not_lead_to_what_is_near_nor_to_what_is_denied() {
    let mut rules = egress(&["a.example", "b.example", "c.example"]);
    rules.hosts.deny.push(HostPattern::parse("*.evil.example").unwrap());
    let world = World::new(rules);
    let mut zone = world.keeper.zone.lock().unwrap();
    zone.names.insert("a.example".into(), vec![[169, 254, 169, 254].into(), [10, 0, 0, 1].into()]);
    zone.names.insert("x.evil.example".into(), HERE.into());
    zone.names.insert("cdn.example".into(), vec![[10, 0, 0, 1].into(), HERE[0]]);
    zone.aliases.insert("b.example".into(), "x.evil.example".into());
    zone.aliases.insert("c.example".into(), "cdn.example".into());
    drop(zone);
    assert_eq!(world.ask("a.example"), (NO_NAME, vec![]));
    assert!(denial(&world, "a.example").starts_with("address."));
    assert_eq!(world.ask("b.example"), (NO_NAME, vec![]));
    assert_eq!(denial(&world, "b.example"), "deny *.evil.example");
    assert_eq!(world.ask("c.example"), (0, HERE.into()));
    assert_eq!(world.keeper.count(|message| matches!(message, FromRelay::Pin { .. })), 1);
}

#[test]
fn a_listed_name_reaches_nobody_and_nothing_leads_to_it() {
    let rules = egress(&["*.a.example", "b.example", "c.example"]);
    let world = World::listing(rules, "||ads.a.example^\n*.evil.example\n");
    world.keeper.zone.lock().unwrap().aliases.insert("b.example".into(), "x.evil.example".into());
    for name in ["ads.a.example", "x.ADS.a.example"] {
        assert_eq!(world.ask(name), (NO_NAME, vec![]));
        assert_eq!(denial(&world, &name.to_ascii_lowercase()), "blocklist ads");
    }
    // What no rule names needs no list.
    assert_eq!(world.ask("evil.example"), (NO_NAME, vec![]));
    assert_eq!(denial(&world, "evil.example"), "default");
    assert_eq!(world.keeper.count(is_question), 0);
    assert_eq!(world.ask("b.example"), (NO_NAME, vec![]));
    assert_eq!(denial(&world, "b.example"), "blocklist ads");
    assert_eq!(world.ask("xads.a.example"), (NO_NAME, vec![]));
    assert_eq!(world.keeper.count(is_question), 2);
}

#[test]
fn a_wildcard_stands_for_so_many_names() {
    let world = World::new(egress(&["*.a.example"]));
    for n in 0..3 {
        assert_eq!(world.ask(&format!("n{n}.a.example")), (NO_NAME, vec![]));
    }
    let asked = world.keeper.count(is_question);
    assert_eq!(world.ask("n3.a.example"), (NO_NAME, vec![]));
    assert_eq!(denial(&world, "n3.a.example"), "dns.budget");
    assert_eq!(world.keeper.count(is_question), asked);
    world.ask("n2.a.example");
}

#[test]
fn a_resolver_whose_datagram_is_cut_is_asked_by_a_stream() {
    let world = World::of(&["a.example"]);
    world.keeper.zone.lock().unwrap().cut = true;
    assert_eq!(world.ask("a.example"), (0, HERE.into()));
    assert_eq!(world.keeper.count(is_question), 2);
}

#[test]
fn datagrams_flow_to_a_port_that_is_named() {
    let world = World::of(&["udp.example"]);
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    world.keeper.zone.lock().unwrap().server = Some(server.local_addr().unwrap());
    world.ask("udp.example");
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    for word in [&b"one"[..], b"two"] {
        client.send_to(word, world.udp).unwrap();
        let mut got = [0; 16];
        let (length, from) = server.recv_from(&mut got).unwrap();
        assert_eq!(&got[..length], word);
        server.send_to(b"answer", from).unwrap();
        let (length, from) = client.recv_from(&mut got).unwrap();
        assert_eq!((&got[..length], from), (&b"answer"[..], world.udp));
    }
    let dials = |message: &FromRelay| matches!(message, FromRelay::Dial { purpose: Purpose::Name(_), .. });
    assert_eq!(world.keeper.count(dials), 1);
    // What the rules do not allow any more is closed.
    world.policy(egress(&[]));
    assert_eq!(world.keeper.closed(), (6, 12, "policy".into()));
}

#[test]
fn a_flow_is_for_the_name_that_it_was_opened_for() {
    let mut after = egress(&[]);
    let world = World::with_local(egress(&[]), |rules| {
        let rule =
            HostRule { host: HostPattern::parse("too.example").unwrap(), ..rules.hosts.allow[0].clone() };
        rules.hosts.allow.push(rule);
        after = rules.clone();
    });
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut zone = world.keeper.zone.lock().unwrap();
    zone.server = Some(server.local_addr().unwrap());
    zone.names = ["too.example", "udp.example"].map(|name| (name.to_owned(), HERE.into())).into();
    drop(zone);
    world.ask("too.example");
    world.ask("udp.example");
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.send_to(b"one", world.udp).unwrap();
    server.recv_from(&mut [0; 16]).unwrap();
    // The other name is at the same address, and may be reached as before.
    after.hosts.deny.push(HostPattern::parse("udp.example").unwrap());
    world.policy(after);
    assert_eq!(world.keeper.closed(), (3, 0, "policy".into()));
}

#[test]
fn a_port_of_the_hosts_loopback() {
    let world = World::new(egress(&[]));
    let server = world.server();
    let mut client = connect(world.local);
    client.write_all(b"x").unwrap();
    let mut theirs = accept(&server);
    expect(&mut theirs, b"x");
    let right = world.keeper.wait_for(|message| match message {
        FromRelay::Dial { purpose: Purpose::Local, to, .. } => Some(*to),
        _ => None,
    });
    assert_eq!(right, world.local);
}
