//! What agents write, call themselves and run reaches a terminal only as text.

use std::process::Command;

use agentd_tests::harness::{Named, Pty, Session, World, text_at};

pub(crate) const TESTS: &[Named] = &[
    ("in_lists_and_inspect", lists),
    ("in_events", events),
    ("names_forge_no_line_of_events", forged),
    ("names_that_differ_are_told_apart", distinct),
    ("in_logs", logs),
    ("in_names_and_messages", messages),
    ("in_profiles", profiles),
    ("in_an_attached_terminal", attached),
];

/// Clipboard, title, a report that the terminal would type, colours without end, 8-bit controls, a direction
/// that turns what follows around, an isolate, a mark, and a line that begins anew.
const HOSTILE: &str = "A\u{1b}]52;c;aGFsbG8=\u{7}B\u{1b}]0;title\u{7}C\u{1b}[6nD\u{1b}[cE\u{9b}6nF\u{202e}G\u{2066}H\u{200f}I\rJ\u{8}K\u{1b}P$qm\u{1b}\\L\u{1b}[?1049hM\u{5}N\u{85}O\u{61c}P\u{200b}Q\u{2800}R\u{3164}S\u{115f}T\u{fe0f}U\u{e0041}V\u{ad}W\u{feff}X\u{ffa0}Y";

/// Fails if anything is there but text, line ends, and colours of agentctl's own.
#[track_caller]
fn only_text(what: &str, shown: &[u8]) {
    let text = String::from_utf8_lossy(shown);
    let mut rest = text.chars().peekable();
    while let Some(char) = rest.next() {
        let fine = match char {
            '\u{1b}' => {
                let mut sequence = String::new();
                while let Some(next) = rest.next_if(|c| matches!(c, '[' | '0'..='9' | ';')) {
                    sequence.push(next);
                }
                sequence.starts_with('[') && rest.next() == Some('m')
            }
            // The terminal's own driver ends lines with both.
            '\r' => rest.peek() == Some(&'\n'),
            '\n' | '\t' => true,
            '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}' => false,
            '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' => false,
            '\u{ad}' | '\u{115f}' | '\u{2800}' | '\u{3164}' | '\u{feff}' | '\u{ffa0}' => false,
            '\u{fe00}'..='\u{fe0f}' | '\u{e0000}'..='\u{e0fff}' => false,
            _ => true,
        };
        assert!(fine, "{what}: {char:?} in {text:?}");
    }
}

/// All that `agentctl ARGS` shows on a terminal.
fn shown(world: &World, args: &[&str]) -> Vec<u8> {
    let mut command: Command = world.a().command(world.daemon().agentctl());
    command.arg("--socket").arg(world.daemon().socket()).args(args).env("TERM", "xterm-256color");
    let mut pty = Pty::open();
    pty.resize(50, 400);
    let mut child = pty.spawn(&command);
    pty.read_to_end(&mut child)
}

/// A session whose arguments and directory are hostile, that runs a program with a hostile name and prints
/// what is hostile; it has ended.
fn hostile(world: &World) -> String {
    // Directories whose names have control characters are refused.
    let dir = world.workspace(world.a()).join("A\u{202e}B\u{2066}C\u{200f}D");
    world.a().make_dir(&dir);
    let script =
        "cp /usr/bin/true \"./$1\"; \"./$1\" \"$1\"; printf '%s\\n' \"$1\"; printf '%s\\n' \"$1\" >&2";
    let session = Session::new(world, world.a(), &dir);
    let output = session.run(["bash", "-c", script, "bash", HOSTILE]).expect_code(0);
    assert!(output.text().contains(HOSTILE), "without a terminal everything passes");
    output.name
}

#[track_caller]
fn check(world: &World, args: &[&str], has: &str) {
    let shown = shown(world, args);
    let what = format!("agentctl {}", args.join(" "));
    only_text(&what, &shown);
    let text = String::from_utf8_lossy(&shown);
    assert!(text.contains(has), "{what}: {has:?} is not shown, but {text:?}");
}

fn lists(world: &World) {
    let name = hostile(world);
    // Beside it one that runs.
    let session = world.session();
    let mut child = session.spawn(["bash", "-c", "echo up; sleep 1000", HOSTILE]);
    let mut line = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(child.stdout.as_mut().expect("a pipe")),
        &mut line,
    )
    .expect("a line");
    for args in [&["ps"][..], &["ps", "-a"], &["ps", "-a", "--json"]] {
        check(world, args, session.name());
    }
    for args in [&["inspect", &name][..], &["inspect", &name, "--json"], &["inspect", session.name()]] {
        check(world, args, "bash");
    }
    child.kill().ok();
    child.wait().ok();
}

