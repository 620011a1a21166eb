use std::io::Write;
use std::net::Shutdown;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use agentd_policy::wire::frame;

use crate::rig;

const SOON: Duration = Duration::from_secs(2);

#[test]
fn it_ends_with_the_keeper_after_what_is_there() {
    let (mut relay, mut pipes) = rig::pipes();
    // What comes on the lifeline is no end.
    relay.lifeline.as_mut().unwrap().write_all(&[0; 5000]).unwrap();
    pipes.stdout.write_all(b"last words").unwrap();
    relay.lifeline = None;
    let start = Instant::now();
    assert_eq!(relay.next(), Some((frame::STDOUT, b"last words".to_vec())));
    let (status, said) = relay.end(SOON);
    assert!(start.elapsed() > Duration::from_millis(500), "it waited for {:?}", start.elapsed());
    assert_eq!(status.code(), Some(1));
    assert_eq!(said, "agentd-relay: the keeper is gone\n");
    drop(pipes);
}

#[test]
fn the_command_may_end_after_the_keeper() {
    let (mut relay, pipes) = rig::pipes();
    relay.lifeline = None;
    drop(pipes);
    assert_eq!(relay.rest(), (Vec::new(), Vec::new()));
    relay.service.shutdown(Shutdown::Both).unwrap();
    relay.end(SOON);
}

#[test]
fn a_full_connection_does_not_outlive_the_keeper() {
    let (mut relay, pipes) = rig::pipes();
    let mut sh = pipes.sh("exec yes");
    std::thread::sleep(Duration::from_millis(100));
    relay.lifeline = None;
    assert_eq!(relay.end(SOON).0.code(), Some(1));
    // Its pipes are closed: the command ends as well.
    assert!(!sh.wait().unwrap().success());
}

#[test]
fn it_ends_with_the_service() {
    for how in [Shutdown::Both, Shutdown::Write] {
        let (mut relay, pipes) = rig::pipes();
        relay.service.shutdown(how).unwrap();
        let (status, said) = relay.end(SOON);
        assert_eq!(status.code(), Some(1));
        assert!(said.contains("the service closed"), "{said}");
        drop(pipes);
    }
}

#[test]
fn it_ends_with_the_service_while_output_waits() {
    let (mut relay, pipes) = rig::pipes();
    let mut sh = pipes.sh("exec yes");
    std::thread::sleep(Duration::from_millis(100));
    relay.service.shutdown(Shutdown::Both).unwrap();
    assert_eq!(relay.end(SOON).0.code(), Some(1));
    sh.wait().unwrap();
}

#[test]
fn frames_out_of_form_end_it() {
    let long = [frame::STDIN, 1, 0, 1];
    let bad: [&[u8]; 8] = [
        &[9, 0, 0, 0],
        &[255; 64],
        &long,
        &[frame::STDIN_EOF, 1, 0, 0],
        &[frame::RESIZE, 3, 0, 0],
        &[frame::STDOUT, 0, 0, 0],
        &[frame::DRAINED, 0, 0, 0],
        &[frame::STDIN_EOF, 0, 0, 0, frame::STDIN, 1, 0, 0],
    ];
    for bytes in bad {
        let (mut relay, pipes) = rig::pipes();
        (&relay.service).write_all(bytes).unwrap();
        let (status, said) = relay.end(SOON);
        assert_eq!(status.code(), Some(1), "{bytes:?}");
        assert!(said.starts_with("agentd-relay: frame out of form") && said.lines().count() == 1, "{said}");
        drop(pipes);
    }
}

#[test]
fn half_a_frame_is_waited_for() {
    let (relay, pipes) = rig::pipes();
    let mut cat = pipes.sh("cat");
    for byte in
        [frame::STDIN, 2, 0, 0, b'o', b'k', frame::RESIZE, 4, 0, 0, 1, 0, 1, 0, frame::STDIN_EOF, 0, 0, 0]
    {
        (&relay.service).write_all(&[byte]).unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(relay.rest().0, b"ok");
    cat.wait().unwrap();
}

#[test]
#[ignore = "takes half a minute"]
fn a_service_that_takes_nothing_does_not_hold_it_for_ever() {
    let (mut relay, pipes) = rig::pipes();
    let mut sh = pipes.sh("head -c 250k /dev/zero");
    sh.wait().unwrap();
    let (status, said) = relay.end(Duration::from_secs(40));
    assert_eq!(status.code(), Some(1));
    assert!(said.contains("takes no output"), "{said}");
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
