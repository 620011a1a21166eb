//! Connections and datagrams to where they must not go.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use libc::{EACCES, ECONNRESET, EINVAL, ENODATA, ETIMEDOUT};

use super::dns::addresses;
use crate::probe::case::{Act, Refused};
use crate::probe::sys::{self, Arg};

/// Longer than any answer takes.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// `ADDRESS:PORT`, or a name and a port: whether somebody is there.
pub fn reach(args: &[String]) -> Act {
    let to = match args.get(1) {
        Some(port) => SocketAddr::new(addresses(&args[0])?[0], port.parse().expect("a port")),
        None => args[0].parse().expect("an address and a port"),
    };
    let mut stream = TcpStream::connect(to)?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    answered(stream)
}

/// The same by the system's library, which reads addresses in many spellings.
pub fn spelled(args: &[String]) -> Act {
    let port: u16 = args[1].parse().expect("a port");
    let to = (args[0].as_str(), port).to_socket_addrs()?.next();
    let to = to.ok_or_else(|| Refused::new(ENODATA, "no address"))?;
    reach(&[to.to_string()])
}

fn answered(mut stream: TcpStream) -> Act {
    stream.set_read_timeout(Some(READ_TIMEOUT))?;
    let mut bytes = [0; 512];
    match stream.read(&mut bytes) {
        Ok(0) => Err(Refused::new(ECONNRESET, "closed without a word")),
        Ok(n) if String::from_utf8_lossy(&bytes[..n]).contains("X-Agentd-Reason: ") => {
            Err(Refused::new(EACCES, "403, with the reason"))
        }
        Ok(n) => Ok(String::from_utf8_lossy(&bytes[..n.min(40)]).into_owned()),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Err(Refused::new(ETIMEDOUT, "silence")),
        Err(error) => Err(error.into()),
    }
}

/// A name, a port, a request or several, and what the answer to the last of them holds. `%00` is a NUL byte, `%%` half
/// a second.
pub fn http(args: &[String]) -> Act {
    let port: u16 = args[1].parse().expect("a port");
    let mut stream = TcpStream::connect((addresses(&args[0])?[0], port))?;
    stream.set_read_timeout(Some(READ_TIMEOUT))?;
    for (number, part) in args[2].split("%%").enumerate() {
        std::thread::sleep(Duration::from_millis(if number == 0 { 0 } else { 500 }));
        // A refusal may come before all is written.
        stream.write_all(part.replace("%00", "\0").as_bytes()).ok();
    }
    until(stream, &args[3])
}

/// A name, a port, and the names that are asked for by HTTP/2 without TLS, one stream for each with `%%` between: once
/// the server has spoken, or with `first` before.
pub fn h2c(args: &[String]) -> Act {
    let port: u16 = args[1].parse().expect("a port");
    let mut stream = TcpStream::connect((addresses(&args[0])?[0], port))?;
    stream.set_read_timeout(Some(READ_TIMEOUT))?;
    let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
        [&[0, 0, u8::try_from(payload.len()).unwrap(), kind, flags, 0, 0, 0, stream][..], payload].concat()
    };
    let greeting = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(4, 0, 0, &[])].concat();
    let first = args.get(3).is_some_and(|arg| arg == "first");
    if first {
        stream.write_all(&greeting)?;
    }
    let mut settings = [0; 9];
    stream.read_exact(&mut settings)?;
    if !first {
        stream.write_all(&greeting).ok();
    }
    let mut last = "";
    for (number, name) in args[2].split("%%").enumerate() {
        // GET, http, /, and :authority as it is (RFC 7541 §6.1, §6.2.2).
        let fields =
            [&[0x82, 0x86, 0x84, 0x01, u8::try_from(name.len()).unwrap()][..], name.as_bytes()].concat();
        stream.write_all(&frame(1, 5, 2 * u8::try_from(number).unwrap() + 1, &fields)).ok();
        last = name;
    }
    until(stream, &format!("this is {last}"))
}

