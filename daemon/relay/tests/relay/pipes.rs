use std::io::{Read, Write};
use std::time::{Duration, Instant};

use agentd_policy::wire::{ToRelay, frame};

use crate::rig;

#[test]
fn input_comes_back_through_cat() {
    let (mut relay, pipes) = rig::pipes();
    let mut cat = pipes.sh("cat");
    relay.send(frame::STDIN, b"hello");
    assert_eq!(relay.next(), Some((frame::STDOUT, b"hello".to_vec())));
    relay.send(frame::STDIN, b"");
    relay.send(frame::STDIN, b" again");
    relay.send(frame::STDIN_EOF, b"");
    assert_eq!(relay.rest(), (b" again".to_vec(), Vec::new()));
    assert!(cat.wait().unwrap().success());
    relay.assert_ends_well();
}

#[test]
fn input_behind_its_end_goes_nowhere_and_harms_nothing() {
    let (mut relay, pipes) = rig::pipes();
    let mut sh = pipes.sh("cat; sleep 0.2; echo late");
    relay.send(frame::STDIN_EOF, b"");
    relay.send(frame::STDIN_EOF, b"");
    relay.send(frame::STDIN, &[b'x'; 9000]);
    relay.send(frame::STDIN_EOF, b"");
    assert_eq!(relay.rest(), (b"late\n".to_vec(), Vec::new()));
    assert!(sh.wait().unwrap().success());
    relay.assert_ends_well();
}

#[test]
fn output_and_error_stay_apart() {
    let (mut relay, pipes) = rig::pipes();
    let mut sh = pipes.sh("printf out; printf err >&2; printf more");
    let (out, err) = relay.rest();
    assert_eq!((&out[..], &err[..]), (&b"outmore"[..], &b"err"[..]));
    assert!(sh.wait().unwrap().success());
    relay.assert_ends_well();
}

#[test]
fn nothing_at_all_is_drained_too() {
    let (relay, pipes) = rig::pipes();
    drop(pipes);
    assert_eq!(relay.next(), Some((frame::DRAINED, Vec::new())));
    relay.order(&ToRelay::Over, &[]);
    assert_eq!(relay.next(), None);
}

#[test]
fn an_output_that_is_closed_early_does_not_end_the_other() {
    let (relay, pipes) = rig::pipes();
    let mut sh = pipes.sh("exec >&-; sleep 0.2; printf late >&2");
    assert_eq!(relay.rest(), (Vec::new(), b"late".to_vec()));
    sh.wait().unwrap();
}

#[test]
fn much_goes_both_ways_unharmed() {
    let (mut relay, pipes) = rig::pipes();
    let mut cat = pipes.sh("cat");
    let sent = rig::noise(64 << 20);
    let service = relay.service.clone();
    let (out, err) = std::thread::scope(|scope| {
        scope.spawn(|| {
            // Frames of all sizes, so that pieces lie everywhere in the queue.
            let (mut rest, mut size) = (&sent[..], 1);
            while !rest.is_empty() {
                let (now, later) = rest.split_at(size.min(rest.len()));
                service.send(frame::STDIN, now);
                (rest, size) = (later, size * 7 % frame::MAX + 1);
            }
            service.send(frame::STDIN_EOF, b"");
        });
        relay.rest()
    });
    assert!(out == sent, "{} bytes came of {}", out.len(), sent.len());
    assert!(err.is_empty());
    cat.wait().unwrap();
    relay.assert_ends_well();
}

