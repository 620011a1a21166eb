//! Connections: in the clear or by TLS, straight or through a proxy; and what is said on them.

use std::io::{BufReader, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use crate::Done;

/// How many bytes are read or written at once.
pub const CHUNK: usize = 128 << 10;
/// How long a question is, in bytes.
pub const QUESTION: usize = 128;
/// How long the answer to a small question is.
pub const ANSWER: usize = 512;

/// What a client asks for, by its first byte, which no text has. The next eight say how many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// So many bytes.
    Download = 1,
    /// It sends so many, and wants one when all have come.
    Upload = 2,
    /// A small answer; more may be asked.
    Small = 3,
    /// A small answer, and the end.
    Last = 4,
}

impl Ask {
    /// As it goes over the wire.
    pub fn question(self, bytes: u64) -> [u8; QUESTION] {
        let mut question = [0; QUESTION];
        question[0] = self as u8;
        question[1..9].copy_from_slice(&bytes.to_be_bytes());
        question
    }

    /// What a client has asked for.
    pub fn read(question: &[u8; QUESTION]) -> Done<(Self, u64)> {
        let all = [Self::Download, Self::Upload, Self::Small, Self::Last];
        let ask = all.into_iter().find(|ask| *ask as u8 == question[0]).ok_or("an unknown question")?;
        Ok((ask, u64::from_be_bytes(question[1..9].try_into()?)))
    }
}

/// A stream both ways.
pub trait Link: Read + Write + Send {}

impl<T: Read + Write + Send> Link for T {}

/// A socket that is read in large pieces: TLS takes them small.
pub struct Socket(BufReader<TcpStream>);

impl Socket {
    /// Sends small messages at once.
    pub fn new(stream: TcpStream) -> Done<Self> {
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::with_capacity(64 << 10, stream)))
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.get_mut().write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> std::io::Result<usize> {
        self.0.get_mut().write_vectored(slices)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The server's side of TLS.
pub fn server_config(certificate: &str, key: &str) -> Done<Arc<ServerConfig>> {
    let chain = vec![CertificateDer::from_pem_file(certificate)?];
    let key = PrivateKeyDer::from_pem_file(key)?;
    Ok(Arc::new(ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?))
}

/// A client has come.
pub fn accepted(stream: TcpStream, tls: Option<Arc<ServerConfig>>) -> Done<Box<dyn Link>> {
    let socket = Socket::new(stream)?;
    Ok(match tls {
        Some(config) => Box::new(StreamOwned::new(ServerConnection::new(config)?, socket)),
        None => Box::new(socket),
    })
}

/// Where a client connects to, and how.
#[derive(Clone)]
pub struct Way {
    /// The server, or the proxy.
    to: SocketAddr,
    /// What the proxy is asked for.
    connect: Option<String>,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

impl Way {
    /// To `server`, by way of `proxy`.
    pub fn new(server: SocketAddr, proxy: Option<SocketAddr>) -> Self {
        let connect = proxy.map(|_| format!("CONNECT {server} HTTP/1.1\r\nHost: {server}\r\n\r\n"));
        Self { to: proxy.unwrap_or(server), connect, tls: None }
    }

    /// The same by TLS, where `name` has `certificate`. No session is resumed: each connection is new.
    pub fn tls(self, name: &str, certificate: &str) -> Done<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(certificate)?)?;
        let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(Self { tls: Some((Arc::new(config), ServerName::try_from(name.to_owned())?)), ..self })
    }

    pub fn open(&self) -> Done<Box<dyn Link>> {
        let mut socket = Socket::new(TcpStream::connect(self.to)?)?;
        if let Some(connect) = &self.connect {
            socket.write_all(connect.as_bytes())?;
            connected(&mut socket)?;
        }
        Ok(match &self.tls {
            Some((config, name)) => {
                Box::new(StreamOwned::new(ClientConnection::new(config.clone(), name.clone())?, socket))
            }
            None => Box::new(socket),
        })
    }
}

/// Reads the proxy's answer, which must be a good one.
fn connected(socket: &mut Socket) -> Done {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        socket.read_exact(&mut byte)?;
        head.push(byte[0]);
        if head.len() > 4096 {
            return Err("the proxy's answer has no end".into());
        }
    }
    if head.get(8..13) != Some(b" 200 ") {
        return Err(format!("the proxy says {}", String::from_utf8_lossy(&head)).into());
    }
    Ok(())
}
