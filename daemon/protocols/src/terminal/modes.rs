//! What a program has changed in the caller's terminal, so that it can be undone when the caller has it back. What is
//! remembered is one bit for each thing that is known of: nothing that a program invents takes the place of another.

use bytes::Bytes;

/// DEC private modes that terminals know, and whether they are on at first.
const PRIVATE: [(u16, bool); 66] = [
    (1, false),
    // Its own sequences, not a VT52's: what follows a reset would be read as another language.
    (2, true),
    (3, false),
    (4, false),
    (5, false),
    (6, false),
    (7, true),
    (8, true),
    (9, false),
    (12, false),
    (13, false),
    (14, false),
    (18, false),
    (19, true),
    (25, true),
    (30, true),
    (40, false),
    (41, false),
    (42, false),
    (44, false),
    (45, false),
    (46, false),
    (66, false),
    (67, false),
    (69, false),
    (80, false),
    (95, false),
    (1000, false),
    (1001, false),
    (1002, false),
    (1003, false),
    (1004, false),
    (1005, false),
    (1006, false),
    (1007, false),
    (1010, false),
    (1011, false),
    (1015, false),
    (1016, false),
    (1034, false),
    (1035, true),
    (1036, true),
    (1037, false),
    (1039, true),
    (1040, false),
    (1041, false),
    (1042, false),
    (1043, false),
    (1044, false),
    (1045, false),
    (1046, true),
    (1050, false),
    (1051, false),
    (1052, false),
    (1053, false),
    (1060, false),
    (1061, false),
    (1070, true),
    (2004, false),
    (2005, false),
    (2026, false),
    (2027, false),
    (2031, false),
    (7727, false),
    (8452, false),
    (9001, false),
];
/// Those by which a program has the other screen. They are left last.
const SCREENS: [u16; 3] = [47, 1047, 1049];
/// ANSI modes: the keyboard's lock, controls that are shown, insertion, no local echo, line feeds that return.
const ANSI: [(u16, bool); 5] = [(2, false), (3, false), (4, false), (12, true), (20, false)];
/// More than any program nests.
const MAX_PUSHED: u16 = 32;

/// Things that are changed by sequences of their own, and what undoes each.
const UNDO: [(Thing, &str); 18] = [
    // An open hyperlink would take in what is printed next.
    (Thing::Link, "\x1b]8;;\x1b\\"),
    (Thing::Progress, "\x1b]9;4;0;\x1b\\"),
    (Thing::Palette, "\x1b]104\x1b\\"),
    (Thing::Special, "\x1b]105\x1b\\"),
    (Thing::StatusLine, "\x1b[0$}\x1b[0$~"),
    (Thing::Locator, "\x1b[0'z"),
    (Thing::Pointer, "\x1b[>1p"),
    (Thing::Protection, "\x1b[0\"q"),
    (Thing::MemoryLock, "\x1bm"),
    (Thing::Tabs, "\x1b[?5W"),
    // The margins move the cursor.
    (Thing::Margins, "\x1b7\x1b[r\x1b8"),
    (Thing::Keypad, "\x1b>"),
    (Thing::Sets, "\x1b(B\x1b)B\x1b*B\x1b+B"),
    (Thing::Shift, "\x0f"),
    (Thing::Cursor, "\x1b[0 q"),
    (Thing::FormatKeys, "\x1b[>0f\x1b[>1f\x1b[>2f\x1b[>3f\x1b[>4f\x1b[>6f\x1b[>7f"),
    (Thing::ModifyKeys, "\x1b[>0m\x1b[>1m\x1b[>2m\x1b[>3m\x1b[>4m\x1b[>6m\x1b[>7m"),
    (Thing::Rendition, "\x1b[m"),
];

/// What a program may change besides modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Thing {
    Link,
    Progress,
    Palette,
    Special,
    StatusLine,
    Locator,
    Pointer,
    Protection,
    MemoryLock,
    Tabs,
    Margins,
    Keypad,
    Sets,
    Shift,
    Cursor,
    FormatKeys,
    ModifyKeys,
    Rendition,
}

