//! Ways out: every address is denied at once, and each denial is an event.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use libc::{EACCES, ECONNREFUSED, ENETUNREACH, ENODATA, EPERM};

use super::case::{Act, Case, Outside, Refused, case};
use super::sys::{self, Arg};

const AT_ONCE: &[i32] = &[ECONNREFUSED];
const UNSENT: &[i32] = &[EPERM];
/// What `getaddrinfo` makes of NXDOMAIN.
const NO_NAME: &[i32] = &[ENODATA];
const UNASKED: Outside = Outside::Nowhere("the test sends no packet to the host's network");
const OUT: &str = "data out of the session, and orders into it";
const METADATA: &str = "the cloud's credentials of this machine";

macro_rules! denied {
    ($protocol:literal, $address:literal, $port:literal) => {
        &[
            ("/net/protocol", $protocol),
            ("/net/address", $address),
            ("/net/port", $port),
            ("/decision", "deny"),
            ("/rule", "default"),
        ]
    };
}

macro_rules! unknown {
    ($name:literal) => {
        &[("/dns/name", $name), ("/dns/type", "A"), ("/decision", "deny"), ("/rule", "network.none")]
    };
}

pub const CASES: &[Case] = &[
    case("tcp_ipv4", tcp, &["192.0.2.10:443"], AT_ONCE, Outside::Apart, OUT)
        .seen("net.denied", denied!("tcp", "192.0.2.10", "443")),
    case("tcp_ipv6", tcp, &["[2001:db8::10]:443"], AT_ONCE, Outside::Apart, OUT)
        .seen("net.denied", denied!("tcp", "2001:db8::10", "443")),
    case(
        "tcp_mapped",
        tcp,
        &["[::ffff:192.0.2.11]:443"],
        AT_ONCE,
        Outside::Apart,
        "a rule for IPv4 passed by an IPv6 socket",
    )
    .seen("net.denied", denied!("tcp", "192.0.2.11", "443")),
    case("tcp_private", tcp, &["10.0.0.1:80"], AT_ONCE, Outside::Apart, "the network that the host is in")
        .seen("net.denied", denied!("tcp", "10.0.0.1", "80")),
    case("tcp_metadata", tcp, &["169.254.169.254:80"], AT_ONCE, Outside::Apart, METADATA)
        .seen("net.denied", denied!("tcp", "169.254.169.254", "80"))
        .origin("the Capital One breach of 2019"),
    case("tcp_metadata_ipv6", tcp, &["[fd00:ec2::254]:80"], AT_ONCE, Outside::Apart, METADATA)
        .seen("net.denied", denied!("tcp", "fd00:ec2::254", "80")),
    case(
        "tcp_fast_open",
        fast_open,
        &["192.0.2.12:443"],
        AT_ONCE,
        Outside::Apart,
        "data in the very first packet",
    )
    .seen("net.denied", denied!("tcp", "192.0.2.12", "443")),
    case(
        "tcp_from_port_53",
        tcp_from,
        &["53", "192.0.2.13:443"],
        &[ECONNREFUSED, EACCES],
        Outside::Apart,
        "a rule for DNS passed by its source port",
    ),
    case(
        "tcp_dns",
        question,
        &["8.8.8.8", "tcp", "tcp.example.org"],
        NO_NAME,
        UNASKED,
        "a tunnel through DNS over TCP",
    )
    .seen("dns.query", unknown!("tcp.example.org")),
    case("udp_ipv4", udp, &["192.0.2.14:443"], UNSENT, Outside::Apart, OUT)
        .seen("net.denied", denied!("udp", "192.0.2.14", "443")),
    case("udp_ipv6", udp, &["[2001:db8::14]:443"], UNSENT, Outside::Apart, OUT)
        .seen("net.denied", denied!("udp", "2001:db8::14", "443")),
    case(
        "udp_dns",
        question,
        &["8.8.8.8", "udp", "udp.example.org"],
        NO_NAME,
        UNASKED,
        "a tunnel through DNS",
    )
    .seen("dns.query", unknown!("udp.example.org")),
    case(
        "udp_connected",
        question,
        &["192.0.2.15", "connected", "connected.example.org"],
        NO_NAME,
        UNASKED,
        OUT,
    )
    .seen("dns.query", unknown!("connected.example.org")),
    case("udp_connected_elsewhere", udp_connected, &["192.0.2.15:443"], UNSENT, Outside::Apart, OUT)
        .seen("net.denied", denied!("udp", "192.0.2.15", "443")),
    case(
        "udp_multicast",
        udp,
        &["224.0.0.251:5353"],
        &[EPERM, ENETUNREACH],
        Outside::Nowhere("no multicast route apart"),
        "services of the host's network",
    ),
    case(
        "udp_broadcast",
        broadcast,
        &["255.255.255.255:67"],
        &[EPERM, ENETUNREACH, EACCES],
        Outside::Nowhere("no broadcast route apart"),
        "the same",
    ),
    case(
        "udp_options",
        udp_source_route,
        &["192.0.2.16:443"],
        &[EPERM, EACCES],
        Outside::Apart,
        "another way by source routing",
    ),
    case(
        "dns_name",
        resolve,
        &["secret.example.org:443"],
        NO_NAME,
        UNASKED,
        "a tunnel through the host's resolver",
    )
    .seen("dns.query", unknown!("secret.example.org")),
    case(
        "bind_elsewhere",
        bind,
        &["192.0.2.18:0"],
        &[libc::EADDRNOTAVAIL],
        Outside::Nowhere("the host has no such address either"),
        "a server in another's name, and programs that take a free address for theirs",
    ),
    case("ping_socket", ping, &["192.0.2.17"], &[EPERM, EACCES], Outside::Apart, "a tunnel through ICMP"),
    case(
        "host_loopback",
        tcp,
        &["127.0.0.1:{host_port}"],
        AT_ONCE,
        Outside::User,
        "the host's own services: databases, debuggers",
    ),
    case("host_loopback_ipv6", tcp, &["[::1]:{host_port}"], AT_ONCE, Outside::User, "the same"),
    case(
        "host_any",
        tcp,
        &["0.0.0.0:{host_port}"],
        AT_ONCE,
        Outside::User,
        "the same, by the address that means this host",
    ),
    case("transparent", transparent, &[], &[EPERM], Outside::Apart, "packets in others' names"),
    case(
        "interfaces",
        interfaces,
        &[],
        &[libc::ENOENT],
        Outside::Nowhere("apart there is none either"),
        "an interface to the outside",
    ),
    case("interface_down", interface_flags, &[], &[EPERM], Outside::Apart, "a network of our own making"),
];

