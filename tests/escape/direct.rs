//! What an agent leaves in a repository that it has as it is, and git outside afterwards: nothing of it may run. Each
//! way is taken without agentd first, where it must work.

use std::path::{Path, PathBuf};

use agentd_tests::harness::{RunOutput, User, World, text_at};

/// A program of git's that shows itself by making `$MARK`.
const RUN: &str =
    "printf '[core]\\n\\trepositoryformatversion = 0\\n\\tfsmonitor = \"touch %s; false\"\\n' \"$MARK\"";
const IDENTITY: &str = "export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b \
                        LC_ALL=C;";

/// One way to have git run something.
struct Way {
    name: &'static str,
    /// What the user has in the repository before.
    before: &'static str,
    /// What the agent does.
    agent: &'static str,
    /// What the user does afterwards.
    after: &'static str,
}

/// What every user does.
const LOOK: &str = "git status; git log --oneline; git stash list; git diff; git checkout -q HEAD; git checkout -b other; true";

const HELD: &[Way] = &[
    Way { name: "config", before: "", agent: "run >> .git/config", after: LOOK },
    Way {
        name: "config by renaming",
        before: "",
        agent: "run > .git/c; mv -f .git/c .git/config",
        after: LOOK,
    },
    Way {
        name: "config by another name of its",
        before: "ln .git/config kept",
        agent: "run >> kept; run > n; cat n > kept",
        after: LOOK,
    },
    Way {
        name: "hooks",
        before: "",
        agent: "printf '#!/bin/sh\\ntouch %s\\n' \"$MARK\" > .git/hooks/post-checkout; chmod +x .git/hooks/post-checkout",
        after: LOOK,
    },
    Way {
        name: "a .git of its own",
        before: "",
        agent: "mv .git g && cp -r g .git && run >> .git/config",
        after: LOOK,
    },
    Way {
        name: "commondir",
        before: "",
        agent: "mkdir -p .git/x; cp -r .git/objects .git/refs .git/x; run > .git/x/config; \
                rm -f .git/commondir; echo x > .git/commondir",
        after: LOOK,
    },
    Way {
        name: "config.worktree",
        before: "git config extensions.worktreeConfig true",
        agent: "rm -f .git/config.worktree; run > .git/config.worktree",
        after: LOOK,
    },
    Way {
        name: "the configuration of a submodule",
        before: "git init -q ../lib-$$; (cd ../lib-$$; git commit -q --allow-empty -m i); \
                 git -c protocol.file.allow=always submodule -q add ../lib-$$ sub; git commit -qm sub; mv ../lib-$$ .git/lib",
        agent: "run >> .git/modules/sub/config; cp .git/modules/sub/config n; run >> n; mv -f n .git/modules/sub/config",
        after: LOOK,
    },
    Way {
        name: "a repository below, added as a gitlink",
        before: "git init -q sub; (cd sub; git commit -q --allow-empty -m i); git add sub 2>/dev/null; git commit -qm sub",
        agent: "run >> sub/.git/config; mv sub s2 && cp -r s2 sub && run >> sub/.git/config",
        after: LOOK,
    },
    Way {
        name: "a linked working tree's commondir",
        before: "git worktree add -q wt -b side",
        agent: "mkdir .git/x; cp -r .git/objects .git/refs .git/x; run > .git/x/config; \
                rm -f .git/worktrees/wt/commondir; echo ../../x > .git/worktrees/wt/commondir",
        after: "cd wt; git status; git log; true",
    },
    Way {
        name: "a directory like a bare repository",
        before: "git init -q --bare bare; git -C bare config core.bare false; git -C bare config core.worktree ..",
        agent: "run >> bare/config; cp bare/config n; run >> n; mv -f n bare/config",
        after: "cd bare; git status; true",
    },
    Way {
        name: "a file that the configuration includes",
        before: "git config include.path ../team.gitconfig; : > team.gitconfig; git add -A; git commit -qm i",
        agent: "run >> team.gitconfig; run > n; mv -f n team.gitconfig",
        after: LOOK,
    },
    Way {
        name: "a file that it includes and that is missing",
        before: "git config include.path ../team.gitconfig",
        agent: "rm -f team.gitconfig; run > team.gitconfig",
        after: LOOK,
    },
    Way {
        name: "core.hooksPath",
        before: "git config core.hooksPath .githooks",
        agent: "mkdir -p .githooks; printf '#!/bin/sh\\ntouch %s\\n' \"$MARK\" > .githooks/post-checkout; \
                chmod +x .githooks/post-checkout",
        after: LOOK,
    },
    Way {
        name: "a program that the configuration names",
        before: "mkdir tools; printf '#!/bin/sh\\ncat\\n' > tools/clean.sh; chmod +x tools/clean.sh; \
                 git config filter.x.clean ./tools/clean.sh; echo '*.x filter=x' > .gitattributes; git add -A; git commit -qm f",
        agent: "printf '#!/bin/sh\\ntouch %s\\ncat\\n' \"$MARK\" > tools/clean.sh; echo y > a.x",
        after: "echo z > b.x; git add -A; git status; true",
    },
];

