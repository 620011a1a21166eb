//! Packets that are no messages, and peers that are no service: the link is cut, the launcher lives, and the
//! next service finds everything in order.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use agentd_kernel::packets::{PacketError, Packets};
use agentd_policy::mode::Mode;
use agentd_policy::mount::Workspace;
use agentd_policy::names::{RelPath, SessionId};
use agentd_policy::wire::{
    CallerNumber, FromLauncher, FromService, MAX_PACKET, RequestNumber, Ticket, encode,
};
use agentd_tests::harness::World;
use agentd_tests::tests;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::set_socket_send_buffer_size;
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use crate::Member;
use crate::asking::{abs, as_user, plan, plan_with, seqpacket, workspace};
use crate::place::Launcher;
use crate::played::Played;

/// The tests of this file.
pub const TESTS: &[Member] = tests![
    a_path_that_leads_elsewhere_is_no_message,
    a_session_id_that_is_a_path_is_no_message,
    other_versions_and_broken_packets_cut_the_link,
    descriptors_from_the_service_are_not_taken,
    nobody_but_the_service_is_the_service,
    a_service_that_asks_and_never_reads_waits,
];

/// Sends `packet` as the service, which must cost it its link; then a new one works as if nothing had been.
#[track_caller]
fn cut(launcher: &Launcher, world: &World, what: &str, packet: &[u8]) {
    let before = launcher.traces();
    let service = Played::connect(launcher);
    // A long packet needs more room than a socket has by itself.
    set_socket_send_buffer_size(service.link(), 1 << 20).expect("a socket option");
    service.say(packet).unwrap_or_else(|e| panic!("{what}: {e}"));
    service.expect_cut();
    drop(service);
    let again = Played::connect(launcher);
    let client = again.client(launcher, world.a());
    again.refused(CallerNumber(client.number.0 + 1), None, plan(world.a()), "caller.unknown");
    drop((again, client));
    launcher.assert_clean(&before);
}

/// `packet` with every `from` replaced by `to`, of the same length: what no honest encoder writes.
fn forge(packet: &[u8], from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut forged = packet.to_vec();
    let mut count = 0;
    for at in 0..=forged.len() - from.len() {
        if &forged[at..at + from.len()] == from.as_bytes() {
            forged[at..at + from.len()].copy_from_slice(to.as_bytes());
            count += 1;
        }
    }
    assert!(count > 0, "{from} is in the packet");
    forged
}

fn a_path_that_leads_elsewhere_is_no_message(world: &'static World) {
    let launcher = Launcher::start(world, "");
    let name = |text: &str| RelPath::parse(text).expect("a name");
    let build = |change: &dyn Fn(&mut agentd_policy::plan::Plan)| {
        let mut wanted = plan_with(
            world.a(),
            vec![Workspace {
                mask: vec![name("mask/zz/a")],
                mask_anywhere: vec![],
                protect: vec![name("keep/zz/a")],
                sockets: vec![name("sock/zz/a")],
                git: None,
                ..workspace("/srv/zz/a".as_ref(), 0, Mode::Ro)
            }],
        );
        change(&mut wanted);
        let (request, caller) = (RequestNumber(1), CallerNumber(1));
        encode(&FromService::Build { request, caller, ticket: Ticket([0; 32]), plan: Box::new(wanted) })
            .expect("a message")
    };
    let plain = build(&|_| ());
    for (from, to) in [
        ("/srv/zz/a", "/srv/../a"),
        ("/srv/zz/a", "/srv/zz//"),
        ("/srv/zz/a", "/srv/zz\0a"),
        ("/srv/zz/a", "/srv/./aa"),
        ("/srv/zz/a", "xsrv/zz/a"),
        ("/srv/zz/a", "/srv/zz\na"),
        ("mask/zz/a", "mask/../a"),
        ("mask/zz/a", "/etc/zz/a"),
        ("keep/zz/a", "keep/../a"),
        ("keep/zz/a", "../../etc"),
        ("sock/zz/a", "sock/../a"),
    ] {
        cut(&launcher, world, to, &forge(&plain, from, to));
    }
    let home = build(&|p| p.home = abs("/home/zz/abc"));
    cut(&launcher, world, "home", &forge(&home, "/home/zz/abc", "/home/../abc"));
    let cwd = build(&|p| p.cwd = abs("/work/zz/abc"));
    cut(&launcher, world, "cwd", &forge(&cwd, "/work/zz/abc", "/work/../abc"));
    let user = format!("{}x", &world.a().name[..world.a().name.len() - 1]);
    let colon = format!("{}:", &user[..user.len() - 1]);
    let named = build(&|p| p.user = agentd_policy::names::UserName::parse(&user).expect("a login name"));
    cut(&launcher, world, "a login name with a colon", &forge(&named, &user, &colon));
}

fn a_session_id_that_is_a_path_is_no_message(world: &'static World) {
    let launcher = Launcher::start(world, "");
    let id = || SessionId::parse("abcdefabcdef").expect("an id");
    let remove =
        FromService::Remove { request: RequestNumber(1), caller: CallerNumber(1), owner: 0, session: id() };
    let build = plan(world.a());
    let build = agentd_policy::plan::Plan { session: id(), ..build };
    let (request, caller) = (RequestNumber(1), CallerNumber(1));
    let build = FromService::Build { request, caller, ticket: Ticket([0; 32]), plan: Box::new(build) };
    for message in [remove, build, FromService::End { session: id() }] {
        let packet = encode(&message).expect("a message");
        for forged in ["../../../etc", "/etc/passwd0", "abcdefabcde\0", "ABCDEFABCDEF", "............"] {
            cut(&launcher, world, forged, &forge(&packet, "abcdefabcdef", forged));
        }
    }
}

