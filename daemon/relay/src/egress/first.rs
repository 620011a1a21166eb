//! The first bytes of a connection: whose they are, and what.

use std::io;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::RecvFlags;
use tokio::time::{sleep, sleep_until, timeout};

use super::end::End;
use super::judge::{Detected, First, Refusal, RejectWith};
use super::tcp::Connection;
use super::{copy, ssh};
use crate::Endpoint;

/// How long a client may take from its first byte until it is known what it wants.
const OPENING: Duration = Duration::from_secs(10);
/// How long a client is silent that waits for the server to speak, or for its answer.
const SILENCE: Duration = Duration::from_millis(300);
/// Where the client speaks first: nothing is dialled before.
const WEB: [u16; 6] = [80, 443, 3000, 8000, 8080, 8443];

impl Connection {
    /// `refusal`, told as the client's protocol has it, if its first bytes show that within a moment.
    pub(super) async fn in_its_words(&self, refusal: Refusal) -> Refusal {
        let (mut opening, mut held) = (Detected::default(), Vec::new());
        let shown = async {
            loop {
                if held.starts_with(ssh::BANNER) {
                    return RejectWith::Ssh;
                }
                match opening.look(&held) {
                    Ok(None) => {}
                    Ok(Some(First::Tls(..))) => return RejectWith::Tls,
                    Ok(Some(First::Http)) => return RejectWith::Http,
                    Ok(Some(_)) | Err(_) => return RejectWith::Plain,
                }
                if !matches!(copy::read(&self.client, &mut held, copy::CHUNK).await, Ok(1..)) {
                    return RejectWith::Plain;
                }
            }
        };
        let reject_with = timeout(SILENCE, shown).await.unwrap_or(RejectWith::Plain);
        Refusal { reject_with, ..refusal }
    }

    /// What the first bytes are, and who says them.
    pub(super) async fn first(
        &self,
        held: &mut Vec<u8>,
        mut server: Option<Endpoint>,
    ) -> Result<(First, Option<Endpoint>), End> {
        let mut opening = Detected::default();
        // Through a proxy the client may not have had its turn yet.
        let mut turn = server.is_some() && held.is_empty();
        let mut end: Option<tokio::time::Instant> = None;
        loop {
            if !held.is_empty() {
                end.get_or_insert_with(|| tokio::time::Instant::now() + OPENING);
            }
            if let Some(first) = opening.look(held)? {
                return Ok((first, server));
            }
            if held.is_empty() && server.is_none() && !WEB.contains(&self.to().port()) {
                match timeout(SILENCE, copy::read(&self.client, held, copy::CHUNK)).await {
                    Ok(Ok(0)) => return Ok((First::Other(None), server)),
                    Ok(read) => drop(read?),
                    Err(_) => server = Some(self.dial_unnamed().await?),
                }
                continue;
            }
            let spoken = async {
                match &server {
                    Some(server) if held.is_empty() => speaks(server).await.map(|()| server.clone()),
                    _ => std::future::pending().await,
                }
            };
            let late = async {
                match end {
                    Some(end) => sleep_until(end).await,
                    None => std::future::pending().await,
                }
            };
            let waits = async {
                match opening.is_other(held) && !held.is_empty() {
                    true => sleep(SILENCE).await,
                    false => std::future::pending().await,
                }
            };
            let mut more = Vec::new();
            let read = tokio::select! {
                biased;
                () = late => {
                    let why = "the beginning of the connection does not come";
                    return Err(Refusal::new(RejectWith::Plain, "tcp.slow", why).into());
                }
                read = copy::read(&self.client, &mut more, copy::CHUNK) => read?,
                spoken = spoken => {
                    let spoken = spoken?;
                    let read = copy::read(&self.client, &mut more, copy::CHUNK);
                    match std::mem::take(&mut turn) {
                        true => match timeout(SILENCE, read).await {
                            Ok(read) if !more.is_empty() => read?,
                            Ok(_) | Err(_) => return Ok((First::Spoken(spoken), None)),
                        },
                        false => return Ok((First::Spoken(spoken), None)),
                    }
                }
                () = waits => return Ok((First::Waiting, server)),
            };
            held.append(&mut more);
            match read {
                // Nothing will ever be said: there is nothing to hide.
                0 if held.is_empty() => return Ok((First::Other(None), server)),
                0 => {
                    let why = "the connection ends in its beginning";
                    return Err(Refusal::new(RejectWith::Plain, "tcp.short", why).into());
                }
                _ => {}
            }
        }
    }
}

/// Waits until the server says something.
async fn speaks(server: &Endpoint) -> io::Result<()> {
    loop {
        let mut ready = server.readable().await?;
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        match rustix::net::recv(server.get_ref(), &mut [0_u8; 1][..], flags) {
            Ok(_) => return Ok(()),
            Err(Errno::AGAIN) => ready.clear_ready(),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
