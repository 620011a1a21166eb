//! One user's flood: it is refused at its bound, and nobody else is slower for it than for the CPU that it takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use agentd_proto::v1::{EventsRequest, ListRequest, VersionRequest};
use agentd_tests::harness::{Alone, Api, Session, Setup, World, alone};
use tonic::Code;

/// Requests of one user a second.
const BOUND: usize = 200;
/// How many sessions the other user runs meanwhile.
const RUNS: usize = 10;

/// The tests of this file.
pub(crate) fn tests() -> Vec<Alone> {
    let setup = || Setup::with(&format!("[bounds]\nuser_requests = {BOUND}"));
    vec![
        alone("api::flood::of_requests", setup(), requests),
        alone("api::flood::of_connections", setup(), connections),
        alone("api::flood::of_sessions", Setup::with("[bounds]\nmax_sessions_per_user = 3"), sessions),
    ]
}

/// What came of a flood.
#[derive(Default)]
struct Counts {
    served: AtomicUsize,
    refused: AtomicUsize,
    otherwise: AtomicUsize,
    over: AtomicBool,
}

impl Counts {
    fn count(&self, result: Result<(), Code>) {
        match result {
            Ok(()) => &self.served,
            Err(Code::ResourceExhausted) => &self.refused,
            Err(_) => &self.otherwise,
        }
        .fetch_add(1, Ordering::Relaxed);
    }
}

/// Asks on four connections, eight at a time on each, until it is over.
fn flood(world: &World, counts: &Arc<Counts>) -> Vec<Api> {
    (0..4)
        .map(|_| {
            let api = world.api(world.b());
            for number in 0..8 {
                let (mut client, counts) = (api.client(), counts.clone());
                api.spawn(async move {
                    while !counts.over.load(Ordering::Relaxed) {
                        let result = match number % 3 {
                            0 => client.list(ListRequest { all: true }).await.map(drop),
                            1 => client.version(VersionRequest {}).await.map(drop),
                            _ => client.events(EventsRequest::default()).await.map(drop),
                        };
                        counts.count(result.map_err(|status| status.code()));
                    }
                });
            }
            api
        })
        .collect()
}

/// Ten sessions of user a; how long they took.
fn ten(world: &World) -> Duration {
    let start = Instant::now();
    for _ in 0..RUNS {
        Session::new(world, world.a(), world.workspace(world.a()))
            .option("--rm")
            .run(["true"])
            .expect_code(0);
    }
    start.elapsed()
}

fn requests(world: &World) {
    let alone = ten(world);
    let counts = Arc::new(Counts::default());
    let start = Instant::now();
    let flooding = flood(world, &counts);
    let beside = ten(world);
    counts.over.store(true, Ordering::Relaxed);
    let seconds = start.elapsed().as_secs_f64();
    drop(flooding);
    let get = |count: &AtomicUsize| count.load(Ordering::Relaxed);
    let (served, refused, otherwise) = (get(&counts.served), get(&counts.refused), get(&counts.otherwise));
    eprintln!(
        "{RUNS} sessions: {alone:?} alone, {beside:?} beside {served} requests served and {refused} refused"
    );
    assert!(refused > 0, "nothing of the flood was refused");
    assert_eq!(otherwise, 0, "requests that ended otherwise");
    // The bound, a burst of twice that, and what is under way at the end.
    let most = BOUND as f64 * (seconds + 2.0) + 100.0;
    assert!((served as f64) < most, "{served} served in {seconds} s");
}

/// As many connections as may be, each busy: another user gets in.
fn connections(world: &World) {
    let before = ten(world);
    let held: Vec<_> = (0..200).map_while(|_| Api::connect(world.daemon(), world.b()).ok()).collect();
    let asked = held.iter().filter(|api| api.ask(api.client().version(VersionRequest {})).is_ok()).count();
    assert!(asked < held.len(), "{asked} connections of one user are served at a time");
    let beside = ten(world);
    eprintln!("{RUNS} sessions: {before:?} alone, {beside:?} beside {asked} connections");
}

/// A user's sessions are counted; another's are not.
fn sessions(world: &World) {
    let api = world.api(world.b());
    let new = || {
        let spec = world.spec(world.b(), &world.workspace(world.b()), &["sleep", "1000"]);
        api.create(spec).map_err(|status| status.code())
    };
    for _ in 0..3 {
        new().expect("a session within the bound");
    }
    assert_eq!(new().unwrap_err(), Code::ResourceExhausted);
    ten(world);
}
