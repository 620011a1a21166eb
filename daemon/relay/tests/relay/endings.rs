use std::io::Write;
use std::net::Shutdown;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use agentd_policy::wire::{ToRelay, frame};

use crate::rig;

const SOON: Duration = Duration::from_secs(2);

#[test]
fn it_ends_with_the_keeper_after_what_is_there() {
    let (mut relay, mut pipes) = rig::pipes();
    pipes.stdout.write_all(b"last words").unwrap();
    assert_eq!(relay.next(), Some((frame::STDOUT, b"last words".to_vec())));
    pipes.stdout.write_all(b"and more").unwrap();
    relay.control = None;
    let start = Instant::now();
    assert_eq!(relay.next(), Some((frame::STDOUT, b"and more".to_vec())));
    let (status, said) = relay.end(SOON);
    assert!(start.elapsed() > Duration::from_millis(500), "it waited for {:?}", start.elapsed());
    assert_eq!(status.code(), Some(1));
    assert_eq!(said, "agentd-relay: the keeper is gone\n");
    drop(pipes);
}

#[test]
fn the_command_may_end_after_the_keeper() {
    let (mut relay, pipes) = rig::pipes();
    relay.control = None;
    drop(pipes);
    assert_eq!(relay.rest(), (Vec::new(), Vec::new()));
    relay.end(SOON);
}

#[test]
fn without_keeper_and_service_nothing_holds_it() {
    let (mut relay, pipes) = rig::pipes();
    relay.service.0.shutdown(Shutdown::Both).unwrap();
    relay.control = None;
    relay.end(Duration::from_millis(500));
    drop(pipes);
}

#[test]
fn a_full_connection_does_not_outlive_the_keeper() {
    let (mut relay, pipes) = rig::pipes();
    let mut sh = pipes.sh("exec yes");
    std::thread::sleep(Duration::from_millis(100));
    relay.control = None;
    assert_eq!(relay.end(SOON).0.code(), Some(1));
    // Its pipes are closed: the command ends as well.
    assert!(!sh.wait().unwrap().success());
}

#[test]
fn it_waits_for_the_end_of_the_session_and_the_last_acknowledgement() {
    let (mut relay, pipes) = rig::pipes();
    relay.service.set_silent();
    drop(pipes);
    relay.order(&ToRelay::Over, &[]);
    assert_eq!(relay.next(), Some((frame::DRAINED, Vec::new())));
    std::thread::sleep(Duration::from_millis(100));
    assert!(relay.child.try_wait().unwrap().is_none());
    relay.send(frame::ACK, &0_u64.to_le_bytes());
    let (status, said) = relay.end(SOON);
    assert!(status.success() && said.is_empty(), "{said}");
}

#[test]
fn frames_out_of_form_cost_the_stream_and_not_the_session() {
    let long = [frame::STDIN, 1, 0, 1];
    let bad: [&[u8]; 11] = [
        &[10, 0, 0, 0],
        &[255; 64],
        &long,
        &[frame::STDIN_EOF, 1, 0, 0],
        &[frame::RESIZE, 3, 0, 0],
        &[frame::STDOUT, 0, 0, 0],
        &[frame::DRAINED, 0, 0, 0],
        &[frame::INPUT, 8, 0, 0],
        &[frame::SCREEN, 1, 0, 0],
        // Only a later stream begins with this, and nothing was sent that could be acknowledged.
        &[frame::RESUME, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[frame::ACK, 8, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0],
    ];
    for bytes in bad {
        let (mut relay, pipes) = rig::pipes();
        (&*relay.service.0).write_all(bytes).unwrap();
        assert_eq!(relay.next(), None, "{bytes:?}");
        // Nor does a stream that begins malformed, or with what never was.
        for bytes in [&[frame::STDIN, 0, 0, 0][..], &[frame::RESUME, 8, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]] {
            relay.reconnect(0);
            (&*relay.service.0).write_all(bytes).unwrap();
            assert_eq!(relay.next(), None, "{bytes:?}");
        }
        relay.reconnect(0);
        assert_eq!(relay.service.resume(), 0);
        drop(pipes);
        assert_eq!(relay.rest(), (Vec::new(), Vec::new()));
        relay.order(&ToRelay::Over, &[]);
        let (status, said) = relay.end(SOON);
        assert!(status.success(), "{bytes:?}");
        assert_eq!(said.matches("agentd-relay: frame malformed").count(), 3, "{said}");
    }
}

#[test]
fn half_a_frame_is_waited_for() {
    let (relay, pipes) = rig::pipes();
    let mut cat = pipes.sh("cat");
    for byte in
        [frame::STDIN, 2, 0, 0, b'o', b'k', frame::RESIZE, 4, 0, 0, 1, 0, 1, 0, frame::STDIN_EOF, 0, 0, 0]
    {
        (&*relay.service.0).write_all(&[byte]).unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(relay.rest().0, b"ok");
    cat.wait().unwrap();
}

#[test]
fn without_its_descriptors_it_says_so() {
    for (mode, words) in [("pipes", "cannot take a descriptor"), ("both", "usage: ")] {
        let mut start = Command::new(rig::BINARY);
        let output = start.arg(mode).stdin(Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains(words), "{output:?}");
    }
}
