//! The whole service against a launcher, keepers and relays that the tests play.

mod attached;
mod durable;
mod execs;
mod health;
mod latency;
mod policy;
mod recovery;
mod requests;
mod sessions;

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use agentd_kernel::packets::Packets;
use agentd_policy::config::Config;
use agentd_policy::event::{Actor, End, EventBody, ExitStatus, SourceEvent};
use agentd_policy::library::Library;
use agentd_policy::limits::DiskForm;
use agentd_policy::names::ProfileName;
use agentd_policy::plan::Plan;
use agentd_policy::wire::{self, CallerNumber, FromKeeper, FromLauncher, FromService, Peer, ToKeeper, frame};
use agentd_proto::v1::attach_input::Kind as In;
use agentd_proto::v1::attach_output::Kind as Out;
use agentd_proto::v1::sessions_client::SessionsClient;
use agentd_proto::v1::*;
use hyper_util::rt::TokioIo;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};
use tonic_types::StatusExt;

use crate::host::Host;
use crate::launcher::link::Link;

const ALICE: Peer = Peer { uid: 1000, gid: 1000, pid: 10, admin: false };
const BOB: Peer = Peer { uid: 1001, gid: 1001, pid: 11, admin: false };
const ADMIN: Peer = Peer { uid: 1002, gid: 1002, pid: 12, admin: true };
const ROOT: Peer = Peer { uid: 0, gid: 0, pid: 1, admin: false };
/// How long what is awaited may take: it comes at once, unless everything else runs as well.
const SOON: Duration = Duration::from_secs(30);
/// What a session does without its client, here.
const GRACE: Duration = Duration::from_millis(300);

/// The launcher, as the test plays it, and the service.
struct Stage {
    launcher: Link,
    sender: Packets,
    next: u64,
    root: PathBuf,
    more: String,
    host: Arc<Host>,
    service: Option<Runtime>,
}

type Client = SessionsClient<Channel>;

/// A session's other ends.
struct Played {
    id: String,
    plan: Plan,
    keeper: Link,
    /// The same socket, for messages with descriptors.
    sender: Packets,
    relay: UnixStream,
    /// The keeper's name.
    name: OwnedFd,
}

impl Stage {
    fn new(name: &str) -> Self {
        Self::with(name, "")
    }

    fn with(name: &str, more: &str) -> Self {
        let root = std::env::temp_dir().join(format!("agentd-loop-{name}-{}", std::process::id()));
        for dir in ["audit", "profiles", "keepers"] {
            std::fs::create_dir_all(root.join(dir)).unwrap();
        }
        let (launcher, sender, host, service) = start(&root, more);
        Self { launcher, sender, next: 0, root, more: more.into(), host, service: Some(service) }
    }

    /// The service dies as if by SIGKILL, and another one starts.
    fn restart(&mut self) {
        self.restart_after(|| {});
    }

    /// The same, with something done in between.
    fn restart_after(&mut self, between: impl FnOnce()) {
        self.service.take().unwrap().shutdown_background();
        std::thread::sleep(Duration::from_millis(50));
        between();
        let (launcher, sender, host, service) = start(&self.root, &self.more);
        (self.launcher, self.sender, self.host, self.service) = (launcher, sender, host, Some(service));
    }

    async fn connect(&mut self, peer: Peer) -> Client {
        SessionsClient::new(self.channel(peer).await)
    }

    async fn channel(&mut self, peer: Peer) -> Channel {
        let (ours, theirs) = UnixStream::pair().unwrap();
        self.next += 1;
        let number = CallerNumber(self.next);
        let caller = FromLauncher::Caller { number, peer, account: peer.uid, groups: vec![] };
        self.sender.send(&wire::encode(&caller).unwrap(), &[theirs.as_fd()]).unwrap();
        let mut stream = Some(ours);
        let connector = tower::service_fn(move |_| {
            let stream = stream.take();
            async { stream.map(TokioIo::new).ok_or_else(|| std::io::Error::other("one connection only")) }
        });
        Endpoint::from_static("http://agentd").connect_with_connector(connector).await.unwrap()
    }

