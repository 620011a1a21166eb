//! Clients that connect and say nothing, too many of them, and half-dead ones: each is bounded, and nobody
//! else waits for it.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use agentd_kernel::packets::Packets;
use agentd_policy::wire::FromService;
use agentd_tests::harness::{Session, User, World};
use agentd_tests::tests;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::Member;
use crate::asking::{self, answer, as_user, grant, offer, open_dir, packet, plan, seqpacket};
use crate::packets::ends_within;
use crate::place::Launcher;
use crate::played::Played;
use agentd_policy::mode::{Mode, Role};
use agentd_policy::offer::ToClient;

/// The tests of this file.
pub const TESTS: &[Member] = tests![
    one_that_offers_nothing_is_cut_off,
    one_that_asks_nothing_is_cut_off_and_others_are_served,
    connections_of_one_user_are_bounded_and_others_get_in,
    offers_of_one_user_are_bounded_and_others_get_in,
    an_offer_out_of_form_is_refused_in_words,
    a_half_closed_one_costs_the_launcher_nothing,
    outsiders_do_not_get_in,
];

fn side_socket(launcher: &Launcher, user: &User) -> Packets {
    let path = launcher.runtime().join("offer.sock");
    as_user(user.uid, user.gid, &[launcher.socket_gid], || asking::side_socket(&path))
}

fn one_that_offers_nothing_is_cut_off(world: &'static World) {
    let launcher = Launcher::start(world, "");
    let before = launcher.traces();
    let silent = side_socket(&launcher, world.a());
    let (user, dir) = (world.b(), world.workspace(world.b()));
    let offered = [(grant(Role::Workspace, Mode::Ro), open_dir(user, &dir))];
    drop(offer(&launcher, user, &offered, &plan(user)));
    assert!(ends_within(&silent, Duration::from_secs(10)), "a silent client stays connected");
    launcher.assert_clean(&before);
}

fn one_that_asks_nothing_is_cut_off_and_others_are_served(world: &'static World) {
    let socket = world.daemon().socket();
    let silent: Vec<UnixStream> = (0..8)
        .map(|_| as_user(world.a().uid, world.a().gid, &[gid_of(world)], || UnixStream::connect(&socket)))
        .collect::<Result<_, _>>()
        .expect("a member may connect");
    // Others, and the same user, are served meanwhile.
    for user in [world.b(), world.a()] {
        let output = Session::new(world, user, world.workspace(user)).run(["true"]);
        output.expect_code(0);
    }
    for stream in silent {
        assert!(ends_or_speaks(&stream), "a silent client stays connected");
    }
}

fn gid_of(world: &World) -> u32 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(world.daemon().socket()).expect("the socket").gid()
}

/// Reads what an HTTP/2 server says of itself at the start, until it hangs up.
fn ends_or_speaks(stream: &UnixStream) -> bool {
    let limit = Timespec { tv_sec: 30, tv_nsec: 0 };
    let mut bytes = [0; 4096];
    loop {
        if poll(&mut [PollFd::new(stream, PollFlags::IN)], Some(&limit)).expect("poll") == 0 {
            return false;
        }
        match rustix::io::read(stream, &mut bytes) {
            Ok(0) | Err(rustix::io::Errno::CONNRESET) => return true,
            Ok(_) => {}
            Err(errno) => panic!("read: {errno}"),
        }
    }
}

fn connections_of_one_user_are_bounded_and_others_get_in(world: &'static World) {
    let launcher = Launcher::start(world, "");
    let service = Played::connect(&launcher);
    let before = launcher.traces();
    let path = launcher.runtime().join("agentd.sock");
    let mut clients: Vec<_> = (0..64).map(|_| service.client(&launcher, world.a())).collect();
    for _ in 0..10 {
        let (uid, gid) = (world.a().uid, world.a().gid);
        let more =
            as_user(uid, gid, &[launcher.socket_gid], || UnixStream::connect(&path)).expect("accepted");
        assert!(ends_within(&more, Duration::from_secs(5)), "one too many is let in");
    }
    clients.push(service.client(&launcher, world.b()));
    for client in &clients {
        service.send(&FromService::Forget { caller: client.number });
    }
    drop(clients);
    drop(service.client(&launcher, world.a()));
    launcher.assert_clean(&before);
}

