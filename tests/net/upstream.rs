//! A site whose only way to names is an HTTP proxy.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use agentd_tests::harness::{Named, World, text_at};
use agentd_tests::tests;

use crate::internet;

pub const TESTS: &[Named] = tests![names_are_reached_by_the_proxy_of_the_site,];

/// Where the proxy of the test is.
const PROXY: &str = "192.0.2.90:3128";
const CREDENTIAL: &str = "site:secret";
/// The same, as the proxy reads it.
const AUTHORIZATION: &str = "Proxy-Authorization: Basic c2l0ZTpzZWNyZXQ=";

/// A proxy that knows `outer.test`, which no resolver knows, and keeps `shut.test` to itself: what it was asked for.
fn proxy() -> Arc<Mutex<Vec<String>>> {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let requests = asked.clone();
    internet().internet().enter(|| {
        let listener = TcpListener::bind(PROXY).expect("an address of the internet's");
        std::thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                let requests = requests.clone();
                std::thread::spawn(move || serve(client, &requests));
            }
        });
    });
    asked
}

fn serve(mut client: TcpStream, asked: &Mutex<Vec<String>>) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && client.read(&mut byte).is_ok_and(|count| count == 1) {
        head.extend(byte);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
    asked.lock().expect("no panic").push(head);
    let ok = "HTTP/1.1 200 Connection established\r\n\r\n";
    let answered = match target.as_str() {
        "good.test:80" | "outer.test:80" => client.write_all(ok.as_bytes()).and_then(|()| forward(client)),
        _ => client.write_all(b"HTTP/1.1 403 Not here\r\nContent-Length: 0\r\n\r\n"),
    };
    // Who is gone already, others come.
    answered.ok();
}

fn forward(client: TcpStream) -> std::io::Result<()> {
    let server = TcpStream::connect("192.0.2.80:80")?;
    let (mut up, mut down) = (client.try_clone()?, client);
    let (mut to, mut from) = (server.try_clone()?, server);
    let sends = std::thread::spawn(move || std::io::copy(&mut up, &mut to).map(drop));
    std::io::copy(&mut from, &mut down)?;
    down.shutdown(std::net::Shutdown::Both)?;
    sends.join().expect("no panic")
}

fn names_are_reached_by_the_proxy_of_the_site(_: &World) {
    let asked = proxy();
    let world = internet().world_through(PROXY, CREDENTIAL);
    let rules = ["good.test:80", "outer.test:80", "shut.test:80", "*.rogue.test:80"];
    let rules = rules.iter().flat_map(|rule| ["--allow", rule]);
    let script = "curl -sS http://good.test/; getent ahostsv4 outer.test | head -n 1 | cut -d ' ' -f 1; \
        curl -sS -o /dev/null -w '%{http_code}\n' http://outer.test/; \
        for url in http://shut.test/ http://evil.test/ http://private10.rogue.test/ http://192.0.2.90:3128/; do \
        curl -sS -m 20 $url 2>/dev/null; echo $?; done; env";
    let output = world.session().past_the_proxy().options(rules).bash(script).expect_code(0);
    let text = output.text();
    let lines: Vec<_> = text.lines().take(7).collect();
    // A tunnel that is not opened is a reset; names that are denied, or near, are not found.
    assert_eq!(lines, ["this is good.test", "198.18.0.1", "200", "56", "6", "6", "7"], "{}", output.stderr);
    assert!(!text.contains("secret") && !text.contains("c2l0ZTpzZWNyZXQ"), "{text}");
    let asked = asked.lock().expect("no panic");
    let targets: Vec<_> = asked.iter().map(|head| head.split(' ').nth(1).unwrap_or_default()).collect();
    assert_eq!(targets, ["good.test:80", "outer.test:80", "shut.test:80"]);
    assert!(asked.iter().all(|head| head.contains(AUTHORIZATION)), "{asked:?}");
    let events = world.events(world.a(), &output.name);
    let refused = events.iter().any(|event| {
        text_at(event, "/kind") == "net.closed"
            && text_at(event, "/net/reason").contains("the site's proxy says")
    });
    assert!(refused, "{events:#?}");
}
