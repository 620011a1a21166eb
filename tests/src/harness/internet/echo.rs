//! Servers that send back what they get, over TCP and UDP.

use std::net::{TcpListener, UdpSocket};

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

/// Echoes on each of `addresses`, over both, until this process ends. A port over TCP speaks first: `hello`.
///
/// # Panics
/// If an address is taken.
pub fn serve(addresses: &[&str]) {
    for address in addresses {
        let listener = TcpListener::bind(address).unwrap_or_else(|e| panic!("{address}: {e}"));
        // Thousands at once are no flood to it.
        rustix::net::listen(&listener, 4096).expect("it listens");
        let socket = UdpSocket::bind(address).unwrap_or_else(|e| panic!("{address}: {e}"));
        std::thread::spawn(move || accept(listener));
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
    std::thread::spawn(move || accept(v4));
    std::thread::spawn(move || accept(v6));
    port
}

/// Any number of connections on one thread.
fn accept(listener: TcpListener) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        listener.set_nonblocking(true).expect("our own socket");
        let listener = tokio::net::TcpListener::from_std(listener).expect("our own socket");
        loop {
            // Whoever is gone already, others come.
            let Ok((stream, _)) = listener.accept().await else { continue };
            tokio::spawn(echo(stream));
        }
    });
}

async fn echo(mut stream: TcpStream) {
    let (mut from, mut to) = stream.split();
    if to.write_all(b"hello\n").await.is_ok() && tokio::io::copy(&mut from, &mut to).await.is_ok() {
        to.shutdown().await.ok();
    }
}

fn answer(socket: &UdpSocket) {
    let mut bytes = [0; 65536];
    while let Ok((n, from)) = socket.recv_from(&mut bytes) {
        socket.send_to(&bytes[..n], from).ok();
    }
}
