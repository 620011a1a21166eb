use std::io::Write;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream, UdpSocket};

use agentd_policy::allow::AllowRule;
use agentd_policy::caps::{Capped, Caps};
use agentd_policy::egress::Egress;
use agentd_policy::event::NetEvent;
use agentd_policy::wire::FromRelay;

use super::world::{World, accept, connect, egress, expect, rest};
use crate::rig::noise;

/// Nobody's protocol: it goes by the pin alone.
const FIRST: &[u8] = b"\0";
/// So much that a part of it goes by a pipe.
const MUCH: usize = (1 << 20) + 17;

/// `hosts`, of which the rule of the first, or that for UDP, has these caps.
fn capped(hosts: &[&str], caps: Caps) -> Egress {
    let mut egress = egress(hosts);
    egress.caps = vec![Capped { rule: AllowRule::Host(egress.hosts.allow[0].clone()), caps }];
    egress
}

fn sent(most: usize) -> Caps {
    Caps { sent: Some(most as u64), ..Caps::default() }
}

/// All of `names` are at the same address and have been asked for.
fn world(egress: Egress, names: &[&str]) -> World {
    at(World::new(egress), names)
}

fn at(world: World, names: &[&str]) -> World {
    let there = names.iter().map(|name| ((*name).to_owned(), vec![Ipv4Addr::LOCALHOST])).collect();
    world.keeper.zone.lock().unwrap().names = there;
    for name in names {
        world.ask(name);
    }
    world
}

/// A connection whose first byte went through.
fn both(world: &World, server: &TcpListener) -> (TcpStream, TcpStream) {
    let mut client = world.connect();
    client.write_all(FIRST).unwrap();
    let mut theirs = accept(server);
    expect(&mut theirs, FIRST);
    (client, theirs)
}

/// Waits for the end of one that had sent so much.
fn ended(world: &World, bytes: u64, why: &str) {
    world.keeper.wait_for(|message| match message {
        FromRelay::Event { event: NetEvent::Closed { sent, reason, .. }, .. } => {
            (*sent == bytes && reason.to_string() == why).then_some(())
        }
        _ => None,
    });
}

#[test]
fn what_a_cap_leaves_goes_to_the_byte_and_then_nothing() {
    let world = world(capped(&["a.example"], sent(MUCH)), &["a.example"]);
    let server = world.server();
    let (mut client, mut theirs) = both(&world, &server);
    let bytes = noise(2 * MUCH);
    let mut writer = client.try_clone().unwrap();
    let all = bytes.clone();
    // How much the kernel takes of it is the kernel's to say.
    let send = std::thread::spawn(move || drop(writer.write_all(&all)));
    // A reset may overtake the last of what went.
    let mut got = Vec::new();
    let end = std::io::Read::read_to_end(&mut theirs, &mut got).unwrap_err();
    assert_eq!(end.kind(), std::io::ErrorKind::ConnectionReset);
    assert!(got.len() < MUCH && bytes.starts_with(&got), "{} bytes, or others", got.len());
    send.join().unwrap();
    assert_eq!(rest(&mut client), None);
    assert_eq!(world.keeper.closed(), (MUCH as u64, 0, "limit".into()));
    assert_eq!(world.keeper.denied(), (Some("a.example".into()), "cap.sent a.example:*".into()));
    // Nothing more is dialled.
    let dials = |message: &FromRelay| matches!(message, FromRelay::Dial { to, .. } if to.port() != 53);
    let before = world.keeper.count(dials);
    let mut late = world.connect();
    late.write_all(FIRST).unwrap();
    assert_eq!(rest(&mut late), None);
    assert_eq!(world.keeper.count(dials), before);
}

#[test]
fn who_sends_what_the_cap_says_ends_in_order_and_is_answered() {
    let world = world(capped(&["a.example"], sent(9)), &["a.example"]);
    let (mut client, mut theirs) = both(&world, &world.server());
    client.write_all(b"question").unwrap();
    expect(&mut theirs, b"question");
    theirs.write_all(b"much longer than the cap").unwrap();
    expect(&mut client, b"much longer than the cap");
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&mut theirs).unwrap(), b"");
    drop(theirs);
    assert_eq!(rest(&mut client).unwrap(), b"");
    assert_eq!(world.keeper.closed(), (9, 24, "closed".into()));
}

