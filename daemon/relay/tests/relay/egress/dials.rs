//! Which of a name's addresses a connection gets (RFC 8305): order and outcome, not times.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, TcpStream};

use agentd_policy::event::NetEvent;
use agentd_policy::wire::FromRelay;

use super::world::{World, accept, connect, expect, rest};

const FIRST: &[u8] = b"\0";

/// A name with these last bytes of 127.0.0.0/24; of them, some drop what comes and some refuse it.
fn world(addresses: &[u8], silent: &[u8], refusing: &[u8]) -> World {
    let world = World::of(&["a.example"]);
    let at = |last: &u8| Ipv4Addr::new(127, 0, 0, *last);
    let mut zone = world.keeper.zone.lock().unwrap();
    zone.names.insert("a.example".into(), addresses.iter().map(at).collect());
    zone.silent = silent.iter().map(|last| at(last).into()).collect();
    zone.refusing = refusing.iter().map(|last| at(last).into()).collect();
    drop(zone);
    world.ask("a.example");
    world
}

/// The last bytes of the addresses that were dialled.
fn dialled(world: &World) -> Vec<u8> {
    let said = world.keeper.all(|message| match message {
        FromRelay::Dial { to, .. } if to.port() != 53 => Some(to.ip()),
        _ => None,
    });
    said.into_iter().map(last).collect()
}

fn last(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(address) => address.octets()[3],
        IpAddr::V6(_) => 0,
    }
}

/// The event of each that ended.
fn ended(world: &World) -> Vec<(u8, String)> {
    world.keeper.all(|message| match message {
        FromRelay::Event { event: NetEvent::Closed { peer, reason, .. }, .. } => {
            Some((last(peer.address), reason.to_string()))
        }
        _ => None,
    })
}

/// Connects, and has something go both ways.
fn through(world: &World) -> (TcpStream, TcpStream) {
    let server = world.server();
    let mut client = world.connect();
    client.write_all(FIRST).unwrap();
    let mut theirs = accept(&server);
    expect(&mut theirs, FIRST);
    theirs.write_all(b"here").unwrap();
    expect(&mut client, b"here");
    (client, theirs)
}

fn why(text: &str) -> String {
    format!("failed: {text}")
}
const REFUSED: &str = "Connection refused (os error 111)";

#[test]
fn an_address_that_says_nothing_is_not_waited_for() {
    let world = world(&[1, 2, 3], &[1], &[]);
    let through = through(&world);
    assert_eq!(dialled(&world), [1, 2]);
    drop(through);
    world.keeper.closed_by("closed");
    assert_eq!(ended(&world), [(1, "unused".into()), (2, "closed".into())]);
}

#[test]
fn after_one_that_refuses_the_next_comes() {
    let world = world(&[1, 2, 3], &[], &[1, 2]);
    let through = through(&world);
    assert_eq!(dialled(&world), [1, 2, 3]);
    drop(through);
    world.keeper.closed_by("closed");
    assert_eq!(ended(&world), [(1, why(REFUSED)), (2, why(REFUSED)), (3, "closed".into())]);
}

#[test]
fn if_all_refuse_the_client_hears_it_and_each_is_told() {
    let world = world(&[1, 2, 3], &[], &[1, 2, 3]);
    let mut client = world.connect();
    client.write_all(FIRST).unwrap();
    assert_eq!(rest(&mut client), None);
    assert_eq!(dialled(&world), [1, 2, 3]);
    world.keeper.wait_for(|message| match message {
        FromRelay::Event { event: NetEvent::Closed { peer, .. }, .. } => {
            (last(peer.address) == 3).then_some(())
        }
        _ => None,
    });
    assert_eq!(ended(&world), [1, 2, 3].map(|last| (last, why(REFUSED))));
    // By SOCKS it can be said which error it was.
    let mut client = connect(world.proxy);
    client.write_all(&[5, 1, 0]).unwrap();
    expect(&mut client, &[5, 0]);
    client
        .write_all(&[&[5, 1, 0, 3, 9][..], b"a.example", &world.tcp.port().to_be_bytes()].concat())
        .unwrap();
    expect(&mut client, &[5, 5, 0, 1, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn no_more_than_six_are_tried() {
    let all: Vec<u8> = (1..=9).collect();
    let world = world(&all, &[], &all);
    let mut client = world.connect();
    client.write_all(FIRST).unwrap();
    assert_eq!(rest(&mut client), None);
    assert_eq!(dialled(&world), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn what_the_keeper_does_not_begin_yet_waits_for_its_turn() {
    let world = world(&[1], &[], &[]);
    world.keeper.zone.lock().unwrap().busy = 5;
    drop(through(&world));
    assert_eq!(dialled(&world), [1; 6]);
    world.keeper.closed_by("closed");
    assert_eq!(ended(&world), [(1, "closed".into())]);
}

#[test]
fn sockets_that_were_not_needed_are_closed() {
    let world = world(&[1, 2, 3, 4], &[1, 2, 3], &[]);
    let before = world.relay.descriptors();
    let through = through(&world);
    assert_eq!(dialled(&world), [1, 2, 3, 4]);
    // The client's and the server's.
    assert_eq!(world.relay.descriptors(), before + 2);
    drop(through);
}
