//! What the kernel counts for the whole host: read from outside while three sessions of two users take all that they
//! get, each with every way to get it.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};

use agentd_tests::harness::{Session, User, World, wait_for_exit};
use serde_json::Value;

use super::LIMIT;

/// Takes all that it gets of everything, says how much that was, and holds it until it is signalled to end.
const TAKE_ALL: &str = r"
import ctypes, json, os, resource, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
held, got = [], {}

def take(name, most, make):
    got[name] = 0
    try:
        while got[name] < most:
            held.append(make())
            got[name] += 1
    except OSError as error:
        got[name + '-refused'] = error.errno

def call(number, *arguments):
    result = libc.syscall(number, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), 'refused')
    return result

def context():
    made = ctypes.c_ulong()
    call(206, 128, ctypes.byref(made))
    return made

def full_pair():
    ours = socket.socket()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 30)
    ours.connect(listener.getsockname())
    theirs, _ = listener.accept()
    ours.setblocking(False)
    try:
        while ours.send(bytes(1 << 20)):
            pass
    except BlockingIOError:
        pass
    return ours, theirs

take('terminals', 4000, lambda: os.open('/dev/ptmx', os.O_RDWR | os.O_NOCTTY))
take('contexts', 1000, context)
take('instances', 2000, lambda: call(294, 0))
take('keys', 300, lambda: call(248, b'user', b'agentd-test-%d' % got['keys'], b'x', 1, -4))
take('segments', 300, lambda: call(29, 0, 4096, 0o1600))
take('semaphores', 300, lambda: call(64, 0, 100, 0o1600))
take('messages', 300, lambda: call(68, 0, 0o1600))
take('disciplines', 1, lambda: call(16, held[0], 0x5423, ctypes.byref(ctypes.c_int(3))))
take('filters', 100, lambda: socket.socket().setsockopt(
    socket.SOL_SOCKET, 26, b'\1\0' + bytes(6) + ctypes.addressof(code).to_bytes(8, 'little'))) \
    if (code := (ctypes.c_uint64 * 1)(6 | 0xffff << 32)) else None
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 30)
listener.bind(('127.0.0.1', 0))
listener.listen(1000)
if sys.argv[1] == 'sockets':
    take('pairs', 150, full_pair)
if sys.argv[1] == 'files':
    take('files', 60000, lambda: os.open('/dev/null', os.O_RDONLY))
print(json.dumps(got), flush=True)
sys.stdin.readline()
";

/// A session that takes everything.
struct Taker<'a> {
    _session: Session<'a>,
    child: Child,
    got: Value,
}

impl<'a> Taker<'a> {
    fn start(world: &'a World, user: &'a User, what: &str) -> Self {
        let session = Session::new(world, user, world.workspace(user));
        let mut child = session.spawn(["/usr/bin/python3", "-c", TAKE_ALL, what]);
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().expect("a pipe")).read_line(&mut line).expect("a pipe");
        let got = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"));
        Self { _session: session, child, got }
    }

    fn got(&self, what: &str) -> u64 {
        self.got[what].as_u64().unwrap_or_else(|| panic!("nothing of {what} in {}", self.got))
    }

    fn end(mut self) {
        self.child.stdin.take().expect("a pipe").write_all(b"on\n").ok();
        assert!(wait_for_exit(&mut self.child, LIMIT).is_some_and(|status| status.success()));
    }
}

fn three<'a>(world: &'a World, what: &str) -> Vec<Taker<'a>> {
    [world.a(), world.a(), world.b()].map(|user| Taker::start(world, user, what)).into()
}

fn numbers(path: &str) -> Vec<u64> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{path}: {e}"));
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

fn number(path: &str) -> u64 {
    *numbers(path).first().unwrap_or_else(|| panic!("{path}: no number"))
}

