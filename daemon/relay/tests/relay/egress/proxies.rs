use std::io::Write;

use super::requests::{alert, forbidden, hello, reply};
use super::world::{World, accept, connect, egress, expect, rest};

#[test]
fn socks_connects_by_name() {
    let world = World::of(&["a.example"]);
    let server = world.server();
    let mut client = connect(world.proxy);
    client.write_all(&[5, 1, 0]).unwrap();
    expect(&mut client, &[5, 0]);
    let request = [&[5, 1, 0, 3, 9][..], b"a.example", &[0x1f, 0x90]].concat();
    client.write_all(&request).unwrap();
    let mut theirs = accept(&server);
    expect(&mut client, &[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    client.write_all(b"SSH-2.0-x\r\n").unwrap();
    expect(&mut theirs, b"SSH-2.0-x\r\n");
}

#[test]
fn socks_is_refused_by_name() {
    let world = World::of(&["a.example"]);
    let mut client = connect(world.proxy);
    client.write_all(&[5, 1, 0]).unwrap();
    expect(&mut client, &[5, 0]);
    client.write_all(&[&[5, 1, 0, 3, 9][..], b"b.example", &[1, 187]].concat()).unwrap();
    expect(&mut client, &[5, 2, 0, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(world.keeper.denied(), (Some("b.example".into()), "default".into()));
}

#[test]
fn connect_makes_a_tunnel_that_is_judged_like_any_connection() {
    let world = World::of(&["a.example"]);
    let server = world.server();
    let mut client = connect(world.proxy);
    client.write_all(b"CONNECT a.example:8080 HTTP/1.1\r\nHost: a.example:8080\r\n\r\n").unwrap();
    let mut theirs = accept(&server);
    expect(&mut client, b"HTTP/1.1 200 Connection established\r\n\r\n");
    client.write_all(b"GET / HTTP/1.1\r\nHost: b.example\r\n\r\n").unwrap();
    assert!(rest(&mut client).unwrap().starts_with(b"HTTP/1.1 403 "));
    assert_eq!(rest(&mut theirs).unwrap_or_default(), b"");
}

#[test]
fn a_request_names_nobody_by_an_address() {
    let world = World::of(&["a.example"]);
    assert_eq!(world.ask("a.example").1.len(), 1);
    let mut client = connect(world.proxy);
    client.write_all(b"GET http://127.0.0.1/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").unwrap();
    assert!(rest(&mut client).unwrap().starts_with(b"HTTP/1.1 403 "));
}

#[test]
fn what_comes_behind_a_request_to_the_proxy_goes_nowhere() {
    let world = World::of(&["a.example"]);
    let server = world.server();
    let mut client = connect(world.proxy);
    let post = |fields: &str| {
        format!("POST http://a.example/ HTTP/1.1\r\nHost: a.example\r\n{fields}Content-Length: 3\r\n\r\n")
    };
    client.write_all(post("Expect: 100-continue\r\n").as_bytes()).unwrap();
    let mut theirs = accept(&server);
    expect(&mut client, b"HTTP/1.1 100 Continue\r\n\r\n");
    expect(
        &mut theirs,
        b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 3\r\nConnection: close\r\n\r\n",
    );
    client.write_all(b"one").unwrap();
    expect(&mut theirs, b"one");
    client.write_all(post("").as_bytes()).unwrap();
    client.write_all(b"two").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(rest(&mut theirs).unwrap(), b"");
}

#[test]
fn a_request_to_the_proxy_goes_to_its_host_and_no_other_does() {
    let world = World::of(&["a.example"]);
    let server = world.server();
    let mut client = connect(world.proxy);
    let get = "GET http://a.example/x HTTP/1.1\r\nHost: a.example\r\nProxy-Connection: keep-alive\r\n\r\n";
    client.write_all([get, get].concat().as_bytes()).unwrap();
    let mut theirs = accept(&server);
    expect(&mut theirs, b"GET /x HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n");
    let answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";
    theirs.write_all(answer).unwrap();
    drop(theirs);
    assert_eq!(rest(&mut client).unwrap_or(answer.to_vec()), answer);
    let mut client = connect(world.proxy);
    client.write_all(get.replace("a.example", "b.example").as_bytes()).unwrap();
    assert!(rest(&mut client).unwrap().starts_with(b"HTTP/1.1 403 "));
}

/// A proxy of the site's own, which the session reaches by its name like any server: what it is asked for is judged.
#[test]
fn a_proxy_that_is_allowed_leads_to_names_that_are() {
    let mut rules = egress(&["proxy.example", "b.example"]);
    rules.hosts.allow[1].ports = vec![443, 80];
    let world = World::new(rules);
    world.keeper.zone.lock().unwrap().names.insert("proxy.example".into(), vec![[127, 0, 0, 1].into()]);
    world.ask("proxy.example");
    let tunnel = |target: &str| {
        let server = world.server();
        let mut client = world.connect();
        let ask = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
        client.write_all(ask.as_bytes()).unwrap();
        let mut theirs = accept(&server);
        expect(&mut theirs, ask.as_bytes());
        theirs.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        expect(&mut client, b"HTTP/1.1 200 OK\r\n\r\n");
        (client, theirs)
    };
    let (mut client, mut theirs) = tunnel("b.example:443");
    client.write_all(&hello(Some("b.example"))).unwrap();
    expect(&mut theirs, &hello(Some("b.example")));
    theirs.write_all(&reply(false)).unwrap();
    expect(&mut client, &reply(false));
    client.write_all(b"secret").unwrap();
    expect(&mut theirs, b"secret");
    let (mut client, mut theirs) = tunnel("b.example:80");
    let get = b"GET / HTTP/1.1\r\nHost: b.example\r\n\r\n";
    client.write_all(get).unwrap();
    expect(&mut theirs, get);
    // Inside the tunnel, others are as refused as elsewhere; nor does a tunnel lead through a second one.
    for (said, answer) in [
        (hello(Some("c.example")), alert()),
        (hello(None), alert()),
        (b"GET / HTTP/1.1\r\nHost: c.example\r\n\r\n".to_vec(), b"HTTP/1.1 403 Forbidden\r\n".to_vec()),
        (
            b"CONNECT b.example:443 HTTP/1.1\r\nHost: b.example:443\r\n\r\n".to_vec(),
            b"HTTP/1.1 403 Forbidden\r\n".to_vec(),
        ),
    ] {
        let (mut client, mut theirs) = tunnel("b.example:443");
        client.write_all(&said).unwrap();
        assert!(rest(&mut client).unwrap().starts_with(&answer));
        assert_eq!(rest(&mut theirs).unwrap_or_default(), b"");
    }
    // Nor to other names, other ports, or addresses.
    for target in ["c.example:443", "b.example:22", "10.0.0.1:443", "127.0.0.1:443"] {
        let mut client = world.connect();
        let ask = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
        client.write_all(ask.as_bytes()).unwrap();
        forbidden(&mut client, "default");
    }
    // And a request with a whole target.
    let server = world.server();
    let mut client = world.connect();
    let get = b"GET http://b.example/x HTTP/1.1\r\nHost: b.example\r\n\r\n";
    client.write_all(get).unwrap();
    let mut theirs = accept(&server);
    expect(&mut theirs, get);
    client.write_all(b"GET http://c.example/x HTTP/1.1\r\nHost: c.example\r\n\r\n").unwrap();
    theirs.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
    expect(&mut client, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    forbidden(&mut client, "default");
}

/// A tunnel that the proxy refuses is none: what follows is judged as before.
#[test]
fn a_tunnel_that_is_not_opened_leads_nowhere() {
    let world = World::of(&["a.example"]);
    world.ask("a.example");
    let server = world.server();
    let mut client = world.connect();
    let ask = b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n";
    client.write_all(ask).unwrap();
    let mut theirs = accept(&server);
    expect(&mut theirs, ask);
    let no = b"HTTP/1.1 407 Who\r\nContent-Length: 0\r\n\r\n";
    theirs.write_all(no).unwrap();
    expect(&mut client, no);
    client.write_all(b"GET / HTTP/1.1\r\nHost: c.example\r\n\r\n").unwrap();
    forbidden(&mut client, "default");
}

/// A tunnel that was refused leaves nothing to the next one, which is for another name and port.
#[test]
fn a_tunnel_leads_to_what_the_last_request_was_for() {
    let mut rules = egress(&["proxy.example", "x.example", "b.example"]);
    rules.hosts.allow[1].ports = vec![8443];
    rules.hosts.allow[1].opaque = true;
    rules.hosts.allow[2].ports = vec![443];
    let world = World::new(rules);
    world.keeper.zone.lock().unwrap().names.insert("proxy.example".into(), vec![[127, 0, 0, 1].into()]);
    world.ask("proxy.example");
    let server = world.server();
    let mut client = world.connect();
    let ask = |target: &str| format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n").into_bytes();
    client.write_all(&ask("x.example:8443")).unwrap();
    let mut theirs = accept(&server);
    expect(&mut theirs, &ask("x.example:8443"));
    let no = b"HTTP/1.1 407 Who\r\nContent-Length: 0\r\n\r\n";
    theirs.write_all(no).unwrap();
    expect(&mut client, no);
    client.write_all(&ask("b.example:443")).unwrap();
    expect(&mut theirs, &ask("b.example:443"));
    theirs.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
    expect(&mut client, b"HTTP/1.1 200 OK\r\n\r\n");
    client.write_all(&hello(Some("x.example"))).unwrap();
    assert_eq!(rest(&mut client).unwrap(), alert());
    assert_eq!(rest(&mut theirs).unwrap_or_default(), b"");
}

/// A whole target without a port means 80, wherever the proxy itself is; an address means itself.
#[test]
fn a_whole_target_is_what_the_proxy_would_fetch() {
    let world = World::with_local(egress(&["proxy.example"]), |_| {});
    world.keeper.zone.lock().unwrap().names.insert("proxy.example".into(), vec![[127, 0, 0, 1].into()]);
    let mut rules = egress(&["proxy.example"]);
    rules.hosts.allow[0].ports = vec![world.tcp.port()];
    rules.local = vec![world.local.port()];
    world.policy(rules);
    world.ask("proxy.example");
    let own = format!("proxy.example:{}", world.tcp.port());
    let get = |host: &str| format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes();
    for host in ["proxy.example", "169.254.169.254", "127.0.0.1"] {
        let mut client = world.connect();
        client.write_all(&get(host)).unwrap();
        forbidden(&mut client, "default");
    }
    let server = world.server();
    let mut client = world.connect();
    client.write_all(&get(&own)).unwrap();
    let mut theirs = accept(&server);
    expect(&mut theirs, &get(&own));
}
