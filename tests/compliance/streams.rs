//! Standard input, output and error without a terminal.

use std::hash::{DefaultHasher, Hasher};
use std::io::{Read, Write};
use std::process::Stdio;
use std::time::{Duration, Instant};

use agentd_tests::harness::{Named, World, wait_for_exit};
use agentd_tests::tests;

pub const TESTS: &[Named] = tests![
    output_and_error_stay_apart,
    every_byte_passes,
    input_ends_where_it_ends,
    input_that_is_not_read,
    a_gibibyte_is_unharmed,
    the_last_output_is_not_lost,
    a_reader_that_goes_away_is_no_hang,
    background_processes_do_not_hold_it,
    dev_stdout_opens,
];

fn output_and_error_stay_apart(world: &World) {
    let output = world.session().bash("echo out; echo err >&2; echo out2").expect_code(0);
    assert_eq!((output.text().as_str(), output.stderr.as_str()), ("out\nout2\n", "err\n"));
}

fn every_byte_passes(world: &World) {
    let bytes: Vec<u8> = (0..=255).cycle().take(256 * 1024 + 7).collect();
    let output = world.session().stdin(bytes.clone()).run(["cat"]).expect_code(0);
    assert!(output.stdout == bytes, "{} of {} bytes", output.stdout.len(), bytes.len());
}

fn input_ends_where_it_ends(world: &World) {
    let output = world.session().stdin("a\nb\n").run(["wc", "-l"]).expect_code(0);
    assert_eq!(output.text().trim(), "2");
    assert_eq!(world.session().run(["cat"]).expect_code(0).text(), "");
}

fn input_that_is_not_read(world: &World) {
    world.session().stdin(vec![0; 8 << 20]).run(["true"]).expect_code(0);
    let output = world.session().stdin(vec![b'x'; 8 << 20]).run(["head", "-c", "3"]).expect_code(0);
    assert_eq!(output.text(), "xxx");
}

/// A block of the stream: its number, then what follows from it.
fn block(number: u64, into: &mut [u8]) {
    let mut word = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for chunk in into.chunks_exact_mut(8) {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        chunk.copy_from_slice(&word.to_ne_bytes());
    }
}

fn a_gibibyte_is_unharmed(world: &World) {
    let mib: u64 = 1024;
    let session = world.session().with_probe();
    let probe = world.daemon().probe().display().to_string();
    let start = Instant::now();
    let mut child = session.spawn([probe.as_str(), "--copy"]);
    let (mut input, mut output) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
    let writer = std::thread::spawn(move || {
        let (mut hasher, mut bytes) = (DefaultHasher::new(), vec![0; 1 << 20]);
        for number in 0..mib {
            block(number, &mut bytes);
            hasher.write(&bytes);
            input.write_all(&bytes).expect("agentctl reads");
        }
        hasher.finish()
    });
    let (mut hasher, mut bytes, mut count) = (DefaultHasher::new(), vec![0; 1 << 20], 0);
    while output.read_exact(&mut bytes).is_ok() {
        hasher.write(&bytes);
        count += 1;
    }
    let sent = writer.join().expect("the writer");
    let status = wait_for_exit(&mut child, Duration::from_secs(10)).expect("it ends with its input");
    assert_eq!((count, status.code()), (mib, Some(0)));
    assert_eq!(hasher.finish(), sent, "what came back is not what went");
    eprintln!("{mib} MiB through a session in {:?}", start.elapsed());
}

fn the_last_output_is_not_lost(world: &World) {
    for _ in 0..10 {
        let output = world.session().bash("head -c 300000 /dev/zero; echo end").expect_code(0);
        assert_eq!(output.stdout.len(), 300_004);
        assert!(output.stdout.ends_with(b"end\n"));
    }
}

fn a_reader_that_goes_away_is_no_hang(world: &World) {
    let session = world.session();
    let mut child = session.spawn(["bash", "-c", "while echo y; do :; done"]);
    let mut output = child.stdout.take().expect("a pipe");
    output.read_exact(&mut [0; 1024]).expect("some of it");
    drop(output);
    let status = wait_for_exit(&mut child, Duration::from_secs(10)).expect("it ends");
    assert!(!status.success());
}

fn background_processes_do_not_hold_it(world: &World) {
    let start = Instant::now();
    let output = world.session().bash("sleep 50 & echo done").expect_code(0);
    assert_eq!(output.text(), "done\n");
    assert!(start.elapsed() < Duration::from_secs(10), "took {:?}", start.elapsed());
}

fn dev_stdout_opens(world: &World) {
    let session = world.session().stdin("in");
    let child = session.command(["bash", "-c", "cat /dev/stdin > /dev/stdout; echo err > /dev/stderr"]);
    let mut child = child;
    let mut child =
        child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("setpriv");
    child.stdin.take().expect("a pipe").write_all(b"in").expect("agentctl reads");
    let output = child.wait_with_output().expect("our own child");
    assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&b"in"[..], &b"err\n"[..]));
}
