use super::*;
use agentd_policy::hosts::HostError;
use proptest::prelude::*;

mod refused;
mod upgrades;

/// What a connection said: each head's method, target and host with its bytes, and how many bytes were bodies.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    heads: Vec<String>,
    body: usize,
    bytes: usize,
    end: Option<Result<&'static str, Refused>>,
}

/// Feeds `input` in pieces of `size`, and asks as a caller does.
fn feed(connection: &mut Connection, input: &[u8], size: usize) -> Seen {
    let (mut seen, mut start) = (Seen::default(), 0);
    for end in (size..input.len()).step_by(size).chain([input.len()]) {
        loop {
            match connection.client(&input[start..end]) {
                Ok(Step::NeedMore) => break,
                Ok(Step::Head(head)) => {
                    seen.heads.push(format!("{} {:?} {}", head.method, head.target, head.authority));
                    start += head.len;
                    seen.bytes = start;
                }
                Ok(Step::Body(len)) => {
                    start += len;
                    (seen.body, seen.bytes) = (seen.body + len, start);
                }
                Ok(Step::Held) => {
                    seen.end = Some(Ok("held"));
                    return seen;
                }
                Ok(Step::Over) => {
                    seen.end = Some(Ok("over"));
                    return seen;
                }
                Ok(Step::Opaque) => {
                    seen.end = Some(Ok("opaque"));
                    return seen;
                }
                Ok(Step::Tunnel) => {
                    seen.end = Some(Ok("tunnel"));
                    return seen;
                }
                Err(refused) => {
                    seen.end = Some(Err(refused));
                    return seen;
                }
            }
            if start == end {
                break;
            }
        }
    }
    seen
}

fn seen(input: &[u8]) -> Seen {
    feed(&mut Connection::new(Mode::Origin), input, usize::MAX)
}

fn refused(input: &[u8]) -> Refused {
    match seen(input).end {
        Some(Err(refused)) => refused,
        other => panic!("{other:?}: {}", String::from_utf8_lossy(input)),
    }
}

const SECOND: &str = "GET /2 HTTP/1.1\r\nHost: b.example\r\n\r\n";

/// A request with these fields and this body, and a second one behind it.
fn with(fields: &str, body: &str) -> Vec<u8> {
    format!("POST /1 HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n{body}{SECOND}").into_bytes()
}

#[test]
fn every_request_on_a_connection_is_found() {
    for (fields, body) in [
        ("", ""),
        ("Content-Length: 0\r\n", ""),
        ("content-length:  5 \r\nX:\ty\r\n", "GET /"),
        ("Transfer-Encoding: Chunked\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\n", "5\r\nGET /\r\n0\r\n\r\n"),
        (
            "Transfer-Encoding: chunked\r\n",
            "00a;x=\"y\"\r\n0123456789\r\n1\r\n\n\r\n000\r\nX-Sum: 1\r\nY:\r\n\r\n",
        ),
        ("Connection: close, TE\r\nX: \u{e9}\r\n", ""),
    ] {
        let input = with(fields, body);
        for size in [1, 2, 7, usize::MAX] {
            let seen = feed(&mut Connection::new(Mode::Origin), &input, size);
            let heads = ["POST Path(\"/1\") a.example", "GET Path(\"/2\") b.example"];
            assert_eq!(seen.heads, heads, "{fields}{body}");
            assert_eq!((seen.body, seen.bytes, seen.end), (body.len(), input.len(), None));
        }
    }
}

