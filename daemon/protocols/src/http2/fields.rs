//! The fields of a head (RFC 9113 §8.2, §8.3).

use crate::authority::Authority;
use crate::http::{Refused, content_length, is_bodiless, is_judged, is_token};

/// Those that say how a connection goes on, which HTTP/2 does otherwise (RFC 9113 §8.2.2).
const OF_CONNECTION: [&[u8]; 5] =
    [b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"];

/// What of a head is judged.
#[derive(Debug, Default)]
pub(super) struct Fields {
    method: Option<String>,
    scheme: Option<String>,
    path: Option<String>,
    protocol: Option<String>,
    authority: Option<Authority>,
    host: Option<Authority>,
    length: Option<u64>,
    grpc: bool,
    /// A field that is none of these has come: the others come before.
    begun: bool,
    /// Something that no trailer is.
    heads: bool,
}

/// What a request is, and for which host.
#[derive(Debug)]
pub(super) struct Request {
    pub method: String,
    pub authority: Authority,
    /// Of its body, if that is known.
    pub length: Option<u64>,
    pub grpc: bool,
}

impl Fields {
    /// Takes the next field.
    pub(super) fn read(&mut self, name: &[u8], value: &[u8]) -> Result<(), Refused> {
        if value.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n')) {
            return Err(Refused::Form("a character"));
        }
        match name.strip_prefix(b":") {
            Some(_) if self.begun => Err(Refused::Form("a field in front")),
            Some(name) => {
                self.heads = true;
                self.pseudo(name, value)
            }
            None => {
                self.begun = true;
                self.plain(name, value)
            }
        }
    }

    fn pseudo(&mut self, name: &[u8], value: &[u8]) -> Result<(), Refused> {
        let value = text(value)?;
        let (again, name) = match name {
            b"method" => (self.method.replace(value.into()).is_some(), ":method"),
            b"scheme" => (self.scheme.replace(value.into()).is_some(), ":scheme"),
            b"path" => (self.path.replace(value.into()).is_some(), ":path"),
            b"protocol" => (self.protocol.replace(value.into()).is_some(), ":protocol"),
            b"authority" => (self.authority.replace(Authority::parse(value)?).is_some(), ":authority"),
            _ => return Err(Refused::Form("a field's name")),
        };
        if again { Err(Refused::Repeated(name)) } else { Ok(()) }
    }

    fn plain(&mut self, name: &[u8], value: &[u8]) -> Result<(), Refused> {
        let form = !name.is_empty() && name.iter().all(|byte| is_token(*byte) && !byte.is_ascii_uppercase());
        // Servers that hand fields on as variables cannot distinguish these two.
        let dashed: Vec<u8> = name.iter().map(|byte| if *byte == b'_' { b'-' } else { *byte }).collect();
        if !form || (name.contains(&b'_') && is_judged(&dashed)) {
            return Err(Refused::Form("a field's name"));
        }
        if OF_CONNECTION.contains(&name) || (name == b"te" && !value.eq_ignore_ascii_case(b"trailers")) {
            return Err(Refused::Form("a field of HTTP/1"));
        }
        let again = match name {
            b"host" => self.host.replace(Authority::parse(text(value)?)?).is_some(),
            b"content-length" => self.length.replace(content_length(value)?).is_some(),
            b"content-type" => {
                self.grpc |= value.starts_with(b"application/grpc");
                return Ok(());
            }
            _ => return Ok(()),
        };
        self.heads = true;
        if again { Err(Refused::Repeated("a field that is there once")) } else { Ok(()) }
    }

    /// What they are at the end of a body.
    pub(super) fn trailers(self) -> Result<(), Refused> {
        if self.heads { Err(Refused::Form("a trailer")) } else { Ok(()) }
    }

    /// What they are at its beginning.
    pub(super) fn request(self) -> Result<Request, Refused> {
        const FORM: Refused = Refused::Form("the request");
        let method = self.method.filter(|method| !method.is_empty() && method.bytes().all(is_token));
        let method = method.ok_or(FORM)?;
        // A tunnel names a target alone; WebSockets come this way as well (RFC 8441).
        let web_socket = method == "CONNECT" && self.protocol.as_deref() == Some("websocket");
        if (method == "CONNECT" || self.protocol.is_some()) && !web_socket {
            return Err(Refused::Connect);
        }
        if !matches!(self.scheme.as_deref(), Some("http" | "https")) {
            return Err(Refused::Form("the scheme"));
        }
        let path = self.path.ok_or(FORM)?;
        let plain = path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
        let target = path.starts_with('/') || (path == "*" && method == "OPTIONS");
        if !plain || !target {
            return Err(Refused::Form("the path"));
        }
        let authority = match (self.authority, self.host) {
            (Some(authority), Some(host)) if authority != host => return Err(Refused::Mismatch),
            (Some(authority), _) | (None, Some(authority)) => authority,
            (None, None) => return Err(Refused::NoHost),
        };
        let length = if is_bodiless(&method) { Some(0) } else { self.length };
        if is_bodiless(&method) && self.length.is_some_and(|length| length > 0) {
            return Err(Refused::Body);
        }
        Ok(Request { method, authority, length, grpc: self.grpc })
    }
}

fn text(value: &[u8]) -> Result<&str, Refused> {
    std::str::from_utf8(value).map_err(|_| Refused::Form("a character"))
}
