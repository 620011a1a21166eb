use super::*;
use proptest::prelude::*;

/// Another terminal that was shown what this one shows.
fn copy(screen: &mut Screen) -> Screen {
    let mut other = Screen::new(screen.size.0, screen.size.1);
    other.write(&screen.show());
    other.parse();
    other
}

fn same(a: &Screen, b: &Screen) {
    assert!(a.pending.is_empty() && b.pending.is_empty());
    let (a, b) = (a.parser.screen(), b.parser.screen());
    assert_eq!(a.contents(), b.contents());
    assert_eq!(a.state_formatted(), b.state_formatted());
    assert_eq!(a.alternate_screen(), b.alternate_screen());
    assert_eq!(a.cursor_position(), b.cursor_position());
}

#[test]
fn an_empty_terminal_becomes_the_same() {
    let mut screen = Screen::new(10, 40);
    screen.write(b"first\r\n\x1b[1;31mred\x1b[0m and \x1b[4munder\x1b[?2004h\x1b[?1h");
    let other = copy(&mut screen);
    same(&screen, &other);
    screen.write(b"\x1b[?1049h\x1b[2J\x1b[5;5Hfull screen\x1b[?25l\x1b[?1000h");
    let mut other = copy(&mut screen);
    same(&screen, &other);
    // What was below is there when the program ends.
    screen.write(b"\x1b[?1049l\x1b[?25h");
    other.write(b"\x1b[?1049l\x1b[?25h");
    assert_eq!(screen.parser.screen().contents(), other.parser.screen().contents());
    assert!(other.parser.screen().contents().contains("red and under"));
}

#[test]
fn a_sequence_that_is_cut_goes_on() {
    let whole = "a\x1b[1;32mgreen\x1b]0;title\x07 \u{1f600}\u{e9}\x1b(B\x1b]8;;x\x1b\\link".as_bytes();
    for cut in 0..=whole.len() {
        let mut screen = Screen::new(4, 60);
        screen.write(&whole[..cut]);
        let mut other = copy(&mut screen);
        screen.write(&whole[cut..]);
        other.write(&whole[cut..]);
        same(&screen, &other);
    }
}

#[test]
fn what_costs_much_is_not_done() {
    let mut screen = Screen::new(24, 80);
    let start = std::time::Instant::now();
    for last in ["L", "T", "@", "M", "S", "P"] {
        screen.write(format!("\x1b[65535{last}").repeat(2000).as_bytes());
    }
    screen.write(&b"\x1b]0;".iter().chain(&[b'x'; 1 << 20]).copied().collect::<Vec<_>>());
    assert!(screen.scanner.held.len() == 2);
    screen.write(b"\x07seen");
    screen.parse();
    assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
    assert!(screen.parser.screen().contents().contains("seen"));
}

#[test]
fn what_is_inside_a_sequence_hides_no_count() {
    let passed = |bytes: &[u8]| {
        let mut passed = Vec::new();
        Scanner::default().scan(bytes, 80, |piece| passed.extend_from_slice(piece));
        passed
    };
    for (written, seen) in [
        (&b"\x1b[65535@"[..], &b"\x1b[80@"[..]),
        (b"\x1b[2\xcd65535@", b"\x1b[80@"),
        (b"\x1b\x7f[\x7f65535L", b"\x1b[80L"),
        (b"\x1b[6\x005\x08535T", b"\0\x08\x1b[80T"),
        (b"\x1b[65535;1@", b"\x1b[80@"),
        (b"\x1b[5;65535@\x1b[@\x1b[;9L", b"\x1b[5;65535@\x1b[@\x1b[;9L"),
        (b"\x1b[99999999999999999999L", b"\x1b[80L"),
        (b"\x1b[?65535L\x1b[65535 @", b"\x1b[?65535L\x1b[65535 @"),
    ] {
        assert_eq!(passed(written), seen);
    }
}

