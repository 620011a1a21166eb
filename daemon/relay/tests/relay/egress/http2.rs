//! HTTP/2 without TLS, as gRPC's clients speak it.

use std::io::Write;
use std::net::{Shutdown, TcpStream};

use agentd_policy::event::NetEvent;
use agentd_policy::wire::FromRelay;

use super::world::{World, accept, connect, expect, rest};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    [&[0, 0, u8::try_from(payload.len()).unwrap(), kind, flags, 0, 0, 0, stream][..], payload].concat()
}

/// POST, http, `/`, and the authority as it is; `content-type` of gRPC.
fn request(stream: u8, host: &str, grpc: bool) -> Vec<u8> {
    let mut block =
        [&[0x83, 0x86, 0x84, 0x01, u8::try_from(host.len()).unwrap()][..], host.as_bytes()].concat();
    if grpc {
        block.extend([&[0x0f, 0x10, 16][..], b"application/grpc"].concat());
    }
    frame(1, 5, stream, &block)
}

/// A connection over which both have said what they are, and one request has gone.
fn begun(world: &World) -> (TcpStream, TcpStream) {
    let server = world.server();
    let mut client = world.connect();
    client.write_all(&[PREFACE, SETTINGS, &request(1, "a.example", true)].concat()).unwrap();
    let mut theirs = accept(&server);
    expect(&mut theirs, &[PREFACE, SETTINGS].concat());
    theirs.write_all(SETTINGS).unwrap();
    expect(&mut client, SETTINGS);
    expect(&mut theirs, &request(1, "a.example", true));
    (client, theirs)
}

fn world() -> World {
    let world = World::of(&["a.example", "b.example"]);
    world.ask("a.example");
    world
}

#[test]
fn requests_go_on_for_names_that_are_allowed() {
    let world = world();
    let (mut client, mut theirs) = begun(&world);
    let answer = frame(1, 4, 1, &[0x88]);
    theirs.write_all(&answer).unwrap();
    expect(&mut client, &answer);
    for piece in [request(3, "a.example", false), frame(6, 0, 0, &[0; 8])].concat() {
        client.write_all(&[piece]).unwrap();
    }
    expect(&mut theirs, &[request(3, "a.example", false), frame(6, 0, 0, &[0; 8])].concat());
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&mut theirs).unwrap(), b"");
    drop(theirs);
    assert_eq!(world.keeper.closed().2, "closed");
}

#[test]
fn each_stream_is_judged_and_told_why() {
    for (host, grpc, rule) in [
        ("other.example", false, "default"),
        ("other.example", true, "default"),
        ("b.example", true, "pin.unknown"),
        ("a.example:1", false, "http.port"),
    ] {
        let world = world();
        let (mut client, mut theirs) = begun(&world);
        // The refusal does not come into the middle of a frame.
        let data = frame(0, 0, 1, b"half of it and half of it");
        theirs.write_all(&data[..12]).unwrap();
        expect(&mut client, &data[..12]);
        client.write_all(&request(3, host, grpc)).unwrap();
        theirs.write_all(&data[12..]).unwrap();
        expect(&mut client, &data[12..]);
        let answer = rest(&mut client).unwrap();
        let text = String::from_utf8_lossy(&answer).into_owned();
        assert_eq!((answer[3], answer[8]), (1, 3), "a head on stream 3");
        let status = if grpc { "grpc-status\u{1}7" } else { "403" };
        assert!(text.contains(status) && text.contains(rule) && text.contains("agentd: "), "{text:?}");
        assert_eq!(rest(&mut theirs).unwrap_or_default(), b"", "{host} was received");
        let denied = world.keeper.wait_for(|message| match message {
            FromRelay::Event { event: NetEvent::Http { denied, method, host, .. }, .. } => {
                Some((denied.clone(), method.clone(), host.clone()))
            }
            _ => None,
        });
        assert_eq!(denied, (rule.to_owned(), "POST".to_owned(), host.to_owned()));
    }
}

#[test]
fn a_server_of_another_protocol_gets_nothing_that_it_could_take_for_a_request() {
    let world = world();
    let server = world.server();
    let mut client = world.connect();
    let hidden = frame(4, 0, 0, b"GET / HTTP/1.1\r\nHost: b.example\r\n\r\nx");
    client.write_all(&[PREFACE, &hidden].concat()).unwrap();
    let mut theirs = accept(&server);
    expect(&mut theirs, PREFACE);
    theirs.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").unwrap();
    assert_eq!(rest(&mut theirs).unwrap_or_default(), b"");
    let method = world.keeper.wait_for(|message| match message {
        FromRelay::Event { event: NetEvent::Http { denied, method, .. }, .. } => {
            Some((denied.clone(), method.clone()))
        }
        _ => None,
    });
    assert_eq!(method, ("http.malformed".to_owned(), String::new()));
}

/// As gRPC's servers do, where its clients take `http_proxy` at its word.
#[test]
fn a_server_may_say_its_settings_before_a_tunnels_client_has_its_turn() {
    let world = World::of(&["a.example"]);
    let server = world.server();
    let mut client = connect(world.proxy);
    client.write_all(b"CONNECT a.example:8080 HTTP/1.1\r\nHost: a.example:8080\r\n\r\n").unwrap();
    let mut theirs = accept(&server);
    theirs.write_all(SETTINGS).unwrap();
    expect(&mut client, b"HTTP/1.1 200 Connection established\r\n\r\n");
    let said = [PREFACE, SETTINGS, &request(1, "a.example:8080", true)].concat();
    client.write_all(&said).unwrap();
    expect(&mut theirs, &said);
    expect(&mut client, SETTINGS);
}
