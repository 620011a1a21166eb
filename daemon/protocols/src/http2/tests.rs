use proptest::prelude::*;

use super::*;

const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];

/// A field that no table takes.
fn field(name: &str, value: &str) -> Vec<u8> {
    let mut field = vec![0, u8::try_from(name.len()).unwrap()];
    field.extend(name.as_bytes());
    field.push(u8::try_from(value.len()).unwrap());
    field.extend(value.as_bytes());
    field
}

fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| field(name, value)).collect()
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    Frame::write(kind, flags, stream, payload)
}

const ENDS: u8 = 0x5;
const GOES_ON: u8 = 0x4;

/// A request without anything odd, and these fields besides or instead.
fn fields<'a>(other: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let plain = [(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "a.example")];
    let kept = plain.into_iter().filter(|(name, _)| !other.iter().any(|(given, _)| given == name));
    let front = other.iter().copied().filter(|(name, value)| name.starts_with(':') && !value.is_empty());
    let behind = other.iter().copied().filter(|(name, _)| !name.starts_with(':'));
    kept.chain(front).chain(behind).collect()
}

/// A connection whose server has shown what it is.
fn begun() -> Connection {
    let mut connection = Connection::default();
    assert_eq!(connection.client(PREFACE), Ok(Step::Goes(PREFACE.len())));
    assert_eq!(connection.client(&SETTINGS), Ok(Step::Goes(9)));
    connection.server(&SETTINGS);
    connection
}

fn head(
    connection: &mut Connection,
    stream: u32,
    flags: u8,
    fields: &[(&str, &str)],
) -> Result<Step, Refused> {
    connection.client(&frame(kind::HEADERS, flags, stream, &block(fields)))
}

fn refused(other: &[(&str, &str)]) -> Refused {
    head(&mut begun(), 1, ENDS, &fields(other)).unwrap_err()
}

