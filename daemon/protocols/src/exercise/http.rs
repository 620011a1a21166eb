//! Checks of the HTTP/1 readers.

use super::names::in_form;
use super::splits;
use crate::authority::Authority;
use crate::http::{Connection, MAX_HEAD, MAX_PIPELINED, Mode, Refused, Sniff, Step, Target, Watch, sniff};

/// How far [`Watch`] looks behind a first line, or less.
const MAX_BEHIND: usize = 128_000;
/// What divides the two sides' bytes in [`exchange`]: in no head but for what is no ASCII.
const TURN: u8 = 0xff;

/// What was read of a client's bytes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    requests: Vec<Request>,
    end: Option<End>,
}

#[derive(Debug, PartialEq, Eq)]
struct Request {
    begin: usize,
    /// Of the head.
    len: usize,
    authority: Authority,
    tunnel: bool,
    body: usize,
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    Opaque,
    Refused(Refused),
}

/// A client's bytes, as far as they can be read before the server has answered, to a server and to a proxy: whatever
/// the pieces, the requests begin and end where a second reader finds them.
pub fn http(bytes: &[u8]) {
    match sniff(bytes) {
        // What follows is seen, whatever was before, as far as that is looked at.
        Sniff::Binary => {
            let seen = Watch::after(bytes).see(b"x HTTP/\nhost:");
            assert!(seen == Sniff::Http || bytes.len() > MAX_BEHIND, "{seen:?}");
        }
        first => assert_eq!(sniff(bytes), first),
    }
    for mode in [Mode::Origin, Mode::Proxy] {
        let [whole, bytewise, pieces] = splits(bytes).map(|pieces| {
            let mut client = Client::new(mode, bytes, pieces.len() > 1);
            for piece in &pieces {
                client.more(piece.len());
            }
            client.seen
        });
        assert_eq!(bytewise, whole);
        assert_eq!(pieces, whole);
        assert!(whole.requests.len() <= MAX_PIPELINED);
        framed(&whole, bytes);
    }
}

/// Both sides' bytes in turns, the client's first, with 0xff between: whatever the pieces of the server's, the same
/// comes of it, and nothing but the server's word ends HTTP.
pub fn exchange(bytes: &[u8]) {
    let turns: Vec<&[u8]> = bytes.split(|byte| *byte == TURN).collect();
    let sent: Vec<u8> = turns.iter().step_by(2).copied().flatten().copied().collect();
    let answered: Vec<u8> = turns.iter().skip(1).step_by(2).copied().flatten().copied().collect();
    for mode in [Mode::Origin, Mode::Proxy] {
        let [whole, bytewise, skipping] = [0, 1, 2].map(|way| {
            let mut client = Client::new(mode, &sent, way == 2);
            for (number, turn) in turns.iter().enumerate() {
                if number % 2 == 0 {
                    client.more(turn.len());
                    continue;
                }
                match way {
                    0 => client.connection.server(turn),
                    1 => turn.chunks(1).for_each(|byte| client.connection.server(byte)),
                    _ => shown_what_counts(&mut client.connection, turn),
                }
                client.step();
            }
            // Of what is no HTTP any more nobody asks it.
            let answered =
                client.seen.end.is_none().then(|| [0, 1].map(|but| client.connection.is_answered(but)));
            (answered, client.seen)
        });
        assert_eq!(bytewise, whole);
        assert_eq!(skipping, whole);
        let seen = whole.1;
        let tunnel = seen.requests.last().is_some_and(|request| request.tunnel);
        if seen.end == Some(End::Opaque) && !tunnel {
            assert!(answered.windows(4).any(|part| part == b" 101"));
        }
        framed(&seen, &sent);
    }
}

fn shown_what_counts(connection: &mut Connection, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let certain = usize::try_from(connection.server_certain()).unwrap_or(usize::MAX).min(bytes.len());
        if certain > 0 {
            connection.server_skipped(certain as u64);
            bytes = &bytes[certain..];
        } else {
            connection.server(&bytes[..1]);
            bytes = &bytes[1..];
        }
    }
}

/// A client that sends `bytes` bit by bit.
struct Client<'a> {
    connection: Connection,
    bytes: &'a [u8],
    sent: usize,
    read: usize,
    /// Lets what is certain go by unasked.
    skips: bool,
    seen: Seen,
}

impl<'a> Client<'a> {
    fn new(mode: Mode, bytes: &'a [u8], skips: bool) -> Self {
        Self { connection: Connection::new(mode), bytes, sent: 0, read: 0, skips, seen: Seen::default() }
    }

    fn more(&mut self, len: usize) {
        self.sent += len;
        self.step();
    }