    /// What the launcher receives, but for connections that went.
    async fn received(&self) -> FromService {
        loop {
            let packet = timeout(SOON, self.launcher.receive(0)).await.unwrap().unwrap().unwrap();
            match wire::decode(&packet.bytes).unwrap() {
                FromService::Forget { .. } => {}
                other => return other,
            }
        }
    }

    fn say(&self, message: &FromLauncher) {
        self.sender.send(&wire::encode(message).unwrap(), &[]).unwrap();
    }

    fn live(&self, sessions: &[&Played]) {
        let sessions = sessions.iter().map(|played| played.plan.session.clone()).collect();
        self.say(&FromLauncher::Live { disk: DiskForm::Watch, open_files: 1024, sessions, last: true });
    }

    /// Asks for a session and builds it.
    async fn run(&mut self, client: &Client, spec: RunSpec) -> Played {
        let (mut client, stage) = (client.clone(), &*self);
        let created = client.create(request(spec));
        let built = async {
            let FromService::Build { request, plan, .. } = stage.received().await else { panic!() };
            let name = listen(&stage.root.join(format!("keepers/{}", plan.session)));
            let (keeper, keeper_theirs) = Packets::pair().unwrap();
            let (relay, relay_theirs) = UnixStream::pair().unwrap();
            let answer = wire::encode(&FromLauncher::Built { request, timings: vec![] }).unwrap();
            stage.sender.send(&answer, &[keeper_theirs.as_fd(), relay_theirs.as_fd()]).unwrap();
            (*plan, keeper, relay, name)
        };
        let (created, (plan, keeper, relay, name)) = tokio::join!(created, built);
        let id = created.unwrap().into_inner().id;
        assert_eq!(id, plan.session.as_str());
        let sender = keeper.try_clone().unwrap();
        Played { id, plan, keeper: Link::new(keeper).unwrap(), sender, relay, name }
    }
}

fn start(root: &std::path::Path, more: &str) -> (Link, Packets, Arc<Host>, Runtime) {
    let at = root.display();
    let text = format!(
        "runtime_dir = '{at}'\nstate_dir = '{at}'\nprofile_dirs = ['{at}/profiles']\n\
         client_grace = '300ms'\n[bounds]\nmax_sessions_per_user = 3\n{more}"
    );
    let service = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (ours, theirs) = Packets::pair().unwrap();
    let host = {
        let _guard = service.enter();
        let heartbeat = Arc::new(crate::watchdog::Heartbeat::new());
        let (host, incoming, link) =
            crate::assemble(crate::site::Site::of(Config::parse(&text).unwrap()), theirs, heartbeat).unwrap();
        tokio::spawn(crate::api::serve::serve(host.clone(), incoming));
        tokio::spawn(link);
        host
    };
    for (peer, name) in [(ALICE, "alice"), (BOB, "bob"), (ADMIN, "admin"), (ROOT, "root")] {
        host.users.put(peer.uid, name);
    }
    let sender = ours.try_clone().unwrap();
    (Link::new(ours).unwrap(), sender, host, service)
}

