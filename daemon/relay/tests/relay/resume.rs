//! Streams that are lost, and commands that come later.

use std::net::Shutdown;
use std::time::Duration;

use agentd_policy::wire::{FromRelay, ToRelay, frame};
use proptest::prelude::*;

use crate::rig::{self, Service, State};

#[test]
fn a_command_goes_on_without_a_service() {
    let (mut relay, pipes) = rig::pipes();
    relay.service.0.shutdown(Shutdown::Both).unwrap();
    let mut sh = pipes.sh("printf one; sleep 0.1; printf two >&2");
    sh.wait().unwrap();
    relay.reconnect(0);
    relay.service.resume();
    assert_eq!(relay.rest(), (b"one".to_vec(), b"two".to_vec()));
    relay.assert_ends_well();
}

#[test]
fn a_command_waits_once_its_window_is_full() {
    let (mut relay, pipes) = rig::pipes();
    relay.service.0.shutdown(Shutdown::Both).unwrap();
    let mut sh = pipes.sh("head -c 4M /dev/zero");
    std::thread::sleep(Duration::from_millis(300));
    assert!(sh.try_wait().unwrap().is_none());
    relay.reconnect(0);
    relay.service.resume();
    assert_eq!(relay.rest().0.len(), 4 << 20);
    sh.wait().unwrap();
    relay.assert_ends_well();
}

#[test]
fn the_end_is_told_again() {
    let (mut relay, pipes) = rig::pipes();
    let mut sh = pipes.sh("printf all");
    relay.service.set_silent();
    assert_eq!(relay.rest().0, b"all");
    relay.reconnect(0);
    relay.service.resume();
    assert_eq!(relay.next(), Some((frame::DRAINED, Vec::new())));
    // And from the start, which was not acknowledged.
    let (service, theirs) = Service::pair(State::default());
    relay.order(&ToRelay::Connect { command: 0 }, &[theirs]);
    relay.service = service;
    relay.service.resume();
    assert_eq!(relay.rest().0, b"all");
    sh.wait().unwrap();
    relay.assert_ends_well();
}

#[test]
fn further_commands_have_streams_of_their_own() {
    let (mut relay, first) = rig::pipes();
    let mut others = Vec::new();
    for number in 1..=16 {
        let (service, theirs) = Service::pair(State::default());
        let (streams, pipes) = rig::streams();
        relay.order(&ToRelay::Carry { command: number, terminal: false }, &fds(theirs, streams));
        others.push((number, service, pipes.sh(&format!("cat; printf {number} >&2"))));
    }
    let (service, theirs) = Service::pair(State::default());
    let (master, slave) = rig::pty();
    relay.order(&ToRelay::Carry { command: 17, terminal: true }, &[theirs, master]);
    let mut sh = rig::sh_on(slave, "stty size");
    assert!(!service.rest().0.is_empty());
    sh.wait().unwrap();
    for (number, service, mut sh) in others {
        service.send(frame::STDIN, b"in");
        service.send(frame::STDIN_EOF, b"");
        assert_eq!(service.rest(), (b"in".to_vec(), number.to_string().into_bytes()));
        assert_eq!(service.next(), None);
        sh.wait().unwrap();
    }
    let closed: Vec<_> = (0..18).map(|_| relay.said()).filter(|said| *said != FromRelay::Active).collect();
    assert_eq!(closed.len(), 17);
    let (service, theirs) = Service::pair(State::default());
    let (streams, pipes) = rig::streams();
    relay.order(&ToRelay::Carry { command: 18, terminal: false }, &fds(theirs, streams));
    let mut sh = pipes.sh("yes & exec sleep 1000");
    service.set_silent();
    assert!(service.next().is_some());
    relay.order(&ToRelay::Close { command: 18 }, &[]);
    // It may be cut off within a frame.
    let mut rest = Vec::new();
    std::io::Read::read_to_end(&mut &*service.0, &mut rest).ok();
    assert_eq!(relay.said(), FromRelay::Closed { command: 18 });
    sh.kill().unwrap();
    sh.wait().unwrap();
    // Nobody's.
    let (service, theirs) = Service::pair(State::default());
    relay.order(&ToRelay::Connect { command: 18 }, &[theirs]);
    assert_eq!(service.next(), None);
    drop(first);
    relay.rest();
    relay.assert_ends_well();
}

fn fds(service: std::os::fd::OwnedFd, streams: Vec<std::os::fd::OwnedFd>) -> Vec<std::os::fd::OwnedFd> {
    std::iter::once(service).chain(streams).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// Input goes through `cat`, over streams that are cut after so many frames each way.
    #[test]
    fn no_byte_is_lost_or_doubled(cuts in prop::collection::vec((1_usize..40, 1_usize..30_000), 1..12)) {
        let (mut relay, pipes) = rig::pipes();
        let mut cat = pipes.sh("exec cat");
        let sent = rig::noise(3 << 20);
        let mut got = Vec::new();
        for (frames, size) in cuts {
            let service = relay.service.clone();
            let from = usize::try_from(service.state().sent).unwrap();
            std::thread::scope(|scope| {
                let (service, sent) = (&service, &sent);
                scope.spawn(move || {
                    let pieces = sent[from..].chunks(size).take(frames);
                    pieces
                        .take_while(|piece| service.has_room(piece.len()))
                        .for_each(|piece| service.send(frame::STDIN, piece));
                });
                let due = (sent.len() - from).min(size * frames).min(200_000);
                let mut seen = 0;
                for _ in 0..frames {
                    if seen >= due / 2 {
                        break;
                    }
                    let (kind, payload) = service.next().unwrap();
                    assert_eq!(kind, frame::STDOUT);
                    seen += payload.len();
                    got.extend(payload);
                }
            });
            relay.service.0.shutdown(Shutdown::Both).unwrap();
            relay.reconnect(0);
            relay.service.resume();
        }
        let service = relay.service.clone();
        let from = usize::try_from(service.state().sent).unwrap();
        let rest = std::thread::scope(|scope| {
            scope.spawn(|| {
                sent[from..].chunks(50_000).for_each(|piece| service.send(frame::STDIN, piece));
                service.send(frame::STDIN_EOF, b"");
            });
            relay.rest().0
        });
        got.extend(rest);
        cat.wait().unwrap();
        relay.assert_ends_well();
        prop_assert!(got == sent, "{} bytes came of {}", got.len(), sent.len());
    }
}