    fn step(&mut self) {
        while self.seen.end.is_none() {
            let input = &self.bytes[self.read..self.sent];
            let certain = usize::try_from(self.connection.certain()).unwrap_or(usize::MAX).min(input.len());
            if self.skips && certain > 0 {
                self.connection.skipped(certain as u64);
                self.body(certain);
                continue;
            }
            match self.connection.client(input) {
                Ok(Step::NeedMore | Step::Held | Step::Over) => return,
                Ok(Step::Body(len)) => {
                    assert!(len > 0 && len <= input.len());
                    self.body(len);
                }
                Ok(Step::Head(head)) => {
                    assert!(head.len <= input.len() && head.len <= MAX_HEAD);
                    in_form(&head.authority.host);
                    if let Target::Absolute { prefix, path } = &head.target {
                        let text = &input[prefix.clone()];
                        assert!(text.len() > 7 && text[..7].eq_ignore_ascii_case(b"http://"));
                        assert!(input[prefix.end..].starts_with(path.as_bytes()));
                    }
                    let tunnel = head.target == Target::Connect;
                    let (begin, len, authority) = (self.read, head.len, head.authority);
                    self.seen.requests.push(Request { begin, len, authority, tunnel, body: 0 });
                    self.read += len;
                }
                Ok(end @ (Step::Opaque | Step::Tunnel)) => {
                    assert_eq!(self.connection.client(b"\0"), Ok(end));
                    self.seen.end = Some(End::Opaque);
                }
                Err(refused) => {
                    assert_eq!(self.connection.client(input), Err(Refused::Before));
                    // How much of a body came before what is wrong in it depends on the pieces.
                    if let Some(request) = self.seen.requests.last_mut() {
                        request.body = 0;
                    }
                    self.seen.end = Some(End::Refused(refused));
                }
            }
        }
    }

    fn body(&mut self, len: usize) {
        self.read += len;
        if let Some(request) = self.seen.requests.last_mut() {
            request.body += len;
        }
    }
}

/// Reads the requests once more, by another way: heads line by line, and bodies by what they say.
fn framed(seen: &Seen, bytes: &[u8]) {
    for (number, request) in seen.requests.iter().enumerate() {
        let end = request.begin + request.len;
        let (host, body) = head(&bytes[request.begin..end]);
        let host = Authority::parse(&host).map(|host| host.host);
        assert_eq!(host.as_ref(), Ok(&request.authority.host));
        let Some(next) = seen.requests.get(number + 1) else { continue };
        assert_eq!(next.begin, end + request.body);
        let expected = match body {
            Framing::Length(len) => len,
            Framing::Chunked => chunks(&bytes[end..next.begin]),
        };
        assert_eq!(request.body, expected);
    }
}

enum Framing {
    Length(usize),
    Chunked,
}

/// The value of Host, and how the body is framed.
fn head(bytes: &[u8]) -> (String, Framing) {
    let text: String = bytes.iter().map(|byte| char::from(*byte)).collect();
    let Some(text) = text.strip_suffix("\r\n\r\n") else { panic!("a head without its end") };
    let (mut hosts, mut lengths, mut codings) = (Vec::new(), Vec::new(), Vec::new());
    for line in text.split("\r\n").skip(1) {
        assert!(!line.contains(['\r', '\n', '\0']));
        let Some((name, value)) = line.split_once(':') else { panic!("a line without a colon") };
        assert!(!name.is_empty() && !name.contains([' ', '\t']));
        match name.to_ascii_lowercase().as_str() {
            "host" => hosts.push(value.trim().to_owned()),
            "content-length" => lengths.push(value.trim().parse::<usize>()),
            "transfer-encoding" => codings.push(value.trim().to_ascii_lowercase()),
            _ => {}
        }
    }
    let [host] = &hosts[..] else { panic!("{} hosts", hosts.len()) };
    let framing = match (&lengths[..], &codings[..]) {
        ([], []) => Framing::Length(0),
        ([Ok(len)], []) => Framing::Length(*len),
        ([], [coding]) if coding == "chunked" => Framing::Chunked,
        _ => panic!("a body that is framed twice"),
    };
    (host.clone(), framing)
}

/// The length of the chunks, and of what is behind them.
fn chunks(bytes: &[u8]) -> usize {
    let line = |at: usize| {
        let Some(len) = bytes[at..].windows(2).position(|two| two == b"\r\n") else { panic!("no end") };
        (&bytes[at..at + len], at + len + 2)
    };
    let mut at = 0;
    loop {
        let (size, data) = line(at);
        let digits = size.split(|byte| *byte == b';').next().map(String::from_utf8_lossy);
        let Some(Ok(size)) = digits.map(|digits| usize::from_str_radix(&digits, 16)) else {
            panic!("no size")
        };
        if size == 0 {
            at = data;
            break;
        }
        at = data + size + 2;
        assert_eq!(&bytes[at - 2..at], b"\r\n");
    }
    loop {
        let (trailer, next) = line(at);
        if trailer.is_empty() {
            return next;
        }
        at = next;
    }
}