/// A packet socket with a name.
fn listen(path: &std::path::Path) -> OwnedFd {
    std::fs::remove_file(path).ok();
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    rustix::net::bind(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    rustix::net::listen(&socket, 4).unwrap();
    socket
}

async fn accept(socket: &OwnedFd) -> Packets {
    for _ in 0..500 {
        match rustix::net::accept_with(socket, SocketFlags::CLOEXEC) {
            Ok(peer) => return Packets::from_fd(peer),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
    panic!("nobody connected");
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(service) = self.service.take() {
            service.shutdown_background();
        }
        std::fs::remove_dir_all(&self.root).ok();
    }
}

fn spec() -> RunSpec {
    let library =
        Library { files: &[], site: &|_| Ok(None), bounds: &agentd_policy::config::Bounds::default() };
    let profile = library.resolve(&ProfileName::parse("default").unwrap()).unwrap();
    RunSpec {
        profile: profile.to_toml().unwrap(),
        command: vec!["echo".into(), "hi".into()],
        cwd: "/srv/p".into(),
        ..RunSpec::default()
    }
}

fn request(spec: RunSpec) -> CreateRequest {
    let path = OfferedPath { path: spec.cwd.clone(), role: "workspace".into(), mode: "overlay".into() };
    CreateRequest { spec: Some(spec), ticket: vec![7; 32].into(), paths: vec![path] }
}

fn rule(status: &Status) -> String {
    let info = status.get_details_error_info().unwrap_or_else(|| panic!("{status:?}"));
    assert_eq!(info.domain, "agentd");
    assert!(info.metadata.contains_key("what") && info.metadata.contains_key("hint"));
    info.reason
}

fn source(number: u64, body: EventBody) -> Vec<u8> {
    let time_us = 1_767_323_045_000_000 + number;
    wire::encode(&FromKeeper::Event(SourceEvent { number, time_us, body })).unwrap()
}

fn exec() -> EventBody {
    let actor = Actor { pid: 3, ppid: Some(2), exe: None };
    let (path, result) = ("/usr/bin/echo".into(), agentd_policy::event::ExecResult::Ran);
    EventBody::Exec { actor, path, interpreters: vec![], argv: None, result, image: None, count: 1 }
}

impl Played {
    async fn say(&self, number: u64, body: EventBody) {
        self.keeper.send(&source(number, body)).await.unwrap();
    }

    async fn end(&self, number: u64, code: i32) {
        self.say(number, EventBody::Ended(End::Command(ExitStatus::Code(code)))).await;
    }

    /// What the service says to the keeper, but for acknowledgements.
    async fn to_keeper(&self) -> ToKeeper {
        to_keeper(&self.keeper).await
    }

    async fn acknowledged(&self) -> u64 {
        let packet = timeout(SOON, self.keeper.receive(0)).await.unwrap().unwrap().unwrap();
        match wire::decode(&packet.bytes).unwrap() {
            ToKeeper::Ack(number) => number,
            other => panic!("{other:?}"),
        }
    }

    async fn output(&mut self, kind: u8, bytes: &[u8]) {
        output(&mut self.relay, kind, bytes).await;
    }

    /// What the service sends, but for acknowledgements.
    async fn input(&mut self) -> (u8, Vec<u8>) {
        input(&mut self.relay).await
    }

    /// Waits until so much is acknowledged.
    async fn kept(&mut self, place: u64) {
        while raw(&mut self.relay).await != (frame::ACK, place.to_le_bytes().to_vec()) {}
    }

    fn gone(&self, stage: &Stage) {
        stage.say(&FromLauncher::Gone { session: self.plan.session.clone(), errors: vec![] });
    }

    /// What a keeper does whose service connected anew.
    async fn greeted(&mut self, acknowledged: u64) {
        let keeper = accept(&self.name).await;
        self.sender = keeper.try_clone().unwrap();
        self.keeper = Link::new(keeper).unwrap();
        let hello = FromKeeper::Hello {
            session: self.plan.session.clone(),
            uid: ALICE.uid,
            acknowledged,
            started: true,
            commands: vec![],
        };
        self.keeper.send(&wire::encode(&hello).unwrap()).await.unwrap();
    }

    /// The stream that a service asks for which did not make the session.
    async fn streams(&mut self) {
        assert_eq!(self.to_keeper().await, ToKeeper::Connect { command: 0 });
        let (ours, theirs) = UnixStream::pair().unwrap();
        self.pass(&FromKeeper::Stream { command: 0 }, theirs);
        self.relay = ours;
    }

    fn pass(&self, message: &FromKeeper, stream: UnixStream) {
        self.sender.send(&wire::encode(message).unwrap(), &[stream.as_fd()]).unwrap();
    }
}

async fn to_keeper(keeper: &Link) -> ToKeeper {
    loop {
        let packet = timeout(SOON, keeper.receive(0)).await.unwrap().unwrap().unwrap();
        match wire::decode(&packet.bytes).unwrap() {
            ToKeeper::Ack(_) => {}
            other => return other,
        }
    }
}

async fn output(relay: &mut UnixStream, kind: u8, bytes: &[u8]) {
    relay.write_all(&frame::header(kind, bytes.len()).unwrap()).await.unwrap();
    relay.write_all(bytes).await.unwrap();
}

async fn raw(relay: &mut UnixStream) -> (u8, Vec<u8>) {
    let mut header = [0; frame::HEADER];
    timeout(SOON, relay.read_exact(&mut header)).await.unwrap().unwrap();
    let (kind, len) = frame::parse(header).unwrap();
    let mut payload = vec![0; len];
    relay.read_exact(&mut payload).await.unwrap();
    (kind, payload)
}

async fn input(relay: &mut UnixStream) -> (u8, Vec<u8>) {
    loop {
        match raw(relay).await {
            (frame::ACK, _) => {}
            other => return other,
        }
    }
}

type Ends = (mpsc::Sender<AttachInput>, Streaming<AttachOutput>);

fn open(id: &str) -> AttachOpen {
    AttachOpen { id: id.into(), ..AttachOpen::default() }
}

async fn attach(client: &Client, id: &str) -> Result<Ends, Status> {
    let (ends, attached) = attach_with(client, open(id)).await?;
    assert_eq!(attached.id, id);
    Ok(ends)
}

async fn attach_with(client: &Client, open: AttachOpen) -> Result<(Ends, Attached), Status> {
    let (to, input) = mpsc::channel(8);
    send(&to, In::Open(open)).await;
    let mut output = client.clone().attach(ReceiverStream::new(input)).await?.into_inner();
    match timeout(SOON, output.message()).await.unwrap()?.unwrap().kind.unwrap() {
        Out::Attached(attached) => Ok(((to, output), attached)),
        other => panic!("{other:?}"),
    }
}

async fn send(to: &mpsc::Sender<AttachInput>, kind: In) {
    to.send(AttachInput { kind: Some(kind) }).await.unwrap();
}

async fn next(output: &mut Streaming<AttachOutput>) -> Out {
    timeout(SOON, output.message()).await.unwrap().unwrap().unwrap().kind.unwrap()
}

/// What comes until the exit.
async fn rest(output: &mut Streaming<AttachOutput>) -> (Vec<u8>, Exit) {
    let mut bytes = Vec::new();
    loop {
        match next(output).await {
            Out::Stdout(more) | Out::Stderr(more) => bytes.extend_from_slice(&more),
            Out::Exit(exit) => return (bytes, exit),
            other => panic!("{other:?}"),
        }
    }
}

async fn events(client: &Client, id: &str, follow: bool) -> Streaming<Event> {
    let request = EventsRequest { id: id.into(), follow, ..EventsRequest::default() };
    client.clone().events(request).await.unwrap().into_inner()
}

async fn all<T>(mut stream: Streaming<T>) -> Vec<T> {
    let mut messages = Vec::new();
    while let Some(message) = timeout(SOON, stream.message()).await.unwrap().unwrap() {
        messages.push(message);
    }
    messages
}

async fn kinds(client: &Client, id: &str) -> Vec<String> {
    let events = all(events(client, id, false).await).await;
    assert!(events.iter().zip(1..).all(|(e, seq)| e.seq == seq && e.session == id), "{events:?}");
    events.into_iter().map(|e| e.kind).collect()
}

async fn session(client: &Client, id: &str) -> Session {
    let reply = client.clone().inspect(InspectRequest { id: id.into() }).await.unwrap().into_inner();
    reply.session.unwrap()
}
