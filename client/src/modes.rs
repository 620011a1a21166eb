//! What a program has switched on in the caller's terminal, so that it can be switched off again when the
//! caller leaves the program running.

use std::collections::BTreeSet;

use prost::bytes::Bytes;

/// Private modes that a terminal starts with switched on: its own sequences, not a VT52's, wrapping at the edge, keys that
/// repeat, the cursor.
const ON_AT_FIRST: [u16; 4] = [2, 7, 8, 25];
/// More modes than any terminal has.
const MAX_MODES: usize = 64;
/// More than any program nests.
const MAX_PUSHED: u16 = 32;

/// Modes that are not as a terminal has them at first.
#[derive(Debug, Default)]
pub struct Modes {
    changed: BTreeSet<u16>,
    /// How many states of the keyboard were put away (`CSI > … u`).
    pushed: u16,
    /// Whether any sequence came at all.
    any: bool,
}

impl Modes {
    /// Takes note of the control sequence `ESC [`, `held`, `last`, which goes to the terminal.
    pub fn note(&mut self, held: &[u8], last: u8) {
        self.any = true;
        match (held.split_first(), last) {
            (Some((b'?', numbers)), b'h' | b'l') => {
                for number in numbers.split(|b| *b == b';').filter_map(parse) {
                    let first = ON_AT_FIRST.contains(&number);
                    if (last == b'h') == first {
                        self.changed.remove(&number);
                    } else if self.changed.len() < MAX_MODES {
                        self.changed.insert(number);
                    }
                }
            }
            (Some((b'>', _)), b'u') => self.pushed = (self.pushed + 1).min(MAX_PUSHED),
            (Some((b'<', number)), b'u') => {
                self.pushed = self.pushed.saturating_sub(parse(number).unwrap_or(1));
            }
            _ => {}
        }
    }

    /// What brings the terminal back; nothing if nothing was changed.
    pub fn undo(&mut self) -> Bytes {
        let was = std::mem::take(self);
        if !was.any {
            return Bytes::new();
        }
        let mut out = String::new();
        if was.pushed > 0 {
            out += &format!("\x1b[<{}u", was.pushed);
        }
        for mode in &was.changed {
            out += &format!("\x1b[?{mode}{}", if ON_AT_FIRST.contains(mode) { 'h' } else { 'l' });
        }
        // The scrolling region (which moves the cursor), the keypad, the character set, colours.
        out += "\x1b7\x1b[r\x1b8\x1b>\x1b(B\x1b[m";
        out.into()
    }
}

fn parse(number: &[u8]) -> Option<u16> {
    std::str::from_utf8(number).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(sequences: &[(&[u8], u8)]) -> String {
        let mut modes = Modes::default();
        for (held, last) in sequences {
            modes.note(held, *last);
        }
        String::from_utf8(modes.undo().to_vec()).unwrap()
    }

    #[test]
    fn what_is_on_is_switched_off() {
        let out = after(&[(b"?1049", b'h'), (b"?1000;1006", b'h'), (b"?25", b'l'), (b"?1006", b'l')]);
        assert!(out.starts_with("\x1b[?25h\x1b[?1000l\x1b[?1049l\x1b7"), "{out:?}");
    }

    #[test]
    fn what_was_switched_back_is_left() {
        let out = after(&[(b"?1049", b'h'), (b"?25", b'l'), (b"?1049", b'l'), (b"?25", b'h')]);
        assert!(!out.contains('?'), "{out:?}");
        assert_eq!(after(&[]), "");
    }

    #[test]
    fn what_was_on_already_stays_on() {
        // Switched off, mode 2 would have the terminal read what follows as a VT52.
        assert!(!after(&[(b"?2", b'h'), (b"?7;8;25", b'h')]).contains('?'));
    }

    #[test]
    fn keyboards_are_popped() {
        assert!(after(&[(b">1", b'u'), (b">5", b'u')]).starts_with("\x1b[<2u"));
        assert!(!after(&[(b">1", b'u'), (b"<", b'u')]).contains('<'));
    }
}
