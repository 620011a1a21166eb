//! Detaching and attaching again, from elsewhere, several at a time; and clients that are killed.

use std::process::Command;
use std::time::Duration;

use agentd_tests::harness::{Named, Part, Pty, Tmux, World, kill, text_at, within};
use serde_json::Value;

use crate::programs::start_vi;
use crate::side::{SIZE, Sides, same_screens};

pub(crate) const TESTS: &[Named] = &[
    ("detached_and_attached_elsewhere", elsewhere),
    ("attached_in_another_size", another_size),
    ("two_watchers", watchers),
    ("two_who_type", two_who_type),
    ("a_killed_client_ends_its_session", killed),
    ("a_killed_client_of_a_detached_session", detached_lives),
    ("detach_keys_can_be_typed", typed_keys),
    ("exec_has_a_terminal_of_its_own", exec),
    ("at_its_end_the_terminal_is_as_before", put_back),
];

const SOON: Duration = Duration::from_secs(5);

fn agentctl(world: &World, args: &[&str]) -> Command {
    let mut command = world.a().command(world.daemon().agentctl());
    command.arg("--socket").arg(world.daemon().socket()).args(args);
    command
}

fn attach(world: &World, args: &[&str]) -> Tmux {
    let command = agentctl(world, &[&["attach"], args].concat());
    Tmux::start(&command, SIZE.0, SIZE.1)
}

fn inspect(world: &World, name: &str) -> Value {
    let output = world.agentctl(world.a(), ["inspect", name, "--json"]).expect_code(0);
    serde_json::from_str(output.text().trim()).expect("JSON")
}

fn state(world: &World, name: &str) -> String {
    text_at(&inspect(world, name), "/session/state")
}

#[track_caller]
fn await_state(world: &World, name: &str, wanted: &str) {
    let so = within(SOON, || {
        let is = state(world, name);
        if is == wanted { Ok(()) } else { Err(is) }
    });
    assert_eq!(so, Ok(()), "it does not become {wanted}");
}

#[track_caller]
fn detach(side: &Tmux) {
    side.keys(&["C-p", "C-q"]);
    assert_eq!(side.wait_for_end(), 0, "who detaches has not failed");
}

fn same(one: &Tmux, other: &Tmux) {
    same_screens(one, other, str::to_owned);
}

fn elsewhere(world: &World) {
    let sides = start_vi(world);
    sides.types(":set number\r");
    sides.types("20Gohalf a li");
    sides.same("half a li");
    detach(&sides.confined);
    assert_eq!(state(world, &sides.name), "running");
    let second = attach(world, &[&sides.name]);
    second.wait_for("half a li");
    same(&sides.direct, &second);
    for side in [&sides.direct, &second] {
        side.types("ne");
        side.keys(&["Escape"]);
        side.types(":set nonumber\r");
    }
    second.wait_for("half a line");
    same(&sides.direct, &second);
    // And once more.
    detach(&second);
    let third = attach(world, &[&sides.name]);
    same(&sides.direct, &third);
    for side in [&sides.direct, &third] {
        side.types(":cquit 5\r");
        assert_eq!(side.wait_for_end(), 5);
    }
    await_state(world, &sides.name, "ended");
}

fn another_size(world: &World) {
    let sides = start_vi(world);
    detach(&sides.confined);
    let second = Tmux::start(&agentctl(world, &["attach", &sides.name]), 30, 100);
    sides.direct.resize(30, 100);
    second.wait_for("line 28 of");
    same(&sides.direct, &second);
    second.types(":q!\r");
    assert_eq!(second.wait_for_end(), 0);
}

fn shell(world: &World) -> Sides {
    let sides = Sides::start(world, world.workspace(world.a()), &["bash", "--norc", "--noprofile", "-i"]);
    sides.same("$");
    sides
}

fn watchers(world: &World) {
    let sides = shell(world);
    let watching: Vec<_> = (0..2).map(|_| attach(world, &["--watch", &sides.name])).collect();
    for one in &watching {
        same(&sides.confined, one);
    }
    sides.types("echo see''n\r");
    sides.same("seen");
    for one in &watching {
        same(&sides.confined, one);
        // They only look.
        one.types("echo typ''ed\r");
    }
    sides.types("echo lat''er\r");
    sides.same("later");
    assert!(!sides.confined.text().contains("typ"), "a watcher's keys arrive");
    // One that is killed is nobody's end.
    kill(watching[0].pid());
    sides.types("echo stil''l\r");
    sides.same("still");
    watching[1].wait_for("still");
    sides.types("exit 4\r");
    sides.end(4);
    assert_eq!(watching[1].wait_for_end(), 4, "who watches learns the code");
}

fn two_who_type(world: &World) {
    let sides = shell(world);
    let other = attach(world, &[&sides.name]);
    same(&sides.confined, &other);
    other.types("echo fr''om-two\r");
    sides.confined.wait_for("from-two");
    sides.confined.types("echo fr''om-one\r");
    other.wait_for("from-one");
    same(&sides.confined, &other);
    assert_eq!(text_at(&inspect(world, &sides.name), "/session/attached"), "2");
    // One goes; the other holds it.
    kill(other.pid());
    let one = within(SOON, || {
        let attached = text_at(&inspect(world, &sides.name), "/session/attached");
        if attached == "1" { Ok(()) } else { Err(attached) }
    });
    assert_eq!(one, Ok(()));
    sides.confined.types("exit 3\r");
    assert_eq!(sides.confined.wait_for_end(), 3);
}

