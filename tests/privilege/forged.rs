//! A compromised service that asks for what it must not have: sessions for callers that are not there,
//! plans beyond the bounds, overlays of others.

use std::time::Duration;

use agentd_kernel::packets::Packets;
use agentd_policy::addresses::Net;
use agentd_policy::allow::NetRule;
use agentd_policy::egress::Egress;
use agentd_policy::event::EventBody;
use agentd_policy::hosts::{HostPattern, HostRule, HostRules};
use agentd_policy::mode::{Mode, Role};
use agentd_policy::mount::{Input, Scratch, Workspace};
use agentd_policy::names::{AbsPath, RelPath};
use agentd_policy::network::Change;
use agentd_policy::offer::{FromClient, Steer, ToClient};
use agentd_policy::plan::{MAX_ARGS, Plan};
use agentd_policy::protocol::Protocol;
use agentd_policy::publish::Publish;
use agentd_policy::resolver::Resolver;
use agentd_policy::wire::{
    CallerNumber, FromKeeper, FromRoot, FromService, MAX_KEEPER_PACKET, ToKeeper, decode, encode,
};
use agentd_tests::harness::{User, World, within};
use agentd_tests::tests;

use crate::Member;
use crate::asking::{
    abs, answer, as_user, grant, offer, open_dir, plan, plan_with, seqpacket, side_socket, workspace,
};
use crate::packets::ends_within;
use crate::place::Launcher;
use crate::played::Played;

/// The tests of this file.
pub const TESTS: &[Member] = tests![
    an_honest_plan_is_built_and_goes_without_a_trace,
    a_forged_caller_number_gets_nothing,
    root_and_leased_uids_get_no_session,
    every_bound_holds_whoever_made_the_plan,
    the_ceiling_holds_whoever_made_the_plan,
    it_widens_no_session_by_itself,
    bounds_of_a_group_are_for_its_members,
    ten_thousand_mounts_are_refused,
    ten_thousand_mount_points_for_deep_names_are_refused,
    quotas_hold_for_each_user_and_for_the_host,
    a_prepared_session_is_its_users_and_holds_nothing_open,
    a_session_cannot_be_had_twice,
    overlays_of_others_stay,
];

/// What all other tests stand on: that the same way leads to a session if nothing is forged.
fn an_honest_plan_is_built_and_goes_without_a_trace(world: &'static World) {
    let launcher = Launcher::start(world, "");
    let (user, dir) = (world.a(), world.workspace(world.a()));
    let service = Played::connect(&launcher);
    let client = service.client(&launcher, user);
    let before = launcher.traces();
    let wanted = plan_with(user, vec![workspace(&dir, 0, Mode::Overlay)]);
    let offered = [(grant(Role::Workspace, Mode::Overlay), open_dir(user, &dir))];
    let held = offer(&launcher, user, &offered, &wanted);
    let id = wanted.session.clone();
    let built = service.build(client.number, Some(held.ticket), wanted).expect("an honest plan");
    assert_eq!(built.sockets.len(), 2);
    assert_ne!(launcher.traces(), before, "a session leaves traces while it lives");
    let alive = service.remove(client.number, user.uid, &id).expect("it lives");
    assert_eq!(alive.rule.name(), "session.running");
    service.end(&id);
    drop((built, held));
    assert_eq!(service.remove(client.number, user.uid, &id), None);
    launcher.assert_clean(&before);
}

fn a_forged_caller_number_gets_nothing(world: &'static World) {
    let launcher = Launcher::start(world, "");
    let service = Played::connect(&launcher);
    let client = service.client(&launcher, world.a());
    let before = launcher.traces();
    for number in [0, client.number.0 + 1, u64::MAX, 1 << 56 | client.number.0] {
        service.refused(CallerNumber(number), None, plan(world.a()), "caller.unknown");
    }
    let forgotten = service.client(&launcher, world.b());
    service.send(&FromService::Forget { caller: forgotten.number });
    service.refused(forgotten.number, None, plan(world.b()), "caller.unknown");
    // A client that has gone is nobody's caller any more; the launcher notices by itself.
    let gone = service.client(&launcher, world.b());
    drop(gone.socket);
    let impossible = || Plan { command: vec![], ..plan(world.b()) };
    within(Duration::from_secs(2), || match service.build(gone.number, None, impossible()) {
        Err(refusal) if refusal.rule.name() == "caller.unknown" => Ok(()),
        Err(refusal) => Err(refusal.to_string()),
        Ok(_) => panic!("built for a client that is gone"),
    })
    .expect("a client that hung up is forgotten");
    drop((gone.served, forgotten));
    launcher.assert_clean(&before);
}

