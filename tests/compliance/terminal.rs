//! With a terminal: as if the command ran directly.

use std::time::Duration;

use agentd_tests::harness::{Named, Pty, World, wait_for_exit};
use agentd_tests::tests;

pub const TESTS: &[Named] = tests![
    a_command_has_one,
    the_size_is_the_callers,
    resize_arrives,
    interrupt_key_reaches_the_command,
    job_control_works,
    settings_come_back_after_the_end,
    settings_come_back_after_a_kill,
    settings_come_back_after_a_signal,
    agents_cannot_ask_or_set_what_they_should_not,
    what_programs_ask_is_answered,
    end_of_file_key,
    term_comes_along,
];

const LIMIT: Duration = Duration::from_secs(10);

fn a_command_has_one(world: &World) {
    let mut pty = Pty::open();
    let mut child = pty.spawn(&world.session().command([
        "bash",
        "-c",
        "tty; test -t 0 -a -t 1 -a -t 2 && echo all-three",
    ]));
    let shown = pty.read_until("all-three");
    assert!(
        shown.contains("/dev/pts/") || shown.contains("/dev/tty") || shown.contains("/dev/console"),
        "{shown}"
    );
    assert_eq!(wait_for_exit(&mut child, LIMIT).expect("it ends").code(), Some(0));
}

fn the_size_is_the_callers(world: &World) {
    let mut pty = Pty::open();
    pty.resize(33, 101);
    let mut child = pty.spawn(&world.session().command(["stty", "size"]));
    pty.read_until("33 101");
    wait_for_exit(&mut child, LIMIT).expect("it ends");
}

fn resize_arrives(world: &World) {
    let mut pty = Pty::open();
    let script = "trap 'stty size; exit 5' WINCH; echo ready; while :; do sleep 0.05; done";
    let mut child = pty.spawn(&world.session().command(["bash", "-c", script]));
    pty.read_until("ready");
    pty.resize(40, 120);
    pty.read_until("40 120");
    assert_eq!(wait_for_exit(&mut child, LIMIT).expect("it ends").code(), Some(5));
}

fn interrupt_key_reaches_the_command(world: &World) {
    let mut pty = Pty::open();
    let mut child = pty.spawn(&world.session().command(["bash", "-c", "echo ready; sleep 60"]));
    pty.read_until("ready");
    pty.write(b"\x03");
    assert_eq!(wait_for_exit(&mut child, LIMIT).expect("it ends").code(), Some(130));
}

fn job_control_works(world: &World) {
    let mut pty = Pty::open();
    let mut child = pty.spawn(&world.session().command(["bash", "--norc", "-i"]));
    pty.read_until("$ ");
    // What is typed is shown as well: the word that is waited for is not in it as such.
    pty.write(b"bash -c 'echo start''ed; exec sleep 60'\n");
    pty.read_until("started");
    pty.write(b"\x1a");
    pty.read_until("Stopped");
    pty.write(b"jobs; kill %1; exit 9\n");
    pty.read_until("exec sleep 60");
    let status = match wait_for_exit(&mut child, Duration::from_secs(2)) {
        Some(status) => status,
        None => {
            // "There are stopped jobs": a second time it goes.
            pty.write(b"exit 9\n");
            wait_for_exit(&mut child, LIMIT).expect("it ends")
        }
    };
    assert_eq!(status.code(), Some(9));
}

fn settings_come_back_after_the_end(world: &World) {
    let mut pty = Pty::open();
    assert!(pty.is_cooked());
    let mut child = pty.spawn(&world.session().command(["bash", "-c", "stty raw -echo; echo ready; exit 3"]));
    pty.read_until("ready");
    assert_eq!(wait_for_exit(&mut child, LIMIT).expect("it ends").code(), Some(3));
    assert!(pty.is_cooked(), "the terminal is left raw");
}

