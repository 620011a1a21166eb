//! Protocols that name no host: all bytes as they are, unless the client's first line becomes a request after all.

use agentd_policy::rule::Rule;
use agentd_protocols::http::{Sniff, Watch};

use super::close::CloseReason;
use super::copy::{self, Direction};
use super::detect::{Detected, ProtocolDetector};
use super::judge::{Refusal, RejectWith};
use super::tcp::Connection;
use crate::Endpoint;

/// Carries it: `held` and all that follows. While its first line has no end, `watch` sees what goes on.
pub async fn carry(
    connection: &Connection,
    server: &Endpoint,
    held: Vec<u8>,
    watch: Option<Watch>,
) -> Result<(), CloseReason> {
    let (mut up, mut down) = connection.directions(server);
    let requests = async {
        up.write(&held).await?;
        drop(held);
        rest(connection, &mut up, watch).await
    };
    tokio::try_join!(requests, async { Ok(down.drain().await?) })?;
    Ok(())
}

/// Carries a connection whose server has spoken first, or whose client waits for an answer to `held`, a line without an
/// end: what the server sends goes on while the client's first bytes are looked at. Such a server speaks neither TLS
/// nor HTTP/1, but perhaps HTTP/2, or it has sent a slow client something and still reads.
pub async fn behind(
    connection: &Connection,
    server: &Endpoint,
    mut held: Vec<u8>,
) -> Result<(), CloseReason> {
    let (mut up, mut down) = connection.directions(server);
    let requests = async {
        let mut detector = ProtocolDetector::default();
        up.write(&held).await?;
        loop {
            let before = held.len();
            if copy::read(&connection.client, &mut held, copy::CHUNK).await? == 0 {
                return Ok(up.end()?);
            }
            let first = detector.detect(&held)?;
            if matches!(first, Some(Detected::Tls(..) | Detected::Http | Detected::Http2)) {
                let why = "TLS or HTTP where another protocol began";
                return Err(Refusal::new(RejectWith::Plain, Rule::TcpLate, why).into());
            }
            // What is not known yet is no whole request and no whole hello: it goes on, as single keys have to.
            up.write(&held[before..]).await?;
            if let Some(Detected::Other(watch)) = first {
                drop(held);
                return rest(connection, &mut up, watch).await;
            }
        }
    };
    tokio::try_join!(requests, async { Ok(down.drain().await?) })?;
    Ok(())
}

/// What follows the first bytes.
async fn rest(
    connection: &Connection,
    up: &mut Direction<'_>,
    watch: Option<Watch>,
) -> Result<(), CloseReason> {
    let Some(mut watch) = watch else { return Ok(up.drain().await?) };
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        if copy::read(&connection.client, &mut bytes, copy::CHUNK).await? == 0 {
            return Ok(up.end()?);
        }
        let seen = watch.see(&bytes);
        if seen == Sniff::Http {
            let why = "a request whose beginning is no text";
            return Err(Refusal::new(RejectWith::Plain, Rule::HttpMalformed, why).into());
        }
        up.write(&bytes).await?;
        if seen == Sniff::Other {
            drop(bytes);
            return Ok(up.drain().await?);
        }
    }
}
