//! The ClientHello itself.

use agentd_policy::hosts::HostName;

use super::Why;

const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const EARLY_DATA: u16 = 42;
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;
/// What drafts before ECH had.
const ENCRYPTED_SERVER_NAME: u16 = 0xffce;

/// What a ClientHello asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHello {
    /// The host in `server_name`.
    pub name: Option<HostName>,
    /// Whether there is an encrypted hello inside, or what looks like one (RFC 9849 §6.2: clients send a GREASE one to
    /// every server). The name is the outer one, which is who can read the inner.
    pub ech: bool,
    /// Whether data follows before the server has answered.
    pub early_data: bool,
    /// The protocols that it offers (RFC 7301).
    pub protocols: Vec<Vec<u8>>,
}

impl ClientHello {
    /// Reads the message without its four bytes of header. All of it must be of the form; extensions, ciphers and
    /// unknown versions (RFC 8701) are fine.
    pub(super) fn read(body: &[u8]) -> Result<Self, Why> {
        let mut bytes = Bytes(body);
        let version = bytes.u16("legacy_version")?;
        if version >> 8 != 3 {
            return Err(Why::Form("legacy_version"));
        }
        bytes.take(32, "random")?;
        if bytes.vector8("legacy_session_id")?.len() > 32 {
            return Err(Why::Form("legacy_session_id"));
        }
        let ciphers = bytes.vector16("cipher_suites")?;
        if ciphers.is_empty() || ciphers.len() % 2 != 0 {
            return Err(Why::Form("cipher_suites"));
        }
        if bytes.vector8("legacy_compression_methods")?.is_empty() {
            return Err(Why::Form("legacy_compression_methods"));
        }
        let mut hello = Self { name: None, ech: false, early_data: false, protocols: Vec::new() };
        // Before TLS 1.3 a hello may end here.
        if !bytes.0.is_empty() {
            hello.extensions(bytes.vector16("extensions")?)?;
        }
        if bytes.0.is_empty() { Ok(hello) } else { Err(Why::Form("the end")) }
    }

    fn extensions(&mut self, list: &[u8]) -> Result<(), Why> {
        let (mut bytes, mut seen) = (Bytes(list), Vec::new());
        while !bytes.0.is_empty() {
            let kind = bytes.u16("an extension")?;
            let data = bytes.vector16("an extension")?;
            seen.push(kind);
            match kind {
                SERVER_NAME => self.name = Some(server_name(data)?),
                ALPN => self.protocols = protocols(data)?,
                EARLY_DATA => self.early_data = true,
                ENCRYPTED_CLIENT_HELLO | ENCRYPTED_SERVER_NAME => self.ech = true,
                _ => {}
            }
        }
        seen.sort_unstable();
        match seen.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(Why::Duplicate(pair[0])),
            None => Ok(()),
        }
    }
}

fn server_name(data: &[u8]) -> Result<HostName, Why> {
    const HOST_NAME: u8 = 0;
    let mut bytes = Bytes(data);
    let mut list = Bytes(bytes.vector16("server_name")?);
    if !bytes.0.is_empty() {
        return Err(Why::Form("server_name"));
    }
    if list.0.is_empty() || list.u8("server_name")? != HOST_NAME {
        return Err(Why::Names);
    }
    let name = list.vector16("server_name")?;
    if !list.0.is_empty() {
        return Err(Why::Names);
    }
    if name.ends_with(b".") {
        return Err(Why::TrailingDot);
    }
    Ok(HostName::from_labels(name.split(|byte| *byte == b'.'))?)
}

fn protocols(data: &[u8]) -> Result<Vec<Vec<u8>>, Why> {
    const FORM: &str = "application_layer_protocol_negotiation";
    let mut bytes = Bytes(data);
    let mut list = Bytes(bytes.vector16(FORM)?);
    if !bytes.0.is_empty() || list.0.is_empty() {
        return Err(Why::Form(FORM));
    }
    let mut protocols = Vec::new();
    while !list.0.is_empty() {
        match list.vector8(FORM)? {
            [] => return Err(Why::Form(FORM)),
            protocol => protocols.push(protocol.to_vec()),
        }
    }
    Ok(protocols)
}

/// What is left of a message.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, len: usize, of: &'static str) -> Result<&'a [u8], Why> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(Why::Form(of))?;
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self, of: &'static str) -> Result<u8, Why> {
        self.take(1, of).map(|bytes| bytes[0])
    }

    fn u16(&mut self, of: &'static str) -> Result<u16, Why> {
        self.take(2, of).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn vector8(&mut self, of: &'static str) -> Result<&'a [u8], Why> {
        let len = self.u8(of)?;
        self.take(len.into(), of)
    }

    fn vector16(&mut self, of: &'static str) -> Result<&'a [u8], Why> {
        let len = self.u16(of)?;
        self.take(len.into(), of)
    }
}
