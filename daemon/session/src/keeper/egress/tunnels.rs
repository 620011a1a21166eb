//! Ways through the site's proxy: the keeper asks it for a tunnel to what the plan allows, in words of its own, and
//! hands the connection on once the proxy has opened it. Nothing that a session says is in what is asked, and what its
//! relay gets begins behind the proxy's answer; the proxy's password stays here.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use agentd_kernel::event_loop::EventFlags;
use agentd_policy::connection_end::ConnectionEnd;
use agentd_policy::event::NetPeer;
use agentd_policy::hosts::HostName;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use super::super::Keeper;
use super::super::source::{Events, Source};
use super::dial::never_begun;
use crate::error::{HostError, On as _};

/// The most that are asked for at a time.
const MAX: usize = 256;
/// How long the proxy may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// The longest answer of the proxy's.
const LONGEST: usize = 8 << 10;
/// The longest user and password.
const MAX_CREDENTIAL: usize = 512;

/// What a tunnel is for.
pub struct Asked<'a> {
    /// The relay's number of the dial.
    pub number: u32,
    /// Where it leads to.
    pub name: &'a HostName,
    /// Which port of it.
    pub port: u16,
    /// The same, for the record.
    pub peer: NetPeer,
}

/// One that is asked for.
#[derive(Debug)]
struct Tunnel {
    number: u32,
    peer: NetPeer,
    socket: OwnedFd,
    /// What is still to be said.
    words: Vec<u8>,
    /// The beginning of the answer.
    answer: Vec<u8>,
    until: Instant,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
enum NoTunnel {
    #[error("{}", std::io::Error::from(*.0))]
    Errno(Errno),
    #[error("the site's proxy says {0:?}")]
    Refused(String),
    #[error("the site's proxy sent no answer of HTTP")]
    Form,
    #[error("the site's proxy does not answer")]
    Late,
}

impl NoTunnel {
    fn errno(&self) -> Errno {
        match self {
            Self::Errno(errno) => *errno,
            Self::Refused(_) => Errno::ACCESS,
            Self::Form => Errno::CONNRESET,
            Self::Late => Errno::TIMEDOUT,
        }
    }
}

/// All of a session's.
#[derive(Debug)]
pub struct Tunnels {
    all: BTreeMap<u64, Tunnel>,
    last: u64,
    /// The line by which the proxy knows its clients.
    credential: String,
}

impl Tunnels {
    /// With what the proxy wants to know of its clients, a file with `USER:PASSWORD`.
    ///
    /// # Errors
    /// A file that holds something else.
    pub fn new(credential: Option<OwnedFd>) -> Result<Self, HostError> {
        let credential = credential.map(|file| line(&file)).transpose()?.unwrap_or_default();
        Ok(Self { all: BTreeMap::new(), last: 0, credential })
    }

    /// Asks for a tunnel by `socket`, which connects to the proxy and does not block.
    ///
    /// # Errors
    /// `EAGAIN` if there are too many; the kernel's own.
    pub fn ask(&mut self, socket: OwnedFd, asked: Asked<'_>, events: &Events) -> Result<(), Errno> {
        if self.all.len() >= MAX {
            return Err(Errno::AGAIN);
        }
        let Asked { number, name, port, peer } = asked;
        self.last += 1;
        events.add(&socket, Source::Tunnel(self.last), EventFlags::OUT)?;
        let words =
            format!("CONNECT {name}:{port} HTTP/1.1\r\nHost: {name}:{port}\r\n{}\r\n", self.credential);
        let until = Instant::now() + CONNECT_TIMEOUT;
        let tunnel = Tunnel { number, peer, socket, words: words.into_bytes(), answer: Vec::new(), until };
        self.all.insert(self.last, tunnel);
        Ok(())
    }

    /// When the first is given up.
    pub fn due(&self) -> Option<Instant> {
        // They are asked for in the order of their numbers, and all may take as long.
        self.all.values().next().map(|tunnel| tunnel.until)
    }
}

impl Tunnel {
    /// Goes on as far as it goes: whether the proxy has opened it.
    fn step(&mut self, key: u64, events: &Events) -> Result<bool, NoTunnel> {
        while !self.words.is_empty() {
            match rustix::net::send(&self.socket, &self.words, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(count) => drop(self.words.drain(..count)),
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(NoTunnel::Errno(errno)),
            }
            if self.words.is_empty() {
                events.modify(&self.socket, Source::Tunnel(key), EventFlags::IN).map_err(NoTunnel::Errno)?;
            }
        }
        self.listen()
    }

