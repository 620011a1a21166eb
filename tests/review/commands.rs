//! `agentctl diff`, `apply` and `discard`, as a user has them.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use agentd_tests::harness::{Pty, RunOutput, Session, World, objects, wait_for_exit};

use crate::Member;

pub const TESTS: &[Member] = &[
    ("a_session_ends_with_what_it_changed", a_session_ends_with_what_it_changed),
    ("a_diff_has_every_form", a_diff_has_every_form),
    ("an_apply_takes_all_but_what_is_set_apart", an_apply_takes_all_but_what_is_set_apart),
    ("what_the_user_changed_meanwhile_stays", what_the_user_changed_meanwhile_stays),
    ("what_was_not_shown_is_not_applied", what_was_not_shown_is_not_applied),
    ("half_of_a_move_loses_no_file", half_of_a_move_loses_no_file),
    ("what_is_discarded_can_be_undone_still", what_is_discarded_can_be_undone_still),
    ("hunks_are_asked_for", hunks_are_asked_for),
    ("rm_asks_before_it_deletes_work", rm_asks_before_it_deletes_work),
    ("a_directory_of_gits_is_set_apart_as_a_whole", a_directory_of_gits_is_set_apart_as_a_whole),
    ("what_was_applied_is_not_deleted_by_the_next_apply", what_was_applied_is_not_deleted_by_the_next_apply),
    ("what_cannot_be_reviewed_can_be_discarded", what_cannot_be_reviewed_can_be_discarded),
    ("nobody_else_reviews", nobody_else_reviews),
];

/// How long agentctl may take to end.
const LIMIT: Duration = Duration::from_secs(30);
/// One line changed, one added; a directory moved; a file deleted; what runs later; a link that leads out.
const WORK: &str = "printf 'a\\nB\\nc\\nd\\n' > text && mv src lib && rm gone && echo evil >> Makefile \
    && echo new > new && ln -s /etc/passwd link && printf '#!/bin/sh\\n' > run && chmod +x run && mkdir -p d/e \
    && echo x > d/e/f";

fn project(world: &World) -> PathBuf {
    let dir = world.workspace(world.a());
    for (name, text) in [
        ("text", "a\nb\nc\n"),
        ("src/old", "old\n"),
        ("gone", "gone\n"),
        ("Makefile", "all:\n"),
        ("keep", "k\n"),
    ] {
        world.a().write(dir.join(name), text);
    }
    dir
}

/// `agentctl` in `dir`.
fn agentctl(world: &World, dir: &Path, line: &[&str]) -> RunOutput {
    let mut command = world.client(world.a(), line);
    agentd_tests::harness::complete(command.current_dir(dir), vec![], "agentctl".into())
}

fn worked(world: &World, dir: &Path, script: &str) -> String {
    world.session_in(dir).option("--quiet").bash(script).expect_code(0).name
}

/// Every file with its mode and content.
fn files(dir: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut all = BTreeMap::new();
    let mut waiting = vec![dir.to_owned()];
    while let Some(at) = waiting.pop() {
        for entry in std::fs::read_dir(&at).expect("a directory") {
            let path = entry.expect("an entry").path();
            let stat = std::fs::symlink_metadata(&path).expect("an entry");
            let content = match () {
                () if stat.is_dir() => {
                    waiting.push(path.clone());
                    Vec::new()
                }
                () if stat.is_symlink() => {
                    let target = std::fs::read_link(&path).expect("a link");
                    target.into_os_string().into_encoded_bytes()
                }
                () => std::fs::read(&path).expect("a file"),
            };
            all.insert(path, (stat.mode(), content));
        }
    }
    all
}

