use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use agentd_kernel::memfd;

use super::*;

struct World {
    tunnels: Tunnels,
    events: Events,
    key: u64,
    proxy: TcpStream,
}

fn world(credential: Option<&str>) -> World {
    let file = credential.map(|text| {
        let file = memfd::create("test").unwrap();
        rustix::io::write(&file, text.as_bytes()).unwrap();
        file
    });
    let mut tunnels = Tunnels::new(file).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    socket.set_nonblocking(true).unwrap();
    let events = Events::new(1).unwrap();
    let name = HostName::parse("a.example").unwrap();
    let address = "198.18.0.1".parse().unwrap();
    let peer = NetPeer { protocol: "tcp".into(), address, port: 443, name: None, rule: None };
    let asked = Asked { number: 7, name: &name, port: 443, peer };
    tunnels.ask(socket.into(), asked, &events).unwrap();
    let (proxy, _) = listener.accept().unwrap();
    let key = tunnels.last;
    World { tunnels, events, key, proxy }
}

impl World {
    fn step(&mut self) -> Result<bool, NoTunnel> {
        self.tunnels.all.get_mut(&self.key).unwrap().step(self.key, &self.events)
    }

    /// What the proxy has said is there to be read.
    fn say(&mut self, bytes: &[u8]) {
        self.proxy.write_all(bytes).unwrap();
        self.events.wait(None).unwrap();
    }

    fn received(&mut self) -> String {
        let mut bytes = [0; 1024];
        let count = self.proxy.read(&mut bytes).unwrap();
        String::from_utf8(bytes[..count].to_vec()).unwrap()
    }
}

#[test]
fn what_follows_the_proxys_answer_is_the_relays() {
    let mut world = world(Some("user:pass word\n"));
    assert!(!world.step().unwrap());
    let want = "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\
        Proxy-Authorization: Basic dXNlcjpwYXNzIHdvcmQ=\r\n\r\n";
    assert_eq!(world.received(), want);
    world.say(b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r");
    assert!(!world.step().unwrap());
    world.say(b"\nSSH-2.0-x\r\n");
    assert!(world.step().unwrap());
    let socket = world.tunnels.all.remove(&world.key).unwrap().socket;
    let mut rest = [0; 64];
    let count = rustix::io::read(&socket, &mut rest).unwrap();
    assert_eq!(&rest[..count], b"SSH-2.0-x\r\n");
}

#[test]
fn a_proxy_that_opens_nothing_is_an_error() {
    for (said, errno) in [
        (&b"HTTP/1.1 403 Forbidden\r\n\r\n"[..], Errno::ACCESS),
        (b"HTTP/1.1 407 Who are you?\r\nContent-Length: 0\r\n\r\n", Errno::ACCESS),
        (b"HTTP/1.1 100 Continue\r\n\r\n", Errno::ACCESS),
        (b"SSH-2.0-x\r\n\r\n", Errno::CONNRESET),
        (b"HTTP/1.1 2xx\r\n\r\n", Errno::CONNRESET),
        (&[b'x'; LONGEST], Errno::CONNRESET),
    ] {
        let mut world = world(None);
        assert!(!world.step().unwrap());
        assert_eq!(world.received(), "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n");
        world.say(said);
        let error = loop {
            match world.step() {
                Ok(opened) => assert!(!opened),
                Err(error) => break error,
            }
        };
        assert_eq!(error.errno(), errno, "{error}");
    }
    let mut world = world(None);
    assert!(!world.step().unwrap());
    world.received();
    world.proxy.shutdown(std::net::Shutdown::Write).unwrap();
    world.events.wait(None).unwrap();
    assert_eq!(world.step().unwrap_err().errno(), Errno::CONNRESET);
}

#[test]
fn a_credential_is_one_line_with_a_colon() {
    for bad in ["", "user", "user:pass\nword", "user:p\u{e4}ss", &"x:".repeat(300)] {
        let file = memfd::create("test").unwrap();
        rustix::io::write(&file, bad.as_bytes()).unwrap();
        assert!(Tunnels::new(Some(file)).is_err(), "{bad:?}");
    }
}
