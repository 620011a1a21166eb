//! SOCKS 5 (RFC 1928), without authentication.

use agentd_policy::rule::Rule;
use agentd_protocols::authority::Host;
use agentd_protocols::socks::{self, Reply, SocksError};
use rustix::io::Errno;

use super::super::close::CloseReason;
use super::super::copy;
use super::super::judge::{Refusal, RejectWith};
use super::super::tcp::Connection;
use super::{more, open};

/// Negotiates, and reads a request.
pub async fn read_request(connection: &Connection, held: &mut Vec<u8>) -> Result<(Host, u16), CloseReason> {
    let greeting = loop {
        match socks::greeting(held) {
            Ok(Some(length)) => break length,
            Ok(None) => more(connection, held).await?,
            Err(error) => {
                if error == SocksError::Method {
                    copy::linger(&connection.client, &socks::NO_METHOD).await;
                }
                return Err(CloseReason::Reset);
            }
        }
    };
    held.drain(..greeting);
    copy::write(&connection.client, &socks::GREETED).await?;
    loop {
        match socks::request(held) {
            Ok(Some((host, port, length))) => {
                held.drain(..length);
                return Ok((host, port));
            }
            Ok(None) => more(connection, held).await?,
            Err(error) => {
                copy::linger(&connection.client, &error.reply().message(None)).await;
                return Err(Refusal::new(RejectWith::Plain, Rule::SocksMalformed, error.to_string()).into());
            }
        }
    }
}

/// Connects, and answers whether it did.
pub async fn serve(connection: &Connection, host: Host, port: u16, held: Vec<u8>) -> Result<(), CloseReason> {
    match open(connection, &host, port, None).await {
        Ok(server) => {
            copy::write(&connection.client, &Reply::Succeeded.message(None)).await?;
            connection.carry(held, Some(server)).await
        }
        Err(end) => {
            let reply = match &end {
                CloseReason::Refused(_) => Reply::NotAllowed,
                CloseReason::Failed(failure) => socks_reply(failure.errno),
                _ => Reply::Failure,
            };
            copy::linger(&connection.client, &reply.message(None)).await;
            Err(end)
        }
    }
}

/// The reply that stands for `errno` (RFC 1928 §6).
fn socks_reply(errno: Errno) -> Reply {
    match errno {
        Errno::ACCESS => Reply::NotAllowed,
        Errno::NETUNREACH => Reply::NetworkUnreachable,
        Errno::HOSTUNREACH => Reply::HostUnreachable,
        Errno::CONNREFUSED => Reply::Refused,
        Errno::TIMEDOUT => Reply::Expired,
        _ => Reply::Failure,
    }
}
