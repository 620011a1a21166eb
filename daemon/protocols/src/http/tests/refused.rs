//! What is not read in one way by everybody.

use super::*;

#[test]
fn what_servers_disagree_on_is_refused() {
    use Refused::{Form, Repeated};
    for (fields, why) in [
        ("Content-Length: 5\r\nContent-Length: 5\r\n", Repeated("Content-Length")),
        ("Content-Length: 5\r\ncontent-length: 6\r\n", Repeated("Content-Length")),
        ("Content-Length: 5, 5\r\n", Form("Content-Length")),
        ("Content-Length: +5\r\n", Form("Content-Length")),
        ("Content-Length: -1\r\n", Form("Content-Length")),
        ("Content-Length: 05\r\n", Form("Content-Length")),
        ("Content-Length: 0x5\r\n", Form("Content-Length")),
        ("Content-Length: 5 5\r\n", Form("Content-Length")),
        ("Content-Length:\r\n", Form("Content-Length")),
        ("Content-Length:\t5\r\n", Form("a blank")),
        ("Transfer-Encoding: chunked\t\r\n", Form("a blank")),
        ("connection: close,\tx\r\n", Form("a blank")),
        ("Content-Length: 9223372036854775808\r\n", Form("Content-Length")),
        ("Content-Length: 99999999999999999999\r\n", Form("Content-Length")),
        (
            "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
            Form("Content-Length beside Transfer-Encoding"),
        ),
        (
            "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
            Form("Content-Length beside Transfer-Encoding"),
        ),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Repeated("Transfer-Encoding")),
        ("Transfer-Encoding: chunked\r\nTransfer-encoding: x\r\n", Repeated("Transfer-Encoding")),
        ("Transfer-Encoding: gzip, chunked\r\n", Form("Transfer-Encoding")),
        ("Transfer-Encoding: chunked, identity\r\n", Form("Transfer-Encoding")),
        ("Transfer-Encoding: identity\r\n", Form("Transfer-Encoding")),
        ("Transfer-Encoding: xchunked\r\n", Form("Transfer-Encoding")),
        ("Transfer-Encoding: \"chunked\"\r\n", Form("Transfer-Encoding")),
        ("Transfer-Encoding: chunked;q=1\r\n", Form("Transfer-Encoding")),
        ("Transfer-Encoding:\r\n", Form("Transfer-Encoding")),
        ("Transfer-Encoding: \u{b}chunked\r\n", Form("a character")),
        ("Transfer-Encoding\u{b}: chunked\r\n", Form("a character")),
        ("Transfer-Encoding : chunked\r\n", Form("the head")),
        ("Content-Length : 5\r\n", Form("the head")),
        (" Content-Length: 5\r\n", Form("the head")),
        ("X: y\r\n Content-Length: 5\r\n", Form("the head")),
        ("X: y\r\n\tTransfer-Encoding: chunked\r\n", Form("the head")),
        ("X: y\nTransfer-Encoding: chunked\r\n", Form("a line's end")),
        ("X: y\rTransfer-Encoding: chunked\r\n", Form("a line's end")),
        ("X: y\r\rTransfer-Encoding: chunked\r\n", Form("a line's end")),
        ("X: y\n\r\n", Form("a line's end")),
        ("X: y\0\r\n", Form("a character")),
        ("X\r\n", Form("the head")),
        (": x\r\n", Form("the head")),
        ("Host: a.example\r\n", Repeated("Host")),
        ("Host: evil.example\r\n", Repeated("Host")),
        ("Connection: close, Host\r\n", Form("Connection")),
        ("Connection: content-length\r\n", Form("Connection")),
        ("Connection: Transfer-Encoding ,x\r\n", Form("Connection")),
        ("Expect: y 100-continue\r\n", Form("Expect")),
        ("Content_Length: 1\r\n", Form("a field's name")),
        ("transfer_encoding: chunked\r\n", Form("a field's name")),
        ("Expect: 100-continue\r\nExpect: 100-continue\r\n", Repeated("Expect")),
        ("Upgrade: websocket\r\nUpgrade: h2c\r\n", Repeated("Upgrade")),
        ("Sec-WebSocket-Key: x\r\nSec-WebSocket-Key: x\r\n", Repeated("Sec-WebSocket-Key")),
        ("Upgrade: websocket\r\nContent-Length: 1\r\n", Form("a body before a WebSocket")),
    ] {
        assert_eq!(refused(&with(fields, "")), why, "{fields:?}");
    }
    let many = "X: y\r\n".repeat(MAX_FIELDS);
    assert_eq!(refused(&with(&many, "")), Refused::TooLong("the list of fields"));
    let long = format!("X: {}\r\n", "y".repeat(MAX_HEAD));
    assert_eq!(refused(&with(&long, "")), Refused::TooLong("the head"));
}

