//! Servers that send back what they get, over TCP and UDP.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};

/// Echoes on each of `addresses`, over both, until this process ends. A port over TCP speaks first: `hello`.
///
/// # Panics
/// If an address is taken.
pub fn serve(addresses: &[&str]) {
    for address in addresses {
        let listener = TcpListener::bind(address).unwrap_or_else(|e| panic!("{address}: {e}"));
        // A thousand at once are no flood to it.
        rustix::net::listen(&listener, 4096).expect("it listens");
        let socket = UdpSocket::bind(address).unwrap_or_else(|e| panic!("{address}: {e}"));
        std::thread::spawn(move || accept(&listener));
        std::thread::spawn(move || answer(&socket));
    }
}

/// The same over TCP on a port of the loopback, IPv4 and IPv6: its number.
///
/// # Panics
/// If there is none.
pub fn on_loopback() -> u16 {
    let v4 = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = v4.local_addr().expect("our own socket").port();
    let v6 = TcpListener::bind(("::1", port)).expect("the same port");
    std::thread::spawn(move || accept(&v4));
    std::thread::spawn(move || accept(&v6));
    port
}

fn accept(listener: &TcpListener) {
    for stream in listener.incoming().flatten() {
        std::thread::spawn(move || echo(stream));
    }
}

fn echo(mut stream: TcpStream) {
    let mut bytes = vec![0; 65536];
    if stream.write_all(b"hello\n").is_err() {
        return;
    }
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => {
                let _ = stream.shutdown(Shutdown::Write);
                return;
            }
            Ok(n) if stream.write_all(&bytes[..n]).is_ok() => {}
            _ => return,
        }
    }
}

fn answer(socket: &UdpSocket) {
    let mut bytes = [0; 65536];
    while let Ok((n, from)) = socket.recv_from(&mut bytes) {
        let _ = socket.send_to(&bytes[..n], from);
    }
}
