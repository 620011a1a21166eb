//! Egress of a session: what a keeper does for its relay, and what it does not for a compromised one.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};

use agentd_kernel::packets::Packets;
use agentd_policy::Refusal;
use agentd_policy::addresses::Net;
use agentd_policy::allow::NetRule;
use agentd_policy::egress::Egress;
use agentd_policy::event::{End, EventBody, NetEvent, NetPeer};
use agentd_policy::hosts::{HostPattern, HostRule, HostRules};
use agentd_policy::names::SessionId;
use agentd_policy::network::Change;
use agentd_policy::offer::{FromClient, Steer, ToClient};
use agentd_policy::plan::Plan;
use agentd_policy::protocol::Protocol;
use agentd_policy::publish::Publish;
use agentd_policy::resolver::Resolver;
use agentd_policy::wire::{FromKeeper, FromRoot, MAX_PACKET, ToKeeper, decode, encode, frame};
use rustix::net::SocketType;

use crate::peer::Peer;
use crate::rig::{self, CALLER, Rig, Service};
use crate::turn;

fn rule(host: &str) -> HostRule {
    HostRule {
        host: HostPattern::parse(host).unwrap(),
        ports: vec![443],
        protocol: Protocol::Tcp,
        opaque: false,
    }
}

fn egress() -> Egress {
    let net = Net::parse("10.1.2.3").unwrap();
    let wide = Net::parse("0.0.0.0/1").unwrap();
    let unrouted = Net::parse("2600::/16").unwrap();
    let hosts = HostRules {
        deny: vec![HostPattern::parse("denied.example").unwrap()],
        allow: vec![rule("allowed.example"), rule("denied.example"), rule("listed.example")],
    };
    Egress {
        hosts,
        nets: vec![
            NetRule { net, ports: vec![80], protocol: Protocol::Tcp },
            NetRule { net: wide, ports: vec![8000], protocol: Protocol::Tcp },
            NetRule { net: unrouted, ports: vec![80], protocol: Protocol::Tcp },
        ],
        local: vec![8080],
        resolvers: vec![Resolver::plain(SocketAddr::from(([127, 0, 0, 53], 53)))],
        // In the network of these tests every address is the host's own.
        allow_private_ranges: vec![Net::parse("11.0.0.0/8").unwrap()],
        ..Egress::default()
    }
}

fn played() -> std::path::PathBuf {
    let played = Path::new(env!("CARGO_BIN_EXE_agentd-launcher")).with_file_name("examples/played_relay");
    assert!(played.exists(), "`cargo build --examples` makes it: {}", played.display());
    played
}

impl Rig {
    /// Gives the site bounds.
    pub fn bound(&self, keys: &str) {
        let config = std::fs::read_to_string(&self.config).unwrap();
        std::fs::write(&self.config, config.replace("[bounds]\n", &format!("[bounds]\n{keys}\n"))).unwrap();
    }

    /// Gives the site a blocklist.
    pub fn list(&self, lines: &str) {
        let list = self.base.join("ads.hosts");
        std::fs::write(&list, lines).unwrap();
        let config = std::fs::read_to_string(&self.config).unwrap();
        // Of its last table, [egress].
        let blocklists = format!("blocklists = [\"{}\"]\n", list.display());
        std::fs::write(&self.config, config + &blocklists).unwrap();
    }

    /// Starts a launcher in a network of its own, where every address is local, with another relay.
    pub fn start_playing(&mut self, relay: &Path) -> Service {
        let bin = self.base.join("bin");
        std::fs::create_dir_all(&bin).unwrap();
        let launcher = bin.join("agentd-launcher");
        std::fs::copy(env!("CARGO_BIN_EXE_agentd-launcher"), &launcher).unwrap();
        std::fs::copy(relay, bin.join("agentd-relay")).unwrap();
        let local = "ip link set lo up && ip route add local default dev lo && exec \"$0\" --config \"$1\"";
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", local]).arg(launcher).arg(&self.config).stdin(Stdio::null());
        self.launcher = Some(command.spawn().unwrap());
        self.connect()
    }
}