fn killed(world: &World) {
    let sides = shell(world);
    kill(sides.confined.pid());
    await_state(world, &sides.name, "ended");
    world.all_events(world.a(), &sides.name);
}

/// Once somebody has detached, it lives without anybody.
fn detached_lives(world: &World) {
    let sides = shell(world);
    detach(&sides.confined);
    let second = attach(world, &[&sides.name]);
    same(&sides.direct, &second);
    kill(second.pid());
    let third = attach(world, &[&sides.name]);
    same(&sides.direct, &third);
    detach(&third);
    assert_eq!(text_at(&inspect(world, &sides.name), "/session/detached"), "true");
    world.agentctl(world.a(), ["kill", &sides.name]).expect_code(0);
    await_state(world, &sides.name, "ended");
}

pub(crate) fn within_the_grace(world: &World) {
    let sides = shell(world);
    kill(sides.confined.pid());
    let gone = within(SOON, || {
        let attached = text_at(&inspect(world, &sides.name), "/session/attached");
        if attached == "0" || attached.is_empty() { Ok(()) } else { Err(attached) }
    });
    assert_eq!(gone, Ok(()));
    let second = attach(world, &[&sides.name]);
    same(&sides.direct, &second);
    second.types("exit 6\r");
    assert_eq!(second.wait_for_end(), 6);
}

/// The service is killed, and then both: what is on the screen stays, and what is typed arrives.
pub(crate) fn through_a_restart(world: &World) {
    let sides = start_vi(world);
    sides.types(":set number\r");
    sides.same(" 20 ");
    world.daemon().kill(Part::Service);
    world.daemon().begin(&[Part::Service]);
    sides.types("10Goone");
    sides.same("one");
    world.daemon().terminate(Part::Service);
    world.daemon().terminate(Part::Launcher);
    world.daemon().begin(&[Part::Launcher, Part::Service]);
    sides.types(" two");
    sides.same("one two");
    sides.resize(30, 100);
    sides.same("line 25 of");
    sides.keys(&["Escape"]);
    sides.types(":cquit 5\r");
    sides.end(5);
}

/// ctrl-p alone is the program's, if something else than ctrl-q follows.
fn typed_keys(world: &World) {
    let sides = shell(world);
    sides.types("echo fir''st\r");
    sides.same("first");
    sides.keys(&["C-p"]);
    sides.keys(&["Enter"]);
    sides.same("first\nbash");
    sides.types("exit\r");
    sides.end(0);
}

fn exec(world: &World) {
    let sides = shell(world);
    sides.types("stty size; MARK=here\r");
    sides.same("24 80");
    let command = agentctl(world, &["exec", &sides.name, "--", "bash", "--norc", "--noprofile", "-i"]);
    let beside = Tmux::start(&command, 30, 100);
    beside.wait_for("$");
    beside.types("stty size; tty\r");
    beside.wait_for("30 100");
    // It is in the same session: both shells are seen.
    beside.types(
        "n=0; for f in /proc/[0-9]*/comm; do read c <$f; [ $c = bash ] && ((n++)); done; echo $n she''lls\r",
    );
    beside.wait_for("2 shells");
    beside.keys(&["C-z"]);
    beside.types("exit 12\r");
    assert_eq!(beside.wait_for_end(), 12);
    sides.types("echo $MARK.\r");
    sides.same("here.");
    sides.types("exit 2\r");
    sides.end(2);
}

/// All that a program switched on and left on is undone at its end, whatever it has invented besides.
fn put_back(world: &World) {
    let script = r#"for n in $(seq 3000 3999); do printf '\033[?%dh' $n; done
        printf '\033[?1049;1003;1006;1004;2004;1;6;69h\033[?25;7l\033[2;4h\033[12l\033=\033[>4;2m\033[>5u\033[5 q'
        printf '\033[3;9r\033(0\016\033[31m\033]8;;http://example.org\033\\\033]11;#102030\033\\left'"#;
    let mut pty = Pty::open();
    let mut child = pty.spawn(&world.session().command(["bash", "-c", script]));
    let shown = String::from_utf8_lossy(&pty.read_to_end(&mut child)).into_owned();
    let (_, undone) = shown.split_once("left").unwrap_or_else(|| panic!("{shown:?}"));
    for undo in [
        "\u{1b}[?1003l",
        "\u{1b}[?1006l",
        "\u{1b}[?1004l",
        "\u{1b}[?2004l",
        "\u{1b}[?1l",
        "\u{1b}[?6l",
        "\u{1b}[?69l",
        "\u{1b}[?25h",
        "\u{1b}[?7h",
        "\u{1b}[?1049l",
        "\u{1b}[2l",
        "\u{1b}[4l",
        "\u{1b}[12h",
        "\u{1b}>",
        "\u{1b}[>4m",
        "\u{1b}[<1u",
        "\u{1b}[0 q",
        "\u{1b}[r",
        "\u{1b}(B",
        "\u{f}",
        "\u{1b}[m",
        "\u{1b}]8;;\u{1b}\\",
        "\u{1b}]111\u{1b}\\",
    ] {
        assert!(undone.contains(undo), "{undo:?} is not in {undone:?}");
    }
    assert!(pty.is_cooked());
    // What changes nothing gets nothing.
    let mut child = pty.spawn(&world.session().command(["printf", "\\033[1mplain\\033[0m"]));
    assert_eq!(String::from_utf8_lossy(&pty.read_to_end(&mut child)), "\u{1b}[1mplain\u{1b}[0m");
}
