//! The far end: a thread for each connection.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use rustls::ServerConfig;

use crate::link::{ANSWER, Ask, CHUNK, Link, QUESTION, accepted, server_config};
use crate::{Done, dns};

/// A thousand connections that wait have a thousand stacks.
const STACK: usize = 128 << 10;

/// Serves until it is killed.
pub fn serve(address: &str, ports: [&str; 2], tls: [&str; 2]) -> Done {
    let [certificate, key] = tls;
    let tls = [None, Some(server_config(certificate, key)?)];
    let mut servers = Vec::new();
    for (port, tls) in ports.into_iter().zip(tls) {
        let listener = TcpListener::bind((address, port.parse()?))?;
        servers.push(thread::spawn(move || listen(&listener, tls)));
    }
    let resolver = dns::bind(address)?;
    servers.push(thread::spawn(move || dns::serve(&resolver)));
    println!("ready");
    for server in servers {
        server.join().map_err(|_| "a server panicked")??;
    }
    Ok(())
}

fn listen(listener: &TcpListener, tls: Option<Arc<ServerConfig>>) -> Done {
    loop {
        let (stream, _) = listener.accept()?;
        let tls = tls.clone();
        // A client that goes away in the middle is not the server's matter.
        thread::Builder::new().stack_size(STACK).spawn(move || drop(attend(stream, tls)))?;
    }
}

fn attend(stream: TcpStream, tls: Option<Arc<ServerConfig>>) -> Done {
    let mut link = accepted(stream, tls)?;
    let mut chunk = Vec::new();
    loop {
        let mut question = [0; QUESTION];
        link.read_exact(&mut question)?;
        let (ask, bytes) = Ask::read(&question)?;
        match ask {
            Ask::Download => {
                chunk.resize(CHUNK, 7);
                send(&mut *link, &chunk, bytes)?;
            }
            Ask::Upload => {
                chunk.resize(CHUNK, 7);
                take(&mut *link, &mut chunk, bytes)?;
                link.write_all(&[0])?;
                link.flush()?;
            }
            Ask::Small | Ask::Last => {
                link.write_all(&[7; ANSWER])?;
                link.flush()?;
                // Closed by the server first, which keeps the client's ports free.
                if ask == Ask::Last {
                    return Ok(());
                }
            }
        }
    }
}

/// Writes so many bytes.
pub fn send(link: &mut dyn Link, chunk: &[u8], bytes: u64) -> Done {
    let mut left = bytes;
    while left > 0 {
        let once = chunk.len().min(usize::try_from(left)?);
        link.write_all(&chunk[..once])?;
        left -= once as u64;
    }
    Ok(link.flush()?)
}

/// Reads so many bytes.
pub fn take(link: &mut dyn Link, chunk: &mut [u8], bytes: u64) -> Done {
    let mut left = bytes;
    while left > 0 {
        let once = chunk.len().min(usize::try_from(left)?);
        match link.read(&mut chunk[..once])? {
            0 => return Err("the end came too early".into()),
            count => left -= count as u64,
        }
    }
    Ok(())
}
