//! What the tab key does in bash and in zsh.

use std::path::Path;

use agentd_tests::harness::{Named, Tmux, World};

use crate::side::SIZE;

pub(crate) const TESTS: &[Named] = &[("bash_completes", in_bash), ("zsh_completes", in_zsh)];

/// What both begin a line with.
const PROMPT: &str = "ready>";

/// What is typed, and what is there once tab was pressed.
type Line = (String, String);

/// A session with a name, a profile of the user's own in `home`, and lines that are about both.
fn lines(world: &World, home: &Path) -> Vec<Line> {
    let name = world.unique("tabbed");
    let workspace = home.join("work");
    world.a().make_dir(&workspace);
    let workspace = workspace.to_str().expect("our own name");
    let run = ["run", "--detach", "--name", &name, "--workspace", workspace, "--", "sleep", "600"];
    let id = world.agentctl(world.a(), run).expect_code(0).text().trim().to_owned();
    world.a().write(home.join(".config/agentd/profiles/tabprofile.toml"), "schema = 1\n");
    let socket = world.daemon().socket().display().to_string();
    let part = &id[..id.len() - 2];
    let tabbed = |before: &str| (format!("{before} tabb"), format!("{before} {name}"));
    let line = |typed: &str, whole: &str| (format!("agentctl {typed}"), format!("agentctl {whole}"));
    vec![
        line("ru", "run"),
        line("run --works", "run --workspace"),
        line("run --profile tabp", "run --profile tabprofile"),
        line("run --rm --name x -- unam", "run --rm --name x -- uname"),
        line("run --rm unam", "run --rm uname"),
        line("run -- ls /etc/passw", "run -- ls /etc/passwd"),
        line("kill -s WINC", "kill -s WINCH"),
        line("events --decision de", "events --decision deny"),
        line(&format!("exec {name} unam"), &format!("exec {name} uname")),
        tabbed(&format!("agentctl --socket {socket} attach")),
        tabbed(&format!("agentctl --socket={socket} logs --tail 3")),
        tabbed(&format!("agentctl rm --socket {socket}")),
        line(&format!("--socket {socket} kill {part}"), &format!("--socket {socket} kill {id}")),
    ]
}

fn complete(world: &World, shell: &[&str], rc: (&str, &str), script: &str) {
    let home = world.workspace(world.a());
    let made = world.agentctl(world.a(), ["completion", shell[0]]).expect_code(0).text();
    world.a().write(home.join("shell").join(script), made);
    world.a().write(home.join("shell").join(rc.0), rc.1);
    let programs = world.daemon().dir.join("bin");
    let mut command = world.a().command(format!("/usr/bin/{}", shell[0]));
    command.args(&shell[1..]).current_dir(&home).env("HOME", &home).env("ZDOTDIR", home.join("shell"));
    command.env("PATH", format!("{}:/usr/bin:/bin", programs.display()));
    let terminal = Tmux::start(&command, SIZE.0, 160);
    let prompt = || terminal.wait("a prompt", |text| text.trim_end().ends_with(PROMPT));
    for (typed, whole) in lines(world, &home) {
        prompt();
        terminal.types(&typed);
        terminal.keys(&["Tab"]);
        // zsh goes on to the value by itself.
        terminal.wait(&whole, |text| text.trim_end().trim_end_matches('=').ends_with(&whole));
        terminal.keys(&["C-c"]);
    }
    prompt();
    terminal.types("exit\r");
    terminal.wait_for_end();
}

fn in_bash(world: &World) {
    let rc = ". /usr/share/bash-completion/bash_completion\n. ~/shell/agentctl\nPS1='ready> '\n";
    let shell = ["bash", "--noprofile", "--rcfile", "shell/bashrc", "-i"];
    complete(world, &shell, ("bashrc", rc), "agentctl");
}

fn in_zsh(world: &World) {
    let rc =
        "fpath=($ZDOTDIR $fpath)\nautoload -Uz compinit && compinit -u -d $ZDOTDIR/dump\nPROMPT='ready> '\n";
    complete(world, &["zsh", "-d", "-i"], (".zshrc", rc), "_agentctl");
}
