//! The explicit proxy: SOCKS 5, CONNECT, and requests with an absolute target. What a client may reach by it is what it
//! may reach without.

mod http;
mod socks;

use std::net::SocketAddr;
use std::time::Duration;

use agentd_policy::denial::Denial;
use agentd_policy::egress::Purpose;
use agentd_policy::protocol::Protocol;
use agentd_protocols::authority::{Authority, Host};
use agentd_protocols::dns::RecordType;
use agentd_protocols::http::Connection as Requests;
use rustix::io::Errno;
use tokio::time::timeout;

use super::cache::Found;
use super::close::{CloseReason, Failure};
use super::judge::{self, Place, Refusal, RejectWith, Subject};
use super::tcp::Connection;
use super::{copy, dns};
use crate::Endpoint;
use http::{HttpRequest, or_bad_gateway};

/// How long a client may take for its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves a client of the proxy.
pub async fn serve(connection: &Connection) -> Result<(), CloseReason> {
    let mut held = Vec::new();
    let beginning = async {
        more(connection, &mut held).await?;
        if held[0] == 5 {
            return socks::read_request(connection, &mut held).await.map(ProxyRequest::Socks);
        }
        http::read_request(connection, &mut held).await
    };
    match timeout(REQUEST_TIMEOUT, beginning).await.map_err(|_| CloseReason::Reset)?? {
        ProxyRequest::Socks((host, port)) => socks::serve(connection, host, port, held).await,
        ProxyRequest::Tunnel(head) => {
            let server =
                or_bad_gateway(connection, open(connection, &head.host, head.port, Some(&head)).await)
                    .await?;
            copy::write(&connection.client, b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
            connection.carry(held, Some(server)).await
        }
        ProxyRequest::Forward(head, requests) => {
            let server =
                or_bad_gateway(connection, open(connection, &head.host, head.port, Some(&head)).await)
                    .await?;
            if head.expects {
                copy::write(&connection.client, b"HTTP/1.1 100 Continue\r\n\r\n").await?;
            }
            http::forward(connection, &server, &head.rewritten, held, *requests).await
        }
    }
}

/// What a client asks of the proxy.
pub enum ProxyRequest {
    Socks((Host, u16)),
    Tunnel(HttpRequest),
    Forward(HttpRequest, Box<Requests>),
}

async fn more(connection: &Connection, held: &mut Vec<u8>) -> Result<(), CloseReason> {
    match copy::read(&connection.client, held, copy::CHUNK).await? {
        0 => Err(CloseReason::Reset),
        _ => Ok(()),
    }
}

/// Connects to `host`, if it may be reached.
async fn open(
    connection: &Connection,
    host: &Host,
    port: u16,
    asked: Option<&HttpRequest>,
) -> Result<Endpoint, CloseReason> {
    let refuse = |denial: Denial| {
        let why = format!("{host}:{port} is not allowed");
        let reject_with = if asked.is_some() { RejectWith::Http } else { RejectWith::Plain };
        let subject = match asked {
            Some(asked) => Subject::request(&asked.method, host.to_string()),
            None => Subject::Name(host.to_string()),
        };
        Refusal { subject, ..Refusal::new(reject_with, denial, why) }
    };
    let address = match host {
        Host::Address(address) => *address,
        Host::Name(name) => {
            let gate = &connection.gate;
            let [four, six] = [RecordType::A, RecordType::AAAA];
            let (four, six) = tokio::join!(
                dns::find(gate, name, four, connection.who()),
                dns::find(gate, name, six, connection.who())
            );
            match (six.addresses().first().or(four.addresses().first()), [four.denied(), six.denied()]) {
                (Some(address), _) => *address,
                (None, [Some(denial), _] | [_, Some(denial)]) => return Err(refuse(denial).into()),
                (None, _) => return Err(unknown(&four)),
            }
        }
    };
    let to = SocketAddr::new(address, port);
    connection.set_to(to);
    let purpose = purpose(connection, host, asked).map_err(refuse)?;
    let joined = match host {
        Host::Name(_) => connection.join(&purpose, to),
        Host::Address(_) => connection.join_unnamed(),
    };
    joined.map_err(refuse)?;
    connection.dial(purpose).await
}

fn unknown(found: &Found) -> CloseReason {
    let why = match found {
        Found::Failed(why) => why.clone(),
        _ => "the name has no address".into(),
    };
    CloseReason::Failed(Failure { why, dialled: false, errno: Errno::HOSTUNREACH })
}

fn purpose(connection: &Connection, host: &Host, asked: Option<&HttpRequest>) -> Result<Purpose, Denial> {
    let (plan, pins, to) = (connection.gate.plan(), &connection.gate.pins, connection.to());
    match host {
        Host::Name(name) => judge::named(&plan, pins, name, Place::direct(to)),
        // A request names whom it is for, here an address; what goes through a tunnel does so yet.
        Host::Address(_) if asked.is_some_and(|asked| !asked.tunnel) => {
            let authority = Authority { host: host.clone(), port: Some(to.port()) };
            judge::http(&plan, pins, &authority, Place::direct(to)).map(|(purpose, _)| purpose)
        }
        Host::Address(_) => judge::unnamed(&plan, pins, to, Protocol::Tcp),
    }
}
