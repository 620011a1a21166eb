//! vim, less, top, a shell with job control, and what happens to them when the terminal changes its size.

use std::path::PathBuf;

use agentd_tests::harness::{Named, World};

use crate::side::Sides;

pub(crate) const TESTS: &[Named] = &[
    ("vim", vim),
    ("less", less),
    ("top", top),
    ("a_shell_with_jobs", shell),
    ("keys_that_signal", signals),
    ("resize_in_the_middle", resize),
    ("colours_and_boxes", colours),
];

/// The program behind the system's alternatives: a session has no /etc/alternatives.
pub(crate) fn vi() -> String {
    let found = ["/usr/bin/vim", "/usr/bin/vi", "/usr/bin/vim.tiny"]
        .into_iter()
        .find_map(|path| std::fs::canonicalize(path).ok())
        .expect("vim is installed");
    found.display().to_string()
}

/// A workspace with a file of numbered lines.
pub(crate) fn with_file(world: &World) -> PathBuf {
    let dir = world.workspace(world.a());
    let text: String = (1..=200).map(|n| format!("line {n} of the file\twith a tab and ümläute\n")).collect();
    world.a().write(dir.join("file"), text);
    dir
}

/// vim without what differs by user: no swap file, no history, no start-up files.
pub(crate) fn start_vi(world: &World) -> Sides {
    let sides = Sides::start(world, with_file(world), &[&vi(), "-n", "-u", "NONE", "-i", "NONE", "file"]);
    sides.same("line 20 of the file");
    sides
}

fn vim(world: &World) {
    let sides = start_vi(world);
    sides.types(":set nocompatible number showmode\r");
    sides.same(" 20 ");
    sides.types("50G");
    sides.same("line 50 of");
    sides.types("onew text: äöü €");
    sides.same("new text: äöü €");
    sides.keys(&["Escape"]);
    sides.types("/line 77\r");
    sides.same("line 77 of");
    sides.types("dd5kx$p");
    sides.keys(&["C-f", "C-b", "Up", "Down", "Home", "End", "PageDown"]);
    sides.same("line");
    sides.types(":vsplit\r");
    sides.same("file [+]");
    sides.types(":q!\r");
    sides.types(":cquit 3\r");
    sides.end(3);
}

fn less(world: &World) {
    let sides = Sides::start(world, with_file(world), &["less", "-N", "file"]);
    sides.same("line 20 of");
    sides.keys(&["Space"]);
    sides.same("line 40 of");
    sides.types("/line 12.$\r");
    sides.types("G");
    sides.same("(END)");
    sides.types("g");
    sides.same("line 1 of");
    sides.types("q");
    sides.end(0);
}

/// What it shows are the host's numbers; the words around them are its own.
fn top(world: &World) {
    let sides = Sides::start(world, world.workspace(world.a()), &["top", "-d", "60"]);
    let words = |screen: &str| -> String {
        let lines = screen.lines().skip(1).take(4);
        let letters = |line: &str| -> String {
            line.chars().filter(|c| c.is_alphabetic() || matches!(c, '%' | '(' | ')' | '/' | ':')).collect()
        };
        lines.map(letters).collect::<Vec<_>>().join("\n")
    };
    sides.same_but("load average", words);
    sides.same_but("%Cpu(s)", words);
    for side in [&sides.direct, &sides.confined] {
        side.wait_for("COMMAND");
    }
    sides.types("q");
    sides.end(0);
}

/// Numbers of processes differ, and where a core would go.
fn jobs(screen: &str) -> String {
    screen.replace(" (core dumped)", "")
}

fn start_shell(world: &World) -> Sides {
    let sides = Sides::start(world, with_file(world), &["bash", "--norc", "--noprofile", "-i"]);
    sides.same("$");
    sides.types("unset HISTFILE; PS1='> '; ulimit -c 0 2>/dev/null; clear\r");
    sides.same(">");
    sides
}

fn shell(world: &World) {
    let sides = start_shell(world);
    sides.types("cat\r");
    sides.types("typed\r");
    sides.same("typed\ntyped");
    sides.keys(&["C-z"]);
    sides.same("Stopped");
    sides.types("jobs; fg\r");
    sides.types("again\r");
    sides.same("again\nagain");
    sides.keys(&["C-d"]);
    sides.same("again\nagain\n>");
    sides.types("echo cod''e $?\r");
    sides.same("code 0\n>");
    sides.types("sleep 1000\r");
    sides.same("sleep 1000\n");
    sides.keys(&["C-z"]);
    sides.same("Stopped                 sleep 1000\n>");
    sides.types("bg\r");
    sides.same("[1]+ sleep 1000 &");
    sides.types("kill %1; wait %1 2>/dev/null; echo cod''e $?\r");
    sides.same_but("code 143", jobs);
    // A full-screen program that is stopped in the middle.
    sides.types("less file\r");
    sides.same("line 20 of");
    sides.keys(&["C-z"]);
    sides.same("Stopped");
    sides.types("fg\r");
    sides.same("line 20 of");
    sides.types("q");
    sides.same("less file\n>");
    sides.types("exit 9\r");
    sides.end(9);
}

fn signals(world: &World) {
    let sides = start_shell(world);
    for (key, code) in [("C-c", 130), ("C-\\", 131)] {
        sides.types("clear; sleep 1000\r");
        sides.wait("the command", |text| text.trim().is_empty());
        sides.keys(&[key]);
        sides.wait("the prompt", |text| text.trim_end().ends_with("\n>"));
        sides.types("echo cod''e $?\r");
        sides.same_but(&format!("code {code}"), jobs);
    }
    // A program that takes the keys as they are.
    sides.types("stty raw -echo; echo rea''dy; head -c 4 | od -An -c; stty sane\r");
    sides.same("ready");
    sides.keys(&["C-c", "C-z", "C-\\", "C-d"]);
    sides.same_but("004", jobs);
    sides.types("exit\r");
    sides.end(0);
}

fn resize(world: &World) {
    let sides = start_vi(world);
    // A line that is wrapped would be shown in whole or not at all.
    sides.types(":set number nowrap\r");
    sides.same(" 20 ");
    for (rows, cols) in [(40, 120), (10, 40), (24, 80)] {
        sides.resize(rows, cols);
        sides.same(&format!("line {} of", rows - 5));
    }
    sides.types(":qa!\r");
    sides.end(0);
    let sides = start_shell(world);
    sides.resize(33, 101);
    sides.types("stty size\r");
    sides.same("33 101");
    sides.types("exit\r");
    sides.end(0);
}

fn colours(world: &World) {
    let script = r"printf '\033[1;31mred\033[0m \033[38;5;200mpink\033[0m \033[7minverse\033[27m\n'
        printf '\033(0lqqk\033(B\n\033[4munder\033[24m \033[3mitalic\033[0m 日本語 e\314\201\n'
        printf '\033[10;20Hthere\033[5;1H\033[Kkept\033[12;1Hend\n'; exit 4";
    let sides = Sides::start(world, world.workspace(world.a()), &["bash", "-c", script]);
    sides.same("end");
    sides.end(4);
}
