//! What git does in a repository: all of it, in each mode. In `direct` its configuration and hooks change inside alone.

use std::path::{Path, PathBuf};

use agentd_tests::harness::{Named, World, text_at};
use agentd_tests::tests;

use super::{has, outside, session};

pub const TESTS: &[Named] = tests![
    configuration_and_hooks_change_inside,
    what_is_real_stays_as_it_was,
    passwords_are_not_in_the_copy,
    work_in_direct_arrives,
    what_changed_inside_alone_is_told,
    an_upstream_is_carried_over_by_the_command_that_is_told,
];

const IDENTITY: &str =
    "export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b";

fn repository(world: &World) -> PathBuf {
    let dir = world.workspace(world.a());
    let script = "set -e; git init -q -b main; echo a > f; git add f; git -c user.name=a -c user.email=a@b commit -qm one
        printf '#!/bin/sh\\necho real hook\\n' > .git/hooks/pre-commit; chmod +x .git/hooks/pre-commit
        git config core.filemode true";
    outside(world.a(), &dir, script).expect_code(0);
    dir
}

/// All files of the repository's own part that git follows.
fn control(world: &World, dir: &Path) -> String {
    let look = "cat .git/config; ls -l --time-style=full-iso .git/config .git/hooks; cat .git/hooks/pre-commit; ls .git";
    outside(world.a(), dir, look).expect_code(0).text()
}

const WORK: &str = "set -e
    git init -q --bare -b main $HOME/up.git
    git remote add origin $HOME/up.git
    git push -q -u origin main
    git config --get branch.main.remote
    git checkout -q -b topic; git push -q -u origin topic; git branch -u origin/main topic >/dev/null
    git config user.name bot; git config --get user.name
    git config core.hooksPath .husky; git config --unset core.hooksPath
    printf '#!/bin/sh\\necho hook ran\\n' > .git/hooks/post-commit; chmod +x .git/hooks/post-commit
    echo b > f; git commit -qam two 2>&1
    mv .git/hooks/pre-commit .git/hooks/was; rm .git/hooks/was
    git gc -q; git pack-refs --all; git status --short; git log --format=%s";

fn configuration_and_hooks_change_inside(world: &World) {
    if !has(&["git"]) {
        return;
    }
    let own = repository(world);
    let script = format!("{IDENTITY}; export HOME=$(mktemp -d); {WORK}");
    let here = outside(world.a(), &own, &script).expect_code(0);
    for mode in [".:direct", ".:overlay"] {
        let dir = repository(world);
        let script = format!("{IDENTITY}; {WORK}");
        let there = session(world, &dir).options(["--workspace", mode]).bash(&script);
        assert_eq!((there.code, there.text()), (here.code, here.text()), "{mode}: {}", there.stderr);
    }
    assert!(here.text().contains("real hook\nhook ran\n"), "{}", here.text());
}

fn what_is_real_stays_as_it_was(world: &World) {
    if !has(&["git"]) {
        return;
    }
    let dir = repository(world);
    let before = control(world, &dir);
    let evil = "set +e; printf '[core]\\n\\tfsmonitor = touch /tmp/ran\\n' >> .git/config; echo evil > .git/hooks/pre-commit
        chmod 777 .git/hooks; echo x > .git/hooks/new; ln -f .git/config .git/c2; mv .git/config .git/c3; rm -f .git/config
        sed -i s/core/x/ .git/config; git config alias.st '!evil'; echo y > .git/n; mv -f .git/n .git/config
        rm -rf .git/hooks; mkdir .git/hooks; cat .git/config | grep -c fsmonitor; rm -f .git/c2 .git/c3 .git/n; true";
    let there = session(world, &dir).options(["--workspace", ".:direct"]).bash(evil).expect_code(0);
    assert_eq!(there.text(), "1\n", "{}", there.stderr);
    assert_eq!(control(world, &dir), before);
}

