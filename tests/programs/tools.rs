//! Version control, databases, editors, archivers, debuggers, terminals and keys.

use agentd_tests::harness::{Named, World};
use agentd_tests::tests;

use super::{has, same};

pub const TESTS: &[Named] = tests![
    git_worktrees,
    git_submodules,
    git_lfs,
    git_chores,
    postgres,
    sqlite,
    emacs,
    vim,
    man,
    archives,
    set_gid_directories,
    set_gid_is_refused_where_the_host_is_written,
    gdb,
    strace,
    screens,
    keys,
    a_bus,
    locks_and_watches,
];

const IDENTITY: &str =
    "set -e; export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
    export GIT_AUTHOR_DATE='2001-01-01 00:00 +0000' GIT_COMMITTER_DATE='2001-01-01 00:00 +0000'\n";

fn git(world: &World, script: &str) -> String {
    same(world, &[], &|_| {}, &format!("{IDENTITY}{script}"))
}

fn git_worktrees(world: &World) {
    if !has(&["git"]) {
        return;
    }
    let script = "git init -q -b main repo; cd repo; echo a > f; git add f; git commit -qm one
        git worktree add -q -b topic ../tree 2>&1; cd ../tree; echo b >> f; git commit -qam two; git worktree list | awk '{print $2, $3}'
        cd ../repo; git merge -q topic; git worktree move ../tree ../moved; git -C ../moved log --oneline; git worktree remove ../moved
        git branch -d topic; git log --oneline";
    assert!(git(world, script).contains("[topic]"));
}

fn git_submodules(world: &World) {
    if !has(&["git"]) {
        return;
    }
    let script = "file='-c protocol.file.allow=always'; git init -q -b main lib; (cd lib; echo a > f; git add f; git commit -qm one)
        git init -q -b main top; cd top; git $file submodule --quiet add ../lib dep; git commit -qm sub; git submodule status
        git mv dep moved; git commit -qm moved; git submodule status; cd ..; git clone -q top c; cd c
        git $file submodule --quiet update --init; cat moved/f; git submodule deinit -f moved; git rm -q moved; git status --short";
    assert!(git(world, script).contains("D  moved\n"));
}

fn git_lfs(world: &World) {
    if !has(&["git", "git-lfs"]) {
        return;
    }
    let script = "export GIT_CONFIG_GLOBAL=$PWD/config; git lfs install; git init -q --bare -b main up.git; git init -q -b main r; cd r; git lfs track '*.bin'
        head -c 100000 /dev/zero > x.bin; git add .; git commit -qm one; git remote add origin ../up.git
        git push -q -u origin main > /dev/null 2>&1; git lfs ls-files; cd ..; git clone -q up.git c 2>&1; stat -c %s c/x.bin; cd c; git lfs fsck";
    assert!(git(world, script).contains("\n100000\n"));
}

fn git_chores(world: &World) {
    if !has(&["git"]) {
        return;
    }
    let script = "git init -q -b main r; cd r; printf '#!/bin/sh\\necho hook\\n' > .git/hooks/pre-commit; chmod +x .git/hooks/pre-commit
        echo a > f; git add f; git commit -qm one 2>&1; echo b > f; git stash -q; git stash pop -q; git commit -qam two 2>&1
        git rebase -q HEAD; git bisect start; git bisect reset; git maintenance run; git fsck --no-dangling; git archive HEAD | tar t
        git bundle create -q x.bundle main; git bundle verify -q x.bundle; git gc -q; git count-objects; git log --format=%s";
    assert!(git(world, script).ends_with("two\none\n"));
}

fn postgres(world: &World) {
    let bin = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path().join("bin"));
    let Some(bin) = bin.filter(|bin| bin.join("initdb").exists()).max() else {
        eprintln!("NOT TRIED: this host has no initdb below /usr/lib/postgresql");
        return;
    };
    let script = format!(
        "set -e; export PATH={}:$PATH; initdb -D db -A trust -U me > /dev/null; mkdir /tmp/pg-$$; s=/tmp/pg-$$
        pg_ctl -D db -l log -w -o \"-k $s -c listen_addresses=\" start > /dev/null
        psql -h $s -U me postgres -Atc 'create table t(x int); insert into t select generate_series(1, 1000); select sum(x) from t' \
            -c 'show dynamic_shared_memory_type' -c 'set max_parallel_workers_per_gather = 2' -c 'set min_parallel_table_scan_size = 0' \
            -c 'set parallel_setup_cost = 0' -c 'select count(*) from t' -c 'vacuum analyze' -c checkpoint
        pg_dump -h $s -U me postgres | grep -c COPY; pg_ctl -D db -m fast -w stop > /dev/null; rm -r $s; ! grep -E 'FATAL|PANIC' log",
        bin.display()
    );
    assert!(same(world, &[], &|_| {}, &script).contains("500500\nposix\n"));
}

