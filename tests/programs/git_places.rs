//! Git in a workspace that is a part of a repository elsewhere: a linked working tree, a submodule, a subdirectory, a
//! clone that borrows objects. It works as outside; in overlay nothing outside changes, in direct what was committed is
//! there and what git follows is as it was.

use std::path::{Path, PathBuf};

use agentd_tests::harness::{Named, RunOutput, World};
use agentd_tests::tests;

use super::{has, outside};

pub const TESTS: &[Named] = tests![
    work_is_as_outside,
    overlay_changes_nothing_outside,
    direct_commits_and_leads_nowhere_else,
    read_only_workspaces_can_be_looked_at,
    a_subdirectory_alone,
    a_subdirectory_of_a_working_tree,
    a_repository_outside_of_the_home,
    references_that_are_packed_stay_whole,
    hooks_in_the_workspace_are_not_written_in_direct,
    what_is_given_is_shown,
    several_working_trees_of_one_repository,
];

const IDENTITY: &str = "export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b GIT_CONFIG_NOSYSTEM=1;";

/// `main` with a linked working tree `wt`, a submodule `mod`, a subdirectory `sub`; `borrowed`, a clone that borrows
/// its objects.
const MAKE: &str = "set -e; git() { command git -c protocol.file.allow=always \"$@\"; }
    git init -q -b main lib; cd lib; echo a > a; git add .; git commit -qm lib; cd ..
    git init -q -b main main; cd main; mkdir sub other; echo a > sub/a; echo b > other/b; echo a > a; git add .
    git commit -qm one; git submodule -q add ../lib mod; git commit -qm sub; git worktree add -q ../wt -b side; git gc -q
    printf '#!/bin/sh\\necho real hook\\n' > .git/hooks/pre-commit; chmod +x .git/hooks/pre-commit
    cd ..; git clone -q --shared main borrowed";

/// Where git is tried, and what the session needs besides to see all that is there outside.
const PLACES: [(&str, &[&str]); 4] =
    [("wt", &[]), ("main/mod", &[]), ("borrowed", &[]), ("main/sub", &["--read", ".."])];

fn made(world: &World) -> PathBuf {
    let dir = world.workspace(world.a());
    outside(world.a(), &dir, &format!("{IDENTITY} {MAKE}")).expect_code(0);
    dir
}

/// What users and agents do with git. What it says holds no number that differs from repository to repository.
const WORK: &str = "set -e
    git rev-parse --git-dir --show-toplevel --show-prefix; realpath $(git rev-parse --git-common-dir)
    git status --short; git log --format=%s; echo x >> a; git status --short; git diff --stat
    git commit -qam two 2>&1; git log --format=%s; echo y >> a; git stash -q; git status --short
    git stash list --format=%gs | wc -l; git stash pop -q; git status --short; git stash -q; git stash drop -q
    git checkout -q -b topic; echo z > new; git add -A; git commit -qm three 2>&1; git log --format=%s -2
    git tag t; git reset -q --hard HEAD~1; git status --short; git show --stat --format=%s t; git fsck 2>/dev/null | grep -v ^dangling || true; git config --get core.bare";

fn session(world: &World, at: &Path, options: &[&str], script: &str) -> RunOutput {
    world.session_in(at).options(options).bash(&format!("{IDENTITY} {script}"))
}

fn work_is_as_outside(world: &World) {
    if !has(&["git"]) {
        return;
    }
    for mode in ["overlay", "direct"] {
        for (place, more) in PLACES {
            let [mine, theirs] = [(); 2].map(|()| made(world));
            let here = outside(world.a(), &mine.join(place), &format!("{IDENTITY} {WORK}")).expect_code(0);
            let workspace = format!(".:{mode}");
            let options: Vec<&str> =
                ["--workspace", &workspace].into_iter().chain(more.iter().copied()).collect();
            let there = session(world, &theirs.join(place), &options, WORK);
            let said = |output: &RunOutput, dir: &Path| output.text().replace(&*dir.to_string_lossy(), "DIR");
            let context = format!("{place} {mode}: {}", there.stderr);
            assert_eq!((there.code, said(&there, &theirs)), (here.code, said(&here, &mine)), "{context}");
        }
    }
}

