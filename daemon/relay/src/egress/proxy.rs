//! The explicit proxy: SOCKS 5, CONNECT, and requests with an absolute target. What a client may reach by it is what it
//! may reach without.

use std::net::SocketAddr;
use std::time::Duration;

use agentd_policy::egress::Purpose;
use agentd_policy::protocol::Protocol;
use agentd_policy::rule::Rule;
use agentd_protocols::authority::{Authority, Host};
use agentd_protocols::dns::RecordType;
use agentd_protocols::http::{Connection as Requests, Head, MAX_HEAD, Mode, Step, Target};
use agentd_protocols::socks::{self, Reply, SocksError};
use rustix::io::Errno;
use tokio::time::timeout;

use super::cache::Found;
use super::close::{CloseReason, Failure};
use super::copy;
use super::judge::{self, Place, Refusal, RejectWith, Subject};
use super::tcp::Connection;
use super::{dns, http};
use crate::Endpoint;

/// How long a client may take for its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const HTTP: u16 = 80;
/// Fields between a client and its proxy, not for the server. There is one request for each connection.
const HOP_BY_HOP: [&[u8]; 6] =
    [b"connection", b"proxy-connection", b"keep-alive", b"proxy-authorization", b"upgrade", EXPECT];
/// Answered here: servers disagree on what follows if they do not want the body.
const EXPECT: &[u8] = b"expect";

/// Serves a client of the proxy.
pub async fn serve(connection: &Connection) -> Result<(), CloseReason> {
    let mut held = Vec::new();
    let beginning = async {
        more(connection, &mut held).await?;
        if held[0] == 5 {
            return socks_target(connection, &mut held).await.map(ProxyRequest::Socks);
        }
        http_target(connection, &mut held).await
    };
    match timeout(REQUEST_TIMEOUT, beginning).await.map_err(|_| CloseReason::Reset)?? {
        ProxyRequest::Socks((host, port)) => socks(connection, host, port, held).await,
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
            request(connection, &server, &head.rewritten, held, *requests).await
        }
    }
}

/// What a client asks of the proxy.
enum ProxyRequest {
    Socks((Host, u16)),
    Tunnel(HttpRequest),
    Forward(HttpRequest, Box<Requests>),
}

/// The head of a request to the proxy.
struct HttpRequest {
    host: Host,
    port: u16,
    method: String,
    /// The method is CONNECT.
    tunnel: bool,
    /// Whether the client waits before it sends the body.
    expects: bool,
    /// The head for the server.
    rewritten: Vec<u8>,
}

async fn more(connection: &Connection, held: &mut Vec<u8>) -> Result<(), CloseReason> {
    match copy::read(&connection.client, held, copy::CHUNK).await? {
        0 => Err(CloseReason::Reset),
        _ => Ok(()),
    }
}

async fn http_target(connection: &Connection, held: &mut Vec<u8>) -> Result<ProxyRequest, CloseReason> {
    let mut requests = Requests::new(Mode::Proxy);
    let (asked, length) = loop {
        match requests.client(held) {
            Ok(Step::Head(head)) => {
                let asked = asked(&head, &held[..head.len]);
                let asked = asked.ok_or_else(|| {
                    let why = "a proxy is asked for http://host/path, or to CONNECT";
                    Refusal::new(RejectWith::Http, Rule::HttpTarget, why)
                })?;
                break (asked, head.len);
            }
            Ok(_) => {}
            Err(refused) => return Err(http::malformed(&refused).into()),
        }
        more(connection, held).await?;
    };
    held.drain(..length);
    Ok(if asked.tunnel {
        ProxyRequest::Tunnel(asked)
    } else {
        ProxyRequest::Forward(asked, Box::new(requests))
    })
}

/// Where a request goes; `None` if it does not say so.
fn asked(head: &Head<'_>, bytes: &[u8]) -> Option<HttpRequest> {
    let rewritten = match &head.target {
        Target::Connect => Vec::new(),
        Target::Absolute { path, .. } => rewritten(head.method, path, bytes),
        Target::Path(_) | Target::Asterisk => return None,
    };
    let port = head.authority.port.unwrap_or(HTTP);
    Some(HttpRequest {
        host: head.authority.host.clone(),
        port,
        method: head.method.chars().take(judge::MAX_METHOD).collect(),
        tunnel: head.target == Target::Connect,
        expects: bytes.split(|byte| *byte == b'\n').any(|line| name(line).eq_ignore_ascii_case(EXPECT)),
        rewritten,
    })
}

