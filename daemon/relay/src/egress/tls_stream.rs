//! A stream of messages over TLS, from the side of the client. The socket is the keeper's gift; the rest is here.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use agentd_policy::hosts::HostName;
use rustix::io::retry_on_intr;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use super::copy::CHUNK;
use super::upstream::first_message;
use crate::Endpoint;

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// No certificate has such a name.
    #[error("{0} is no name of a certificate's")]
    Name(HostName),
    /// Not who it should be, or no TLS.
    #[error("{0}")]
    Tls(#[from] rustls::Error),
    /// The connection broke.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// A connection of TLS to a resolver.
pub struct Stream {
    socket: Endpoint,
    tls: ClientConnection,
    /// What came and is no whole message yet; never more than one and what came with it.
    held: Vec<u8>,
}

/// The socket, as rustls wants it.
struct Socket<'a>(&'a OwnedFd);

impl Read for Socket<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(retry_on_intr(|| rustix::io::read(self.0, &mut *buffer))?)
    }
}

impl Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(retry_on_intr(|| rustix::io::write(self.0, bytes))?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream {
    /// Over `socket`, with the server of that name, and no other.
    pub async fn connect(
        socket: Endpoint,
        config: Arc<ClientConfig>,
        name: &HostName,
    ) -> Result<Self, TlsError> {
        let server = ServerName::try_from(name.as_str().to_owned());
        let server = server.map_err(|_| TlsError::Name(name.clone()))?;
        let mut tls = ClientConnection::new(config, server)?;
        tls.set_buffer_limit(Some(CHUNK));
        let mut stream = Self { socket, tls, held: Vec::new() };
        stream.flush().await?;
        while stream.tls.is_handshaking() {
            if !stream.read().await? {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            stream.flush().await?;
        }
        Ok(stream)
    }

    /// Writes all of it.
    pub async fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let count = self.tls.writer().write(bytes)?;
            bytes = &bytes[count..];
            self.flush().await?;
        }
        Ok(())
    }

    /// The next message; `None` at the end. Nothing is lost if it is not waited for.
    pub async fn message(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(message) = first_message(&mut self.held) {
                return Ok(Some(message));
            }
            let mut buffer = [0; 4096];
            match self.tls.reader().read(&mut buffer) {
                Ok(0) => return Ok(None),
                Ok(count) => {
                    self.held.extend_from_slice(&buffer[..count]);
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            match self.read().await {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                Err(TlsError::Io(error)) => return Err(error),
                Err(error) => return Err(io::Error::other(error)),
            }
        }
    }

    /// Sends `close_notify`, if there is room for it.
    pub fn close(mut self) {
        self.tls.send_close_notify();
        self.tls.write_tls(&mut Socket(self.socket.get_ref())).ok();
    }

    /// Reads once from the socket and deciphers it; `false` at the end.
    async fn read(&mut self) -> Result<bool, TlsError> {
        loop {
            let mut ready = self.socket.readable().await?;
            match self.tls.read_tls(&mut Socket(self.socket.get_ref())) {
                Ok(0) => return Ok(false),
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
        if let Err(error) = self.tls.process_new_packets() {
            // An alert with the reason, if the socket takes it.
            self.tls.write_tls(&mut Socket(self.socket.get_ref())).ok();
            return Err(error.into());
        }
        Ok(true)
    }

    /// Writes what is enciphered.
    async fn flush(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut Socket(self.socket.get_ref())) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let mut ready = self.socket.writable().await?;
                    match self.tls.write_tls(&mut Socket(self.socket.get_ref())) {
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                        other => drop(other?),
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