#[test]
fn connections_at_once_and_one_after_the_other_have_one_cap_together() {
    let world = world(capped(&["*.example"], sent(100)), &["a.example", "b.example"]);
    let server = world.server();
    let mut open: Vec<_> = (0..4).map(|_| both(&world, &server)).collect();
    for (client, theirs) in &mut open {
        client.write_all(&[1; 23]).unwrap();
        expect(theirs, &[1; 23]);
    }
    let (client, theirs) = &mut open[2];
    client.write_all(&[1; 5]).unwrap();
    // 4 * (1 + 23) were sent before.
    expect(theirs, &[1; 4]);
    assert_eq!(rest(theirs), None);
    open[0].0.write_all(&[1]).unwrap();
    assert_eq!(rest(&mut open[0].1), None);
    // Neither a new connection nor the other name of the wildcard begins anew.
    for request in ["GET / HTTP/1.1\r\nHost: b.example\r\n\r\n", "\0"] {
        let mut late = world.connect();
        late.write_all(request.as_bytes()).unwrap();
        let answer = rest(&mut late);
        let answer = answer.as_deref().map(String::from_utf8_lossy);
        let recorded =
            answer.as_deref().is_none_or(|text| text.contains("X-Agentd-Reason: cap.sent *.example:*\r\n"));
        assert!(recorded && answer.is_some() == request.starts_with("GET"), "{answer:?}");
    }
    ended(&world, 28, "limit");
    ended(&world, 24, "limit");
}

#[test]
fn each_host_of_a_connection_counts_by_its_rule() {
    let world = world(capped(&["a.example", "b.example"], sent(200)), &["a.example", "b.example"]);
    let server = world.server();
    let mut client = world.connect();
    let request = |host: &str| format!("POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100\r\n\r\n");
    let (answer, body) = (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "x".repeat(100));
    let other = request("b.example") + &body;
    client.write_all(other.as_bytes()).unwrap();
    let mut theirs = accept(&server);
    expect(&mut theirs, other.as_bytes());
    theirs.write_all(answer).unwrap();
    expect(&mut client, answer);
    // From here on it is a.example's as well, whatever the next ones say.
    let own = request("a.example") + &body;
    client.write_all(own.as_bytes()).unwrap();
    expect(&mut theirs, own.as_bytes());
    client.write_all(other.as_bytes()).unwrap();
    let left = 200 - own.len();
    expect(&mut theirs, &other.as_bytes()[..left]);
    assert_eq!(rest(&mut theirs), None);
    assert_eq!(world.keeper.closed().0, (own.len() + other.len() + left) as u64);
    let denied = world.keeper.denied();
    assert_eq!(denied.1, "cap.sent a.example:*");
}

#[test]
fn a_chunked_upload_and_the_proxys_end_at_the_cap() {
    let world = world(capped(&["a.example"], sent(5000)), &["a.example"]);
    let server = world.server();
    let head = "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunk = format!("3e8\r\n{}\r\n", "x".repeat(1000));
    let mut client = world.connect();
    client.write_all(head.as_bytes()).unwrap();
    client.write_all(chunk.repeat(3).as_bytes()).unwrap();
    let mut theirs = accept(&server);
    let wanted = head.to_owned() + &chunk.repeat(3);
    expect(&mut theirs, wanted.as_bytes());
    let mut client = connect(world.proxy);
    client
        .write_all(
            format!("CONNECT a.example:{0} HTTP/1.1\r\nHost: a.example:{0}\r\n\r\n", world.tcp.port())
                .as_bytes(),
        )
        .unwrap();
    expect(&mut client, b"HTTP/1.1 200 Connection established\r\n\r\n");
    let mut theirs = accept(&server);
    client.write_all(&[0; 5000]).unwrap();
    let left = 5000 - wanted.len();
    expect(&mut theirs, &vec![0; left]);
    assert_eq!(rest(&mut theirs), None);
    for (first, last) in [
        ("CONNECT a.example:80 HTTP/1.1", "\r\nHost: a.example:80\r\n\r\n"),
        ("GET http://a.example/ HTTP/1.1", "\r\nHost: a.example\r\n\r\n"),
    ] {
        let mut client = connect(world.proxy);
        client.write_all([first, last].concat().as_bytes()).unwrap();
        let answer = String::from_utf8(rest(&mut client).unwrap()).unwrap();
        let refused =
            answer.starts_with("HTTP/1.1 403 ") && answer.contains("X-Agentd-Reason: cap.sent a.example:*");
        assert!(refused, "{answer}");
    }
}

