//! A server that is the resolver and every name's authority, honest or not, as [`names`] says.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard};

use super::names::{self, Known, Trick};

const A: u16 = 1;
const CNAME: u16 = 5;
const MX: u16 = 15;
const TXT: u16 = 16;
const SRV: u16 = 33;
const AAAA: u16 = 28;
/// A name by its place: that of the question.
const ASKED: [u8; 2] = [0xc0, 12];
/// The header's second half in a reply: response, recursion desired and available.
const REPLY: u16 = 0x8180;
const FAILED: u16 = 2;
const UNKNOWN: u16 = 3;

/// A question that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The name, in the case that it came in.
    pub name: String,
    /// The record type, as a number.
    pub kind: u16,
    /// Whether it came over TCP.
    pub tcp: bool,
    /// Whether that was TLS.
    pub tls: bool,
    /// The address that the query came from.
    pub from: SocketAddr,
}

/// How a question came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Udp,
    Tcp,
    Tls,
}

#[derive(Debug, Default)]
struct Seen {
    questions: Vec<Question>,
    /// How often a name with a trick was answered.
    answered: BTreeMap<String, u32>,
}

/// It, as it runs.
#[derive(Clone, Debug)]
pub struct Resolver(Arc<Mutex<Seen>>);

impl Resolver {
    /// Starts it on 192.0.2.53 and 2001:db8::53, UDP and TCP, until this process ends.
    ///
    /// # Panics
    /// If an address is taken.
    pub fn start() -> Self {
        let resolver = Self(Arc::default());
        for address in ["192.0.2.53:53", "[2001:db8::53]:53"] {
            let socket = UdpSocket::bind(address).unwrap_or_else(|e| panic!("{address}: {e}"));
            let listener = TcpListener::bind(address).unwrap_or_else(|e| panic!("{address}: {e}"));
            let (udp, tcp) = (resolver.clone(), resolver.clone());
            std::thread::spawn(move || udp.over_udp(&socket));
            std::thread::spawn(move || tcp.over_tcp(&listener));
        }
        resolver
    }

    /// Every question for `name`, in whatever case, or for a name below it.
    pub fn asked(&self, name: &str) -> Vec<Question> {
        let below = format!(".{name}");
        let of = |q: &&Question| {
            let asked = q.name.to_ascii_lowercase();
            asked == name || asked.ends_with(&below)
        };
        self.seen().questions.iter().filter(of).cloned().collect()
    }

    /// Has every trick begin anew.
    pub fn forget(&self) {
        self.seen().answered.clear();
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn over_udp(&self, socket: &UdpSocket) {
        let mut bytes = [0; 4096];
        while let Ok((n, from)) = socket.recv_from(&mut bytes) {
            for mut reply in self.answer(&bytes[..n], from, Way::Udp) {
                if reply.len() > 1232 {
                    // Over TCP, then.
                    reply.truncate(end_of_question(&reply).unwrap_or(12));
                    reply[2] |= 2;
                    reply[6..12].fill(0);
                }
                socket.send_to(&reply, from).ok();
            }
        }
    }

    fn over_tcp(&self, listener: &TcpListener) {
        for stream in listener.incoming().flatten() {
            let server = self.clone();
            std::thread::spawn(move || server.converse(stream));
        }
    }

    fn converse(&self, mut stream: TcpStream) {
        let Ok(from) = stream.peer_addr() else { return };
        while let Some(query) = read_message(&mut stream) {
            for reply in self.answer(&query, from, Way::Tcp) {
                if stream.write_all(&framed(&reply)).is_err() {
                    return;
                }
            }
        }
    }

    /// What is answered, and that it was asked.
    pub(super) fn answer(&self, query: &[u8], from: SocketAddr, way: Way) -> Vec<Vec<u8>> {
        let Some((name, kind)) = question(query) else { return Vec::new() };
        let lower = name.to_ascii_lowercase();
        let times = {
            let mut seen = self.seen();
            seen.questions.push(Question { name, kind, tcp: way != Way::Udp, tls: way == Way::Tls, from });
            let times = seen.answered.entry(format!("{lower} {kind}")).or_default();
            *times += 1;
            *times
        };
        match names::known(&lower) {
            None => vec![reply(query, REPLY | UNKNOWN, &[])],
            Some(Known::Trick(trick)) => self::trick(trick, query, kind, times),
            Some(_) => vec![honest(query, &lower, kind)],
        }
    }
}

/// The next message of a stream.
pub(super) fn read_message(stream: &mut impl Read) -> Option<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).ok()?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message).ok()?;
    Some(message)
}

/// A message with its length in front.
pub(super) fn framed(message: &[u8]) -> Vec<u8> {
    [&u16::try_from(message.len()).unwrap().to_be_bytes()[..], message].concat()
}

/// Where the question of `message` ends.
fn end_of_question(message: &[u8]) -> Option<usize> {
    let mut at = 12;
    while *message.get(at)? != 0 {
        at += usize::from(message[at]) + 1;
    }
    (at + 5 <= message.len()).then_some(at + 5)
}