/// Every file below the directory, with its mode, content and owner; what git caches of files left out.
fn state(world: &World, dir: &Path) -> String {
    let look = "find . ! -type d ! -name index -printf '%p %m %u %l\\n' | sort; find . -type d | sort; \
                find . -type f ! -name index | sort | xargs -d '\\n' sha256sum";
    outside(world.a(), dir, look).expect_code(0).text()
}

fn overlay_changes_nothing_outside(world: &World) {
    if !has(&["git"]) {
        return;
    }
    for (place, more) in PLACES {
        let dir = made(world);
        let before = state(world, &dir);
        let script = format!(
            "{WORK}; git config user.name evil; git checkout -q t; git branch -D topic; git gc -q; echo > $(git rev-parse --git-path hooks/x)"
        );
        session(world, &dir.join(place), more, &script).expect_code(0);
        assert_eq!(state(world, &dir), before, "{place}");
    }
}

/// What leads git somewhere, or has it run something.
const CONTROL: &str = "for f in main/.git/config main/.git/modules/mod/config main/.git/worktrees/wt/commondir \
    main/.git/worktrees/wt/gitdir wt/.git main/mod/.git main/.git/HEAD main/.git/objects/info/alternates \
    borrowed/.git/config borrowed/.git/objects/info/alternates main/.git/modules/mod/HEAD; do \
    echo $f; cat $f 2>/dev/null; stat -c '%i %a %s %Y' $f 2>/dev/null; done; ls -l main/.git/hooks main/.git/modules/mod/hooks; \
    ls main/.git main/.git/modules/mod main/.git/worktrees/wt | grep -v -e gitdir -e _HEAD -e COMMIT -e index -e logs -e refs; ls main/.git/worktrees";

/// Each of them is tried; none of it may arrive.
const EVIL: &str = "set +e; c=$(git rev-parse --git-common-dir); g=$(git rev-parse --git-dir)
    for f in $c/config $g/commondir $c/commondir $g/gitdir $g/config.worktree $c/config.worktree $c/objects/info/alternates \
        $c/info/attributes $c/hooks/pre-commit $c/hooks/post-checkout $(ls -d .git); do
        rm -f $f; mv $f $f.old; echo /evil > $f; echo /evil > n; mv -f n $f; ln -sf /etc/passwd $f; rm -f n
    done
    mv $c/hooks $c/h; rm -rf $c/hooks; mkdir $c/hooks; mv $c/worktrees $c/w; rm -rf $c/worktrees/other; mv $g $g.old; mkdir $g
    git config core.fsmonitor evil; true";

fn direct_commits_and_leads_nowhere_else(world: &World) {
    if !has(&["git"]) {
        return;
    }
    for (place, more) in PLACES {
        let dir = made(world);
        let other = "cd main; git worktree add -q ../other-wt -b other; mv .git/worktrees/other-wt .git/worktrees/other; git worktree repair -q ../other-wt 2>/dev/null; true";
        outside(world.a(), &dir, other).expect_code(0);
        let before = outside(world.a(), &dir, CONTROL).expect_code(0).text();
        let options: Vec<&str> =
            ["--workspace", ".:direct"].into_iter().chain(more.iter().copied()).collect();
        let script = format!(
            "set -e; echo x >> a; git commit -qam two >&2; git tag t; echo y >> a; git stash -q; ({EVIL}) >/dev/null 2>&1; true"
        );
        let there = session(world, &dir.join(place), &options, &script).expect_code(0);
        let after = outside(world.a(), &dir, CONTROL).expect_code(0).text();
        if place != "borrowed" {
            assert_eq!(after, before, "{place}: {}", there.stderr);
        }
        let unsearched = there.stderr.contains("logs/HEAD (could not be searched)");
        assert_eq!(unsearched, place == "wt", "{place}: {}", there.stderr);
        let look = "git log -1 --format=%s; git log -1 --format=%s t; git stash list | wc -l; git status --short; git config core.fsmonitor; \
                    git fsck --connectivity-only 2>&1 | grep -e missing -e broken; true";
        let look = outside(world.a(), &dir.join(place), look).expect_code(0);
        assert_eq!(look.text(), "two\ntwo\n1\n", "{place}: {}", look.stderr);
    }
}

fn read_only_workspaces_can_be_looked_at(world: &World) {
    if !has(&["git"]) {
        return;
    }
    for (place, _) in PLACES {
        let dir = made(world);
        let look = "git log --format=%s | tail -1; git status --short -- .; ! git commit -q --allow-empty -m x 2>/dev/null";
        let there = session(world, &dir.join(place), &["--workspace", ".:ro"], look).expect_code(0);
        let first = if place == "main/mod" { "lib\n" } else { "one\n" };
        assert_eq!(there.text(), first, "{place}: {}", there.stderr);
    }
}

