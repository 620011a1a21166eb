//! What is refused, and how that is reported.

use agentd_policy::rule::Rule;
use tonic::Code;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_name_what_rule_and_mend() {
    let mut stage = Stage::new("refuse");
    let client = stage.connect(ALICE).await;
    let refused = |spec: RunSpec| {
        let mut client = client.clone();
        async move { rule(&client.create(request(spec)).await.unwrap_err()) }
    };
    assert_eq!(refused(RunSpec { cwd: "/home/alice".into(), ..spec() }).await, "workspace.home");
    assert_eq!(refused(RunSpec { cwd: "x".into(), ..spec() }).await, "request.path");
    assert_eq!(refused(RunSpec { command: vec![], ..spec() }).await, "command.empty");
    assert_eq!(refused(RunSpec { mask: vec!["*/.env".into()], ..spec() }).await, "mask.glob");
    let extending = "schema = 1\nextends = ['base']".to_owned();
    assert_eq!(refused(RunSpec { profile: extending, ..spec() }).await, "request.profile");
    assert_eq!(refused(RunSpec { profile: String::new(), ..spec() }).await, "profile.form");
    let without = CreateRequest { ticket: vec![].into(), ..request(spec()) };
    assert_eq!(rule(&client.clone().create(without).await.unwrap_err()), "request.ticket");
    let others = CreateRequest { paths: vec![], ..request(spec()) };
    assert_eq!(rule(&client.clone().create(others).await.unwrap_err()), "request.paths");
    // What the launcher refuses is passed on as it is, and nothing stays.
    let mut again = client.clone();
    let asked = async {
        let FromService::Build { request, .. } = stage.received().await else { panic!() };
        let refusal = agentd_policy::Refusal::new("x", Rule::BoundsUserMemory, "y");
        stage.sender.send(&wire::encode(&FromLauncher::Refused { request, refusal }).unwrap(), &[]).unwrap();
    };
    let (created, ()) = tokio::join!(again.create(request(spec())), asked);
    assert_eq!(rule(&created.unwrap_err()), "bounds.user_memory");
    assert!(stage.host.registry.visible(&ADMIN).is_empty());
    for _ in 0..3 {
        std::mem::forget(stage.run(&client, spec()).await);
    }
    assert_eq!(
        rule(&client.clone().create(request(spec())).await.unwrap_err()),
        "bounds.max_sessions_per_user"
    );
    let profile = "#".repeat(2 << 20);
    assert_eq!(refused(RunSpec { profile, ..spec() }).await, "profile.size");
    let root = stage.connect(Peer { uid: 0, gid: 0, pid: 1, admin: false }).await;
    let refusal = root.clone().create(request(spec())).await.unwrap_err();
    assert_eq!((refusal.code(), rule(&refusal)), (Code::PermissionDenied, "caller.root".into()));
    assert_eq!(root.clone().list(ListRequest { all: true }).await.unwrap().into_inner().sessions.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_too_often_is_refused_and_others_are_not() {
    let mut stage = Stage::with("rate", "user_requests = 5");
    let alice = stage.connect(ALICE).await;
    let bob = stage.connect(BOB).await;
    let mut refused = 0;
    for _ in 0..50 {
        match alice.clone().version(VersionRequest {}).await {
            Ok(_) => {}
            Err(status) => {
                assert_eq!(
                    (status.code(), rule(&status)),
                    (Code::ResourceExhausted, "bounds.user_requests".into())
                );
                refused += 1;
            }
        }
    }
    assert!(refused >= 35, "{refused}");
    bob.clone().version(VersionRequest {}).await.unwrap();
    tokio::time::sleep(Duration::from_millis(400)).await;
    alice.clone().version(VersionRequest {}).await.unwrap();
}
