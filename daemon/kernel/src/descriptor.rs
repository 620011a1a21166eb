//! What a descriptor is that another process sent: asked of the kernel before it is used.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, OFlags, fcntl_getfl, fstat};
use rustix::net::{AddressFamily, Protocol, SocketType, sockopt};

/// The device that pseudo-terminals are made by, `/dev/ptmx`, as every master says that it is.
const PTMX: (u32, u32) = (5, 2);

/// A version of the Internet protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ip {
    /// Version 4, of 32-bit addresses.
    V4,
    /// Version 6, of 128-bit addresses.
    V6,
}

impl Ip {
    /// Both, in the order in which messages have them.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    fn family(self) -> AddressFamily {
        match self {
            Self::V4 => AddressFamily::INET,
            Self::V6 => AddressFamily::INET6,
        }
    }
}

/// What a descriptor has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is explained by its text")]
pub enum Kind {
    UnixStream,
    UnixPackets,
    /// Of any address family: a Unix socket, or one of TCP.
    Listener,
    Tcp(Ip),
    TcpListener(Ip),
    Udp(Ip),
    Raw(Ip),
    Netfilter,
    SockDiag,
    PipeReader,
    PipeWriter,
    TerminalMaster,
    Directory,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (text, ip) = match self {
            Self::UnixStream => ("a Unix stream socket", None),
            Self::UnixPackets => ("a Unix packet socket", None),
            Self::Listener => ("a socket that listens", None),
            Self::Tcp(ip) => ("a TCP socket", Some(ip)),
            Self::TcpListener(ip) => ("a TCP socket that listens", Some(ip)),
            Self::Udp(ip) => ("a UDP socket", Some(ip)),
            Self::Raw(ip) => ("a raw socket", Some(ip)),
            Self::Netfilter => ("a netfilter socket", None),
            Self::SockDiag => ("a sock_diag socket", None),
            Self::PipeReader => ("a pipe to read from", None),
            Self::PipeWriter => ("a pipe to write to", None),
            Self::TerminalMaster => ("the master of a terminal", None),
            Self::Directory => ("a directory", None),
        };
        f.write_str(text)?;
        match ip {
            Some(Ip::V4) => f.write_str(" (IPv4)"),
            Some(Ip::V6) => f.write_str(" (IPv6)"),
            None => Ok(()),
        }
    }
}

/// A descriptor that is not what its message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a descriptor that is not {0}")]
pub struct WrongKind(pub Kind);

impl From<WrongKind> for std::io::Error {
    fn from(error: WrongKind) -> Self {
        Self::other(error)
    }
}

impl Kind {
    /// Whether `fd` is of this kind.
    ///
    /// # Errors
    /// If it is not, or the kernel does not say.
    pub fn check(self, fd: impl AsFd) -> Result<(), WrongKind> {
        if self.is(fd.as_fd()) == Ok(true) { Ok(()) } else { Err(WrongKind(self)) }
    }

    /// `fd`, if it is of this kind; else it is closed.
    ///
    /// # Errors
    /// As [`Kind::check`].
    pub fn take(self, fd: OwnedFd) -> Result<OwnedFd, WrongKind> {
        self.check(&fd).map(|()| fd)
    }

    fn is(self, fd: BorrowedFd<'_>) -> rustix::io::Result<bool> {
        match self {
            Self::UnixStream => socket(fd, AddressFamily::UNIX, SocketType::STREAM, false),
            Self::UnixPackets => socket(fd, AddressFamily::UNIX, SocketType::SEQPACKET, false),
            Self::Listener => sockopt::socket_acceptconn(fd),
            Self::Tcp(ip) => tcp(fd, ip, false),
            Self::TcpListener(ip) => tcp(fd, ip, true),
            Self::Udp(ip) => socket(fd, ip.family(), SocketType::DGRAM, false),
            Self::Raw(ip) => socket(fd, ip.family(), SocketType::RAW, false),
            Self::Netfilter => netlink(fd, rustix::net::netlink::NETFILTER),
            Self::SockDiag => netlink(fd, rustix::net::netlink::SOCK_DIAG),
            Self::PipeReader => pipe(fd, OFlags::RDONLY),
            Self::PipeWriter => pipe(fd, OFlags::WRONLY),
            Self::TerminalMaster => {
                let stat = fstat(fd)?;
                let device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
                Ok(file_type(stat.st_mode) == FileType::CharacterDevice && device == PTMX)
            }
            Self::Directory => Ok(file_type(fstat(fd)?.st_mode) == FileType::Directory),
        }
    }
}

