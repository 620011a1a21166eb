//! Trees as an attacker left them: what `.git` and its kin say opens nothing that the caller did not name. Where git
//! itself follows the lead, that is shown first, outside.

use std::path::PathBuf;

use agentd_tests::harness::{RunOutput, World};

/// One way to lead git elsewhere.
struct Lead {
    name: &'static str,
    /// What makes the workspace `w`, beside `private`, a repository, and `keys`, a directory with a file.
    made: &'static str,
    /// Whether git outside goes there.
    followed: bool,
    /// What is said of it; nothing if there is nothing to say.
    said: &'static str,
}

const fn lead(name: &'static str, made: &'static str, followed: bool, said: &'static str) -> Lead {
    Lead { name, made, followed, said }
}

/// A repository for `w` that is whole.
const LEADS: &[Lead] = &[
    lead(
        "a gitdir that names a repository",
        "echo \"gitdir: $P/.git\" > w/.git",
        true,
        "private/.git does not name this working tree (core.worktree): the session does not have it (--read ",
    ),
    lead(
        "a relative one",
        "echo 'gitdir: ../private/.git' > w/.git",
        true,
        "private/.git does not name this working tree",
    ),
    lead("one with a tilde", "mkdir -p 'w/~'; echo 'gitdir: ~/private/.git' > w/.git", false, ""),
    lead(
        "a linked working tree's part of another",
        "git -C private worktree add -q ../tree; cp tree/.git w/.git",
        true,
        "does not name this working tree (gitdir)",
    ),
    lead(
        "a symbolic link",
        "ln -s ../private/.git w/.git",
        true,
        "private/.git is where a symbolic link .git leads: the session does not have it (--read ",
    ),
    lead(
        "a link on the way",
        "ln -s private way; echo \"gitdir: $PWD/way/.git\" > w/.git",
        true,
        "leads through a symbolic link",
    ),
    lead("a link of the workspace's", "ln -s ../private w/x; echo 'gitdir: x/.git' > w/.git", true, ""),
    lead("a file", "echo \"gitdir: $PWD/keys/key\" > w/.git", false, "keys/key is of another kind"),
    lead("a FIFO", "mkfifo fifo; echo \"gitdir: $PWD/fifo\" > w/.git", false, "is of another kind"),
    lead("a device", "echo 'gitdir: /dev/zero' > w/.git", false, "/dev/zero is of another kind"),
    lead(
        "a directory that is no repository",
        "echo \"gitdir: $PWD/keys\" > w/.git",
        false,
        "keys is no repository",
    ),
    lead("the home", "echo \"gitdir: $HOME\" > w/.git", false, "is no repository"),
    lead("the root", "echo 'gitdir: /' > w/.git", false, ""),
    lead(".git as a FIFO", "mkfifo w/.git", false, ""),
    lead("a name with a newline", "printf 'gitdir: %s\\n/x' \"$P/.git\" > w/.git", false, ""),
    lead("two lines", "printf 'gitdir: %s\\ngitdir: %s\\n' /x \"$P/.git\" > w/.git", false, ""),
    lead("a long one", "head -c 10000000 /dev/zero | tr '\\0' / > w/.git", false, ""),
    lead("a name that is not UTF-8", "printf 'gitdir: \\377/.git' > w/.git", false, ""),
    lead("a name that steers a terminal", "printf 'gitdir: /\\033[2Jx/.git' > w/.git", false, ""),
    lead("a loop", "mkdir w/g; echo 'gitdir: .git' > w/.git", false, ""),
    lead(
        "a commondir of its own",
        "git init -q -b main w; echo ../../private/.git > w/.git/commondir",
        true,
        "private/.git is named by a commondir",
    ),
    lead(
        "a commondir that is absolute",
        "git init -q -b main w; echo \"$P/.git\" > w/.git/commondir",
        true,
        "private/.git is named by a commondir",
    ),
    lead(
        "a part of a working tree in the workspace, with the commondir of another",
        "mkdir -p w/x/worktrees/n; echo ref: refs/heads/main > w/x/worktrees/n/HEAD; echo \"$P/.git\" > w/x/worktrees/n/commondir; \
         echo \"$PWD/w/.git\" > w/x/worktrees/n/gitdir; echo 'gitdir: x/worktrees/n' > w/.git",
        true,
        "",
    ),
    lead(
        "a commondir above",
        "mkdir -p worktrees/n; echo ref: refs/heads/main > worktrees/n/HEAD; echo ../../private/.git > worktrees/n/commondir; \
         echo \"$PWD/w/.git\" > worktrees/n/gitdir; echo 'gitdir: ../worktrees/n' > w/.git",
        true,
        "has a commondir that is not the repository that it lies in",
    ),
    lead(
        "a directory that only looks like a repository's",
        "mkdir -p keys/worktrees/n; echo ref: refs/heads/main > keys/worktrees/n/HEAD; echo ../.. > keys/worktrees/n/commondir; \
         echo \"$PWD/w/.git\" > keys/worktrees/n/gitdir; echo 'gitdir: ../keys/worktrees/n' > w/.git",
        false,
        "keys is no repository of yours",
    ),
    lead(
        "a repository that holds more",
        "git init -q --bare keys; mkdir -p keys/worktrees/n; echo ref: refs/heads/main > keys/worktrees/n/HEAD; echo ../.. > keys/worktrees/n/commondir; \
         echo \"$PWD/w/.git\" > keys/worktrees/n/gitdir; echo 'gitdir: ../keys/worktrees/n' > w/.git",
        false,
        "keys holds more than a repository",
    ),
    lead(
        "core.worktree of another",
        "git -C private config core.worktree ../../elsewhere; echo \"gitdir: $P/.git\" > w/.git",
        false,
        "does not name this working tree",
    ),
    lead(
        "alternates in a directory with other things",
        "git init -q -b main w; echo \"$PWD/keys\" > w/.git/objects/info/alternates",
        false,
        "keys is named as an alternate and holds more than objects: the session does not have it (--read ",
    ),
    lead(
        "alternates in a repository",
        "git init -q -b main w; echo ../../../private/.git > w/.git/objects/info/alternates",
        false,
        "private/.git is named as an alternate and holds more than objects",
    ),
    lead(
        "alternates in the home",
        "git init -q -b main w; echo \"$HOME\" > w/.git/objects/info/alternates",
        false,
        "is named as an alternate and holds more than objects",
    ),
    lead(
        "alternates, quoted",
        "git init -q -b main w; printf '\"%s\"\\n' \"$PWD/k\\\\145ys\" > w/.git/objects/info/alternates",
        false,
        "keys is named as an alternate",
    ),
    lead(
        "alternates through a link",
        "git init -q -b main w; ln -s ../../../../keys w/.git/objects/x; echo x > w/.git/objects/info/alternates",
        false,
        "",
    ),
    lead(
        "alternates with a link among objects",
        "git init -q -b main w; mkdir -p o/pack o/ab; ln -s $PWD/keys/key o/ab/$(printf %038d 1); echo \"$PWD/o\" > w/.git/objects/info/alternates",
        false,
        "o is named as an alternate and holds more than objects",
    ),
    lead(
        "alternates that lead to each other",
        "git init -q -b main w; mkdir -p o/info o/pack p/info p/pack; echo $PWD/p > o/info/alternates; echo $PWD/o > p/info/alternates; echo $PWD/keys >> p/info/alternates; echo $PWD/o > w/.git/objects/info/alternates",
        false,
        "keys is named as an alternate and holds more than objects",
    ),
    lead(
        "alternates of ten megabytes",
        "git init -q -b main w; yes \"$PWD/keys\" | head -c 10000000 > w/.git/objects/info/alternates",
        false,
        "",
    ),
    lead(
        "a repository above that has a common directory",
        "git init -q -b main .; echo \"$P/.git\" > .git/commondir",
        true,
        ".git names a common directory",
    ),
    lead(
        "a repository above that is a link",
        "ln -s private/.git .git",
        true,
        "private/.git is where a symbolic link .git leads",
    ),
];