/// What cannot be kept from being made, and is found in the end: what is said names it.
const FOUND: &[(Way, &str)] = &[
    (
        Way {
            name: "a new repository below, added as a gitlink",
            before: "",
            agent: "git init -q sub; (cd sub; git commit -q --allow-empty -m i); git add sub; run >> sub/.git/config",
            after: "git status; true",
        },
        "/sub/.git (a new repository)",
    ),
    (
        Way {
            name: "a new directory like a bare repository",
            before: "",
            agent: "mkdir b; cp -r .git/objects .git/refs .git/HEAD b; \
                    { run; printf '\\tbare = false\\n\\tworktree = ..\\n'; } > b/config",
            after: "cd b; git status; true",
        },
        "/b (a new repository)",
    ),
    (
        Way {
            name: "the top like a bare repository",
            before: "",
            agent: "cp -r .git/objects .git/refs .git/HEAD .; { run; printf '\\tbare = false\\n\\tworktree = .\\n'; } > config; \
                    echo broken > .git/HEAD",
            after: "git status; true",
        },
        " (a new repository)",
    ),
    (
        Way {
            name: "a rebase",
            before: "git commit -q --allow-empty -m two",
            agent: "GIT_SEQUENCE_EDITOR=\"sed -i '1i break'\" git rebase -q -i HEAD~1 --exec \"touch $MARK\"",
            after: "git rebase --continue; true",
        },
        "/.git/rebase-merge (an unfinished rebase)",
    ),
    (
        Way {
            name: "a covered name in the index",
            before: "",
            agent: "run > c; git update-index --add --cacheinfo 100755,$(git hash-object -w c),.husky/post-checkout",
            after: "git checkout-index -a; test -x .husky/post-checkout && touch $MARK; true",
        },
        "/.git/index: .husky/post-checkout (a covered name in git's index)",
    ),
    (
        Way {
            name: "a covered name in a stash that was packed",
            before: "",
            agent: "mkdir .vscode; echo x > .vscode/tasks.json; git add .vscode; git stash -q; git gc -q --prune=now",
            after: "git stash pop; test -e .vscode/tasks.json && touch $MARK; true",
        },
        "/.git commit: .vscode/tasks.json (a covered name in a commit or stash)",
    ),
    (
        Way {
            name: "a link to a repository in a commit on another branch",
            before: "",
            agent: "git checkout -q -b x; git update-index --add --cacheinfo 160000,$(git rev-parse HEAD),deep/er; \
                    git commit -qm link; git commit -q --allow-empty -m more; git checkout -q main; rm -rf deep",
            after: "git checkout -q x; git ls-files -s | grep -q ^160000 && touch $MARK; true",
        },
        "/.git commit: deep/er (leads git into another repository)",
    ),
];

struct Place {
    dir: PathBuf,
    mark: PathBuf,
}

impl Place {
    fn new(world: &World, user: &User, way: &Way) -> Self {
        let dir = world.workspace(user);
        let mark = user.home.join(world.unique("ran"));
        let place = Self { dir, mark };
        let made = "git init -q -b main . && echo a > f && git add -A && git commit -qm one";
        place.outside(world, user, &format!("{made}; {}", way.before)).expect_code(0);
        place
    }

    fn script(&self, text: &str) -> String {
        format!("{IDENTITY} MARK={}; run() {{ {RUN}; }}; {text}", self.mark.display())
    }