#[test]
fn a_body_waits_for_the_server_that_is_asked_about_it() {
    let ask = b"POST / HTTP/1.1\r\nHost: a.example\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n";
    let asked = || {
        let mut connection = Connection::new(Mode::Origin);
        let seen = feed(&mut connection, &[&ask[..], b"x"].concat(), usize::MAX);
        assert_eq!((seen.heads.len(), seen.bytes, seen.end), (1, ask.len(), Some(Ok("held"))));
        connection
    };
    let rest = [b"x", SECOND.as_bytes()].concat();
    // It wants it, or sends nothing for long.
    let mut wanted = asked();
    wanted.server(b"HTTP/1.1 103 Early Hints\r\n\r\n");
    assert_eq!(wanted.client(&rest), Ok(Step::Held));
    wanted.server(b"HTTP/1.1 100 Continue\r\n\r\n");
    let mut silent = asked();
    silent.go_on();
    for mut connection in [wanted, silent] {
        assert_eq!(feed(&mut connection, &rest, usize::MAX).heads.len(), 1);
    }
    // It does not, or nobody knows: servers disagree on whether this is a body now.
    for answer in
        ["HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n", "nonsense\r\n\r\n"]
    {
        let mut connection = asked();
        connection.server(answer.as_bytes());
        let goes = connection.client(&rest);
        assert!(matches!(goes, Ok(Step::Over)), "{answer}: {goes:?}");
    }
    // What is said of a request before it is not about this one.
    let mut connection = Connection::new(Mode::Origin);
    feed(&mut connection, &[SECOND.as_bytes(), ask].concat(), usize::MAX);
    connection.server(b"HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(connection.client(&rest), Ok(Step::Held));
}

#[test]
fn a_refusal_is_for_good() {
    let mut connection = Connection::new(Mode::Origin);
    assert!(connection.client(b"\n").is_err());
    assert_eq!(connection.client(SECOND.as_bytes()), Err(Refused::Before));
}

#[test]
fn a_proxy_gets_connect_and_what_follows_is_opaque() {
    let connect = |target: &str, host: &str, rest: &str| {
        let input = format!("CONNECT {target} HTTP/1.1\r\nHost: {host}\r\n{rest}\r\n\x16\x03");
        feed(&mut Connection::new(Mode::Proxy), input.as_bytes(), usize::MAX)
    };
    for host in ["a.example", "A.example:443"] {
        let seen = connect("a.example:443", host, "");
        assert_eq!(seen.heads, ["CONNECT Connect a.example:443"]);
        assert_eq!(seen.end, Some(Ok("opaque")));
    }
    let old = b"CONNECT a.example:443 HTTP/1.0\r\n\r\n\x16\x03";
    assert_eq!(feed(&mut Connection::new(Mode::Proxy), old, 5).heads, ["CONNECT Connect a.example:443"]);
    for (target, host, rest, why) in [
        ("a.example", "a.example", "", Refused::Host(AuthorityError::NoPort)),
        ("a.example:443", "b.example", "", Refused::Mismatch),
        ("a.example:443", "a.example:80", "", Refused::Mismatch),
        ("http://a.example:443", "a.example", "", Refused::Host(AuthorityError::Host(HostError::Address))),
        ("a.example:443", "a.example", "Content-Length: 1\r\n", Refused::Form("CONNECT with a body")),
        (
            "a.example:443",
            "a.example",
            "Transfer-Encoding: chunked\r\n",
            Refused::Form("CONNECT with a body"),
        ),
    ] {
        assert_eq!(connect(target, host, rest).end, Some(Err(why)), "{target} {host}");
    }
}

#[test]
fn certain_bytes_may_go_by_unasked() {
    let mut connection = Connection::new(Mode::Origin);
    let head = "PUT / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1000000\r\n\r\n";
    assert_eq!(feed(&mut connection, head.as_bytes(), usize::MAX).heads.len(), 1);
    assert_eq!(connection.certain(), 1_000_000);
    connection.skipped(999_999);
    assert_eq!(connection.client(format!("x{SECOND}").as_bytes()), Ok(Step::Body(1)));
    assert_eq!(connection.certain(), 0);
    assert!(matches!(connection.client(SECOND.as_bytes()), Ok(Step::Head(_))));
}

#[test]
fn what_some_server_takes_for_http_is_http() {
    for text in [
        "GET / HTTP/1.1\r\n",
        "GET /",
        "get\t/x\r\n",
        "\r\n\r\nGET / HTTP/1.1",
        " POST / http/1.1\r\n",
        "POST\u{b}/ HTTP/1.0\r\n",
        "FOO bar baz HTTP/9",
        "PRI * HTTP/2.0\r\n",
        // llhttp reads other protocols' versions as well, and Python's server bytes that are no text.
        "POST / RTSP/1.1\r\n",
        "OPTIONS rtsp://a.example RTSP/1.0\r\n",
        "SOURCE /x ICE/1.1\r\n",
        "INVITE sip:a@b.example SIP/2.0\r\n",
        "POST /\u{1} HTTP/1.1\r\n",
        "\u{1} / HTTP/1.1\r\n",
        // And Apache once did without any.
        "POST /x\r\n",
        "POST http://a.example/ x\n",
    ] {
        assert_eq!(sniff(text.as_bytes()), Sniff::Http, "{text:?}");
    }
    for bytes in [
        &b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n"[..],
        b"EHLO a.example\r\n",
        b"NICK a\r\n",
        b"*1\r\n$4\r\nPING\r\n",
        b"0032git-upload-pack /x.git\0host=a.example\0\0version=2\0\n",
        b"GETX\n",
    ] {
        assert_eq!(sniff(bytes), Sniff::Other, "{bytes:?}");
    }
    for bytes in [
        &b"\x00\x00\x00\x08\x04\xd2\x16\x2f"[..],
        b"\x16\x03\x01",
        b"\x12\x01\x00",
        b"0032git-upload-pack /x.git\0host=a.example\0",
        b"POST /\x01",
        b"\x01 / HTT",
        b"A001 ID (\"name\" \"x/1\")\r\n",
        b"<stream to='a.example' xmlns:s='http://etherx.jabber.org/streams'>\n",
        b"GETX x?q y\r\nHos",
    ] {
        assert_eq!(sniff(bytes), Sniff::Binary, "{bytes:?}");
    }
    for bytes in [&b"PROXY TCP4 192.0.2.1 192.0.2.2 1 80\r\n"[..], b"proxy ", b"\r\n\r\n\0\r\nQUIT\n\x21\x11"]
    {
        assert_eq!(sniff(bytes), Sniff::Proxied, "{bytes:?}");
    }
    for text in
        ["", "G", "GET", "POST / HTT", "POST / RTSP/1", "\r\n \t", "SSH-2.0-x", "PROXY", "\r\n\r\n\0\r\nQUIT"]
    {
        assert_eq!(sniff(text.as_bytes()), Sniff::NeedMore, "{text:?}");
    }
    assert_eq!(sniff(&[b'a'; 16 << 10]), Sniff::TooLong);
    assert_eq!(sniff(&[b' '; 16 << 10]), Sniff::TooLong);
}

#[test]
fn a_line_that_is_no_text_is_watched_to_its_end() {
    let first = b"POST /\x01";
    assert_eq!(sniff(first), Sniff::Binary);
    for (pieces, last) in [
        (&[&b" H"[..], b"TTP", b"/"][..], Sniff::Http),
        (&[b" hhttp/1.1"], Sniff::Http),
        (&[b"htt", b"http", b"xhttp/\n"], Sniff::Http),
        (&[b"htt", b"http", b"xhttp\n"], Sniff::Other),
        (&[b" x\nA: b\r\nHo", b"st:"], Sniff::Http),
        (&[b" x\nA: b\r\n", b"\nHost:"], Sniff::Other),
        (&[b" x\nA: b\r\n", b"x-Host:"], Sniff::Binary),
        (&[b"x", b"\n HTTP/1.1"], Sniff::Other),
    ] {
        let mut watch = Watch::after(&[b"\r\n", &first[..]].concat());
        let (end, pieces) = pieces.split_last().unwrap();
        assert!(pieces.iter().all(|piece| watch.see(piece) == Sniff::Binary), "{pieces:?}");
        assert_eq!(watch.see(end), last, "{end:?}");
    }
    // No server reads one that is longer.
    let mut watch = Watch::after(first);
    assert_eq!(watch.see(&vec![0; 8_000_000]), Sniff::Binary);
    assert_eq!(watch.see(&vec![0; 1_000_000]), Sniff::Other);
}

proptest! {
    #[test]
    fn pieces_do_not_matter(
        parts in prop::collection::vec(
            prop::sample::select(vec![
                "GET / HTTP/1.1\r\n", "Host: a.example\r\n", "\r\n", "Content-Length: 3\r\n", "abc", "\n", "\r", " ",
                "Transfer-Encoding: chunked\r\n", "3\r\nabc\r\n", "0\r\n\r\n", "0\r\n", "X: y\r\n", "POST /x HTTP/1.1\r\n",
            ]),
            0..14,
        ),
        size in 1_usize..40,
    ) {
        let input = parts.concat();
        let whole = seen(input.as_bytes());
        let pieces = feed(&mut Connection::new(Mode::Origin), input.as_bytes(), size);
        prop_assert_eq!(&whole.heads, &pieces.heads);
        prop_assert_eq!(whole.end, pieces.end);
        crate::exercise::http(input.as_bytes());
    }

    #[test]
    fn bodies_are_never_requests(bodies in prop::collection::vec(("[ -~\r\n]{0,30}", any::<bool>()), 1..8)) {
        let mut input = String::new();
        for (body, chunked) in &bodies {
            input += "POST /x HTTP/1.1\r\nHost: a.example\r\n";
            input += &match (chunked, body.len()) {
                (false, len) => format!("Content-Length: {len}\r\n\r\n{body}"),
                (true, 0) => "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
                (true, len) => format!("Transfer-Encoding: chunked\r\n\r\n{len:x}\r\n{body}\r\n0\r\n\r\n"),
            };
        }
        let seen = seen(input.as_bytes());
        prop_assert_eq!((seen.heads.len(), seen.bytes, seen.end), (bodies.len(), input.len(), None));
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), place in 0_usize..120, byte: u8) {
        crate::exercise::http(&bytes);
        let mut good = with("Transfer-Encoding: chunked\r\n", "5\r\nGET /\r\n0\r\n\r\n");
        if place < good.len() {
            good[place] = byte;
        }
        crate::exercise::http(&good);
    }
}
