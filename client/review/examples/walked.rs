//! What a review of 1,000 changes in 100,000 files costs beside `git status`, as root:
//! `cargo run --release -p agentd-review --example walked`. Prints medians of 9 in milliseconds.

#![allow(clippy::unwrap_used)]

#[path = "../tests/fixture/mod.rs"]
mod fixture;

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use agentd_review::walk::{Bounds, changes};
use fixture::{Overlay, UPPERS};

const DIRECTORIES: usize = 1_000;
const FILES: usize = 100;
const ROUNDS: usize = 9;

fn median(mut run: impl FnMut()) -> f64 {
    let mut times: Vec<_> = (0..ROUNDS)
        .map(|_| {
            let began = Instant::now();
            run();
            began.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times.get(ROUNDS / 2).copied().unwrap_or_default()
}

fn git(dir: &Path, arguments: &[&str]) -> Vec<u8> {
    let author = ["-c", "user.name=bench", "-c", "user.email=bench@example.org", "-c", "gc.auto=0"];
    // What it finds out is written nowhere, so that each round is the same.
    let command = Command::new("git")
        .env("GIT_OPTIONAL_LOCKS", "0")
        .current_dir(dir)
        .args(author)
        .args(arguments)
        .output();
    let output = command.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn main() {
    for upper in UPPERS {
        let Some(overlay) = Overlay::new(upper) else { continue };
        for directory in 0..DIRECTORIES {
            let directory = overlay.workspace.join(format!("{}/{directory}", directory % 20));
            std::fs::create_dir_all(&directory).unwrap();
            for file in 0..FILES {
                std::fs::write(
                    directory.join(format!("file{file}.rs")),
                    format!("{directory:?} {file}\n").repeat(20),
                )
                .unwrap();
            }
        }
        git(&overlay.workspace, &["init", "-q"]);
        git(&overlay.workspace, &["add", "."]);
        git(&overlay.workspace, &["commit", "-qm", "all"]);
        let session = overlay.session();
        change(&session.at(""));
        let trees = overlay.trees();
        let found = changes(&trees, &[], &Bounds::default()).unwrap().0.len();
        println!("upper {upper:?}: {found} changes");
        println!(
            "  changes       {:8.1}",
            median(|| drop(changes(&overlay.trees(), &[], &Bounds::default()).unwrap()))
        );
        drop(session);
        let status = || drop(git(&overlay.workspace, &["status", "--porcelain"]));
        println!("  git, before   {:8.1}", median(status));
        change(&overlay.workspace);
        println!("  git, changed  {:8.1}", median(status));
    }
}

/// Two files in each of 500 directories: modified, added, deleted, and moved to others.
fn change(top: &Path) {
    let at = |number: usize, name: &str| top.join(format!("{}/{number}/{name}", number % 20));
    for number in 0..100 {
        for file in 0..2 {
            let name = format!("file{file}.rs");
            std::fs::write(at(number, &name), "modified").unwrap();
            std::fs::write(at(number + 100, &format!("new{file}.rs")), "new").unwrap();
            std::fs::remove_file(at(number + 200, &name)).unwrap();
            std::fs::rename(at(number + 300, &name), at(number + 400, &format!("moved{file}.rs"))).unwrap();
        }
    }
}
