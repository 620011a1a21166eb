use std::io::Write;

use super::world::{World, accept, connect, expect, rest};

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