/// Nothing beside the workspace is shown; git gets it from what the repository holds, in memory.
fn a_subdirectory_alone(world: &World) {
    if !has(&["git"]) {
        return;
    }
    for mode in ["overlay", "direct"] {
        let dir = made(world);
        world.a().write(dir.join("main/untracked"), "SECRET\n");
        let script = "set -e; ls -A ..; git log --format=%s; git status --short -- .; echo x >> a; git diff --stat -- .
            git commit -qm two a; git status --short; git stash -q; git stash pop -q; git checkout -q -- :/; git status --short; cat ../other/b; ls ..";
        let workspace = format!(".:{mode}");
        let there =
            session(world, &dir.join("main/sub"), &["--workspace", &workspace], script).expect_code(0);
        let (text, context) = (there.text(), format!("{mode}: {}\n{}", there.text(), there.stderr));
        assert!(!text.contains("SECRET") && !text.contains("untracked"), "{context}");
        assert!(text.starts_with(".git\nsub\nsub\none\n"), "{context}");
        assert!(text.ends_with("b\na\nmod\nother\nsub\n"), "{context}");
        let line = format!("(--read {} shows them", dir.join("main").display());
        assert!(there.stderr.contains(&line), "{}", there.stderr);
        // Outside all is there, and the commit in direct alone.
        let log = outside(world.a(), &dir.join("main"), "git log -1 --format=%s; git status --short")
            .expect_code(0);
        let expected = if mode == "direct" { "two\n?? untracked\n" } else { "sub\n?? untracked\n" };
        assert_eq!(log.text(), expected, "{mode}");
    }
}

fn a_subdirectory_of_a_working_tree(world: &World) {
    if !has(&["git"]) {
        return;
    }
    for mode in ["overlay", "direct"] {
        let dir = made(world);
        let script = "set -e; git log --format=%s -1; echo x >> a; git commit -qm two a >&2; git log --format=%s -1; cat ../.git | wc -l";
        let workspace = format!(".:{mode}");
        let there = session(world, &dir.join("wt/sub"), &["--workspace", &workspace], script).expect_code(0);
        assert_eq!(there.text(), "sub\ntwo\n1\n", "{mode}: {}", there.stderr);
        let log =
            outside(world.a(), &dir.join("wt"), "git log -1 --format=%s; git status --short").expect_code(0);
        assert_eq!(log.text(), if mode == "direct" { "two\n" } else { "sub\n" }, "{mode}");
    }
}

/// A directory that is taken away in the end.
struct Elsewhere(PathBuf);