/// Reads until `wanted` is there.
fn until(mut stream: TcpStream, wanted: &str) -> Act {
    let mut answer = Vec::new();
    let mut bytes = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&answer).to_ascii_lowercase();
        if text.contains(wanted) {
            return Ok(wanted.to_owned());
        }
        if text.contains("403") && text.contains("x-agentd-reason") {
            return Err(Refused::new(EACCES, "403, with the reason"));
        }
        match stream.read(&mut bytes) {
            Ok(0) => return Err(Refused::new(ECONNRESET, text)),
            Ok(n) => answer.extend(&bytes[..n]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(Refused::new(ETIMEDOUT, text)),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Asks for a name until its address is the network's own, and goes there.
pub fn rebound(args: &[String]) -> Act {
    for _ in 0..8 {
        let found = addresses(&args[0])?;
        if let Some(private) = found.iter().find(|a| matches!(a, IpAddr::V4(v4) if v4.is_private())) {
            return reach(&[SocketAddr::new(*private, 80).to_string()]);
        }
    }
    Err(Refused::new(ENODATA, "public addresses alone"))
}

/// A datagram to an address.
pub fn udp_sent(args: &[String]) -> Act {
    let to: SocketAddr = args[0].parse().expect("an address and a port");
    let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    Ok(format!("{} bytes", socket.send_to(b"secret", to)?))
}

/// A datagram to a name whose address is pinned for something else.
pub fn pinned_udp(args: &[String]) -> Act {
    let to = SocketAddr::new(addresses(&args[0])?[0], args[1].parse().expect("a port"));
    udp_sent(&[to.to_string()])
}

/// What the session's own proxy says: to a request of HTTP, or `socks5`, a name and a port. `%00` is a NUL byte.
pub fn proxied(args: &[String]) -> Act {
    let mut stream = TcpStream::connect("127.0.0.1:3128")?;
    stream.set_read_timeout(Some(READ_TIMEOUT))?;
    if args[0] == "socks5" {
        return socks(stream, &args[1].replace("%00", "\0"), args[2].parse().expect("a port"));
    }
    stream.write_all(args[0].as_bytes())?;
    let mut answer = vec![0; 512];
    let n = stream.read(&mut answer)?;
    let text = String::from_utf8_lossy(&answer[..n]).into_owned();
    match text.split(' ').nth(1) {
        Some("200") => Ok(text),
        Some(_) => Err(Refused::new(EACCES, text)),
        None => Err(Refused::new(ECONNRESET, "closed without a word")),
    }
}

fn socks(mut stream: TcpStream, name: &str, port: u16) -> Act {
    stream.write_all(&[5, 1, 0])?;
    let mut chosen = [0; 2];
    stream.read_exact(&mut chosen)?;
    if chosen != [5, 0] {
        return Err(Refused::new(EINVAL, format!("{chosen:?} is no choice")));
    }
    let mut request = vec![5, 1, 0, 3, u8::try_from(name.len()).unwrap()];
    request.extend(name.as_bytes());
    request.extend(port.to_be_bytes());
    stream.write_all(&request)?;
    let mut answer = [0; 2];
    match stream.read_exact(&mut answer) {
        Ok(()) if answer[1] == 0 => Ok("connected".into()),
        Ok(()) => Err(Refused::new(EACCES, format!("reply {}", answer[1]))),
        Err(error) => Err(Refused::new(ECONNRESET, error.to_string())),
    }
}

/// A stream of another protocol than TCP's number.
fn stream_of(protocol: i32, to: &str) -> Act {
    let SocketAddr::V4(to) = to.parse().expect("an address and a port") else { panic!("an IPv4 address") };
    let mut address = u16::try_from(libc::AF_INET).unwrap().to_ne_bytes().to_vec();
    address.extend(to.port().to_be_bytes());
    address.extend(to.ip().octets());
    address.extend([0; 8]);
    let arguments = [libc::AF_INET.into(), libc::SOCK_STREAM.into(), protocol.into()];
    let socket = sys::open_call(libc::SYS_socket, arguments)?;
    let to = [socket.as_raw_fd().into(), Arg::In(&address), address.len().into()];
    sys::call(libc::SYS_connect, to)?;
    Ok("connected".into())
}

/// Multipath TCP (RFC 8684).
pub fn mptcp(args: &[String]) -> Act {
    stream_of(libc::IPPROTO_MPTCP, &args[0])
}

/// SCTP (RFC 9260).
pub fn sctp(args: &[String]) -> Act {
    stream_of(libc::IPPROTO_SCTP, &args[0])
}