#[test]
fn a_relay_that_was_taken_over_reaches_what_the_plan_names() {
    let Some(_turn) = turn() else { return };
    let mut rig = Rig::new(41);
    rig.list("0.0.0.0 listed.example\n");
    let service = rig.start_playing(&played());
    let published = Egress { publish: vec![Publish { host: 8081, port: 3000 }], ..egress() };
    let (peer, out) = Peer::start(&service, 1, &["sleep", "600"], |plan| plan.egress = Some(published));
    let said = out.until("done\n");
    let denied = "Permission denied (os error 13)";
    let published = "Publish(Publish { host: 8081, port: 3000 })";
    let expected = [
        "pin allowed.example: [10.1.2.3, 11.22.33.44]",
        "pin denied.example: []",
        "pin other.example: []",
        "pin listed.example: []",
        "Name(HostName(\"allowed.example\")) 11.22.33.44:443 Tcp: dialled",
        &format!("Name(HostName(\"allowed.example\")) 11.22.33.44:80 Tcp: {denied}"),
        &format!("Name(HostName(\"allowed.example\")) 11.22.33.45:443 Tcp: {denied}"),
        &format!("Name(HostName(\"allowed.example\")) 10.1.2.3:443 Tcp: {denied}"),
        &format!("Name(HostName(\"allowed.example\")) 127.0.0.1:443 Tcp: {denied}"),
        &format!("Name(HostName(\"allowed.example\")) 169.254.169.254:443 Tcp: {denied}"),
        &format!("Name(HostName(\"denied.example\")) 11.22.33.44:443 Tcp: {denied}"),
        &format!("Name(HostName(\"other.example\")) 11.22.33.44:443 Tcp: {denied}"),
        &format!("Name(HostName(\"allowed.example\")) 11.22.33.44:443 Udp: {denied}"),
        "Net 10.1.2.3:80 Tcp: dialled",
        &format!("Net 10.1.2.3:81 Tcp: {denied}"),
        &format!("Net [::ffff:10.1.2.3]:80 Tcp: {denied}"),
        &format!("Net 127.0.0.1:80 Tcp: {denied}"),
        &format!("Net 0.0.0.0:80 Tcp: {denied}"),
        &format!("Net 11.22.33.44:80 Tcp: {denied}"),
        &format!("Net 20.30.40.50:8000 Tcp: {denied}"),
        "Net [2600::1]:80 Tcp: Network is unreachable (os error 101)",
        "Local 127.0.0.1:8080 Tcp: dialled",
        &format!("Local 127.0.0.1:22 Tcp: {denied}"),
        &format!("Local 10.1.2.3:8080 Tcp: {denied}"),
        "Resolver 127.0.0.53:53 Udp: a pair",
        &format!("Resolver 127.0.0.1:22 Tcp: {denied}"),
        &format!("{published} 127.0.0.1:3000 Tcp: dialled"),
        &format!("{published} 127.0.0.1:3000 Udp: {denied}"),
        &format!("Local 127.0.0.1:3000 Tcp: {denied}"),
        &format!("{published} [::1]:3000 Tcp: dialled"),
        &format!("{published} [::1]:3000 Udp: {denied}"),
        &format!("Local [::1]:3000 Tcp: {denied}"),
        &format!("{published} 127.0.0.1:8081 Tcp: {denied}"),
        &format!("{published} 127.0.0.2:3000 Tcp: {denied}"),
        &format!("{published} 10.200.0.2:3000 Tcp: {denied}"),
        &format!("{published} 10.1.2.3:3000 Tcp: {denied}"),
        &format!("{published} [::ffff:127.0.0.1]:3000 Tcp: {denied}"),
        &format!("{published} 127.0.0.1:22 Tcp: {denied}"),
        &format!("Publish(Publish {{ host: 8081, port: 22 }}) 127.0.0.1:22 Tcp: {denied}"),
        &format!("Publish(Publish {{ host: 3000, port: 3000 }}) 127.0.0.1:3000 Tcp: {denied}"),
        "each has its answer",
        "flood: not read",
        "done",
    ];
    assert_eq!(said.lines().collect::<Vec<_>>(), expected);
    // What was asked for is on record, what was refused too, and nothing of it steers a terminal.
    let refused: Vec<IpAddr> = ["127.0.0.1", "169.254.169.254", "10.9.9.9", "::ffff:10.1.2.3"]
        .map(|address| address.parse().unwrap())
        .into();
    peer.until(|event| {
        let EventBody::Net(NetEvent::Dns { name, addresses, denied, .. }) = event else { return false };
        name == "allowed.example" && *addresses == refused && denied.is_some()
    });
    peer.until(|event| {
        let EventBody::Net(NetEvent::Dns { name, denied, .. }) = event else { return false };
        name == "listed.example" && denied.as_deref() == Some("blocklist ads")
    });
    let connect = |to: &'static str, rule: Option<&'static str>| {
        let to: SocketAddr = to.parse().unwrap();
        peer.until(move |event| {
            let EventBody::Net(NetEvent::Connect { peer, denied, .. }) = event else { return false };
            (peer.address, peer.port, denied.as_deref()) == (to.ip(), to.port(), rule)
        });
    };
    connect("11.22.33.44:443", None);
    connect("11.22.33.45:443", Some("pin.unknown"));
    connect("10.1.2.3:80", None);
    // What could not even begin has ended.
    connect("[2600::1]:80", None);
    peer.until(|event| {
        let EventBody::Net(NetEvent::Closed { peer, reason, .. }) = event else { return false };
        peer.address == IpAddr::from([0x2600, 0, 0, 0, 0, 0, 0, 1])
            && reason.to_string().contains("unreachable")
    });
    connect("127.0.0.1:22", Some("default"));
    connect("20.30.40.50:8000", Some("address.own"));
    let entered = |rule: Option<&'static str>| {
        peer.until(move |event| {
            let EventBody::Net(NetEvent::Entered { publish, denied, .. }) = event else { return false };
            publish.port == 3000 && denied.as_deref() == rule
        });
    };
    entered(None);
    entered(Some("publish.unknown"));
    peer.until(|event| {
        let EventBody::Net(NetEvent::Dns { name, count: 1, .. }) = event else { return false };
        name.starts_with("\\u{1b}]0;title") && !name.contains('\u{1b}')
    });
    peer.say(&ToKeeper::Kill);
    peer.until(|event| *event == EventBody::Ended(End::Killed));
    peer.say(&ToKeeper::Ack(peer.last.get()));
    service.gone(&service.session(1));
}

