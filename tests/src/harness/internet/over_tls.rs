//! Resolvers over TLS (RFC 7858), each of which behaves in its own way.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::dns::{Resolver, Way, framed, read_message};

/// How one behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectWith {
    /// As it should.
    Honest,
    /// It has the right name by nobody's word but its own.
    Unknown,
    /// It accepts, and sends nothing at all.
    Mute,
    /// It says who it is, and nothing more.
    Silent,
    /// Half an answer, and then nothing.
    Half,
    /// Half an answer, and the end.
    Broken,
    /// One answer, and the end.
    Once,
    /// Every answer is cut short.
    Cut,
    /// Answers to questions that come together come in the other order.
    Reversed,
}

/// Each with where it is.
const SERVERS: &[(RejectWith, &str)] = &[
    (RejectWith::Honest, "192.0.2.53:853"),
    (RejectWith::Honest, "[2001:db8::53]:853"),
    (RejectWith::Unknown, "192.0.2.54:853"),
    (RejectWith::Mute, "192.0.2.55:853"),
    (RejectWith::Silent, "192.0.2.56:853"),
    (RejectWith::Half, "192.0.2.57:853"),
    (RejectWith::Broken, "192.0.2.58:853"),
    (RejectWith::Once, "192.0.2.59:853"),
    (RejectWith::Cut, "192.0.2.60:853"),
    (RejectWith::Reversed, "192.0.2.61:853"),
];

impl RejectWith {
    /// Where the first that behaves so is.
    ///
    /// # Panics
    /// If there is none.
    pub fn address(self) -> &'static str {
        SERVERS.iter().find(|(manner, _)| *manner == self).expect("one of each").1
    }
}

/// Starts all, with the certificates in `dir`; they answer as `resolver` does, until this process ends.
pub fn start(dir: &Path, resolver: &Resolver) {
    let (trusted, own) = (config(dir, "cert"), config(dir, "own"));
    for (manner, address) in SERVERS {
        let listener = TcpListener::bind(address).unwrap_or_else(|e| panic!("{address}: {e}"));
        let config = if *manner == RejectWith::Unknown { own.clone() } else { trusted.clone() };
        let resolver = resolver.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (resolver, config) = (resolver.clone(), config.clone());
                std::thread::spawn(move || converse(&resolver, config, stream, *manner));
            }
        });
    }
}

fn config(dir: &Path, name: &str) -> Arc<ServerConfig> {
    let certificate = CertificateDer::from_pem_file(dir.join(format!("{name}.pem"))).expect("a certificate");
    let key = PrivateKeyDer::from_pem_file(dir.join(format!("{name}.key"))).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.expect("versions").with_no_client_auth().with_single_cert(vec![certificate], key);
    Arc::new(config.expect("a key that fits"))
}

fn converse(resolver: &Resolver, config: Arc<ServerConfig>, mut stream: TcpStream, manner: RejectWith) {
    let Ok(from) = stream.peer_addr() else { return };
    if manner == RejectWith::Mute {
        // Until the other side has enough of it.
        std::io::copy(&mut stream, &mut std::io::sink()).ok();
        return;
    }
    let connection = ServerConnection::new(config).expect("a good configuration");
    let mut stream = StreamOwned::new(connection, stream);
    while let Some(first) = read_message(&mut stream) {
        let mut questions = vec![first];
        if manner == RejectWith::Reversed {
            // IPv4 and IPv6 are asked for together.
            questions.extend(read_message(&mut stream));
            questions.reverse();
        }
        if manner == RejectWith::Silent {
            continue;
        }
        let replies: Vec<_> =
            questions.iter().flat_map(|query| resolver.answer(query, from, Way::Tls)).collect();
        if replies.iter().any(|reply| !answered(&mut stream, reply, manner)) {
            break;
        }
    }
    stream.conn.send_close_notify();
    // The other side may have been faster.
    stream.flush().ok();
}

/// Sends a reply; whether others may follow.
fn answered(stream: &mut (impl Read + Write), reply: &[u8], manner: RejectWith) -> bool {
    let mut message = framed(reply);
    match manner {
        RejectWith::Half | RejectWith::Broken => message.truncate(message.len() / 2),
        RejectWith::Cut => message[4] |= 2,
        _ => {}
    }
    let sent = stream.write_all(&message).and_then(|()| stream.flush()).is_ok();
    sent && !matches!(manner, RejectWith::Broken | RejectWith::Once)
}
