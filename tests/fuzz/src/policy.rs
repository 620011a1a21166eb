//! Messages between the processes, names, and what people write.

use std::fmt::Debug;
use std::net::IpAddr;

use agentd_policy::addresses::{Judgement, Net, judge};
use agentd_policy::allow::AllowRule;
use agentd_policy::allow::NetRule;
use agentd_policy::config::{Bounds, Config};
use agentd_policy::decide::decide;
use agentd_policy::egress::{Egress, Purpose};
use agentd_policy::event::SourceEvent;
use agentd_policy::hosts::{HostName, HostPattern};
use agentd_policy::library::{Library, Text};
use agentd_policy::names::{AbsPath, ProfileName, RelPath, SessionId, UserName};
use agentd_policy::network::{Change, Upstream};
use agentd_policy::offer::{FromClient, MAX_GRANTS, MAX_OFFER, ToClient};
use agentd_policy::plan::Plan;
use agentd_policy::profile::Profile;
use agentd_policy::protocol::Protocol;
use agentd_policy::request::{CallerFacts, Request};
use agentd_policy::size;
use agentd_policy::wire::{
    self, FromKeeper, FromLauncher, FromRelay, FromRoot, FromService, ToKeeper, ToRelay, VERSION, frame,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A message between two processes, of the kind that the first byte says, and frames: what was decoded is encoded and
/// decoded alike, and what checks it ends.
pub fn messages(bytes: &[u8]) {
    let Some((kind, body)) = bytes.split_first() else { return };
    let packet = [&VERSION.to_le_bytes(), body].concat();
    match kind {
        0 => {
            again::<FromLauncher>(&packet);
        }
        1 => {
            if let Some(FromService::Build { plan, .. }) = again(&packet) {
                plan.check(&Bounds::default()).ok();
                plan.egress.iter().for_each(reached);
            }
        }
        2 => {
            again::<ToKeeper>(&packet);
        }
        3 => {
            again::<FromKeeper>(&packet);
        }
        4 => {
            if let Some(ToRelay::Network { egress, .. } | ToRelay::Policy { egress }) = again(&packet) {
                reached(&egress);
            }
        }
        5 => {
            again::<FromRelay>(&packet);
        }
        6 => {
            again::<SourceEvent>(&packet);
        }
        9 => {
            if let Some(FromRoot::Change { change, .. }) = again(&packet)
                && let Ok(egress) = change.apply(&Egress::default())
            {
                reached(&egress);
            }
        }
        _ => frames(body),
    }
}

fn again<T: DeserializeOwned + Serialize + Debug>(packet: &[u8]) -> Option<T> {
    let message: T = wire::decode(packet).ok()?;
    // Networks and sizes are written out in full, which may be too much.
    let Ok(encoded) = wire::encode(&message) else { return Some(message) };
    // What holds numbers that are none is not equal to itself; its bytes are.
    let decoded: T = wire::decode(&encoded).unwrap();
    assert_eq!(wire::encode(&decoded).unwrap(), encoded);
    Some(message)
}

/// Whoever made an [`Egress`], it lets nobody reach by name what only this host or its network can mean, nor the host's
/// loopback by address, nor what is denied.
fn reached(egress: &Egress) {
    let _checked = (egress.check(), egress.udp_ports(), egress.may_become(egress));
    for rule in egress.hosts.allow.iter().take(16) {
        let name: String = rule.host.clone().into();
        let Ok(name) = HostName::parse(&name.replacen("*.", "a.", 1)) else { continue };
        let denied = egress.hosts.deny.iter().any(|pattern| pattern.matches(&name));
        for address in ["127.0.0.1", "169.254.169.254", "10.0.0.1", "::1", "::ffff:127.0.0.1", "8.8.8.8"] {
            let address: IpAddr = address.parse().unwrap();
            let public = judge(address, &egress.allow_private_ranges) == Judgement::Global;
            assert!(egress.pin(&name, address).is_err() || (public && !denied));
            let dialled =
                egress.dial(&Purpose::Name(name.clone()), (address, 443).into(), Protocol::Tcp, true);
            assert!(dialled.is_err() || (public && !denied));
        }
    }
    for address in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "::ffff:7f00:1"] {
        let to = (address.parse::<IpAddr>().unwrap(), 443).into();
        assert!(egress.dial(&Purpose::Net, to, Protocol::Tcp, false).is_err());
        assert!(egress.net(to, Protocol::Tcp).is_none());
    }
}

fn frames(mut bytes: &[u8]) {
    while let Some((header, rest)) = bytes.split_first_chunk::<{ frame::HEADER }>() {
        let Some((kind, len)) = frame::parse(*header) else { return };
        assert!(len <= frame::MAX);
        assert_eq!(frame::header(kind, len), Some(*header));
        bytes = rest.get(len..).unwrap_or_default();
    }
}

/// What a client offers to the launcher, and what that answers: of one spelling, and bounded.
pub fn offers(bytes: &[u8]) {
    if let Ok(message) = FromClient::decode(bytes) {
        if let FromClient::Offer(offer) = &message {
            assert!(offer.grants.len() <= MAX_GRANTS && bytes.len() <= MAX_OFFER);
        }
        assert_eq!(FromClient::decode(&wire::encode(&message).unwrap()).unwrap(), message);
    }
    if let Ok(answer) = wire::decode::<ToClient>(bytes) {
        // Bounds have numbers that are none, which equal nothing.
        let again = wire::encode(&answer).map(|packet| wire::decode::<ToClient>(&packet).is_ok());
        assert!(again.unwrap_or(true));
    }
}