fn host(step: Result<Step, Refused>) -> String {
    match step {
        Ok(Step::Head(head)) => head.authority.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn nothing_goes_before_the_server_has_shown_what_it_is() {
    let mut connection = Connection::default();
    assert_eq!(connection.client(b"PRI * HTTP/2.0\r\n"), Ok(Step::NeedMore));
    assert_eq!(connection.client(PREFACE), Ok(Step::Goes(24)));
    // Settings that could be read as a request wait.
    let text = frame(kind::SETTINGS, 0, 0, b"GET / HTTP/1.1\r\nHost: evil\r\n\r\n");
    assert_eq!(connection.client(&text), Ok(Step::Held));
    let plain = frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]);
    assert_eq!(connection.client(&plain), Ok(Step::Goes(15)));
    let request = frame(kind::HEADERS, ENDS, 1, &block(&fields(&[])));
    assert_eq!(connection.client(&request), Ok(Step::Held));
    let mut other = connection.server.is_one();
    assert_eq!(other, None);
    connection.server(&SETTINGS[..5]);
    assert_eq!((connection.client(&request), connection.server_left()), (Ok(Step::Held), 4));
    connection.server(&SETTINGS[5..]);
    other = connection.server.is_one();
    assert_eq!((other, connection.server_left()), (Some(true), 0));
    assert_eq!(host(connection.client(&request)), "a.example");
    // One that answers by HTTP/1.
    let mut connection = Connection::default();
    assert_eq!(connection.client(PREFACE), Ok(Step::Goes(24)));
    assert_eq!(connection.client(&plain), Ok(Step::Goes(15)));
    connection.server(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    assert_eq!(connection.client(&request), Err(Refused::Server));
}

#[test]
fn each_request_names_its_host_in_one_way() {
    let mut connection = begun();
    assert_eq!(host(head(&mut connection, 1, ENDS, &fields(&[]))), "a.example");
    let by_host = [(":authority", ""), ("host", "b.example:8080")];
    assert_eq!(host(head(&mut connection, 3, ENDS, &fields(&by_host))), "b.example:8080");
    assert_eq!(host(head(&mut connection, 9, ENDS, &fields(&[("host", "a.example")]))), "a.example");
    assert_eq!(refused(&[("host", "evil.example")]), Refused::Mismatch);
    assert_eq!(refused(&[("host", "a.example:80")]), Refused::Mismatch);
    assert_eq!(refused(&[(":authority", "")]), Refused::NoHost);
    assert_eq!(
        refused(&[("host", "a.example"), ("host", "a.example")]),
        Refused::Repeated("a field that is there once")
    );
    let twice = [(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "a.example")];
    let twice = [&twice[..], &twice[3..]].concat();
    assert_eq!(head(&mut begun(), 1, ENDS, &twice), Err(Refused::Repeated(":authority")));
    let late =
        [(":method", "POST"), ("x", "y"), (":scheme", "http"), (":path", "/"), (":authority", "a.example")];
    assert_eq!(head(&mut begun(), 1, ENDS, &late), Err(Refused::Form("a field in front")));
    assert!(matches!(refused(&[(":authority", "user@a.example")]), Refused::Host(_)));
}

/// What becomes something else where a server hands it on as HTTP/1.
#[test]
fn what_smuggles_when_it_is_translated_is_refused() {
    use Refused::{Connect, Form, Repeated};
    for (other, why) in [
        (("transfer-encoding", "chunked"), Form("a field of HTTP/1")),
        (("connection", "close"), Form("a field of HTTP/1")),
        (("proxy-connection", "close"), Form("a field of HTTP/1")),
        (("keep-alive", "1"), Form("a field of HTTP/1")),
        (("upgrade", "websocket"), Form("a field of HTTP/1")),
        (("te", "chunked"), Form("a field of HTTP/1")),
        (("x", "y\r\nhost: evil.example"), Form("a character")),
        (("x", "y\nz"), Form("a character")),
        (("x", "y\0"), Form("a character")),
        (("x: y\r\nhost", "evil.example"), Form("a field's name")),
        (("Host", "evil.example"), Form("a field's name")),
        (("content_length", "1"), Form("a field's name")),
        (("", "x"), Form("a field's name")),
        ((":path", "/ HTTP/1.1"), Form("the path")),
        ((":path", "http://evil.example/"), Form("the path")),
        ((":path", "*"), Form("the path")),
        ((":path", ""), Form("the request")),
        ((":method", "GET / HTTP/1.1"), Form("the request")),
        ((":method", "CONNECT"), Connect),
        ((":protocol", "connect-udp"), Connect),
        ((":scheme", "http://evil.example/?"), Form("the scheme")),
        ((":other", "x"), Form("a field's name")),
        (("content-length", "+1"), Form("Content-Length")),
        (("content-length", "1"), Form("Content-Length")),
    ] {
        assert_eq!(refused(&[other]), why, "{other:?}");
    }
    let lengths = [("content-length", "0"), ("content-length", "0")];
    assert_eq!(refused(&lengths), Repeated("a field that is there once"));
    let socket = [(":method", "CONNECT"), (":protocol", "websocket")];
    assert_eq!(host(head(&mut begun(), 1, GOES_ON, &fields(&socket))), "a.example");
    assert_eq!(host(head(&mut begun(), 1, ENDS, &fields(&[("te", "trailers")]))), "a.example");
}

#[test]
fn a_body_is_as_long_as_it_says() {
    let data = |flags, stream, payload: &[u8]| frame(kind::DATA, flags, stream, payload);
    let with = |length| {
        let mut connection = begun();
        host(head(&mut connection, 1, GOES_ON, &fields(&[("content-length", length)])));
        connection
    };
    let mut good = with("5");
    let body = data(0, 1, b"abc");
    assert_eq!((good.client(&body), good.certain()), (Ok(Step::Goes(9)), 3));
    assert_eq!(good.client(&body[9..]), Ok(Step::Goes(3)));
    // Padding is none of it.
    let last = data(0x9, 1, b"\x01de\0");
    assert_eq!(good.client(&last), Ok(Step::Goes(9)));
    good.skipped(4);
    assert_eq!(good.client(&frame(6, 0, 0, &[0; 8])), Ok(Step::Goes(9)));
    assert_eq!(with("2").client(&data(0, 1, b"abc")), Err(Refused::Body));
    assert_eq!(with("4").client(&data(1, 1, b"abc")), Err(Refused::Form("Content-Length")));
    assert_eq!(with("4").client(&data(8, 1, b"\x04abc")), Err(Refused::Form("padding")));
    assert_eq!(with("4").client(&data(0, 3, b"abc")), Err(Refused::Form("a body without a head")));
    assert_eq!(with("4").client(&data(0, 0, b"abc")), Err(Refused::Form("a body without a head")));
    let trailers = |fields: &[(&str, &str)]| frame(kind::HEADERS, ENDS, 1, &block(fields));
    assert_eq!(with("4").client(&trailers(&[("x", "y")])), Err(Refused::Form("Content-Length")));
    let mut connection = with("0");
    let good = trailers(&[("grpc-status", "0")]);
    assert_eq!(connection.client(&good), Ok(Step::Goes(good.len())));
    for bad in [("host", "evil.example"), (":authority", "evil.example"), ("content-length", "4")] {
        assert_eq!(with("0").client(&trailers(&[bad])), Err(Refused::Form("a trailer")));
    }
    // Servers of HTTP/1 behind the server take the body of a GET for a request.
    let mut get = begun();
    host(head(&mut get, 1, GOES_ON, &fields(&[(":method", "GET")])));
    assert_eq!(get.client(&data(1, 1, b"x")), Err(Refused::Body));
}

#[test]
fn a_head_may_come_in_pieces_and_nothing_else_between() {
    let block = block(&fields(&[("x", "y")]));
    let (first, rest) = block.split_at(7);
    let whole = [frame(kind::HEADERS, 1, 1, first), frame(kind::CONTINUATION, 4, 1, rest)].concat();
    for end in 0..whole.len() {
        assert_eq!(begun().client(&whole[..end]), Ok(Step::NeedMore), "{end}");
    }
    assert_eq!(host(begun().client(&whole)), "a.example");
    for between in
        [frame(kind::DATA, 0, 1, b""), frame(kind::CONTINUATION, 4, 3, rest), frame(6, 0, 0, &[0; 8])]
    {
        let odd = [frame(kind::HEADERS, 1, 1, first), between].concat();
        assert_eq!(begun().client(&odd), Err(Refused::Form("a head with something else in it")));
    }
    assert!(begun().client(&frame(kind::CONTINUATION, 4, 1, rest)).is_err());
    // CVE-2024-27316: pieces without an end.
    let endless =
        [frame(kind::HEADERS, 1, 1, first), frame(kind::CONTINUATION, 0, 1, b"").repeat(65)].concat();
    assert_eq!(begun().client(&endless), Err(Refused::TooLong("the head")));
    let long = frame(kind::HEADERS, 1, 1, &vec![0; (64 << 10) + 1]);
    assert_eq!(begun().client(&long[..9]), Err(Refused::TooLong("the head")));
    // Padding and a priority belong to no field.
    let mut padded = vec![2, 0x80, 0, 0, 0, 16];
    padded.extend(&block);
    padded.extend([0, 0]);
    assert_eq!(host(begun().client(&frame(kind::HEADERS, 0x2d, 1, &padded))), "a.example");
    assert_eq!(begun().client(&frame(kind::HEADERS, 0x2d, 1, &[250, 0])), Err(Refused::Form("padding")));
}

#[test]
fn streams_are_the_clients_and_go_up() {
    let mut connection = begun();
    host(head(&mut connection, 5, ENDS, &fields(&[])));
    // Lower: the end of a body that is over, and so without a host.
    assert_eq!(head(&mut connection, 3, ENDS, &fields(&[])), Err(Refused::Form("a trailer")));
    assert_eq!(head(&mut begun(), 2, ENDS, &fields(&[])), Err(Refused::Form("a stream")));
    assert_eq!(head(&mut begun(), 0, ENDS, &fields(&[])), Err(Refused::Form("a stream")));
    assert!(begun().client(&frame(kind::PUSH_PROMISE, 4, 1, &[0; 8])).is_err());
}

/// CVE-2023-44487: requests that are taken back at once. Each is judged, and none is kept.
#[test]
fn requests_that_are_taken_back_leave_nothing() {
    let mut connection = begun();
    for number in 0..5000 {
        let stream = 2 * number + 1;
        host(head(&mut connection, stream, GOES_ON, &fields(&[])));
        let reset = frame(kind::RST_STREAM, 0, stream, &[0, 0, 0, 8]);
        assert_eq!(connection.client(&reset), Ok(Step::Goes(9)));
        connection.skipped(4);
    }
    assert!(connection.streams.is_empty());
    for number in 5000..5000 + u32::try_from(MAX_STREAMS).unwrap() {
        host(head(&mut connection, 2 * number + 1, GOES_ON, &fields(&[])));
    }
    let many = head(&mut connection, 1_000_001, GOES_ON, &fields(&[]));
    assert_eq!(many, Err(Refused::TooLong("the list of open streams")));
}

/// What the server wants no more of has no end that anybody would see.
#[test]
fn streams_that_the_server_ends_are_forgotten_when_there_are_many() {
    let mut connection = begun();
    for number in 0..2 * u32::try_from(MAX_STREAMS).unwrap() {
        let stream = 2 * number + 1;
        host(head(&mut connection, stream, GOES_ON, &fields(&[])));
        connection.server(&frame(kind::RST_STREAM, 0, stream, &[0; 4]));
    }
}

#[test]
fn the_table_is_as_large_as_the_server_takes() {
    let larger = [0x3f, 0xe1, 0x3f]; // 8192
    let with = |connection: &mut Connection| {
        let block = [&larger[..], &block(&fields(&[]))].concat();
        connection.client(&frame(kind::HEADERS, ENDS, 1, &block))
    };
    assert!(with(&mut begun()).is_err());
    let mut connection = begun();
    connection.server(&frame(kind::SETTINGS, 0, 0, &[0, 1, 0, 0, 0x20, 0]));
    assert_eq!(host(with(&mut connection)), "a.example");
}

#[test]
fn a_refusal_is_read_by_clients() {
    let why = "x".repeat(400);
    for (grpc, status) in [(false, "403"), (true, "200")] {
        let bytes = refusal(7, grpc, "deny evil.example", &why);
        let frame = Frame::parse(&bytes).unwrap();
        let mut read = Vec::new();
        Decoder::default()
            .decode(&bytes[9..9 + frame.length], |name, value| {
                read.push(format!("{}={}", String::from_utf8_lossy(name), String::from_utf8_lossy(value)));
                Ok(())
            })
            .unwrap();
        assert_eq!((read[0].as_str(), frame.stream), (format!(":status={status}").as_str(), 7));
        assert_eq!(grpc, read.contains(&"grpc-status=7".to_owned()));
    }
    let farewell = refusal(0, false, "http.malformed", "x");
    assert_eq!(Frame::parse(&farewell).unwrap().kind, kind::GOAWAY);
}

/// What a client may say behind the preface.
fn anything() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..40),
        Just(block(&fields(&[]))),
        Just(block(&fields(&[("content-length", "3")]))),
        Just(block(&[("grpc-status", "0")])),
    ];
    let frames = (0_u8..11, any::<u8>(), 0_u32..8, payload)
        .prop_map(|(kind, flags, stream, payload)| frame(kind, flags, stream, &payload));
    proptest::collection::vec(frames, 0..12).prop_map(|frames| [SETTINGS.to_vec(), frames.concat()].concat())
}

proptest! {
    #[test]
    fn whatever_comes_is_read_in_one_way(bytes in anything()) {
        crate::exercise::http2(&bytes);
    }

    #[test]
    fn whatever_bytes_come_are_read_in_one_way(bytes: Vec<u8>) {
        crate::exercise::http2(&bytes);
    }
}
