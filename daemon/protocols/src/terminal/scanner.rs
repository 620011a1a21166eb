//! Cuts a terminal's output into text and escape sequences, of bounded length and bounded cost to a parser.

/// The longest escape sequence, in bytes, and the longest that is passed on to the parser.
pub(super) const MAX_SEQUENCE: usize = 64;

/// Where in an escape sequence the output is.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum At {
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
pub(super) struct Scanner {
    pub at: At,
    /// The sequence that has begun, or the beginning of the string.
    pub held: Vec<u8>,
    /// What is in a string that may be about colours; `None` in others, and if it is too long.
    command: Option<Vec<u8>>,
    /// The last bytes of the text before it.
    last: Vec<u8>,
}

impl Scanner {
    /// Passes on what a screen shows. No line or character is inserted more than `most` times.
    pub fn scan(&mut self, bytes: &[u8], most: u16, mut pass: impl FnMut(&[u8])) {
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
    pub fn unfinished(&self) -> &[u8] {
        if self.at == At::Text { unfinished_char(&self.last) } else { &self.held }
    }
}

/// Whether a piece changes how a terminal behaves, whatever is on it.
pub(super) fn is_mode(piece: &[u8]) -> bool {
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