/// How long an answer may take.
const ANSWERED: Duration = Duration::from_secs(5);
/// Longer than this is a time-out, not a refusal.
const PROMPT: Duration = Duration::from_millis(500);

fn promptly(act: impl FnOnce() -> std::io::Result<String>) -> Act {
    let start = Instant::now();
    let result = act();
    let took = start.elapsed();
    if result.is_err() && took > PROMPT {
        return Err(Refused::new(libc::ETIMEDOUT, format!("refused only after {took:?}")));
    }
    Ok(result?)
}

fn address(args: &[String]) -> SocketAddr {
    args[0].parse().expect("an address and port")
}

fn tcp(args: &[String]) -> Act {
    let address = address(args);
    promptly(|| TcpStream::connect(address).map(|_| "connected".into()))
}

/// An IPv4 socket address for a call.
fn sockaddr(address: SocketAddr) -> Vec<u8> {
    let SocketAddr::V4(v4) = address else { panic!("an IPv4 address") };
    let mut bytes = u16::try_from(libc::AF_INET).unwrap().to_ne_bytes().to_vec();
    bytes.extend(v4.port().to_be_bytes());
    bytes.extend(v4.ip().octets());
    bytes.extend([0; 8]);
    bytes
}

fn fast_open(args: &[String]) -> Act {
    let to = sockaddr(address(args));
    let socket =
        sys::open_call(libc::SYS_socket, [libc::AF_INET.into(), libc::SOCK_STREAM.into(), 0.into()])?;
    promptly(|| {
        let data = b"secret";
        let flags = libc::MSG_FASTOPEN;
        let arguments = [
            socket.as_raw_fd().into(),
            Arg::In(data),
            data.len().into(),
            flags.into(),
            Arg::In(&to),
            to.len().into(),
        ];
        sys::call(libc::SYS_sendto, arguments).map(|count| format!("{count} bytes"))
    })
}

fn tcp_from(args: &[String]) -> Act {
    let port: u16 = args[0].parse().expect("a port");
    let (from, to) = (sockaddr((Ipv4Addr::UNSPECIFIED, port).into()), sockaddr(address(&args[1..])));
    let socket =
        sys::open_call(libc::SYS_socket, [libc::AF_INET.into(), libc::SOCK_STREAM.into(), 0.into()])?;
    let reuse = 1i32.to_ne_bytes();
    let option = [libc::SOL_SOCKET, libc::SO_REUSEPORT];
    let set =
        [socket.as_raw_fd().into(), option[0].into(), option[1].into(), Arg::In(&reuse), reuse.len().into()];
    sys::call(libc::SYS_setsockopt, set)?;
    // Apart a server of ours has that port; any other shows the same there.
    if sys::call(libc::SYS_bind, [socket.as_raw_fd().into(), Arg::In(&from), from.len().into()])
        .is_err_and(|error| error.raw_os_error() != Some(libc::EADDRINUSE))
    {
        return Err(Refused::new(EACCES, "the port is not ours"));
    }
    promptly(|| {
        let arguments = [socket.as_raw_fd().into(), Arg::In(&to), to.len().into()];
        sys::call(libc::SYS_connect, arguments).map(|_| "connected".into())
    })
}

fn any_for(address: SocketAddr) -> &'static str {
    if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }
}

fn udp(args: &[String]) -> Act {
    let address = address(args);
    promptly(|| UdpSocket::bind(any_for(address))?.send_to(b"secret", address).map(|n| format!("{n} bytes")))
}

fn udp_connected(args: &[String]) -> Act {
    let address = address(args);
    promptly(|| {
        let socket = UdpSocket::bind(any_for(address))?;
        socket.connect(address)?;
        socket.send(b"secret").map(|n| format!("{n} bytes"))
    })
}

