//! What a terminal shows, for somebody who was not there when it was written.
//!
//! The output is the agent's, and what reads it is a parser. If it panics, the screen starts anew. What would cost
//! it more than its place on a screen (strings without end, a line inserted 65535 times) it never sees.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use vt100::Parser;

use crate::queries::{self, Colours};

/// The largest screen that is kept, whatever the terminal's size: rows, columns, and places.
const MAX: (u16, u16) = (400, 800);
/// See [`MAX`]. A place takes 32 bytes, and there are two screens.
const MAX_PLACES: u16 = 64_000;
/// The most bytes that wait to be parsed; of a flood half of it is left, and what has scrolled by is not parsed.
const BURST: usize = 256 << 10;
/// Bytes that are parsed in a second of steady output: the parser takes some 5 MB/s, and a terminal ten times that.
const STEADY: u128 = 512 << 10;
/// How much of a processor's time parsing takes at once, and its end once more: three bytes can clear a whole screen.
const BUDGET: Duration = Duration::from_millis(100);
/// That end, in bytes.
const TAIL: usize = 4 << 10;
/// So many bytes are paid for each microsecond that parsing took.
const PRICE: u128 = 5;
/// How often the time is looked at: each so many pieces, of at most so many bytes.
const PIECES: (usize, usize) = (8, 4 << 10);
/// The longest escape sequence, and the longest that is passed on to the parser.
const MAX_SEQUENCE: usize = 64;
/// Queries that are answered at once, and in a second: each may need the screen as it is then.
const ANSWERS: (u32, u32) = (64, 32);

thread_local! {
    /// Whether a panic would be the parser's, of which nobody need hear.
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Keeps panics of the parser from standard error: the agent could fill a log with them.
pub fn quiet_panics() {
    let loud = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !GUARDED.get() {
            loud(info);
        }
    }));
}

/// The screen of one terminal.
pub struct Screen {
    parser: Parser,
    size: (u16, u16),
    scanner: Scanner,
    /// Written, and not parsed yet.
    pending: Vec<u8>,
    /// How many bytes may be parsed, at this time. Below zero if the last ones took long.
    credit: (i64, Instant),
    colours: Colours,
    /// What the program is to read.
    answers: Vec<u8>,
    /// How many more queries are answered, and since when that is so.
    patience: (u32, Instant),
}

impl Screen {
    /// An empty one of so many rows and columns.
    pub fn new(rows: u16, columns: u16) -> Self {
        let size = bounded(rows, columns);
        Self {
            parser: Parser::new(size.0, size.1, 0),
            size,
            scanner: Scanner::default(),
            pending: Vec::new(),
            credit: (BURST as i64, Instant::now()),
            colours: Colours::default(),
            answers: Vec::new(),
            patience: (ANSWERS.0, Instant::now()),
        }
    }

    /// Gives it another size.
    pub fn resize(&mut self, rows: u16, columns: u16) {
        let size = bounded(rows, columns);
        if size != self.size {
            self.parse();
            self.size = size;
            self.guarded(|parser, _| parser.screen_mut().set_size(size.0, size.1));
        }
    }

    /// Writes on it: at once as far as there is credit for it, else when it is to be shown. Of what is too much,
    /// only the terminal's modes are kept.
    pub fn write(&mut self, bytes: &[u8]) {
        let (credit, since) = self.credit;
        let earned = since.elapsed().as_micros().saturating_mul(STEADY) / 1_000_000;
        let credit = credit.saturating_add(i64::try_from(earned).unwrap_or(i64::MAX)).min(BURST as i64);
        if earned > 0 {
            self.credit = (credit, Instant::now());
        }
        let before = self.pending.len();
        self.pending.extend_from_slice(bytes);
        if self.pending.len() as i64 <= self.credit.0 || self.is_asked(before) {
            self.parse();
        } else if self.pending.len() > BURST {
            let skipped: Vec<u8> = self.pending.drain(..self.pending.len() - BURST / 2).collect();
            self.feed(&skipped, is_mode);
        }
    }

