//! Sockets that a service manager listens on for us and hands over at our start (`sd_listen_fds(3)`): whoever connects
//! while there is no launcher waits for the next one.

use std::os::fd::{AsFd as _, OwnedFd, RawFd};

use agentd_kernel::inherited;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::net::{SocketAddrUnix, SocketType, sockopt};

use crate::settings::Settings;

/// The number of the first that is handed over.
const FIRST: RawFd = 3;
/// More than there are to hand over.
const MOST: RawFd = 16;
/// What others may do with a socket's name at most.
const MODE: u32 = 0o660;

/// The sockets that were handed over.
#[derive(Debug, Default)]
pub struct Sockets {
    /// For gRPC.
    pub clients: Option<OwnedFd>,
    /// For descriptors.
    pub offers: Option<OwnedFd>,
}

impl Sockets {
    /// Takes those that are meant for this process. None is no error.
    ///
    /// # Errors
    /// If one of them is not what we would have made.
    pub fn take(settings: &Settings) -> Result<Self, String> {
        let mut sockets = Self::default();
        for number in FIRST..FIRST + count()? {
            let socket = inherited::take(number).map_err(|e| format!("LISTEN_FDS: {e}"))?;
            let fail = |what: String| format!("socket {number} of the service manager {what}");
            let (path, kind) =
                listens_on(&socket).map_err(|e| fail(format!("is none to accept from: {e}")))?;
            let config = &settings.config;
            let place = match kind {
                SocketType::STREAM if path == config.socket.as_str() => &mut sockets.clients,
                SocketType::SEQPACKET if path == config.offer_socket() => &mut sockets.offers,
                _ => {
                    return Err(fail(format!(
                        "listens on {path}, which is not what agentd.toml says: set ListenStream={} and \
                         ListenSequentialPacket={} in the socket units, or mask them",
                        config.socket,
                        config.offer_socket()
                    )));
                }
            };
            check_name(&path, settings.socket_gid).map_err(&fail)?;
            let flags = rustix::fs::fcntl_getfl(&socket).map_err(|e| fail(e.to_string()))?;
            rustix::fs::fcntl_setfl(&socket, flags | OFlags::NONBLOCK).map_err(|e| fail(e.to_string()))?;
            if place.replace(socket).is_some() {
                return Err(fail(format!("listens on {path} as another one does")));
            }
        }
        Ok(sockets)
    }
}

/// How many were handed over to this very process.
fn count() -> Result<RawFd, String> {
    let own = std::env::var("LISTEN_PID").is_ok_and(|pid| pid == std::process::id().to_string());
    match std::env::var("LISTEN_FDS") {
        Ok(count) if own => {
            let count = count.parse().ok().filter(|count| (0..=MOST).contains(count));
            count.ok_or_else(|| format!("LISTEN_FDS is not a number from 0 to {MOST}"))
        }
        _ => Ok(0),
    }
}

/// The path and the type of a Unix socket that listens.
fn listens_on(socket: &OwnedFd) -> Result<(String, SocketType), String> {
    let text = |e: rustix::io::Errno| e.to_string();
    let kind = sockopt::socket_type(socket).map_err(text)?;
    if !sockopt::socket_acceptconn(socket).map_err(text)? {
        return Err("it does not listen".into());
    }
    let name = rustix::net::getsockname(socket.as_fd()).map_err(text)?;
    let name = SocketAddrUnix::try_from(name).map_err(|_| "it is not a Unix socket".to_owned())?;
    let path = name.path().ok_or("it has no path")?;
    Ok((path.to_str().map_err(|_| "its path is not UTF-8")?.to_owned(), kind))
}

/// The name must let in nobody whom ours would not.
fn check_name(path: &str, group: u32) -> Result<(), String> {
    let stat = rustix::fs::lstat(path).map_err(|e| format!("has no name {path}: {e}"))?;
    let mode = Mode::from_raw_mode(stat.st_mode).as_raw_mode() & 0o777;
    let is_socket = FileType::from_raw_mode(stat.st_mode) == FileType::Socket;
    let foreign_group = mode & 0o070 != 0 && stat.st_gid != group && stat.st_gid != 0;
    if is_socket && stat.st_uid == 0 && mode & !MODE == 0 && !foreign_group {
        return Ok(());
    }
    Err(format!(
        "has {path} with uid {}, gid {}, mode {mode:o}: set SocketUser=root, SocketMode=0660 and SocketGroup= as \
         socket_group in agentd.toml",
        stat.st_uid, stat.st_gid
    ))
}