impl Drop for Elsewhere {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

fn a_repository_outside_of_the_home(world: &World) {
    if !has(&["git"]) {
        return;
    }
    let elsewhere = Elsewhere(Path::new("/srv").join(world.unique("agentd-git")));
    std::fs::create_dir_all(&elsewhere.0).expect("a directory of root's");
    std::os::unix::fs::chown(&elsewhere.0, Some(world.a().uid), Some(world.a().gid)).expect("root");
    outside(world.a(), &elsewhere.0, &format!("{IDENTITY} {MAKE}")).expect_code(0);
    for (place, _) in PLACES {
        let script = "set -e; echo x >> a; git commit -qm two a >&2; git log --format=%s -1; echo y >> a; git stash -q; git stash pop -q";
        for mode in [".:overlay", ".:direct"] {
            let there =
                session(world, &elsewhere.0.join(place), &["--workspace", mode], script).expect_code(0);
            assert_eq!(there.text(), "two\n", "{place} {mode}: {}", there.stderr);
        }
    }
}

/// What in a linked working tree in direct would lose references outside is refused.
fn references_that_are_packed_stay_whole(world: &World) {
    if !has(&["git"]) {
        return;
    }
    let loose = "cd main; h=$(git rev-parse HEAD); rm .git/packed-refs; mkdir -p .git/refs/heads; \
                 echo $h > .git/refs/heads/main; echo $h > .git/refs/heads/side";
    for first in ["true", loose] {
        let dir = made(world);
        let all = "cd main; git for-each-ref --format='%(refname)' refs/heads";
        outside(world.a(), &dir, first).expect_code(0);
        let before = outside(world.a(), &dir, all).expect_code(0).text();
        let script = "git branch kept; git pack-refs --all --prune; git gc -q; git fetch -q --depth 1 ../lib; git for-each-ref refs/heads | wc -l";
        let there = session(world, &dir.join("wt"), &["--workspace", ".:direct"], script).expect_code(0);
        assert_eq!(there.text(), "3\n", "{}", there.stderr);
        let after = outside(world.a(), &dir, all).expect_code(0).text();
        assert_eq!(after.replace("refs/heads/kept\n", ""), before, "{}", there.stderr);
        assert!(!dir.join("main/.git/shallow").exists());
    }
}

fn hooks_in_the_workspace_are_not_written_in_direct(world: &World) {
    if !has(&["git"]) {
        return;
    }
    for place in ["wt", "main/sub", "main/mod"] {
        let dir = made(world);
        let at = dir.join(place);
        let set = format!(
            "git config core.hooksPath {}/hk; git config include.path {}/inc",
            at.display(),
            at.display()
        );
        outside(world.a(), &at, &set).expect_code(0);
        let evil = "mkdir -p hk; printf '#!/bin/sh\\ntouch $HOME/ran\\n' > hk/post-checkout; chmod +x hk/post-checkout; echo '[alias] x = !evil' > inc; ls";
        session(world, &at, &["--workspace", ".:direct"], evil).expect_code(0);
        assert!(!at.join("hk").exists() && !at.join("inc").exists(), "{place}");
    }
}

fn what_is_given_is_shown(world: &World) {
    if !has(&["git"]) {
        return;
    }
    let dir = made(world);
    let plan = world.session_in(dir.join("wt")).options(["--dry-run", "--json"]).run(["true"]).expect_code(0);
    let plan: serde_json::Value = serde_json::from_str(&plan.text()).expect("JSON");
    let git = dir.join("main/.git").display().to_string();
    let why = format!("{} is a working tree of it", dir.join("wt").display());
    let expected = serde_json::json!([{ "path": git, "part": "repository", "mode": "overlay", "why": why }]);
    assert_eq!(plan["git"], expected);
    let output = session(world, &dir.join("wt"), &[], "true").expect_code(0);
    assert_eq!(output.stderr, "");
    let inspected = world.agentctl(world.a(), ["inspect", &output.name, "--json"]).expect_code(0).text();
    let inspected: serde_json::Value = serde_json::from_str(&inspected).expect("JSON");
    let mounts = inspected["mounts"].as_array().expect("mounts");
    assert!(
        mounts.iter().any(|m| m["path"] == *git && m["kind"] == "git" && m["mode"] == "overlay"),
        "{mounts:?}"
    );
    let borrowed = session(world, &dir.join("borrowed"), &[], "true").expect_code(0);
    assert!(borrowed.stderr.contains("main/.git/objects is read, an alternate of "), "{}", borrowed.stderr);
}

fn several_working_trees_of_one_repository(world: &World) {
    if !has(&["git"]) {
        return;
    }
    let dir = made(world);
    let path = |name: &str| dir.join(name).display().to_string();
    let script = format!(
        "set -e; for d in {} {} {}; do cd $d; echo x >> a; git commit -qm two a >&2; git log --format=%s -1; done",
        path("wt"),
        path("borrowed"),
        path("main/mod")
    );
    for modes in [
        [":overlay", ":overlay", ":overlay"],
        [":direct", ":overlay", ":direct"],
        [":direct", ":direct", ":overlay"],
    ] {
        let [wt, borrowed, module] = modes;
        let options = [
            "--workspace",
            &(path("wt") + wt),
            "--workspace",
            &(path("borrowed") + borrowed),
            "--workspace",
            &(path("main/mod") + module),
        ]
        .map(str::to_owned);
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let there = session(world, &dir.join("wt"), &options, &script);
        assert_eq!(there.text(), "two\ntwo\ntwo\n", "{modes:?}: {}", there.stderr);
    }
    // The whole repository is a workspace: nothing is needed besides.
    let plan = world.session_in(dir.join("wt")).options([
        "--workspace",
        ".",
        "--workspace",
        &path("main"),
        "--dry-run",
        "--json",
    ]);
    let plan: serde_json::Value =
        serde_json::from_str(&plan.run(["true"]).expect_code(0).text()).expect("JSON");
    assert_eq!(plan["git"], serde_json::json!([]));
}
