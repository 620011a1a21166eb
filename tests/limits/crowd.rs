//! One user keeps no other out: not by connections, by what they carry, by builds, nor by uids that are subordinate.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use agentd_kernel::packets::Packets;
use agentd_tests::harness::{
    Alone, Session, Setup, User, World, alone, as_user, has_faults, patience, signal, wait_for_exit, within,
};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};

/// Uids that nobody has; the first user of the tests has them for its own.
const SUBORDINATE: u32 = 1_940_000_000;
/// Loops of one user.
const LOOPS: usize = 8;
/// Starts of another beside them.
const STARTS: usize = 12;
/// What a user may have of connections: a session's each, and 32.
const EACH: usize = 32 + 32;

/// The tests of this file.
pub fn tests() -> Vec<Alone> {
    let subordinate = format!("agentd-test-a:{SUBORDINATE}:65536\n");
    let named = |name: &str, setup, test: fn(&World)| alone(&format!("limits::crowd::{name}"), setup, test);
    let plain = || Setup::with("");
    let no_hang = (!has_faults()).then_some("the programs are built for release: no build hangs");
    vec![
        named("loops_of_one_user_fail_no_start_of_another", plain(), loops),
        named("a_service_that_does_not_read_is_not_dropped", plain(), unread),
        named("subordinate_uids_count_as_their_account", plain().subuid(&subordinate), subordinate_uids),
        named("connections_that_do_nothing_end", plain(), idle),
        named("descriptors_that_linger_hold_nobody_up", plain(), lingering),
        named("builds_of_one_user_leave_room_for_anothers", Setup::with("prewarmed_sessions = 0"), builds)
            .unless(no_hang),
        named("exec_into_a_session_that_stops_everything_ends", plain(), stopped),
    ]
}

fn dial(path: &Path, kind: SocketType) -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

fn starts(world: &World, user: &User, count: usize) {
    for number in 0..count {
        let session = Session::new(world, user, world.workspace(user)).option("--rm");
        let output = session.run(["true"]);
        assert_eq!(output.code, Some(0), "start {number} of another user: {}", output.stderr);
    }
}

/// What the attacks were found with: connect and close as fast as it goes, on both sockets.
fn loops(world: &World) {
    let daemon = world.daemon();
    starts(world, world.b(), 1);
    let service = daemon.service_pid();
    let (over, made) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (user, runtime) = (world.a(), daemon.runtime());
    std::thread::scope(|scope| {
        for number in 0..LOOPS {
            let (over, made, runtime) = (&over, &made, &runtime);
            scope.spawn(move || {
                as_user(user.uid, user.gid, &user.groups(), || {
                    while !over.load(Ordering::Relaxed) {
                        let offers = number % 4 == 3;
                        let (name, kind) = match offers {
                            true => ("offer.sock", SocketType::SEQPACKET),
                            false => ("agentd.sock", SocketType::STREAM),
                        };
                        let Ok(socket) = dial(&runtime.join(name), kind) else { continue };
                        // Some leave something behind.
                        if number % 2 == 1 {
                            rustix::io::write(&socket, b"x").ok();
                        }
                        made.fetch_add(1, Ordering::Relaxed);
                    }
                });
            });
        }
        let done =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| starts(world, world.b(), STARTS)));
        over.store(true, Ordering::Relaxed);
        if let Err(panic) = done {
            std::panic::resume_unwind(panic);
        }
    });
    let made = made.into_inner();
    eprintln!("{made} connections of one user beside {STARTS} starts of another");
    assert!(made > 10_000, "{made} connections are no flood");
    let log = daemon.log();
    assert!(!log.contains("the service is gone"), "{log}");
    assert_eq!(daemon.service_pid(), service, "the service is another");
    assert!(log.len() < 256 << 10, "{} bytes of log", log.len());
}

/// More connections than fit any queue come while the service is stopped.
fn unread(world: &World) {
    let daemon = world.daemon();
    let session = world.session();
    let mut running = session.spawn_ready("echo ready; read line; exit 7");
    let service = daemon.service_pid().expect("it runs");
    signal(service, Signal::STOP, false);
    let user = world.a();
    let made = as_user(user.uid, user.gid, &user.groups(), || {
        let until = Instant::now() + patience(Duration::from_secs(60));
        let mut made = 0;
        while made < 10_000 && Instant::now() < until {
            // The far end may be full for a moment.
            match dial(&daemon.socket(), SocketType::STREAM) {
                Ok(_) => made += 1,
                Err(_) => std::thread::yield_now(),
            }
        }
        made
    });
    signal(service, Signal::CONT, false);
    assert_eq!(made, 10_000, "they were not all accepted");
    starts(world, world.b(), 2);
    let log = daemon.log();
    assert!(!log.contains("the service is gone") && !log.contains("without a launcher"), "{log}");
    running.stdin.take().expect("a pipe").write_all(b"on\n").expect("it reads");
    assert_eq!(wait_for_exit(&mut running, Duration::from_secs(20)).and_then(|s| s.code()), Some(7));
}

/// Whether the far end has closed it.
fn is_closed(socket: &OwnedFd) -> bool {
    matches!(rustix::io::read(socket, &mut [0_u8; 64][..]), Ok(0) | Err(rustix::io::Errno::CONNRESET))
}