#[test]
fn what_clears_much_does_not_hold_others_up() {
    for piece in
        ["\x1b[2J", "\x1bc", "\x1b[?1049h\x1b[?1049l", "\x1b[?47h\x1b[J\x1b[?47l", "\n\x1b[9999;9999H"]
    {
        let mut screen = Screen::new(u16::MAX, u16::MAX);
        let start = processor_time();
        for _ in 0..32 {
            screen.write(piece.repeat((64 << 10) / piece.len()).as_bytes());
        }
        screen.write(b"\x1b[2J\x1b[Hseen");
        let contents = screen.show();
        let took = processor_time() - start;
        assert!(took < Duration::from_secs(4), "{piece:?}: {took:?}");
        assert!(!contents.is_empty());
    }
}

#[test]
fn of_a_flood_the_modes_and_the_end_are_kept() {
    let mut screen = Screen::new(24, 80);
    screen.write(b"\x1b[?2004h");
    for number in 0..200_000 {
        screen.write(format!("line {number}\r\n\x1b[31m").as_bytes());
    }
    let other = copy(&mut screen);
    same(&screen, &other);
    assert!(screen.parser.screen().bracketed_paste());
    assert!(screen.parser.screen().contents().ends_with("line 199999"));
    assert!(screen.pending.is_empty());
}

#[test]
fn queries_are_answered_in_whatever_pieces_and_not_without_end() {
    let query = b"\x1b[3;4H\x1b[6n\x1b]11;?\x1b\\\x1b[5n";
    let wanted = b"\x1b[3;4R\x1b]11;rgb:0000/0000/0000\x1b\\\x1b[0n";
    for cut in 0..query.len() {
        let mut screen = Screen::new(24, 80);
        screen.write(&query[..cut]);
        screen.write(&query[cut..]);
        assert_eq!(screen.answers(), wanted, "{cut}");
    }
    // With no credit left what waits is parsed for a query's sake.
    let mut screen = Screen::new(24, 80);
    screen.write(&vec![b'x'; 2 << 20]);
    assert!(!screen.pending.is_empty() && screen.answers().is_empty());
    screen.write(b"\x1b[2;2H\x1b[6n");
    assert_eq!(screen.answers(), b"\x1b[2;2R");
    screen.write(&b"\x1b[5n".repeat(100_000));
    assert!(screen.answers().len() <= 2 * ANSWERS.0 as usize * 4);
    // A string that is not one, or too long, asks nothing.
    let mut screen = Screen::new(24, 80);
    let long = [&b"\x1b]11;"[..], &[b' '; 200], b"?\x07"].concat();
    for other in [&b"\x1b]11;?\x1b[m\x1b\\"[..], b"\x1b]11;?\x18\x07", b"\x1bP11;?\x1b\\", &long] {
        screen.write(other);
        assert!(screen.answers().is_empty(), "{other:?}");
    }
}

#[test]
fn sizes_are_bounded_and_a_new_one_is_taken() {
    let mut screen = Screen::new(0, 0);
    screen.write(b"x\r\ny");
    screen.resize(u16::MAX, u16::MAX);
    assert_eq!(screen.parser.screen().size(), (80, 800));
    screen.resize(u16::MAX, 1);
    assert_eq!(screen.parser.screen().size(), (400, 1));
    screen.resize(5, 7);
    screen.write(b"\x1b[H\x1b[2Jabcdefghij");
    assert_eq!(screen.parser.screen().contents(), "abcdefghij");
    let other = copy(&mut screen);
    same(&screen, &other);
}

proptest! {
    #[test]
    fn nothing_ends_it(
        pieces in prop::collection::vec(prop_oneof![
            prop::collection::vec(any::<u8>(), 0..200),
            "(\x1b\\[[0-9;?]{0,12}[@-~]|\x1b[\\]P].{0,20}|[a-z\u{3000}\u{301}]{0,9}|\r\n){0,20}"
                .prop_map(String::into_bytes),
        ], 0..20),
        sizes in prop::collection::vec((any::<u16>(), 0_u16..200), 0..4),
    ) {
        let mut screen = Screen::new(24, 80);
        let mut sizes = sizes.into_iter();
        for piece in pieces {
            screen.write(&piece);
            if let Some((rows, columns)) = sizes.next() {
                screen.resize(rows, columns);
            }
            screen.show();
        }
    }
}
