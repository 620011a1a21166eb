//! What a terminal shows, for somebody who was not there when it was written.
//!
//! The output is the agent's, and what reads it is a parser. If it panics, the screen starts anew. What would cost
//! it more than its place on a screen (strings without end, a line inserted 65535 times) it never sees.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use agentd_policy::token_bucket::TokenBucket;
use rustix::time::{ClockId, clock_gettime};
use vt100::Parser;

use super::queries::{self, Colours};
use super::scanner::{At, MAX_SEQUENCE, Scanner, is_mode};

/// The largest screen that is kept, whatever the terminal's size: rows, columns, and places.
const MAX: (u16, u16) = (400, 800);
/// See [`MAX`]. A place takes 32 bytes, and there are two screens.
const MAX_PLACES: u16 = 64_000;
/// The most bytes that wait to be parsed; of a flood half of it is left, and what has scrolled by is not parsed.
const BURST: usize = 256 << 10;
/// Bytes that are parsed in a second of steady output: the parser takes some 5 MB/s, and a terminal ten times that.
const STEADY: f64 = (512 << 10) as f64;
/// How much of a processor's time parsing takes at once, and its end once more: three bytes can clear a whole screen.
const BUDGET: Duration = Duration::from_millis(100);
/// That end, in bytes.
const TAIL: usize = 4 << 10;
/// So many bytes are paid for each microsecond that parsing took.
const PRICE: f64 = 5.0;
/// How often the time is looked at: each so many pieces, of at most so many bytes.
const PIECES: (usize, usize) = (8, 4 << 10);
/// Queries that are answered at once, and in a second: each may need the screen as it is then.
const ANSWERS: (u32, u32) = (64, 32);

thread_local! {
    /// Whether a panic would be the parser's, and is not printed.
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
    /// How many bytes may be parsed. Below zero if the last ones took long.
    credit: TokenBucket,
    colours: Colours,
    /// What the program is to read.
    answers: Vec<u8>,
    /// How many more queries are answered.
    queries: TokenBucket,
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
            credit: TokenBucket::new(BURST as f64, STEADY),
            colours: Colours::default(),
            answers: Vec::new(),
            queries: TokenBucket::new(ANSWERS.0, ANSWERS.1),
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
        let before = self.pending.len();
        self.pending.extend_from_slice(bytes);
        if self.pending.len() as f64 <= self.credit.tokens(Instant::now()) || self.is_asked(before) {
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

    /// Whether what was written behind `before` may ask something, and is to be parsed for it: a program waits for the
    /// answer, and may write nothing more before.
    fn is_asked(&mut self, before: usize) -> bool {
        let begun = before.saturating_sub(MAX_SEQUENCE);
        let asked = self.scanner.at != At::Text || queries::may_be_in(&self.pending[begun..]);
        asked && self.queries.take(Instant::now())
    }

    /// Parses what waits: all of it, or what there is time for, and the end.
    fn parse(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        self.credit.charge(pending.len() as f64, Instant::now());
        let (bulk, tail) = pending.split_at(pending.len().saturating_sub(TAIL));
        self.feed(bulk, |_| true);
        self.feed(tail, |_| true);
    }

    /// Parses the pieces of `bytes` that are wanted, as far as there is time. What it took is paid for.
    fn feed(&mut self, bytes: &[u8], wanted: impl Fn(&[u8]) -> bool) {
        let most = self.size.0.max(self.size.1);
        let start = processor_time();
        let mut over = false;
        let now = Instant::now();
        let (mut colours, mut queries, mut answers) = (self.colours, self.queries, Vec::new());
        self.guarded(|parser, scanner| {
            let mut count = 0_usize;
            scanner.scan(bytes, most, |piece| {
                if over || !wanted(piece) {
                    return;
                }
                if let Some(command) = piece.strip_prefix(b"\x1b]") {
                    let answer = of_command(command, &mut colours).filter(|_| queries.take(now));
                    return answers.extend(answer.into_iter().flatten());
                }
                if queries.tokens(now) >= 1.0
                    && let Some(answer) = queries::answer(piece, parser.screen())
                    && queries.take(now)
                {
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
        (self.colours, self.queries) = (colours, queries);
        self.answers.extend(answers);
        let took = processor_time().saturating_sub(start).as_micros() as f64;
        self.credit.charge((took * PRICE - bytes.len() as f64).max(0.0), Instant::now());
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

/// The answer to an operating system command, which ends as it does.
fn of_command(command: &[u8], colours: &mut Colours) -> Option<Vec<u8>> {
    let (command, end) = match command.strip_suffix(&[7]) {
        Some(command) => (command, &b"\x07"[..]),
        None => (command.strip_suffix(b"\x1b\\")?, &b"\x1b\\"[..]),
    };
    let answer = colours.command(std::str::from_utf8(command).ok()?)?;
    Some([b"\x1b]", answer.as_bytes(), end].concat())
}

#[cfg(test)]
#[path = "screen_tests.rs"]
mod tests;
