//! The head of a request: found byte by byte, read by httparse, checked beyond what that checks.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest as _, Sha1};

use super::body::{Body, is_token};
use super::{Accept, Head, MAX_FIELDS, MAX_HEAD, Mode, Refused, Target, Upgrade};
use crate::authority::Authority;

/// Methods whose requests have no body that means something (RFC 9110 §9.3).
const BODILESS: [&str; 5] = ["GET", "HEAD", "DELETE", "OPTIONS", "TRACE"];

/// Fields that decide where a request goes and where it ends.
const JUDGED: [&str; 6] = ["host", "content-length", "transfer-encoding", "expect", "connection", "upgrade"];

/// A parsed head.
pub(super) struct Parsed<'a> {
    pub head: Head<'a>,
    pub body: Body,
    pub upgrade: Upgrade,
    /// Whether the client waits for the server before it sends the body.
    pub expects: bool,
}

/// The length of the head at the beginning of `input`, or `None` while it has no end. `scanned` bytes were looked at
/// before; their number is kept there.
pub(super) fn end(input: &[u8], scanned: &mut usize) -> Result<Option<usize>, Refused> {
    // Servers skip empty lines before a request, each another number of them.
    if input.first().is_some_and(|byte| !is_token(*byte)) {
        return Err(Refused::Form("the method"));
    }
    for place in *scanned..input.len().min(MAX_HEAD) {
        let before = place.checked_sub(1).map(|before| input[before]);
        match input[place] {
            b'\n' if before != Some(b'\r') => return Err(Refused::Form("a line's end")),
            b'\n' if place >= 3 && input[place - 3..place] == *b"\r\n\r" => return Ok(Some(place + 1)),
            b'\n' => {}
            _ if before == Some(b'\r') => return Err(Refused::Form("a line's end")),
            b'\r' | b'\t' | b' '..=b'~' | 0x80.. => {}
            _ => return Err(Refused::Form("a character")),
        }
        *scanned = place + 1;
    }
    if *scanned >= MAX_HEAD { Err(Refused::TooLong("the head")) } else { Ok(None) }
}

/// Reads a head of which [`end`] found the end.
pub(super) fn parse(bytes: &[u8], mode: Mode) -> Result<Parsed<'_>, Refused> {
    if bytes.starts_with(b"PRI ") {
        return Err(Refused::Http2);
    }
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    let (method, target, version) = match request.parse(bytes) {
        Ok(httparse::Status::Complete(len)) if len == bytes.len() => line(bytes, &request)?,
        Ok(_) => return Err(Refused::Form("the head")),
        Err(httparse::Error::TooManyHeaders) => return Err(Refused::TooLong("the list of fields")),
        Err(httparse::Error::Version) => return Err(Refused::Form("the version")),
        Err(_) => return Err(Refused::Form("the head")),
    };
    no_tabs(bytes)?;
    let mut fields = Fields::read(request.headers)?;
    let (target, authority) = match fields.host.take() {
        Some(host) => judge_target(method, target, host, mode)?,
        // Python's clients name the target alone.
        None if method == "CONNECT" => tunnel(target)?,
        None => return Err(Refused::NoHost),
    };
    let body = fields.body(version)?;
    if target == Target::Connect && (!body.is_done() || fields.upgrade.is_some()) {
        return Err(Refused::Form("CONNECT with a body"));
    }
    if !body.is_done() && is_bodiless(method) {
        return Err(Refused::Body);
    }
    if fields.upgrade == Some(true) && !body.is_done() {
        return Err(Refused::Form("a body before a WebSocket"));
    }
    let upgrade = if target == Target::Connect { Upgrade::Tunnel } else { fields.upgrade() };
    let head = Head { method, target, authority, len: bytes.len() };
    Ok(Parsed { head, upgrade, expects: fields.expect && !body.is_done(), body })
}

/// The three parts of the request line, which must be all that is in it, with single spaces.
fn line<'b>(bytes: &'b [u8], request: &httparse::Request<'_, 'b>) -> Result<(&'b str, &'b str, u8), Refused> {
    let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version) else {
        return Err(Refused::Form("the request line"));
    };
    let whole = format!("{method} {target} HTTP/1.{version}\r\n");
    let plain = target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    if bytes.starts_with(whole.as_bytes()) && plain && method.bytes().all(is_token) {
        Ok((method, target, version))
    } else {
        Err(Refused::Form("the request line"))
    }
}

/// What CONNECT asks for.
fn tunnel<'a>(target: &str) -> Result<(Target<'a>, Authority), Refused> {
    let (host, port) = Authority::connect(target)?;
    Ok((Target::Connect, Authority { host, port: Some(port) }))
}

fn judge_target<'a>(
    method: &'a str,
    target: &'a str,
    host: Authority,
    mode: Mode,
) -> Result<(Target<'a>, Authority), Refused> {
    const HTTP: u16 = 80;
    if method == "CONNECT" {
        let (target, named) = tunnel(target)?;
        // Clients write Host with the port or without.
        let same = named.host == host.host && (host.port.is_none() || host.port == named.port);
        return if same { Ok((target, named)) } else { Err(Refused::Mismatch) };
    }
    match target.as_bytes() {
        [b'/', ..] => Ok((Target::Path(target), host)),
        b"*" if method == "OPTIONS" => Ok((Target::Asterisk, host)),
        [b'*', ..] => Err(Refused::Form("the target")),
        _ => {
            let (authority, path) = Authority::absolute(target)?;
            if !authority.is_same(&host, HTTP) {
                return Err(Refused::Mismatch);
            }
            // It goes on as it is: what other readers take for a part of the authority is not for them to see.
            if mode == Mode::Origin && target[path..].starts_with('?') {
                return Err(Refused::Form("the target"));
            }
            let begin = method.len() + 1;
            Ok((Target::Absolute { prefix: begin..begin + path, path: &target[path..] }, authority))
        }
    }
}

