//! The service dies and another takes over; the launcher goes and comes back.

use agentd_policy::rule::Rule;
use tonic::Code;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_outlive_the_service() {
    let mut stage = Stage::new("recover");
    let client = stage.connect(ALICE).await;
    let mut played = stage.run(&client, RunSpec { name: "web".into(), detach: true, ..spec() }).await;
    played.say(1, EventBody::Started).await;
    played.say(2, exec()).await;
    while played.acknowledged().await < 2 {}
    assert_eq!(played.input().await, (frame::STDIN_EOF, vec![]));
    played.output(frame::STDOUT, b"before ").await;
    played.kept(7).await;
    // One that has ended, whose end was not acknowledged, and one that nobody keeps.
    let mut ended = stage.run(&client, spec()).await;
    ended.end(1, 3).await;
    ended.output(frame::DRAINED, b"").await;
    ended.kept(0).await;
    let lost = stage.run(&client, spec()).await;
    let dead = lost.id.clone();
    std::fs::remove_file(stage.root.join(format!("keepers/{}", lost.id))).unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;

    stage.restart();
    drop(lost);
    // A line that was torn, and a record that is none.
    let client = stage.connect(ALICE).await;
    stage.live(&[&played, &ended]);
    played.greeted(1).await;
    // Doubles of what is on record, and what is new.
    played.say(2, exec()).await;
    played.say(3, exec()).await;
    played.streams().await;
    assert_eq!(played.input().await, (frame::RESUME, 7u64.to_le_bytes().to_vec()));
    played.output(frame::INPUT, &0u64.to_le_bytes()).await;
    played.output(frame::STDOUT, b"after").await;
    let shown = session(&client, "web").await;
    assert_eq!((shown.state.as_str(), shown.detached, shown.user.as_str()), ("running", true, "alice"));
    let ((_to, mut out), attached) =
        attach_with(&client, AttachOpen { resume: Some(3), ..open(&played.id) }).await.unwrap();
    assert_eq!(attached.output, 3);
    played.end(4, 9).await;
    played.output(frame::DRAINED, b"").await;
    let (bytes, exit) = rest(&mut out).await;
    assert_eq!((bytes.as_slice(), exit.code), (&b"ore after"[..], Some(9)));
    let expected = [
        "session.created",
        "session.started",
        "process.exec",
        "process.exec",
        "session.attached",
        "session.ended",
    ];
    let mut recorded = kinds(&client, &played.id).await;
    recorded.sort();
    let mut sorted = expected.map(str::to_owned).to_vec();
    sorted.sort();
    assert_eq!(recorded, sorted);
    // The exit that came meanwhile is there, and its keeper is released.
    ended.greeted(0).await;
    ended.end(1, 3).await;
    assert_eq!(ended.acknowledged().await, 1);
    let ((_to, mut out), _) = attach_with(&client, open(&ended.id)).await.unwrap();
    assert_eq!(rest(&mut out).await.1.code, Some(3));
    assert_eq!(kinds(&client, &ended.id).await.len(), 2);
    // Nobody keeps the third.
    let gone = all(events(&client, &dead, true).await).await;
    assert_eq!(gone.last().unwrap().lifecycle.clone().unwrap().reason.as_deref(), Some("failed"));
    // Once more: what has ended stays as it is.
    stage.restart();
    let client = stage.connect(ALICE).await;
    let exit = session(&client, "web").await.exit.unwrap();
    assert_eq!((exit.reason.as_str(), exit.code), ("exited", Some(9)));
    let ((_to, mut out), _) = attach_with(&client, open(&played.id)).await.unwrap();
    assert_eq!(rest(&mut out).await, (b"before after".to_vec(), exit));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_neither_lost_nor_doubled_over_many_restarts() {
    let mut stage = Stage::new("kills");
    let client = stage.connect(ALICE).await;
    let mut played = stage.run(&client, RunSpec { detach: true, ..spec() }).await;
    let (mut acknowledged, mut last) = (0, 0);
    for round in 0..6 {
        for number in acknowledged + 1..=last + 40 {
            timeout(SOON, played.keeper.send(&source(number, exec()))).await.unwrap().ok();
        }
        last += 40;
        // It dies while it writes them down.
        let until = if round % 2 == 0 { acknowledged + 7 } else { acknowledged };
        while acknowledged < until {
            acknowledged = match next_to_keeper(&played).await {
                ToKeeper::Ack(number) => number,
                _ => acknowledged,
            };
        }
        stage.restart();
        // Half a line, as of one that was killed in the middle of it.
        played.greeted(acknowledged).await;
    }
    for number in acknowledged + 1..=last {
        played.say(number, exec()).await;
    }
    played.end(last + 1, 0).await;
    let client = stage.connect(ALICE).await;
    played.relay = UnixStream::pair().unwrap().0;
    let recorded = loop {
        if let ToKeeper::Ack(number) = next_to_keeper(&played).await
            && number == last + 1
        {
            break all(events(&client, &played.id, false).await).await;
        }
    };
    let execs: Vec<_> = recorded.iter().filter(|event| event.kind == "process.exec").collect();
    assert_eq!(execs.len() as u64, last);
    assert!(execs.windows(2).all(|pair| pair[0].time < pair[1].time));
    assert!(recorded.iter().zip(1..).all(|(event, seq)| event.seq == seq));
    assert!(recorded.iter().all(|event| event.dropped.is_none()));
}

async fn next_to_keeper(played: &Played) -> ToKeeper {
    let packet = timeout(SOON, played.keeper.receive(0)).await.unwrap().unwrap().unwrap();
    wire::decode(&packet.bytes).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_outlives_the_launcher() {
    let mut stage = Stage::new("launcher");
    let client = stage.connect(ALICE).await;
    let mut played = stage.run(&client, spec()).await;
    let lost = stage.run(&client, spec()).await;
    let (to, mut out) = attach(&client, &played.id).await.unwrap();
    let socket = listen(&stage.root.join("service.sock"));
    let (nowhere, _) = Packets::pair().unwrap();
    stage.sender = nowhere.try_clone().unwrap();
    stage.launcher = Link::new(nowhere).unwrap();
    // Clients and streams stay; what needs a launcher is refused.
    tokio::time::sleep(Duration::from_millis(10)).await;
    let refused = client.clone().create(request(spec())).await.unwrap_err();
    let known = ["host.launcher", "caller.unknown"];
    assert!(known.contains(&rule(&refused).as_str()), "{refused:?}");
    played.output(frame::STDOUT, b"still").await;
    assert_eq!(next(&mut out).await, Out::Stdout("still".into()));
    let launcher = accept(&socket).await;
    stage.sender = launcher.try_clone().unwrap();
    stage.launcher = Link::new(launcher).unwrap();
    let unknown = agentd_policy::names::SessionId::parse("0000000000aa").unwrap();
    let sessions = vec![played.plan.session.clone(), unknown.clone()];
    stage.say(&FromLauncher::Live {
        disk: agentd_policy::limits::DiskForm::Watch,
        open_files: 1024,
        sessions,
        last: true,
    });
    // What it has and the service does not know is ended; what it does not have is gone.
    assert_eq!(stage.received().await, FromService::End { session: unknown });
    let recorded = all(events(&client, &lost.id, true).await).await;
    assert_eq!(recorded.last().unwrap().kind, "session.ended");
    // A connection that an earlier launcher accepted is not known to this one.
    let refused = client.clone().create(request(spec())).await.unwrap_err();
    assert_eq!((refused.code(), rule(&refused)), (Code::PermissionDenied, "caller.unknown".into()));
    let again = stage.connect(ALICE).await;
    stage.run(&again, spec()).await;
    played.end(1, 0).await;
    played.output(frame::DRAINED, b"").await;
    assert_eq!(rest(&mut out).await.1.code, Some(0));
    drop(to);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_is_set_aside() {
    let mut stage = Stage::new("aside");
    let audit = stage.root.join("audit");
    std::fs::write(audit.join("0123456789ab.json"), "{}").unwrap();
    stage.restart();
    assert!(audit.join("0123456789ab.broken").exists());
    assert!(stage.host.registry.visible(&ADMIN).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn output_that_comes_after_the_end_is_not_lost_with_the_service() {
    let mut stage = Stage::new("rest");
    let client = stage.connect(ALICE).await;
    let mut played = stage.run(&client, RunSpec { detach: true, ..spec() }).await;
    assert_eq!(played.input().await, (frame::STDIN_EOF, vec![]));
    played.output(frame::STDOUT, b"first ").await;
    played.kept(6).await;
    played.end(1, 0).await;
    while played.acknowledged().await < 1 {}
    // Its end is on record; its relay has more.
    stage.restart();
    let client = stage.connect(ALICE).await;
    stage.live(&[&played]);
    played.greeted(1).await;
    played.streams().await;
    assert_eq!(played.input().await, (frame::RESUME, 6u64.to_le_bytes().to_vec()));
    assert_eq!(session(&client, &played.id).await.state, "ended");
    played.output(frame::INPUT, &0u64.to_le_bytes()).await;
    played.output(frame::STDOUT, b"last").await;
    let ((_to, mut out), _) = attach_with(&client, open(&played.id)).await.unwrap();
    // It may be removed: that waits for the rest.
    let removing = tokio::spawn({
        let (mut client, id) = (client.clone(), played.id.clone());
        async move { client.remove(RemoveRequest { id, force: false }).await }
    });
    played.output(frame::DRAINED, b"").await;
    let (bytes, exit) = rest(&mut out).await;
    assert_eq!((bytes.as_slice(), exit.code), (&b"first last"[..], Some(0)));
    played.kept(10).await;
    played.gone(&stage);
    // The launcher has not buried it at once.
    for refuse in [true, false] {
        let FromService::Remove { request, .. } = stage.received().await else { panic!() };
        let refusal = refuse.then(|| agentd_policy::Refusal::new("it", Rule::SessionRunning, "wait"));
        stage.say(&FromLauncher::Removed { request, refusal });
    }
    removing.await.unwrap().unwrap();
    assert!(stage.host.registry.visible(&ALICE).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn output_that_nobody_has_any_more_is_no_success() {
    let mut stage = Stage::new("torn");
    let client = stage.connect(ALICE).await;
    let mut played = stage.run(&client, RunSpec { detach: true, ..spec() }).await;
    assert_eq!(played.input().await, (frame::STDIN_EOF, vec![]));
    played.output(frame::STDOUT, b"first ").await;
    played.kept(6).await;
    played.end(1, 0).await;
    while played.acknowledged().await < 1 {}
    std::fs::remove_file(stage.root.join(format!("keepers/{}", played.id))).unwrap();
    stage.restart();
    let client = stage.connect(ALICE).await;
    let ((_to, mut out), _) = attach_with(&client, open(&played.id)).await.unwrap();
    let (bytes, exit) = rest(&mut out).await;
    assert_eq!((bytes.as_slice(), exit.reason.as_str()), (&b"first "[..], "failed"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_grace_of_a_stop_goes_on() {
    let mut stage = Stage::new("grace");
    let client = stage.connect(ALICE).await;
    let mut played = stage.run(&client, RunSpec { detach: true, ..spec() }).await;
    let stop = StopRequest { id: played.id.clone(), grace_ms: Some(1500) };
    let stopping = tokio::spawn({
        let mut client = client.clone();
        async move { client.stop(stop).await }
    });
    let began = std::time::Instant::now();
    assert_eq!(played.to_keeper().await, ToKeeper::Signal { command: 0, signal: 15 });
    stage.restart();
    assert!(stopping.await.unwrap().is_err());
    let client = stage.connect(ALICE).await;
    played.greeted(0).await;
    assert_eq!(session(&client, &played.id).await.state, "stopping");
    assert_eq!(played.to_keeper().await, ToKeeper::Connect { command: 0 });
    assert_eq!(played.to_keeper().await, ToKeeper::Kill);
    assert!((1400..4000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_keeper_that_takes_no_connection_holds_up_no_start() {
    let mut stage = Stage::new("deaf");
    let client = stage.connect(ALICE).await;
    let played = stage.run(&client, RunSpec { detach: true, ..spec() }).await;
    let path = stage.root.join(format!("keepers/{}", played.id));
    let mut waiting = vec![];
    while let Ok(socket) = crate::launcher::link::connect_packets(path.to_str().unwrap()) {
        waiting.push(socket);
    }
    stage.restart();
    let client = stage.connect(ALICE).await;
    let recorded = all(events(&client, &played.id, true).await).await;
    assert_eq!(recorded.last().unwrap().lifecycle.clone().unwrap().reason.as_deref(), Some("failed"));
}

/// After an upgrade: it is said by name, its events stay, and nothing of it goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_of_another_format_is_ended_by_name() {
    let mut stage = Stage::new("format");
    let client = stage.connect(ALICE).await;
    let played = stage.run(&client, RunSpec { detach: true, ..spec() }).await;
    played.say(1, EventBody::Started).await;
    played.say(2, exec()).await;
    while played.acknowledged().await < 2 {}
    let record = stage.root.join(format!("audit/{}.json", played.id));
    let ours = std::fs::read_to_string(&record).unwrap();
    stage.restart_after(|| {
        // As an earlier version wrote it, which knew less.
        let mut value: serde_json::Value = serde_json::from_str(&ours).unwrap();
        value["version"] = 1.into();
        value.as_object_mut().unwrap().remove("limits");
        std::fs::write(&record, value.to_string()).unwrap();
    });
    let client = stage.connect(ALICE).await;
    stage.live(&[&played]);
    let keeper = accept(&played.name).await;
    let hello = FromKeeper::Hello {
        session: played.plan.session.clone(),
        uid: ALICE.uid,
        acknowledged: 2,
        started: true,
        commands: vec![],
    };
    let mut packet = wire::encode(&hello).unwrap();
    packet[..2].copy_from_slice(&1u16.to_le_bytes());
    keeper.send(&packet, &[]).unwrap();
    assert!(matches!(stage.received().await, FromService::End { session } if session.as_str() == played.id));
    played.gone(&stage);
    let mut watched =
        client.clone().watch(WatchRequest { id: played.id.clone() }).await.unwrap().into_inner();
    let exit = loop {
        let shown = watched.message().await.unwrap().expect("its end");
        if let Some(exit) = shown.exit {
            break exit;
        }
    };
    assert_eq!(exit.reason, "failed");
    let both = format!("keeper has format 1 where this one's has format {}", wire::VERSION);
    assert!(exit.message.contains(&both), "{}", exit.message);
    let events = all(events(&client, &played.id, false).await).await;
    let kinds: Vec<_> = events.iter().map(|event| event.kind.as_str()).collect();
    // What it has to say of the time since cannot be read.
    let expected = ["session.created", "session.started", "process.exec", "audit.dropped", "session.ended"];
    assert_eq!(kinds, expected);
    let last = events.last().and_then(|event| event.lifecycle.as_ref()).expect("its end");
    assert!(last.message.as_deref().is_some_and(|message| message.contains("format 1")), "{last:?}");
}