/// Every setting and hook that changed is an event; nothing is of what did not.
fn what_changed_inside_alone_is_told(world: &World) {
    if !has(&["git"]) {
        return;
    }
    let dir = repository(world);
    let script = "git remote add o https://example.org/x.git; git config core.fsmonitor ./x; git config --unset core.filemode
        echo evil > .git/hooks/pre-commit; echo new > .git/hooks/new; git config alias.st '!evil'";
    let there = session(world, &dir).options(["--workspace", ".:direct"]).bash(script).expect_code(0);
    let events = world.all_events(world.a(), &there.name);
    let mut reported: Vec<_> = events
        .iter()
        .filter(|event| event["kind"] == "file.changed" && event["rule"] == "direct.aside")
        .map(|event| {
            let path = text_at(event, "/file/path");
            let path = path.strip_prefix(dir.to_str().unwrap()).unwrap_or(&path).to_owned();
            (path, text_at(event, "/file/setting"), text_at(event, "/file/value"))
        })
        .collect();
    reported.sort();
    let owned = |(a, b, c): (&str, &str, &str)| (a.to_owned(), b.to_owned(), c.to_owned());
    let expected = [
        ("/.git/config", "alias.st", "!evil"),
        ("/.git/config", "core.filemode", ""),
        ("/.git/config", "core.fsmonitor", "./x"),
        ("/.git/config", "remote.o.fetch", "+refs/heads/*:refs/remotes/o/*"),
        ("/.git/config", "remote.o.url", "https://example.org/x.git"),
        ("/.git/hooks/new", "", ""),
        ("/.git/hooks/pre-commit", "", ""),
    ];
    assert_eq!(reported, expected.map(owned));
    assert!(
        there.stderr.contains("ended with it: ") && there.stderr.contains(" and 3 more; "),
        "{}",
        there.stderr
    );
    let quiet = session(world, &dir).options(["--workspace", ".:direct"]).bash("git status").expect_code(0);
    assert!(!quiet.stderr.contains("ended with it"), "{}", quiet.stderr);
}

/// What makes git run nothing comes as a command, which does outside what was done inside; all else does not.
fn an_upstream_is_carried_over_by_the_command_that_is_told(world: &World) {
    if !has(&["git"]) {
        return;
    }
    let dir = repository(world);
    let script = "git config core.sshCommand ./evil; git config branch.main.remote origin
        git config branch.main.merge refs/heads/main";
    let there = session(world, &dir).options(["--workspace", ".:direct"]).bash(script).expect_code(0);
    let (_, rest) = there.stderr.split_once("to have it outside: `").expect(&there.stderr);
    let (command, _) = rest.split_once('`').expect(&there.stderr);
    assert!(!command.contains("evil"), "{command}");
    outside(world.a(), &dir, command).expect_code(0);
    let look = "git config --get branch.main.remote; git config --get branch.main.merge; git config core.sshCommand; true";
    assert_eq!(outside(world.a(), &dir, look).text(), "origin\nrefs/heads/main\n");
}

fn passwords_are_not_in_the_copy(world: &World) {
    if !has(&["git"]) {
        return;
    }
    let dir = repository(world);
    let script = "git remote add o https://user:sekret@example.org/x.git; git config http.extraHeader 'Authorization: sekret'";
    outside(world.a(), &dir, script).expect_code(0);
    let look = "git remote -v | head -1; git config http.extraHeader; grep -rs sekret .git; true";
    let there = session(world, &dir).options(["--workspace", ".:direct"]).bash(look).expect_code(0);
    assert_eq!(there.text(), "o\thttps://user@example.org/x.git (fetch)\n", "{}", there.stderr);
}

fn work_in_direct_arrives(world: &World) {
    if !has(&["git"]) {
        return;
    }
    let dir = repository(world);
    let script =
        format!("{IDENTITY}; git checkout -q -b topic && echo b > f && git commit -qam two && git tag t");
    session(world, &dir).options(["--workspace", ".:direct"]).bash(&script).expect_code(0);
    let log =
        outside(world.a(), &dir, "git log --format=%s topic; git tag; git status --short").expect_code(0);
    assert_eq!(log.text(), "two\none\nt\n");
}
