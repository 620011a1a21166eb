use agentd_policy::wire::frame;

use crate::rig;

#[test]
fn a_size_reaches_the_command() {
    let (mut relay, slave) = rig::terminal();
    relay.resize(37, 113);
    let script = "until [ \"$(stty size)\" = '37 113' ]; do sleep 0.01; done; echo set; read line; stty size";
    let mut sh = rig::sh_on(slave, script);
    relay.until("set");
    relay.resize(50, 200);
    relay.send(frame::STDIN, b"go\r");
    let (out, err) = relay.rest();
    assert!(String::from_utf8_lossy(&out).contains("50 200\r\n"), "{out:?}");
    assert!(err.is_empty());
    assert!(sh.wait().unwrap().success());
    relay.assert_ends_well();
}

#[test]
fn a_size_overtakes_input_that_is_not_read() {
    let (relay, slave) = rig::terminal();
    let script = "stty raw -echo; echo ready; until [ \"$(stty size)\" = '10 20' ]; do sleep 0.01; done; \
                  echo seen; head -c 200000 | tr -d x | wc -c; echo end";
    let mut sh = rig::sh_on(slave, script);
    relay.until("ready");
    for _ in 0..4 {
        relay.send(frame::STDIN, &[b'x'; 50_000]);
    }
    relay.resize(10, 20);
    relay.until("seen");
    // And what waited all arrives, and nothing else.
    let (out, _) = relay.rest();
    assert_eq!(String::from_utf8_lossy(&out).split_whitespace().collect::<Vec<_>>(), ["0", "end"]);
    sh.wait().unwrap();
}

#[test]
fn the_end_of_input_is_what_a_person_would_type() {
    for input in [&b""[..], b"line\n", b"half a line"] {
        let (relay, slave) = rig::terminal();
        let mut sh = rig::sh_on(slave, "stty -echo eof ^X; echo ready; cat; echo ended");
        relay.until("ready\r\n");
        relay.send(frame::STDIN, input);
        relay.send(frame::STDIN_EOF, b"");
        let text = String::from_utf8(relay.rest().0).unwrap();
        let input = String::from_utf8_lossy(input).replace('\n', "\r\n");
        assert_eq!(text, format!("{input}ended\r\n"));
        sh.wait().unwrap();
    }
}

#[test]
fn much_goes_through_a_raw_terminal() {
    let (relay, slave) = rig::terminal();
    let mut sh = rig::sh_on(slave, "stty raw -echo; echo ready; head -c 4M");
    relay.until("ready");
    let sent = rig::noise(4 << 20);
    let service = relay.service.clone();
    let (out, _) = std::thread::scope(|scope| {
        scope.spawn(|| sent.chunks(10_000).for_each(|piece| service.send(frame::STDIN, piece)));
        relay.rest()
    });
    let out = out.strip_prefix(b"\n").unwrap_or(&out);
    assert!(out == sent, "{} bytes came of {}", out.len(), sent.len());
    sh.wait().unwrap();
}

#[test]
fn somebody_new_is_shown_the_screen() {
    let (mut relay, slave) = rig::terminal();
    relay.resize(5, 40);
    let script = "stty -echo; until [ \"$(stty size)\" = '5 40' ]; do sleep 0.01; done; \
                  printf 'above\\nseen \\033[1mbold'; read line; printf after; read line";
    let mut sh = rig::sh_on(slave, script);
    relay.until("bold");
    relay.send(frame::SCREEN, b"");
    let (kind, shown) = relay.next().unwrap();
    assert_eq!(kind, frame::SCREEN);
    let shown = String::from_utf8(shown).unwrap();
    assert!(shown.contains("above") && shown.contains("seen") && shown.contains("bold"), "{shown:?}");
    assert_eq!(relay.next(), Some((frame::SCREEN, Vec::new())));
    // It is not counted as output.
    relay.send(frame::STDIN, b"\r");
    relay.until("after");
    relay.reconnect(0);
    relay.service.resume();
    relay.send(frame::SCREEN, b"");
    assert_eq!(relay.next().unwrap().0, frame::SCREEN);
    assert_eq!(relay.next().unwrap().1, b"");
    relay.send(frame::STDIN, b"\r");
    relay.rest();
    sh.wait().unwrap();
    relay.assert_ends_well();
}

#[test]
fn a_screen_comes_at_its_place_in_the_output() {
    let (mut relay, slave) = rig::terminal();
    let mut sh = rig::sh_on(slave, "stty raw; seq 1 200000; read line");
    relay.send(frame::SCREEN, b"");
    std::thread::sleep(std::time::Duration::from_millis(50));
    relay.send(frame::SCREEN, b"");
    let (mut text, mut screens) = (String::new(), 0);
    let mut shown = Vec::new();
    while !text.ends_with("200000\n") || screens < 2 {
        match relay.next().unwrap() {
            (frame::STDOUT, payload) => text.push_str(&String::from_utf8(payload).unwrap()),
            (frame::SCREEN, payload) if payload.is_empty() => {
                // The last number on the screen is the last that came.
                let plain = String::from_utf8(std::mem::take(&mut shown)).unwrap();
                let last = text.lines().rev().find(|line| line.len() > 2).unwrap_or("");
                assert!(plain.contains(last), "{last:?} is not in {plain:?}");
                screens += 1;
            }
            (frame::SCREEN, payload) => shown.extend(payload),
            other => panic!("{other:?}"),
        }
    }
    relay.send(frame::STDIN, b"\n");
    relay.rest();
    sh.wait().unwrap();
    relay.assert_ends_well();
}

#[test]
fn without_a_terminal_the_screen_is_empty() {
    let (mut relay, pipes) = rig::pipes();
    relay.send(frame::SCREEN, b"");
    assert_eq!(relay.next(), Some((frame::SCREEN, Vec::new())));
    drop(pipes);
    relay.rest();
    relay.assert_ends_well();
}