fn subordinate_uids(world: &World) {
    // More than enough for the whole table.
    let (uids, each) = (72, 64);
    let hard = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: hard, maximum: hard }).expect("as many as may be");
    let (user, path) = (world.a(), world.daemon().socket());
    let mut held = Vec::new();
    for number in 0..uids {
        held.extend(as_user(SUBORDINATE + number, SUBORDINATE, &user.groups(), || {
            let mut own = Vec::new();
            let until = Instant::now() + patience(Duration::from_secs(20));
            while own.len() < each && Instant::now() < until {
                match dial(&path, SocketType::STREAM) {
                    Ok(socket) => own.push(socket),
                    Err(_) => std::thread::yield_now(),
                }
            }
            own
        }));
    }
    assert_eq!(held.len(), each * uids as usize);
    let open = within(Duration::from_secs(20), || {
        let open = held.iter().filter(|socket| !is_closed(socket)).count();
        if open <= EACH { Ok(open) } else { Err(open) }
    });
    assert!(open.is_ok_and(|open| open > 0), "{open:?} connections of one user's uids are open");
    // It is among those: it has what it may have. Others are not. The daemon has its own view of /etc, and so of
    // mounts.
    let session = Session::new(world, world.b(), world.workspace(world.b())).option("--rm");
    let client = session.command(["true"]);
    let mut inside = Command::new("/usr/bin/nsenter");
    inside.arg(format!("--mount=/proc/{}/ns/mnt", world.daemon().pid()));
    inside.args(["--", "/bin/sh", "-c", "cd \"$0\" && exec \"$@\""]);
    inside
        .arg(client.get_current_dir().expect("its workspace"))
        .arg(client.get_program())
        .args(client.get_args());
    inside.env_clear().envs(client.get_envs().filter_map(|(key, value)| value.map(|value| (key, value))));
    let output = inside.output().expect("nsenter");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// An HTTP/2 preface with empty settings, and then nothing.
fn idle(world: &World) {
    let user = world.a();
    let mut socket =
        world.daemon().connect_as(user, |path| UnixStream::connect(path), "agentd.sock").expect("it listens");
    socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").expect("it is open");
    socket.set_read_timeout(Some(patience(Duration::from_secs(60)))).expect("a socket option");
    let mut rest = Vec::new();
    socket.read_to_end(&mut rest).expect("it is closed, and not for our time-out");
    starts(world, world.b(), 1);
}

/// A connection whose last close takes half a minute, and bytes that are never taken.
fn slow_to_close() -> (OwnedFd, TcpListener, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let sender = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
    let (unread, _) = listener.accept().expect("just connected");
    sender.set_nonblocking(true).expect("a socket option");
    while (&sender).write(&[0; 65536]).is_ok() {}
    let half_a_minute = Some(Duration::from_secs(30));
    rustix::net::sockopt::set_socket_linger(&sender, half_a_minute).expect("a socket option");
    sender.set_nonblocking(false).expect("a socket option");
    (sender.into(), listener, unread)
}

fn lingering(world: &World) {
    let (user, runtime) = (world.a(), world.daemon().runtime());
    let mut kept = Vec::new();
    for round in 0..4 {
        for (name, kind) in [("agentd.sock", SocketType::STREAM), ("offer.sock", SocketType::SEQPACKET)] {
            let (slow, listener, unread) = slow_to_close();
            as_user(user.uid, user.gid, &user.groups(), || {
                let socket = Packets::from_fd(dial(&runtime.join(name), kind).expect("it listens"));
                // Since Linux 6.16 the gRPC socket takes none. What is ours alone is not to hold us up.
                if socket.send(b"x", &[slow.as_fd()]).is_err() {
                    rustix::net::sockopt::set_socket_linger(&slow, None).expect("a socket option");
                }
                if round % 2 == 0 {
                    drop(socket);
                    return None;
                }
                Some(socket)
            })
            .into_iter()
            .for_each(|socket| kept.push((Some(socket), None, None)));
            drop(slow);
            kept.push((None, Some(listener), Some(unread)));
        }
        let start = Instant::now();
        starts(world, world.b(), 2);
        assert!(start.elapsed() < patience(Duration::from_secs(15)), "held up for {:?}", start.elapsed());
    }
}

fn builds(world: &World) {
    let sessions: Vec<_> =
        (0..12).map(|_| world.session().options(["--rm", "--env", "AGENTD_FAULT=confine:hang"])).collect();
    let mut clients: Vec<Child> = sessions.iter().map(|session| session.spawn(["true"])).collect();
    let under_way = within(Duration::from_secs(15), || {
        let parts = world.daemon().parts(world.a()).len();
        if parts >= 4 { Ok(parts) } else { Err(parts) }
    });
    assert_eq!(under_way, Ok(4), "builds of one user");
    starts(world, world.b(), 3);
    assert_eq!(world.daemon().parts(world.a()).len(), 4, "builds of one user");
    for client in &mut clients {
        client.kill().expect("our own child");
        client.wait().expect("our own child");
    }
}

/// A session that stops each of its processes again and again.
fn stopped(world: &World) {
    let session = world.session();
    let script = "import os, signal\nprint('ready', flush=True)\nwhile True:\n try: os.kill(-1, signal.SIGSTOP)\n except ProcessLookupError: pass";
    let mut running = session.spawn(["/usr/bin/python3", "-c", script]);
    let mut line = [0; 6];
    running.stdout.as_mut().expect("a pipe").read_exact(&mut line).expect("it says ready");
    for _ in 0..6 {
        let mut exec = world.client(world.a(), ["exec", session.name(), "--", "true"]);
        let mut child = exec.spawn().expect("setpriv");
        let ended = wait_for_exit(&mut child, Duration::from_secs(40));
        if ended.is_none() {
            child.kill().ok();
            child.wait().ok();
        }
        assert!(ended.is_some(), "agentctl exec does not end");
    }
    world.agentctl(world.a(), ["kill", session.name()]).expect_code(0);
    wait_for_exit(&mut running, Duration::from_secs(20)).expect("it ends");
}