    fn outside(&self, world: &World, user: &User, text: &str) -> RunOutput {
        world.on_host(user, &self.dir, &["bash".into(), "-c".into(), self.script(text)])
    }

    /// Whether something ran.
    fn ran(&self) -> bool {
        std::fs::remove_file(&self.mark).is_ok()
    }
}

/// Without agentd each way works: else it would show nothing.
fn works_outside(world: &World, way: &Way) {
    let user = world.a();
    let place = Place::new(world, user, way);
    place.outside(world, user, &format!("{}; true", way.agent)).expect_code(0);
    place.ran();
    let after = place.outside(world, user, way.after);
    assert!(place.ran(), "{}: nothing ran without agentd: {}{}", way.name, after.text(), after.stderr);
}

fn in_direct(world: &World, place: &Place, way: &Way) -> RunOutput {
    let session = world.session_in(&place.dir).options(["--workspace", ".:direct"]);
    session.bash(&place.script(&format!("( {} ) >/dev/null 2>&1; true", way.agent))).expect_code(0)
}

/// Git outside runs nothing that the agent wrote, and works as before.
pub fn held(world: &World) {
    for way in HELD {
        works_outside(world, way);
        let place = Place::new(world, world.a(), way);
        in_direct(world, &place, way);
        let after = place.outside(world, world.a(), way.after);
        assert!(!place.ran(), "{}: ran outside: {}{}", way.name, after.text(), after.stderr);
        let works = place.outside(world, world.a(), "git status -s && git log --oneline");
        assert!(works.code == Some(0) && works.text().contains("one"), "{}: {}", way.name, works.stderr);
    }
}

/// What could not be held is named at the end, on stderr and by an event.
pub fn found(world: &World) {
    for (way, named) in FOUND {
        works_outside(world, way);
        let place = Place::new(world, world.a(), way);
        let output = in_direct(world, &place, way);
        assert!(
            output.stderr.contains(named) && output.stderr.contains("status --ignore-submodules=all"),
            "{}: {}",
            way.name,
            output.stderr
        );
        let events = world.all_events(world.a(), &output.name);
        let changed: Vec<_> = events.iter().filter(|e| e["kind"] == "file.changed").collect();
        let path = named.split(" (").next().unwrap_or_default();
        assert!(
            changed
                .iter()
                .any(|e| text_at(e, "/file/path").ends_with(path) && text_at(e, "/rule") == "direct.left"),
            "{}: {events:#?}",
            way.name
        );
    }
}

/// Files that other programs run: held where they are, found where they are new.
pub fn tools(world: &World) {
    const NAMES: [&str; 8] = [
        ".envrc",
        ".mcp.json",
        ".vscode/tasks.json",
        ".claude/settings.json",
        ".claude/commands/x.md",
        "web/.husky/pre-commit",
        ".pre-commit-config.yaml",
        ".bashrc",
    ];
    let dir = world.workspace(world.a());
    for name in NAMES {
        world.a().write(dir.join(name), "mine\n");
    }
    let write = NAMES.map(|name| format!("mkdir -p $(dirname {name}); echo evil > {name}")).join("; ");
    let script = format!(
        "({write}; rm -rf .vscode .claude web .envrc; mv web w2; mkdir n; cd n; {write}) 2>/dev/null; true"
    );
    let output = world.session_in(&dir).options(["--workspace", ".:direct"]).bash(&script).expect_code(0);
    for name in NAMES {
        assert_eq!(std::fs::read_to_string(dir.join(name)).ok().as_deref(), Some("mine\n"), "{name}");
    }
    let events = world.all_events(world.a(), &output.name);
    let paths: Vec<_> =
        events.iter().filter(|e| e["kind"] == "file.changed").map(|e| text_at(e, "/file/path")).collect();
    for name in [
        ".envrc",
        ".mcp.json",
        ".vscode",
        ".claude/settings.json",
        ".claude/commands",
        "web/.husky",
        ".bashrc",
    ] {
        let path = dir.join("n").join(name).display().to_string();
        assert!(paths.contains(&path), "{path} in {paths:?}");
    }
    assert!(output.stderr.contains("it left what git or other programs may run as you"), "{}", output.stderr);
    // A session that leaves nothing prints nothing.
    let output =
        world.session_in(&dir).options(["--workspace", ".:direct"]).bash("echo x > new").expect_code(0);
    assert_eq!(output.stderr, "");
}