/// What a line of `/proc/net/sockstat` says of `key`.
fn sockstat(protocol: &str, key: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/net/sockstat").expect("/proc/net/sockstat");
    let line = text.lines().find(|line| line.starts_with(protocol)).expect("the protocol");
    let mut words = line.split_whitespace().skip_while(|word| *word != key);
    words.nth(1).and_then(|value| value.parse().ok()).expect("a number")
}

/// What as many as wish can have: every kind but the two that take long.
pub fn all_kinds(world: &World) {
    const PTY: &str = "/proc/sys/kernel/pty";
    let objects = || ["shm", "sem", "msg"].map(|kind| lines(&format!("/proc/sysvipc/{kind}")));
    let (contexts, ipc) = (number("/proc/sys/fs/aio-nr"), objects());
    let takers = three(world, "all");
    // Terminals: each has some, and a fifth of what there can be is left, whichever users have some.
    let limit = number(&format!("{PTY}/max")) - number(&format!("{PTY}/reserve"));
    let left = limit.saturating_sub(number(&format!("{PTY}/nr")));
    for taker in &takers {
        assert!((2..=256).contains(&taker.got("terminals")), "{}", taker.got);
        assert_eq!(taker.got("terminals-refused"), libc::ENOSPC as u64, "{}", taker.got);
        // They get the error of a kernel that has none of these.
        assert_eq!((taker.got("contexts"), taker.got("contexts-refused")), (0, libc::ENOSYS as u64));
        assert_eq!((taker.got("keys"), taker.got("keys-refused")), (0, libc::EPERM as u64));
        assert_eq!((taker.got("disciplines"), taker.got("disciplines-refused")), (0, libc::EPERM as u64));
        assert_eq!((taker.got("filters"), taker.got("filters-refused")), (0, libc::EPERM as u64));
        // Each has all of what is counted for its own ids and namespaces, whatever the others have.
        let instances = number("/proc/sys/fs/inotify/max_user_instances").min(2000);
        assert_eq!(taker.got("instances"), instances, "{}", taker.got);
        assert_eq!([taker.got("segments"), taker.got("semaphores"), taker.got("messages")], [300; 3]);
    }
    assert!(left >= limit / 5, "{left} of {limit} terminals are left");
    let flags = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY;
    drop(rustix::pty::openpt(flags).expect("one more terminal on the host"));
    // Others of this host may have some of their own meanwhile.
    let now = number("/proc/sys/fs/aio-nr");
    assert!(now < contexts + 1000, "{now} contexts of asynchronous I/O, {contexts} before");
    for (before, now) in ipc.into_iter().zip(objects()) {
        assert!(now < before + 300, "{now} objects on the host, {before} before");
    }
    let keys = std::fs::read_to_string("/proc/key-users").unwrap_or_default();
    let uids = keys.lines().filter_map(|line| line.split(':').next()?.trim().parse().ok());
    assert_eq!(uids.filter(|uid| world.daemon().leases(*uid)).count(), 0, "{keys}");
    // The callers themselves have lost nothing.
    let make =
        "import ctypes\nlibc = ctypes.CDLL(None)\nprint(sum(libc.inotify_init1(0) >= 0 for _ in range(32)))";
    for user in [world.a(), world.b()] {
        let python = ["/usr/bin/python3", "-c", make].map(str::to_owned);
        assert_eq!(world.on_host(user, &user.home, &python).expect_code(0).text(), "32\n");
    }
    takers.into_iter().for_each(Taker::end);
}

fn lines(path: &str) -> usize {
    std::fs::read_to_string(path).map_or(0, |text| text.lines().count())
}

/// Buffers of TCP: less than what the kernel begins to save at, for all sessions together.
pub fn sockets(world: &World) {
    let low = numbers("/proc/sys/net/ipv4/tcp_mem")[0];
    let before = sockstat("TCP:", "mem");
    let takers = three(world, "sockets");
    let now = sockstat("TCP:", "mem");
    assert!(now > before, "nothing was taken: {now} pages, {before} before");
    assert!(now < before + low * 7 / 8, "{now} of {low} pages, {before} before");
    takers.into_iter().for_each(Taker::end);
}

