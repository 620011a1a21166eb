//! What an opaque rule lets through: all bytes as they are. A denied name in the ClientHello, or in the head of the
//! request, that the connection begins with ends it: a deny is no allow's to undo.

use agentd_policy::denial::Denial;
use agentd_policy::hosts::HostName;
use agentd_policy::rule::Rule;
use agentd_protocols::authority::{Authority, Host};
use agentd_protocols::http::MAX_HEAD;

use super::close::CloseReason;
use super::copy;
use super::detect::{Detected, ProtocolDetector};
use super::judge::{self, Refusal, RejectWith, Subject};
use super::tcp::Connection;
use crate::Endpoint;

/// The most hosts that the head of one request names: an honest one names one, or two.
const MAX_SHOWN: usize = 16;

/// What the beginning shows.
#[derive(Default)]
struct Shown {
    names: Vec<HostName>,
    /// The protocol is TLS.
    tls: bool,
    /// More is to be seen.
    more: bool,
}

/// Carries it, `held` first. No byte waits for those behind it: what completes a denied name does not go on.
pub async fn carry(connection: &Connection, server: &Endpoint, mut held: Vec<u8>) -> Result<(), CloseReason> {
    let (mut up, mut down) = connection.directions(server);
    let beginning = async {
        let (mut detector, mut sent) = (ProtocolDetector::default(), 0);
        loop {
            let shown = shown(&mut detector, &held);
            let reject_with = if shown.tls { RejectWith::Tls } else { RejectWith::Plain };
            if shown.names.len() > MAX_SHOWN {
                let why = "the head of a request names too many hosts";
                return Err(CloseReason::from(Refusal::new(reject_with, Rule::TcpNames, why)));
            }
            for name in shown.names {
                if let Err(denial) = judge::undenied(&connection.gate.plan(), &name) {
                    return Err(CloseReason::from(refused(reject_with, denial, &name)));
                }
                connection.shows(name);
            }
            up.write(&held[sent..]).await?;
            sent = held.len();
            if !shown.more {
                break;
            }
            if copy::read(&connection.client, &mut held, copy::CHUNK).await? == 0 {
                return Ok(up.end()?);
            }
        }
        drop(held);
        Ok(up.drain().await?)
    };
    tokio::try_join!(beginning, async { Ok(down.drain().await?) })?;
    Ok(())
}

fn shown(detector: &mut ProtocolDetector, held: &[u8]) -> Shown {
    match detector.detect(held) {
        Ok(None) => Shown { more: true, ..Shown::default() },
        Ok(Some(Detected::Tls(hello, _))) => {
            Shown { names: hello.name.into_iter().collect(), tls: true, more: false }
        }
        // A first line without an end, and empty ones before it, are some servers' requests.
        Ok(Some(Detected::Http)) => hosts(held),
        Ok(Some(Detected::Http2 | Detected::Other(_) | Detected::ServerFirst(_) | Detected::ClientWaits))
        | Err(_) => Shown::default(),
    }
}

/// Every host in the lines of a head, however a server would read it.
fn hosts(head: &[u8]) -> Shown {
    let begin = head.iter().position(|byte| !byte.is_ascii_whitespace()).unwrap_or(head.len());
    let mut shown = Shown { more: head.len() < MAX_HEAD, ..Shown::default() };
    for (number, line) in head[begin..].split_inclusive(|byte| *byte == b'\n').enumerate() {
        let Some(line) = line.strip_suffix(b"\n") else { break };
        let text = String::from_utf8_lossy(line.trim_ascii());
        if text.is_empty() {
            shown.more = false;
            break;
        }
        let host = match (number, text.split_once(':')) {
            (0, _) => {
                text.split_ascii_whitespace().nth(1).and_then(|target| Some(target.split_once("://")?.1))
            }
            (_, Some((name, value))) if name.trim().eq_ignore_ascii_case("host") => Some(value.trim()),
            _ => None,
        };
        let authority = host.map(|host| host.split(['/', '?']).next().unwrap_or(host));
        if let Some(Ok(Authority { host: Host::Name(name), .. })) = authority.map(Authority::parse) {
            shown.names.push(name);
        }
    }
    shown
}

fn refused(reject_with: RejectWith, denial: Denial, name: &HostName) -> Refusal {
    let why = format!("{name} is denied");
    Refusal { subject: Subject::Name(name.to_string()), ..Refusal::new(reject_with, denial, why) }
}