/// Work is not lost in silence: agentctl names what there is and what can be done with it.
fn a_session_ends_with_what_it_changed(world: &World) {
    let dir = project(world);
    let session = world.session_in(&dir);
    let name = session.name().to_owned();
    let output = session.bash(WORK).expect_code(0);
    let line = format!(
        "agentctl: 8 files changed (+6 -2), kept in {name}: agentctl diff {name} | apply {name} | discard {name}\n"
    );
    assert_eq!(output.stderr, line);
    let listed = agentctl(world, &dir, &["ps", "-a", "--json"]).expect_code(0);
    let listed = objects(&listed.text()).into_iter().find(|session| session["name"] == name.as_str());
    let changes = &listed.expect("the session")["changes"];
    assert_eq!((&changes["state"], &changes["files"]), (&"unapplied".into(), &8.into()));
    assert_eq!(world.session_in(&dir).bash("true").expect_code(0).stderr, "");
    assert_eq!(world.session_in(&dir).option("--quiet").bash("echo x > x").expect_code(0).stderr, "");
}

fn a_diff_has_every_form(world: &World) {
    let dir = project(world);
    let name = worked(world, &dir, WORK);
    let whole = agentctl(world, &dir, &["diff", &name]).expect_code(0).text();
    assert!(whole.contains("modified text (+2 -1)\n@@ -1,3 +1,4 @@\n a\n-b\n+B\n c\n+d\n"), "{whole}");
    for row in ["renamed   src/old -> lib/old", "deleted   gone (-1)", "Makefile (+1) [set apart: build]"] {
        assert!(whole.contains(row), "{row}: {whole}");
    }
    let stat = agentctl(world, &dir, &["diff", &name, "--stat"]).expect_code(0).text();
    assert!(stat.ends_with(" 8 files changed (+6 -2)\n") && stat.contains(" gone "), "{stat}");
    let names = agentctl(world, &dir, &["diff", &name, "--name-only", "-z"]).expect_code(0).stdout;
    assert!(names.split(|byte| *byte == 0).any(|name| name == b"d/e/f"));
    let rows = objects(&agentctl(world, &dir, &["diff", &name, "--json"]).expect_code(0).text());
    assert!(rows.iter().any(|row| row["path"] == "gone" && row["action"] == "deleted"));
    assert_eq!(rows.last().expect("a summary")["summary"]["files"], 8);
    let some = agentctl(world, &dir.join("src"), &["diff", &name, "../text", "--name-only"]).expect_code(0);
    assert_eq!(some.text(), "text\n");
    let elsewhere = agentctl(world, &dir, &["diff", &name, "../other"]).expect_code(1);
    assert!(elsewhere.stderr.contains("(review.path)"), "{}", elsewhere.stderr);
    let patch = agentctl(world, &dir, &["diff", &name, "--git"]).expect_code(0).stdout;
    std::fs::write(dir.join("../patch"), patch).expect("a file");
    let git =
        Command::new("git").args(["apply", "--check", "../patch"]).current_dir(&dir).output().expect("git");
    assert!(git.status.success(), "{}", String::from_utf8_lossy(&git.stderr));
}

/// An agent would have a build run what it wrote, or a link lead the user's programs elsewhere.
fn an_apply_takes_all_but_what_is_set_apart(world: &World) {
    let dir = project(world);
    let before = files(&dir);
    let name = worked(world, &dir, WORK);
    let applied = agentctl(world, &dir, &["apply", &name]).expect_code(0);
    assert!(applied.text().contains("applied, 5 files changed (+4 -2)"), "{}", applied.text());
    for flag in ["--including build", "--including symlink", "--including executable"] {
        assert!(applied.stderr.contains(flag), "{}", applied.stderr);
    }
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).ok();
    assert_eq!((read("text").as_deref(), read("lib/old").as_deref()), (Some("a\nB\nc\nd\n"), Some("old\n")));
    assert_eq!((read("d/e/f").as_deref(), read("Makefile").as_deref()), (Some("x\n"), Some("all:\n")));
    assert!(!dir.join("src").exists() && !dir.join("gone").exists() && !dir.join("run").exists());
    // What is left is what was set apart, and nothing that was applied.
    let left = agentctl(world, &dir, &["diff", &name, "--name-only"]).expect_code(0).text();
    assert_eq!(left, "Makefile\nlink\nrun\n");
    agentctl(world, &dir, &["apply", &name, "--including", "executable"]).expect_code(0);
    assert_eq!(std::fs::metadata(dir.join("run")).expect("a file").permissions().mode() & 0o777, 0o755);
    agentctl(world, &dir, &["apply", &name, "--undo"]).expect_code(0);
    let after = files(&dir);
    assert!(!dir.join("run").exists() && after != before);
    let events = world.events(world.a(), &name);
    let reviews: Vec<_> = events.iter().filter(|event| event["kind"] == "file.applied").collect();
    let actions: Vec<_> = reviews.iter().map(|event| event["review"]["action"].as_str()).collect();
    assert_eq!(actions, [Some("applied"), Some("applied"), Some("undone")]);
    assert_eq!(reviews[0]["review"]["files"], 5);
    agentctl(world, &dir, &["rm", &name]).expect_code(0);
}

