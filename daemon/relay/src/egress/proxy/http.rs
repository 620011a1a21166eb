//! Requests of HTTP to the proxy: CONNECT, and absolute targets.

use agentd_policy::rule::Rule;
use agentd_protocols::authority::Host;
use agentd_protocols::http::{Connection as Requests, Head, MAX_HEAD, Mode, Step, Target};

use super::super::close::CloseReason;
use super::super::judge::{self, Refusal, RejectWith};
use super::super::tcp::Connection;
use super::super::{copy, requests as shared};
use super::{ProxyRequest, more};
use crate::Endpoint;

const HTTP: u16 = 80;
/// Fields between a client and its proxy, not for the server. There is one request for each connection.
const HOP_BY_HOP: [&[u8]; 6] =
    [b"connection", b"proxy-connection", b"keep-alive", b"proxy-authorization", b"upgrade", EXPECT];
/// Answered here: servers disagree on what follows if they do not want the body.
const EXPECT: &[u8] = b"expect";

/// The head of a request to the proxy.
pub struct HttpRequest {
    pub host: Host,
    pub port: u16,
    /// At most so much of it as is recorded.
    pub method: String,
    /// The method is CONNECT.
    pub tunnel: bool,
    /// Whether the client waits before it sends the body.
    pub expects: bool,
    /// The head for the server.
    pub rewritten: Vec<u8>,
}

/// Reads the head of a request into `held`, and takes it out again.
pub async fn read_request(connection: &Connection, held: &mut Vec<u8>) -> Result<ProxyRequest, CloseReason> {
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
            Err(refused) => return Err(shared::malformed(&refused).into()),
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

/// Where a request goes; `None` if its target does not name a host.
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

/// One request and its response. What the client sends behind it is dropped.
pub async fn forward(
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

/// Answers a client of HTTP whose server could not be reached by 502, with the reason.
pub async fn or_bad_gateway(
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
