//! Asking the resolvers, one after the other.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use agentd_policy::egress::{Egress, Purpose};
use agentd_policy::hosts::HostName;
use agentd_policy::protocol::Protocol;
use agentd_policy::resolver::Resolver;
use agentd_protocols::dns::{Outcome, Question, RecordType, ReplyError, Ttls};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};
use tokio::time::timeout;

use super::dot::{DotError, Server};
use super::keeper::{DialError, Keeper};
use super::{Gate, copy, packet};
use crate::Endpoint;

/// How long one resolver may take.
const RESOLVER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a datagram is waited for before the same question is sent once more.
const RESEND_AFTER: Duration = Duration::from_millis(700);
/// How long all of them may take.
const TOTAL_TIMEOUT: Duration = Duration::from_secs(5);
/// How often each is asked.
const ROUNDS: usize = 2;
/// The longest reply by UDP: more than was asked for is cut.
const MAX_REPLY: usize = 4096;
/// How many datagrams that are no reply of ours are read over.
const MAX_FORGED: usize = 64;
/// How long what is found out holds.
const TTLS: Ttls = Ttls { least: 5, most: agentd_policy::egress::MAX_PIN };

/// Why one resolver gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("cannot ask it: {0}")]
    Dial(#[from] DialError),
    #[error("cannot ask it: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Dot(#[from] DotError),
    #[error(transparent)]
    Reply(#[from] ReplyError),
    #[error("it answered something else")]
    Forged,
}

/// Why no resolver gave an answer.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    #[error("there is no resolver")]
    NoResolver,
    #[error("resolver {0}: {1}")]
    Failed(Resolver, AskError),
    #[error("resolver {0}: no answer")]
    NoAnswer(Resolver),
    #[error("the resolvers are too slow")]
    TooSlow,
}

/// What the resolvers of `plan` answer. `from` is the client.
///
/// # Errors
/// Why the last of them gave no answer.
pub async fn ask(
    gate: &Gate,
    plan: &Egress,
    name: &HostName,
    kind: RecordType,
    from: SocketAddr,
) -> Result<Outcome, ResolveError> {
    let all = async {
        let mut last = ResolveError::NoResolver;
        for (number, resolver) in (0..ROUNDS).flat_map(|_| plan.resolvers.iter().enumerate()) {
            let once = async {
                match &resolver.tls {
                    None => once(&gate.keeper, resolver.address, name, kind, from).await,
                    Some(certified) => {
                        let server = Server { number, address: resolver.address, name: certified };
                        over_tls(gate, server, name, kind, from).await
                    }
                }
            };
            last = match timeout(RESOLVER_TIMEOUT, once).await {
                Ok(Ok(outcome)) => return Ok(outcome),
                Ok(Err(error)) => ResolveError::Failed(resolver.clone(), error),
                Err(_) => ResolveError::NoAnswer(resolver.clone()),
            };
        }
        Err(last)
    };
    timeout(TOTAL_TIMEOUT, all).await.unwrap_or(Err(ResolveError::TooSlow))
}

/// Asks one over TLS, and in no other way.
async fn over_tls(
    gate: &Gate,
    server: Server<'_>,
    name: &HostName,
    kind: RecordType,
    from: SocketAddr,
) -> Result<Outcome, AskError> {
    // Nobody can forge a reply here, so that the name's case need not identify one.
    let question = Question::new(name.clone(), kind, 0, [0; 32]).padded();
    let reply = gate.resolvers.ask(&gate.keeper, server, question.message(), from).await?;
    Ok(question.read(&reply, TTLS)?)
}

async fn once(
    keeper: &Keeper,
    resolver: SocketAddr,
    name: &HostName,
    kind: RecordType,
    from: SocketAddr,
) -> Result<Outcome, AskError> {
    let question = question(name, kind)?;
    let socket = keeper.dial(Purpose::Resolver, resolver, Protocol::Udp, from).await?;
    let mut forged = 0;
    loop {
        copy::write(&socket, question.message()).await?;
        // Either way a datagram may be lost.
        let Ok(reply) = timeout(RESEND_AFTER, reply(&socket, &question, &mut forged)).await else { continue };
        match reply? {
            Err(ReplyError::Truncated) => return by_stream(keeper, resolver, name, kind, from).await,
            other => return Ok(other?),
        }
    }
}

/// The reply to `question` among what comes.
async fn reply(
    socket: &Endpoint,
    question: &Question,
    forged: &mut usize,
) -> Result<Result<Outcome, ReplyError>, AskError> {
    let mut reply = Vec::new();
    while *forged < MAX_FORGED {
        reply.clear();
        if copy::read(socket, &mut reply, MAX_REPLY).await? == 0 && packet::has_ended(socket) {
            return Err(io::Error::from(Errno::CONNREFUSED).into());
        }
        match question.read(&reply, TTLS) {
            // The right one may still come.
            Err(ReplyError::NotOurs) => *forged += 1,
            other => return Ok(other),
        }
    }
    Err(AskError::Forged)
}

async fn by_stream(
    keeper: &Keeper,
    resolver: SocketAddr,
    name: &HostName,
    kind: RecordType,
    from: SocketAddr,
) -> Result<Outcome, AskError> {
    let question = question(name, kind)?;
    let socket = keeper.dial(Purpose::Resolver, resolver, Protocol::Tcp, from).await?;
    let length = u16::try_from(question.message().len()).map_err(io::Error::other)?.to_be_bytes();
    copy::write(&socket, &[&length[..], question.message()].concat()).await?;
    let mut held = Vec::new();
    let reply = message(&socket, &mut held).await?.ok_or(AskError::Forged)?;
    Ok(question.read(&reply, TTLS)?)
}

/// The next message of a stream, with what was read of it before in `held`; `None` at the end.
pub async fn message(stream: &Endpoint, held: &mut Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    loop {
        if let Some(message) = first_message(held) {
            return Ok(Some(message));
        }
        if copy::read(stream, held, copy::CHUNK).await? == 0 {
            return Ok(None);
        }
    }
}

/// Takes the first message out of what was read of a stream, if it is whole.
pub fn first_message(held: &mut Vec<u8>) -> Option<Vec<u8>> {
    let (length, rest) = held.split_first_chunk::<2>()?;
    let length = usize::from(u16::from_be_bytes(*length));
    let message = rest.get(..length)?.to_vec();
    held.drain(..2 + length);
    Some(message)
}

fn question(name: &HostName, kind: RecordType) -> io::Result<Question> {
    let (mut id, mut case) = ([0; 2], [0; 32]);
    for bytes in [&mut id[..], &mut case] {
        // So few bytes come whole.
        let _ = getrandom(bytes, GetRandomFlags::empty())?;
    }
    Ok(Question::new(name.clone(), kind, u16::from_be_bytes(id), case))
}
