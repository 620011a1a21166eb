//! Questions of DNS: who answers them, and how many answers come in a second.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use crate::Done;

/// The longest message here.
const MESSAGE: usize = 1232;
const HEADER: usize = 12;
const A: [u8; 2] = [0, 1];
/// How long an answer may take before it counts as lost.
const LOST: Duration = Duration::from_millis(500);

/// The server's socket.
pub fn bind(address: &str) -> Done<UdpSocket> {
    Ok(UdpSocket::bind((address, 53))?)
}

/// Answers every question for an address with its own, valid for an hour, and all others with nothing.
pub fn serve(socket: &UdpSocket) -> Done {
    let std::net::IpAddr::V4(own) = socket.local_addr()?.ip() else { return Err("no IPv4".into()) };
    let mut message = [0; MESSAGE];
    loop {
        let (count, from) = socket.recv_from(&mut message)?;
        if let Some(answer) = answer(&message[..count], own) {
            // One who is gone needs no answer.
            socket.send_to(&answer, from).ok();
        }
    }
}

fn answer(query: &[u8], own: Ipv4Addr) -> Option<Vec<u8>> {
    let mut end = HEADER;
    while *query.get(end)? != 0 {
        end += 1 + usize::from(query[end]);
    }
    let kind = query.get(end + 1..end + 3)?;
    let mut answer = query.get(..end + 5)?.to_vec();
    let records = u8::from(kind == A);
    // A response, recursion wanted and available; one question, the answers, nothing else.
    answer[2..HEADER].copy_from_slice(&[0x81, 0x80, 0, 1, 0, records, 0, 0, 0, 0]);
    if records == 1 {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0x0e, 0x10, 0, 4]);
        answer.extend(own.octets());
    }
    Some(answer)
}

fn query(name: &str, number: u16) -> Vec<u8> {
    let [high, low] = number.to_be_bytes();
    let mut query = vec![high, low, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).unwrap_or(0));
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    query
}

/// Answers a second with `flight` questions of `name` on their way for so long, and how many were lost; each must have
/// an address.
pub fn flood(server: SocketAddr, name: &str, flight: u16, long: Duration) -> Done<(f64, u32)> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(LOST))?;
    let queries: Vec<Vec<u8>> = (0..flight).map(|number| query(name, number)).collect();
    // The first one may have to be asked for.
    socket.send(&queries[0])?;
    let mut message = [0; MESSAGE];
    let count = socket.recv(&mut message)?;
    check(&message[..count])?;

    for query in &queries {
        socket.send(query)?;
    }
    let (began, mut answers, mut lost) = (Instant::now(), 0_u32, 0);
    while answers % 64 != 0 || began.elapsed() < long {
        match socket.recv(&mut message) {
            Ok(count) => {
                check(&message[..count])?;
                answers += 1;
                let number = u16::from_be_bytes([message[0], message[1]]);
                socket.send(queries.get(usize::from(number)).ok_or("an answer to nothing")?)?;
            }
            // All that are on their way are lost.
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                lost += u32::from(flight);
                for query in &queries {
                    socket.send(query)?;
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok((f64::from(answers) / began.elapsed().as_secs_f64(), lost))
}

/// How long one question at a time takes, `tries` times.
pub fn one_by_one(server: SocketAddr, name: &str, tries: usize) -> Done<Vec<Duration>> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(LOST))?;
    let (query, mut message) = (query(name, 1), [0; MESSAGE]);
    let mut all = Vec::with_capacity(tries);
    for _ in 0..tries {
        let began = Instant::now();
        socket.send(&query)?;
        let count = socket.recv(&mut message)?;
        all.push(began.elapsed());
        check(&message[..count])?;
    }
    Ok(all)
}

fn check(answer: &[u8]) -> Done {
    match answer {
        [_, _, _, flags, _, _, high, low, ..] if flags & 0x0f == 0 && (*high, *low) != (0, 0) => Ok(()),
        _ => Err(format!("no address in an answer: {answer:02x?}").into()),
    }
}
