//! What a power cut may take: nothing that was shown or acknowledged.

use agentd_kernel::packets::PacketError;
use futures::FutureExt;
use tonic::Code;

use super::*;

const ALL: [&str; 4] = ["session.created", "session.attached", "session.started", "session.ended"];

/// The kinds that come, and what is said at the end.
async fn read(mut stream: Streaming<Event>) -> (Vec<String>, Option<Status>) {
    let mut kinds = Vec::new();
    loop {
        match timeout(SOON, stream.message()).await.unwrap() {
            Ok(Some(event)) => kinds.push(event.kind),
            Ok(None) => return (kinds, None),
            Err(status) => return (kinds, Some(status)),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_told_once_they_are_on_disk_and_an_exit_does_not_wait_for_that() {
    let mut stage = Stage::new("durable");
    let client = stage.connect(ALICE).await;
    stage.host.store.gate().shut(true);
    let mut played = stage.run(&client, spec()).await;
    let (_to, mut out) = attach(&client, &played.id).await.unwrap();
    // That somebody came has its place before the end has.
    let known = stage.host.registry.visible(&ADMIN)[0].clone();
    timeout(SOON, known.watch().wait_for(|status| status.events >= 2)).await.unwrap().unwrap();
    let mut follower = events(&client, &played.id, true).await;
    played.say(1, EventBody::Started).await;
    played.end(2, 0).await;
    played.output(frame::DRAINED, b"").await;
    assert_eq!(rest(&mut out).await.1.code, Some(0));
    let reader = events(&client, &played.id, false).await;
    assert!(follower.message().now_or_never().is_none());
    assert!(matches!(played.keeper.receive_now(0), Err(PacketError::WouldBlock)));
    stage.host.store.gate().shut(false);
    assert_eq!(read(reader).await.0, ALL);
    assert_eq!(read(follower).await.0, ALL);
    while played.acknowledged().await < 2 {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fails_loses_nothing_and_takes_no_more_sessions() {
    let mut stage = Stage::new("failing");
    let client = stage.connect(ALICE).await;
    let mut played = stage.run(&client, RunSpec { detach: true, ..spec() }).await;
    played.say(1, EventBody::Started).await;
    while played.acknowledged().await < 1 {}
    let mut committed = stage.host.registry.visible(&ADMIN)[0].log.watch();
    committed.mark_unchanged();
    stage.host.store.gate().break_it();
    played.say(2, exec()).await;
    committed.changed().await.unwrap();
    played.say(3, exec()).await;
    let refused = client.clone().create(request(spec())).await.unwrap_err();
    assert_eq!((refused.code(), rule(&refused)), (Code::Unavailable, "audit.failed".into()));
    let (kinds, status) = read(events(&client, &played.id, false).await).await;
    assert_eq!(
        (kinds.as_slice(), rule(&status.unwrap())),
        (&[ALL[0], ALL[2]].map(str::to_owned)[..], "audit.failed".into())
    );
    // It goes on; what its keeper has is with the keeper.
    assert_eq!(session(&client, &played.id).await.state, "running");
    assert!(matches!(played.keeper.receive_now(0), Err(PacketError::WouldBlock)));
    stage.restart();
    played.greeted(1).await;
    let client = stage.connect(ALICE).await;
    for number in 2..=3 {
        played.say(number, exec()).await;
    }
    loop {
        let packet = timeout(SOON, played.keeper.receive(0)).await.unwrap().unwrap().unwrap();
        if wire::decode::<ToKeeper>(&packet.bytes).unwrap() == ToKeeper::Ack(3) {
            break;
        }
    }
    let recorded = super::kinds(&client, &played.id).await;
    assert_eq!(recorded, [ALL[0], ALL[2], "process.exec", "process.exec"]);
}
