//! Ports of the host's loopback: of 127.0.0.1 and ::1, whichever a server listens on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use agentd_policy::egress::Purpose;

use super::close::CloseReason;
use super::tcp::Connection;

/// Both, that of the same family as `address` first.
pub fn loopbacks(address: IpAddr) -> [IpAddr; 2] {
    let (four, six) = (IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST));
    if address.is_ipv4() { [four, six] } else { [six, four] }
}

/// Connects to the same port of the host's and carries all.
pub async fn serve(connection: &Connection) -> Result<(), CloseReason> {
    let to = connection.to();
    let [first, _] = loopbacks(to.ip());
    connection.set_to(SocketAddr::new(first, to.port()));
    let server = connection.dial(Purpose::Local).await?;
    connection.copy(&server, &[]).await
}