/// The keyboard's state on one screen (kitty's protocol).
#[derive(Clone, Copy, Debug, Default)]
struct Keyboard {
    /// How many states were put away (`CSI > ... u`).
    pushed: u16,
    /// The lowest one was changed (`CSI = ... u`).
    changed: bool,
}

/// What is not as a terminal has it at first.
#[derive(Clone, Copy, Debug, Default)]
pub struct Modes {
    private: u128,
    screens: u8,
    ansi: u8,
    things: u32,
    /// Colours that have a number of their own, from OSC 10 on.
    colours: u16,
    /// Of the screen that a terminal starts with, and of the other.
    keyboards: [Keyboard; 2],
}

impl Modes {
    /// Takes note of the control sequence `ESC [`, `held`, `last`, which goes to the terminal.
    pub fn note(&mut self, held: &[u8], last: u8) {
        let (prefix, held) = match held.split_first() {
            Some((prefix @ b'<'..=b'?', rest)) => (*prefix, rest),
            _ => (0, held),
        };
        let cut = held.iter().position(|b| *b < 0x30).unwrap_or(held.len());
        let (parameters, intermediate) = held.split_at(cut);
        let first = parameters.split(|b| *b == b';').next().and_then(number).unwrap_or(0);
        let is_reset = parameters.iter().all(|b| *b == b'0');
        match (prefix, intermediate, last) {
            (b'?', [], b'h' | b'l' | b'r') => {
                for mode in parameters.split(|b| *b == b';').filter_map(number) {
                    self.private(mode, last);
                }
            }
            (0, [], b'h' | b'l') => {
                for mode in parameters.split(|b| *b == b';').filter_map(number) {
                    if let Some(at) = ANSI.iter().position(|(known, _)| *known == mode) {
                        put(&mut self.ansi, at, (last == b'h') != ANSI[at].1);
                    }
                }
            }
            (b'>' | b'<' | b'=', [], b'u') => self.keyboard(prefix, first),
            (b'>', [], b'm' | b'n') => self.thing(Thing::ModifyKeys, !parameters.is_empty()),
            (b'>', [], b'f') => self.thing(Thing::FormatKeys, !parameters.is_empty()),
            (b'>', [], b'p') => self.thing(Thing::Pointer, true),
            (0, [], b'm') => self.thing(Thing::Rendition, !is_reset),
            (0, [], b'r') => self.thing(Thing::Margins, !parameters.is_empty()),
            (0, [], b'g') | (b'?', [], b'W') => self.thing(Thing::Tabs, true),
            (0, [b' '], b'q') => self.thing(Thing::Cursor, !is_reset),
            (0, [b'"'], b'q') => self.thing(Thing::Protection, !is_reset),
            (0, [b'$'], b'}' | b'~') => self.thing(Thing::StatusLine, true),
            (0, [b'\''], b'z' | b'{') => self.thing(Thing::Locator, true),
            _ => {}
        }
    }

    /// Takes note of `ESC`, `intermediates`, `last`.
    pub fn note_escape(&mut self, intermediates: &[u8], last: u8) {
        match (intermediates, last) {
            ([], b'=' | b'>') => self.thing(Thing::Keypad, last == b'='),
            ([], b'H') => self.thing(Thing::Tabs, true),
            ([], b'l' | b'm') => self.thing(Thing::MemoryLock, last == b'l'),
            ([], b'n' | b'o' | b'|' | b'}' | b'~') => self.thing(Thing::Shift, true),
            ([b'(', ..], b'B') => {}
            ([b'('..=b'/', ..], _) => self.thing(Thing::Sets, true),
            _ => {}
        }
    }

