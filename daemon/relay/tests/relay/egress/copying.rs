use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use agentd_policy::egress::Purpose;
use agentd_policy::wire::FromRelay;

use super::world::{World, accept, egress, expect, rest};
use crate::rig::noise;

/// Nobody's protocol: it goes by the pin alone.
const FIRST: &[u8] = b"\0";

fn world() -> World {
    let world = World::of(&["a.example"]);
    world.ask("a.example");
    world
}

/// A connection whose first byte went through.
fn both(world: &World) -> (TcpStream, TcpStream) {
    let server = world.server();
    let mut client = world.connect();
    client.write_all(FIRST).unwrap();
    let mut theirs = accept(&server);
    expect(&mut theirs, FIRST);
    (client, theirs)
}

/// A connection whose client waits for the server to speak.
fn silent(world: &World) -> (TcpStream, TcpStream) {
    let server = world.server();
    let client = world.connect();
    let theirs = accept(&server);
    (client, theirs)
}

#[test]
fn an_address_that_nothing_allows_is_not_dialled() {
    let world = World::new(egress(&["a.example"]));
    assert_eq!(rest(&mut world.connect()), None);
    assert_eq!(world.keeper.denied(), (None, "pin.unknown".into()));
    assert_eq!(world.keeper.count(|message| matches!(message, FromRelay::Dial { .. })), 0);
}

#[test]
fn what_the_keeper_refuses_is_reset() {
    let world = world();
    world.keeper.zone.lock().unwrap().errno = Some(13);
    let mut client = world.connect();
    client.write_all(FIRST).unwrap();
    assert_eq!(rest(&mut client), None);
}

#[test]
fn another_address_of_the_name_is_tried() {
    let world = World::of(&["a.example"]);
    let mut zone = world.keeper.zone.lock().unwrap();
    zone.names.insert("a.example".into(), vec![[127, 0, 0, 1].into(), [127, 0, 0, 2].into()]);
    zone.deserted = Some([127, 0, 0, 1].into());
    drop(zone);
    world.ask("a.example");
    let (mut client, mut theirs) = both(&world);
    theirs.write_all(b"here").unwrap();
    expect(&mut client, b"here");
    drop(client);
    drop(theirs);
    assert_eq!(world.keeper.closed(), (1, 4, "closed".into()));
}

#[test]
fn much_goes_both_ways_unchanged() {
    const MUCH: usize = 64 << 20;
    let world = world();
    let (mut client, mut theirs) = both(&world);
    let echo = std::thread::spawn(move || {
        let (mut buffer, mut total) = (vec![0; 256 << 10], 0);
        loop {
            match theirs.read(&mut buffer).unwrap() {
                0 => return total,
                count => theirs.write_all(&buffer[..count]).unwrap(),
            }
            total += 1;
        }
    });
    let bytes = noise(MUCH);
    let mut writer = client.try_clone().unwrap();
    let sent = bytes.clone();
    let send = std::thread::spawn(move || {
        writer.write_all(&sent).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let got = rest(&mut client).unwrap();
    assert!(got == bytes, "{} of {} bytes came back, or others", got.len(), bytes.len());
    send.join().unwrap();
    assert!(echo.join().unwrap() > 0);
    assert_eq!(world.keeper.closed(), (MUCH as u64 + 1, MUCH as u64, "closed".into()));
}

#[test]
fn each_side_ends_for_itself() {
    let world = world();
    let (mut client, mut theirs) = both(&world);
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&mut theirs).unwrap(), b"question");
    theirs.write_all(b"answer").unwrap();
    drop(theirs);
    assert_eq!(rest(&mut client).unwrap(), b"answer");
    assert_eq!(world.keeper.closed(), (9, 6, "closed".into()));
    // And the other way round.
    let (mut client, mut theirs) = both(&world);
    theirs.write_all(b"greeting").unwrap();
    theirs.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&mut client).unwrap(), b"greeting");
    client.write_all(b"thanks").unwrap();
    drop(client);
    assert_eq!(rest(&mut theirs).unwrap(), b"thanks");
}

#[test]
fn a_reset_is_one_on_the_other_side() {
    for server_resets in [true, false] {
        let world = world();
        let (mut client, mut theirs) = both(&world);
        client.write_all(b"x").unwrap();
        expect(&mut theirs, b"x");
        let (reset, mut other) = if server_resets { (theirs, client) } else { (client, theirs) };
        rustix::net::sockopt::set_socket_linger(&reset, Some(std::time::Duration::ZERO)).unwrap();
        drop(reset);
        assert_eq!(rest(&mut other), None);
        assert_eq!(world.keeper.closed().2, "reset");
    }
}