struct Tree {
    dir: PathBuf,
}

impl Tree {
    fn new(world: &World, made: &str) -> Self {
        let dir = world.workspace(world.a());
        let script = format!(
            "set -e; export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b; mkdir w keys
            echo SECRET > keys/key; git init -q -b main private; cd private; echo SECRET > secret; git add .; git commit -qm SECRET; cd ..
            P=$PWD/private; {made}"
        );
        world.on_host(world.a(), &dir, &["bash".into(), "-c".into(), script]).expect_code(0);
        Self { dir }
    }

    fn session(&self, world: &World, mode: &str) -> RunOutput {
        // What git says, and what there is of the places by their own names.
        let script = "cd ..; git -C w log --format=%s%b -p --all; cat private/secret private/.git/config keys/key; \
                      ls -A private private/.git keys private/.git/objects; git -C w cat-file --batch-all-objects --batch; \
                      find / -xdev -name key -o -name secret 2>/dev/null | grep -v -e ^/proc -e ^/sys -e ^/usr -e ^/etc; true";
        let session = world.session_in(self.dir.join("w")).options(["--workspace", &format!(".:{mode}")]);
        session.bash(&format!("({script}) 2>/dev/null"))
    }
}

/// Nothing of what is led to is seen, and what was not followed is said.
pub fn leads(world: &World) {
    for Lead { name, made, followed, said } in LEADS {
        let tree = Tree::new(world, made);
        if *followed {
            let log = ["git", "log", "--format=%s"].map(str::to_owned);
            let log = world.on_host(world.a(), &tree.dir.join("w"), &log);
            assert!(log.text().contains("SECRET"), "{name}: git outside: {}", log.stderr);
        }
        for mode in ["overlay", "direct", "ro"] {
            let output = tree.session(world, mode);
            let context = format!("{name} {mode}: {}\n{}", output.text(), output.stderr);
            assert_eq!(output.text(), "", "{context}");
            // What git follows and cannot be covered is refused.
            let refused = mode != "overlay" && output.code == Some(125);
            assert!(refused || output.code == Some(0), "{context}");
            assert!(refused || output.stderr.contains(said), "{context}");
            assert!(!output.stderr.contains('\x1b'), "{context}");
            assert!(
                said.is_empty()
                    || refused
                    || output.stderr.lines().any(|line| line.starts_with("agentctl: git: ")),
                "{context}"
            );
        }
    }
}