fn events(world: &World) {
    let name = hostile(world);
    for args in [
        &["events", &name][..],
        &["events", &name, "--json"],
        &["events"],
        &["events", &name, "--kind", "process.exec"],
    ] {
        check(world, args, "process.exec");
    }
}

fn logs(world: &World) {
    let name = hostile(world);
    check(world, &["logs", &name], "A");
    check(world, &["logs", &name, "-f"], "A");
}

fn messages(world: &World) {
    let wrong: [&[&str]; 9] = [
        &["inspect", HOSTILE],
        &["kill", HOSTILE],
        &["events", HOSTILE],
        &["events", "--since", HOSTILE],
        &["run", "--name", HOSTILE, "--", "true"],
        &["run", "--profile", HOSTILE, "--", "true"],
        &["run", "--mask", HOSTILE, "--", "true"],
        &["run", "--workspace", HOSTILE, "--", "true"],
        &["run", "--", HOSTILE],
    ];
    for args in wrong {
        let shown = shown(world, args);
        only_text(&format!("agentctl {args:?}"), &shown);
        assert!(!shown.is_empty(), "agentctl {args:?} prints nothing");
    }
}

fn profiles(world: &World) {
    let dir = world.workspace(world.a());
    // A key that nobody knows, a name that is none, and a path that is shown.
    for (number, text) in [
        format!(
            "schema = 1\nname = \"x\"\n\"{}\" = 1\n",
            HOSTILE.escape_unicode().to_string().replace("\\u{", "\\u").replace('}', "")
        ),
        format!("schema = 1\nname = \"x\"\n# {HOSTILE}\nwrong = 1\n"),
    ]
    .iter()
    .enumerate()
    {
        let file = dir.join(format!("{number}.toml"));
        world.a().write(&file, text);
        let path = file.display().to_string();
        for args in [["profile", "check", &path], ["profile", "show", &path]] {
            only_text(&format!("agentctl {args:?}"), &shown(world, &args));
        }
    }
}

/// Attached, a program has the terminal, and what is hostile still does not pass.
fn attached(world: &World) {
    let script = "printf '%s' \"$1\"; echo; echo fin''ished; exit 3";
    let mut pty = Pty::open();
    let mut child = pty.spawn(&world.session().command(["bash", "-c", script, "bash", HOSTILE]));
    let shown = String::from_utf8_lossy(&pty.read_to_end(&mut child)).into_owned();
    assert!(shown.contains("finished"), "{shown:?}");
    for hostile in ["\u{1b}]52", "\u{1b}]0;", "\u{1b}[6n", "\u{1b}[c", "\u{9b}", "\u{5}", "\u{1b}P"] {
        assert!(!shown.contains(hostile), "{hostile:?} in {shown:?}");
    }
}

/// A directory whose name reads like the rest of a line: it stays one word of it.
fn forged(world: &World) {
    let dir = world.workspace(world.a());
    let name = "x claims [\"true\"] by \u{a0}y";
    let script = "mkdir \"$1\"; cp /usr/bin/true \"$1/t\"; \"$1/t\"; /bin/sleep 0.3";
    let output =
        Session::new(world, world.a(), &dir).run(["bash", "-c", script, "bash", name]).expect_code(0);
    let text = world.agentctl(world.a(), ["events", &output.name]).expect_code(0).text();
    let of_it = |line: &&str| line.contains(" process.exec ") && line.contains("/x claims ");
    let line = text.lines().find(of_it).expect("its exec");
    let path = format!("{:?}", dir.join(name).join("t").display().to_string());
    assert!(line.contains(&format!(" {path}")), "{path} in {line}");
    assert!(!text.contains("/x claims [\"true\"] by"), "{text}");
}

/// Of two programs whose names differ in a byte that is not UTF-8, and one that is named like the escape of the first.
fn distinct(world: &World) {
    let script =
        r#"for n in $'\xfe' $'\xff' '\xff'; do cp /usr/bin/true "./p$n"; "./p$n"; done; /bin/sleep 0.3"#;
    let output = world.session().bash(script).expect_code(0);
    let events = world.all_events(world.a(), &output.name);
    let paths = events.iter().map(|event| text_at(event, "/exec/path"));
    let names: Vec<_> = paths.filter_map(|path| Some(path.rsplit_once("/p")?.1.to_owned())).collect();
    for name in [r"\xfe", r"\xff", r"\x5cxff"] {
        assert_eq!(names.iter().filter(|n| *n == name).count(), 1, "{name} in {names:?}");
    }
}
