//! The whole service against a launcher, keepers and relays that the tests play.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use agentd_kernel::packets::Packets;
use agentd_policy::config::Config;
use agentd_policy::event::{Actor, End, EventBody, ExitStatus, SourceEvent};
use agentd_policy::plan::{Mode, Plan};
use agentd_policy::wire::{self, CallerNumber, FromKeeper, FromLauncher, FromService, Peer, ToKeeper, frame};
use agentd_proto::v1::attach_input::Kind as In;
use agentd_proto::v1::attach_output::Kind as Out;
use agentd_proto::v1::sessions_client::SessionsClient;
use agentd_proto::v1::*;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt;

use crate::host::Host;
use crate::link::Link;

const ALICE: Peer = Peer { uid: 1000, gid: 1000, pid: 10, admin: false };
const BOB: Peer = Peer { uid: 1001, gid: 1001, pid: 11, admin: false };
const ADMIN: Peer = Peer { uid: 1002, gid: 1002, pid: 12, admin: true };
const SOON: Duration = Duration::from_secs(5);

/// The launcher, as the test plays it.
struct Stage {
    launcher: Link,
    sender: Packets,
    next: u64,
    root: PathBuf,
    host: Arc<Host>,
}

type Client = SessionsClient<Channel>;

/// A session's other ends.
struct Played {
    id: String,
    plan: Plan,
    keeper: Link,
    relay: UnixStream,
    number: u64,
}

