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
    let service = relay.service.try_clone().unwrap();
    let (out, _) = std::thread::scope(|scope| {
        scope.spawn(|| sent.chunks(10_000).for_each(|piece| rig::send(&service, frame::STDIN, piece)));
        relay.rest()
    });
    let out = out.strip_prefix(b"\n").unwrap_or(&out);
    assert!(out == sent, "{} bytes came of {}", out.len(), sent.len());
    sh.wait().unwrap();
}