    /// Takes what is the proxy's own to say, and not a byte behind it.
    fn listen(&mut self) -> Result<bool, NoTunnel> {
        const END: &[u8] = b"\r\n\r\n";
        let mut buffer = [0; LONGEST];
        loop {
            let peeked =
                match rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::DONTWAIT | RecvFlags::PEEK)
                {
                    Ok((0, _)) => return Err(NoTunnel::Errno(Errno::CONNRESET)),
                    Ok((count, _)) => count,
                    Err(Errno::AGAIN) => return Ok(false),
                    Err(Errno::INTR) => continue,
                    Err(errno) => return Err(NoTunnel::Errno(errno)),
                };
            let before = self.answer.len();
            self.answer.extend(&buffer[..peeked]);
            let from = before.saturating_sub(END.len() - 1);
            let end = self.answer[from..].windows(END.len()).position(|part| part == END);
            let end = end.map(|place| from + place + END.len());
            let taken = end.map_or(peeked, |end| end - before);
            self.answer.truncate(before + taken);
            // They are there: they were looked at.
            match rustix::net::recv(&self.socket, &mut buffer[..taken], RecvFlags::DONTWAIT) {
                Ok((count, _)) if count == taken => {}
                Ok(_) => return Err(NoTunnel::Form),
                Err(errno) => return Err(NoTunnel::Errno(errno)),
            }
            match end {
                Some(_) => return opened(&self.answer).map(|()| true),
                None if self.answer.len() >= LONGEST => return Err(NoTunnel::Form),
                None => {}
            }
        }
    }
}

/// Whether an answer opens a tunnel (RFC 9110 §9.3.6).
fn opened(answer: &[u8]) -> Result<(), NoTunnel> {
    let line = answer.split(|byte| *byte == b'\r').next().unwrap_or(answer);
    let line: String = line.iter().take(80).map(|byte| char::from(*byte)).filter(char::is_ascii).collect();
    let status =
        line.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)).and_then(|code| code.parse().ok());
    match status {
        Some(200..=299_u16) => Ok(()),
        Some(_) => Err(NoTunnel::Refused(line)),
        None => Err(NoTunnel::Form),
    }
}

/// The field that says who asks, with its line's end.
fn line(file: &OwnedFd) -> Result<String, HostError> {
    let mut bytes = [0; MAX_CREDENTIAL + 1];
    let count = rustix::io::pread(file, &mut bytes[..], 0).on("proxy_credential")?;
    let text = bytes[..count].trim_ascii_end();
    let plain = text.iter().all(|byte| (b' '..=b'~').contains(byte)) && text.contains(&b':');
    if count > MAX_CREDENTIAL || !plain {
        return Err(HostError::unfit("proxy_credential: the file holds no USER:PASSWORD of printable ASCII"));
    }
    Ok(format!("Proxy-Authorization: Basic {}\r\n", STANDARD.encode(text)))
}

impl Keeper {
    /// Something came of a tunnel.
    pub(in super::super) fn tunnel(&mut self, key: u64) {
        let Some(egress_state) = &mut self.egress_state else { return };
        let Some(tunnel) = egress_state.tunnels.all.get_mut(&key) else { return };
        let done = match tunnel.step(key, &self.event_loop) {
            Ok(false) => return,
            Ok(true) => Ok(()),
            Err(error) => Err(error),
        };
        self.tunnelled(key, done);
    }

    /// Gives up those that take too long.
    pub(in super::super) fn expire_tunnels(&mut self, now: Instant) {
        loop {
            let Some(egress_state) = &mut self.egress_state else { return };
            let first = egress_state.tunnels.all.first_key_value();
            let Some((key, _)) = first.filter(|(_, tunnel)| tunnel.until <= now) else { return };
            let key = *key;
            self.tunnelled(key, Err(NoTunnel::Late));
        }
    }

    fn tunnelled(&mut self, key: u64, done: Result<(), NoTunnel>) {
        let Some(egress_state) = &mut self.egress_state else { return };
        let Some(Tunnel { number, peer, socket, .. }) = egress_state.tunnels.all.remove(&key) else {
            return;
        };
        // The relay's copy would go on reporting here.
        self.event_loop.remove(&socket).ok();
        if let Err(error) = &done {
            egress_state.coalescer.emit(never_begun(peer, ConnectionEnd::failed(error)), &mut self.spool);
        }
        self.dialled(number, done.map(|()| socket).map_err(|error| error.errno()));
    }
}

#[cfg(test)]
#[path = "tunnels_tests.rs"]
mod tests;
