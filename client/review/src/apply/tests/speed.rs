//! What an apply costs beside `cp -a`. Run by hand, on an idle machine, with `AGENTD_REVIEW_DISK` a directory on disk.

use std::process::Command;
use std::time::Instant;

use super::*;

const FILES: usize = 10_000;

#[test]
#[ignore = "a measurement"]
fn ten_thousand_files() {
    let Some(disk) = std::env::var_os("AGENTD_REVIEW_DISK").map(PathBuf::from) else { return };
    let dir = Dir::existing(disk.join(format!("agentd-review-{}", std::process::id())));
    std::fs::create_dir(dir.path("")).unwrap();
    mkdir(&dir.path("workspace"), 0o755);
    for number in 0..FILES {
        let content = format!("{number}\n").repeat(800);
        write(&dir.path(&format!("merged/{}/{number}", number % 100)), content.as_bytes(), 0o644);
        if number % 2 == 0 {
            write(&dir.path(&format!("workspace/{}/{number}", number % 100)), b"old", 0o644);
        }
    }
    let scene = Scene::at(dir);
    rustix::fs::sync();
    for round in 0..3 {
        let steps = scene.steps();
        let copy = scene.dir.path(&format!("copy {round}"));
        let start = Instant::now();
        assert!(
            Command::new("cp").arg("-a").arg(scene.dir.path("merged")).arg(&copy).status().unwrap().success()
        );
        let copied = start.elapsed();
        rustix::fs::sync();
        let synced = start.elapsed();
        let mut waited = std::time::Duration::ZERO;
        let mut since: Option<Instant> = None;
        let mut faults = each(|_, call| {
            waited += since.take().map_or(std::time::Duration::ZERO, |since| since.elapsed());
            if matches!(call, "syncfs" | "fsync") {
                since = Some(Instant::now());
            }
            Ok(())
        });
        let start = Instant::now();
        scene.apply(steps, &mut faults).unwrap();
        let applied = start.elapsed();
        let start = Instant::now();
        scene.undo().unwrap();
        eprintln!(
            "cp -a {copied:?}, with sync {synced:?}; apply {applied:?}, of which syncs {waited:?}; undo {:?}",
            start.elapsed()
        );
    }
}
