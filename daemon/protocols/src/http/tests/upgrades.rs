//! What the answers say of the next request.

use super::*;

const SOCKET: &str = "GET /chat HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
/// The answer to that (RFC 6455 §1.3).
const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
const H2C: &str = "POST / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nContent-Length: 2\r\n\r\nhi";

#[test]
fn an_upgrade_is_the_servers_to_say() {
    // Before the answer nothing goes on, and after a refusal what follows is a request.
    for answer in [
        "HTTP/1.1 400 Bad\r\nContent-Length: 2\r\n\r\nno",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No\r\n\r\n",
    ] {
        let mut connection = Connection::new(Mode::Origin);
        let input = format!("{SOCKET}{SECOND}");
        assert_eq!(feed(&mut connection, input.as_bytes(), 9).bytes, SOCKET.len());
        assert_eq!(connection.client(SECOND.as_bytes()), Ok(Step::Held));
        for byte in answer.bytes() {
            connection.server(&[byte]);
        }
        assert_eq!(feed(&mut connection, SECOND.as_bytes(), 9).heads.len(), 1);
    }
    let mut connection = Connection::new(Mode::Origin);
    assert_eq!(feed(&mut connection, SOCKET.as_bytes(), 9).heads.len(), 1);
    connection.server(&[SWITCHED.as_bytes(), b"\x81\x01x"].concat());
    assert_eq!(connection.client(b"\x81\x80"), Ok(Step::Opaque));
}

#[test]
fn a_status_alone_is_no_websocket() {
    let without = |text: &str| SWITCHED.replace(text, "");
    for answer in [
        "HTTP/1.1 101 Switching Protocols\r\n\r\n".to_owned(),
        without("Upgrade: websocket\r\n"),
        without("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"),
        SWITCHED.replace("s3p", "S3p"),
        SWITCHED.replace("websocket", "h2c"),
        SWITCHED.replace("Connection: Upgrade", "Upgrade: h2c"),
    ] {
        let mut connection = Connection::new(Mode::Origin);
        assert_eq!(feed(&mut connection, SOCKET.as_bytes(), 9).heads.len(), 1);
        connection.server(answer.as_bytes());
        assert_eq!(connection.client(SECOND.as_bytes()), Err(Refused::Upgrade), "{answer}");
    }
    // A request without a key asks for nothing.
    let mut connection = Connection::new(Mode::Origin);
    let ask = SOCKET.replace("Sec-WebSocket-Key", "X");
    assert_eq!(feed(&mut connection, ask.as_bytes(), 9).heads.len(), 1);
    connection.server(SWITCHED.as_bytes());
    assert_eq!(connection.client(SECOND.as_bytes()), Err(Refused::Upgrade));
}

#[test]
fn what_may_be_the_body_of_an_answer_without_one_changes_nothing() {
    let head = "HEAD /b HTTP/1.1\r\nHost: a.example\r\n\r\n";
    for (first, answer) in [
        (head, "HTTP/1.1 200 OK\r\nContent-Length: 150\r\n\r\n"),
        (SECOND, "HTTP/1.1 204 No Content\r\n\r\n"),
        (SECOND, "HTTP/1.1 304 Not Modified\r\n\r\n"),
    ] {
        let mut connection = Connection::new(Mode::Origin);
        assert_eq!(feed(&mut connection, format!("{first}{SOCKET}").as_bytes(), 1000).heads.len(), 2);
        connection.server(answer.as_bytes());
        connection.server(SWITCHED.as_bytes());
        assert_eq!(connection.client(SECOND.as_bytes()), Err(Refused::Upgrade), "{answer}");
    }
}

