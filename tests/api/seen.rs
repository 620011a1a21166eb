//! What lists and streams show to whom.

use std::time::Duration;

use agentd_proto::v1::{EventsRequest, InspectRequest, ListRequest};
use agentd_tests::harness::{Session, User, World, within};

fn ids(world: &World, user: &User) -> Vec<String> {
    let api = world.api(user);
    let reply = api.ask(api.client().list(ListRequest { all: true })).expect("a list");
    let mut ids: Vec<String> = reply.sessions.into_iter().map(|session| session.id).collect();
    ids.sort();
    ids
}

fn one_each(world: &World) -> [String; 3] {
    [world.a(), world.b(), world.admin()].map(|owner| {
        let api = world.api(owner);
        let spec = world.spec(owner, &world.workspace(owner), &["bash", "-c", "echo up; sleep 1000"]);
        api.create(spec).expect("a session")
    })
}

/// Each user's list has that user's sessions; an admin's and root's have all.
pub(crate) fn lists(world: &World) {
    let [a, b, admin] = one_each(world);
    let mut all = vec![a.clone(), b.clone(), admin];
    all.sort();
    assert_eq!(ids(world, world.a()), [a]);
    assert_eq!(ids(world, world.b()), [b]);
    assert_eq!(ids(world, world.admin()), all);
    assert_eq!(ids(world, &User::root()), all);
}

/// Somebody who follows all events receives no event of another's session.
pub(crate) fn followed(world: &World) {
    let api = world.api(world.b());
    let mut client = api.client();
    let (received, events) = std::sync::mpsc::channel();
    api.spawn(async move {
        let request = EventsRequest { follow: true, ..EventsRequest::default() };
        let Ok(stream) = client.events(request).await else { return };
        let mut stream = stream.into_inner();
        while let Ok(Some(event)) = stream.message().await {
            if received.send(event).is_err() {
                return;
            }
        }
    });
    // One's own session before and after, which is received, and another's between them.
    let run = |user: &User| {
        Session::new(world, user, world.workspace(user)).run(["true"]).expect_code(0);
    };
    run(world.b());
    run(world.a());
    run(world.b());
    let mut ends = 0;
    while ends < 2 {
        let event = events.recv_timeout(Duration::from_secs(10)).expect("one's own events");
        let api = world.api(world.b());
        let own = api.ask(api.client().inspect(InspectRequest { id: event.session.clone() }));
        assert!(own.is_ok(), "an event of another's session: {event:?}");
        ends += usize::from(event.kind == "session.ended");
    }
}

/// `grpc.health.v1` and reflection, over HTTP/2 as anybody's tools speak them.
pub(crate) fn health(world: &World) {
    for service in ["", "agentd.v1.Sessions"] {
        let body = crate::seen::check_request(service);
        let answer = raw(world, "/grpc.health.v1.Health/Check", body);
        // HealthCheckResponse { status: SERVING }
        assert_eq!(answer.expect("an answer"), [0x08, 0x01], "{service:?}");
    }
    // ServerReflectionRequest { list_services: "*" }
    let answer = raw(world, "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", vec![0x3a, 1, b'*']);
    let answer = answer.expect("an answer");
    assert!(String::from_utf8_lossy(&answer).contains("agentd.v1.Sessions"), "{answer:?}");
}

fn check_request(service: &str) -> Vec<u8> {
    match u8::try_from(service.len()) {
        Ok(0) | Err(_) => Vec::new(),
        Ok(len) => [&[0x0a, len], service.as_bytes()].concat(),
    }
}

/// A call by its path alone; the first message of the answer.
fn raw(world: &World, path: &'static str, body: Vec<u8>) -> Result<Vec<u8>, tonic::Status> {
    world.api(world.a()).raw(path, body)
}

pub(crate) fn outsiders(world: &World) {
    let refused = agentd_tests::harness::Api::connect(world.daemon(), world.outsider());
    assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
}

/// The beginning of an id is that of one's own sessions only: another's does not make it ambiguous.
pub(crate) fn prefixes(world: &World) {
    let api = world.api(world.a());
    let own = one_each(world)[0].clone();
    // Until somebody else's begins as ours does.
    let shared = within(Duration::from_secs(20), || {
        let spec = world.spec(world.b(), &world.workspace(world.b()), &["true"]);
        let id = world.api(world.b()).create(spec).expect("a session");
        if id[..1] == own[..1] { Ok(()) } else { Err(()) }
    });
    if shared.is_ok() {
        let found = api.ask(api.client().inspect(InspectRequest { id: own[..1].into() })).expect("one's own");
        assert_eq!(found.session.expect("a session").id, own);
    }
}