    /// The answers to what was asked since.
    pub fn answers(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.answers)
    }

    /// Whether what was written behind `before` may ask something, and is to be parsed for it: whoever asks waits for the
    /// answer, and may write nothing more before.
    fn is_asked(&mut self, before: usize) -> bool {
        let begun = before.saturating_sub(MAX_SEQUENCE);
        let asked = self.scanner.at != At::Text || queries::may_be_in(&self.pending[begun..]);
        self.renew_patience();
        let answered = asked && self.patience.0 > 0;
        self.patience.0 -= u32::from(answered);
        answered
    }

    /// Counts the queries that may be answered since the last second.
    fn renew_patience(&mut self) {
        let (left, since) = self.patience;
        if since.elapsed() >= Duration::from_secs(1) {
            self.patience = (left.saturating_add(ANSWERS.1).min(ANSWERS.0), Instant::now());
        }
    }

    /// Parses what waits: all of it, or what there is time for, and the end.
    fn parse(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        self.credit.0 = self.credit.0.saturating_sub(pending.len() as i64);
        let (bulk, tail) = pending.split_at(pending.len().saturating_sub(TAIL));
        self.feed(bulk, |_| true);
        self.feed(tail, |_| true);
    }

    /// Parses the pieces of `bytes` that are wanted, as far as there is time. What it took is paid for.
    fn feed(&mut self, bytes: &[u8], wanted: impl Fn(&[u8]) -> bool) {
        let most = self.size.0.max(self.size.1);
        let start = processor_time();
        let mut over = false;
        self.renew_patience();
        let (mut colours, mut patience, mut answers) = (self.colours, self.patience.0, Vec::new());
        self.guarded(|parser, scanner| {
            let mut count = 0_usize;
            scanner.scan(bytes, most, |piece| {
                if over || !wanted(piece) {
                    return;
                }
                if let Some(command) = piece.strip_prefix(b"\x1b]") {
                    let answer = of_command(command, &mut colours).filter(|_| patience > 0);
                    patience -= u32::from(answer.is_some());
                    return answers.extend(answer.into_iter().flatten());
                }
                if patience > 0
                    && let Some(answer) = queries::answer(piece, parser.screen())
                {
                    patience -= 1;
                    return answers.extend(answer.bytes());
                }
                for part in piece.chunks(PIECES.1) {
                    parser.process(part);
                    count += 1;
                    if count.is_multiple_of(PIECES.0) || part.len() == PIECES.1 {
                        over = processor_time().saturating_sub(start) > BUDGET;
                    }
                    if over {
                        return;
                    }
                }
            });
        });
        (self.colours, self.patience.0) = (colours, patience);
        self.answers.extend(answers);
        let took = processor_time().saturating_sub(start).as_micros().saturating_mul(PRICE);
        let price = i64::try_from(took).unwrap_or(i64::MAX).saturating_sub(bytes.len() as i64).max(0);
        self.credit.0 = self.credit.0.saturating_sub(price);
    }

    /// What makes an empty terminal of the same size show the same, and take what is written next as this one
    /// would.
    pub fn show(&mut self) -> Vec<u8> {
        self.parse();
        let size = self.size;
        let shown = self.guarded(|parser, scanner| {
            let mut out = Vec::new();
            let screen = parser.screen();
            if screen.alternate_screen() {
                // A program that ends gives back what was there before it.
                let mut below = Parser::new(size.0, size.1, 0);
                *below.screen_mut() = screen.clone();
                below.process(b"\x1b[?47l");
                out.extend(below.screen().contents_formatted());
                out.extend(b"\x1b[?1049h");
            }
            out.extend(screen.state_formatted());
            out.extend(scanner.unfinished());
            out
        });
        shown.unwrap_or_default()
    }

    /// Runs `act`; a screen on which it panics is replaced by an empty one.
    fn guarded<T>(&mut self, act: impl FnOnce(&mut Parser, &mut Scanner) -> T) -> Option<T> {
        let Self { parser, size, scanner, .. } = self;
        GUARDED.set(true);
        let done = catch_unwind(AssertUnwindSafe(|| act(parser, scanner)));
        GUARDED.set(false);
        if done.is_err() {
            (self.parser, self.scanner) = (Parser::new(size.0, size.1, 0), Scanner::default());
        }
        done.ok()
    }
}

/// How much of a processor's time this thread has used.
fn processor_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(now).unwrap_or_default()
}

/// A terminal without a size is as large as the first ones were.
fn bounded(rows: u16, columns: u16) -> (u16, u16) {
    let or = |value: u16, usual: u16| if value == 0 { usual } else { value };
    let columns = or(columns, 80).min(MAX.1);
    (or(rows, 24).min(MAX.0).min(MAX_PLACES / columns), columns)
}

/// Where in an escape sequence the output is.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum At {
    #[default]
    Text,
    /// Behind an escape, and what may stand between it and its end.
    Escape,
    /// In a control sequence.
    Control,
    /// In a string: a title, a clipboard; nothing that a screen shows.
    String,
}

/// Cuts output into text and escape sequences.
#[derive(Default)]
struct Scanner {
    at: At,
    /// The sequence that has begun, or the beginning of the string.
    held: Vec<u8>,
    /// What is in a string that may be about colours; `None` in others, and if it is too long.
    command: Option<Vec<u8>>,
    /// The last bytes of the text before it.
    last: Vec<u8>,
}