#[test]
fn a_port_of_the_host_is_reached_and_a_change_is_its_callers() {
    let Some(_turn) = turn() else { return };
    let mut rig = Rig::new(42);
    let service = rig.start();
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let before = Egress { local: vec![port], ..egress() };
    // Bash's own connections: whatever the far end says, or what the kernel does.
    let script = format!(
        "cat /etc/resolv.conf; while read line; do (exec 3<>/dev/tcp/127.0.0.1/{port}; cat <&3) 2>/dev/null; echo; \
         done"
    );
    let planned = before.clone();
    let (peer, out) =
        Peer::start(&service, 1, &["bash", "-c", &script], move |plan| plan.egress = Some(planned));
    assert!(out.until("attempts:2\n").starts_with("nameserver 127.0.0.1\n"));
    out.send(frame::STDIN, b"go\n");
    let (mut connection, _) = server.accept().unwrap();
    connection.write_all(b"hello").unwrap();
    drop(connection);
    assert_eq!(out.until("\n"), "hello\n");
    let is_it = move |peer: &NetPeer| (peer.address, peer.port) == (IpAddr::from([127, 0, 0, 1]), port);
    peer.until(
        |event| matches!(event, EventBody::Net(NetEvent::Connect { peer, denied: None, .. }) if is_it(peer)),
    );
    peer.until(
        |event| matches!(event, EventBody::Net(NetEvent::Closed { peer, received: 5, .. }) if is_it(peer)),
    );
    // One that is not possible changes nothing.
    let session = service.session(1);
    let late = steer(&rig, &session, &[&format!("local:{}", port ^ 1)], &[]).unwrap_err();
    assert_eq!(late.rule.name(), "network.live");
    let changed = std::thread::scope(|scope| {
        let changing = scope.spawn(|| steer(&rig, &session, &[], &["a.example"]));
        peer.until(|event| *event == EventBody::Policy { change: "deny a.example".into(), uid: CALLER });
        // Its caller waits for the record.
        peer.say(&ToKeeper::Ack(peer.last.get()));
        changing.join().unwrap()
    });
    assert_eq!(changed, Ok(()));
    peer.say(&ToKeeper::Kill);
    peer.until(|event| *event == EventBody::Ended(End::Killed));
    peer.say(&ToKeeper::Ack(peer.last.get()));
}

/// Asks the launcher for a change as the caller.
fn steer(rig: &Rig, session: &SessionId, allow: &[&str], deny: &[&str]) -> Result<(), Refusal> {
    steer_as(rig, session, (allow, deny), CALLER)
}