/// A user's own work would be overwritten by an apply.
fn what_the_user_changed_meanwhile_stays(world: &World) {
    let dir = project(world);
    let script = "printf 'a\\nb\\nC\\n' > text && echo theirs > keep && echo new > new";
    let name = worked(world, &dir, script);
    agentctl(world, &dir, &["diff", &name]).expect_code(0);
    world.a().write(dir.join("text"), "A\nb\nc\n");
    world.a().write(dir.join("keep"), "mine\n");
    let before = files(&dir);
    let refused = agentctl(world, &dir, &["apply", &name, "--unseen"]).expect_code(1);
    assert!(refused.stderr.contains("keep, text, changed in the workspace"), "{}", refused.stderr);
    assert!(refused.stderr.contains("(review.conflict)"), "{}", refused.stderr);
    assert_eq!(files(&dir), before);
    let merged = agentctl(world, &dir, &["apply", &name, "--merge", "--unseen"]).expect_code(0);
    assert!(merged.stderr.contains("with markers of a merge: keep"), "{}", merged.stderr);
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).expect("a file");
    assert_eq!(read("text"), "A\nb\nC\n");
    let marked = format!(
        "<<<<<<< workspace\nmine\n||||||| before the session\nk\n=======\ntheirs\n>>>>>>> session {name}\n"
    );
    assert!(read("keep") == marked || read("keep") == marked.replace("||||||| before the session\nk\n", ""));
    agentctl(world, &dir, &["apply", &name, "--undo"]).expect_code(0);
    assert_eq!(files(&dir), before);
    agentctl(world, &dir, &["apply", &name, "--ours", "--unseen"]).expect_code(0);
    assert_eq!((read("keep"), read("new")), ("mine\n".into(), "new\n".into()));
    agentctl(world, &dir, &["apply", &name, "--theirs", "--unseen", "keep"]).expect_code(0);
    assert_eq!(read("keep"), "theirs\n");
}

/// An agent would show one thing and have another applied.
fn what_was_not_shown_is_not_applied(world: &World) {
    let dir = project(world);
    let name = world.unique("live");
    let start = ["run", "--detach", "--name", &name, "--", "sleep", "600"];
    agentctl(world, &dir, &start).expect_code(0);
    let inside =
        |script: &str| agentctl(world, &dir, &["exec", &name, "--", "sh", "-c", script]).expect_code(0);
    inside("echo shown > new");
    assert!(agentctl(world, &dir, &["diff", &name]).expect_code(0).text().contains("+shown"));
    inside("echo swapped > new; echo more > more");
    let refused = agentctl(world, &dir, &["apply", &name]).expect_code(1);
    assert!(refused.stderr.contains("more, new, not as `agentctl diff` showed"), "{}", refused.stderr);
    assert!(!dir.join("new").exists() && !dir.join("more").exists());
    agentctl(world, &dir, &["apply", &name, "--unseen", "new"]).expect_code(0);
    assert_eq!(std::fs::read_to_string(dir.join("new")).expect("a file"), "swapped\n");
    let running = agentctl(world, &dir, &["discard", "-y", &name]).expect_code(1);
    assert!(running.stderr.contains("(session.running)"), "{}", running.stderr);
    agentctl(world, &dir, &["rm", "-f", &name]).expect_code(0);
}