#[test]
fn an_upgrade_to_what_hides_names_is_refused_only_if_it_happens() {
    let asked = || {
        let mut connection = Connection::new(Mode::Origin);
        let seen = feed(&mut connection, format!("{H2C}{SECOND}").as_bytes(), 5);
        assert_eq!((seen.bytes, seen.body, seen.end), (H2C.len(), 2, Some(Ok("held"))));
        connection
    };
    let mut ignored = asked();
    ignored.server(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    assert!(matches!(ignored.client(SECOND.as_bytes()), Ok(Step::Head(_))));
    for answer in
        [&b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n"[..], b"ICY 200 OK\r\n\r\n", b"\n\n\n"]
    {
        let mut happened = asked();
        happened.server(answer);
        assert_eq!(happened.client(SECOND.as_bytes()), Err(Refused::Upgrade));
    }
}

#[test]
fn answers_are_told_apart_by_their_frames() {
    let requests = "GET /a HTTP/1.1\r\nHost: a.example\r\n\r\nGET /b HTTP/1.1\r\nHost: a.example\r\n\r\n";
    let input = format!("{requests}{SOCKET}");
    // A body that looks like the answer to the upgrade is none.
    let fake = SWITCHED;
    let first = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{fake}", fake.len());
    let second = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    for size in [1, 10, 1000] {
        let mut connection = Connection::new(Mode::Origin);
        assert_eq!(feed(&mut connection, input.as_bytes(), 1000).heads.len(), 3);
        for piece in [&first, second].concat().as_bytes().chunks(size) {
            connection.server(piece);
            assert_eq!(connection.client(b"x"), Ok(Step::Held));
        }
        connection.server(fake.as_bytes());
        assert_eq!(connection.client(b"x"), Ok(Step::Opaque));
    }
}

#[test]
fn requests_without_answers_are_bounded() {
    let mut connection = Connection::new(Mode::Origin);
    let seen = feed(&mut connection, SECOND.repeat(MAX_PIPELINED + 1).as_bytes(), usize::MAX);
    assert_eq!((seen.heads.len(), seen.end), (MAX_PIPELINED, Some(Ok("held"))));
    connection.server(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n");
    assert!(matches!(connection.client(SECOND.as_bytes()), Ok(Step::Head(_))));
    assert_eq!(connection.client(SECOND.as_bytes()), Ok(Step::Held));
    // Where an answer ends with the connection no upgrade can be recognized, but requests go on.
    connection.server(b"HTTP/1.0 200 OK\r\n\r\n");
    assert!(matches!(connection.client(SECOND.as_bytes()), Ok(Step::Head(_))));
    assert!(matches!(connection.client(SOCKET.as_bytes()), Ok(Step::Head(_))));
    assert_eq!(connection.client(b""), Err(Refused::Upgrade));
}

/// To a proxy that the session reaches: nothing of what follows goes before it has answered.
#[test]
fn a_tunnel_is_the_proxys_to_open() {
    const ASK: &str = "CONNECT b.example:443 HTTP/1.1\r\nHost: b.example:443\r\n\r\n";
    let asked = || {
        let mut connection = Connection::new(Mode::Origin);
        let input = format!("{ASK}\x16\x03");
        let seen = feed(&mut connection, input.as_bytes(), 9);
        assert_eq!((seen.bytes, seen.end), (ASK.len(), Some(Ok("held"))));
        connection
    };
    let mut opened = asked();
    opened.server(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 Conn");
    assert_eq!((opened.client(b"\x16\x03"), opened.is_tunnel()), (Ok(Step::Held), false));
    opened.server(b"ection established\r\n\r\nSSH-2.0-x\r\n");
    assert_eq!((opened.client(b"\x16\x03"), opened.is_tunnel()), (Ok(Step::Tunnel), true));
    let mut refused = asked();
    refused.server(b"HTTP/1.1 407 Who?\r\nContent-Length: 2\r\n\r\nno");
    assert!(!refused.is_tunnel());
    assert_eq!(feed(&mut refused, SECOND.as_bytes(), 9).heads.len(), 1);
    let mut odd = asked();
    odd.server(SWITCHED.as_bytes());
    assert_eq!(odd.client(b"\x16\x03"), Err(Refused::Upgrade));
}