/// Open files: more than sessions can pay for by their memory.
pub fn files(world: &World) {
    let takers = three(world, "files");
    let [used, _, limit] = numbers("/proc/sys/fs/file-nr")[..] else { panic!("three numbers") };
    let each = takers.iter().map(|taker| taker.got("files")).min().expect("three");
    assert!(each > 10_000, "{each} files");
    // The least that one costs a session is the kernel's own structure for it.
    let payable = number_of_bytes() / 192;
    assert!(limit - used > payable, "{used} of {limit}, and {payable} can be paid for");
    takers.into_iter().for_each(Taker::end);
}

/// The host's memory.
fn number_of_bytes() -> u64 {
    numbers("/proc/meminfo")[0] * 1024
}

/// Why socket buffers are not tried.
pub fn no_socket_limit() -> Option<&'static str> {
    let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").expect("/proc/self/mountinfo");
    let of_memory = |line: &&str| {
        let (_, kind) = line.split_once(" - ").unwrap_or_default();
        kind.starts_with("cgroup ") && kind.ends_with("memory")
    };
    let bounded = mountinfo.lines().any(|line| of_memory(&line));
    (!bounded).then_some("cgroup2 has no limit of socket buffers alone: they count as memory")
}

/// Helpers' processors: with what they and the service do for it, a session has no more than it pays for.
pub fn helpers(world: &World) {
    const CPUS: f64 = 0.2;
    let session = world.session().options(["--cpus", "0.2"]);
    let mut command = session.command(["cat", "/dev/zero"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("agentctl");
    let parts = world.daemon().await_session(world.a(), "/dev/zero");
    let helpers = [parts.keeper, parts.relay].map(|pid| pid.expect("it is whole"));
    let service = world.daemon().service_pid().expect("a service");
    let group = format!("helpers/u{}/{}", world.a().uid, parts.lease);
    let quota = super::quota(world.daemon(), &group);
    assert!(quota > 0.0 && quota <= CPUS, "helpers have {quota} CPUs");
    let spent = |pids: &[u32]| -> f64 { pids.iter().map(|pid| schedstat(*pid)).sum() };
    let began = std::time::Instant::now();
    let before = (spent(&helpers), spent(&[service]), periods(world, &group));
    // So many of the kernel's own turns that one more or less makes no difference.
    let turns = agentd_tests::harness::within(LIMIT, || {
        if periods(world, &group) >= before.2 + 40 { Ok(()) } else { Err(()) }
    });
    assert_eq!(turns, Ok(()), "the helpers do nothing");
    let now = (spent(&helpers), spent(&[service]), periods(world, &group));
    let elapsed = began.elapsed().as_secs_f64();
    let (of_helpers, of_service) = (now.0 - before.0, now.1 - before.1);
    let paid = quota * 0.1 * (now.2 - before.2 + 1) as f64;
    assert!(of_helpers <= paid * 1.2, "helpers: {of_helpers:.3} s, {paid:.3} s are paid for");
    let all = of_helpers + of_service;
    assert!(
        all <= CPUS * elapsed * 1.1,
        "{of_helpers:.3} s + {of_service:.3} s of the service in {elapsed:.1} s"
    );
    child.kill().ok();
    child.wait().ok();
}

/// Seconds of a processor that a process has had, all its threads together.
fn schedstat(pid: u32) -> f64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs").flatten();
    let of = |path: std::path::PathBuf| {
        let text = std::fs::read_to_string(path.join("schedstat")).unwrap_or_default();
        text.split(' ').next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0)
    };
    tasks.map(|task| of(task.path())).sum::<u64>() as f64 / 1e9
}

/// How many turns the kernel has given a group its quota for.
fn periods(world: &World, group: &str) -> u64 {
    let text = super::setting(world.daemon(), group, "cpu.stat", "cpu.stat").expect("a CPU controller");
    let line = text.lines().find_map(|line| line.strip_prefix("nr_periods ")).expect("turns");
    line.trim().parse().expect("a number")
}