impl Scanner {
    /// Passes on what a screen shows. No line or character is inserted more than `most` times.
    fn scan(&mut self, bytes: &[u8], most: u16, mut pass: impl FnMut(&[u8])) {
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.at == At::Text {
                let len = rest.iter().position(|byte| *byte == 0x1b).unwrap_or(rest.len());
                let (text, later) = rest.split_at(len);
                self.text(text, &mut pass);
                let Some((escape, later)) = later.split_first() else { return };
                self.begin(*escape);
                rest = later;
                continue;
            }
            let Some((byte, later)) = rest.split_first() else { return };
            self.sequence(*byte, most, &mut pass);
            rest = later;
        }
    }

    fn text(&mut self, text: &[u8], pass: &mut impl FnMut(&[u8])) {
        if !text.is_empty() {
            pass(text);
            self.last.extend_from_slice(&text[text.len().saturating_sub(3)..]);
            self.last.drain(..self.last.len().saturating_sub(3));
        }
    }

    fn begin(&mut self, escape: u8) {
        // The end of a string may follow: that decides whether it was one.
        if self.at != At::String {
            self.command = None;
        }
        self.at = At::Escape;
        self.held.clear();
        self.held.push(escape);
        self.last.clear();
    }

    /// Passes a string about colours on, once it has its end.
    fn end_command(&mut self, end: &[u8], pass: &mut impl FnMut(&[u8])) {
        if let Some(command) = self.command.take() {
            pass(&[b"\x1b]", command.as_slice(), end].concat());
        }
    }

    /// One byte that is not text.
    fn sequence(&mut self, byte: u8, most: u16, pass: &mut impl FnMut(&[u8])) {
        match (self.at, byte) {
            // A new one ends any other; the end of a string is a sequence of its own.
            (_, 0x1b) => return self.begin(byte),
            (_, 0x18 | 0x1a) | (At::String, 7) if self.at != At::String || byte != 7 || self.is_title() => {
                (self.at, self.held) = (At::Text, Vec::new());
                match byte {
                    7 => self.end_command(&[7], pass),
                    _ => self.command = None,
                }
                return;
            }
            (At::String, _) => {
                if let Some(command) = self.command.as_mut().filter(|command| command.len() < MAX_SEQUENCE) {
                    command.push(byte);
                } else {
                    self.command = None;
                }
                return;
            }
            // As the parser has it: the one acts at once and the sequence goes on, the other is nothing.
            (_, 0..=0x1f) => return pass(&[byte]),
            (_, 0x7f..) => return,
            _ => {}
        }
        // One that is too long means nothing to the parser.
        if self.held.len() < MAX_SEQUENCE {
            self.held.push(byte);
        }
        match (self.at, byte) {
            (At::Escape, b'[') if self.held.len() == 2 => self.at = At::Control,
            (At::Escape, b']' | b'P' | b'X' | b'^' | b'_') if self.held.len() == 2 => {
                self.at = At::String;
                self.command = (byte == b']').then(Vec::new);
            }
            (At::Escape, 0x20..=0x2f) | (At::Control, 0x20..=0x3f) => {}
            _ => {
                let sequence = std::mem::take(&mut self.held);
                self.at = At::Text;
                if sequence == b"\x1b\\" {
                    self.end_command(&sequence, pass);
                }
                self.command = None;
                if sequence.len() < MAX_SEQUENCE {
                    pass(&limited(sequence, most));
                }
            }
        }
    }

    /// Whether the string is one that a bell ends.
    fn is_title(&self) -> bool {
        self.held.get(1) == Some(&b']')
    }

    /// The sequence or character that was begun and not finished.
    fn unfinished(&self) -> &[u8] {
        if self.at == At::Text { unfinished_char(&self.last) } else { &self.held }
    }
}

/// The answer to an operating system command, which ends as it does.
fn of_command(command: &[u8], colours: &mut Colours) -> Option<Vec<u8>> {
    let (command, end) = match command.strip_suffix(&[7]) {
        Some(command) => (command, &b"\x07"[..]),
        None => (command.strip_suffix(b"\x1b\\")?, &b"\x1b\\"[..]),
    };
    let answer = colours.command(std::str::from_utf8(command).ok()?)?;
    Some([b"\x1b]", answer.as_bytes(), end].concat())
}

/// Whether a piece changes how a terminal behaves, whatever is on it.
fn is_mode(piece: &[u8]) -> bool {
    matches!(piece, [0x1b, b'[', b'?', .., b'h' | b'l'] | [0x1b, b'[', .., b'r'] | [0x1b, b'=' | b'>' | b'c'])
}

/// The sequence, with no more insertions than a screen has places for.
fn limited(sequence: Vec<u8>, most: u16) -> Vec<u8> {
    match sequence.as_slice() {
        // With anything but numbers it is another one.
        [0x1b, b'[', numbers @ .., last @ (b'L' | b'T' | b'@')]
            if numbers.iter().all(|byte| matches!(byte, b'0'..=b';')) =>
        {
            let end = numbers.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(numbers.len());
            let count = std::str::from_utf8(&numbers[..end]).ok().and_then(|count| count.parse::<u16>().ok());
            match count {
                Some(count) if count <= most => sequence,
                None if end == 0 => sequence,
                _ => format!("\x1b[{most}{}", char::from(*last)).into_bytes(),
            }
        }
        _ => sequence,
    }
}

/// The bytes of a UTF-8 character that lacks others.
fn unfinished_char(bytes: &[u8]) -> &[u8] {
    for back in 1..=bytes.len().min(3) {
        let at = bytes.len() - back;
        let need = match bytes[at] {
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            0x80..=0xbf => continue,
            _ => return &[],
        };
        return if back < need { &bytes[at..] } else { &[] };
    }
    &[]
}

#[cfg(test)]
mod tests {
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
}