fn sqlite(world: &World) {
    if !has(&["sqlite3"]) {
        return;
    }
    let script = "sqlite3 x.db 'pragma journal_mode = wal; create table t(a); begin; insert into t values (1); commit
        ; select * from t; pragma mmap_size = 1000000; select count(*) from t; vacuum; pragma integrity_check'; sqlite3 x.db .dump | md5sum";
    assert!(same(world, &[], &|_| {}, script).starts_with("wal\n1\n"));
}

fn emacs(world: &World) {
    if !has(&["emacs"]) {
        return;
    }
    let script = r#"emacs --batch --eval '(progn (with-temp-file "o" (insert "x\n")) (princ (shell-command-to-string "cat o"))
        (require (quote org)) (princ (org-version)) (princ (user-login-name)))' 2>&1
        echo '(defun f () 1)' > a.el; emacs --batch -f batch-byte-compile a.el 2>&1; ls a.elc"#;
    assert!(same(world, &[], &|_| {}, script).contains("\nx\n"));
}

fn vim(world: &World) {
    if !has(&["vim"]) {
        return;
    }
    let script = r"printf 'b\na\n' > f; vim -es -u NONE -c '%sort' -c wq f; cat f
        vim -es -c 'set swapfile' -c 'e g' -c 'normal ihello' -c w -c 'r !echo hi' -c wq; cat g";
    assert_eq!(same(world, &[], &|_| {}, script), "a\nb\nhello\nhi\n");
}

fn man(world: &World) {
    if !has(&["man"]) {
        return;
    }
    let script = "man -w ls; MANWIDTH=80 man -P cat ls 2>&1 | head -3";
    same(world, &[], &|_| {}, script);
}

fn archives(world: &World) {
    let rsync = if has(&["rsync"]) { "rsync -aH s/ z; rsync -aHi --delete s/ z" } else { "" };
    let script = format!(
        "set -e; umask 022; mkdir -p s/d; echo x > s/f; chmod 640 s/f; ln -s f s/l; ln s/f s/h; mkfifo s/p; chmod 1777 s/d
        touch -d 2001-02-03 s/f s; truncate -s 10M s/sparse; tar cpSf t.tar s; mkdir x; tar xpf t.tar -C x; cp -a s y; {rsync}
        for d in x/s y z; do [ ! -d $d ] || (cd $d; find . ! -name .env -printf '%p %y %m %u %g %n %TY %l\\n' | sort; stat -c %b sparse); done
        install -m 750 s/f i; stat -c %a i; chown $(id -u):$(id -g) s/f; tar cf - s | tar xf - --same-owner -C x; cp --reflink=auto s/f r"
    );
    let said = same(world, &[], &|_| {}, &script);
    assert!(said.contains("./h f 640 "), "{said}");
}

/// By default: nothing that has the bit gets into a directory of the host's. What `direct` refuses is in
/// `tests/escape`.
fn set_gid_directories(world: &World) {
    let script =
        "set -e; mkdir a; chmod g+s a; mkdir a/b; mkdir -m 2755 c; install -d -m 2755 e; cp -r a f; cp -a a g
        tar cf - a | tar xpf - -C c; touch z; chmod 2755 z; stat -c '%n %a' a a/b c e f g c/a z";
    let said = same(world, &[], &|_| {}, script);
    assert!(said.starts_with("a 2755\na/b 2755\nc 2755\ne 2755\n"), "{said}");
    if has(&["git"]) {
        same(world, &[], &|_| {}, "git init -q --shared r; stat -c %a r/.git");
    }
}

/// Also in an overlay beside it. `mkdir(2)` takes the bit and drops it, wherever.
fn set_gid_is_refused_where_the_host_is_written(world: &World) {
    let (dir, written) = (world.workspace(world.a()), world.workspace(world.a()));
    let script = format!(
        "cd {}; for d in . {}; do mkdir -m 755 $d/d; touch $d/f; chmod 2755 $d/d 2>&1; chmod 2755 $d/f 2>&1; stat -c %a $d/d $d/f; done
        perl -e 'mkdir \"m\", 02755 or die $!'; stat -c %a m",
        dir.display(),
        written.display()
    );
    let output = world.session_in(&dir).option("--write").option(&written).bash(&script).expect_code(0);
    let text = output.text();
    assert_eq!(text.matches("Operation not permitted").count(), 4, "{text}\n{}", output.stderr);
    assert_eq!(text.matches("755\n").count() - text.matches("2755\n").count(), 3, "{text}");
    let events = world.all_events(world.a(), &output.name);
    assert!(events.iter().any(|event| event["kind"] == "confine.denied"), "{events:#?}");
}