fn file_type(mode: u32) -> FileType {
    FileType::from_raw_mode(mode)
}

fn socket(
    fd: BorrowedFd<'_>,
    family: AddressFamily,
    kind: SocketType,
    listens: bool,
) -> rustix::io::Result<bool> {
    Ok(sockopt::socket_domain(fd)? == family
        && sockopt::socket_type(fd)? == kind
        && sockopt::socket_acceptconn(fd)? == listens)
}

fn tcp(fd: BorrowedFd<'_>, ip: Ip, listens: bool) -> rustix::io::Result<bool> {
    Ok(socket(fd, ip.family(), SocketType::STREAM, listens)?
        && sockopt::socket_protocol(fd)? == Some(rustix::net::ipproto::TCP))
}

fn netlink(fd: BorrowedFd<'_>, protocol: Protocol) -> rustix::io::Result<bool> {
    Ok(sockopt::socket_domain(fd)? == AddressFamily::NETLINK
        && sockopt::socket_protocol(fd)? == Some(protocol))
}

fn pipe(fd: BorrowedFd<'_>, access: OFlags) -> rustix::io::Result<bool> {
    Ok(file_type(fstat(fd)?.st_mode) == FileType::Fifo && fcntl_getfl(fd)? & OFlags::ACCMODE == access)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::unix::net::{UnixListener, UnixStream};

    use rustix::net::{SocketFlags, netlink};

    use super::*;

    /// One of each kind that needs no right to make.
    fn all() -> Vec<(Kind, OwnedFd)> {
        let (stream, _) = UnixStream::pair().unwrap();
        let (packets, _) = crate::packets::Packets::pair().unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let listeners = ["127.0.0.1:0", "[::1]:0"].map(|at| TcpListener::bind(at).unwrap());
        let connected = listeners
            .each_ref()
            .map(|to| OwnedFd::from(TcpStream::connect(to.local_addr().unwrap()).unwrap()));
        let datagrams = ["127.0.0.1:0", "[::1]:0"].map(|at| OwnedFd::from(UdpSocket::bind(at).unwrap()));
        let of_netlink = |protocol| {
            let (family, flags) = (AddressFamily::NETLINK, SocketFlags::CLOEXEC);
            rustix::net::socket_with(family, SocketType::RAW, flags, Some(protocol)).unwrap()
        };
        let master = rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR).unwrap();
        let mut all = vec![
            (Kind::UnixStream, stream.into()),
            (Kind::UnixPackets, packets.into_fd()),
            (Kind::Netfilter, of_netlink(netlink::NETFILTER)),
            (Kind::SockDiag, of_netlink(netlink::SOCK_DIAG)),
            (Kind::PipeReader, reader),
            (Kind::PipeWriter, writer),
            (Kind::TerminalMaster, master),
            (Kind::Directory, std::fs::File::open("/").unwrap().into()),
        ];
        all.extend(Ip::BOTH.map(Kind::TcpListener).into_iter().zip(listeners.map(OwnedFd::from)));
        all.extend(Ip::BOTH.map(Kind::Tcp).into_iter().zip(connected));
        all.extend(Ip::BOTH.map(Kind::Udp).into_iter().zip(datagrams));
        all
    }

    #[test]
    fn each_is_of_its_own_kind_and_of_no_other() {
        let all = all();
        for (kind, fd) in &all {
            for (other, _) in &all {
                assert_eq!(other.check(fd).is_ok(), kind == other, "{kind} as {other}");
            }
            assert_eq!(Kind::Listener.check(fd).is_ok(), matches!(kind, Kind::TcpListener(_)), "{kind}");
            assert_eq!(Kind::Raw(Ip::V4).check(fd), Err(WrongKind(Kind::Raw(Ip::V4))), "{kind}");
        }
    }

    #[test]
    fn what_is_like_it_is_not_it() {
        let dir = std::env::temp_dir().join(format!("agentd-descriptor-{}", std::process::id()));
        let listener = UnixListener::bind(&dir).unwrap();
        std::fs::remove_file(&dir).unwrap();
        assert_eq!(Kind::Listener.check(&listener), Ok(()));
        assert!(Kind::UnixStream.check(&listener).is_err());
        let null = std::fs::File::open("/dev/null").unwrap();
        for kind in [Kind::TerminalMaster, Kind::PipeReader, Kind::Directory, Kind::UnixStream] {
            assert_eq!(kind.take(null.try_clone().unwrap().into()).unwrap_err(), WrongKind(kind));
        }
        assert_eq!(WrongKind(Kind::Tcp(Ip::V6)).to_string(), "a descriptor that is not a TCP socket (IPv6)");
    }
}