/// What is said to allow it does, to read.
pub fn allowed(world: &World) {
    let tree = Tree::new(world, "echo \"gitdir: $P/.git\" > w/.git");
    let private = tree.dir.join("private/.git");
    let session = world.session_in(tree.dir.join("w")).option("--read").option(&private);
    let output = session
        .bash("git log --format=%s; echo x > ../private/.git/x; git commit --allow-empty -m x")
        .expect_code(128);
    assert_eq!(output.text(), "SECRET\n", "{}", output.stderr);
    assert!(!output.stderr.contains("agentctl: git:"), "{}", output.stderr);
}

/// What others put above a workspace is not its repository.
pub fn of_others(world: &World) {
    let dir = world.workspace(world.a());
    world.a().make_dir(dir.join("w"));
    let script = "git init -q -b main . && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m SECRET; chmod -R a+rX .git";
    world.on_host(world.a(), &dir, &["bash".into(), "-c".into(), script.into()]).expect_code(0);
    let b = world.b();
    let status = std::process::Command::new("chown").args(["-R", &b.name]).arg(dir.join(".git")).status();
    assert!(status.expect("chown").success());
    let output = world
        .session_in(dir.join("w"))
        .bash("git log 2>/dev/null; ls -A .. | grep -v '^w$'; true")
        .expect_code(0);
    assert_eq!(output.text(), "", "{}", output.stderr);
    assert!(output.stderr.contains("belongs to another user"), "{}", output.stderr);
}
