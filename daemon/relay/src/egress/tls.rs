//! TLS, once its name is judged: the server may ask for a second ClientHello, which names it again.

use std::io;
use std::time::Duration;

use agentd_policy::rule::Rule;
use agentd_protocols::hello::{ClientHello, Progress, Reader, Reply, Turn};
use rustix::io::Errno;
use tokio::time::timeout;

use super::close::CloseReason;
use super::copy;
use super::judge::{Refusal, RejectWith};
use super::keeper::DialError;
use super::tcp::Connection;
use crate::Endpoint;

/// How long server and client may take for their next message.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(60);

/// Carries it: `held` begins with the hello, of `length` bytes.
pub async fn carry(
    connection: &Connection,
    server: &Endpoint,
    held: Vec<u8>,
    hello: ClientHello,
    length: usize,
) -> Result<(), CloseReason> {
    let (mut up, mut down) = connection.directions(server);
    let (hello_bytes, rest) = held.split_at(length);
    up.write(hello_bytes).await?;
    let mut rest = rest.to_vec();
    let mut reply = Reply::new();
    let mut turn = Turn::NeedMore;
    while turn == Turn::NeedMore {
        let step = down.step(copy::CHUNK, |bytes| turn = reply.feed(bytes));
        let count = timeout(MESSAGE_TIMEOUT, step).await;
        let count = count.map_err(|_| DialError::from(io::Error::from(Errno::TIMEDOUT)))??;
        if count == 0 {
            return Ok(down.end()?);
        }
    }
    match turn {
        Turn::Retry => second(connection, hello, &mut rest).await?,
        // Then what goes on would be something else, and its names are not known.
        Turn::NotTls => {
            let why = "the server does not answer by TLS";
            return Err(Refusal::new(RejectWith::Plain, Rule::TlsAnswer, why).into());
        }
        Turn::Final | Turn::NeedMore => {}
    }
    connection.copy(server, &rest).await
}

/// Reads the second ClientHello into `held`.
async fn second(connection: &Connection, first: ClientHello, held: &mut Vec<u8>) -> Result<(), CloseReason> {
    let (mut reader, mut fed) = (Reader::after_retry(first), 0);
    loop {
        let progress = reader.feed(&held[fed..]);
        fed = held.len();
        match progress {
            Progress::Hello(..) => return Ok(()),
            Progress::NeedMore => {}
            Progress::NotTls => {
                return Err(Refusal::new(
                    RejectWith::Tls,
                    Rule::TlsMalformed,
                    "the second message is no TLS",
                )
                .into());
            }
            Progress::Malformed(why) => {
                return Err(Refusal::new(RejectWith::Tls, Rule::TlsMalformed, why.to_string()).into());
            }
        }
        let read = copy::read(&connection.client, held, copy::CHUNK);
        if timeout(MESSAGE_TIMEOUT, read).await.map_err(|_| CloseReason::Reset)?? == 0 {
            return Err(CloseReason::Reset);
        }
    }
}
