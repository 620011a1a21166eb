//! The way out of a session: what a keeper does for its relay, and what it does not for one that was taken over.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};

use agentd_policy::addresses::Net;
use agentd_policy::egress::{Egress, NetRule};
use agentd_policy::event::{End, EventBody, NetEvent, NetPeer};
use agentd_policy::hosts::{HostPattern, HostRule, HostRules};
use agentd_policy::profile::Protocol;
use agentd_policy::publish::Publish;
use agentd_policy::resolver::Resolver;
use agentd_policy::wire::{ToKeeper, frame};

use crate::peer::Peer;
use crate::rig::{Rig, Service};
use crate::turn;

fn rule(host: &str) -> HostRule {
    HostRule { host: HostPattern::parse(host).unwrap(), ports: vec![443], protocol: Protocol::Tcp }
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
        global_also: vec![Net::parse("11.0.0.0/8").unwrap()],
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
        "flood: not heard",
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
        peer.address == IpAddr::from([0x2600, 0, 0, 0, 0, 0, 0, 1]) && reason.contains("unreachable")
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
fn a_port_of_the_host_is_reached_until_the_policy_changes() {
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
    let mut late = before.clone();
    late.local.push(port ^ 1);
    peer.say(&ToKeeper::Policy { egress: Box::new(late), change: "late".into() });
    let after = Egress { local: vec![], nets: vec![], ..before };
    peer.say(&ToKeeper::Policy { egress: Box::new(after), change: "deny\u{7} local".into() });
    peer.until(|event| *event == EventBody::Policy { change: "deny\\u{7} local".into() });
    out.send(frame::STDIN, b"go\n");
    assert_eq!(out.until("\n"), "\n");
    server.set_nonblocking(true).unwrap();
    assert!(server.accept().is_err());
    peer.say(&ToKeeper::Kill);
    peer.until(|event| *event == EventBody::Ended(End::Killed));
    peer.say(&ToKeeper::Ack(peer.last.get()));
}

#[test]
fn a_session_without_a_network_has_nothing_of_it() {
    let Some(_turn) = turn() else { return };
    let mut rig = Rig::new(43);
    let service = rig.start();
    let script = "grep -c . /proc/net/tcp /proc/net/udp; cat /etc/resolv.conf";
    let (peer, out) = Peer::start(&service, 1, &["sh", "-c", script], |_| {});
    let nothing = "/proc/net/tcp:1\n/proc/net/udp:1\nnameserver 10.200.0.1\noptions timeout:1 attempts:1\n";
    assert_eq!(out.rest(), nothing);
    peer.until(|event| matches!(event, EventBody::Ended(_)));
    peer.say(&ToKeeper::Ack(peer.last.get()));
}

#[test]
fn a_service_that_was_taken_over_widens_no_session_beyond_the_ceiling() {
    let Some(_turn) = turn() else { return };
    let mut rig = Rig::new(44);
    rig.bound("local = false\nhosts = [\"*.example\", \"10.0.0.0/8\"]\nhosts_denied = [\"denied.example\", \"10.2.0.0/16\"]");
    let service = rig.start();
    let net = |net: &str| NetRule { net: Net::parse(net).unwrap(), ports: vec![80], protocol: Protocol::Tcp };
    let deny = vec![HostPattern::parse("denied.example").unwrap()];
    let hosts = HostRules { deny, allow: vec![rule("allowed.example")] };
    let before = Egress { hosts, nets: vec![net("10.1.2.3")], local: vec![], ..egress() };
    let planned = before.clone();
    let (peer, _out) = Peer::start(&service, 1, &["sleep", "600"], |plan| plan.egress = Some(planned));
    let with = |hosts: &[&str], nets: &[&str]| {
        let mut egress = before.clone();
        egress.hosts.allow.extend(hosts.iter().map(|host| rule(host)));
        egress.nets.extend(nets.iter().map(|text| net(text)));
        Box::new(egress)
    };
    for (egress, rule) in [
        (with(&["*.com"], &[]), "bounds.hosts"),
        (with(&[], &["0.0.0.0/0"]), "bounds.hosts"),
        (with(&["denied.example"], &[]), "bounds.hosts_denied"),
        (with(&[], &["11.2.3.4"]), "bounds.hosts"),
    ] {
        peer.say(&ToKeeper::Policy { egress, change: "wider".into() });
        let unchanged = peer.unchanged();
        assert_eq!((unchanged.0.as_str(), unchanged.1.rule.as_str()), ("wider", rule));
        assert_eq!(unchanged.2, before);
    }
    peer.say(&ToKeeper::Policy { egress: with(&["other.example"], &[]), change: "more".into() });
    peer.until(|event| *event == EventBody::Policy { change: "more".into() });
    peer.say(&ToKeeper::Kill);
    peer.until(|event| *event == EventBody::Ended(End::Killed));
    peer.say(&ToKeeper::Ack(peer.last.get()));
}
