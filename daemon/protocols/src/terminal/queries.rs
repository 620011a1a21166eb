//! What a program asks of its terminal to know what it can draw, answered from the screen that the relay keeps. Nothing
//! of it reaches the terminal of an attached client, whose answers would be typed into what reads there next.
//!
//! Answered are device attributes, status, the cursor's position and colours. The clipboard, titles and files are never
//! asked for by an answer here: there is none.

use vt100::Screen;

/// Text is white on black until the program sets something else; what the terminal really has is not known here.
const FOREGROUND: Colour = Colour([0xe5, 0xe5, 0xe5]);
const BACKGROUND: Colour = Colour([0, 0, 0]);
/// The first sixteen of the palette, as xterm has them.
const PALETTE: [[u8; 3]; 16] = [
    [0, 0, 0],
    [205, 0, 0],
    [0, 205, 0],
    [205, 205, 0],
    [0, 0, 238],
    [205, 0, 205],
    [0, 205, 205],
    [229, 229, 229],
    [127, 127, 127],
    [255, 0, 0],
    [0, 255, 0],
    [255, 255, 0],
    [92, 92, 255],
    [255, 0, 255],
    [0, 255, 255],
    [255, 255, 255],
];

/// Red, green and blue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Colour([u8; 3]);

impl Colour {
    /// `rgb:12/34/56`, `rgb:1212/3434/5656` or `#123456`, as programs write them.
    fn parse(text: &str) -> Option<Self> {
        let part = |digits: &str| match digits.len() {
            2 | 4 => u8::from_str_radix(digits.get(..2)?, 16).ok(),
            _ => None,
        };
        let parts: Vec<&str> = match text.strip_prefix("rgb:") {
            Some(rest) => rest.split('/').collect(),
            None => {
                let digits = text.strip_prefix('#').filter(|digits| digits.len() == 6)?;
                vec![digits.get(..2)?, digits.get(2..4)?, digits.get(4..)?]
            }
        };
        let [red, green, blue] = parts.try_into().ok()?;
        Some(Self([part(red)?, part(green)?, part(blue)?]))
    }

    /// The colour of this number in the palette of 256.
    fn of_palette(number: u8) -> Self {
        let level = |step: u8| if step == 0 { 0 } else { 55 + 40 * step };
        Self(match number {
            0..=15 => PALETTE[usize::from(number)],
            16..=231 => {
                let cube = number - 16;
                [level(cube / 36), level(cube / 6 % 6), level(cube % 6)]
            }
            232.. => [8 + 10 * (number - 232); 3],
        })
    }

    fn write(self) -> String {
        let Self([red, green, blue]) = self;
        format!("rgb:{red:02x}{red:02x}/{green:02x}{green:02x}/{blue:02x}{blue:02x}")
    }
}

/// The colours that a program set, and those that it finds.
#[derive(Clone, Copy, Debug)]
pub struct Colours {
    foreground: Colour,
    background: Colour,
    cursor: Colour,
}

impl Default for Colours {
    fn default() -> Self {
        Self { foreground: FOREGROUND, background: BACKGROUND, cursor: FOREGROUND }
    }
}

impl Colours {
    /// Acts on an operating system command, given without its `ESC ]` and its end, and answers if it asks.
    pub fn command(&mut self, command: &str) -> Option<String> {
        let (number, rest) = command.split_once(';').unwrap_or((command, ""));
        let default = Self::default();
        if number == "4" {
            let (index, asked) = rest.split_once(';')?;
            let index: u8 = index.parse().ok().filter(|_| asked == "?")?;
            return Some(format!("4;{index};{}", Colour::of_palette(index).write()));
        }
        let (colour, usual) = match number {
            "10" | "110" => (&mut self.foreground, default.foreground),
            "11" | "111" => (&mut self.background, default.background),
            "12" | "112" => (&mut self.cursor, default.cursor),
            _ => return None,
        };
        match rest {
            "?" if number.len() == 2 => return Some(format!("{number};{}", colour.write())),
            _ if number.len() == 3 => *colour = usual,
            given => *colour = Colour::parse(given).unwrap_or(*colour),
        }
        None
    }
}

