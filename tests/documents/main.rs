//! Commands that README.md and docs/ show: each `sh` or `console` block runs, as one script, for a user of a private
//! daemon. A block that cannot has a reason in its fence: `sh notest:REASON`. `session:NAME` in a fence starts a
//! session of that name first, `as:admin` runs the block as an admin. The demo runs as well.

mod alerts;
mod blocks;
mod fixture;

use std::path::Path;
use std::process::{Command, ExitCode};

use agentd_tests::harness::{Test, World, binaries, run_one_by_one};

use crate::blocks::{Block, blocks};
use crate::fixture::Home;

fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let mut tests: Vec<Test> = vec![
        ("alerts".into(), Box::new(move |_| alerts::rules_are_valid(root))),
        ("demo".into(), Box::new(move |_| demo(root))),
    ];
    for block in blocks(root) {
        if block.runs() {
            tests.push((block.name.clone(), Box::new(move |world| run(world, &block))));
        }
    }
    run_one_by_one("documents", "", tests, |_| {})
}

/// What `make demo` runs: each attempt of its agent is refused and on record, and nothing of it is left.
fn demo(root: &Path) {
    let dir = root.join("tests/demo");
    let mut command = Command::new(dir.join("private-daemon"));
    let output = command.arg(dir.join("demo.sh")).env("BIN", binaries()).output().expect("bash");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success() && out.contains(" attempts, "), "{}\n{out}\n{err}", output.status);
}

/// Runs a block in a home with a project, and removes its sessions.
fn run(world: &World, block: &Block) {
    let home = Home::make(world, if block.has("as:admin") { world.admin() } else { world.a() });
    if let Some(name) = block.words.iter().find_map(|word| word.strip_prefix("session:")) {
        home.bash(&format!("agentctl run --detach --name {name} -- ./agent.sh"));
    }
    let commands = block.commands();
    let output = home.bash(&commands);
    home.bash("agentctl ps -aq | xargs -r agentctl rm -f");
    assert!(output.status.success(), "{commands}\n{}\n{}", output.status, home.shown(&output));
}
