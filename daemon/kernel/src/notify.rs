//! Messages to a service manager (`sd_notify(3)`), without ever waiting for it: one that does not read
//! delays nothing.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Sends `message`, lines as `sd_notify(3)` has them, to the manager that `NOTIFY_SOCKET` names; without one, to
/// nobody.
///
/// # Errors
/// As `sendto(2)`: `EAGAIN` if the manager has not read what was sent before.
pub fn notify(message: &str) -> io::Result<()> {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
        return Ok(());
    };
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(&name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.send_to_addr(message.as_bytes(), &address).map(drop)
}
