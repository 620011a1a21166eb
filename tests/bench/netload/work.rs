//! The near end: measurements, as they are asked for.

use std::io::{BufRead, Read, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::link::{ANSWER, Ask, CHUNK, Link, Way};
use crate::server::{send, take};
use crate::{Done, dns};

/// The ways to the server.
struct Ways {
    raw: Way,
    tls: Way,
}

/// Measures what the lines of standard input say, until their end.
pub fn work(name: &str, ports: [&str; 2], certificate: &str, proxy: Option<&str>) -> Done {
    let proxy = proxy.map(str::parse::<SocketAddr>).transpose()?;
    let (name, host) = name.split_once('=').unwrap_or((name, name));
    let way = |port: &str| -> Done<Way> {
        let mut found = (host, port.parse()?).to_socket_addrs()?;
        Ok(Way::new(found.next().ok_or("the name has no address")?, proxy))
    };
    let ways = Ways { raw: way(ports[0])?, tls: way(ports[1])?.tls(name, certificate)? };
    let mut held = Vec::new();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        let figures = measure(&ways, &words, &mut held).unwrap_or_else(|e| json!({ "error": e.to_string() }));
        println!("{figures}");
    }
    Ok(())
}

fn measure(ways: &Ways, words: &[&str], held: &mut Vec<Box<dyn Link>>) -> Done<Value> {
    let way = |kind| if kind == "https" { &ways.tls } else { &ways.raw };
    let seconds = |text: &str| -> Done<Duration> { Ok(Duration::from_secs_f64(text.parse()?)) };
    match words {
        ["download", kind, bytes] => bulk(way(*kind), Ask::Download, bytes.parse()?),
        ["upload", kind, bytes] => bulk(way(*kind), Ask::Upload, bytes.parse()?),
        ["kept", kind, tries] => {
            let mut link = way(*kind).open()?;
            small(&mut *link, Ask::Small)?;
            distribution(tries.parse()?, || timed(|| small(&mut *link, Ask::Small)))
        }
        ["new", kind, tries] => distribution(tries.parse()?, || once(way(*kind))),
        ["rate", kind, jobs, long] => rate(way(*kind), jobs.parse()?, seconds(long)?),
        ["hold", count] => {
            for _ in 0..count.parse()? {
                let mut link = ways.raw.open()?;
                small(&mut *link, Ask::Small)?;
                held.push(link);
            }
            Ok(json!({ "held": held.len() }))
        }
        ["release"] => {
            held.clear();
            Ok(json!({ "held": 0 }))
        }
        ["dns", server, name, flight, long] => {
            let (rate, lost) = dns::flood(server.parse()?, name, flight.parse()?, seconds(long)?)?;
            let mut one = dns::one_by_one(server.parse()?, name, 1000)?;
            one.sort_unstable();
            Ok(json!({ "rate": rate, "lost": lost, "one_us": micros(one[one.len() / 2]) }))
        }
        _ => Err("no such measurement".into()),
    }
}

/// Bytes a second.
fn bulk(way: &Way, ask: Ask, bytes: u64) -> Done<Value> {
    let mut link = way.open()?;
    let mut chunk = vec![7; CHUNK];
    // What TLS and the way have to say to each other first is not part of it.
    small(&mut *link, Ask::Small)?;
    let began = Instant::now();
    link.write_all(&ask.question(bytes))?;
    link.flush()?;
    match ask {
        Ask::Upload => {
            send(&mut *link, &chunk, bytes)?;
            link.read_exact(&mut [0])?;
        }
        _ => take(&mut *link, &mut chunk, bytes)?,
    }
    Ok(json!({ "rate": bytes as f64 / began.elapsed().as_secs_f64() }))
}

/// A small question and its answer.
fn small(link: &mut dyn Link, ask: Ask) -> Done {
    link.write_all(&ask.question(0))?;
    link.flush()?;
    Ok(link.read_exact(&mut [0; ANSWER])?)
}

/// A new connection, a question, its answer, and how long that took; and the end.
fn once(way: &Way) -> Done<Duration> {
    let began = Instant::now();
    let mut link = way.open()?;
    small(&mut *link, Ask::Last)?;
    let took = began.elapsed();
    // With or without a close of TLS: what counts is the connection's.
    let _end = link.read(&mut [0]);
    Ok(took)
}

fn timed(act: impl FnOnce() -> Done) -> Done<Duration> {
    let began = Instant::now();
    act()?;
    Ok(began.elapsed())
}

fn distribution(tries: usize, mut act: impl FnMut() -> Done<Duration>) -> Done<Value> {
    let mut all = (0..tries).map(|_| act()).collect::<Done<Vec<_>>>()?;
    all.sort_unstable();
    let at = |share: usize| micros(all[all.len() * share / 100]);
    Ok(json!({ "p50_us": at(50), "p99_us": at(99) }))
}

/// New connections a second, each with a question and its answer, `jobs` at a time.
fn rate(way: &Way, jobs: usize, long: Duration) -> Done<Value> {
    let (over, count) = (AtomicBool::new(false), AtomicU64::new(0));
    let job = || -> Done {
        while !over.load(Ordering::Relaxed) {
            once(way)?;
            count.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let began = Instant::now();
        let all: Vec<_> = (0..jobs).map(|_| scope.spawn(job)).collect();
        thread::sleep(long);
        let rate = count.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64();
        over.store(true, Ordering::Relaxed);
        for job in all {
            job.join().map_err(|_| "a client panicked")??;
        }
        Ok(json!({ "rate": rate }))
    })
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}