fn gdb(world: &World) {
    if !has(&["gdb", "gcc"]) {
        return;
    }
    let script = r#"printf '#include <stdio.h>\nint f(int x) { return x + 1; }\nint main() { printf("%%d\\n", f(41)); return 0; }\n' > a.c
        gcc -g -O0 a.c -o a; gdb -nx -q -batch -ex 'b f' -ex run -ex 'p x' -ex bt -ex finish -ex c ./a 2>&1 | grep -E '^(\$|#|42)' | sed 's/0x[0-9a-f]*/A/g'
        sleep 100 & gdb -nx -q -batch -p $! -ex 'p 1 + 1' 2>&1 | grep '^\$'; gcore -o c $! 2>&1 | grep -c Saved; kill $!"#;
    assert!(same(world, &[], &|_| {}, script).ends_with("$1 = 2\n1\n"));
}

fn strace(world: &World) {
    if !has(&["strace"]) {
        return;
    }
    let script = "strace -f -e trace=execve -o o sh -c 'true; /bin/echo hi'; grep -c execve o; strace -c -o c ls > /dev/null; grep -c total c
        strace -f --seccomp-bpf -e trace=execve -o s sh -c /bin/true; grep -c execve s
        strace -o i -e trace=openat -e inject=openat:error=ENOENT:when=3 cat /etc/passwd > /dev/null 2>&1; grep -c INJECTED i";
    assert!(same(world, &[], &|_| {}, script).starts_with("hi\n2\n1\n"));
}

fn screens(world: &World) {
    let wait = "for i in $(seq 100); do [ -s out ] && break; sleep 0.05; done; cat out; rm out";
    if has(&["tmux"]) {
        let script = format!(
            "tmux -L $$ new-session -d -s a 'tty | tr -d 0-9; echo ran > out; exec cat'; {wait}; tmux -L $$ list-sessions -F '#S'; tmux -L $$ kill-server"
        );
        assert_eq!(same(world, &[], &|_| {}, &script), "ran\na\n");
    }
    if has(&["screen"]) {
        let script = format!(
            "screen -dmS s$$ sh -c 'echo ran > out; exec sleep 100'; {wait}; screen -ls | grep -c \"s$$\"; screen -S s$$ -X quit"
        );
        assert_eq!(same(world, &[], &|_| {}, &script), "ran\n1\n");
    }
    if has(&["script"]) {
        same(world, &[], &|_| {}, "script -qec 'tty; stty size' /dev/null | sed 's/[0-9]*\\r/N/'");
    }
}

fn keys(world: &World) {
    if has(&["ssh-keygen", "ssh-agent"]) {
        let script = "ssh-keygen -q -t ed25519 -N '' -C c -f k; ssh-keygen -lf k.pub | awk '{print $1, $3, $4}'; eval $(ssh-agent) > /dev/null
            ssh-add -q k; ssh-add -l | awk '{print $1}'; ssh-agent -k > /dev/null; echo x > f; ssh-keygen -q -Y sign -f k -n file f 2>&1; ls f.sig";
        same(world, &[], &|_| {}, script);
    }
    if has(&["gpg"]) {
        let script = "export GNUPGHOME=$(mktemp -d); gpg --batch -q --passphrase '' --quick-gen-key t@example.org ed25519 sign never 2>/dev/null
            echo x | gpg --batch -q --sign | gpg --batch -q -d 2>/dev/null; gpg -k 2>/dev/null | grep -c t@example.org; gpgconf --kill all; rm -rf $GNUPGHOME";
        assert_eq!(same(world, &[], &|_| {}, script), "x\n1\n");
    }
}

fn a_bus(world: &World) {
    if !has(&["dbus-run-session", "dbus-send"]) {
        return;
    }
    let script = "dbus-run-session -- dbus-send --session --print-reply --dest=org.freedesktop.DBus / org.freedesktop.DBus.GetId | grep -c string";
    assert_eq!(same(world, &[], &|_| {}, script), "1\n");
}

fn locks_and_watches(world: &World) {
    let script = "flock f sh -c 'flock -n f true; echo $?; flock -s -n f true; echo $?'; flock -s f flock -s -n f echo shared";
    assert_eq!(same(world, &[], &|_| {}, script), "1\n1\nshared\n");
    if has(&["inotifywait"]) {
        let script = "inotifywait -q -t 20 -e create . > /dev/null & until grep -qs inotify /proc/$!/fdinfo/3; do :; done; touch new; wait $!; echo $?";
        assert_eq!(same(world, &[], &|_| {}, script), "0\n");
    }
}
