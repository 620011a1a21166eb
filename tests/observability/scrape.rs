//! Asking for numbers, as Prometheus does.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use agentd_tests::harness::{User, World};

/// Longer than any connection lasts.
const LIMIT: Duration = Duration::from_secs(30);
/// What Prometheus sends.
pub const GET: &str = "GET /metrics HTTP/1.1\r\nHost: agentd\r\nAccept: application/openmetrics-text\r\n\r\n";

/// Connects as `user`.
pub fn connect(world: &World, user: &User) -> std::io::Result<UnixStream> {
    let stream = world.daemon().connect_as(user, |path| UnixStream::connect(path), "metrics.sock")?;
    stream.set_read_timeout(Some(LIMIT))?;
    Ok(stream)
}

/// All that comes until the other side closes. One that is closed before it read all resets.
pub fn rest(stream: &mut UnixStream) -> String {
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    }
    String::from_utf8(answer).expect("text")
}

/// The answer to `request`. A client whose request is not read to its end is answered all the same.
pub fn ask(world: &World, user: &User, request: &[u8]) -> std::io::Result<String> {
    let mut stream = connect(world, user)?;
    match stream.write_all(request) {
        Err(error) if ![ErrorKind::BrokenPipe, ErrorKind::ConnectionReset].contains(&error.kind()) => {
            Err(error)
        }
        _ => Ok(rest(&mut stream)),
    }
}

/// The numbers, as an admin sees them.
pub fn scrape(world: &World) -> String {
    let answer = ask(world, world.admin(), GET.as_bytes()).expect("an admin may connect");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    let form = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert!(head.lines().any(|line| line.eq_ignore_ascii_case(form)), "{head}");
    assert!(body.ends_with("# EOF\n"), "{body}");
    body.to_owned()
}

/// The value of `series`, which is 0 if nothing of it was counted.
pub fn value(text: &str, series: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().expect("a number"))
}