#[test]
fn a_body_where_none_is_meant_is_refused() {
    for method in ["GET", "HEAD", "DELETE", "OPTIONS", "TRACE", "get"] {
        for fields in ["Content-Length: 1", "Transfer-Encoding: chunked"] {
            let input = format!("{method} / HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n\r\n");
            assert_eq!(refused(input.as_bytes()), Refused::Body, "{method} {fields}");
        }
        let none = format!("{method} / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(seen(none.as_bytes()).heads.len(), 1);
    }
}

#[test]
fn chunks_out_of_form_are_refused() {
    use Refused::Form;
    for (body, why) in [
        ("\r\n0\r\n\r\n", Form("a chunk's size")),
        (" 1\r\nx\r\n", Form("a chunk's size")),
        ("1 \r\nx\r\n", Form("a chunk's size")),
        ("0x1\r\nx\r\n", Form("a chunk's size")),
        ("+1\r\nx\r\n", Form("a chunk's size")),
        ("-1\r\nx\r\n", Form("a chunk's size")),
        ("g\r\n", Form("a chunk's size")),
        ("1\nx\r\n", Form("a chunk's size")),
        ("1\rx", Form("a chunk's end")),
        ("1\r\nxx\r\n", Form("a chunk's end")),
        ("1\r\nx\n", Form("a chunk's end")),
        ("0000000000000001\r\n", Form("a chunk's size")),
        ("1;a\nb\r\n", Form("a chunk's extension")),
        ("1;a\0\r\n", Form("a chunk's extension")),
        ("1;a\rx\r\n", Form("a chunk's end")),
        ("0\r\nContent-Length: 5\r\n\r\n", Form("a trailer")),
        ("0\r\nHOST: evil.example\r\n\r\n", Form("a trailer")),
        ("0\r\nTransfer-Encoding: chunked\r\n\r\n", Form("a trailer")),
        ("0\r\n folded\r\n\r\n", Form("a trailer")),
        ("0\r\nX : y\r\n\r\n", Form("a trailer")),
        ("0\r\n: y\r\n\r\n", Form("a trailer")),
        ("0\r\nX: y\n\r\n", Form("a trailer")),
        ("0\r\n\rX", Form("a trailer")),
        ("0\r\n\n", Form("a trailer")),
        ("0\r\nGET / HTTP/1.1\r\n", Form("a trailer")),
    ] {
        assert_eq!(refused(&with("Transfer-Encoding: chunked\r\n", body)), why, "{body:?}");
    }
    let extension = format!("1;{}\r\n", "x".repeat(2000));
    let trailers = format!("0\r\n{}", "X: y\r\n".repeat(4000));
    for (body, what) in [(extension, "a chunk's extension"), (trailers, "the trailers")] {
        assert_eq!(refused(&with("Transfer-Encoding: chunked\r\n", &body)), Refused::TooLong(what));
    }
}

#[test]
fn request_lines_out_of_form_are_refused() {
    use Refused::{Form, Host, Mismatch};
    for (line, why) in [
        ("GET  / HTTP/1.1", Form("the head")),
        ("GET /  HTTP/1.1", Form("the version")),
        ("GET / x HTTP/1.1", Form("the version")),
        ("GET /\tHTTP/1.1", Form("the head")),
        (" GET / HTTP/1.1", Form("the method")),
        ("\r\nGET / HTTP/1.1", Form("the method")),
        ("\nGET / HTTP/1.1", Form("the method")),
        ("GET /", Form("the head")),
        ("GET / HTTP/0.9", Form("the version")),
        ("GET / HTTP/1.2", Form("the version")),
        ("GET / HTTP/2.0", Form("the version")),
        ("GET / http/1.1", Form("the version")),
        ("GET / HTTP/1.1 ", Form("the head")),
        ("GET /\u{e9} HTTP/1.1", Form("the request line")),
        ("GET /#x HTTP/1.1", Form("the request line")),
        ("GET * HTTP/1.1", Form("the target")),
        ("GET http://a.example?@evil.example/ HTTP/1.1", Form("the target")),
        ("GET http://a.example?x HTTP/1.1", Form("the target")),
        ("OPTIONS *x HTTP/1.1", Form("the target")),
        ("GET x HTTP/1.1", Host(AuthorityError::Scheme)),
        ("GET a.example:80 HTTP/1.1", Host(AuthorityError::Scheme)),
        ("GET https://a.example/ HTTP/1.1", Host(AuthorityError::Scheme)),
        ("GET http://u@a.example/ HTTP/1.1", Host(AuthorityError::User)),
        ("GET http://evil.example/ HTTP/1.1", Mismatch),
        ("GET http://a.example:8080/ HTTP/1.1", Mismatch),
        ("CONNECT b.example:443 HTTP/1.1", Mismatch),
        ("CONNECT a.example HTTP/1.1", Host(AuthorityError::NoPort)),
        ("PRI * HTTP/2.0", Refused::Http2),
    ] {
        let input = format!("{line}\r\nHost: a.example\r\n\r\nSM\r\n\r\n");
        assert_eq!(refused(input.as_bytes()), why, "{line:?}");
    }
}

#[test]
fn the_host_is_there_once_and_in_one_spelling() {
    use AuthorityError::{Brackets, Port, User};
    for (host, why) in [
        ("", AuthorityError::Host(HostError::Empty)),
        ("a.example, b.example", AuthorityError::Host(HostError::Character(','))),
        ("a.example b.example", AuthorityError::Host(HostError::Character(' '))),
        ("user@a.example", User),
        ("a.example:", Port),
        ("127.1", AuthorityError::Host(HostError::Address)),
        ("localhost", AuthorityError::Host(HostError::Own)),
        ("[::1%25lo]", Brackets),
        ("http://a.example", AuthorityError::Port),
    ] {
        let input = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(refused(input.as_bytes()), Refused::Host(why), "{host}");
    }
    assert_eq!(refused(b"GET / HTTP/1.1\r\nHost:\ta.example\r\n\r\n"), Refused::Form("a blank"));
    assert_eq!(refused(b"GET / HTTP/1.1\r\n\r\n"), Refused::NoHost);
    assert_eq!(refused(b"GET / HTTP/1.0\r\n\r\n"), Refused::NoHost);
    for fields in ["Transfer-Encoding: chunked", "Expect: 100-continue"] {
        let old = format!("GET / HTTP/1.0\r\nHost: a.example\r\n{fields}\r\n\r\n");
        assert!(matches!(refused(old.as_bytes()), Refused::Form(_)));
    }
    let good = "OPTIONS * HTTP/1.1\r\nhost: A.example.:8080\r\n\r\nGET http://a.EXAMPLE:80/?x HTTP/1.0\r\nHost:a.example\r\n\r\n";
    assert_eq!(
        seen(good.as_bytes()).heads,
        ["OPTIONS Asterisk a.example:8080", "GET Absolute { prefix: 4..23, path: \"/?x\" } a.example:80"]
    );
}
