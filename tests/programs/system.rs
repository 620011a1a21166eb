//! What programs find of the system: /etc, /run, message queues, the umask.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use agentd_tests::harness::{Named, World, complete};
use agentd_tests::tests;

use super::{has, outside, same};

pub const TESTS: &[Named] = tests![
    programs_find_what_packages_brought,
    what_is_not_from_packages_is_not_there,
    inputs_in_etc,
    each_session_is_a_machine_of_its_own,
    what_is_the_systems_is_roots,
    places_in_run,
    message_queues,
    the_umask_comes_along,
    ids_that_a_session_does_not_have,
    the_callers_terminfo_comes_along,
];

fn programs_find_what_packages_brought(world: &World) {
    for (program, script) in [
        ("mvn", "mvn -v 2>&1 | head -1"),
        ("java", "java -version 2>&1; ls /etc/java-*-openjdk"),
        ("man", "man -w ls"),
        ("dpkg", "dpkg -l bash coreutils | tail -2; dpkg -S /bin/ls /usr/bin/env"),
        ("vim", "vim -es -u /etc/vim/vimrc -c 'set runtimepath?' -c q; ls /etc/vim"),
        ("npm", "npm --version; npm config get registry"),
        (
            "openssl",
            "openssl version -d; head -1 /etc/ssl/certs/ca-certificates.crt; cat /etc/ssl/openssl.cnf | md5sum",
        ),
        ("ssh", "ssh -G example.org | grep -i hashknownhosts"),
        ("getent", "getent services ssh; getent protocols tcp; getent passwd root | cut -d: -f1-4"),
        ("psql", "psql --version"),
        ("php", "php -m"),
        ("emacs", "emacs --batch --eval '(princ system-type)'"),
    ] {
        if has(&[program]) {
            same(world, &[], &|_| {}, script);
        }
    }
}

/// A file of the test's own in /etc, which goes with it.
struct Own(PathBuf);