fn settings_come_back_after_a_kill(world: &World) {
    let mut pty = Pty::open();
    let session = world.session();
    let mut child = pty.spawn(&session.command(["bash", "-c", "echo ready; sleep 60"]));
    pty.read_until("ready");
    assert!(!pty.is_cooked(), "agentctl passes every key on");
    world.agentctl(world.a(), ["kill", session.name()]).expect_code(0);
    assert_eq!(wait_for_exit(&mut child, LIMIT).expect("it ends").code(), Some(137));
    assert!(pty.is_cooked(), "the terminal is left raw");
}

fn settings_come_back_after_a_signal(world: &World) {
    let mut pty = Pty::open();
    let session = world.session();
    let mut child = pty.spawn(&session.command(["bash", "-c", "echo ready; sleep 60"]));
    pty.read_until("ready");
    // setsid, setpriv and agentctl are one process, one after the other.
    let pid = rustix::process::Pid::from_raw(child.id().cast_signed()).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("our own child");
    wait_for_exit(&mut child, LIMIT).expect("it ends");
    assert!(pty.is_cooked(), "the terminal is left raw");
}

fn agents_cannot_ask_or_set_what_they_should_not(world: &World) {
    let mut pty = Pty::open();
    let script = r"printf 'a\033]52;c;aGFsbG8=\007b\033]0;title\007c\033[cd\033[6ne\033[1mf'; echo; echo end";
    let mut child = pty.spawn(&world.session().command(["bash", "-c", script]));
    let shown = pty.read_until("end");
    for hostile in ["\x1b]52", "\x1b]0;", "\x1b[c", "\x1b[6n"] {
        assert!(!shown.contains(hostile), "{hostile:?} in {shown:?}");
    }
    assert!(shown.contains("\x1b[1m"), "colours and the like pass: {shown:?}");
    wait_for_exit(&mut child, LIMIT).expect("it ends");
}

/// By the screen that is kept of it, and not by the caller's terminal, which is asked nothing.
fn what_programs_ask_is_answered(world: &World) {
    let mut pty = Pty::open();
    pty.resize(24, 80);
    let script = r#"stty raw -echo
        ask() { printf "$1"; IFS= read -rsd "$2" -t 20 reply; printf '%q\r\n' "$reply"; }
        printf '\033[2J\033[5;7H'; ask '\033[6n' R; printf 'xyz'; ask '\033[6n' R
        ask '\033[c' c; ask '\033[5n' n; ask '\033]11;?\007' $'\a'
        printf '\033]11;#102030\007'; ask '\033]11;?\033\\' '\'
        printf '\033]52;c;?\007\033[21t\033[>0q'; ask '\033[5n' n; stty sane; echo end"#;
    let mut child = pty.spawn(&world.session().command(["bash", "-c", script]));
    let shown = pty.read_until("end\r\n");
    for answer in [
        r"$'\E[5;7'",
        r"$'\E[6;4'",
        r"$'\E[?62;22'",
        r"$'\E]11;rgb:0000/0000/0000'",
        r"$'\E]11;rgb:1010/2020/3030\E'",
    ] {
        assert!(shown.contains(answer), "{answer} in {shown:?}");
    }
    // What has no answer is not in the way of what has.
    assert_eq!(shown.matches(r"$'\E[0'").count(), 2, "{shown:?}");
    for asked in ["\x1b[6n", "\x1b[c", "\x1b[5n", "11;?", "\x1b[21t", "\x1b]52"] {
        assert!(!shown.contains(asked), "{asked:?} in {shown:?}");
    }
    wait_for_exit(&mut child, LIMIT).expect("it ends");
}

fn end_of_file_key(world: &World) {
    let mut pty = Pty::open();
    let mut child = pty.spawn(&world.session().command(["bash", "-c", "echo ready; cat; echo over; exit 4"]));
    pty.read_until("ready");
    pty.write(b"line\n\x04");
    pty.read_until("over");
    assert_eq!(wait_for_exit(&mut child, LIMIT).expect("it ends").code(), Some(4));
}

fn term_comes_along(world: &World) {
    let mut pty = Pty::open();
    let session = world.session().env("TERM", "screen-256color");
    let mut child = pty.spawn(&session.command(["bash", "-c", "echo TERM=$TERM."]));
    pty.read_until("TERM=screen-256color.");
    wait_for_exit(&mut child, LIMIT).expect("it ends");
}
