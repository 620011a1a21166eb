//! What outlives its session: a descriptor that left through a Unix socket of a workspace in mode `direct`.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};

use agentd_tests::harness::{Session, User, World, within};

use super::LIMIT;

/// Passes what `make` returns to each client that connects.
const PASS: &str = r"
import array, ctypes, os, socket
def instances():
    libc = ctypes.CDLL(None)
    made = []
    while (one := libc.inotify_init1(0)) >= 0:
        made.append(one)
    return made[:100]
def megabytes(count):
    file = os.open('/tmp/held', os.O_CREAT | os.O_RDWR)
    for _ in range(count):
        os.write(file, bytes(1 << 20))
    return [file]
def give(descriptors):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind('socket')
    listener.listen(1)
    os.chmod('socket', 0o777)
    peer, _ = listener.accept()
    peer.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', descriptors))])
    peer.recv(1)
    os.unlink('socket')
";

/// Takes what is passed, says that it has it, and holds it until its input ends.
const HOLD: &str = r"
import socket, sys, time
peer = socket.socket(socket.AF_UNIX)
while True:
    try:
        peer.connect('socket')
        break
    except OSError:
        time.sleep(0.02)
held = peer.recvmsg(10, socket.CMSG_SPACE(4 * 250))
peer.send(b'x')
print(len(held[1][0][2]) // 4, flush=True)
sys.stdin.read()
";

/// How many inotify instances can be had.
const COUNT: &str =
    "import ctypes\nlibc = ctypes.CDLL(None)\nn = 0\nwhile libc.inotify_init1(0) >= 0: n += 1\nprint(n)";

/// A process of the user's on the host that holds what a session passed to it.
struct Holder(Child);

impl Holder {
    /// Runs a session that makes something and passes it on; the lease that it had.
    fn of(world: &World, user: &User, make: &str) -> (Self, String) {
        let workspace = world.workspace(user);
        let workspace_option = format!("{}:direct", workspace.display());
        let session = Session::new(world, user, &workspace).options(["--workspace", &workspace_option]);
        let script = format!("{PASS}\ngive({make})");
        let mut child = session.spawn(["/usr/bin/python3", "-c", &script, session.name()]);
        let lease = world.daemon().await_session(user, session.name()).lease;
        let holder = Self::start(user, &workspace);
        assert!(agentd_tests::harness::wait_for_exit(&mut child, LIMIT).is_some_and(|s| s.success()));
        let group = world.daemon().cgroup2().join(format!("agents/u{}/{lease}", user.uid));
        let gone = within(LIMIT, || if group.exists() { Err(()) } else { Ok(()) });
        assert_eq!(gone, Ok(()), "{} stays", group.display());
        (holder, lease)
    }

    fn start(user: &User, workspace: &Path) -> Self {
        let mut command = user.command("/usr/bin/setpriv");
        command.args(["--pdeathsig", "KILL", "--", "/usr/bin/python3", "-c", HOLD]).current_dir(workspace);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("setpriv");
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().expect("a pipe")).read_line(&mut line).expect("a line");
        assert!(line.trim().parse::<usize>().is_ok_and(|count| count > 0), "nothing was passed: {line:?}");
        Self(child)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A lease with something left is given to nobody, and is again once that is gone.
pub fn leases(world: &World) {
    let most = std::fs::read_to_string("/proc/sys/fs/inotify/max_user_instances").expect("inotify");
    let (holder, poisoned) = Holder::of(world, world.a(), "instances()");
    let next = || {
        let session = world.session();
        let script = format!("{COUNT}\nimport sys; sys.stdout.flush(); sys.stdin.readline()");
        let mut child = session.spawn(["/usr/bin/python3", "-c", &script, session.name()]);
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().expect("a pipe")).read_line(&mut line).expect("a line");
        let lease = world.daemon().await_session(world.a(), session.name()).lease;
        drop(child.stdin.take());
        child.wait().ok();
        (lease, line)
    };
    // More often than there are leases.
    for _ in 0..12 {
        let (lease, instances) = next();
        assert_ne!(lease, poisoned, "its uid has something in use");
        assert_eq!(instances.trim(), most.trim(), "instances that can be had under lease {lease}");
    }
    drop(holder);
    let back = within(LIMIT, || if next().0 == poisoned { Ok(()) } else { Err(()) });
    assert_eq!(back, Ok(()), "lease {poisoned} is never used again");
}

/// Memory that a descriptor holds counts for the user whose session it was.
pub fn memory(world: &World) {
    let charged = || -> u64 {
        let group = format!("agents/u{}", world.a().uid);
        let text = super::setting(world.daemon(), &group, "memory.usage_in_bytes", "memory.current");
        text.and_then(|text| text.parse().ok()).unwrap_or(0) >> 20
    };
    let one = Holder::of(world, world.a(), "megabytes(100)");
    let held = charged();
    assert!(held >= 100, "{held} MiB are charged to a user for whom 100 are held");
    let two = Holder::of(world, world.a(), "megabytes(100)");
    let held = charged();
    assert!(held >= 200, "{held} MiB are charged to a user for whom 200 are held");
    // What is left of the user's memory is what the next session gets, whatever its own limit.
    let fill = "x = b'x' * (120 << 20)\nprint(len(x))";
    world.session().option("--rm").run(["/usr/bin/python3", "-c", fill]).expect_code(137);
    let three = Holder::of(world, world.a(), "megabytes(70)");
    let held = charged();
    let refused = world.session().run(["true"]);
    let so = refused.code == Some(125) && refused.stderr.contains("(bounds.user_memory)");
    assert!(so, "{held} MiB are held: {:?} {}", refused.code, refused.stderr);
    // Nobody else pays.
    let other = Session::new(world, world.b(), world.workspace(world.b()));
    other.run(["/usr/bin/python3", "-c", "x = b'x' * (200 << 20)\nprint(len(x))"]).expect_code(0);
    drop((one, two, three));
    let again = within(LIMIT, || match world.session().option("--rm").run(["true"]).code {
        Some(0) => Ok(()),
        code => Err(code),
    });
    assert_eq!(again, Ok(()), "nothing is held any more");
}