/// A move of which only the deletion is applied would lose the file.
fn half_of_a_move_loses_no_file(world: &World) {
    let dir = project(world);
    let name = worked(world, &dir, "mkdir .husky && mv keep .husky/pre-commit && rm gone");
    let applied = agentctl(world, &dir, &["apply", &name]).expect_code(0);
    assert!(dir.join("keep").exists() && !dir.join("gone").exists(), "{}", applied.stderr);
    assert!(applied.stderr.contains("keep: a file would be lost"), "{}", applied.stderr);
    agentctl(world, &dir, &["apply", &name, "--including", "hooks"]).expect_code(0);
    assert!(!dir.join("keep").exists() && dir.join(".husky/pre-commit").exists());
}

fn what_is_discarded_can_be_undone_still(world: &World) {
    let dir = project(world);
    let before = files(&dir);
    let name = worked(world, &dir, WORK);
    agentctl(world, &dir, &["apply", &name, "--including", "all"]).expect_code(0);
    agentctl(world, &dir, &["discard", "-y", &name]).expect_code(0);
    let nothing = agentctl(world, &dir, &["diff", &name]).expect_code(1);
    assert!(nothing.stderr.contains("(review.nothing)"), "{}", nothing.stderr);
    agentctl(world, &dir, &["apply", &name, "--undo"]).expect_code(0);
    assert_eq!(files(&dir), before);
    let events = world.events(world.a(), &name);
    assert!(events.iter().any(|event| event["kind"] == "file.discarded"));
}

fn hunks_are_asked_for(world: &World) {
    let dir = project(world);
    let lines: String = (0..30).map(|line| format!("{line}\n")).collect();
    world.a().write(dir.join("text"), &lines);
    let name = worked(world, &dir, "sed -i 's/^3$/three/; s/^25$/twentyfive/' text && rm gone");
    let mut pty = Pty::open();
    let mut command = world.client(world.a(), ["apply", &name, "-p"]);
    let mut child = pty.spawn(command.current_dir(&dir));
    pty.read_until("apply this change [y,n,q]?");
    pty.write(b"n\n");
    pty.read_until("apply this hunk");
    pty.write(b"n\n");
    pty.read_until("apply this hunk");
    pty.write(b"y\n");
    pty.read_until("takes it back");
    assert!(wait_for_exit(&mut child, LIMIT).expect("an end").success());
    let text = std::fs::read_to_string(dir.join("text")).expect("a file");
    assert_eq!(text, lines.replace("\n25\n", "\ntwentyfive\n"));
    assert!(dir.join("gone").exists());
}

/// `--rm` would delete work that nobody looked at.
fn rm_asks_before_it_deletes_work(world: &World) {
    let dir = project(world);
    for (answer, is_kept) in [("n\n", true), ("y\n", false)] {
        let name = world.unique("rm");
        let mut pty = Pty::open();
        let mut command =
            world.client(world.a(), ["run", "--rm", "--name", &name, "-T", "--", "sh", "-c", "echo x > x"]);
        let mut child = pty.spawn(command.current_dir(&dir));
        pty.read_until(&format!("1 file changed (+1 -0); delete them with session {name} (--rm)? [y/N]"));
        pty.write(answer.as_bytes());
        assert!(wait_for_exit(&mut child, LIMIT).expect("an end").success());
        let code = if is_kept { 0 } else { 3 };
        agentctl(world, &dir, &["diff", &name]).expect_code(code);
    }
}

/// Another user would read what somebody's agent wrote.
fn nobody_else_reviews(world: &World) {
    let dir = project(world);
    let session: Session<'_> = world.session_in(&dir).option("--quiet");
    let name = session.bash("echo x > x").expect_code(0).name;
    for user in [world.b(), world.admin()] {
        for command in ["diff", "apply", "discard"] {
            let output = world.agentctl(user, [command, &name]);
            assert!(matches!(output.code, Some(1 | 3 | 4)), "{command}: {output:?}");
            assert!(!output.text().contains('x'), "{output:?}");
        }
    }
    agentctl(world, &dir, &["diff", &name]).expect_code(0);
}

