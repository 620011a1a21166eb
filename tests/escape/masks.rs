//! Masked names that are made while a session runs, that lie anywhere, or that a file has besides.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use agentd_tests::harness::{World, text_at, wait_for_exit};

/// Tries everything that could make a masked name show what is below it, at the word of its input.
const LOOK: &str = r#"
import os, sys
names = sys.argv[1:]
def each(what):
    for name in names:
        try: what(name)
        except OSError: pass
def touch_and_remove(name):
    os.makedirs(os.path.dirname(name) or '.', exist_ok=True)
    os.close(os.open(name, os.O_CREAT | os.O_WRONLY, 0o600)); os.unlink(name)
each(touch_and_remove); each(os.unlink); each(os.rmdir)
each(lambda name: os.rename(name, name + '2'))
print('ready', flush=True); sys.stdin.readline()
def read(name):
    if os.path.isdir(name):
        for below in os.listdir(name): print(open(os.path.join(name, below)).read(), flush=True)
    else: print(open(name).read(), flush=True)
each(touch_and_remove); each(read); each(lambda name: read(name + '2'))
"#;

/// A file that appears outside after the start stays hidden, in every mode.
pub fn late(world: &World) {
    let names = [".env", "conf/secret", "keys", "a/b/c"];
    for mode in ["overlay", "direct"] {
        let dir = world.workspace(world.a());
        world.a().write(dir.join("look.py"), LOOK);
        let mut session = world.session_in(&dir).options(["--workspace", &format!(".:{mode}")]);
        for name in names.iter().skip(1) {
            session = session.options(["--mask", name]);
        }
        let script = format!("exec python3 look.py {}", names.join(" "));
        let mut child = session.spawn(["bash", "-c", &script]);
        let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut line = String::new();
        output.read_line(&mut line).expect("a line");
        assert_eq!(line, "ready\n");
        for name in names {
            let path = dir.join(name);
            // `keys` becomes a directory where nothing holds the name.
            let made = if name == "keys" && mode == "overlay" { path.join("key") } else { path };
            let script = format!("mkdir -p {}; echo SECRET > {}", dir_of(&made), made.display());
            world.on_host(world.a(), &dir, &["bash".into(), "-c".into(), script]).expect_code(0);
        }
        child.stdin.take().expect("a pipe").write_all(b"go\n").expect("its input");
        let rest = std::io::read_to_string(output).expect("text");
        assert!(!rest.contains("SECRET"), "{mode}: {rest}");
        let status = wait_for_exit(&mut child, std::time::Duration::from_secs(10)).expect("it ends");
        assert_eq!(status.code(), Some(0), "{mode}");
        assert_eq!(std::fs::read_to_string(dir.join(".env")).ok().as_deref(), Some("SECRET\n"), "{mode}");
        if mode == "overlay" {
            // Root knows that these are none of the agent's changes: by the file that they are, or by a list of its
            // own.
            let id = text_at(&world.all_events(world.a(), session.name())[0], "/session");
            let overlays = world.daemon().state().join("overlays");
            let own = overlays.join(format!("u{}/{id}/0", world.a().uid));
            let list = std::fs::read_to_string(own.join("about")).expect("root's list");
            let top = std::fs::metadata(&dir).expect("the workspace");
            let (path, device, inode) =
                (dir.to_str().expect("UTF-8"), top.dev().to_string(), top.ino().to_string());
            let listed: Vec<_> = list.split_terminator('\0').collect();
            assert_eq!(listed[..4], ["2", path, &device, &inode]);
            assert_eq!(listed[4..], ["a", "a/b", "a/b/c", "conf", "conf/secret"]);
            let inode = |path: &Path| std::fs::symlink_metadata(path).expect("a placeholder").ino();
            for name in [".env", "keys"] {
                assert_eq!(
                    inode(&own.join("upper").join(name)),
                    inode(&overlays.join("placeholder")),
                    "{name}"
                );
            }
        }
    }
}

fn dir_of(path: &Path) -> String {
    path.parent().unwrap_or(path).display().to_string()
}

/// Keys and `.env` files are masked wherever they are; examples are not.
pub fn anywhere(world: &World) {
    let dir = world.workspace(world.a());
    let secret = [
        ".env",
        ".env.local",
        "api/.env",
        "a/b/c/.env.production",
        "api/id_ed25519",
        "home/.aws/credentials",
        ".npmrc",
    ];
    for name in secret {
        world.a().write(dir.join(name), "SECRET\n");
    }
    for name in [".env.example", "api/id_ed25519.pub", "credentials"] {
        world.a().write(dir.join(name), "public\n");
    }
    std::os::unix::fs::symlink("settings", dir.join("api/.env.link")).expect("a new link");
    world.a().write(dir.join("api/settings"), "SECRET\n");
    for mode in ["overlay", "direct", "ro"] {
        let script = "grep -rhs . . ; cat .env.local api/.env api/.env.link a/b/c/* 2>/dev/null; mv api a2 2>/dev/null; \
                      ln api/.env x; cat x a2/.env; for f in .env api/.env .env.local; do test -f $f && echo /$f; done; true";
        let output = world.session_in(&dir).options(["--workspace", &format!(".:{mode}")]).bash(script);
        let text = output.text();
        assert!(!text.contains("SECRET"), "{mode}: {text}");
        assert_eq!(text.matches("public").count(), 3, "{mode}: {text}");
        assert!(!text.contains("/.env"), "{mode}: a mask does not look like a file: {text}");
    }
    for name in secret {
        assert_eq!(std::fs::read_to_string(dir.join(name)).ok().as_deref(), Some("SECRET\n"), "{name}");
    }
}

/// What has a masked file's content under another name is masked too, and what is out of reach is reported.
pub fn links(world: &World) {
    let dir = world.workspace(world.a());
    world.a().write(dir.join(".env"), "SECRET\n");
    world.a().write(dir.join("keys/one"), "SECRET\n");
    std::fs::hard_link(dir.join(".env"), dir.join("copy")).expect("a new name");
    world.a().make_dir(dir.join("deep/er"));
    std::fs::hard_link(dir.join("keys/one"), dir.join("deep/er/two")).expect("a new name");
    let elsewhere = world.workspace(world.a());
    std::fs::hard_link(dir.join(".env"), elsewhere.join("third")).expect("a new name");
    for mode in ["overlay", "direct", "ro"] {
        let options = ["--workspace", &format!(".:{mode}"), "--mask", "keys"];
        let output = world
            .session_in(&dir)
            .options(options)
            .bash("cat copy deep/er/two keys/* .env; grep -rhs SECRET .; true");
        assert_eq!(output.text(), "", "{mode}");
        let events = world.all_events(world.a(), &output.name);
        let reported: Vec<_> = events.iter().filter(|e| e["kind"] == "file.denied").collect();
        assert_eq!(reported.len(), 1, "{events:#?}");
        assert_eq!(text_at(reported[0], "/rule"), "mask.links");
        assert_eq!(text_at(reported[0], "/file/finding"), "has 1 more names that were not found");
    }
}