fn steer_as(
    rig: &Rig,
    session: &SessionId,
    (allow, deny): (&[&str], &[&str]),
    uid: u32,
) -> Result<(), Refusal> {
    let side = Packets::from_fd(rig::dial(&rig.base.join("run/offer.sock"), SocketType::SEQPACKET, uid));
    let texts = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    let change = Box::new(Change::parse(&texts(allow), &texts(deny)).unwrap());
    side.send(&encode(&FromClient::Steer(Steer { session: session.clone(), change })).unwrap(), &[]).unwrap();
    let received = || decode(&side.receive(MAX_PACKET, 0).unwrap().unwrap().bytes).unwrap();
    assert!(matches!(received(), ToClient::Site(_)));
    match received() {
        ToClient::Steered => Ok(()),
        ToClient::Refused(refusal) => Err(refusal),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_session_without_a_network_has_a_resolver_and_what_refuses() {
    let Some(_turn) = turn() else { return };
    let mut rig = Rig::new(43);
    let service = rig.start();
    let script = "tail -qn +2 /proc/net/tcp /proc/net/udp | awk '{ print $2 }' | sort; cat /etc/resolv.conf
        getent hosts any.example; echo $?";
    let nothing = Egress { hosts: HostRules::default(), nets: vec![], local: vec![], ..egress() };
    let closed = |plan: &mut Plan| plan.egress = Some(nothing);
    let (peer, out) = Peer::start(&service, 1, &["sh", "-c", script], closed);
    // What connections are given to, the resolver, and the proxy.
    let expected = "00000000:0001\n00000000:0035\n0100007F:0C38\nnameserver 127.0.0.1\noptions timeout:6 attempts:2\n2\n";
    assert_eq!(out.rest(), expected);
    peer.until(|event| {
        let EventBody::Net(NetEvent::Dns { name, denied, .. }) = event else { return false };
        name == "any.example" && denied.as_deref() == Some("network.none")
    });
    peer.until(|event| matches!(event, EventBody::Ended(_)));
    peer.say(&ToKeeper::Ack(peer.last.get()));
}

#[test]
fn a_session_is_widened_by_its_caller_alone_and_never_beyond_the_ceiling() {
    let Some(_turn) = turn() else { return };
    let mut rig = Rig::new(44);
    rig.bound("local = false\nhosts = [\"*.example\", \"10.0.0.0/8\"]\nhosts_denied = [\"denied.example\", \"10.2.0.0/16\"]");
    let service = rig.start();
    let deny = vec![HostPattern::parse("denied.example").unwrap()];
    let closed = Egress { hosts: HostRules { deny, allow: vec![] }, local: vec![], nets: vec![], ..egress() };
    let (peer, _out) = Peer::start(&service, 1, &["sleep", "600"], |plan| plan.egress = Some(closed));
    let session = service.session(1);
    for (rule, why) in [
        ("*.com", "bounds.hosts"),
        ("0.0.0.0/0:80", "bounds.hosts"),
        ("denied.example", "bounds.hosts_denied"),
        ("11.2.3.4/32:80", "bounds.hosts"),
        ("local:5432", "bounds.local"),
    ] {
        assert_eq!(steer(&rig, &session, &[rule], &[]).unwrap_err().rule.name(), why, "{rule}");
    }
    for (uid, why) in [(CALLER + 1, "session.unknown"), (0, "caller.root")] {
        let refused = steer_as(&rig, &session, (&["other.example"], &[]), uid).unwrap_err();
        assert_eq!(refused.rule.name(), why);
    }
    let nobody = service.session(9);
    assert_eq!(steer(&rig, &nobody, &["other.example"], &[]).unwrap_err().rule.name(), "session.unknown");
    // The service has no word for it: by the keeper's name it says what the launcher would, and is cut off.
    let change = Box::new(Change::parse(&["other.example".into()], &[]).unwrap());
    let question = encode(&FromRoot::Change { change, uid: CALLER }).unwrap();
    let path = rig.base.join("run/keepers").join(session.as_str());
    let as_service = Packets::from_fd(rig::dial(&path, SocketType::SEQPACKET, rig::SERVICE));
    as_service.send(&question, &[]).unwrap();
    let mut said = Vec::new();
    while let Some(packet) = as_service.receive(MAX_PACKET, 1).ok().flatten() {
        said.push(packet.bytes);
    }
    assert!(said.iter().all(|bytes| !bytes.windows(13).any(|part| part == b"other.example")));
    // The connection that was there before is gone with it; the next one goes on.
    drop(peer);
    let peer = Peer::connect(&rig, &session);
    let FromKeeper::Hello { acknowledged, .. } = peer.next().0 else { panic!("not the first word") };
    peer.last.set(acknowledged);
    assert!(peer.egress().hosts.allow.is_empty());
    let changed = std::thread::scope(|scope| {
        let changing = scope.spawn(|| steer(&rig, &session, &["other.example"], &[]));
        let change = "allow other.example:80,443".to_owned();
        peer.until(|event| *event == EventBody::Policy { change: change.clone(), uid: CALLER });
        peer.say(&ToKeeper::Ack(peer.last.get()));
        changing.join().unwrap()
    });
    assert_eq!(changed, Ok(()));
    assert_eq!(peer.egress().hosts.allow.len(), 1);
    peer.say(&ToKeeper::Kill);
    peer.until(|event| *event == EventBody::Ended(End::Killed));
    peer.say(&ToKeeper::Ack(peer.last.get()));
}
