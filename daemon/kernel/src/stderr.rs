//! Standard error: where it leads, and lines on it that are one line each whatever is in them.

use std::collections::HashMap;
use std::hash::Hash;
use std::io;
use std::os::fd::AsFd;
use std::time::Instant;

use agentd_policy::token_bucket::TokenBucket;
use rustix::fs::FileType;

/// Where standard error leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// To the journal, as `systemd.exec(5)` has it with `JOURNAL_STREAM`.
    Journal,
    /// To a terminal.
    Terminal,
    /// To a file, a pipe, or nowhere.
    Other,
}

impl Place {
    /// Where it leads in this process.
    pub fn find() -> Self {
        let stream = std::env::var("JOURNAL_STREAM").ok();
        let stderr = io::stderr();
        if stream.is_some_and(|stream| is(stderr.as_fd(), &stream)) {
            Self::Journal
        } else if rustix::termios::isatty(&stderr) {
            Self::Terminal
        } else {
            Self::Other
        }
    }
}

/// Whether `fd` is the socket `DEVICE:INODE`. A process that was given another standard error has the variable still.
fn is(fd: impl AsFd, stream: &str) -> bool {
    let Ok(stat) = rustix::fs::fstat(fd) else { return false };
    FileType::from_raw_mode(stat.st_mode) == FileType::Socket
        && stream == format!("{}:{}", stat.st_dev, stat.st_ino)
}

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Somebody has to do something.
    Error,
    /// Something was lost, or odd.
    Warning,
    /// What everybody may know.
    Info,
    /// What explains the rest.
    Debug,
}

/// How lines on standard error look.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    place: Place,
    json: bool,
    colours: bool,
}

impl Look {
    /// As it suits the reader there: with priorities of `sd-daemon(3)` for the journal, with colours on a terminal
    /// unless `NO_COLOR` is set. `json`: each line is an object.
    pub fn find(json: bool) -> Self {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let place = Place::find();
        Self { place, json, colours: place == Place::Terminal && !unwanted }
    }

    /// Whether the reader notes the time of each line.
    pub fn is_timed(self) -> bool {
        self.place == Place::Journal && !self.json
    }

    /// Where to write one line. With `about`, that is a field of it.
    pub fn line<'a>(self, severity: Severity, about: Option<(&'a str, &'a str)>) -> Line<'a> {
        let (priority, colour) = match severity {
            Severity::Error => (3, Some(31)),
            Severity::Warning => (4, Some(33)),
            Severity::Info => (6, None),
            Severity::Debug => (7, None),
        };
        let dress = match (self.json, self.place, colour) {
            (true, ..) => Dress::Json,
            (false, Place::Journal, _) => Dress::Priority(priority),
            (false, Place::Terminal, Some(colour)) if self.colours => Dress::Colour(colour),
            _ => Dress::Plain,
        };
        Line { dress, about }
    }
}

/// What is around a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dress {
    Plain,
    Priority(u8),
    /// An escape sequence of `console_codes(4)`.
    Colour(u8),
    Json,
}

/// Takes one line in one write, escapes what would make it two or steer a terminal, and writes it to standard error.
#[derive(Debug)]
pub struct Line<'a> {
    dress: Dress,
    /// What is known of all lines of this process: names and values of letters and digits.
    about: Option<(&'a str, &'a str)>,
}

impl Line<'_> {
    fn dressed(&self, text: &[u8]) -> String {
        let text = String::from_utf8_lossy(text);
        // Without a time, a line begins with the room for one.
        let text = text.strip_suffix('\n').unwrap_or(&text).trim_start_matches(' ');
        let mut out = String::with_capacity(text.len() + 64);
        match self.dress {
            Dress::Priority(priority) => out.push_str(&format!("<{priority}>")),
            Dress::Colour(colour) => out.push_str(&format!("\x1b[{colour}m")),
            Dress::Plain | Dress::Json => {}
        }
        let json = self.dress == Dress::Json;
        let text = if json { text.strip_suffix('}').unwrap_or(text) } else { text };
        for c in text.chars() {
            if !c.is_control() && !reorders(c) {
                out.push(c);
            } else if json {
                out.push_str(&format!("\\u{:04x}", u32::from(c)));
            } else {
                out.extend(c.escape_unicode());
            }
        }
        match (self.about, json) {
            (Some((key, value)), true) => out.push_str(&format!(",\"{key}\":\"{value}\"}}")),
            (None, true) => out.push('}'),
            (Some((key, value)), false) => out.push_str(&format!(" {key}={value}")),
            (None, false) => {}
        }
        if matches!(self.dress, Dress::Colour(_)) {
            out.push_str("\x1b[0m");
        }
        out.push('\n');
        out
    }
}

