//! agentctl against a daemon that is played: connections that break, detach keys, hostile output.
#![allow(clippy::unwrap_used)]

mod played;
mod terminal;

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use agentd_proto::v1::attach_input::Kind as In;
use agentd_proto::v1::attach_output::Kind as Out;
use agentd_proto::v1::{Attached, Exit};

use played::{Daemon, Scene};

fn agentctl(daemon: &Daemon) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_agentctl"));
    command.env("AGENTD_SOCKET", daemon.socket()).stdin(Stdio::null());
    command
}

fn attached(terminal: bool, output: u64, input: u64) -> Out {
    Out::Attached(Attached { id: "0123456789ab".into(), terminal, output, input })
}

fn exited(code: i32) -> Out {
    Out::Exit(Exit { reason: "exited".into(), code: Some(code), ..Exit::default() })
}

fn text(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_broken_connection_is_made_again_without_a_gap_or_a_double() {
    let daemon = Daemon::play(vec![
        Scene::new(vec![attached(false, 0, 0), Out::Stdout("one ".into()), Out::Stderr("two ".into())]),
        Scene::new(vec![
            attached(false, 6, 0),
            Out::Stderr("o ".into()),
            Out::Stdout("three".into()),
            exited(3),
        ]),
    ]);
    let (code, out, err) = text(&agentctl(&daemon).args(["attach", "x"]).output().unwrap());
    assert_eq!((code, out.as_str()), (3, "one three"), "{err}");
    assert_eq!(err, "two agentctl: connection lost; attaching again…\n");
    let opened = daemon.opened();
    assert_eq!(opened.iter().map(|open| open.resume).collect::<Vec<_>>(), [None, Some(8)]);
    assert_eq!(opened[1].id, "0123456789ab");
}

#[test]
fn input_that_was_on_its_way_is_sent_again() {
    let daemon = Daemon::play(vec![
        Scene::after_input(vec![attached(false, 0, 0)], 10),
        Scene::until_eof(vec![attached(false, 0, 4)], vec![exited(0)]),
    ]);
    let mut child = agentctl(&daemon).args(["attach", "x"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"0123456789").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(daemon.input(0), b"0123456789");
    assert_eq!(daemon.input(1), b"456789");
}

#[test]
fn a_session_that_is_gone_meanwhile_is_told() {
    let daemon = Daemon::play(vec![Scene::new(vec![attached(false, 0, 0)]), Scene::unknown()]);
    let (code, _, err) = text(&agentctl(&daemon).args(["attach", "x"]).output().unwrap());
    assert_eq!(code, 125);
    assert!(err.contains("(session.unknown)"), "{err}");
}

#[test]
fn a_further_command_ends_with_its_connection() {
    let daemon = Daemon::play(vec![Scene::new(vec![attached(false, 0, 0)])]);
    let (code, _, err) = text(&agentctl(&daemon).args(["exec", "x", "--", "true"]).output().unwrap());
    assert_eq!(code, 125, "{err}");
    assert!(!err.contains("again"), "{err}");
}

#[test]
fn keys_detach_and_the_terminal_is_given_back() {
    let daemon = Daemon::play(vec![Scene::until_detached(vec![
        attached(true, 100, 0),
        Out::Screen("\x1b]52;c;aGk=\x07\x1b[?1049h\x1b[?1000hscreen".into()),
    ])]);
    let mut terminal = terminal::Terminal::new();
    let before = terminal.settings();
    let mut child = terminal.spawn(agentctl(&daemon).args(["attach", "x"]));
    terminal.wait_for("screen");
    assert_ne!(terminal.settings(), before);
    terminal.write(b"a\x10b\x10\x11");
    let said = terminal.wait_for("detached from 0123456789ab");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(terminal.settings(), before);
    assert!(!said.contains("]52"), "{said:?}");
    assert!(said.contains("\x1b[?1000l\x1b[?1049l"), "{said:?}");
    assert_eq!(daemon.input(0), b"a\x10b");
    assert!(daemon.messages(0).iter().any(|kind| matches!(kind, In::Detach(true))));
}

#[test]
fn whoever_watches_sends_nothing() {
    let daemon =
        Daemon::play(vec![Scene::until_detached(vec![attached(true, 0, 0), Out::Screen("seen".into())])]);
    let mut terminal = terminal::Terminal::new();
    let mut child = terminal.spawn(agentctl(&daemon).args(["attach", "x", "--watch"]));
    terminal.wait_for("seen");
    terminal.write(b"abc\x03");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(daemon.opened()[0].watch);
    assert!(daemon.messages(0).is_empty(), "{:?}", daemon.messages(0));
}