impl Stage {
    fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("agentd-loop-{name}-{}", std::process::id()));
        std::fs::create_dir_all(root.join("audit")).unwrap();
        std::fs::create_dir_all(root.join("profiles")).unwrap();
        let at = root.display();
        let text = format!(
            "runtime_dir = '{at}'\nstate_dir = '{at}'\nprofile_dirs = ['{at}/profiles']\n\
             [bounds]\nmax_sessions_per_user = 3"
        );
        let (ours, theirs) = Packets::pair().unwrap();
        let (host, incoming, link) = crate::assemble(Config::parse(&text).unwrap(), theirs).unwrap();
        for (peer, name) in [(ALICE, "alice"), (BOB, "bob"), (ADMIN, "admin")] {
            host.users.put(peer.uid, name);
        }
        tokio::spawn(crate::api::serve(host.clone(), incoming));
        tokio::spawn(link);
        let sender = ours.try_clone().unwrap();
        Self { launcher: Link::new(ours).unwrap(), sender, next: 0, root, host }
    }

    async fn connect(&mut self, peer: Peer) -> Client {
        let (ours, theirs) = UnixStream::pair().unwrap();
        self.next += 1;
        let caller = FromLauncher::Caller { number: CallerNumber(self.next), peer };
        self.sender.send(&wire::encode(&caller).unwrap(), &[theirs.as_fd()]).unwrap();
        let mut stream = Some(ours);
        let connector = tower::service_fn(move |_| {
            let stream = stream.take();
            async { stream.map(TokioIo::new).ok_or_else(|| std::io::Error::other("one connection only")) }
        });
        let channel = Endpoint::from_static("http://agentd").connect_with_connector(connector).await.unwrap();
        SessionsClient::new(channel)
    }

    async fn heard(&self) -> FromService {
        let packet = timeout(SOON, self.launcher.receive(0)).await.unwrap().unwrap().unwrap();
        wire::decode(&packet.bytes).unwrap()
    }

    /// Asks for a session and builds it.
    async fn run(&mut self, client: &Client, spec: RunSpec) -> Played {
        let (mut client, stage) = (client.clone(), &*self);
        let created = client.create(request(spec));
        let built = async {
            let FromService::Build { request, caller, plan, .. } = stage.heard().await else { panic!() };
            let (keeper, keeper_theirs) = Packets::pair().unwrap();
            let (relay, relay_theirs) = UnixStream::pair().unwrap();
            let answer = wire::encode(&FromLauncher::Built { request, timings: vec![] }).unwrap();
            stage.sender.send(&answer, &[keeper_theirs.as_fd(), relay_theirs.as_fd()]).unwrap();
            (*plan, Link::new(keeper).unwrap(), relay, caller.0)
        };
        let (created, (plan, keeper, relay, number)) = tokio::join!(created, built);
        let id = created.unwrap().into_inner().id;
        assert_eq!(id, plan.session.as_str());
        Played { id, plan, keeper, relay, number }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

fn spec() -> RunSpec {
    RunSpec { command: vec!["echo".into(), "hi".into()], cwd: "/srv/p".into(), ..RunSpec::default() }
}

fn request(spec: RunSpec) -> CreateRequest {
    let path = WantedPath { path: spec.cwd.clone(), role: "workspace".into(), mode: "overlay".into() };
    CreateRequest { spec: Some(spec), ticket: vec![7; 32].into(), paths: vec![path] }
}

fn rule(status: &Status) -> String {
    let info = status.get_details_error_info().unwrap();
    assert_eq!(info.domain, "agentd");
    assert!(info.metadata.contains_key("what") && info.metadata.contains_key("mend"));
    info.reason
}

fn source(number: u64, body: EventBody) -> Vec<u8> {
    let time_us = 1_767_323_045_000_000 + number;
    wire::encode(&FromKeeper::Event(SourceEvent { number, time_us, body })).unwrap()
}

fn exec() -> EventBody {
    let actor = Actor { pid: 3, ppid: Some(2), exe: None };
    EventBody::Exec { actor, path: "/usr/bin/echo".into(), interpreters: vec![], argv: None }
}

impl Played {
    async fn say(&self, number: u64, body: EventBody) {
        self.keeper.send(&source(number, body)).await.unwrap();
    }

    async fn end(&self, number: u64, code: i32) {
        self.say(number, EventBody::Ended(End::Command(ExitStatus::Code(code)))).await;
    }

    /// What the service says to the keeper, but for acknowledgements.
    async fn told(&self) -> ToKeeper {
        loop {
            let packet = timeout(SOON, self.keeper.receive(0)).await.unwrap().unwrap().unwrap();
            match wire::decode(&packet.bytes).unwrap() {
                ToKeeper::Ack(_) => {}
                other => return other,
            }
        }
    }

    async fn acknowledged(&self) -> u64 {
        let packet = timeout(SOON, self.keeper.receive(0)).await.unwrap().unwrap().unwrap();
        match wire::decode(&packet.bytes).unwrap() {
            ToKeeper::Ack(number) => number,
            other => panic!("{other:?}"),
        }
    }

    async fn output(&mut self, kind: u8, bytes: &[u8]) {
        self.relay.write_all(&frame::header(kind, bytes.len()).unwrap()).await.unwrap();
        self.relay.write_all(bytes).await.unwrap();
    }

    async fn input(&mut self) -> (u8, Vec<u8>) {
        let mut header = [0; frame::HEADER];
        timeout(SOON, self.relay.read_exact(&mut header)).await.unwrap().unwrap();
        let (kind, len) = frame::parse(header).unwrap();
        let mut payload = vec![0; len];
        self.relay.read_exact(&mut payload).await.unwrap();
        (kind, payload)
    }

    fn gone(&self, stage: &Stage) {
        let gone = FromLauncher::Gone { session: self.plan.session.clone(), errors: vec![] };
        stage.sender.send(&wire::encode(&gone).unwrap(), &[]).unwrap();
    }
}

async fn attach(
    client: &Client,
    id: &str,
) -> Result<(mpsc::Sender<AttachInput>, Streaming<AttachOutput>), Status> {
    let (to, input) = mpsc::channel(8);
    send(&to, In::Open(AttachOpen { id: id.into() })).await;
    let mut output = client.clone().attach(ReceiverStream::new(input)).await?.into_inner();
    assert_eq!(next(&mut output).await, Out::Attached(true));
    Ok((to, output))
}

async fn send(to: &mpsc::Sender<AttachInput>, kind: In) {
    to.send(AttachInput { kind: Some(kind) }).await.unwrap();
}

async fn next(output: &mut Streaming<AttachOutput>) -> Out {
    timeout(SOON, output.message()).await.unwrap().unwrap().unwrap().kind.unwrap()
}

async fn events(client: &Client, id: &str, follow: bool) -> Streaming<Event> {
    let request = EventsRequest { id: id.into(), follow, ..EventsRequest::default() };
    client.clone().events(request).await.unwrap().into_inner()
}

async fn all(mut stream: Streaming<Event>) -> Vec<Event> {
    let mut events = Vec::new();
    while let Some(event) = timeout(SOON, stream.message()).await.unwrap().unwrap() {
        events.push(event);
    }
    events
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_from_its_start_to_its_end() {
    let mut stage = Stage::new("whole");
    let client = stage.connect(ALICE).await;
    let resolved = client.clone().resolve(ResolveRequest { spec: Some(spec()) }).await.unwrap().into_inner();
    assert_eq!(resolved.paths.len(), 1);
    assert!(resolved.offer_socket.ends_with("/offer.sock") && resolved.plan_json.contains("\"/srv/p\""));
    let mut played = stage.run(&client, RunSpec { name: "web".into(), ..spec() }).await;
    assert_eq!(played.plan.workspaces[0].mode, Mode::Overlay);
    let (to, mut output) = attach(&client, &played.id).await.unwrap();

    send(&to, In::Stdin("x".repeat(70_000).into())).await;
    send(&to, In::StdinEof(true)).await;
    send(&to, In::Resize(WindowSize { rows: 24, cols: 300 })).await;
    send(&to, In::Signal(2)).await;
    assert_eq!(played.input().await, (frame::STDIN, vec![b'x'; frame::MAX]));
    assert_eq!(played.input().await.1.len(), 70_000 - frame::MAX);
    assert_eq!(played.input().await, (frame::STDIN_EOF, vec![]));
    assert_eq!(played.input().await, (frame::RESIZE, vec![24, 0, 44, 1]));
    assert_eq!(played.told().await, ToKeeper::Signal(2));

    played.say(1, EventBody::Started).await;
    played.say(2, exec()).await;
    played.output(frame::STDOUT, b"out").await;
    played.output(frame::STDERR, b"err").await;
    assert_eq!(next(&mut output).await, Out::Stdout("out".into()));
    assert_eq!(next(&mut output).await, Out::Stderr("err".into()));
    let listed = client.clone().list(ListRequest { all: false }).await.unwrap().into_inner().sessions;
    assert_eq!((listed[0].name.as_str(), listed[0].state.as_str()), ("web", "running"));
    assert_eq!((listed[0].user.as_str(), listed[0].profile.as_str()), ("alice", "default"));

    // The exit comes after both the end and the last of the output, in whichever order.
    played.end(3, 42).await;
    played.output(frame::STDOUT, b"last").await;
    played.output(frame::DRAINED, b"").await;
    assert_eq!(next(&mut output).await, Out::Stdout("last".into()));
    let Out::Exit(exit) = next(&mut output).await else { panic!() };
    assert_eq!((exit.reason.as_str(), exit.code), ("exited", Some(42)));
    assert!(output.message().await.unwrap().is_none());

    let events = all(events(&client, "web", false).await).await;
    let kinds: Vec<_> = events.iter().map(|e| e.kind.as_str()).collect();
    assert_eq!(kinds, ["session.created", "session.started", "process.exec", "session.ended"]);
    assert!(events.iter().zip(1..).all(|(e, seq)| e.seq == seq && e.session == played.id));
    let file = std::fs::read_to_string(stage.root.join(format!("audit/{}.jsonl", played.id))).unwrap();
    assert_eq!(file.lines().count(), 4);
    played.gone(&stage);
    let mut again = client.clone();
    let removed = again.remove(RemoveRequest { id: played.id.clone(), force: false });
    let asked = async {
        let FromService::Remove { request, owner, .. } = stage.heard().await else { panic!() };
        assert_eq!(owner, ALICE.uid);
        let done = FromLauncher::Removed { request, refusal: None };
        stage.sender.send(&wire::encode(&done).unwrap(), &[]).unwrap();
    };
    let (removed, ()) = tokio::join!(removed, asked);
    assert_eq!(removed.unwrap().into_inner().id, played.id);
    assert!(stage.host.registry.visible(&ADMIN).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_sees_and_steers_only_its_own() {
    let mut stage = Stage::new("own");
    let alice = stage.connect(ALICE).await;
    let bob = stage.connect(BOB).await;
    let admin = stage.connect(ADMIN).await;
    let played = stage.run(&alice, spec()).await;
    let id = played.id.clone();
    assert!(bob.clone().list(ListRequest { all: true }).await.unwrap().into_inner().sessions.is_empty());
    assert_eq!(admin.clone().list(ListRequest { all: true }).await.unwrap().into_inner().sessions.len(), 1);
    let kill = |id: &str| KillRequest { id: id.into(), signal: None };
    let foreign = bob.clone().kill(kill(&id)).await.unwrap_err();
    let none = bob.clone().kill(kill("0123456789ab")).await.unwrap_err();
    assert_eq!((foreign.code(), rule(&foreign)), (Code::NotFound, "session.unknown".into()));
    assert_eq!(foreign.message().replace(&id, ""), none.message().replace("0123456789ab", ""));
    assert_eq!(rule(&attach(&bob, &id).await.unwrap_err()), "session.unknown");
    let events_of = |id: &str| EventsRequest { id: id.into(), ..EventsRequest::default() };
    assert_eq!(rule(&bob.clone().events(events_of(&id)).await.unwrap_err()), "session.unknown");
    assert!(all(events(&bob, "", false).await).await.is_empty());
    assert_eq!(
        rule(&bob.clone().remove(RemoveRequest { id: id.clone(), force: true }).await.unwrap_err()),
        "session.unknown"
    );
    admin.clone().kill(kill(&id)).await.unwrap();
    assert_eq!(played.told().await, ToKeeper::Kill);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_ends_its_session() {
    let mut stage = Stage::new("leave");
    // It leaves the attach stream.
    let client = stage.connect(ALICE).await;
    let played = stage.run(&client, spec()).await;
    let attached = attach(&client, &played.id).await.unwrap();
    assert_eq!(rule(&attach(&client, &played.id).await.unwrap_err()), "session.attached");
    drop(attached);
    assert_eq!(played.told().await, ToKeeper::Kill);
    // It goes away before it attached.
    let other = stage.connect(ALICE).await;
    let unattached = stage.run(&other, spec()).await;
    drop(other);
    assert_eq!(unattached.told().await, ToKeeper::Kill);
    // What is killed without a word from its keeper has failed.
    drop(unattached.keeper);
    assert!(matches!(stage.heard().await, FromService::Forget { caller } if caller.0 == unattached.number));
    assert!(matches!(stage.heard().await, FromService::End { .. }));
    let lost = client.clone().list(ListRequest { all: true }).await.unwrap().into_inner().sessions;
    let lost = lost.into_iter().find(|s| s.id == unattached.id).unwrap();
    let told = all(events(&client, &lost.id, true).await).await;
    assert_eq!(told.last().unwrap().lifecycle.clone().unwrap().reason.as_deref(), Some("failed"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_to_be_removed_is_forgotten_with_its_last_trace() {
    let mut stage = Stage::new("rm");
    let client = stage.connect(ALICE).await;
    let mut played = stage.run(&client, RunSpec { remove: true, ..spec() }).await;
    let (_to, mut output) = attach(&client, &played.id).await.unwrap();
    played.end(1, 0).await;
    played.output(frame::DRAINED, b"").await;
    assert!(matches!(next(&mut output).await, Out::Exit(_)));
    drop((output, _to, client));
    tokio::time::sleep(Duration::from_millis(50)).await;
    played.gone(&stage);
    assert!(matches!(stage.heard().await, FromService::Forget { caller } if caller.0 == played.number));
    let mut tries = 0;
    while !stage.host.registry.visible(&ADMIN).is_empty() {
        tries += 1;
        assert!(tries < 500);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(stage.host.registry.visible(&ADMIN).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_takes_no_output_holds_up_nothing_else() {
    let mut stage = Stage::new("slow");
    let client = stage.connect(ALICE).await;
    let mut played = stage.run(&client, spec()).await;
    let (_to, output) = attach(&client, &played.id).await.unwrap();
    let chunk = vec![b'x'; frame::MAX];
    let flood = async {
        loop {
            played.relay.write_all(&frame::header(frame::STDOUT, chunk.len()).unwrap()).await.unwrap();
            played.relay.write_all(&chunk).await.unwrap();
        }
    };
    // It stops: back-pressure.
    assert!(timeout(Duration::from_millis(500), flood).await.is_err());
    for number in 1..=2000 {
        timeout(SOON, played.say(number, exec())).await.unwrap();
    }
    let mut last = 0;
    while last < 2000 {
        last = played.acknowledged().await;
    }
    // The same connection still answers.
    let listed = timeout(SOON, client.clone().list(ListRequest { all: true })).await.unwrap().unwrap();
    assert_eq!(listed.into_inner().sessions.len(), 1);
    drop((_to, output));
    assert_eq!(played.told().await, ToKeeper::Kill);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followers_see_each_event_once() {
    let mut stage = Stage::new("follow");
    let client = stage.connect(ALICE).await;
    let played = stage.run(&client, spec()).await;
    let watcher = stage.connect(ALICE).await;
    let mut followers = Vec::new();
    for number in 1..=600 {
        if number % 100 == 0 {
            let stream = events(&watcher, &played.id, true).await;
            followers.push(tokio::spawn(all(stream)));
        }
        played.say(number, exec()).await;
        played.say(number, exec()).await;
        while let Ok(Ok(_)) = timeout(Duration::ZERO, played.keeper.receive(0)).await {}
    }
    played.end(601, 0).await;
    drop(client);
    for follower in followers {
        let seqs: Vec<u64> = follower.await.unwrap().iter().map(|e| e.seq).collect();
        assert_eq!(seqs, (1..=602).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_several_sessions_come_in_the_order_of_time() {
    let mut stage = Stage::new("merge");
    let client = stage.connect(ALICE).await;
    let one = stage.run(&client, spec()).await;
    let two = stage.run(&client, spec()).await;
    for number in [1, 3, 5] {
        one.keeper.send(&source(number, exec())).await.unwrap();
    }
    for number in [2, 4] {
        two.keeper.send(&source(number, exec())).await.unwrap();
    }
    one.acknowledged().await;
    two.acknowledged().await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let times: Vec<String> = all(events(&client, "", false).await)
        .await
        .into_iter()
        .filter(|e| e.kind == "process.exec")
        .map(|e| e.time)
        .collect();
    assert_eq!(times.len(), 5);
    let request = EventsRequest { kinds: vec!["net.denied".into()], ..EventsRequest::default() };
    assert!(all(client.clone().events(request).await.unwrap().into_inner()).await.is_empty());
    let request = EventsRequest { since: "2999-01-01T00:00:00Z".into(), ..EventsRequest::default() };
    assert!(all(client.clone().events(request).await.unwrap().into_inner()).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_name_what_rule_and_mend() {
    let mut stage = Stage::new("refuse");
    let client = stage.connect(ALICE).await;
    let refused = |spec: RunSpec| {
        let mut client = client.clone();
        async move { rule(&client.resolve(ResolveRequest { spec: Some(spec) }).await.unwrap_err()) }
    };
    assert_eq!(refused(RunSpec { cwd: "/home/alice".into(), ..spec() }).await, "workspace.home");
    assert_eq!(refused(RunSpec { cwd: "x".into(), ..spec() }).await, "request.path");
    assert_eq!(refused(RunSpec { command: vec![], ..spec() }).await, "command.empty");
    assert_eq!(refused(RunSpec { mask: vec!["**/.env".into()], ..spec() }).await, "mask.glob");
    let profile = Some(ProfileRef { name: "nobody".into(), files: vec![] });
    assert_eq!(refused(RunSpec { profile, ..spec() }).await, "profile.unknown");
    std::fs::write(
        stage.root.join("profiles/site.toml"),
        "schema = 1\nextends = ['base']\n[limits]\npids = 7",
    )
    .unwrap();
    let profile = Some(ProfileRef { name: "site".into(), files: vec![] });
    let shown = client.clone().show_profile(ShowProfileRequest { profile }).await.unwrap().into_inner().toml;
    assert!(shown.contains("pids = 7") && shown.contains("memory = \"4G\""), "{shown}");
    let without = CreateRequest { ticket: vec![].into(), ..request(spec()) };
    assert_eq!(rule(&client.clone().create(without).await.unwrap_err()), "request.ticket");
    let others = CreateRequest { paths: vec![], ..request(spec()) };
    assert_eq!(rule(&client.clone().create(others).await.unwrap_err()), "request.paths");
    // What the launcher refuses is told as it is, and nothing stays.
    let mut again = client.clone();
    let asked = async {
        let FromService::Build { request, .. } = stage.heard().await else { panic!() };
        let refusal = agentd_policy::Refusal::new("x", "quota.memory", "y");
        stage.sender.send(&wire::encode(&FromLauncher::Refused { request, refusal }).unwrap(), &[]).unwrap();
    };
    let (created, ()) = tokio::join!(again.create(request(spec())), asked);
    assert_eq!(rule(&created.unwrap_err()), "quota.memory");
    assert!(stage.host.registry.visible(&ADMIN).is_empty());
    for _ in 0..3 {
        std::mem::forget(stage.run(&client, spec()).await);
    }
    assert_eq!(
        rule(&client.clone().create(request(spec())).await.unwrap_err()),
        "bounds.max_sessions_per_user"
    );
    let large = ProfileFile { path: "x.toml".into(), toml: "#".repeat(2 << 20) };
    let profile = Some(ProfileRef { name: String::new(), files: vec![large] });
    assert_eq!(refused(RunSpec { profile, ..spec() }).await, "profile.size");
    let root = stage.connect(Peer { uid: 0, gid: 0, pid: 1, admin: false }).await;
    let refusal = root.clone().resolve(ResolveRequest { spec: Some(spec()) }).await.unwrap_err();
    assert_eq!((refusal.code(), rule(&refusal)), (Code::PermissionDenied, "caller.root".into()));
    assert_eq!(root.clone().list(ListRequest { all: true }).await.unwrap().into_inner().sessions.len(), 3);
}

/// Prints what each request takes, the client on a thread of its own, as its process would be. For people:
/// `cargo test -p agentd --release latency -- --ignored --nocapture`.
#[test]
#[ignore = "measures"]
fn latency() {
    use tokio::runtime::Builder;
    for (kind, mut builder) in
        [("one thread", Builder::new_current_thread()), ("two workers", Builder::new_multi_thread())]
    {
        let server = builder.worker_threads(2).enable_all().build().unwrap();
        let mut stage = server.block_on(async { Stage::new("latency") });
        let (done, until) = tokio::sync::oneshot::channel::<()>();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let client = Builder::new_current_thread().enable_all().build().unwrap();
                let (version, resolve) = client.block_on(measure(&mut stage));
                println!("{kind}: version {version:?}, resolve {resolve:?}");
                drop(done);
            });
            let _ = server.block_on(until);
        });
    }
}

async fn measure(stage: &mut Stage) -> (Duration, Duration) {
    let mut client = stage.connect(ALICE).await;
    let mut samples = (Vec::new(), Vec::new());
    for _ in 0..500 {
        let start = std::time::Instant::now();
        client.version(VersionRequest {}).await.unwrap();
        samples.0.push(start.elapsed());
        let start = std::time::Instant::now();
        client.resolve(ResolveRequest { spec: Some(spec()) }).await.unwrap();
        samples.1.push(start.elapsed());
    }
    samples.0.sort();
    samples.1.sort();
    (samples.0[250], samples.1[250])
}