/// The name and the type that `query` asks for.
fn question(query: &[u8]) -> Option<(String, u16)> {
    let end = end_of_question(query)?;
    let (mut labels, mut at) = (Vec::new(), 12);
    while query[at] != 0 {
        let next = at + 1 + usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..next]).into_owned());
        at = next;
    }
    Some((labels.join("."), u16::from_be_bytes([query[end - 4], query[end - 3]])))
}

/// A reply to `query`, with its question as it was and `records`.
fn reply(query: &[u8], flags: u16, records: &[Vec<u8>]) -> Vec<u8> {
    let end = end_of_question(query).expect("it was read before");
    let mut message = query[..2].to_vec();
    for word in [flags, 1, u16::try_from(records.len()).unwrap(), 0, 0] {
        message.extend(word.to_be_bytes());
    }
    message.extend(&query[12..end]);
    message.extend(records.concat());
    message
}

fn record(owner: &[u8], kind: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = owner.to_vec();
    bytes.extend(kind.to_be_bytes());
    bytes.extend(1u16.to_be_bytes());
    bytes.extend(ttl.to_be_bytes());
    bytes.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
    bytes.extend(data);
    bytes
}

/// The record of an address, if it is of the type that was asked for.
fn address(owner: &[u8], kind: u16, address: IpAddr) -> Option<Vec<u8>> {
    match (address, kind) {
        (IpAddr::V4(v4), A) => Some(record(owner, A, 5, &v4.octets())),
        (IpAddr::V6(v6), AAAA) => Some(record(owner, AAAA, 5, &v6.octets())),
        _ => None,
    }
}

/// `name` as labels.
fn labels(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

fn honest(query: &[u8], name: &str, kind: u16) -> Vec<u8> {
    let (aliases, addresses) = names::resolve(name);
    let mut records = Vec::new();
    let mut owner = ASKED.to_vec();
    for alias in aliases {
        records.push(record(&owner, CNAME, 5, &labels(alias)));
        owner = labels(alias);
    }
    records.extend(addresses.into_iter().filter_map(|found| address(&owner, kind, found)));
    match kind {
        TXT => records.push(record(&owner, TXT, 5, b"\x0ca text of it")),
        // To a name that no session may reach, in the reply's own compression.
        SRV => records.push(record(
            &owner,
            SRV,
            5,
            &[&[0, 1, 0, 2, 0x1f, 0x90][..], &labels("evil.test")].concat(),
        )),
        MX => records.push(record(&owner, MX, 5, &[&[0, 5][..], &owner].concat())),
        _ => {}
    }
    // HTTPS (RFC 9460): a hint that leads elsewhere.
    if kind == 65 {
        let hint = [&[0, 1][..], &[0], &[0, 4, 0, 4, 198, 51, 100, 66]].concat();
        records.push(record(&owner, 65, 5, &hint));
    }
    reply(query, REPLY, &records)
}

/// What `trick` answers the `times`th time.
fn trick(trick: Trick, query: &[u8], kind: u16, times: u32) -> Vec<Vec<u8>> {
    let found = |owner: &[u8], texts: &[&str]| -> Vec<Vec<u8>> {
        texts.iter().filter_map(|t| address(owner, kind, t.parse().expect("an address"))).collect()
    };
    let public = ["192.0.2.80", "2001:db8::80"];
    let one = |records: &[Vec<u8>]| vec![reply(query, REPLY, records)];
    match trick {
        Trick::Rebind if times == 1 => one(&found(&ASKED, &public)),
        Trick::Rebind => one(&found(&ASKED, &["10.0.0.1", "fd12:3456::1"])),
        Trick::Dead => Vec::new(),
        Trick::WrongNumber => {
            let mut message = reply(query, REPLY, &found(&ASKED, &public));
            message[0] = !message[0];
            vec![message]
        }
        Trick::WrongQuestion => {
            let mut other = query[..12].to_vec();
            other.extend(labels("good.test"));
            other.extend([kind.to_be_bytes(), 1u16.to_be_bytes()].concat());
            vec![reply(&other, REPLY, &found(&ASKED, &public))]
        }
        Trick::Stranger => one(&found(&labels("good.test"), &["198.51.100.66", "2001:db8:66::66"])),
        Trick::Loop => {
            let here = end_of_question(query).expect("it was read before");
            let here = u16::try_from(here).unwrap();
            one(&found(&(0xc000 | here).to_be_bytes(), &public))
        }
        Trick::Many => {
            let all = (0..1000u16).map(|n| {
                let [high, low] = n.to_be_bytes();
                record(&ASKED, A, 5, &[198, 51, high, low])
            });
            one(&all.collect::<Vec<_>>())
        }
        Trick::Oversize => {
            let mut records: Vec<_> = (0..230).map(|_| record(&ASKED, TXT, 5, &[b'x'; 250])).collect();
            records.extend(found(&ASKED, &public));
            one(&records)
        }
        Trick::Circle => one(&[
            record(&ASKED, CNAME, 5, &labels("back.rogue.test")),
            record(&labels("back.rogue.test"), CNAME, 5, &labels("circle.rogue.test")),
        ]),
        Trick::Short => {
            let mut message = reply(query, REPLY, &found(&ASKED, &public));
            message.truncate(message.len().saturating_sub(3));
            vec![message]
        }
        Trick::Fails => vec![reply(query, REPLY | FAILED, &[])],
    }
}
