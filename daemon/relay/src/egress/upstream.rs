//! Asking the resolvers, one after the other.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use agentd_policy::egress::{Egress, Purpose};
use agentd_policy::hosts::HostName;
use agentd_policy::profile::Protocol;
use agentd_relay::dns::{Outcome, Question, RecordType, ReplyError, Ttls};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};
use tokio::time::timeout;

use super::keeper::{DialError, Keeper};
use super::{copy, packet};
use crate::Endpoint;

/// How long one resolver may take.
const TRY: Duration = Duration::from_secs(2);
/// How long all of them may take.
const ALL: Duration = Duration::from_secs(5);
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
enum AskError {
    #[error("cannot ask it: {0}")]
    Dial(#[from] DialError),
    #[error("cannot ask it: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Reply(#[from] ReplyError),
    #[error("it answered something else")]
    Forged,
}

/// What the resolvers of `plan` say; or, in one line, why they do not. `from` is who wants to know.
pub async fn ask(
    keeper: &Keeper,
    plan: &Egress,
    name: &HostName,
    kind: RecordType,
    from: SocketAddr,
) -> Result<Outcome, String> {
    let all = async {
        let mut last = "there is no resolver".to_owned();
        for resolver in (0..ROUNDS).flat_map(|_| &plan.resolvers) {
            let once = once(keeper, *resolver, name, kind, from);
            last = match timeout(TRY, once).await {
                Ok(Ok(outcome)) => return Ok(outcome),
                Ok(Err(error)) => format!("resolver {resolver}: {error}"),
                Err(_) => format!("resolver {resolver}: no answer"),
            };
        }
        Err(last)
    };
    timeout(ALL, all).await.unwrap_or_else(|_| Err("the resolvers are too slow".into()))
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
    copy::write(&socket, question.message()).await?;
    let mut reply = Vec::new();
    for _ in 0..MAX_FORGED {
        reply.clear();
        if copy::read(&socket, &mut reply, MAX_REPLY).await? == 0 && packet::has_ended(&socket) {
            return Err(io::Error::from(Errno::CONNREFUSED).into());
        }
        match question.read(&reply, TTLS) {
            // The right one may still come.
            Err(ReplyError::NotOurs) => {}
            Err(ReplyError::Truncated) => return by_stream(keeper, resolver, name, kind, from).await,
            other => return Ok(other?),
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
    // Short by far: a name, and a few numbers.
    let length = (question.message().len() as u16).to_be_bytes();
    copy::write(&socket, &[&length[..], question.message()].concat()).await?;
    let mut held = Vec::new();
    let reply = message(&socket, &mut held).await?.ok_or(AskError::Forged)?;
    Ok(question.read(&reply, TTLS)?)
}

/// The next message of a stream, with what was read of it before in `held`; `None` at the end.
pub async fn message(stream: &Endpoint, held: &mut Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    loop {
        if let Some((length, rest)) = held.split_first_chunk::<2>() {
            let length = usize::from(u16::from_be_bytes(*length));
            if let Some(message) = rest.get(..length) {
                let message = message.to_vec();
                held.drain(..2 + length);
                return Ok(Some(message));
            }
        }
        if copy::read(stream, held, copy::CHUNK).await? == 0 {
            return Ok(None);
        }
    }
}

fn question(name: &HostName, kind: RecordType) -> io::Result<Question> {
    let (mut id, mut case) = ([0; 2], [0; 32]);
    for bytes in [&mut id[..], &mut case] {
        // So few bytes come whole.
        let _ = getrandom(bytes, GetRandomFlags::empty())?;
    }
    Ok(Question::new(name.clone(), kind, u16::from_be_bytes(id), case))
}
