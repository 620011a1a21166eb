//! Programs that people really use. What the host does not have is not tried, and said.

use std::path::Path;
use std::process::Command;

use agentd_tests::harness::{Named, World};
use agentd_tests::tests;

pub const TESTS: &[Named] = tests![
    bash,
    git,
    python,
    node,
    gcc,
    gdb,
    cargo,
    coreutils_and_friends,
    perl,
    tar_and_gzip,
    sqlite_like_locking,
    strace_of_an_own_child,
];

/// Whether the host has all of `programs` where sessions look.
fn has(programs: &[&str]) -> bool {
    let missing: Vec<_> = programs.iter().filter(|p| !Path::new("/usr/bin").join(p).exists()).collect();
    if !missing.is_empty() {
        eprintln!("NOT TRIED: this host has no {missing:?} in /usr/bin");
    }
    missing.is_empty()
}

fn bash(world: &World) {
    let script = r#"set -euo pipefail
        f() { echo "$1-${2:-none}"; }
        f a; f a b
        x=$(echo one | tr a-z A-Z); echo "$x"
        diff <(echo a) <(echo a) && echo same
        (exit 3) || echo "code $?"
        cat <<< "here"
        for i in {1..3}; do echo -n "$i"; done; echo
        coproc cat; echo hi >&"${COPROC[1]}"; read -r -u "${COPROC[0]}" line; echo "$line""#;
    let output = world.session().bash(script).expect_code(0);
    assert_eq!(output.text(), "a-none\na-b\nONE\nsame\ncode 3\nhere\n123\nhi\n");
}

fn git(world: &World) {
    if !has(&["git"]) {
        return;
    }
    let dir = world.workspace(world.a());
    let script = "set -e; export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
        /usr/bin/git init -q -b main repo; cd repo; echo x > f; /usr/bin/git add f; /usr/bin/git commit -q -m first
        /usr/bin/git clone -q . ../clone; cd ../clone; echo y >> f; /usr/bin/git commit -qam second; /usr/bin/git push -q origin HEAD:refs/heads/other
        /usr/bin/git log --oneline | wc -l; cd ../repo; /usr/bin/git merge -q other; cat f; /usr/bin/git gc -q; /usr/bin/git fsck; /usr/bin/git status --short | wc -l";
    for mode in ["overlay", "direct"] {
        let sub = dir.join(mode);
        world.a().make_dir(&sub);
        let session = world.session_in(&sub).options(["--workspace", &format!(".:{mode}")]);
        let output = session.bash(script).expect_code(0);
        assert_eq!(output.text(), "2\nx\ny\n0\n", "{mode}: {}", output.stderr);
    }
    assert!(dir.join("direct/repo/.git").is_dir() && !dir.join("overlay/repo").exists());
}

