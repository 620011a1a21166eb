//! Filters what an agent writes to the caller's terminal.
//!
//! Text, colours, cursor movements, modes and hyperlinks pass. What reads or writes the clipboard, sets
//! titles, makes the terminal answer (the answer would be typed into whatever reads next), prints, or wraps
//! one of these for a multiplexer is left out. A sequence passes in whole once it is complete, or not at
//! all; so what the terminal sees is always well-formed. 8-bit control characters never pass: whether
//! `\x9b` or `U+009B` starts a sequence depends on the terminal.

use bytes::Bytes;

use super::modes::Modes;

const ESC: u8 = 0x1b;
const BEL: u8 = 0x07;
const ENQ: u8 = 0x05;
const SO: u8 = 0x0e;
const SI: u8 = 0x0f;
/// The most intermediate bytes of an escape sequence, and one; those in use have one or two.
const MAX_ESCAPE: usize = 8;
/// The longest control sequence; the longest in use have some 60 bytes.
const MAX_CSI: usize = 256;
/// The longest operating system command; a hyperlink has up to 2083 bytes.
const MAX_OSC: usize = 4096;
/// The most modes of one sequence: terminals take 16 parameters or more.
const MAX_PARAMETERS: usize = 16;
const REPLACEMENT: &[u8] = "\u{fffd}".as_bytes();

/// Where in a sequence the stream is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Between characters, as at the beginning of a stream.
    #[default]
    Ground,
    /// After this first byte of a UTF-8 character, which waits.
    First(u8),
    /// That many bytes before the end of a UTF-8 character.
    Rest(u8),
    /// After ESC and the intermediate bytes that are held.
    Escape,
    /// In a control sequence; held is what follows `ESC [`.
    Csi,
    /// In a control sequence that is too long.
    CsiLost,
    /// In an operating system command; held is what follows `ESC ]`.
    Osc,
    /// The same, after an ESC.
    OscEscape,
    /// In a string that does not pass; whether BEL ends it.
    Lost(bool),
    /// The same, after an ESC.
    LostEscape,
}

/// The filter of one stream. It remembers where the last piece ended.
#[derive(Debug, Default)]
pub struct Filter {
    state: State,
    held: Vec<u8>,
    /// What the output has switched on.
    modes: Modes,
}

impl Filter {
    /// What of `bytes`, and of what was held before, may pass.
    pub fn pass(&mut self, bytes: Bytes) -> Bytes {
        if self.state == State::Ground
            && bytes.iter().all(|b| b.is_ascii() && !matches!(*b, ESC | ENQ | SO | SI))
        {
            return bytes;
        }
        let mut out = Vec::with_capacity(bytes.len() + 16);
        for byte in &bytes {
            self.step(*byte, &mut out);
        }
        out.into()
    }

    /// The stream ends: what brings the terminal back to what it was.
    pub fn undo(&mut self) -> Bytes {
        self.begin(State::Ground);
        self.modes.undo()
    }

    fn step(&mut self, byte: u8, out: &mut Vec<u8>) {
        match self.state {
            State::Ground => self.ground(byte, out),
            State::First(first) => self.second(first, byte, out),
            State::Rest(left) => {
                if !matches!(byte, 0x80..=0xbf) {
                    return self.ground(byte, out);
                }
                out.push(byte);
                self.state = if left > 1 { State::Rest(left - 1) } else { State::Ground };
            }
            State::Escape => self.escape(byte, out),
            State::Csi | State::CsiLost => self.csi(byte, out),
            State::Osc => self.osc(byte, out),
            State::OscEscape if byte == b'\\' => self.end_osc(b"\x1b\\", out),
            State::Lost(_) if byte == ESC => self.state = State::LostEscape,
            State::Lost(bell) => {
                if matches!(byte, 0x18 | 0x1a) || (bell && byte == BEL) {
                    self.state = State::Ground;
                }
            }
            State::LostEscape if byte == b'\\' => self.state = State::Ground,
            // Any other escape ends the string and is one of its own.
            State::OscEscape | State::LostEscape => {
                self.begin(State::Escape);
                self.escape(byte, out);
            }
        }
    }

    fn begin(&mut self, state: State) {
        self.held.clear();
        self.state = state;
    }

