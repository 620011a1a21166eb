//! Clients that come, go, are slow, and are several.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_ends_its_session() {
    let mut stage = Stage::new("leave");
    // It leaves the attach stream.
    let client = stage.connect(ALICE).await;
    let played = stage.run(&client, spec()).await;
    let attached = attach(&client, &played.id).await.unwrap();
    let again = attach(&client, &played.id).await.unwrap();
    drop(attached);
    tokio::time::sleep(2 * GRACE).await;
    assert_eq!(session(&client, &played.id).await.attached, 1);
    // The last one goes and comes back in time, and goes.
    drop(again);
    let again = attach(&client, &played.id).await.unwrap();
    tokio::time::sleep(2 * GRACE).await;
    assert_eq!(session(&client, &played.id).await.state, "running");
    drop(again);
    assert_eq!(played.to_keeper().await, ToKeeper::Kill);
    let killed = session(&client, &played.id).await;
    assert_eq!((killed.state.as_str(), killed.attached), ("stopping", 0));
    played.say(1, EventBody::Ended(End::Killed)).await;
    let mut ended = played;
    ended.output(frame::DRAINED, b"").await;
    let (_ends, attached) =
        attach_with(&client, AttachOpen { watch: true, ..open(&ended.id) }).await.unwrap();
    assert_eq!(attached.output, 0);
    let exit = rest(&mut { _ends }.1).await.1;
    assert_eq!((exit.reason.as_str(), exit.message.as_str()), ("killed", "its client is gone"));
    let stopping = "session.stopping".to_owned();
    assert!(kinds(&client, &ended.id).await.contains(&stopping));
    // It goes away before it attached.
    let other = stage.connect(ALICE).await;
    let unattached = stage.run(&other, spec()).await;
    drop(other);
    assert_eq!(unattached.to_keeper().await, ToKeeper::Kill);
    // What is killed without a word from its keeper has failed.
    drop(unattached.keeper);
    drop((unattached.sender, unattached.relay));
    assert!(matches!(stage.received().await, FromService::End { .. }));
    let lost = client.clone().list(ListRequest { all: true }).await.unwrap().into_inner().sessions;
    let lost = lost.into_iter().find(|s| s.id == unattached.id).unwrap();
    let recorded = all(events(&client, &lost.id, true).await).await;
    assert_eq!(recorded.last().unwrap().lifecycle.clone().unwrap().reason.as_deref(), Some("failed"));
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
    assert_eq!(played.to_keeper().await, ToKeeper::Kill);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_detaches_leaves_a_session_that_goes_on() {
    let mut stage = Stage::new("detach");
    let client = stage.connect(ALICE).await;
    let mut played = stage.run(&client, spec()).await;
    let (to, mut out) = attach(&client, &played.id).await.unwrap();
    played.output(frame::STDOUT, b"one ").await;
    assert_eq!(next(&mut out).await, Out::Stdout("one ".into()));
    send(&to, In::Detach(true)).await;
    assert!(timeout(SOON, out.message()).await.unwrap().unwrap().is_none());
    drop((to, out, client));
    tokio::time::sleep(2 * GRACE).await;
    let client = stage.connect(ALICE).await;
    let shown = session(&client, &played.id).await;
    assert_eq!((shown.state.as_str(), shown.attached, shown.detached), ("running", 0, true));
    // Nobody is there: what it writes is taken, and kept.
    for _ in 0..200 {
        played.output(frame::STDOUT, &[b'x'; frame::MAX]).await;
        while raw(&mut played.relay).await.0 != frame::ACK {}
    }
    played.output(frame::STDERR, b"two").await;
    let all_of_it = 4 + 200 * frame::MAX as u64 + 3;
    played.kept(all_of_it).await;
    let ((_to, mut out), attached) = attach_with(&client, open(&played.id)).await.unwrap();
    assert!(attached.output > 0 && attached.output < all_of_it - (3 << 20), "{attached:?}");
    let gone = attach_with(&client, AttachOpen { resume: Some(4), ..open(&played.id) }).await;
    assert_eq!(rule(&gone.unwrap_err()), "attach.gone");
    let place = all_of_it - 100_000;
    let resume = AttachOpen { resume: Some(place), ..open(&played.id) };
    let ((_to2, mut resumed), attached2) = attach_with(&client, resume).await.unwrap();
    assert_eq!(attached2.output, place);
    played.end(1, 7).await;
    played.output(frame::STDOUT, b"three").await;
    played.output(frame::DRAINED, b"").await;
    let (bytes, exit) = rest(&mut out).await;
    assert_eq!((bytes.len() as u64, exit.code), (all_of_it + 5 - attached.output, Some(7)));
    assert!(bytes.ends_with(b"xtwothree"));
    assert_eq!(rest(&mut resumed).await.0.len(), 100_005);
    played.kept(all_of_it + 5).await;
    // An exit that came meanwhile, and what was kept.
    let resume = AttachOpen { resume: Some(all_of_it), ..open(&played.id) };
    let ((_to, mut out), _) = attach_with(&client, resume).await.unwrap();
    assert_eq!(rest(&mut out).await.0, b"three");
    let events = kinds(&client, &played.id).await;
    assert_eq!(events.iter().filter(|kind| *kind == "session.detached").count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_watcher_is_cut_off_and_holds_up_nobody() {
    let mut stage = Stage::new("watchers");
    let client = stage.connect(ALICE).await;
    let played = stage.run(&client, spec()).await;
    let ((_to, mut out), _) = attach_with(&client, open(&played.id)).await.unwrap();
    let other = stage.connect(ALICE).await;
    let watch = || AttachOpen { watch: true, ..open(&played.id) };
    let ((to, mut slow), _) = attach_with(&other, watch()).await.unwrap();
    let third = stage.connect(ALICE).await;
    let ((_to3, mut quick), _) = attach_with(&third, watch()).await.unwrap();
    assert_eq!(session(&client, &played.id).await.attached, 3);
    // A watcher sends nothing to the command.
    send(&to, In::Stdin("no".into())).await;
    send(&to, In::Signal(2)).await;
    let (chunk, count) = (vec![b'x'; frame::MAX], 256);
    let reading = async {
        let mut got = (0, 0);
        while got != (count * frame::MAX, count * frame::MAX) {
            tokio::select! {
                message = next(&mut out) => if let Out::Stdout(bytes) = message { got.0 += bytes.len() },
                message = next(&mut quick) => if let Out::Stdout(bytes) = message { got.1 += bytes.len() },
            }
        }
    };
    let (id, mut relay) = (played.id.clone(), played.relay);
    let (mut from, mut onto) = relay.split();
    let acks = async { tokio::io::copy(&mut from, &mut tokio::io::sink()).await.unwrap() };
    let writing = async {
        for _ in 0..count {
            onto.write_all(&frame::header(frame::STDOUT, chunk.len()).unwrap()).await.unwrap();
            onto.write_all(&chunk).await.unwrap();
        }
    };
    tokio::select! {
        done = timeout(4 * SOON, async { tokio::join!(reading, writing) }) => drop(done.unwrap()),
        _ = acks => panic!("the service closed the stream"),
    }
    let cut = loop {
        match timeout(SOON, slow.message()).await.unwrap() {
            Ok(message) => assert!(message.is_some()),
            Err(status) => break status,
        }
    };
    assert_eq!(rule(&cut), "attach.slow");
    assert_eq!(session(&client, &id).await.attached, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_shows_its_screen_to_who_comes_later() {
    let mut stage = Stage::new("screen");
    let client = stage.connect(ALICE).await;
    let mut played = stage.run(&client, RunSpec { terminal: true, ..spec() }).await;
    played.output(frame::STDOUT, b"before").await;
    // Who comes first has missed nothing.
    let ((_to, mut out), attached) = attach_with(&client, open(&played.id)).await.unwrap();
    assert_eq!((attached.output, attached.terminal), (0, true));
    assert_eq!(next(&mut out).await, Out::Stdout("before".into()));
    let window = Some(WindowSize { rows: 5, cols: 6 });
    let second = tokio::spawn({
        let (client, open) = (client.clone(), AttachOpen { window, ..open(&played.id) });
        async move { attach_with(&client, open).await.unwrap() }
    });
    assert_eq!(played.input().await, (frame::RESIZE, vec![5, 0, 6, 0]));
    assert_eq!(played.input().await, (frame::SCREEN, vec![]));
    played.output(frame::STDOUT, b"drawn").await;
    played.output(frame::SCREEN, b"pic").await;
    played.output(frame::SCREEN, b"ture").await;
    played.output(frame::SCREEN, b"").await;
    played.output(frame::STDOUT, b"after").await;
    let ((_to2, mut late), attached) = second.await.unwrap();
    assert_eq!(attached.output, 11);
    assert_eq!(next(&mut late).await, Out::Screen("picture".into()));
    assert_eq!(next(&mut late).await, Out::Stdout("after".into()));
    for text in ["drawn", "after"] {
        assert_eq!(next(&mut out).await, Out::Stdout(text.into()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn input_waits_for_the_command_and_acknowledgements_do_not() {
    let mut stage = Stage::new("input");
    let client = stage.connect(ALICE).await;
    let mut played = stage.run(&client, spec()).await;
    let (to, mut out) = attach(&client, &played.id).await.unwrap();
    let giving = tokio::spawn(async move {
        for _ in 0..10 {
            send(&to, In::Stdin(vec![b'i'; 64 << 10].into())).await;
        }
        to
    });
    for _ in 0..4 {
        assert_eq!(played.input().await.0, frame::STDIN);
    }
    // The command takes no more: only its output goes on.
    for place in 1..=20 {
        played.output(frame::STDOUT, &[b'o'; 1000]).await;
        assert_eq!(next(&mut out).await, Out::Stdout(vec![b'o'; 1000].into()));
        played.kept(place * 1000).await;
    }
    for taken in 1..=6u64 {
        played.output(frame::INPUT, &(taken << 16).to_le_bytes()).await;
        assert_eq!(played.input().await.0, frame::STDIN);
    }
    drop(giving.await.unwrap());
    played.output(frame::INPUT, &(10u64 << 16).to_le_bytes()).await;
    assert_eq!(played.input().await, (frame::STDIN_EOF, vec![]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_closed_its_output_still_gets_input() {
    let mut stage = Stage::new("closed");
    let client = stage.connect(ALICE).await;
    let mut played = stage.run(&client, spec()).await;
    let (to, mut out) = attach(&client, &played.id).await.unwrap();
    played.output(frame::DRAINED, b"").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    for taken in 0..20u64 {
        send(&to, In::Stdin(vec![b'i'; 64 << 10].into())).await;
        assert_eq!(played.input().await.0, frame::STDIN);
        played.output(frame::INPUT, &((taken + 1) << 16).to_le_bytes()).await;
    }
    played.end(1, 4).await;
    assert_eq!(rest(&mut out).await.1.code, Some(4));
    played.kept(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_have_what_was_written() {
    let mut stage = Stage::new("logs");
    let client = stage.connect(ALICE).await;
    let mut played = stage.run(&client, RunSpec { detach: true, ..spec() }).await;
    assert_eq!(played.input().await, (frame::STDIN_EOF, vec![]));
    for line in ["one\n", "two\nthr", "ee\n", "four"] {
        played.output(frame::STDOUT, line.as_bytes()).await;
    }
    played.kept(18).await;
    let logs = async |follow, tail| {
        let request = LogsRequest { id: played.id.clone(), follow, tail };
        client.clone().logs(request).await.unwrap().into_inner()
    };
    let text = async |stream| {
        let mut text = Vec::new();
        for chunk in all::<LogChunk>(stream).await {
            let Some(log_chunk::Kind::Stdout(bytes)) = chunk.kind else { panic!() };
            text.extend_from_slice(&bytes);
        }
        String::from_utf8(text).unwrap()
    };
    assert_eq!(text(logs(false, None).await).await, "one\ntwo\nthree\nfour");
    assert_eq!(text(logs(false, Some(2)).await).await, "three\nfour");
    assert_eq!(text(logs(false, Some(0)).await).await, "");
    let followed = logs(true, Some(1)).await;
    played.end(1, 0).await;
    output(&mut played.relay, frame::STDOUT, b"!").await;
    output(&mut played.relay, frame::DRAINED, b"").await;
    assert_eq!(text(followed).await, "four!");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_slow_is_waited_for_and_who_is_stuck_is_not() {
    let mut stage = Stage::new("stuck");
    let client = stage.connect(ALICE).await;
    let played = stage.run(&client, spec()).await;
    let ((_to, mut quick), _) = attach_with(&client, open(&played.id)).await.unwrap();
    let other = stage.connect(ALICE).await;
    let ((_to2, mut slow), _) = attach_with(&other, open(&played.id)).await.unwrap();
    let (mut relay, chunk, count) = (played.relay, vec![b'x'; frame::MAX], 160);
    let (mut from, mut onto) = relay.split();
    let acks = async { tokio::io::copy(&mut from, &mut tokio::io::sink()).await.unwrap() };
    let writing = async {
        for _ in 0..count {
            onto.write_all(&frame::header(frame::STDOUT, chunk.len()).unwrap()).await.unwrap();
            onto.write_all(&chunk).await.unwrap();
        }
    };
    // It takes 2 MiB slowly, and nothing more.
    let slowly = async {
        for _ in 0..32 {
            assert!(matches!(next(&mut slow).await, Out::Stdout(_)));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let all_of_it = async {
        let mut got = 0;
        while got < count * frame::MAX {
            let Out::Stdout(bytes) = next(&mut quick).await else { panic!() };
            got += bytes.len();
        }
    };
    tokio::select! {
        done = timeout(4 * SOON, async { tokio::join!(writing, slowly, all_of_it) }) => drop(done.unwrap()),
        _ = acks => panic!("the service closed the stream"),
    }
    let cut = loop {
        match timeout(SOON, slow.message()).await.unwrap() {
            Ok(message) => assert!(message.is_some()),
            Err(status) => break status,
        }
    };
    assert_eq!(rule(&cut), "attach.slow");
}
