//! Further commands, and sessions that are stopped.

use agentd_policy::step::CommandStep;
use agentd_policy::wire::CommandNumber;

use super::*;

async fn exec_in(client: &Client, id: &str, words: &[&str]) -> Result<Ends, Status> {
    let (to, input) = mpsc::channel(8);
    let command = words.iter().map(|word| word.to_string().into()).collect();
    send(&to, In::Exec(ExecOpen { id: id.into(), command, ..ExecOpen::default() })).await;
    let mut output = client.clone().exec(ReceiverStream::new(input)).await?.into_inner();
    assert!(matches!(next(&mut output).await, Out::Attached(_)));
    Ok((to, output))
}

/// The keeper's part: what is asked for, and a stream for it.
async fn runs(played: &Played) -> (CommandNumber, UnixStream) {
    let ToKeeper::Run { number, command } = played.to_keeper().await else { panic!() };
    assert_eq!(command.argv[0], b"ls");
    let (ours, theirs) = UnixStream::pair().unwrap();
    played.pass(&FromKeeper::Running { command: number }, theirs);
    (number, ours)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_further_command_has_its_own_streams_and_exit() {
    let mut stage = Stage::new("exec");
    let client = stage.connect(ALICE).await;
    let mut played = stage.run(&client, RunSpec { detach: true, ..spec() }).await;
    let (ends, (number, mut relay)) = tokio::join!(exec_in(&client, &played.id, &["ls"]), runs(&played));
    let (to, mut out) = ends.unwrap();
    send(&to, In::Stdin("in".into())).await;
    send(&to, In::Signal(2)).await;
    assert_eq!(input(&mut relay).await, (frame::STDIN, b"in".to_vec()));
    assert_eq!(played.to_keeper().await, ToKeeper::Signal { command: number, signal: 2 });
    output(&mut relay, frame::STDOUT, b"out").await;
    assert_eq!(next(&mut out).await, Out::Stdout("out".into()));
    assert_eq!(raw(&mut relay).await, (frame::ACK, 3u64.to_le_bytes().to_vec()));
    let reply = client.clone().inspect(InspectRequest { id: played.id.clone() }).await.unwrap();
    assert_eq!(reply.into_inner().commands, 1);
    let exited = FromKeeper::Exited { command: number, status: ExitStatus::Code(5) };
    played.sender.send(&wire::encode(&exited).unwrap(), &[]).unwrap();
    output(&mut relay, frame::STDERR, b"last").await;
    output(&mut relay, frame::DRAINED, b"").await;
    let (bytes, exit) = rest(&mut out).await;
    assert_eq!((bytes.as_slice(), exit.code), (&b"last"[..], Some(5)));
    // One that cannot be run.
    let refusing = async {
        let ToKeeper::Run { number, .. } = played.to_keeper().await else { panic!() };
        let not_run = FromKeeper::NotRun { command: number, step: CommandStep::Exec, errno: 2 };
        played.sender.send(&wire::encode(&not_run).unwrap(), &[]).unwrap();
    };
    let (ends, ()) = tokio::join!(exec_in(&client, &played.id, &["nothing"]), refusing);
    assert_eq!(rest(&mut ends.unwrap().1).await.1.code, Some(127));
    // One whose client goes.
    let (ends, (number, _relay)) = tokio::join!(exec_in(&client, &played.id, &["ls"]), runs(&played));
    drop(ends);
    assert_eq!(played.to_keeper().await, ToKeeper::End { command: number });
    // One whose session ends.
    let (ends, (_, relay)) = tokio::join!(exec_in(&client, &played.id, &["ls"]), runs(&played));
    played.end(1, 0).await;
    played.output(frame::DRAINED, b"").await;
    drop(relay);
    assert_eq!(rest(&mut ends.unwrap().1).await.1.reason, "killed");
    assert_eq!(rule(&exec_in(&client, &played.id, &["ls"]).await.unwrap_err()), "session.ended");
    let execs = kinds(&client, &played.id).await.iter().filter(|kind| *kind == "session.exec").count();
    assert_eq!(execs, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_asks_first_and_kills_then() {
    let mut stage = Stage::new("stop");
    let client = stage.connect(ALICE).await;
    let mut played = stage.run(&client, RunSpec { detach: true, ..spec() }).await;
    let watch = WatchRequest { id: played.id.clone() };
    let mut states = client.clone().watch(watch).await.unwrap().into_inner();
    let stop = StopRequest { id: played.id.clone(), grace_ms: Some(200) };
    let stopping = tokio::spawn({
        let mut client = client.clone();
        async move { client.stop(stop).await }
    });
    assert_eq!(played.to_keeper().await, ToKeeper::Signal { command: 0, signal: 15 });
    assert_eq!(session(&client, &played.id).await.state, "stopping");
    assert_eq!(played.to_keeper().await, ToKeeper::Kill);
    played.output(frame::DRAINED, b"").await;
    played.say(1, EventBody::Ended(End::Killed)).await;
    let reply = stopping.await.unwrap().unwrap().into_inner();
    assert_eq!((reply.id.as_str(), reply.exit.unwrap().reason.as_str()), (played.id.as_str(), "killed"));
    let mut seen = vec![];
    while let Some(state) = timeout(SOON, states.message()).await.unwrap().unwrap() {
        seen.push(state.state);
    }
    seen.dedup();
    assert_eq!(seen, ["running", "stopping", "ended"]);
    let events = all(events(&client, &played.id, false).await).await;
    let stopping = events.iter().find(|event| event.kind == "session.stopping").unwrap();
    assert_eq!(stopping.lifecycle.clone().unwrap().user.as_deref(), Some("alice"));
    // What has ended is reported at once.
    let stop = StopRequest { id: played.id.clone(), grace_ms: None };
    assert_eq!(client.clone().stop(stop).await.unwrap().into_inner().exit.unwrap().reason, "killed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_whose_client_did_not_wait_is_ended() {
    let mut stage = Stage::new("impatient");
    let client = stage.connect(ALICE).await;
    let played = stage.run(&client, RunSpec { detach: true, ..spec() }).await;
    let asking = tokio::spawn({
        let (client, id) = (client.clone(), played.id.clone());
        async move { exec_in(&client, &id, &["ls"]).await.map(drop) }
    });
    let ToKeeper::Run { number, .. } = played.to_keeper().await else { panic!() };
    asking.abort();
    assert!(asking.await.is_err());
    tokio::time::sleep(Duration::from_millis(100)).await;
    let (_ours, theirs) = UnixStream::pair().unwrap();
    played.pass(&FromKeeper::Running { command: number }, theirs);
    assert_eq!(played.to_keeper().await, ToKeeper::End { command: number });
    let reply = client.clone().inspect(InspectRequest { id: played.id.clone() }).await.unwrap();
    assert_eq!(reply.into_inner().commands, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_keeper_that_does_not_listen_neither_holds_up_a_stop_nor_grows_the_service() {
    let mut stage = Stage::new("talker");
    let client = stage.connect(ALICE).await;
    let played = stage.run(&client, RunSpec { detach: true, ..spec() }).await;
    let exited = FromKeeper::Exited { command: 7, status: ExitStatus::Code(0) };
    let packet = wire::encode(&exited).unwrap();
    // Each is answered, and nobody takes the answers: until the service has enough of it.
    let flood = async {
        for _ in 0..1_000_000 {
            if played.keeper.send(&packet).await.is_err() {
                return;
            }
        }
        panic!("it takes them all");
    };
    timeout(4 * SOON, flood).await.unwrap();
    drop(played.relay);
    let recorded = all(events(&client, &played.id, true).await).await;
    assert_eq!(recorded.last().unwrap().lifecycle.clone().unwrap().reason.as_deref(), Some("failed"));
}
