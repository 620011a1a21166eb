//! The launcher with sockets that its starter listens on, as a service manager does.

use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Child;
use std::time::Duration;

use agentd_tests::harness::{Part, World, wait_for_exit};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

const LIMIT: Duration = Duration::from_secs(60);

/// A socket that listens at `path`, as a socket unit makes it.
fn listen(path: &Path, kind: SocketType, group: u32, mode: u32) -> OwnedFd {
    std::fs::remove_file(path).ok();
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).expect("a socket");
    rustix::net::bind(&socket, &SocketAddrUnix::new(path).expect("a short path")).expect("a free name");
    std::os::unix::fs::chown(path, Some(0), Some(group)).expect("root may chown");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("root may chmod");
    rustix::net::listen(&socket, 64).expect("it is bound");
    socket
}

fn sockets(world: &World) -> [OwnedFd; 2] {
    let (daemon, group) = (world.daemon(), world.daemon().group());
    let offers = daemon.runtime().join("offer.sock");
    [
        listen(&daemon.socket(), SocketType::STREAM, group, 0o660),
        listen(&offers, SocketType::SEQPACKET, group, 0o660),
    ]
}

fn copies(sockets: &[OwnedFd; 2]) -> [OwnedFd; 2] {
    sockets.each_ref().map(|socket| socket.try_clone().expect("a descriptor"))
}

/// Which files the names are of.
fn names(world: &World) -> [u64; 2] {
    ["agentd.sock", "offer.sock"].map(|name| {
        std::fs::symlink_metadata(world.daemon().runtime().join(name)).expect("the name is there").ino()
    })
}

fn asking(world: &World) -> Child {
    world.session().spawn(["true"])
}

pub fn waits(world: &World) {
    let daemon = world.daemon();
    daemon.terminate(Part::Launcher);
    let own = sockets(world);
    let made = names(world);
    // It connects while nobody is there, and is not refused.
    let mut early = asking(world);
    daemon.begin_activated(copies(&own)).expect("it takes them");
    assert_eq!(wait_for_exit(&mut early, LIMIT).and_then(|status| status.code()), Some(0));
    let mut lives = world.session().spawn_ready("echo ready; read x; exit 7");
    daemon.terminate(Part::Launcher);
    assert_eq!(names(world), made, "the names are the manager's");
    let mut between = asking(world);
    daemon.begin_activated(copies(&own)).expect("it takes them again");
    assert_eq!(wait_for_exit(&mut between, LIMIT).and_then(|status| status.code()), Some(0));
    drop(lives.stdin.take());
    assert_eq!(wait_for_exit(&mut lives, LIMIT).and_then(|status| status.code()), Some(7));
    assert_eq!(names(world), made);
    daemon.terminate(Part::Launcher);
    // Without a manager it makes its own.
    daemon.begin(&[Part::Launcher]);
    assert_ne!(names(world), made);
    world.session().run(["true"]).expect_code(0);
}

pub fn refused(world: &World) {
    let (daemon, group) = (world.daemon(), world.daemon().group());
    daemon.terminate(Part::Launcher);
    let [clients, offers] = sockets(world);
    let copy = |socket: &OwnedFd| socket.try_clone().expect("a descriptor");
    let mut reported = 0;
    let mut refuses = |sockets: [OwnedFd; 2], why: &str| {
        assert!(daemon.begin_activated(sockets).is_err(), "it takes a socket that {why}");
        let log = daemon.log();
        let new: Vec<&str> = log.lines().filter(|line| line.starts_with("agentd-launcher: ")).collect();
        assert!(new.len() == reported + 1 && new[reported].contains(why), "{why}: {new:#?}");
        reported = new.len();
    };
    let elsewhere = listen(&daemon.runtime().join("elsewhere"), SocketType::STREAM, group, 0o660);
    refuses([elsewhere, copy(&offers)], "is not what agentd.toml says");
    let (one, _two) = std::os::unix::net::UnixStream::pair().expect("sockets");
    refuses([one.into(), copy(&offers)], "does not listen");
    let file = std::fs::File::open("/dev/null").expect("it is there");
    refuses([file.into(), copy(&offers)], "is none to accept from");
    refuses([copy(&clients), copy(&clients)], "as another one does");
    let open = |mode| {
        std::fs::set_permissions(daemon.socket(), std::fs::Permissions::from_mode(mode)).expect("root may")
    };
    open(0o666);
    refuses([copy(&clients), copy(&offers)], "mode 666");
    open(0o660);
    let owner = |uid, gid| std::os::unix::fs::chown(daemon.socket(), Some(uid), Some(gid)).expect("root may");
    owner(world.a().uid, group);
    refuses([copy(&clients), copy(&offers)], "SocketUser=root");
    owner(0, world.a().gid);
    refuses([copy(&clients), copy(&offers)], "SocketGroup=");
    owner(0, group);
    daemon.begin_activated([clients, offers]).expect("these are as they should be");
    world.session().run(["true"]).expect_code(0);
}