/// Characters that reorder what surrounds them.
fn reorders(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

impl io::Write for Line<'_> {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        // At once, so that lines of several processes do not mix.
        io::stderr().write_all(self.dressed(text).as_bytes())?;
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How often lines of one kind are written: so many at once, and so many a second after that.
const LINES: (u32, u32) = (50, 5);

/// Bounds how often each kind of line is written. Others decide how often something happens: a log that says so each
/// time is theirs to fill.
#[derive(Debug)]
pub struct LineRate<K> {
    kinds: HashMap<K, Kind>,
}

#[derive(Debug)]
struct Kind {
    bucket: TokenBucket,
    held_back: u64,
}

impl<K> Default for LineRate<K> {
    fn default() -> Self {
        Self { kinds: HashMap::new() }
    }
}

impl<K: Hash + Eq> LineRate<K> {
    /// Whether a line of that kind may be written now; if so, how many were held back since the last.
    pub fn take(&mut self, kind: K, now: Instant) -> Option<u64> {
        let new = || Kind { bucket: TokenBucket::new(LINES.0, LINES.1), held_back: 0 };
        let kind = self.kinds.entry(kind).or_insert_with(new);
        if !kind.bucket.take(now) {
            kind.held_back += 1;
            return None;
        }
        Some(std::mem::take(&mut kind.held_back))
    }
}

impl Look {
    /// Writes that `count` lines of the kind of the next one were held back.
    pub fn held_back(self, count: u64) {
        let text = match self.json {
            true => format!(
                "{{\"level\":\"WARN\",\"message\":\"lines like the next were held back\",\"lines\":{count}}}"
            ),
            false => format!("WARN {count} lines like the next were held back"),
        };
        // Where this cannot be written, the line cannot be either.
        io::Write::write(&mut self.line(Severity::Warning, None), text.as_bytes()).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(dress: Dress, about: Option<(&'static str, &'static str)>) -> Line<'static> {
        Line { dress, about }
    }

    #[test]
    fn a_line_is_one_line_and_steers_nothing() {
        let hostile = b"deleting name=\"a\nb\x1b[2J\x9b\xc2\x9b\xe2\x80\xaex\"\n";
        let plain = line(Dress::Plain, None).dressed(hostile);
        assert_eq!(plain, "deleting name=\"a\\u{a}b\\u{1b}[2J\u{fffd}\\u{9b}\\u{202e}x\"\n");
        let journal = line(Dress::Priority(3), Some(("session", "a1"))).dressed(b"  lost\n<0>x");
        assert_eq!(journal, "<3>lost\\u{a}<0>x session=a1\n");
        assert_eq!(line(Dress::Colour(31), None).dressed(b"x"), "\x1b[31mx\x1b[0m\n");
    }

    #[test]
    fn an_object_stays_one() {
        let named = line(Dress::Json, Some(("session", "a1")));
        assert_eq!(
            named.dressed("{\"k\":\"\u{9b}\"}\n".as_bytes()),
            "{\"k\":\"\\u009b\",\"session\":\"a1\"}\n"
        );
        assert_eq!(line(Dress::Json, None).dressed(b"{\"k\":1}\n"), "{\"k\":1}\n");
    }

    #[test]
    fn the_journal_is_known_by_its_socket() {
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let stat = rustix::fs::fstat(&ours).unwrap();
        assert!(is(&ours, &format!("{}:{}", stat.st_dev, stat.st_ino)));
        assert!(!is(&ours, &format!("{}:{}", stat.st_dev, stat.st_ino + 1)) && !is(&ours, ""));
    }

    #[test]
    fn lines_of_one_kind_are_bounded_and_counted() {
        use std::time::Duration;
        let mut rate = LineRate::default();
        let start = Instant::now();
        let written =
            |rate: &mut LineRate<u8>, kind, at| (0..1000).filter(|_| rate.take(kind, at).is_some()).count();
        assert_eq!(written(&mut rate, 1, start), 50);
        assert_eq!(written(&mut rate, 2, start), 50);
        let later = start + Duration::from_secs(1);
        assert_eq!(rate.take(1, later), Some(950));
        assert_eq!(rate.take(1, later), Some(0));
        assert_eq!(written(&mut rate, 1, later), 3);
        assert_eq!(written(&mut rate, 1, later + Duration::from_secs(3600)), 50);
    }
}