#[test]
fn a_flood_of_output_leaves_errors_their_turn() {
    let (relay, pipes) = rig::pipes();
    let mut sh = pipes.sh("head -c 64M /dev/zero & sleep 0.05; printf here >&2; wait");
    let mut before = 0;
    loop {
        match relay.next().unwrap() {
            (frame::STDERR, text) => break assert_eq!(text, b"here"),
            (_, payload) => before += payload.len(),
        }
        // A slow client: the pipe is full all the time.
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(before < 32 << 20, "{before} bytes went before the error");
    assert_eq!(before + relay.rest().0.len(), 64 << 20);
    sh.wait().unwrap();
}

#[test]
fn input_that_nobody_reads_is_thrown_away() {
    let (mut relay, pipes) = rig::pipes();
    let mut sh = pipes.sh("exec <&-; printf closed; sleep 0.5; printf done");
    assert_eq!(relay.next(), Some((frame::STDOUT, b"closed".to_vec())));
    let service = relay.service.clone();
    let rest = std::thread::scope(|scope| {
        scope.spawn(|| {
            (0..64).for_each(|_| service.send(frame::STDIN, &[7; frame::MAX]));
            service.send(frame::STDIN_EOF, b"");
        });
        relay.rest()
    });
    assert_eq!(rest, (b"done".to_vec(), Vec::new()));
    sh.wait().unwrap();
    relay.assert_ends_well();
}

#[test]
fn output_flows_while_input_waits() {
    let (relay, pipes) = rig::pipes();
    let mut sh = pipes.sh("for i in 1 2 3; do sleep 0.05; printf $i; done; sleep 0.1; wc -c");
    // Fits into the queue and the pipe.
    for _ in 0..4 {
        relay.send(frame::STDIN, &[7; frame::MAX]);
    }
    relay.send(frame::STDIN_EOF, b"");
    assert_eq!(relay.rest().0, b"123262144\n");
    sh.wait().unwrap();
}

/// The service sends a flood of input that nobody reads, and takes a flood of output: neither waits for the other.
#[test]
fn acknowledgements_are_not_held_up_by_input() {
    let (mut relay, pipes) = rig::pipes();
    let mut sh = pipes.sh("head -c 8M /dev/zero; exec head -c 1M >&2");
    let service = relay.service.clone();
    let (out, err) = std::thread::scope(|scope| {
        scope.spawn(|| (0..16).for_each(|_| service.send(frame::STDIN, &[7; frame::MAX])));
        relay.rest()
    });
    assert_eq!((out.len(), err.len()), (8 << 20, 1 << 20));
    sh.wait().unwrap();
    relay.assert_ends_well();
}

/// `cargo test --release -p agentd-relay -- --ignored --nocapture gigabytes`
#[test]
#[ignore = "a measurement"]
fn gigabytes_a_second() {
    for (terminal, source) in [
        (false, "head -c 1G /dev/zero"),
        (false, "yes | head -c 1G"),
        (true, "yes | head -c 24M"),
        (true, "yes 'a line of text that is as long as lines often are, with words' | head -c 24M"),
        (true, "stty raw; head -c 12M /dev/urandom"),
        (true, "stty raw; yes $(printf '\\033[31mred\\033[0m \\033[10;20Hplain') | head -c 12M"),
    ] {
        let start = Instant::now();
        let (relay, mut sh) = if terminal {
            let (relay, slave) = rig::terminal();
            (relay, rig::sh_on(slave, source))
        } else {
            let (relay, pipes) = rig::pipes();
            (relay, pipes.sh(source))
        };
        let (mut total, mut acked, mut buffer) = (0_u64, 0, vec![0; frame::MAX]);
        let mut service = &*relay.service.0;
        loop {
            let mut header = [0; frame::HEADER];
            service.read_exact(&mut header).unwrap();
            let (kind, len) = frame::parse(header).unwrap();
            service.read_exact(&mut buffer[..len]).unwrap();
            total += len as u64;
            if kind == frame::DRAINED {
                break;
            }
            if total - acked >= 256 << 10 {
                acked = total;
                let header = frame::header(frame::ACK, 8).unwrap();
                service.write_all(&[&header[..], &total.to_le_bytes()].concat()).unwrap();
            }
        }
        let speed = total as f64 / start.elapsed().as_secs_f64() / 1e6;
        println!("{speed:.0} MB/s of {source:?}");
        sh.wait().unwrap();
    }
}
