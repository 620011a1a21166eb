//! The calls, each as its name in the table.

use agentd_proto::v1::{
    AttachInput, AttachOpen, DoctorRequest, EventsRequest, ExecOpen, InspectRequest, KillRequest,
    ListRequest, LogsRequest, RemoveRequest, StopRequest, VersionRequest, WatchRequest, attach_input,
};
use agentd_tests::harness::{Api, User, World};
use tokio_stream::StreamExt;
use tonic::{Code, Response, Status, Streaming};
use tonic_types::StatusExt;

/// A session, or what could be one.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) id: String,
    pub(crate) name: String,
}

/// Whether a stream begins; what it begins with is thrown away, and so is it.
async fn begins<T>(stream: Result<Response<Streaming<T>>, Status>) -> Result<(), Status> {
    stream?.into_inner().message().await.map(drop)
}

fn first(kind: attach_input::Kind) -> impl tokio_stream::Stream<Item = AttachInput> + Send + 'static {
    // The request stays open: its end would be the client's.
    tokio_stream::once(AttachInput { kind: Some(kind) }).chain(tokio_stream::pending())
}

fn open(id: &str, watch: bool) -> attach_input::Kind {
    attach_input::Kind::Open(AttachOpen { id: id.into(), watch, window: None, resume: None })
}

fn exec(id: &str) -> attach_input::Kind {
    let command = vec![b"/usr/bin/true".to_vec().into()];
    attach_input::Kind::Exec(ExecOpen { id: id.into(), command, ..ExecOpen::default() })
}

/// Makes a call on a session.
pub(crate) fn on_session(api: &Api, call: &str, target: &Target) -> Result<(), Status> {
    by(api, call, &target.id)
}

fn by(api: &Api, call: &str, id: &str) -> Result<(), Status> {
    let (mut client, id) = (api.client(), id.to_owned());
    api.wait(async move {
        match call {
            "inspect" => client.inspect(InspectRequest { id }).await.map(drop),
            "watch" => begins(client.watch(WatchRequest { id }).await).await,
            "events" => begins(client.events(EventsRequest { id, ..EventsRequest::default() }).await).await,
            "logs" => begins(client.logs(LogsRequest { id, ..LogsRequest::default() }).await).await,
            "attach" => begins(client.attach(first(open(&id, false))).await).await,
            "attach-watch" => begins(client.attach(first(open(&id, true))).await).await,
            "exec" => begins(client.exec(first(exec(&id))).await).await,
            "signal" => client.kill(KillRequest { id, signal: Some(18) }).await.map(drop),
            "kill" => client.kill(KillRequest { id, signal: None }).await.map(drop),
            "stop" => client.stop(StopRequest { id, grace_ms: Some(100) }).await.map(drop),
            "remove" => client.remove(RemoveRequest { id, force: false }).await.map(drop),
            "remove-force" => client.remove(RemoveRequest { id, force: true }).await.map(drop),
            other => panic!("table.md: no call is called {other:?}"),
        }
    })
}

/// Makes a call that is about no one session.
pub(crate) fn on_none(world: &World, user: &User, api: &Api, call: &str) -> Result<(), Status> {
    let home = if user.uid == 0 { world.workspace(world.a()) } else { world.workspace(user) };
    let spec = world.spec(user, &home, &["true"]);
    let mut client = api.client();
    if call == "create" {
        return api.create(spec).map(drop);
    }
    let doctor = |leaks, clean| DoctorRequest { leaks, clean };
    api.wait(async move {
        match call {
            "version" => client.version(VersionRequest {}).await.map(drop),
            "list" => client.list(ListRequest { all: true }).await.map(drop),
            "all-events" => begins(client.events(EventsRequest::default()).await).await,
            "doctor" => client.doctor(doctor(false, false)).await.map(drop),
            "doctor-leaks" => client.doctor(doctor(true, false)).await.map(drop),
            "doctor-clean" => client.doctor(doctor(true, true)).await.map(drop),
            other => panic!("table.md: no call is called {other:?}"),
        }
    })
}

/// A refusal has a rule, what and a hint.
#[track_caller]
pub(crate) fn check_form(status: &Status, what: &str) {
    let details = String::from_utf8_lossy(status.details()).into_owned();
    for part in ["google.rpc.ErrorInfo", "agentd", "what", "hint"] {
        assert!(details.contains(part), "{what}: {part} in the details of {status:?}");
    }
}

/// The answer about a foreign session is that about one which never existed: to its id, to the beginning of it,
/// and to its name.
#[track_caller]
pub(crate) fn check_says_nothing(api: &Api, call: &str, target: &Target, status: &Status, what: &str) {
    let never = Target { id: "0fedcba98765".into(), name: "never".repeat(20)[..target.name.len()].into() };
    assert_same(status, &target.id, &answer(api, call, &never.id), &never.id, what);
    for (there, not) in [(&target.name[..], &never.name[..]), (&target.id[..8], &never.id[..8])] {
        assert_same(&answer(api, call, there), there, &answer(api, call, not), not, what);
    }
}

#[track_caller]
fn answer(api: &Api, call: &str, id: &str) -> Status {
    by(api, call, id).expect_err("none of the caller's sessions")
}

/// Code, message, details and metadata, but for the word that was asked for.
#[track_caller]
fn assert_same(foreign: &Status, word: &str, never: &Status, other: &str, what: &str) {
    assert_eq!((foreign.code(), never.code()), (Code::NotFound, Code::NotFound), "{what}");
    let parts = |status: &Status, word: &str| {
        let mut metadata: Vec<String> = status
            .metadata()
            .iter()
            .map(|entry| format!("{entry:?}"))
            .filter(|text| !text.contains("date"))
            .collect();
        metadata.sort();
        // The entries of its map come in any order, of this one as of that.
        let info = status.get_details_error_info().expect("a refusal's details");
        let mut entries: Vec<String> =
            info.metadata.iter().map(|(key, value)| format!("{key}={}", value.replace(word, "ID"))).collect();
        entries.sort();
        (status.message().replace(word, "ID"), info.reason, info.domain, entries, metadata)
    };
    assert_eq!(parts(foreign, word), parts(never, other), "{what}: the answers differ");
    assert_eq!(foreign.details().len(), never.details().len(), "{what}: the answers differ");
}