    /// Takes note of the operating system command `held`.
    pub fn note_osc(&mut self, held: &[u8]) {
        let mut parts = held.splitn(2, |b| *b == b';');
        let (Some(command), rest) = (parts.next().and_then(number), parts.next().unwrap_or_default()) else {
            return;
        };
        match command {
            4 => self.thing(Thing::Palette, true),
            5 => self.thing(Thing::Special, true),
            // Each further colour is that of the next number.
            10..=19 => self.colours |= u16::MAX << (command - 10) & 0x3ff,
            8 => self.thing(Thing::Link, !rest.ends_with(b";")),
            9 => self.thing(Thing::Progress, !rest.starts_with(b"4;0")),
            104 if rest.is_empty() => self.thing(Thing::Palette, false),
            105 if rest.is_empty() => self.thing(Thing::Special, false),
            110..=119 => self.colours &= !(1 << (command - 110)),
            _ => {}
        }
    }

    /// Takes note of `SO` and `SI`.
    pub fn note_shift(&mut self, out: bool) {
        self.thing(Thing::Shift, out);
    }

    /// What brings the terminal back; nothing if nothing was changed.
    pub fn undo(&mut self) -> Bytes {
        let was = std::mem::take(self);
        let mut out = String::new();
        let other = was.screens != 0;
        was.keyboards[usize::from(other)].undo(&mut out);
        for (at, (mode, on)) in PRIVATE.iter().enumerate() {
            if was.private & 1 << at != 0 {
                out += &format!("\x1b[?{mode}{}", if *on { 'h' } else { 'l' });
            }
        }
        for (at, mode) in SCREENS.iter().enumerate() {
            if was.screens & 1 << at != 0 {
                out += &format!("\x1b[?{mode}l");
            }
        }
        if other {
            was.keyboards[0].undo(&mut out);
        }
        for (at, (mode, on)) in ANSI.iter().enumerate() {
            if was.ansi & 1 << at != 0 {
                out += &format!("\x1b[{mode}{}", if *on { 'h' } else { 'l' });
            }
        }
        for at in (0..10).filter(|at| was.colours & 1 << at != 0) {
            out += &format!("\x1b]{}\x1b\\", 110 + at);
        }
        for (thing, undo) in UNDO {
            if was.things & 1 << thing as u32 != 0 {
                out += undo;
            }
        }
        out.into()
    }

    fn private(&mut self, mode: u16, last: u8) {
        // What is restored (`r`) may be anything that was saved before.
        let changed = |on: bool| last == b'r' || (last == b'h') != on;
        if let Some(at) = PRIVATE.iter().position(|(known, _)| *known == mode) {
            let mask = 1 << at;
            if changed(PRIVATE[at].1) { self.private |= mask } else { self.private &= !mask }
        }
        if let Some(at) = SCREENS.iter().position(|known| *known == mode) {
            // Each of them leaves it, whichever it was entered by.
            if changed(false) { self.screens |= 1 << at } else { self.screens = 0 }
        }
    }

    fn keyboard(&mut self, prefix: u8, first: u16) {
        let keyboard = &mut self.keyboards[usize::from(self.screens != 0)];
        match prefix {
            b'>' => keyboard.pushed = (keyboard.pushed + 1).min(MAX_PUSHED),
            b'<' => keyboard.pushed = keyboard.pushed.saturating_sub(first.max(1)),
            _ if keyboard.pushed == 0 => keyboard.changed = first != 0,
            _ => {}
        }
    }

    fn thing(&mut self, thing: Thing, changed: bool) {
        let mask = 1 << thing as u32;
        if changed { self.things |= mask } else { self.things &= !mask }
    }
}

impl Keyboard {
    fn undo(self, out: &mut String) {
        if self.pushed > 0 {
            out.push_str(&format!("\x1b[<{}u", self.pushed));
        }
        if self.changed {
            out.push_str("\x1b[=0u");
        }
    }
}

fn put(bits: &mut u8, at: usize, value: bool) {
    if value { *bits |= 1 << at } else { *bits &= !(1 << at) }
}

fn number(digits: &[u8]) -> Option<u16> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
#[path = "modes_tests.rs"]
mod tests;
