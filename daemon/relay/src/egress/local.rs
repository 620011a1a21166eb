//! Ports of the host's loopback.

use std::net::{Ipv4Addr, SocketAddr};

use agentd_policy::egress::Purpose;

use super::end::End;
use super::tcp::Connection;

/// Connects to the same port of the host's and carries all.
pub async fn serve(connection: &Connection) -> Result<(), End> {
    connection.set_to(SocketAddr::from((Ipv4Addr::LOCALHOST, connection.to().port())));
    let server = connection.dial(Purpose::Local).await?;
    connection.copy(&server, &[]).await
}