#[test]
fn who_does_not_read_slows_down_who_writes() {
    let world = world();
    let (client, mut theirs) = both(&world);
    client.set_nonblocking(true).unwrap();
    // As much as goes: the buffers of two connections and a pipe, and not more.
    let piece = noise(1 << 20);
    let mut total = 0_usize;
    let patience = rustix::event::Timespec { tv_sec: 0, tv_nsec: 500_000_000 };
    loop {
        let room = rustix::event::PollFd::new(&client, rustix::event::PollFlags::OUT);
        if rustix::event::poll(&mut [room], Some(&patience)).unwrap() == 0 {
            break;
        }
        total += (&client).write(&piece).unwrap();
        assert!(total < 256 << 20, "it takes everything");
    }
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(std::io::copy(&mut theirs, &mut std::io::sink()).unwrap(), total as u64);
}

#[test]
fn other_rules_close_what_they_do_not_allow() {
    let world = world();
    let (mut client, mut theirs) = both(&world);
    client.write_all(b"x").unwrap();
    expect(&mut theirs, b"x");
    world.policy(egress(&[]));
    assert_eq!((rest(&mut client), rest(&mut theirs)), (None, None));
    assert_eq!(world.keeper.closed(), (2, 0, "policy".into()));
}

#[test]
fn there_is_a_most_of_connections() {
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let limit = rustix::process::Rlimit { current: most, maximum: most };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    let world = world();
    // Each has begun to say what it wants.
    let began = |mut client: TcpStream| {
        client.write_all(&[22, 3, 1]).unwrap();
        client
    };
    let clients: Vec<_> = (0..1024).map(|_| began(world.connect())).collect();
    assert_eq!(rest(&mut world.connect()), None);
    assert_eq!(world.keeper.denied().1, "tcp.connections");
    drop(clients);
}

#[test]
fn the_end_of_the_session_is_the_end_of_all() {
    let mut world = world();
    let (mut client, mut theirs) = both(&world);
    client.write_all(b"x").unwrap();
    expect(&mut theirs, b"x");
    world.relay.order(&agentd_policy::wire::ToRelay::Over, &[]);
    assert_eq!(world.keeper.closed().2, "closed");
    drop(world.relay.child.stdin.take());
    assert_eq!(rest(&mut theirs).unwrap_or_default(), b"");
}

#[test]
fn a_server_that_speaks_first_is_dialled_by_the_pin_alone() {
    let world = World::of(&["ssh.example"]);
    world.ask("ssh.example");
    let (mut client, mut theirs) = silent(&world);
    theirs.write_all(b"SSH-2.0-x\r\n").unwrap();
    expect(&mut client, b"SSH-2.0-x\r\n");
    // Single keys go on, and all that follows a line of the protocol's own.
    for piece in [&b"S"[..], b"SH-2.0-y\r\n", b"GET / HTTP/1.1\r\n\r\n"] {
        client.write_all(piece).unwrap();
        expect(&mut theirs, piece);
        theirs.write_all(b"more").unwrap();
        expect(&mut client, b"more");
    }
    let name = world.keeper.wait_for(|message| match message {
        FromRelay::Dial { purpose: Purpose::Name(name), .. } => Some(name.to_string()),
        _ => None,
    });
    assert_eq!(name, "ssh.example");
}

#[test]
fn what_names_hosts_is_refused_once_the_server_has_spoken() {
    // A server of HTTP/2 says its settings at once; and one that speaks and ends may still listen.
    const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";
    let requests = [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
        b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
        b"POST / RTSP/1.1\r\nHost: a.example\r\n\r\n",
    ];
    for (request, half) in requests.into_iter().zip([false, true, false]) {
        let world = world();
        let (mut client, mut theirs) = silent(&world);
        theirs.write_all(SETTINGS).unwrap();
        if half {
            theirs.shutdown(Shutdown::Write).unwrap();
        }
        expect(&mut client, SETTINGS);
        // What is no request yet may have gone on.
        let (first, more) = request.split_at(2);
        client.write_all(first).unwrap();
        expect(&mut theirs, first);
        client.write_all(more).unwrap();
        assert_eq!(world.keeper.denied().1, "tcp.late");
        assert_eq!(rest(&mut theirs).unwrap_or_default(), b"");
    }
    let world = world();
    let (mut client, mut theirs) = silent(&world);
    theirs.write_all(SETTINGS).unwrap();
    expect(&mut client, SETTINGS);
    client.write_all(b"\x01\x02").unwrap();
    expect(&mut theirs, b"\x01\x02");
    client.write_all(b" HTTP/1.1\r\n").unwrap();
    assert_eq!(world.keeper.denied().1, "http.malformed");
}

#[test]
fn a_client_that_waits_is_judged_by_what_it_says_at_last() {
    let world = World::of(&["a.example"]);
    world.ask("a.example");
    let (mut client, mut theirs) = silent(&world);
    client.write_all(b"GET / HTTP/1.1\r\nHost: other.example\r\n\r\n").unwrap();
    let answer = String::from_utf8(rest(&mut client).unwrap()).unwrap();
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert_eq!(rest(&mut theirs).unwrap_or_default(), b"");
}
