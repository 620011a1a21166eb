//! Very much output, and output that is none for a terminal.

use std::time::Duration;

use agentd_tests::harness::{Named, World, patience};

use crate::side::Sides;

pub(crate) const TESTS: &[Named] = &[
    ("a_hundred_megabytes", much),
    ("interrupted_in_the_middle_of_it", interrupted),
    ("binary_garbage", garbage),
    ("garbage_with_sequences", sequences),
];

fn much(world: &World) {
    // Terminals of a machine that is emulated take minutes for it, with agentd or without.
    let emulated = patience(Duration::from_secs(1)) > Duration::from_secs(1);
    let bytes = if emulated { 10_000_000 } else { 100_000_000 };
    let script = format!(
        "yes 'a line of some length, so that there are not too many of them' | head -c {bytes}
        echo; echo finished; exit 6"
    );
    let sides = Sides::start(world, world.workspace(world.a()), &["bash", "-c", &script]);
    sides.same("finished");
    sides.end(6);
}

/// Nobody waits for what is under way: the key is taken at once, and the shell is there again.
fn interrupted(world: &World) {
    let sides = Sides::start(world, world.workspace(world.a()), &["bash", "--norc", "--noprofile", "-i"]);
    sides.same("$");
    sides.types("PS1='> '; clear; yes\r");
    for side in [&sides.direct, &sides.confined] {
        side.wait_for("y\ny\ny");
    }
    sides.keys(&["C-c"]);
    sides.types("clear; echo cod''e $?\r");
    sides.same("code 0");
    sides.types("exit 5\r");
    sides.end(5);
}

/// Bytes of a generator that gives the same on every run.
fn bytes(count: usize, passes: impl Fn(u8) -> bool) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let next = std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32).to_le_bytes()[0]
    });
    next.filter(|byte| passes(*byte)).take(count).collect()
}

/// Everything but what begins a sequence, asks for an answer or changes the character set.
fn garbage(world: &World) {
    let dir = world.workspace(world.a());
    let harmless = |byte: u8| !matches!(byte, 0x05 | 0x0e | 0x0f | 0x1b | 0x80..);
    world.a().write(dir.join("garbage"), bytes(200_000, harmless));
    let sides = Sides::start(world, dir, &["bash", "-c", "cat garbage; echo; echo finished"]);
    sides.same("finished");
    sides.end(0);
}

/// Everything: some of it may not pass, so that the screens differ. The session, the terminal and the code are
/// none the worse for it.
fn sequences(world: &World) {
    let dir = world.workspace(world.a());
    world.a().write(dir.join("garbage"), bytes(500_000, |_| true));
    let sides = Sides::start(world, dir, &["bash", "--norc", "--noprofile", "-i"]);
    sides.same("$");
    let (title, clipboard) = (sides.confined.title(), sides.confined.clipboard());
    sides.types("cat garbage; tput rs1; stty sane; clear; echo finish''ed\r");
    sides.confined.wait_for("finished");
    assert_eq!((sides.confined.title(), sides.confined.clipboard()), (title, clipboard));
    sides.confined.types("exit 8\r");
    assert_eq!(sides.confined.wait_for_end(), 8);
}