/// The name of a field, with the colon behind it gone.
fn name(line: &[u8]) -> &[u8] {
    line.split(|byte| *byte == b':').next().unwrap_or(line)
}

/// The head as the server gets it: the target is a path, and the connection ends with the response.
fn rewritten(method: &str, path: &str, head: &[u8]) -> Vec<u8> {
    let slash = if path.starts_with('/') { "" } else { "/" };
    let mut new = Vec::with_capacity(head.len() + 32);
    let mut lines = head.split_inclusive(|byte| *byte == b'\n');
    let version = lines.next().and_then(|line| line.rsplit(|byte| *byte == b' ').next()).unwrap_or_default();
    new.extend(format!("{method} {slash}{path} ").as_bytes());
    new.extend(version);
    for line in lines {
        let name = name(line);
        if line == b"\r\n" {
            new.extend(b"Connection: close\r\n");
        }
        if !HOP_BY_HOP.iter().any(|field| name.eq_ignore_ascii_case(field)) {
            new.extend(line);
        }
    }
    new
}

/// One request and its response. What the client says behind it goes nowhere.
async fn request(
    connection: &Connection,
    server: &Endpoint,
    head: &[u8],
    mut held: Vec<u8>,
    mut requests: Requests,
) -> Result<(), CloseReason> {
    let (mut up, mut down) = connection.directions(server);
    let body = async {
        up.write(head).await?;
        let mut over = false;
        loop {
            match requests.client(&held) {
                _ if over => held.clear(),
                Ok(Step::Body(length)) => {
                    up.write(&held[..length]).await?;
                    held.drain(..length);
                    continue;
                }
                Ok(Step::NeedMore) if held.len() < MAX_HEAD => {}
                // Another request, or none that is one.
                Ok(_) | Err(_) => {
                    over = true;
                    held.clear();
                }
            }
            if copy::read(&connection.client, &mut held, copy::CHUNK).await? == 0 {
                up.end()?;
                return std::future::pending::<Result<(), CloseReason>>().await;
            }
        }
    };
    tokio::select! {
        ended = body => ended,
        ended = down.drain() => Ok(ended?),
    }
}

async fn socks_target(connection: &Connection, held: &mut Vec<u8>) -> Result<(Host, u16), CloseReason> {
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

async fn socks(connection: &Connection, host: Host, port: u16, held: Vec<u8>) -> Result<(), CloseReason> {
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

/// Connects to `host`, if it may be reached.
async fn open(
    connection: &Connection,
    host: &Host,
    port: u16,
    asked: Option<&HttpRequest>,
) -> Result<Endpoint, CloseReason> {
    let refuse = |rule: String| {
        let why = format!("{host}:{port} is not allowed");
        let reject_with = if asked.is_some() { RejectWith::Http } else { RejectWith::Plain };
        let subject = match asked {
            Some(asked) => Subject::request(&asked.method, host.to_string()),
            None => Subject::Name(host.to_string()),
        };
        Refusal { subject, ..Refusal::new(reject_with, rule, why) }
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
                (None, [Some(rule), _] | [_, Some(rule)]) => return Err(refuse(rule.to_owned()).into()),
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

fn purpose(connection: &Connection, host: &Host, asked: Option<&HttpRequest>) -> Result<Purpose, String> {
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

/// Answers a client of HTTP whose server could not be reached by 502, with the reason.
async fn or_bad_gateway(
    connection: &Connection,
    opened: Result<Endpoint, CloseReason>,
) -> Result<Endpoint, CloseReason> {
    if let Err(CloseReason::Failed(failure)) = &opened {
        let body = format!("agentd: {}\n", failure.why);
        let head = "HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/plain\r\nConnection: close\r\n";
        let answer = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
        copy::linger(&connection.client, answer.as_bytes()).await;
    }
    opened
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_between_client_and_proxy_stays_there() {
        let head = b"GET http://a.example?q HTTP/1.1\r\nHost: a.example\r\nProxy-Authorization: x\r\n\
            Connection: keep-alive\r\nExpect: 100-continue\r\nX-Y: z\r\n\r\n";
        let mut requests = Requests::new(Mode::Proxy);
        let Ok(Step::Head(read)) = requests.client(head) else { panic!("no head") };
        let asked = asked(&read, head).unwrap();
        assert_eq!((asked.host.to_string().as_str(), asked.port, asked.expects), ("a.example", 80, true));
        let want = "GET /?q HTTP/1.1\r\nHost: a.example\r\nX-Y: z\r\nConnection: close\r\n\r\n";
        assert_eq!(String::from_utf8(asked.rewritten).unwrap(), want);
    }
}