fn python(world: &World) {
    if !has(&["python3"]) {
        return;
    }
    let script = "
import json, os, subprocess, tempfile, threading, multiprocessing, socket, sqlite3, hashlib, ctypes, mmap, select, asyncio
assert subprocess.run(['echo', 'hi'], capture_output=True).stdout == b'hi\\n'
with tempfile.TemporaryDirectory() as d: open(d + '/x', 'w').write('x')
t = threading.Thread(target=lambda: None); t.start(); t.join()
with multiprocessing.get_context('fork').Pool(2) as p: assert p.map(abs, [-1, -2]) == [1, 2]
db = sqlite3.connect('test.db'); db.execute('create table t (x)'); db.execute('insert into t values (1)'); db.commit()
assert db.execute('select count(*) from t').fetchone() == (1,)
a, b = socket.socketpair(); a.send(b'x'); assert b.recv(1) == b'x'
m = mmap.mmap(-1, 4096); m[:2] = b'ok'
async def f(): await asyncio.sleep(0.01); return 1
assert asyncio.run(f()) == 1
print(json.dumps({'uid': os.getuid() > 0, 'user': os.path.expanduser('~')}))
";
    let output = world.session().run(["/usr/bin/python3", "-c", script]).expect_code(0);
    assert!(output.text().contains(r#""uid": true"#), "{}", output.text());
}

fn node(world: &World) {
    if !has(&["node"]) {
        return;
    }
    let script = "
const fs = require('fs'), cp = require('child_process'), os = require('os'), http = require('http');
const { Worker } = require('worker_threads');
fs.writeFileSync('x', 'y');
if (cp.execSync('echo hi').toString() !== 'hi\\n') process.exit(2);
if (!os.userInfo().username) process.exit(3);
const s = http.createServer((q, r) => r.end('served')).listen(0, '127.0.0.1', () =>
  http.get({ port: s.address().port, host: '127.0.0.1' }, r => r.on('data', d => {
    console.log(d.toString());
    new Worker('process.exit(0)', { eval: true }).on('exit', () => s.close());
  })));
setTimeout(() => process.exit(9), 20000).unref();
";
    let output = world.session().run(["/usr/bin/node", "-e", script]).expect_code(0);
    assert_eq!(output.text(), "served\n", "{}", output.stderr);
}

const PROGRAM: &str = "#include <stdio.h>\n#include <unistd.h>\nstatic int twice(int x) { return 2 * x; }\nint main(void) { printf(\"%d\\n\", twice(21)); return 0; }\n";

fn gcc(world: &World) {
    if !has(&["gcc"]) {
        return;
    }
    for mode in ["overlay", "direct"] {
        let dir = world.workspace(world.a());
        world.a().write(dir.join("p.c"), PROGRAM);
        let session = world.session_in(&dir).options(["--workspace", &format!(".:{mode}")]);
        let output = session.bash("gcc -O2 -g -Wall -o p p.c && ./p").expect_code(0);
        assert_eq!(output.text(), "42\n", "{mode}: {}", output.stderr);
        assert_eq!(dir.join("p").exists(), mode == "direct");
    }
}

fn gdb(world: &World) {
    if !has(&["gcc", "gdb"]) {
        return;
    }
    let dir = world.workspace(world.a());
    world.a().write(dir.join("p.c"), PROGRAM);
    let script = "gcc -g -O0 -o p p.c && gdb -q -batch -nx -ex 'break twice' -ex run -ex 'print x' -ex continue ./p 2>&1";
    let output = world.session_in(&dir).bash(script).expect_code(0);
    assert!(
        output.text().contains("$1 = 21") && output.text().contains("exited normally"),
        "{}",
        output.text()
    );
}

/// The toolchain's own directory, if it is one that the user may read.
fn toolchain() -> Option<String> {
    let out = Command::new("rustc").args(["--print", "sysroot"]).output().ok()?;
    let path = String::from_utf8(out.stdout).ok()?.trim().to_owned();
    Path::new(&path).join("bin/cargo").exists().then_some(path)
}

fn cargo(world: &World) {
    let Some(from) = toolchain() else {
        eprintln!("NOT TRIED: no Rust toolchain");
        return;
    };
    // A toolchain below root's home is shown to the user by a read-only bind mount in the test's directory.
    let place = world.daemon().dir.join("toolchain");
    std::fs::create_dir_all(&place).expect("our own directory");
    let mounted = Command::new("mount").args(["--bind", "-o", "ro", &from]).arg(&place).status();
    assert!(mounted.is_ok_and(|s| s.success()), "mount --bind {from}");
    let dir = world.workspace(world.a());
    world.a().write(
        dir.join("Cargo.toml"),
        "[package]\nname = \"tiny\"\nversion = \"0.1.0\"\nedition = \"2021\"\n",
    );
    world.a().write(dir.join("src/main.rs"), "fn main() { println!(\"built\"); }\n#[test]\nfn t() {}\n");
    let script = format!(
        "export PATH={}/bin:$PATH; cargo run -q --offline && cargo test -q --offline >&2",
        place.display()
    );
    let session = world.session_in(&dir).option("--read").option(&place);
    let output = session.bash(&script);
    let unmounted = Command::new("umount").arg(&place).status();
    let output = output.expect_code(0);
    assert_eq!(output.text(), "built\n", "{}", output.stderr);
    assert!(unmounted.is_ok_and(|s| s.success()), "nothing holds the toolchain after the session");
}

fn coreutils_and_friends(world: &World) {
    let script = "set -e; cd ~; mkdir -p a/b; cp /etc/passwd a/; mv a/passwd a/p; ln a/p a/hard; ln -s p a/soft; chmod 600 a/p
        touch -d 2020-01-01 a/p; du -s a > /dev/null; df . > /dev/null; find . -name p | wc -l; sort a/p | uniq | wc -l > /dev/null
        dd if=/dev/zero of=big bs=1M count=4 status=none; sha256sum big | cut -c1-8; truncate -s 0 big; rm -r a; ls -A; date > /dev/null
        nproc > /dev/null; free > /dev/null 2>&1 || true; ps > /dev/null 2>&1 || true; timeout 5 true; nice true; env -i true; mkfifo q; test -p q";
    let output = world.session().bash(script).expect_code(0);
    assert!(
        output.text().starts_with("1\nbb9f8df6\nbig\n") || output.text().contains("bb9f8df6"),
        "{}",
        output.text()
    );
}

fn perl(world: &World) {
    if has(&["perl"]) {
        let output = world
            .session()
            .run(["perl", "-e", "print join(',', map { $_ * 2 } 1..3), \"\\n\""])
            .expect_code(0);
        assert_eq!(output.text(), "2,4,6\n");
    }
}

fn tar_and_gzip(world: &World) {
    let dir = world.workspace(world.a());
    for number in 0..50 {
        world.a().write(dir.join(format!("d/f{number}")), number.to_string());
    }
    let output = world
        .session_in(&dir)
        .bash("tar czf - d | tar xzf - -C /tmp && ls /tmp/d | wc -l && tar c d | tar t | wc -l");
    assert_eq!(output.expect_code(0).text(), "50\n51\n");
}

fn sqlite_like_locking(world: &World) {
    let script = "exec 9> lock; flock -n 9 && echo got; (exec 8> lock; flock -n 8 || echo held)";
    for mode in ["overlay", "direct"] {
        let output =
            world.session().options(["--workspace", &format!(".:{mode}")]).bash(script).expect_code(0);
        assert_eq!(output.text(), "got\nheld\n", "{mode}");
    }
}

fn strace_of_an_own_child(world: &World) {
    if has(&["strace"]) {
        let output = world.session().bash("strace -o ~/log true && grep -c execve ~/log").expect_code(0);
        assert_eq!(output.text(), "1\n");
    }
}