fn other_versions_and_broken_packets_cut_the_link(world: &'static World) {
    let launcher = Launcher::start(world, "");
    let (request, caller) = (RequestNumber(1), CallerNumber(1));
    let plan = Box::new(plan(world.a()));
    let good =
        encode(&FromService::Build { request, caller, ticket: Ticket([0; 32]), plan }).expect("a message");
    let mut version = good.clone();
    version[0] ^= 1;
    let mut trailing = good.clone();
    trailing.push(0);
    // The variant's number, and a length that promises more than any packet holds.
    let unknown = [&good[..2], &[9], &good[3..]].concat();
    let endless = [&good[..2], &[2, 0xff, 0xff, 0xff, 0xff, 0x0f], &good[3..]].concat();
    for (what, packet) in [
        ("another version", version),
        ("bytes after the message", trailing),
        ("an unknown message", unknown),
        ("a length beyond the packet", endless),
        ("one byte", vec![1]),
        ("a version alone", good[..2].to_vec()),
        ("half a message", good[..good.len() / 2].to_vec()),
        ("all but a byte", good[..good.len() - 1].to_vec()),
        ("zeroes", vec![0; 4096]),
        ("ones", vec![0xff; 4096]),
        ("the longest packet", vec![1; MAX_PACKET]),
        ("a packet that is too long", vec![1; MAX_PACKET + 1]),
        ("a packet that is far too long", vec![1; 2 * MAX_PACKET]),
    ] {
        cut(&launcher, world, what, &packet);
    }
}

fn descriptors_from_the_service_are_not_taken(world: &'static World) {
    let launcher = Launcher::start(world, "");
    let before = launcher.traces();
    let service = Played::connect(&launcher);
    let file = std::fs::File::open("/etc/shadow").expect("root's");
    let packet = encode(&FromService::Forget { caller: CallerNumber(1) }).expect("a message");
    let many = vec![file.as_fd(); 253];
    service.link().send(&packet, &many).expect("sent");
    service.expect_cut();
    drop(service);
    launcher.assert_clean(&before);
}

fn nobody_but_the_service_is_the_service(world: &'static World) {
    let launcher = Launcher::start(world, "");
    let service = Played::connect(&launcher);
    let before = launcher.traces();
    let path = launcher.runtime().join("service.sock");
    for user in [world.a(), world.b(), world.outsider(), world.admin()] {
        let error = as_user(user.uid, user.gid, &[launcher.socket_gid], || seqpacket(&path)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{}", user.name);
    }
    // Root gets past the file's mode, and receives nothing.
    let root = Packets::from_fd(seqpacket(&path).expect("root may connect"));
    match root.receive(64, 0) {
        Ok(None) => {}
        Err(PacketError::Socket(error)) if error.kind() == io::ErrorKind::ConnectionReset => {}
        other => panic!("root receives {other:?}"),
    }
    // The real one still has its link.
    let client = service.client(&launcher, world.a());
    service.refused(CallerNumber(0), None, plan(world.a()), "caller.unknown");
    service.send(&FromService::Forget { caller: client.number });
    drop((client, root));
    launcher.assert_clean(&before);
}

/// Its answers are kept up to a number, and then nothing more is read of it; it keeps its link.
fn a_service_that_asks_and_never_reads_waits(world: &'static World) {
    let launcher = Launcher::start(world, "");
    let before = launcher.traces();
    let service = Played::connect(&launcher);
    let wanted = Box::new(plan(world.a()));
    let ask = |n: u64| {
        let (request, caller) = (RequestNumber(n), CallerNumber(u64::MAX));
        encode(&FromService::Build { request, caller, ticket: Ticket([0; 32]), plan: wanted.clone() })
            .expect("a message")
    };
    set_socket_timeout(service.link(), Timeout::Send, Some(Duration::from_secs(2))).expect("a socket option");
    let refused = (0..20_000).map(ask).find_map(|packet| service.say(&packet).err());
    let error = refused.expect("the launcher does not listen for ever");
    assert!(matches!(error, PacketError::WouldBlock), "it waits, and is not cut off: {error}");
    let memory = std::fs::read_to_string(format!("/proc/{}/status", launcher.pid())).expect("it runs");
    let resident = memory.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    let kilobytes: u64 = resident.trim().trim_end_matches(" kB").parse().expect("a number");
    assert!(kilobytes < 100_000, "{kilobytes} kB");
    let answer = service.recv().expect("it is still the service");
    assert!(matches!(answer.0, FromLauncher::Refused { .. }), "{:?}", answer.0);
    drop(service);
    let again = Played::connect(&launcher);
    let client = again.client(&launcher, world.b());
    drop((again, client));
    launcher.assert_clean(&before);
}

/// Waits for the end of a connection.
pub fn ends_within(socket: impl AsFd, limit: Duration) -> bool {
    let limit = Timespec { tv_sec: limit.as_secs().cast_signed(), tv_nsec: 0 };
    let mut byte = [0];
    // Hang-ups are reported without being asked for.
    poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&limit)).expect("poll") > 0
        && matches!(rustix::io::read(&socket, &mut byte), Ok(0) | Err(rustix::io::Errno::CONNRESET))
}