impl Own {
    fn make(world: &World, text: &str) -> Self {
        let dir = PathBuf::from("/etc").join(world.unique("agentd-test"));
        std::fs::create_dir(&dir).expect("a new directory");
        std::fs::write(dir.join("settings"), text).expect("a new file");
        for path in [&dir, &dir.join("settings")] {
            let mode = if path.is_dir() { 0o755 } else { 0o644 };
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("our own");
        }
        Self(dir)
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

/// What an administrator wrote may hold a token, whatever its mode.
fn what_is_not_from_packages_is_not_there(world: &World) {
    let own = Own::make(world, "token = secret\n");
    let script = format!(
        "cat {}/settings 2>/dev/null; grep -rs 'token = secret' /etc; ls -d /etc/shadow /etc/fstab /etc/environment /etc/sudoers \
         /etc/agentd /etc/ssl/private /etc/ssh/ssh_host_* 2>/dev/null; find /etc -type f ! -perm -o=r; true",
        own.0.display()
    );
    let there = world.session().bash(&script).expect_code(0);
    assert_eq!(there.text(), "");
    // Nothing of it differs from the host's, but for what is the session's own.
    let script = "cd /etc; find . -type f ! -name passwd ! -name group ! -name hostname ! -name hosts ! -name nsswitch.conf \
                  ! -name resolv.conf ! -name machine-id -exec md5sum {} + | sort";
    let there = world.session().bash(script).expect_code(0);
    let files = there.text().lines().count();
    assert!(files > 20, "{files} files");
    let mut check = std::process::Command::new("/usr/bin/md5sum");
    check.args(["--check", "--quiet"]).current_dir("/etc");
    complete(&mut check, there.stdout, "the host's".into()).expect_code(0);
}

fn inputs_in_etc(world: &World) {
    let own = Own::make(world, "a setting\n");
    let script = format!(
        "cat {}/settings; id -un; ls /etc/ld.so.cache; stat -c %U /etc/passwd {}",
        own.0.display(),
        own.0.display()
    );
    for place in [own.0.clone(), own.0.join("settings")] {
        let there = world.session().option("--read").option(&place).bash(&script).expect_code(0);
        let expected = format!("a setting\n{}\n/etc/ld.so.cache\nroot\nroot\n", world.a().name);
        assert_eq!(there.text(), expected, "{}: {}", place.display(), there.stderr);
    }
}

fn each_session_is_a_machine_of_its_own(world: &World) {
    let [one, two] = [(); 2].map(|()| world.session().bash("cat /etc/machine-id").expect_code(0).text());
    assert_ne!(one, two);
    assert!(one.len() == 33 && one.trim().bytes().all(|byte| byte.is_ascii_hexdigit()), "{one}");
    assert_ne!(std::fs::read_to_string("/etc/machine-id").ok(), Some(one));
}

fn what_is_the_systems_is_roots(world: &World) {
    let script = "stat -c '%n %U:%G' / /bin /etc /etc/passwd /home /run /tmp /dev /dev/null /usr /var";
    let there = world.session().bash(script).expect_code(0);
    let others: Vec<String> =
        there.text().lines().filter(|line| !line.ends_with(" root:root")).map(str::to_owned).collect();
    let (user, name) = (&world.a().name, "/tmp");
    assert_eq!(others.len(), 1, "{others:?}");
    assert!(others[0].starts_with(&format!("{name} {user}:")), "{others:?}");
}

fn places_in_run(world: &World) {
    let script = "set -e; cd $XDG_RUNTIME_DIR; pwd; stat -c '%a %U' .; touch here; touch /run/lock/x /run/screen/x /var/lock/y; \
                  stat -c %a /run/lock /run/screen; ! touch /run/x 2>/dev/null; ! mkdir /run/agentd/x 2>/dev/null";
    let there = world.session().bash(script).expect_code(0);
    let expected = format!("/run/user/{}\n700 {}\n1777\n1777\n", world.a().uid, world.a().name);
    assert_eq!(there.text(), expected, "{}", there.stderr);
}

fn message_queues(world: &World) {
    if !has(&["python3"]) {
        return;
    }
    let name = world.unique("queue");
    let script = format!(
        "import ctypes, os
l = ctypes.CDLL('librt.so.1', use_errno=True)
q = l.mq_open(b'/{name}', os.O_CREAT | os.O_RDWR, 0o600, None)
assert q >= 0, os.strerror(ctypes.get_errno())
assert l.mq_send(q, b'hello', 5, 1) == 0
buffer = ctypes.create_string_buffer(8192)
print(l.mq_receive(q, buffer, 8192, None), buffer.value.decode(), l.mq_unlink(b'/{name}'))"
    );
    let keep = script.replace(&format!(", l.mq_unlink(b'/{name}')"), "");
    let there = world.session().run(["/usr/bin/python3", "-c", &keep]).expect_code(0);
    assert_eq!(there.text(), "5 hello\n");
    // One session's queues are nobody else's.
    let script =
        format!("import ctypes, os\nprint(ctypes.CDLL('librt.so.1').mq_open(b'/{name}', os.O_RDWR))");
    let other = world.session().run(["/usr/bin/python3", "-c", &script]).expect_code(0);
    assert_eq!(other.text(), "-1\n");
}

fn the_umask_comes_along(world: &World) {
    let look = "umask; touch f; mkdir d; stat -c %a f d";
    for mask in ["022", "077", "002"] {
        let here = outside(world.a(), &world.workspace(world.a()), &format!("umask {mask}; {look}"));
        let (agentctl, socket) = (world.daemon().agentctl(), world.daemon().socket());
        let (agentctl, socket) = (agentctl.display(), socket.display());
        let run = format!("umask {mask}; exec {agentctl} --socket {socket} run --rm -- bash -c '{look}'");
        let there = outside(world.a(), &world.workspace(world.a()), &run);
        assert_eq!((there.code, there.text()), (here.code, here.text()), "{}", there.stderr);
    }
}

/// As outside: EPERM, whichever id it is; one's own can be set.
fn ids_that_a_session_does_not_have(world: &World) {
    if !has(&["python3"]) {
        return;
    }
    let script = "python3 -c 'import errno, os
uid, gid = os.getuid(), os.getgid()
for call, ids in ((os.setuid, [65534]), (os.setgid, [65534]), (os.setreuid, [-1, 65534]), (os.setregid, [65534, -1]),
                  (os.setresuid, [-1, -1, 65534]), (os.setresgid, [gid, 65534, gid]), (os.seteuid, [0]), (os.setuid, [0]),
                  (os.setuid, [uid]), (os.setreuid, [uid, uid]), (os.setresgid, [gid] * 3), (os.setresuid, [-1, -1, -1])):
    try: call(*ids); print(call.__name__)
    except OSError as e: print(call.__name__, errno.errorcode[e.errno])'";
    let said = same(world, &[], &|_| {}, script);
    assert!(said.starts_with("setuid EPERM\nsetgid EPERM\n") && !said.contains("EINVAL"), "{said}");
}

fn the_callers_terminfo_comes_along(world: &World) {
    if !has(&["tic", "infocmp"]) {
        return;
    }
    let term = world.unique("term");
    let source = format!("{term}|a terminal of a test,\n\tuse=vt100,\n");
    let here = outside(
        world.a(),
        &world.workspace(world.a()),
        &format!("tic -o ~/.terminfo - <<'E'\n{source}E\ninfocmp {term} | tail -1"),
    );
    let session = world.session().env("TERM", &term).option("-t");
    let there = session.bash(&format!("echo $TERM; infocmp {term} | tail -1"));
    std::fs::remove_dir_all(world.a().home.join(".terminfo")).ok();
    assert_eq!(here.code, Some(0), "{}", here.stderr);
    assert!(
        there.text().contains(&term) && there.text().contains(here.text().trim()),
        "{}\n{}",
        there.text(),
        there.stderr
    );
}