    fn ground(&mut self, byte: u8, out: &mut Vec<u8>) {
        self.state = State::Ground;
        match byte {
            ESC => self.begin(State::Escape),
            ENQ => {}
            0x80..=0x9f => out.extend(REPLACEMENT),
            0xc2..=0xf4 => self.state = State::First(byte),
            _ => self.control(byte, out),
        }
    }

    /// What a terminal acts on at once, and text.
    fn control(&mut self, byte: u8, out: &mut Vec<u8>) {
        if matches!(byte, SO | SI) {
            self.modes.note_shift(byte == SO);
        }
        out.push(byte);
    }

    /// The second byte of a UTF-8 character decides whether it is one, and no control character.
    fn second(&mut self, first: u8, byte: u8, out: &mut Vec<u8>) {
        let fits = match first {
            0xe0 => matches!(byte, 0xa0..=0xbf),
            0xed => matches!(byte, 0x80..=0x9f),
            0xf0 => matches!(byte, 0x90..=0xbf),
            0xf4 => matches!(byte, 0x80..=0x8f),
            _ => matches!(byte, 0x80..=0xbf),
        };
        if !fits {
            out.push(first);
            return self.ground(byte, out);
        }
        self.state = match first {
            0xe0..=0xef => State::Rest(1),
            0xf0.. => State::Rest(2),
            _ => State::Ground,
        };
        if first == 0xc2 && byte < 0xa0 {
            out.extend(REPLACEMENT);
        } else {
            out.extend([first, byte]);
        }
    }

    /// What control characters and bytes beyond ASCII do inside a sequence; whether `byte` was one.
    fn interrupts(&mut self, byte: u8, out: &mut Vec<u8>) -> bool {
        match byte {
            ESC => self.begin(State::Escape),
            0x18 | 0x1a => self.begin(State::Ground),
            ENQ | 0x7f => {}
            // The terminal acts on these at once and goes on with the sequence.
            0x00..=0x1f => self.control(byte, out),
            0x80.. => {
                self.begin(State::Ground);
                self.ground(byte, out);
            }
            _ => return false,
        }
        true
    }

    fn escape(&mut self, byte: u8, out: &mut Vec<u8>) {
        if self.interrupts(byte, out) {
            return;
        }
        match (byte, self.held.as_slice()) {
            (0x20..=0x2f, held) if held.len() < MAX_ESCAPE => self.held.push(byte),
            // Too long: nothing of it passes, its end included.
            (0x20..=0x2f, _) => {}
            (b'[', []) => self.begin(State::Csi),
            (b']', []) => self.begin(State::Osc),
            (b'P' | b'X' | b'^' | b'_' | b'k', []) => self.begin(State::Lost(false)),
            (_, held) => {
                if held.len() < MAX_ESCAPE && escape_passes(held, byte) {
                    self.modes.note_escape(held, byte);
                    out.push(ESC);
                    out.extend(held);
                    out.push(byte);
                }
                self.begin(State::Ground);
            }
        }
    }

    fn csi(&mut self, byte: u8, out: &mut Vec<u8>) {
        if self.interrupts(byte, out) {
            return;
        }
        match byte {
            0x20..=0x3f if self.held.len() < MAX_CSI => self.held.push(byte),
            0x20..=0x3f => self.state = State::CsiLost,
            _ => {
                if self.state == State::Csi && csi_passes(&self.held, byte) {
                    self.modes.note(&self.held, byte);
                    out.extend([ESC, b'[']);
                    out.extend(&self.held);
                    out.push(byte);
                }
                self.begin(State::Ground);
            }
        }
    }

    fn osc(&mut self, byte: u8, out: &mut Vec<u8>) {
        match byte {
            BEL => self.end_osc(&[BEL], out),
            ESC => self.state = State::OscEscape,
            0x18 | 0x1a => self.begin(State::Ground),
            _ if self.held.len() < MAX_OSC => self.held.push(byte),
            _ => self.begin(State::Lost(true)),
        }
    }

    fn end_osc(&mut self, end: &[u8], out: &mut Vec<u8>) {
        if osc_passes(&self.held) {
            self.modes.note_osc(&self.held);
            out.extend([ESC, b']']);
            out.extend(&self.held);
            out.extend(end);
        }
        self.begin(State::Ground);
    }
}

