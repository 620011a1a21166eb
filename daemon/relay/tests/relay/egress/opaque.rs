//! Rules whose bytes nobody looks at, and protocols that name nobody.

use std::io::Write;

use agentd_policy::hosts::HostPattern;

use super::requests::{alert, forbidden, hello};
use super::world::{World, accept, egress, expect, rest};

/// `a.example` by an opaque rule, and `no.example` denied.
fn world() -> World {
    let mut rules = egress(&["a.example"]);
    rules.hosts.allow[0].opaque = true;
    rules.hosts.deny.push(HostPattern::parse("no.example").unwrap());
    let world = World::new(rules);
    world.keeper.zone.lock().unwrap().names.insert("a.example".into(), vec![[127, 0, 0, 1].into()]);
    world.ask("a.example");
    world
}

#[test]
fn nobody_looks_at_what_an_opaque_rule_lets_through() {
    for bytes in [
        hello(Some("c.example")),
        hello(None),
        b"GET / HTTP/1.1\r\nHost: c.example\r\n\r\n".to_vec(),
        b"GET / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: odd\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x00\x05hello".to_vec(),
        b"POST / RTSP/1.1\r\n".to_vec(),
    ] {
        let world = world();
        let server = world.server();
        let mut client = world.connect();
        for byte in &bytes {
            client.write_all(&[*byte]).unwrap();
        }
        let mut theirs = accept(&server);
        expect(&mut theirs, &bytes);
        theirs.write_all(b"and back").unwrap();
        expect(&mut client, b"and back");
    }
}

#[test]
fn a_denied_name_is_refused_by_an_opaque_rule_as_well() {
    for (bytes, answer) in [
        (hello(Some("no.example")), Some(alert())),
        (b"GET / HTTP/1.1\r\nHost: no.example\r\n".to_vec(), None),
        (b"\r\nGET / HTTP/1.1\r\nHost: no.example\r\n".to_vec(), None),
        (b"GET / HTTP/1.1\nhost : no.example\n".to_vec(), None),
        (b"GET / HTTP/1.1\r\nHost: a.example\r\nHost: no.example\r\n".to_vec(), None),
        (b"GET http://no.example/ HTTP/1.1\r\n".to_vec(), None),
    ] {
        let world = world();
        let server = world.server();
        let mut client = world.connect();
        let (first, last) = bytes.split_at(bytes.len() - 1);
        client.write_all(first).unwrap();
        let mut theirs = accept(&server);
        expect(&mut theirs, first);
        client.write_all(last).unwrap();
        assert_eq!(rest(&mut client), answer);
        assert_eq!(rest(&mut theirs).unwrap_or_default(), b"");
        assert_eq!(world.keeper.denied(), (Some("no.example".into()), "deny no.example".into()));
    }
}

/// jdb, adb, gdb, ZooKeeper, XMPP, JSON-RPC: a first line without an end.
#[test]
fn a_client_may_wait_behind_a_line_without_an_end() {
    let world = World::of(&["a.example"]);
    world.ask("a.example");
    for (said, then) in [
        (&b"JDWP-Handshake"[..], &b"\0\0\0\x0b"[..]),
        (b"ruok", b"stat"),
        (b"+$qSupported:multiprocess+#c6", b"+$?#3f"),
        (b"<?xml version='1.0'?><stream:stream to='a.example'>", b"<iq/>"),
        (b"{\"jsonrpc\": \"2.0\", \"method\": \"x\"}", b"{}"),
        (b"host:version", b"\n"),
    ] {
        let server = world.server();
        let mut client = world.connect();
        client.write_all(said).unwrap();
        let mut theirs = accept(&server);
        expect(&mut theirs, said);
        theirs.write_all(b"and back").unwrap();
        expect(&mut client, b"and back");
        client.write_all(then).unwrap();
        expect(&mut theirs, then);
    }
}

#[test]
fn a_line_that_becomes_a_request_after_all_is_refused() {
    for (said, then) in [
        (&b"FETCH"[..], &b" / HTTP/1.1\r\nHost: other.example\r\n\r\n"[..]),
        (b"x", b" http://other.example/\r\n"),
        (b"x y", b" z HTTP/1.1\r\nHost: other.example\r\n\r\n"),
    ] {
        let world = World::of(&["a.example"]);
        world.ask("a.example");
        let server = world.server();
        let mut client = world.connect();
        client.write_all(said).unwrap();
        let mut theirs = accept(&server);
        expect(&mut theirs, said);
        client.write_all(then).unwrap();
        assert_eq!(rest(&mut client), None);
        assert_eq!(rest(&mut theirs).unwrap_or_default(), b"");
        assert_eq!(world.keeper.denied().1, "tcp.late");
    }
}

/// Where nothing allows the address any more, each protocol is refused in its own form.
#[test]
fn a_refusal_is_in_the_words_of_who_is_refused() {
    let world = World::new(egress(&["a.example"]));
    let mut client = world.connect();
    client.write_all(&hello(Some("a.example"))).unwrap();
    assert_eq!(rest(&mut client).unwrap(), alert());
    let mut client = world.connect();
    client.write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").unwrap();
    forbidden(&mut client, "pin.unknown");
    let mut client = world.connect();
    client.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").unwrap();
    let answer = rest(&mut client).unwrap();
    assert!(answer.starts_with(b"SSH-2.0-agentd\r\n\0\0\0"), "{answer:?}");
    assert!(String::from_utf8_lossy(&answer).contains("agentd: the address is not allowed (pin.unknown)"));
    let mut client = world.connect();
    client.write_all(b"\0other").unwrap();
    assert_eq!(rest(&mut client), None);
}

/// Denied later, or looked at from then on: what is open by the rule ends.
#[test]
fn an_opaque_connection_lasts_as_long_as_its_rule() {
    for change in [true, false] {
        let world = world();
        let server = world.server();
        let mut client = world.connect();
        client.write_all(&hello(Some("c.example"))).unwrap();
        let mut theirs = accept(&server);
        expect(&mut theirs, &hello(Some("c.example")));
        let mut rules = egress(&["a.example"]);
        rules.hosts.allow[0].opaque = change;
        rules.hosts.deny.push(HostPattern::parse("no.example").unwrap());
        if change {
            rules.hosts.deny.push(HostPattern::parse("c.example").unwrap());
        }
        world.policy(rules);
        assert_eq!(rest(&mut client), None);
    }
}