/// Nothing that stands for a missing or masked name gets into a commit, or stays.
pub fn placeholders_are_never_committed(world: &World) {
    for (mode, tracked) in [("direct", false), ("direct", true), ("overlay", false), ("overlay", true)] {
        let way = Way { name: "", before: "", agent: "", after: "" };
        let place = Place::new(world, world.a(), &way);
        if tracked {
            place
                .outside(world, world.a(), "echo KEY=1 > .env; git add .env; git commit -qm env")
                .expect_code(0);
        }
        let before = names(&place.dir);
        // What is tracked is refused by name, and nothing is added in its place.
        let add = if tracked { "git add -A || git add new" } else { "git add -A" };
        let script = place.script(&format!(
            "git status -s --untracked-files=all; echo new > new; {add}; git commit -qm two; git ls-files; \
             git show HEAD:.env"
        ));
        let output =
            world.session_in(&place.dir).options(["--workspace", &format!(".:{mode}")]).bash(&script);
        let listed = if tracked { ".env\nf\nnew\nKEY=1\n" } else { "f\nnew\n" };
        assert!(output.text().ends_with(listed), "{mode} {tracked}: {}{}", output.text(), output.stderr);
        if mode == "direct" {
            let mut now = names(&place.dir);
            now.retain(|name| name != "new");
            assert_eq!(now, before, "gone before `run` returns");
            let git = names(&place.dir.join(".git"));
            assert!(!git.iter().any(|name| name == "commondir" || name == "config.worktree"), "{git:?}");
            place.outside(world, world.a(), "git status -s && git checkout -q HEAD~1").expect_code(0);
        }
    }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .expect("a directory")
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// `git init` in a directory without a repository works, is reported, and breaks no later session.
pub fn a_repository_can_be_made(world: &World) {
    let dir = world.workspace(world.a());
    world.a().write(dir.join("f"), "x");
    let session = || world.session_in(&dir).options(["--workspace", ".:direct"]);
    let script =
        format!("{IDENTITY} git init -q && git add -A && git commit -qm one && git log --oneline | wc -l");
    let output = session().bash(&script).expect_code(0);
    assert_eq!(output.text(), "1\n");
    assert!(output.stderr.contains("/.git (a new repository)"), "{}", output.stderr);
    let output = session().bash("git status -s; git ls-files").expect_code(0);
    assert_eq!((output.text().as_str(), output.stderr.as_str()), ("f\n", ""));
}

/// A profile that lies in the workspace decides on the next session: it stays as it is.
pub fn its_profile_is_read_only(world: &World) {
    let dir = world.workspace(world.a());
    let text = "schema = 1\nextends = ['default']\n[[filesystem.workspace]]\npath = '.'\nmode = 'direct'\n";
    world.a().write(dir.join("conf/agent.toml"), text);
    let session = |name: &str| world.session_in(&dir).options(["--profile", name]);
    let script = "(echo x >> conf/agent.toml; rm -f conf/agent.toml; mv conf c2; mv conf/agent.toml x; \
                  ln conf/agent.toml y && echo z >> y) 2>/dev/null; true";
    session("./conf/agent.toml").bash(script).expect_code(0);
    session("conf/../conf/agent.toml").bash(script).expect_code(0);
    assert_eq!(std::fs::read_to_string(dir.join("conf/agent.toml")).ok().as_deref(), Some(text));
    assert!(dir.join("conf").is_dir() && !dir.join("c2").exists());
    // By way of a link, which could be another.
    std::os::unix::fs::symlink("conf/agent.toml", dir.join("link.toml")).expect("a new link");
    let output = session("./link.toml").run(["true"]).expect_code(125);
    assert!(output.stderr.contains("(workspace.symlink)"), "{}", output.stderr);
    std::fs::remove_file(dir.join("link.toml")).expect("the link");
    // By another name.
    std::fs::hard_link(dir.join("conf/agent.toml"), dir.join("other.txt")).expect("a new name");
    let output = session("./conf/agent.toml").run(["true"]).expect_code(125);
    assert!(output.stderr.contains("(profile.links)"), "{}", output.stderr);
}
