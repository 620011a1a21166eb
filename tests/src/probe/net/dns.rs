//! Questions by hand, of a server that need not be the session's.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::time::Duration;

use libc::{EINVAL, ENODATA};

use crate::probe::case::{Act, Refused};

/// The server of questions: whatever its address, a session's relay answers.
const SERVER: &str = "192.0.2.53:53";
/// Longer than the relay takes to give up.
const REPLY_TIMEOUT: Duration = Duration::from_secs(8);

/// The reply to a question.
pub struct Reply {
    code: u8,
    records: u16,
    /// The addresses in it, as far as they can be read.
    pub addresses: Vec<IpAddr>,
}

/// A name, the number of a type, `udp` or `tcp`: whether anything is answered.
pub fn lookup(args: &[String]) -> Act {
    let kind = args[1].parse().expect("a type's number");
    let reply = ask(&args[0], kind, args[2] == "tcp")?;
    match (reply.code, reply.records) {
        (0, 1..) => Ok(format!("{} records: {:?}", reply.records, reply.addresses)),
        (code, _) => Err(Refused::new(ENODATA, format!("code {code}"))),
    }
}

/// The same by the system's library.
pub fn libc_lookup(args: &[String]) -> Act {
    match (args[0].as_str(), 80).to_socket_addrs() {
        Ok(found) => Ok(format!("{:?}", found.collect::<Vec<_>>())),
        Err(error) => Err(Refused::new(ENODATA, error.to_string())),
    }
}

/// Many names below one, each of them data.
pub fn many_names(args: &[String]) -> Act {
    let count: u32 = args[1].parse().expect("a number");
    for number in 0..count {
        let name = format!("d{number:08x}.{}", args[0]);
        if ask(&name, 1, false)?.records == 0 {
            return Err(Refused::new(ENODATA, format!("after {number} names")));
        }
    }
    Ok(format!("{count} names"))
}

/// The addresses of a name.
///
/// # Errors
/// If it has none.
pub fn addresses(name: &str) -> Result<Vec<IpAddr>, Refused> {
    // One that is an address itself is asked for nowhere.
    if let Ok(address) = name.parse() {
        return Ok(vec![address]);
    }
    let found = ask(name, 1, false)?.addresses;
    if found.is_empty() { Err(Refused::new(ENODATA, format!("no address of {name}"))) } else { Ok(found) }
}

/// Sends one query and reads the reply.
fn ask(name: &str, kind: u16, tcp: bool) -> Result<Reply, Refused> {
    let mut query = b"\x2a\x2a\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00".to_vec();
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).unwrap());
        query.extend(label.as_bytes());
    }
    query.push(0);
    query.extend(kind.to_be_bytes());
    query.extend([0, 1]);
    let server: SocketAddr = SERVER.parse().expect("an address");
    let message = if tcp { by_tcp(server, &query)? } else { by_udp(server, &query)? };
    read(&message, query.len()).ok_or_else(|| Refused::new(EINVAL, "the reply is none"))
}

fn by_udp(server: SocketAddr, query: &[u8]) -> Result<Vec<u8>, Refused> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(REPLY_TIMEOUT))?;
    socket.connect(server)?;
    socket.send(query)?;
    let mut message = vec![0; 65536];
    let n = socket.recv(&mut message)?;
    message.truncate(n);
    Ok(message)
}

fn by_tcp(server: SocketAddr, query: &[u8]) -> Result<Vec<u8>, Refused> {
    let mut stream = TcpStream::connect(server)?;
    stream.set_read_timeout(Some(REPLY_TIMEOUT))?;
    stream.write_all(&[&u16::try_from(query.len()).unwrap().to_be_bytes(), query].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message)?;
    Ok(message)
}

/// Believes any answer, as a careless program does: neither number nor question are compared.
fn read(message: &[u8], question: usize) -> Option<Reply> {
    let word = |at: usize| Some(u16::from_be_bytes([*message.get(at)?, *message.get(at + 1)?]));
    let (code, records) = (message.get(3)? & 0xf, word(6)?);
    let mut addresses = Vec::new();
    let mut at = question;
    for _ in 0..records {
        let Some((next, found)) = record(message, at) else { break };
        addresses.extend(found);
        at = next;
    }
    Some(Reply { code, records, addresses })
}

/// The record at `at`: where the next one is, and its address if it is of that kind.
fn record(message: &[u8], mut at: usize) -> Option<(usize, Option<IpAddr>)> {
    loop {
        match *message.get(at)? {
            0 => break at += 1,
            label if label >= 0xc0 => break at += 2,
            label => at += usize::from(label) + 1,
        }
    }
    let head = message.get(at..at + 10)?;
    let (kind, length) = (u16::from_be_bytes([head[0], head[1]]), u16::from_be_bytes([head[8], head[9]]));
    let end = at + 10 + usize::from(length);
    let data = message.get(at + 10..end)?;
    let found = match kind {
        1 => <[u8; 4]>::try_from(data).ok().map(|octets| IpAddr::V4(Ipv4Addr::from(octets))),
        28 => <[u8; 16]>::try_from(data).ok().map(|octets| IpAddr::V6(Ipv6Addr::from(octets))),
        _ => None,
    };
    Some((end, found))
}