fn bind(args: &[String]) -> Act {
    let listener = std::net::TcpListener::bind(address(args))?;
    Ok(format!("bound to {}", listener.local_addr()?))
}

fn broadcast(args: &[String]) -> Act {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_broadcast(true)?;
    Ok(format!("{} bytes", socket.send_to(b"secret", address(args))?))
}

fn udp_source_route(args: &[String]) -> Act {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    // IPOPT_LSRR by 192.0.2.1; kernels refuse it from unprivileged users or drop it on the way.
    let option = [131u8, 7, 4, 192, 0, 2, 1, 0];
    let arguments = [
        socket.as_raw_fd().into(),
        libc::IPPROTO_IP.into(),
        libc::IP_OPTIONS.into(),
        Arg::In(&option),
        8.into(),
    ];
    sys::call(libc::SYS_setsockopt, arguments).ok();
    Ok(format!("{} bytes", socket.send_to(b"secret", address(args))?))
}

/// A server, how it is asked, and a name. Whoever is asked, the answer is there at once: there is no such name.
fn question(args: &[String]) -> Act {
    promptly(|| match ask(&args[0], &args[1], &args[2])? {
        3 => Err(std::io::Error::from_raw_os_error(ENODATA)),
        code => Ok(format!("code {code}")),
    })
}

/// Asks for an address of IPv4; the code of the answer.
fn ask(server: &str, way: &str, name: &str) -> std::io::Result<u8> {
    let mut query = b"\x2a\x2a\x01\0\0\x01\0\0\0\0\0\0".to_vec();
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).unwrap());
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    let server = SocketAddr::new(server.parse().expect("an address"), 53);
    let mut reply = [0; 512];
    if way == "tcp" {
        let mut stream = TcpStream::connect(server)?;
        stream.set_read_timeout(Some(ANSWERED))?;
        stream.write_all(&[&u16::try_from(query.len()).unwrap().to_be_bytes()[..], &query].concat())?;
        stream.read_exact(&mut reply[..2 + 12])?;
        return Ok(reply[2 + 3] & 0xf);
    }
    let socket = UdpSocket::bind(any_for(server))?;
    socket.set_read_timeout(Some(ANSWERED))?;
    match way {
        "connected" => {
            socket.connect(server)?;
            socket.send(&query)?;
        }
        _ => {
            socket.send_to(&query, server)?;
        }
    }
    socket.recv(&mut reply)?;
    Ok(reply[3] & 0xf)
}

fn resolve(args: &[String]) -> Act {
    match args[0].to_socket_addrs() {
        Ok(found) => Ok(format!("{:?}", found.collect::<Vec<_>>())),
        Err(error) => Err(Refused::new(ENODATA, error.to_string())),
    }
}

pub fn ping(args: &[String]) -> Act {
    let to = sockaddr(SocketAddr::new(args[0].parse().expect("an address"), 0));
    let kinds = [(libc::SOCK_DGRAM, libc::IPPROTO_ICMP), (libc::SOCK_RAW, libc::IPPROTO_ICMP)];
    let mut last = Refused::new(0, "");
    for (kind, protocol) in kinds {
        let echo = [8, 0, 0xf7, 0xff, 0, 0, 0, 0];
        let sent = sys::open_call(libc::SYS_socket, [libc::AF_INET.into(), kind.into(), protocol.into()])
            .and_then(|s| {
                let arguments = [
                    s.as_raw_fd().into(),
                    Arg::In(&echo),
                    echo.len().into(),
                    0.into(),
                    Arg::In(&to),
                    to.len().into(),
                ];
                sys::call(libc::SYS_sendto, arguments)
            });
        match sent {
            Ok(count) => return Ok(format!("{count} bytes")),
            Err(error) => last = error.into(),
        }
    }
    Err(last)
}

fn transparent(_: &[String]) -> Act {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    let on = 1i32.to_ne_bytes();
    let arguments = [
        socket.as_raw_fd().into(),
        libc::IPPROTO_IP.into(),
        libc::IP_TRANSPARENT.into(),
        Arg::In(&on),
        4.into(),
    ];
    sys::call(libc::SYS_setsockopt, arguments)?;
    Ok("set".into())
}

fn interfaces(_: &[String]) -> Act {
    let text = std::fs::read_to_string("/proc/self/net/dev")?;
    let others: Vec<_> = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, _)| name.trim())
        .filter(|name| *name != "lo")
        .collect();
    if others.is_empty() { Err(Refused::new(libc::ENOENT, "lo only")) } else { Ok(format!("{others:?}")) }
}

fn interface_flags(_: &[String]) -> Act {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    // struct ifreq: a name of 16 bytes, then flags: none, so that the interface goes down.
    let mut request = [0; 40];
    request[..2].copy_from_slice(b"lo");
    sys::call(
        libc::SYS_ioctl,
        [socket.as_raw_fd().into(), libc::SIOCSIFFLAGS.cast_signed().into(), Arg::Out(&mut request)],
    )?;
    Ok("down".into())
}