/// The fields that decide where a request goes and where it ends.
struct Fields {
    host: Option<Authority>,
    length: Option<u64>,
    chunked: bool,
    expect: bool,
    /// Whether to a WebSocket.
    upgrade: Option<bool>,
    accept: Option<Accept>,
}

impl Fields {
    fn read(fields: &[httparse::Header<'_>]) -> Result<Self, Refused> {
        let mut read =
            Self { host: None, length: None, chunked: false, expect: false, upgrade: None, accept: None };
        for field in fields {
            let value = field.value.trim_ascii();
            let is = |name: &str| field.name.eq_ignore_ascii_case(name);
            // Servers that hand fields on as variables cannot distinguish these two, and some read them from there.
            if field.name.contains('_') && is_judged(field.name.replace('_', "-").as_bytes()) {
                return Err(Refused::Form("a field's name"));
            }
            if is("host") {
                once(read.host.replace(host(value)?).is_some(), "Host")?;
            } else if is("content-length") {
                once(read.length.replace(content_length(value)?).is_some(), "Content-Length")?;
            } else if is("transfer-encoding") {
                once(std::mem::replace(&mut read.chunked, true), "Transfer-Encoding")?;
                if !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Refused::Form("Transfer-Encoding"));
                }
            } else if is("expect") {
                once(std::mem::replace(&mut read.expect, true), "Expect")?;
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(Refused::Form("Expect"));
                }
            } else if is("upgrade") {
                once(read.upgrade.replace(value.eq_ignore_ascii_case(b"websocket")).is_some(), "Upgrade")?;
            } else if is("sec-websocket-key") {
                once(read.accept.replace(accept(value)).is_some(), "Sec-WebSocket-Key")?;
            } else if is("connection") {
                connection(value)?;
            }
        }
        Ok(read)
    }

    fn upgrade(&self) -> Upgrade {
        match (self.upgrade, self.accept) {
            (None, _) => Upgrade::None,
            (Some(true), Some(accept)) => Upgrade::WebSocket(accept),
            (Some(_), _) => Upgrade::Other,
        }
    }

    fn body(&self, version: u8) -> Result<Body, Refused> {
        match (self.length, self.chunked) {
            (Some(_), true) => Err(Refused::Form("Content-Length beside Transfer-Encoding")),
            // RFC 9112 §6.1: faulty, whatever its value.
            (None, true) if version == 0 => Err(Refused::Form("Transfer-Encoding in HTTP/1.0")),
            (_, false) if self.expect && version == 0 => Err(Refused::Form("Expect in HTTP/1.0")),
            (Some(length), false) => Ok(Body::Length(length)),
            (None, true) => Ok(Body::chunked()),
            (None, false) => Ok(Body::NONE),
        }
    }
}

/// Whether a body of `method` means nothing.
pub(crate) fn is_bodiless(method: &str) -> bool {
    BODILESS.iter().any(|bodiless| method.eq_ignore_ascii_case(bodiless))
}

/// What a server answers that accepts a WebSocket with this key.
fn accept(key: &[u8]) -> Accept {
    const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    let digest = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    let mut accept = [0; 28];
    // It is precisely that long, or nothing fits it.
    STANDARD.encode_slice(digest, &mut accept).ok();
    accept
}

fn once(again: bool, name: &'static str) -> Result<(), Refused> {
    if again { Err(Refused::Repeated(name)) } else { Ok(()) }
}

fn host(value: &[u8]) -> Result<Authority, Refused> {
    let text = std::str::from_utf8(value).map_err(|_| Refused::Form("Host"))?;
    Ok(Authority::parse(text)?)
}

/// Digits, and no more of them than every server can count.
pub(crate) fn content_length(value: &[u8]) -> Result<u64, Refused> {
    const FORM: Refused = Refused::Form("Content-Length");
    let plain = matches!(value, [b'0'] | [b'1'..=b'9', ..]) && value.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(value).map_err(|_| FORM)?;
    text.parse::<i64>().ok().filter(|_| plain).and_then(|length| length.try_into().ok()).ok_or(FORM)
}

/// A proxy behind us removes what Connection names: nothing that was judged may go.
fn connection(value: &[u8]) -> Result<(), Refused> {
    let judged = |option: &[u8]| {
        is_judged(option.trim_ascii()) && !option.trim_ascii().eq_ignore_ascii_case(b"upgrade")
    };
    if value.split(|byte| *byte == b',').any(judged) { Err(Refused::Form("Connection")) } else { Ok(()) }
}

/// A tab around a value is a blank to the grammar and to Apache, and a part of the value to nginx.
fn no_tabs(head: &[u8]) -> Result<(), Refused> {
    let name =
        |line: &[u8]| line.iter().position(|byte| *byte == b':').is_some_and(|end| is_judged(&line[..end]));
    let mut lines = head.split(|byte| *byte == b'\n');
    let bad = lines.any(|line| line.contains(&b'\t') && name(line));
    if bad { Err(Refused::Form("a blank")) } else { Ok(()) }
}

/// Whether a field decides where a request goes or ends.
pub(crate) fn is_judged(name: &[u8]) -> bool {
    JUDGED.iter().any(|judged| name.eq_ignore_ascii_case(judged.as_bytes()))
}