/// An agent would give the user's next `git status` a program to run: of a linked working tree, the repository is a
/// workspace of its own, in which nothing is called `.git`.
fn a_directory_of_gits_is_set_apart_as_a_whole(world: &World) {
    let dir = world.workspace(world.a());
    let script = "git init -q main && cd main && git -c user.name=a -c user.email=a@example.org commit -q \
        --allow-empty -m one && git worktree add -q ../linked";
    let made = world.on_host(world.a(), &dir, &["bash".into(), "-c".into(), script.into()]);
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    let (main, linked) = (dir.join("main"), dir.join("linked"));
    let script = "G=$(git rev-parse --git-common-dir); printf '[core]\\n\\tfsmonitor = \"touch PWNED\"\\n' >> $G/config; \
        mkdir -p $G/hooks; echo x > $G/hooks/post-checkout; echo x > $G/info/attributes; echo legit > f";
    let name = worked(world, &linked, script);
    let before = files(&main.join(".git"));
    let applied = agentctl(world, &linked, &["apply", &name]).expect_code(0);
    assert!(linked.join("f").exists() && files(&main.join(".git")) == before, "{}", applied.stderr);
    assert!(applied.stderr.contains("--including git"), "{}", applied.stderr);
    // So is a workspace that is itself a directory whose files run.
    let github = dir.join(".github");
    world.a().make_dir(&github);
    let name = worked(world, &github, "mkdir workflows && echo on: push > workflows/e.yml && echo x > plain");
    agentctl(world, &github, &["apply", &name]).expect_code(0);
    assert!(github.join("plain").exists() && !github.join("workflows/e.yml").exists());
}

/// A second apply of a moved directory would delete what the first one brought, and what the user added since.
fn what_was_applied_is_not_deleted_by_the_next_apply(world: &World) {
    let dir = project(world);
    let name = worked(world, &dir, "mv src lib && echo more > more");
    agentctl(world, &dir, &["apply", &name]).expect_code(0);
    world.a().write(dir.join("lib/mine"), "mine\n");
    world.a().write(dir.join("lib/old"), "edited\n");
    let before = files(&dir);
    for line in [
        &["apply", &name][..],
        &["apply", &name, "--theirs"],
        &["diff", &name],
        &["apply", &name, "--unseen"],
    ] {
        let output = agentctl(world, &dir, line).expect_code(0);
        assert!(!output.text().contains("lib/"), "{line:?}: {}", output.text());
        assert_eq!(files(&dir), before, "{line:?}");
    }
    let dry = agentctl(world, &dir, &["apply", &name, "--undo", "-n"]).expect_code(0);
    assert!(dry.text().contains("would be taken back") && files(&dir) == before, "{}", dry.text());
    // The file that the user edited stands against it, until it is said otherwise.
    let refused = agentctl(world, &dir, &["apply", &name, "--undo"]).expect_code(1);
    assert!(refused.stderr.contains("lib/old") && files(&dir) == before, "{}", refused.stderr);
}

/// An agent would keep its user from throwing its work away.
fn what_cannot_be_reviewed_can_be_discarded(world: &World) {
    let dir = project(world);
    let script = "python3 - <<'E'\nimport os\nfor _ in range(1200):\n    os.mkdir('d'); os.chdir('d')\nE";
    let name = worked(world, &dir, script);
    let deep = agentctl(world, &dir, &["diff", &name]).expect_code(1);
    assert!(deep.stderr.contains("levels of directories"), "{}", deep.stderr);
    let asks = agentctl(world, &dir, &["discard", &name]).expect_code(1);
    assert!(asks.stderr.contains("give -y"), "{}", asks.stderr);
    agentctl(world, &dir, &["discard", "-y", &name]).expect_code(0);
}