fn offers_of_one_user_are_bounded_and_others_get_in(world: &'static World) {
    let launcher = Launcher::start(world, "");
    let before = launcher.traces();
    let (user, dir) = (world.a(), world.workspace(world.a()));
    // Each with as many descriptors as a packet carries.
    let full = || (0..253).map(|_| (grant(Role::Input, Mode::Ro), open_dir(user, &dir))).collect::<Vec<_>>();
    let small = || vec![(grant(Role::Input, Mode::Ro), open_dir(user, &dir))];
    // As many as connections: one for each session that the user may have, and 32.
    let held: Vec<_> = (0..64)
        .map(|n| offer(&launcher, user, &if n < 16 { full() } else { small() }, &plan(user)))
        .collect();
    let path = launcher.runtime().join("offer.sock");
    for _ in 0..4 {
        let more =
            as_user(user.uid, user.gid, &[launcher.socket_gid], || seqpacket(&path)).expect("a member");
        assert!(ends_within(&more, Duration::from_secs(4)), "one too many is let in");
    }
    let (other, theirs) = (world.b(), world.workspace(world.b()));
    let offered = [(grant(Role::Workspace, Mode::Ro), open_dir(other, &theirs))];
    drop(offer(&launcher, other, &offered, &plan(other)));
    drop(held);
    launcher.assert_clean(&before);
}

fn an_offer_out_of_form_is_refused_in_words(world: &'static World) {
    let launcher = Launcher::start(world, "");
    let before = launcher.traces();
    let file = std::fs::File::open("/").expect("a directory");
    use std::os::fd::AsFd;
    let one = [file.as_fd()];
    let good = packet(vec![grant(Role::Workspace, Mode::Ro)], &plan(world.a()));
    let last = good.len() - 1;
    let changed = |at: usize, to: u8| {
        let mut bytes = good.clone();
        bytes[at] = to;
        bytes
    };
    let many = packet(vec![grant(Role::Input, Mode::Ro); 254], &plan(world.a()));
    let packets: [(Vec<u8>, &[_]); 8] = [
        (b"hello".to_vec(), &[]),
        (changed(0, 9), &one),
        (changed(last, 3), &one),
        (changed(last - 1, 2), &one),
        (good[..last].to_vec(), &one),
        ([&good[..], b"x"].concat(), &one),
        (many, &one),
        (vec![b'A'; 4096], &one),
    ];
    for (bytes, descriptors) in packets {
        let socket = side_socket(&launcher, world.a());
        socket.send(&bytes, descriptors).expect("sent");
        match answer(&socket) {
            ToClient::Refused(refusal) => {
                assert_eq!(refusal.rule.name(), "offer.form");
                assert!(!refusal.what.is_empty() && !refusal.hint.is_empty());
            }
            other => panic!("{other:?} for {bytes:?}"),
        }
        assert!(ends_within(&socket, Duration::from_secs(5)));
    }
    launcher.assert_clean(&before);
}

/// Its end is seen once, and not again for as long as the service keeps the socket.
fn a_half_closed_one_costs_the_launcher_nothing(world: &'static World) {
    let mut launcher = Launcher::start(world, "");
    let service = Played::connect(&launcher);
    let client = service.client(&launcher, world.a());
    client.socket.shutdown(std::net::Shutdown::Write).expect("our own socket");
    let before = launcher.run_time();
    assert!(!launcher.ended_within(Duration::from_millis(500)));
    let spent = Duration::from_nanos(launcher.run_time() - before);
    assert!(
        spent < Duration::from_millis(100),
        "the launcher ran {spent:?} of 500 ms for a client that is gone"
    );
    service.refused(client.number, None, plan(world.a()), "caller.unknown");
}

fn outsiders_do_not_get_in(world: &'static World) {
    let user = world.outsider();
    for name in ["agentd.sock", "offer.sock"] {
        let path = world.daemon().runtime().join(name);
        let error = as_user(user.uid, user.gid, &[], || UnixStream::connect(&path)).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied, "{name}");
    }
    let output = Session::new(world, user, world.workspace(user)).run(["true"]).expect_code(125);
    assert!(
        output.stderr.contains("refused: ") && output.stderr.contains("(socket.permission)"),
        "{}",
        output.stderr
    );
}