/// Whether `bytes` may hold a query: for what has no time to be read otherwise.
pub fn may_be_in(bytes: &[u8]) -> bool {
    let escapes = bytes.iter().enumerate().filter(|(_, byte)| **byte == 0x1b);
    escapes.map(|(at, _)| &bytes[at + 1..]).any(|rest| match rest.split_first() {
        Some((b'[', rest)) => {
            let last = rest.iter().position(|byte| !matches!(byte, b'0'..=b'?'));
            last.is_some_and(|at| at <= 2 && matches!(rest[at], b'c' | b'n'))
        }
        Some((b']', rest)) => rest.iter().take(16).any(|byte| *byte == b'?'),
        _ => false,
    })
}

/// The answer to a control sequence, if that is a query with one.
pub fn answer(sequence: &[u8], screen: &Screen) -> Option<String> {
    let (row, column) = screen.cursor_position();
    // What is written in the last column stays on it, as the cursor does.
    let (row, column) = (row + 1, (column + 1).min(screen.size().1));
    match sequence {
        // A VT220 with colours.
        b"\x1b[c" | b"\x1b[0c" => Some("\x1b[?62;22c".to_owned()),
        b"\x1b[>c" | b"\x1b[>0c" => Some("\x1b[>1;10;0c".to_owned()),
        b"\x1b[5n" => Some("\x1b[0n".to_owned()),
        b"\x1b[6n" => Some(format!("\x1b[{row};{column}R")),
        b"\x1b[?6n" => Some(format!("\x1b[?{row};{column}R")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_those_that_were_set() {
        let mut colours = Colours::default();
        let mut asked = |command: &str| colours.command(command);
        assert_eq!(asked("11;?").as_deref(), Some("11;rgb:0000/0000/0000"));
        assert_eq!(asked("11;#102030"), None);
        assert_eq!(asked("11;?").as_deref(), Some("11;rgb:1010/2020/3030"));
        for bad in ["11;rgb:1/2", "11;red", "11;#12345é", "11;rgb:a/b/c/d", "11;?;?", "11"] {
            assert_eq!(asked(bad), None, "{bad}");
            assert_eq!(asked("11;?").as_deref(), Some("11;rgb:1010/2020/3030"), "{bad}");
        }
        assert_eq!(asked("111"), None);
        assert_eq!(asked("11;?").as_deref(), Some("11;rgb:0000/0000/0000"));
        assert_eq!(asked("10;rgb:ffff/8000/00ff"), None);
        assert_eq!(asked("10;?").as_deref(), Some("10;rgb:ffff/8080/0000"));
        assert_eq!(asked("4;196;?").as_deref(), Some("4;196;rgb:ffff/0000/0000"));
        assert_eq!(asked("4;255;?").as_deref(), Some("4;255;rgb:eeee/eeee/eeee"));
    }

    #[test]
    fn queries_are_found_without_being_read() {
        for query in ["x\x1b[6n", "\x1b[c", "\x1b[?6ny", "\x1b[>0c", "\x1b[1m\x1b]11;?\x07"] {
            assert!(may_be_in(query.as_bytes()), "{query:?}");
        }
        for other in ["", "\x1b", "\x1b[", "[6n", "\x1b[1mcn", "\x1b[38;5;1mc", "\x1b]0;n\x07", "\x1bc"] {
            assert!(!may_be_in(other.as_bytes()), "{other:?}");
        }
    }

    #[test]
    fn clipboard_titles_and_files_have_no_answer() {
        for command in ["52;c;?", "0;?", "2;?", "1337;ReportCellSize", "4;256;?", "4;1;?;2;?", "?", ""] {
            assert_eq!(Colours::default().command(command), None, "{command}");
        }
        let parser = vt100::Parser::new(24, 80, 0);
        for sequence in
            [&b"\x1b[21t"[..], b"\x1b[20t", b"\x1b[14t", b"\x1b[?15n", b"\x1b[x", b"\x1b[=c", b"\x1b[6;6n"]
        {
            assert_eq!(answer(sequence, parser.screen()), None, "{sequence:?}");
        }
    }
}