#[test]
fn no_more_connections_are_open_than_the_cap_says() {
    let caps = Caps { connections: Some(2), ..Caps::default() };
    let world = world(capped(&["*.example"], caps), &["a.example", "b.example"]);
    let server = world.server();
    let first = both(&world, &server);
    let mut second = both(&world, &server);
    let mut third = world.connect();
    third.write_all(FIRST).unwrap();
    assert_eq!(rest(&mut third), None);
    assert_eq!(world.keeper.denied().1, "cap.connections *.example:*");
    let mut fourth = world.connect();
    fourth.write_all(b"GET / HTTP/1.1\r\nHost: b.example\r\n\r\n").unwrap();
    let answer = rest(&mut fourth).unwrap();
    assert!(String::from_utf8_lossy(&answer).contains("X-Agentd-Reason: cap.connections *.example:*"));
    // What was open goes on, and what ends makes room.
    second.0.write_all(b"on").unwrap();
    expect(&mut second.1, b"on");
    drop(first);
    assert_eq!(world.keeper.closed(), (1, 0, "closed".into()));
    both(&world, &server);
}

#[test]
fn one_that_cannot_be_dialled_takes_no_place() {
    let caps = Caps { connections: Some(1), ..Caps::default() };
    let world = world(capped(&["a.example"], caps), &["a.example"]);
    let server = world.server();
    world.keeper.zone.lock().unwrap().errno = Some(113);
    for _ in 0..3 {
        let mut client = world.connect();
        client.write_all(FIRST).unwrap();
        assert_eq!(rest(&mut client), None);
    }
    world.keeper.zone.lock().unwrap().errno = None;
    both(&world, &server);
}

#[test]
fn datagrams_end_at_the_cap() {
    let world = World::with_local(egress(&[]), |egress| {
        let rule = AllowRule::Host(egress.hosts.allow[0].clone());
        egress.caps = vec![Capped { rule, caps: sent(20) }];
    });
    let world = at(world, &["udp.example"]);
    let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    server.set_read_timeout(Some(std::time::Duration::from_secs(15))).unwrap();
    world.keeper.zone.lock().unwrap().server = Some(server.local_addr().unwrap());
    let mut buffer = [0; 64];
    let clients = [(); 2].map(|()| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    for client in &clients {
        client.send_to(&[1; 8], world.udp).unwrap();
        assert_eq!(server.recv(&mut buffer).unwrap(), 8);
    }
    clients[0].send_to(&[2; 5], world.udp).unwrap();
    let rule = format!("cap.sent udp.example:{}/udp", world.udp.port());
    assert_eq!(world.keeper.denied(), (Some("udp.example".into()), rule));
    assert_eq!(world.keeper.closed(), (8, 0, "limit".into()));
    // What fits still goes.
    clients[1].send_to(&[3; 4], world.udp).unwrap();
    assert_eq!((server.recv(&mut buffer).unwrap(), buffer[0]), (4, 3));
}

#[test]
fn a_cap_that_is_lifted_is_gone_for_what_is_open_and_another_change_keeps_it() {
    let plan = capped(&["*.example"], sent(10));
    let world = world(plan.clone(), &["a.example"]);
    let server = world.server();
    let (mut client, mut theirs) = both(&world, &server);
    let mut kept = plan.clone();
    kept.hosts.allow.extend(egress(&["other.test"]).hosts.allow);
    world.policy(kept.clone());
    client.write_all(&[1; 9]).unwrap();
    expect(&mut theirs, &[1; 9]);
    let mut refused = world.connect();
    refused.write_all(FIRST).unwrap();
    assert_eq!(rest(&mut refused), None);
    kept.hosts.allow.extend(egress(&["a.example"]).hosts.allow);
    world.policy(kept);
    let (mut late, mut there) = both(&world, &server);
    for (from, to) in [(&mut client, &mut theirs), (&mut late, &mut there)] {
        from.write_all(&[2; 100]).unwrap();
        expect(to, &[2; 100]);
    }
}