fn root_and_leased_uids_get_no_session(world: &'static World) {
    let launcher = Launcher::start(world, "");
    let service = Played::connect(&launcher);
    let before = launcher.traces();
    let root = service.client_of(&launcher, 0, 0);
    service.refused(root.number, None, plan(world.a()), "caller.root");
    let leased = service.client_of(&launcher, launcher.first_uid + 2, world.a().gid);
    service.refused(leased.number, None, plan(world.a()), "caller.pool");
    let group = service.client_of(&launcher, world.a().uid, launcher.first_uid);
    service.refused(group.number, None, plan(world.a()), "caller.pool");
    for number in [root.number, leased.number, group.number] {
        service.send(&FromService::Forget { caller: number });
    }
    drop((root, leased, group));
    launcher.assert_clean(&before);
}

fn every_bound_holds_whoever_made_the_plan(world: &'static World) {
    let launcher = Launcher::start(
        world,
        "[bounds]\nmodes_forbidden = [\"direct\"]\nmemory = \"1G\"\npids = 64\npublish = false\n[egress]\nresolvers = [\"192.0.2.53\"]",
    );
    let service = Played::connect(&launcher);
    let client = service.client(&launcher, world.a());
    let before = launcher.traces();
    let place = |path: &str| Scratch { path: abs(path), size: 1 << 20, exec: false };
    let ro = |path: &str| workspace(path.as_ref(), 0, Mode::Ro);
    let net = |ports: Vec<u16>| {
        let net = Net::parse("192.0.2.0/24").expect("a network");
        NetRule { net, ports, protocol: Protocol::Tcp }
    };
    let published = |port| Publish { host: 8080, port };
    type Change<'a> = &'a dyn Fn(&mut Plan);
    let breaks: &[(&str, Change<'_>)] = &[
        ("command.empty", &|p| p.command.clear()),
        ("command.empty", &|p| p.command[0].clear()),
        ("command.size", &|p| p.command = vec![b"x".to_vec(); 4097]),
        ("command.size", &|p| p.command = vec![vec![b'x'; MAX_ARGS]]),
        ("command.nul", &|p| p.command[1] = b"a\0b".to_vec()),
        ("environment.name", &|p| p.env[0].0 = b"A=B".to_vec()),
        ("environment.name", &|p| p.env[0].0 = vec![]),
        ("bounds.memory", &|p| p.limits.memory = (1 << 30) + 1),
        ("bounds.memory", &|p| p.limits.memory = 0),
        ("bounds.pids", &|p| p.limits.pids = 65),
        ("bounds.pids", &|p| p.limits.pids = 0),
        ("bounds.cpus", &|p| p.limits.cpus = f64::NAN),
        ("bounds.cpus", &|p| p.limits.cpus = f64::INFINITY),
        ("bounds.cpus", &|p| p.limits.cpus = -1.0),
        ("bounds.disk", &|p| p.limits.disk = u64::MAX),
        ("bounds.timeout", &|p| p.limits.timeout_ms = u64::MAX),
        ("bounds.timeout", &|p| p.limits.timeout_ms = 0),
        ("bounds.open_files", &|p| p.limits.open_files = u64::MAX),
        ("bounds.home_size", &|p| p.home_size = u64::MAX),
        ("bounds.scratch_size", &|p| p.scratch = vec![Scratch { size: u64::MAX, ..place("/scratch") }]),
        ("bounds.modes_forbidden", &|p| p.workspaces = vec![workspace("/srv/x".as_ref(), 0, Mode::Direct)]),
        ("plan.names", &|p| {
            let mask = vec![RelPath::parse("a").expect("a name"); 257];
            p.workspaces = vec![Workspace { mask, ..ro("/srv/x") }];
        }),
        ("plan.reserved", &|p| p.home = abs("/")),
        ("plan.reserved", &|p| p.scratch = vec![place("/etc")]),
        ("plan.reserved", &|p| p.scratch = vec![place("/proc/sys")]),
        ("plan.reserved", &|p| {
            p.inputs = vec![Input { path: abs("/usr/bin/su"), link: None, descriptor: 0 }]
        }),
        ("plan.reserved", &|p| p.workspaces = vec![ro("/dev/shm/x")]),
        ("plan.egress", &|p| p.egress = Some(Egress { nets: vec![net(vec![]); 1025], ..Egress::default() })),
        ("plan.egress", &|p| p.egress = Some(Egress { nets: vec![net(vec![80; 65])], ..Egress::default() })),
        ("plan.egress", &|p| p.egress = Some(Egress { wildcard_budget: u32::MAX, ..Egress::default() })),
        ("bounds.publish", &|p| {
            p.egress = Some(Egress { publish: vec![published(80)], ..Egress::default() })
        }),
        ("network.publish", &|p| {
            p.egress = Some(Egress { publish: vec![published(53)], ..Egress::default() })
        }),
        ("network.udp", &|p| {
            let nets = vec![NetRule { protocol: Protocol::Udp, ..net(vec![]) }];
            p.egress = Some(Egress { nets, ..Egress::default() });
        }),
        ("network.local", &|p| p.egress = Some(Egress { local: vec![0], ..Egress::default() })),
        ("egress.resolver", &|p| {
            let resolvers = vec![Resolver::plain("169.254.169.254:80".parse().expect("an address"))];
            p.egress = Some(Egress { resolvers, ..Egress::default() });
        }),
        ("egress.allow_private_ranges", &|p| {
            let allow_private_ranges = vec![Net::parse("10.0.0.0/8").expect("a network")];
            p.egress = Some(Egress { allow_private_ranges, ..Egress::default() });
        }),
        ("egress.proxy", &|p| {
            let proxy = Some("192.0.2.1:3128".parse().expect("an address"));
            p.egress = Some(Egress { proxy, ..Egress::default() });
        }),
        ("user.home", &|p| p.home = abs("/home/a:0:0")),
        ("user.home", &|p| p.shell = abs("/bin/sh:x")),
    ];
    for (rule, change) in breaks {
        let mut wanted = plan(world.a());
        change(&mut wanted);
        service.refused(client.number, None, wanted, rule);
    }
    launcher.assert_clean(&before);
}

/// An egress of these rules, as a compromised service makes it.
fn reaching(hosts: &[&str], nets: &[&str], local: &[u16]) -> Option<Egress> {
    let rule = |host: &&str| HostRule {
        host: HostPattern::parse(host).expect("a pattern"),
        ports: vec![443],
        protocol: Protocol::Tcp,
        opaque: false,
    };
    let net = |net: &&str| NetRule {
        net: Net::parse(net).expect("a network"),
        ports: vec![443],
        protocol: Protocol::Tcp,
    };
    let hosts = HostRules { allow: hosts.iter().map(rule).collect(), deny: vec![] };
    Some(Egress { hosts, nets: nets.iter().map(net).collect(), local: local.to_vec(), ..Egress::default() })
}

/// What an agent would gain otherwise: a way to any server, by a service that does not look.
fn the_ceiling_holds_whoever_made_the_plan(world: &'static World) {
    let config = "[bounds]\nlocal = false\nhosts = [\"*.example.org\", \"192.0.2.0/24\"]\n\
                  hosts_denied = [\"evil.example.org\", \"192.0.2.128/25\"]";
    let launcher = Launcher::start(world, config);
    let service = Played::connect(&launcher);
    let client = service.client(&launcher, world.a());
    let before = launcher.traces();
    for (egress, rule) in [
        (reaching(&["*.com"], &[], &[]), "bounds.hosts"),
        (reaching(&["example.org"], &[], &[]), "bounds.hosts"),
        (reaching(&[], &["0.0.0.0/0"], &[]), "bounds.hosts"),
        (reaching(&[], &["198.51.100.1"], &[]), "bounds.hosts"),
        (reaching(&["evil.example.org"], &[], &[]), "bounds.hosts_denied"),
        (reaching(&[], &["192.0.2.200"], &[]), "bounds.hosts_denied"),
        // It does not deny what the site denies.
        (reaching(&["*.example.org"], &[], &[]), "bounds.hosts_denied"),
        (reaching(&[], &[], &[5432]), "bounds.local"),
    ] {
        service.refused(client.number, None, Plan { egress, ..plan(world.a()) }, rule);
    }
    let mut egress = reaching(&["*.example.org"], &["192.0.2.0/25"], &[]);
    if let Some(egress) = &mut egress {
        egress.hosts.deny.push(HostPattern::parse("evil.example.org").expect("a pattern"));
    }
    let good = Plan { egress, ..plan(world.a()) };
    let id = good.session.clone();
    drop(service.build(client.number, None, good).expect("it is below the ceiling"));
    service.end(&id);
    launcher.assert_clean(&before);
}

/// By the socket that it was given with the session, and by the keeper's name, it says what the launcher would say for
/// a caller. The session stays as it was; its own user has it changed.
fn it_widens_no_session_by_itself(world: &'static World) {
    let launcher = Launcher::start(world, "");
    let service = Played::connect(&launcher);
    let user = world.a();
    let client = service.client(&launcher, user);
    let before = launcher.traces();
    let resolvers = vec![Resolver::parse("192.0.2.53").expect("a resolver")];
    let egress = Some(Egress { resolvers, ..Egress::default() });
    let closed = Plan { egress, ..plan(user) };
    let id = closed.session.clone();
    let mut built = service.build(client.number, None, closed).expect("it is below the ceiling");
    let change = || Box::new(Change::parse(&["example.org".into()], &[]).expect("a rule"));
    let question = encode(&FromRoot::Change { change: change(), uid: user.uid }).expect("a message");
    let path = launcher.runtime().join("keepers").join(id.as_str());
    let again =
        || as_user(launcher.service_uid, 0, &[], || seqpacket(&path)).expect("the service may connect");
    let first = std::mem::replace(&mut built.sockets[0], again());
    for socket in [first, again()] {
        let keeper = Packets::from_fd(socket);
        // The first is gone by now: there is one service.
        keeper.send(&question, &[]).ok();
        while let Ok(Some(packet)) = keeper.receive(MAX_KEEPER_PACKET, 1) {
            assert!(!packet.bytes.windows(11).any(|part| part == b"example.org"), "{:?}", packet.bytes);
        }
    }
    // Whoever is neither service nor root is not let in by the name.
    assert!(as_user(user.uid, user.gid, &[], || seqpacket(&path)).is_err());
    let steer = |uid, gid| {
        let offers = launcher.runtime().join("offer.sock");
        let side = as_user(uid, gid, &[launcher.socket_gid], || side_socket(&offers));
        let steer = Steer { session: id.clone(), change: change() };
        side.send(&encode(&FromClient::Steer(steer)).expect("a message"), &[]).expect("it listens");
        answer(&side)
    };
    let refused = |answer| match answer {
        ToClient::Refused(refusal) => refusal.rule.name(),
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(steer(world.b().uid, world.b().gid)), "session.unknown");
    assert_eq!(refused(steer(launcher.service_uid, launcher.socket_gid)), "session.unknown");
    let keeper = Packets::from_fd(again());
    let changed = std::thread::scope(|scope| {
        let changing = scope.spawn(|| steer(user.uid, user.gid));
        let mut allowed = Vec::new();
        while let Ok(Some(packet)) = keeper.receive(MAX_KEEPER_PACKET, 1) {
            match decode(&packet.bytes) {
                Ok(FromKeeper::Egress(egress)) => allowed.push(egress.hosts.allow.len()),
                Ok(FromKeeper::Event(event)) => {
                    let ack = encode(&ToKeeper::Ack(event.number)).expect("a message");
                    keeper.send(&ack, &[]).expect("it listens");
                    if matches!(event.body, EventBody::Policy { uid, .. } if uid == user.uid) {
                        break;
                    }
                }
                Ok(_) => {}
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(allowed, [0, 1]);
        changing.join().expect("it asks")
    });
    assert_eq!(changed, ToClient::Steered);
    service.end(&id);
    drop((keeper, built));
    assert_eq!(service.remove(client.number, user.uid, &id), None);
    launcher.assert_clean(&before);
}

/// By what the kernel says of the peer, and by the account database where a process has dropped the group.
fn bounds_of_a_group_are_for_its_members(world: &'static World) {
    let (a, admins) = (world.a(), agentd_tests::harness::ADMINS);
    let config = format!(
        "[bounds]\nmemory = \"1G\"\nhosts = []\n[bounds.group.{}]\nmemory = \"2G\"\nhosts = [\"*\"]\n\
         [bounds.group.{admins}]\nmemory = \"512M\"\nhosts = [\"a.example.org\"]",
        a.name
    );
    let launcher = Launcher::start(world, &config);
    let service = Played::connect(&launcher);
    let before = launcher.traces();
    let any = || reaching(&[], &["0.0.0.0/0"], &[]);
    let one = || reaching(&["a.example.org"], &[], &[]);
    let (b, admin) = (world.b(), world.admin());
    // What is checked last: nothing is built, whatever the bounds allow.
    let within = "plan.reserved";
    for (uid, gid, memory, egress, rule) in [
        (b.uid, b.gid, 1 << 30, None, within),
        (b.uid, b.gid, 2 << 30, None, "bounds.memory"),
        (b.uid, b.gid, 1 << 30, one(), "bounds.hosts"),
        // Its first group.
        (a.uid, a.gid, 2 << 30, any(), within),
        (a.uid, a.gid, 3 << 30, None, "bounds.memory"),
        // What the account database says counts as well: who left the group behind has its bounds still.
        (admin.uid, b.gid, 512 << 20, one(), within),
        (admin.uid, b.gid, 1 << 30, None, "bounds.memory"),
        (admin.uid, b.gid, 1 << 20, any(), "bounds.hosts"),
        // Of several the most generous.
        (admin.uid, a.gid, 2 << 30, any(), within),
        (admin.uid, a.gid, 3 << 30, None, "bounds.memory"),
    ] {
        let client = service.client_of(&launcher, uid, gid);
        let mut wanted = Plan { egress, home: abs("/"), ..plan(world.a()) };
        wanted.limits.memory = memory;
        service.refused(client.number, None, wanted, rule);
        service.send(&FromService::Forget { caller: client.number });
    }
    launcher.assert_clean(&before);
}

fn ten_thousand_mounts_are_refused(world: &'static World) {
    let launcher = Launcher::start(world, "");
    let service = Played::connect(&launcher);
    let client = service.client(&launcher, world.a());
    let before = launcher.traces();
    let path = |n: u16| -> AbsPath { abs(format!("/m{n}")) };
    let many = 0..10_000_u16;
    let workspaces =
        many.clone().map(|n| Workspace { path: path(n), ..workspace("/m".as_ref(), n, Mode::Ro) }).collect();
    let inputs = many.clone().map(|n| Input { path: path(n), link: None, descriptor: n }).collect();
    let scratch = many.map(|n| Scratch { path: path(n), size: 4096, exec: true }).collect();
    for wanted in [
        Plan { workspaces, ..plan(world.a()) },
        Plan { inputs, ..plan(world.a()) },
        Plan { scratch, ..plan(world.a()) },
    ] {
        service.refused(client.number, None, wanted, "plan.mounts");
    }
    launcher.assert_clean(&before);
}

/// Few names, but deep ones: each component would be a mount point, and a placeholder in the caller's directory.
fn ten_thousand_mount_points_for_deep_names_are_refused(world: &'static World) {
    let launcher = Launcher::start(world, "");
    let (user, dir) = (world.a(), world.workspace(world.a()));
    let service = Played::connect(&launcher);
    let client = service.client(&launcher, user);
    let before = launcher.traces();
    let deep =
        |top: usize| RelPath::parse(&format!("{top}/{}", ["d"; 1250].join("/"))).expect("a name in form");
    let direct = Workspace { protect: (0..8).map(deep).collect(), ..workspace(&dir, 0, Mode::Direct) };
    let wanted = plan_with(user, vec![direct]);
    let offered = [(grant(Role::Workspace, Mode::Direct), open_dir(user, &dir))];
    let held = offer(&launcher, user, &offered, &wanted);
    service.refused(client.number, Some(held.ticket), wanted, "plan.names");
    drop(held);
    launcher.assert_clean(&before);
    assert_eq!(std::fs::read_dir(&dir).expect("the user's own").count(), 0);
}

fn quotas_hold_for_each_user_and_for_the_host(world: &'static World) {
    let launcher = Launcher::start(world, "[bounds]\nmax_sessions = 3\nmax_sessions_per_user = 2");
    let service = Played::connect(&launcher);
    let (a, b) = (service.client(&launcher, world.a()), service.client(&launcher, world.b()));
    let before = launcher.traces();
    let mut alive = Vec::new();
    let mut build = |client: &crate::played::Client, wanted: Plan| {
        let id = wanted.session.clone();
        alive.push((id, service.build(client.number, None, wanted).expect("within the bounds")));
    };
    build(&a, plan(world.a()));
    build(&a, plan(world.a()));
    service.refused(a.number, None, plan(world.a()), "bounds.max_sessions_per_user");
    build(&b, plan(world.b()));
    service.refused(b.number, None, plan(world.b()), "bounds.max_sessions");
    for (id, built) in alive {
        service.end(&id);
        drop(built);
    }
    launcher.assert_clean(&before);
}

/// What is prepared for one user is of no use to another, and keeps nothing of anybody's open.
fn a_prepared_session_is_its_users_and_holds_nothing_open(world: &'static World) {
    let launcher = Launcher::with_prewarmed(world, 4, "");
    let service = Played::connect(&launcher);
    let before = launcher.traces();
    let (a, b) = (service.client(&launcher, world.a()), service.client(&launcher, world.b()));
    let groups = |user: &User| launcher.traces().groups_of(user.uid);
    let first = plan(world.a());
    let id = first.session.clone();
    drop(service.build(a.number, None, first).expect("an honest plan"));
    service.end(&id);
    let waits = within(Duration::from_secs(10), || if groups(world.a()) > 0 { Ok(()) } else { Err(()) });
    assert_eq!(waits, Ok(()), "a session is prewarmed for a user who had one");
    assert_eq!(groups(world.b()), 0);
    // The prepared one has no handle of a client, or its client would never see the end.
    service.send(&FromService::Forget { caller: a.number });
    drop(a.served);
    assert!(ends_within(&a.socket, Duration::from_secs(5)), "something keeps a client's connection open");
    let second = plan(world.b());
    let id = second.session.clone();
    let built = service.build(b.number, None, second).expect("an honest plan");
    assert!(groups(world.b()) > 0, "the session of b is in the groups of b");
    assert!(groups(world.a()) > 0, "and not what was prepared for a");
    service.end(&id);
    drop(built);
    assert!(before.groups_of(world.a().uid) == 0);
}

fn a_session_cannot_be_had_twice(world: &'static World) {
    let launcher = Launcher::start(world, "");
    let service = Played::connect(&launcher);
    let (a, b) = (service.client(&launcher, world.a()), service.client(&launcher, world.b()));
    let before = launcher.traces();
    let wanted = plan(world.a());
    let id = wanted.session.clone();
    let built = service.build(a.number, None, wanted).expect("an honest plan");
    service.refused(b.number, None, Plan { session: id.clone(), ..plan(world.b()) }, "session.exists");
    assert_eq!(launcher.traces().groups_of(world.b().uid), 0);
    service.end(&id);
    drop(built);
    launcher.assert_clean(&before);
}

fn overlays_of_others_stay(world: &'static World) {
    let launcher = Launcher::start(world, "");
    let (user, dir) = (world.b(), world.workspace(world.b()));
    let service = Played::connect(&launcher);
    let (a, b) = (service.client(&launcher, world.a()), service.client(&launcher, user));
    let before = launcher.traces();
    let wanted = plan_with(user, vec![workspace(&dir, 0, Mode::Overlay)]);
    let offered = [(grant(Role::Workspace, Mode::Overlay), open_dir(user, &dir))];
    let held = offer(&launcher, user, &offered, &wanted);
    let id = wanted.session.clone();
    let built = service.build(b.number, Some(held.ticket), wanted).expect("an honest plan");
    service.end(&id);
    drop((built, held));
    let overlay = launcher.state().join(format!("overlays/u{}/{id}", user.uid));
    assert!(overlay.is_dir(), "an overlay is kept until it is removed");
    // On the word of another user, of nobody, and under another user's name: nothing goes.
    for (caller, owner) in [(a.number, user.uid), (CallerNumber(999), user.uid), (b.number, world.a().uid)] {
        let refusal = service.remove(caller, owner, &id).expect("refused");
        assert_eq!(refusal.rule.name(), "caller.unknown");
    }
    assert_eq!(service.remove(a.number, world.a().uid, &id), None, "there is none of that user");
    assert!(overlay.is_dir());
    assert_eq!(service.remove(b.number, user.uid, &id), None);
    launcher.assert_clean(&before);
}
