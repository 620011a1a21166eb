//! The first message of TLS, in shapes that a reader may stumble over.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use libc::{EACCES, ECONNRESET, ETIMEDOUT};

use super::dns::addresses;
use crate::probe::case::{Act, Refused};

const SERVER_NAME: u16 = 0;
const PADDING: u16 = 21;
const ENCRYPTED_HELLO: u16 = 0xfe0d;
const GREASE: u16 = 0x5a5a;

/// Where to (a name), the name that is sent (`-`: none), and the shape: whether a server answers.
pub fn hello(args: &[String]) -> Act {
    let (name, shape) = ((args[1] != "-").then_some(args[1].as_str()), args[2].as_str());
    let address = addresses(&args[0])?[0];
    let mut stream = TcpStream::connect((address, 443))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(15)))?;
    let message = message(name, shape);
    let size = if shape == "records" { 11 } else { 16384 };
    let mut bytes = Vec::new();
    for part in message.chunks(size) {
        bytes.extend([22, 3, 1]);
        bytes.extend(u16::try_from(part.len()).unwrap().to_be_bytes());
        bytes.extend(part);
    }
    if shape == "cut" || shape == "stopped" {
        bytes.truncate(bytes.len() / 2);
    }
    let step = if shape == "bytes" { 1 } else { bytes.len() };
    for part in bytes.chunks(step) {
        if let Err(error) = stream.write_all(part) {
            return Err(Refused::new(ECONNRESET, error.to_string()));
        }
    }
    if shape == "cut" {
        stream.shutdown(Shutdown::Write)?;
    }
    let mut kind = [0];
    match stream.read_exact(&mut kind) {
        Ok(()) if kind[0] == 22 => Ok("a server's hello".into()),
        Ok(()) => Err(Refused::new(EACCES, format!("a record of kind {}", kind[0]))),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
            Err(Refused::new(ETIMEDOUT, "silence"))
        }
        Err(error) => Err(Refused::new(ECONNRESET, error.to_string())),
    }
}

/// `content` behind its length, in as many bytes as `N`.
fn sized<const N: usize>(content: &[u8]) -> Vec<u8> {
    [&content.len().to_be_bytes()[8 - N..], content].concat()
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &sized::<2>(content)].concat()
}

/// A ClientHello of TLS 1.2, which every server understands.
fn message(name: Option<&str>, shape: &str) -> Vec<u8> {
    let mut extensions = Vec::new();
    match shape {
        "grease" => extensions.extend(extension(GREASE, &[0])),
        "ech" => extensions.extend(extension(ENCRYPTED_HELLO, &[0; 64])),
        "padded" => extensions.extend(extension(PADDING, &[0; 50_000])),
        _ => {}
    }
    if let Some(name) = name {
        let entry = [&[0][..], &sized::<2>(name.as_bytes())].concat();
        extensions.extend(extension(SERVER_NAME, &sized::<2>(&entry)));
    }
    extensions.extend(extension(10, &sized::<2>(&[0, 29, 0, 23])));
    extensions.extend(extension(11, &sized::<1>(&[0])));
    extensions.extend(extension(13, &sized::<2>(&[4, 3, 8, 4, 4, 1])));
    let mut ciphers = vec![0xc0, 0x2b, 0xc0, 0x2f, 0xc0, 0x2c, 0xc0, 0x30];
    if shape == "grease" {
        ciphers.splice(0..0, GREASE.to_be_bytes());
    }
    let mut content = vec![3, 3];
    content.extend([0x61; 32]);
    content.extend(sized::<1>(&[]));
    content.extend(sized::<2>(&ciphers));
    content.extend(sized::<1>(&[0]));
    content.extend(sized::<2>(&extensions));
    if shape == "endless" {
        content.resize((1 << 24) - 1, 0);
    }
    [&[1][..], &sized::<3>(&content)].concat()
}
