//! Sockets that a service manager listens on for us and hands over at our start (`sd_listen_fds(3)`): a client that
//! connects while there is no launcher waits for the next one.

use std::fmt::Display;
use std::os::fd::{AsFd as _, OwnedFd, RawFd};

use agentd_kernel::inherited;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::net::{SocketAddrUnix, SocketType, sockopt};

use crate::settings::Settings;
use agentd_session::error::{HostError, On as _};

/// The number of the first that is handed over.
const FIRST: RawFd = 3;
/// More than there are to hand over.
const MOST: RawFd = 16;
/// What others may do with a socket's name at most.
const MODE: u32 = 0o660;

/// The sockets that were handed over.
#[derive(Debug, Default)]
pub struct Sockets {
    /// A stream on which clients connect for gRPC.
    pub clients: Option<OwnedFd>,
    /// Sequential packets, with which clients offer descriptors.
    pub offers: Option<OwnedFd>,
}

impl Sockets {
    /// Takes those that are meant for this process. None is no error.
    ///
    /// # Errors
    /// If one of them is not what we would have made.
    pub fn take(settings: &Settings) -> Result<Self, HostError> {
        let mut sockets = Self::default();
        for number in FIRST..FIRST + count()? {
            let socket = inherited::take(number).map_err(|e| HostError::unfit(format!("LISTEN_FDS: {e}")))?;
            let fail = |what: &dyn Display| {
                HostError::unfit(format!("socket {number} of the service manager {what}"))
            };
            let (path, kind) =
                listens_on(&socket).map_err(|e| fail(&format_args!("is none to accept from: {e}")))?;
            let config = &settings.config;
            let place = match kind {
                SocketType::STREAM if path == config.socket.as_str() => &mut sockets.clients,
                SocketType::SEQPACKET if path == config.offer_socket() => &mut sockets.offers,
                _ => {
                    return Err(fail(&format_args!(
                        "listens on {path}, which is not what agentd.toml says: set ListenStream={} and \
                         ListenSequentialPacket={} in the socket units, or mask them",
                        config.socket,
                        config.offer_socket()
                    )));
                }
            };
            check_name(&path, settings.socket_gid).map_err(|e| fail(&e))?;
            let flags = rustix::fs::fcntl_getfl(&socket).map_err(|e| fail(&e))?;
            rustix::fs::fcntl_setfl(&socket, flags | OFlags::NONBLOCK).map_err(|e| fail(&e))?;
            if place.replace(socket).is_some() {
                return Err(fail(&format_args!("listens on {path} as another one does")));
            }
        }
        Ok(sockets)
    }
}

/// How many were handed over to this very process.
fn count() -> Result<RawFd, HostError> {
    let own = std::env::var("LISTEN_PID").is_ok_and(|pid| pid == std::process::id().to_string());
    match std::env::var("LISTEN_FDS") {
        Ok(count) if own => {
            let count = count.parse().ok().filter(|count| (0..=MOST).contains(count));
            count.ok_or_else(|| HostError::unfit(format!("LISTEN_FDS is not a number from 0 to {MOST}")))
        }
        _ => Ok(0),
    }
}

/// The path and the type of a Unix socket that listens.
fn listens_on(socket: &OwnedFd) -> Result<(String, SocketType), HostError> {
    let kind = sockopt::socket_type(socket)?;
    if !sockopt::socket_acceptconn(socket)? {
        return Err(HostError::unfit("it does not listen"));
    }
    let name = rustix::net::getsockname(socket.as_fd())?;
    let name = SocketAddrUnix::try_from(name).map_err(|_| HostError::unfit("it is not a Unix socket"))?;
    let path = name.path().ok_or(HostError::unfit("it has no path"))?;
    Ok((path.to_str().map_err(|_| HostError::unfit("its path is not UTF-8"))?.to_owned(), kind))
}

/// The name must let in nobody whom ours would not.
fn check_name(path: &str, group: u32) -> Result<(), HostError> {
    let stat = rustix::fs::lstat(path).on(format_args!("has no name {path}"))?;
    let mode = Mode::from_raw_mode(stat.st_mode).as_raw_mode() & 0o777;
    let is_socket = FileType::from_raw_mode(stat.st_mode) == FileType::Socket;
    let foreign_group = mode & 0o070 != 0 && stat.st_gid != group && stat.st_gid != 0;
    if is_socket && stat.st_uid == 0 && mode & !MODE == 0 && !foreign_group {
        return Ok(());
    }
    Err(HostError::unfit(format!(
        "has {path} with uid {}, gid {}, mode {mode:o}: set SocketUser=root, SocketMode=0660 and SocketGroup= as \
         socket_group in agentd.toml",
        stat.st_uid, stat.st_gid
    )))
}
