//! Sessions from their start to their end, for whom they are, and what is recorded of them.

use agentd_policy::mode::Mode;
use agentd_proto::v1::{ReviewDetail, ReviewedRequest};
use tonic::Code;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_from_its_start_to_its_end() {
    let mut stage = Stage::new("whole");
    let client = stage.connect(ALICE).await;
    let mut played = stage.run(&client, RunSpec { name: "web".into(), ..spec() }).await;
    assert_eq!(played.plan.workspaces[0].mode, Mode::Overlay);
    let (to, mut output) = attach(&client, &played.id).await.unwrap();

    send(&to, In::Stdin("x".repeat(70_000).into())).await;
    send(&to, In::StdinEof(true)).await;
    send(&to, In::Signal(2)).await;
    assert_eq!(played.input().await, (frame::STDIN, vec![b'x'; frame::MAX]));
    assert_eq!(played.input().await.1.len(), 70_000 - frame::MAX);
    assert_eq!(played.input().await, (frame::STDIN_EOF, vec![]));
    send(&to, In::Resize(WindowSize { rows: 24, cols: 300 })).await;
    assert_eq!(played.input().await, (frame::RESIZE, vec![24, 0, 44, 1]));
    assert_eq!(played.to_keeper().await, ToKeeper::Signal { command: 0, signal: 2 });

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
    let expected =
        ["session.created", "session.attached", "session.started", "process.exec", "session.ended"];
    assert_eq!(kinds, expected);
    assert!(events.iter().zip(1..).all(|(e, seq)| e.seq == seq && e.session == played.id));
    let file = std::fs::read_to_string(stage.root.join(format!("audit/{}.jsonl", played.id))).unwrap();
    assert_eq!(file.lines().count(), 5);
    let inspect = InspectRequest { id: "web".into() };
    let known = client.clone().inspect(inspect).await.unwrap().into_inner();
    assert_eq!((known.events, known.output, known.cwd.as_str()), (5, 10, "/srv/p"));
    assert!(!known.started.is_empty() && !known.ended.is_empty() && known.limits.unwrap().memory > 0);
    assert_eq!((known.mounts[0].path.as_str(), known.mounts[0].mode.as_str()), ("/srv/p", "overlay"));
    played.gone(&stage);
    let mut again = client.clone();
    let removed = again.remove(RemoveRequest { id: played.id.clone(), force: false });
    let asked = async {
        let FromService::Remove { request, owner, .. } = stage.received().await else { panic!() };
        assert_eq!(owner, ALICE.uid);
        let done = FromLauncher::Removed { request, refusal: None };
        stage.sender.send(&wire::encode(&done).unwrap(), &[]).unwrap();
    };
    let (removed, ()) = tokio::join!(removed, asked);
    assert_eq!(removed.unwrap().into_inner().id, played.id);
    assert!(stage.host.registry.visible(&ALICE).is_empty());
    let left = std::fs::read_dir(stage.root.join("audit")).unwrap();
    let mut left: Vec<_> = left.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    left.retain(|name| name != "reserve");
    left.sort_unstable();
    let record = ["jsonl", "removed"].map(|end| format!("{id}.{end}", id = played.id));
    assert_eq!(left, record, "events and record stay");
    // For its user it is gone, for admins it is on record, with this service and the next.
    for restarts in 0..2 {
        if restarts > 0 {
            stage.restart();
        }
        let (client, admin) = (stage.connect(ALICE).await, stage.connect(ADMIN).await);
        let list = |mut client: Client| async move {
            client.list(ListRequest { all: true }).await.unwrap().into_inner().sessions
        };
        assert!(list(client.clone()).await.is_empty());
        let listed = list(admin.clone()).await;
        assert_eq!((listed.len(), listed[0].state.as_str(), &listed[0].id), (1, "removed", &played.id));
        let of = |mut client: Client, id: &str| {
            let request = EventsRequest { id: id.to_owned(), ..EventsRequest::default() };
            async move { client.events(request).await }
        };
        assert_eq!(of(client, &played.id).await.unwrap_err().code(), Code::NotFound);
        for id in ["", &played.id] {
            let events = all(of(admin.clone(), id).await.unwrap().into_inner()).await;
            assert_eq!(events.len(), 5, "{id:?}");
        }
    }
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
    let unknown = "0123456789ab";
    let mut answers = Vec::new();
    for id in [id.as_str(), unknown] {
        let mut bob = bob.clone();
        let (to, exec_input) = mpsc::channel(1);
        send(&to, In::Exec(ExecOpen { id: id.into(), command: vec!["a".into()], ..ExecOpen::default() }))
            .await;
        let of = EventsRequest { id: id.into(), ..EventsRequest::default() };
        answers.push([
            bob.kill(kill(id)).await.unwrap_err(),
            bob.stop(StopRequest { id: id.into(), grace_ms: None }).await.unwrap_err(),
            bob.remove(RemoveRequest { id: id.into(), force: true }).await.unwrap_err(),
            bob.inspect(InspectRequest { id: id.into() }).await.unwrap_err(),
            bob.watch(WatchRequest { id: id.into() }).await.unwrap_err(),
            bob.logs(LogsRequest { id: id.into(), ..LogsRequest::default() }).await.unwrap_err(),
            bob.events(of).await.unwrap_err(),
            bob.exec(ReceiverStream::new(exec_input)).await.unwrap_err(),
            attach(&bob, id).await.unwrap_err(),
        ]);
    }
    for (foreign, none) in answers[0].iter().zip(&answers[1]) {
        assert_eq!((foreign.code(), rule(foreign)), (Code::NotFound, "session.unknown".into()));
        assert_eq!(foreign.message().replace(&id, unknown), none.message());
    }
    assert!(all(events(&bob, "", false).await).await.is_empty());
    // Root looks, and ends; it takes no part.
    let root = stage.connect(ROOT).await;
    assert_eq!(root.clone().list(ListRequest { all: true }).await.unwrap().into_inner().sessions.len(), 1);
    assert_eq!(session(&root, &id).await.state, "running");
    assert_eq!(rule(&attach(&root, &id).await.unwrap_err()), "caller.root");
    let logs = LogsRequest { id: id.clone(), ..LogsRequest::default() };
    assert_eq!(rule(&root.clone().logs(logs).await.unwrap_err()), "caller.root");
    let remove = RemoveRequest { id: id.clone(), force: true };
    assert_eq!(rule(&root.clone().remove(remove).await.unwrap_err()), "caller.root");
    admin.clone().kill(kill(&id)).await.unwrap();
    assert_eq!(played.to_keeper().await, ToKeeper::Kill);
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
    let mut tries = 0;
    while !stage.host.registry.visible(&ALICE).is_empty() {
        tries += 1;
        assert!(tries < 500);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let on_record = stage.host.registry.visible(&ADMIN);
    assert!(on_record.len() == 1 && on_record[0].is_removed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followers_see_each_event_once() {
    let mut stage = Stage::new("follow");
    let client = stage.connect(ALICE).await;
    let mut played = stage.run(&client, spec()).await;
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
    played.output(frame::DRAINED, b"").await;
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
async fn what_became_of_its_changes_is_on_record_behind_its_end() {
    let mut stage = Stage::new("reviewed");
    let client = stage.connect(ALICE).await;
    let mut played = stage.run(&client, spec()).await;
    let (_to, mut output) = attach(&client, &played.id).await.unwrap();
    played.say(1, EventBody::Started).await;
    played.end(2, 0).await;
    played.output(frame::DRAINED, b"").await;
    assert!(matches!(next(&mut output).await, Out::Exit(_)));
    let review = |action: &str, remaining| ReviewedRequest {
        id: played.id.clone(),
        action: action.into(),
        files: 2,
        remaining,
        remaining_bytes: 9 * remaining,
    };
    client.clone().reviewed(review("seen", 2)).await.unwrap();
    let changes = session(&client, &played.id).await.changes.unwrap();
    assert_eq!((changes.state.as_str(), changes.files, changes.bytes), ("unapplied", 2, 18));
    played.gone(&stage);
    client.clone().reviewed(review("applied", 1)).await.unwrap();
    client.clone().reviewed(review("discarded", 0)).await.unwrap();
    let events = all(events(&client, &played.id, true).await).await;
    let late: Vec<_> = events.iter().skip(4).map(|e| (e.seq, e.kind.as_str(), e.review.clone())).collect();
    let detail = |action: &str, remaining| {
        Some(ReviewDetail { action: action.into(), files: 2, remaining, user: Some("alice".into()) })
    };
    let applied = (5, "file.applied", detail("applied", 1));
    assert_eq!(late, [applied, (6, "file.discarded", detail("discarded", 0))]);
    let admin = stage.connect(ADMIN).await;
    assert_eq!(rule(&admin.clone().reviewed(review("applied", 0)).await.unwrap_err()), "caller.other");
    assert_eq!(rule(&client.clone().reviewed(review("eaten", 0)).await.unwrap_err()), "request.review");
}