/// Names and patterns of hosts: of one spelling, no address to anybody, and matched label by label.
pub fn hosts(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let labels = HostName::from_labels(bytes.split(|byte| *byte == b'.'));
    if let Ok(name) = &labels {
        assert_eq!(HostName::parse(&text).as_ref(), Ok(name));
    }
    if let Ok(name) = HostName::parse(&text) {
        let shown = name.as_str();
        assert!(shown.len() <= 253 && shown.parse::<IpAddr>().is_err());
        assert!(shown.split('.').all(|label| (1..=63).contains(&label.len())));
        assert!(
            shown.bytes().all(|byte| b"-_.".contains(&byte) || matches!(byte, b'0'..=b'9' | b'a'..=b'z'))
        );
        assert_eq!(HostName::parse(shown).as_ref(), Ok(&name));
        assert!(text.strip_suffix('.').unwrap_or(&text).eq_ignore_ascii_case(shown));
    }
    let (one, other) = text.split_once(' ').unwrap_or((&text, &text));
    if let Ok(pattern) = HostPattern::parse(one) {
        assert_eq!(HostPattern::parse(&pattern.to_string()).as_ref(), Ok(&pattern));
        if let Ok(name) = HostName::parse(other) {
            let base = pattern.to_string();
            let expected = match base.strip_prefix('*') {
                Some(below) => name.as_str().ends_with(below),
                None => name.as_str() == base,
            };
            assert_eq!(pattern.matches(&name), expected);
            if let Ok(wider) = HostPattern::parse(other) {
                assert!(!wider.covers(&pattern) || wider == pattern);
            }
        }
    }
}

/// Entries of what may be reached, networks, paths, sizes: what is read is shown so that it is read again.
pub fn rules(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(rule) = AllowRule::parse(&text) {
        assert_eq!(AllowRule::parse(&rule.to_string()).as_ref(), Ok(&rule), "{rule}");
    }
    if let Ok(net) = Net::parse(&text) {
        assert_eq!(Net::parse(&net.to_string()).ok(), Some(net));
        assert!(net.contains(net.address()) && net.is_within(&net));
        let rule = NetRule { net, ports: Vec::new(), protocol: Protocol::Tcp };
        reached(&Egress { nets: vec![rule], ..Egress::default() });
    }
    if let Ok(path) = AbsPath::parse(&text) {
        assert!(path.as_str().starts_with('/'));
        assert!(path.components().all(|part| !part.is_empty() && part != "." && part != ".."));
        assert_eq!(AbsPath::parse(path.as_str()).ok(), Some(path));
    }
    if let Ok(path) = RelPath::parse(&text) {
        assert!(path.components().all(|part| !part.is_empty() && part != "." && part != ".."));
    }
    if let Ok(bytes) = size::parse_size(&text) {
        assert_eq!(size::parse_size(&size::format_size(bytes)).ok(), Some(bytes));
    }
    if let Ok(ms) = size::parse_duration_ms(&text) {
        assert_eq!(size::parse_duration_ms(&size::format_duration_ms(ms)).ok(), Some(ms));
    }
}

/// A caller's profiles (divided by NULs), and what becomes of a session under them.
pub fn profile(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let files: Vec<Text> = text
        .split('\0')
        .take(8)
        .enumerate()
        .map(|(number, toml)| Text { label: format!("p{number}"), toml: toml.to_owned() })
        .collect();
    for file in &files {
        if let Ok(profile) = Profile::parse(&file.label, &file.toml)
            && let Ok(written) = profile.to_toml()
        {
            let read =
                Profile::parse("again", &written).unwrap_or_else(|refusal| panic!("{refusal}\n{written}"));
            assert_eq!(read.to_toml().unwrap(), written);
        }
    }
    let bounds = Bounds::default();
    let library = Library { files: &files, site: &|_| Ok(None), bounds: &bounds };
    let Ok(profile) = library.resolve(&ProfileName::parse("default").unwrap()) else { return };
    let upstream = Upstream {
        resolvers: vec![agentd_policy::resolver::Resolver::plain(([192, 0, 2, 53], 53).into())],
        search: Vec::new(),
        allow_private_ranges: Vec::new(),
        proxy: None,
    };
    if let Ok(permit) = decide(&request(), &profile, &bounds, &upstream, &caller()) {
        let plan = Plan::from(permit.into_plan());
        plan.check(&bounds).unwrap();
        let encoded = wire::encode(&plan).unwrap();
        assert_eq!(wire::decode::<Plan>(&encoded).unwrap(), plan);
        plan.egress.iter().for_each(|egress| {
            egress.check().unwrap();
            reached(egress);
        });
    }
}

fn request() -> Request {
    Request {
        session: SessionId::parse("0123456789ab").unwrap(),
        command: vec![b"true".to_vec()],
        env: Vec::new(),
        caller_env: vec![(b"LANG".to_vec(), b"C.UTF-8".to_vec()), (b"HOME".to_vec(), b"/".to_vec())],
        cwd: AbsPath::parse("/home/user/work").unwrap(),
        workspace: Vec::new(),
        write: Vec::new(),
        read: Vec::new(),
        git: Vec::new(),
        mask: Vec::new(),
        profile_files: Vec::new(),
        network: Change::default(),
        publish: Vec::new(),
        limits: agentd_policy::limits::Asked::default(),
        terminal: None,
        remove: false,
        umask: 0o022,
        offered: None,
    }
}

fn caller() -> CallerFacts {
    CallerFacts {
        uid: 1000,
        user: UserName::parse("user").unwrap(),
        home: AbsPath::parse("/home/user").unwrap(),
        shell: AbsPath::parse("/bin/bash").unwrap(),
        allow_root: false,
    }
}

/// The administrator's file: an error is one line.
pub fn config(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Err(error) = Config::parse(&text) {
        assert!(!error.to_string().contains('\n'));
    }
}