/// Whether `ESC`, `intermediates`, `last` passes.
fn escape_passes(intermediates: &[u8], last: u8) -> bool {
    match (intermediates, last) {
        // DECID makes the terminal answer.
        ([], b'Z') => false,
        // 8-bit answers; another character set than UTF-8; a message of GNU screen.
        ([b' ', ..], b'G') | ([b'%' | b'!', ..], _) => false,
        _ => true,
    }
}

/// Whether `ESC [`, `held`, `last` passes.
fn csi_passes(held: &[u8], last: u8) -> bool {
    let (prefix, held) = match held.split_first() {
        Some((prefix @ b'<'..=b'?', rest)) => (Some(*prefix), rest),
        _ => (None, held),
    };
    let cut = held.iter().position(|b| *b < 0x30).unwrap_or(held.len());
    let (parameters, intermediates) = held.split_at(cut);
    // No sequence has two intermediate bytes; a terminal that looks at one of them would take it for another.
    let well_formed = parameters.iter().all(|b| matches!(b, b'0'..=b';'))
        && intermediates.len() <= 1
        && intermediates.iter().all(|b| matches!(b, 0x20..=0x2f));
    let names = |mode: &[u8]| parameters.split(|b| *b == b';').any(|p| trim(p) == mode);
    well_formed
        && match (prefix, intermediates, last) {
            // Device attributes, status, parameters, version, keyboard and graphics: all answer.
            (None | Some(b'>' | b'='), [], b'c') => false,
            (None | Some(b'?'), [], b'n') | (None, [], b'x') => false,
            (Some(b'>'), [], b'q') => false,
            (Some(b'?'), [], b'u' | b'm' | b'S') => false,
            // Modes, checksums of the screen, presentation, locator, extent, colours, rendition.
            (_, [b'$'], b'p' | b'w' | b'u') | (_, [b'*'], b'y') | (_, [b'\''], b'|') => false,
            // The level of conformance: with it come 8-bit answers.
            (_, [b'"'], b'p') => false,
            (_, [b'"'], b'v') | (_, [b'&'], b'u') | (_, [b'#'], b'R' | b'|') => false,
            // The window: its size, place and title; the printer.
            (_, [], b't' | b'i') | (Some(b'>'), [], b'T') => false,
            // VT52 and Tektronix, which have other sequences.
            (Some(b'?'), [], b'l') => modes_are_clear(parameters) && !names(b"2"),
            // With 2048 the terminal reports its size at once.
            (Some(b'?'), [], b'h') => modes_are_clear(parameters) && !names(b"38") && !names(b"2048"),
            (Some(b'?'), [], b'r' | b's') | (None, [], b'h' | b'l') => modes_are_clear(parameters),
            _ => true,
        }
}

/// Whether every terminal reads the same modes in `parameters`: no more than all of them take, without parts, and each
/// within 16 bits. What one terminal would switch on and we did not see would stay on.
fn modes_are_clear(parameters: &[u8]) -> bool {
    let mut modes = parameters.split(|b| *b == b';');
    let plain = |mode: &[u8]| {
        let digits = trim(mode);
        digits.is_empty() || std::str::from_utf8(digits).is_ok_and(|digits| digits.parse::<u16>().is_ok())
    };
    modes.clone().count() <= MAX_PARAMETERS && modes.all(plain)
}

/// A number without its leading zeros.
fn trim(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|b| **b == b'0').count();
    number.get(zeros..).unwrap_or_default()
}

/// Whether an operating system command passes: colours, hyperlinks, prompt marks, progress, notifications.
fn osc_passes(held: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(held) else { return false };
    if text.chars().any(char::is_control) {
        return false;
    }
    let (number, rest) = text.split_once(';').unwrap_or((text, ""));
    if !number.bytes().all(|b| b.is_ascii_digit()) {
        return false;
    }
    match number.parse::<u16>() {
        // With a `?` they ask, and the terminal answers; what resets colours has none.
        Ok(4 | 5 | 10..=19 | 104 | 105 | 110..=119) => !rest.contains('?'),
        Ok(8 | 133) => true,
        Ok(9) => rest.starts_with("4;"),
        Ok(777) => rest.starts_with("notify;"),
        _ => false,
    }
}

#[cfg(test)]
#[path = "filter_tests.rs"]
mod tests;
