use std::io::Write;
use std::net::{TcpListener, TcpStream};

use agentd_policy::event::NetEvent;
use agentd_policy::hosts::HostPattern;
use agentd_policy::wire::FromRelay;

use super::world::{World, accept, egress, expect, rest};
use crate::rig::noise;

/// A ClientHello for `name`.
pub fn hello(name: Option<&str>) -> Vec<u8> {
    hello_with(name, &[])
}

/// The same with an extension that nobody knows.
fn hello_with(name: Option<&str>, unknown: &[u8]) -> Vec<u8> {
    let counted = |bytes: &[u8]| [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat();
    let mut extensions = vec![0x0a, 0x0a, 0, 0];
    if let Some(name) = name {
        let entry = [&[0][..], &counted(name.as_bytes())].concat();
        extensions.extend([&[0, 0][..], &counted(&counted(&entry))].concat());
    }
    if !unknown.is_empty() {
        extensions.extend([&[0xfa, 0xfa][..], &counted(unknown)].concat());
    }
    let body = [&[3, 3][..], &[7; 32], &[0], &[0, 2, 0x13, 1], &[1, 0], &counted(&extensions)].concat();
    let message = [&[1, 0][..], &counted(&body)].concat();
    [&[22, 3, 1][..], &counted(&message)].concat()
}

/// A ServerHello; a request for another hello if `retry`.
pub fn reply(retry: bool) -> Vec<u8> {
    const RETRY: [u8; 32] = [
        0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91, 0xc2,
        0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
    ];
    let random = if retry { RETRY } else { [9; 32] };
    let body = [&[3, 3][..], &random, &[0, 0x13, 1, 0]].concat();
    let message = [&[2, 0, 0, u8::try_from(body.len()).unwrap()][..], &body].concat();
    [&[22, 3, 3, 0, u8::try_from(message.len()).unwrap()][..], &message].concat()
}

/// A world in which two names are at the same address, and the rules know a third.
fn world() -> World {
    let world = World::of(&["a.example", "b.example", "c.example"]);
    world.ask("a.example");
    world.ask("b.example");
    world
}

pub fn alert() -> Vec<u8> {
    vec![21, 3, 3, 0, 2, 2, 49]
}

/// A connection whose first bytes came to the server as they are: both ends of it.
fn carried(world: &World, server: &TcpListener, bytes: &[u8]) -> (TcpStream, TcpStream) {
    let mut client = world.connect();
    client.write_all(bytes).unwrap();
    let mut theirs = accept(server);
    expect(&mut theirs, bytes);
    (client, theirs)
}

#[test]
fn tls_goes_on_for_a_name_that_pinned_the_address_however_it_is_split() {
    let world = world();
    let server = world.server();
    let mut client = world.connect();
    let hello = hello(Some("B.example"));
    for byte in &hello {
        client.write_all(&[*byte]).unwrap();
    }
    let mut theirs = accept(&server);
    expect(&mut theirs, &hello);
    theirs.write_all(&reply(false)).unwrap();
    expect(&mut client, &reply(false));
    client.write_all(b"secret").unwrap();
    expect(&mut theirs, b"secret");
    drop(client);
    assert_eq!(rest(&mut theirs).unwrap(), b"");
    drop(theirs);
    assert_eq!(world.keeper.closed().2, "closed");
}

#[test]
fn tls_for_another_name_or_for_none_is_refused() {
    let mut rules = egress(&["a.example", "c.example"]);
    rules.hosts.deny.push(HostPattern::parse("no.example").unwrap());
    for (name, rule) in [
        (Some("c.example"), "pin.unknown"),
        (Some("other.example"), "default"),
        (Some("no.example"), "deny no.example"),
        (None, "tls.unnamed"),
        (Some("127.0.0.1"), "tls.malformed"),
        (Some("a.example."), "tls.malformed"),
    ] {
        let world = World::new(rules.clone());
        world.keeper.zone.lock().unwrap().names.insert("a.example".into(), vec![[127, 0, 0, 1].into()]);
        world.ask("a.example");
        let mut client = world.connect();
        client.write_all(&hello(name)).unwrap();
        assert_eq!(rest(&mut client).unwrap(), alert(), "{name:?}");
        assert_eq!(world.keeper.denied().1, rule);
    }
}

#[test]
fn a_second_hello_says_the_same_name() {
    for (second, passes) in [("a.example", true), ("b.example", false)] {
        let world = world();
        let server = world.server();
        let mut client = world.connect();
        client.write_all(&hello(Some("a.example"))).unwrap();
        let mut theirs = accept(&server);
        expect(&mut theirs, &hello(Some("a.example")));
        theirs.write_all(&reply(true)).unwrap();
        expect(&mut client, &reply(true));
        client.write_all(&hello(Some(second))).unwrap();
        if passes {
            expect(&mut theirs, &hello(Some(second)));
        } else {
            assert_eq!(rest(&mut client).unwrap(), alert());
            assert_eq!(rest(&mut theirs).unwrap_or_default(), b"");
        }
    }
}

#[test]
fn a_hello_that_a_server_without_tls_could_take_for_a_request_goes_nowhere() {
    for request in ["x x HTTP/1.1\r\nHost: b.example\r\n\r\n", " http://b.example/ "] {
        let world = world();
        let mut client = world.connect();
        client.write_all(&hello_with(Some("a.example"), request.as_bytes())).unwrap();
        assert_eq!(rest(&mut client).unwrap(), alert(), "{request}");
        assert_eq!(world.keeper.denied().1, "tls.malformed");
    }
    // Nor does anything behind a hello that the server did not understand.
    let world = world();
    let server = world.server();
    let (mut client, mut theirs) = carried(&world, &server, &hello(Some("a.example")));
    client.write_all(&get("b.example")).unwrap();
    theirs.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
    expect(&mut client, b"HTTP/1.1 400 Bad Request\r\n\r\n");
    assert_eq!(world.keeper.denied().1, "tls.answer");
    assert_eq!(rest(&mut theirs).unwrap_or_default(), b"");
}

#[test]
fn three_words_before_a_host_are_a_request_to_some() {
    let world = world();
    let server = world.server();
    let mut client = world.connect();
    client.write_all(b"GETX x?q y\r\nHost: b.example\r\n\r\n").unwrap();
    assert!(rest(&mut client).unwrap().starts_with(b"HTTP/1.1 403 "));
    assert_eq!(refusal(&world).1, "http.malformed");
    // In pieces.
    let (mut client, mut theirs) = carried(&world, &server, b"NICK x y\r\n");
    client.write_all(b"A: b\r\nhO").unwrap();
    expect(&mut theirs, b"A: b\r\nhO");
    client.write_all(b"st: b.example\r\n\r\n").unwrap();
    assert_eq!(world.keeper.denied().1, "http.malformed");
    assert_eq!(rest(&mut theirs).unwrap_or_default(), b"");
    // Other protocols go on.
    let _through = carried(&world, &server, b"NICK x y\r\n\r\nHost: b.example\r\n");
}

fn get(host: &str) -> Vec<u8> {
    format!("GET /x HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes()
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn refusal(world: &World) -> (String, String) {
    world.keeper.wait_for(|message| match message {
        FromRelay::Event { event: NetEvent::Http { host, denied, .. }, .. } => {
            Some((host.clone(), denied.clone()))
        }
        _ => None,
    })
}

pub fn forbidden(client: &mut TcpStream, rule: &str) {
    let answer = String::from_utf8(rest(client).unwrap()).unwrap();
    assert!(answer.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{answer}");
    assert!(answer.contains(&format!("X-Agentd-Reason: {rule}\r\n")), "{answer}");
}

#[test]
fn each_request_is_judged_by_its_host() {
    let world = world();
    let server = world.server();
    let mut client = world.connect();
    client.write_all(&get("a.example")).unwrap();
    let mut theirs = accept(&server);
    for host in ["a.example", "b.example"] {
        if host == "b.example" {
            client.write_all(&get(host)).unwrap();
        }
        expect(&mut theirs, &get(host));
        theirs.write_all(OK).unwrap();
        expect(&mut client, OK);
    }
    client.write_all(&get("other.example")).unwrap();
    forbidden(&mut client, "default");
    assert_eq!(refusal(&world), ("other.example".into(), "default".into()));
    assert_eq!(rest(&mut theirs).unwrap_or_default(), b"");
    assert_eq!(world.keeper.closed().2, "policy");
}

#[test]
fn a_refusal_waits_for_the_answers_before_it() {
    let world = world();
    let server = world.server();
    let mut client = world.connect();
    client.write_all(&[get("a.example"), get("other.example"), get("a.example")].concat()).unwrap();
    let mut theirs = accept(&server);
    expect(&mut theirs, &get("a.example"));
    theirs.write_all(&OK[..OK.len() - 1]).unwrap();
    expect(&mut client, &OK[..OK.len() - 1]);
    theirs.write_all(&OK[OK.len() - 1..]).unwrap();
    expect(&mut client, &OK[OK.len() - 1..]);
    forbidden(&mut client, "default");
}

#[test]
fn a_first_request_that_is_refused_reaches_nobody() {
    for (request, rule) in [
        (get("c.example"), "pin.unknown"),
        (get("a.example:1"), "http.port"),
        (get("127.0.0.1"), "default"),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "http.malformed"),
        (
            b"GET / HTTP/1.0\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec(),
            "http.malformed",
        ),
        (b"CONNECT other.example:443 HTTP/1.1\r\nHost: other.example:443\r\n\r\n".to_vec(), "default"),
        (b"CONNECT 127.0.0.1:443 HTTP/1.1\r\nHost: 127.0.0.1:443\r\n\r\n".to_vec(), "default"),
        (b"GET http://other.example/ HTTP/1.1\r\nHost: other.example\r\n\r\n".to_vec(), "default"),
        (b"POST / RTSP/1.1\r\nHost: c.example\r\n\r\n".to_vec(), "http.malformed"),
        (b"GET / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1\r\n\r\nx".to_vec(), "http.body"),
    ] {
        let world = world();
        let mut client = world.connect();
        client.write_all(&request).unwrap();
        forbidden(&mut client, rule);
        let dials =
            |message: &FromRelay| matches!(message, FromRelay::Event { event: NetEvent::Closed { .. }, .. });
        assert_eq!(world.keeper.count(dials), 0);
    }
}

#[test]
fn long_bodies_go_both_ways() {
    let world = world();
    let server = world.server();
    let mut client = world.connect();
    let body = noise(8 << 20);
    let head = |line: &str| format!("{line}\r\nHost: a.example\r\nContent-Length: {}\r\n\r\n", body.len());
    let (post, answer) = (head("POST / HTTP/1.1"), head("HTTP/1.1 200 OK"));
    let (post, answer) = ([post.as_bytes(), &body].concat(), [answer.as_bytes(), &body].concat());
    for _ in 0..2 {
        let (mut writer, sent) = (client.try_clone().unwrap(), post.clone());
        let send = std::thread::spawn(move || writer.write_all(&sent).unwrap());
        let mut theirs = accept(&server);
        let whole = |stream: &mut TcpStream, bytes: &[u8]| {
            let mut got = vec![0; bytes.len()];
            std::io::Read::read_exact(stream, &mut got).unwrap();
            assert!(got == bytes);
        };
        whole(&mut theirs, &post);
        send.join().unwrap();
        let (mut writer, sent) = (theirs.try_clone().unwrap(), answer.clone());
        let send = std::thread::spawn(move || writer.write_all(&sent).unwrap());
        whole(&mut client, &answer);
        send.join().unwrap();
        // What follows is a request again.
        client.write_all(&get("other.example")).unwrap();
        forbidden(&mut client, "default");
        client = world.connect();
    }
}

#[test]
fn a_body_that_the_server_does_not_want_goes_nowhere() {
    let ask = b"POST /1 HTTP/1.1\r\nHost: a.example\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    let world = world();
    let server = world.server();
    let mut client = world.connect();
    client.write_all(&[&ask[..], b"hello", &get("a.example")].concat()).unwrap();
    let mut theirs = accept(&server);
    expect(&mut theirs, ask);
    theirs.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
    expect(&mut client, b"HTTP/1.1 100 Continue\r\n\r\n");
    expect(&mut theirs, &[b"hello", &get("a.example")[..]].concat());
    let mut client = world.connect();
    client.write_all(&[&ask[..], b"GET /"].concat()).unwrap();
    let mut theirs = accept(&server);
    expect(&mut theirs, ask);
    let no = b"HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n";
    theirs.write_all(no).unwrap();
    expect(&mut client, no);
    // Neither the body nor anything behind it; and the server sees the end.
    client.write_all(&get("a.example")).unwrap();
    assert_eq!(rest(&mut theirs).unwrap(), b"");
    drop(theirs);
    assert_eq!(rest(&mut client).unwrap(), b"");
}

#[test]
fn a_websocket_is_let_alone() {
    let world = world();
    let server = world.server();
    let ask = b"GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let (mut client, mut theirs) = carried(&world, &server, ask);
    let switched = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    theirs.write_all(switched).unwrap();
    expect(&mut client, switched);
    client.write_all(b"\x81\x01x").unwrap();
    expect(&mut theirs, b"\x81\x01x");
    theirs.write_all(b"\x81\x01y").unwrap();
    expect(&mut client, b"\x81\x01y");
}

#[test]
fn a_status_of_101_is_no_websocket() {
    let world = world();
    let server = world.server();
    let ask = b"GET /status/101 HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let (mut client, mut theirs) = carried(&world, &server, ask);
    let switched = b"HTTP/1.1 101 Switching Protocols\r\n\r\n";
    theirs.write_all(switched).unwrap();
    expect(&mut client, switched);
    assert_eq!(refusal(&world).1, "http.malformed");
    assert_eq!(rest(&mut theirs).unwrap_or_default(), b"");
}

#[test]
fn a_request_that_is_no_text_at_first_is_cut_off() {
    let world = world();
    let server = world.server();
    let (mut client, mut theirs) = carried(&world, &server, b"POST /\x01");
    client.write_all(b" HTTP/1.1\r\nHost: other.example\r\n\r\n").unwrap();
    assert_eq!(world.keeper.denied().1, "http.malformed");
    assert_eq!(rest(&mut theirs).unwrap_or_default(), b"");
}

#[test]
fn what_hides_names_behind_an_address_is_refused() {
    for header in [&b"PROXY TCP4 192.0.2.1 192.0.2.2 1 80\r\n"[..], b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"] {
        let world = world();
        let mut client = world.connect();
        client.write_all(&[header, &get("other.example")].concat()).unwrap();
        assert_eq!(world.keeper.denied().1, "tcp.proxied");
        assert_eq!(
            world
                .keeper
                .count(|message| matches!(message, FromRelay::Event { event: NetEvent::Closed { .. }, .. })),
            0
        );
    }
}

#[test]
fn a_denied_name_loses_its_connections() {
    let world = world();
    let server = world.server();
    let (mut client, mut theirs) = carried(&world, &server, &get("a.example"));
    let mut rules = egress(&["a.example", "b.example"]);
    world.policy(rules.clone());
    theirs.write_all(OK).unwrap();
    expect(&mut client, OK);
    rules.hosts.deny.push(HostPattern::parse("a.example").unwrap());
    world.policy(rules);
    assert_eq!((rest(&mut client), rest(&mut theirs)), (None, None));
    assert_eq!(world.keeper.closed().2, "policy");
}
